//! A YAML text as a tree of places: what stands where, to the byte, so that a text can be changed by cutting and
//! pasting and every comment stays. It holds no meaning; what is not a tree (anchors' aliases) is named, not resolved.

use std::ops::Range;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, StructureStyle};

use super::EditProblem;

/// How a list or a map is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Lines and indentation.
    Block,
    /// Brackets or braces.
    Flow,
}

/// One node and the bytes it takes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// What it is.
    pub kind: Kind,
    /// The bytes of its content, without a tag, an anchor, a comment or the line break behind it.
    pub span: Range<usize>,
    /// Line of its first byte, from 1.
    pub line: usize,
    /// Characters before it in its line.
    pub column: usize,
    /// Whether an alias may stand for it elsewhere.
    pub anchored: bool,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Text, and whether it was written without quotes.
    Scalar(String, Quoting),
    /// A list.
    Seq(Style, Vec<Node>),
    /// A map, in the order of the text.
    Map(Style, Vec<(Node, Node)>),
    /// `*name`.
    Alias,
}

/// Whether a scalar was quoted; `~` and `null` mean nothing only without quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoting {
    /// Bare.
    Plain,
    /// Single, double, or a block of text.
    Quoted,
}

impl Node {
    /// The text of a scalar that is not null.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text, Quoting::Plain)
                if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") =>
            {
                None
            }
            Kind::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// The value under `name`, if this is a map.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.pair(name).map(|(_, value)| value)
    }

    /// Key and value under `name`, if this is a map.
    pub(super) fn pair(&self, name: &str) -> Option<&(Node, Node)> {
        match &self.kind {
            Kind::Map(_, pairs) => pairs.iter().find(|(key, _)| key.text() == Some(name)),
            _ => None,
        }
    }

    /// The node as JSON: scalars as text, null as null.
    pub(super) fn json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Scalar(..) => self.text().map_or(Value::Null, Value::from),
            Kind::Seq(_, items) => items.iter().map(Node::json).collect(),
            Kind::Map(_, pairs) => pairs
                .iter()
                .map(|(key, value)| (key.text().unwrap_or_default().to_owned(), value.json()))
                .collect(),
            Kind::Alias => Value::Null,
        }
    }
}

/// A parsed text.
#[derive(Debug)]
pub(super) struct Tree {
    /// The one document's root; `None` where there is nothing but comments.
    pub root: Option<Node>,
    /// Where the document's `...` stands, if it does.
    pub end_marker: Option<usize>,
    /// The bytes of the comments, from `#` to the end of the line.
    pub comments: Vec<Range<usize>>,
}

/// Reads a text of at most one document.
pub(super) fn parse(text: &str) -> Result<Tree, EditProblem> {
    let mut tree = Tree { root: None, end_marker: None, comments: Vec::new() };
    let mut open: Vec<Open> = Vec::new();
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| EditProblem::Yaml(error.to_string()))?;
        let bytes = span.byte_range().ok_or(EditProblem::Places)?;
        let place = Place { bytes, line: span.start.line(), column: span.start.col() };
        match event {
            Event::DocumentStart(..) if tree.root.is_some() => {
                return Err(EditProblem::Documents { line: place.line });
            }
            Event::DocumentEnd
                if text.get(place.bytes.clone()).is_some_and(|mark| mark.starts_with("...")) =>
            {
                tree.end_marker = Some(place.bytes.start);
            }
            Event::Comment(..) => tree.comments.push(place.bytes),
            Event::Scalar(value, style, anchor, _) => {
                let quoting = match style {
                    ScalarStyle::Plain => Quoting::Plain,
                    _ => Quoting::Quoted,
                };
                let node = place.node(Kind::Scalar(value.into_owned(), quoting), anchor != 0);
                close(trimmed(node, text), &mut open, &mut tree, text);
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                close(place.node(Kind::Alias, true), &mut open, &mut tree, text);
            }
            Event::SequenceStart(style, anchor, _) => {
                let node = place.node(Kind::Seq(style.into(), Vec::new()), anchor != 0);
                open.push(Open { node, key: None });
            }
            Event::MappingStart(style, anchor, _) => {
                let node = place.node(Kind::Map(style.into(), Vec::new()), anchor != 0);
                open.push(Open { node, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Open { mut node, .. }) = open.pop() {
                    node.span.end = match last_of(&node) {
                        Some(last) => last,
                        None => place.bytes.end.max(node.span.end),
                    };
                    if is_flow(&node) {
                        node.span.end = place.bytes.end;
                    }
                    close(node, &mut open, &mut tree, text);
                }
            }
            _ => {}
        }
    }
    Ok(tree)
}

struct Open {
    node: Node,
    key: Option<Node>,
}

struct Place {
    bytes: Range<usize>,
    line: usize,
    column: usize,
}

impl Place {
    fn node(self, kind: Kind, anchored: bool) -> Node {
        Node { kind, span: self.bytes, line: self.line, column: self.column, anchored }
    }
}

impl From<StructureStyle> for Style {
    fn from(style: StructureStyle) -> Style {
        match style {
            StructureStyle::Block => Style::Block,
            StructureStyle::Flow => Style::Flow,
        }
    }
}

fn is_flow(node: &Node) -> bool {
    matches!(&node.kind, Kind::Seq(Style::Flow, _) | Kind::Map(Style::Flow, _))
}

fn last_of(node: &Node) -> Option<usize> {
    match &node.kind {
        Kind::Seq(_, items) => items.last().map(|last| last.span.end),
        Kind::Map(_, pairs) => pairs.last().map(|(key, value)| value.span.end.max(key.span.end)),
        _ => None,
    }
}

/// A block scalar's place may reach over the line break, or over blank lines, behind it.
fn trimmed(mut node: Node, text: &str) -> Node {
    if let Some(content) = text.get(node.span.clone()) {
        node.span.end = node.span.start + content.trim_end().len();
    }
    node
}

/// Hands a finished node to what it stands in.
fn close(mut node: Node, open: &mut [Open], tree: &mut Tree, text: &str) {
    let Some(parent) = open.last_mut() else {
        tree.root = Some(node);
        return;
    };
    match (&mut parent.node.kind, parent.key.take()) {
        (Kind::Seq(_, items), _) => items.push(node),
        (Kind::Map(..), None) => parent.key = Some(node),
        (Kind::Map(_, pairs), Some(key)) => {
            if node.span.is_empty() {
                // A value that is not there: its place is right behind the colon, if there is one.
                let behind = &text[key.span.end..];
                let blanks = behind.len() - behind.trim_start_matches([' ', '\t']).len();
                let colon = usize::from(behind[blanks..].starts_with(':'));
                let at = if colon == 1 { key.span.end + blanks + 1 } else { key.span.end };
                node.span = at..at;
            }
            pairs.push((key, node));
        }
        _ => {}
    }
}
