//! YAML text → a tree of located nodes, through serde-saphyr. serde stops at its first error; a tree lets the typed
//! readers go on and tell every problem at once, and keeps the text of each scalar, so that no rate, amount or word
//! (`on`, `no`, `1e3`) is ever what YAML 1.1 made of it. Must never: know a word of the policy.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::problem::{Findings, Span};

/// A node and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Span,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// One value as it was written.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map, in its order, without duplicates.
    Map(Vec<(Key, Node)>),
}

/// The text of one scalar, and what JSON would call it.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) json: Json,
}

/// JSON's type of a scalar: matters only where a template repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Json {
    Text,
    Number,
    Bool,
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) at: Span,
}

impl Node {
    /// What this is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Most nodes of a file: 20 000 keys of a dozen fields, and room.
const MOST_NODES: usize = 1_500_000;

/// Parses file number `file`. `None`: it is no YAML, or holds nothing; the problem was pushed.
pub(super) fn parse(file: u16, findings: &mut Findings) -> Option<Node> {
    let text = findings.text(file);
    let whole = Span { file, start: 0, end: 0 };
    match serde_saphyr::from_str_with_options::<Spanned<Loose>>(&text, options()) {
        Ok(loose) => {
            let mut placing = Placing { file, text: &text, duplicates: Vec::new() };
            let node = placing.node(loose);
            let duplicates = placing.duplicates;
            for (key, first) in duplicates {
                let line = findings.line(first);
                findings.error_with(
                    key.at,
                    format!("`{}` is given twice", key.text),
                    format!("the first is on line {line}; keep one"),
                );
            }
            match node.value {
                Value::Null => {
                    findings.error(whole, "the file is empty");
                    None
                }
                _ => Some(node),
            }
        }
        Err(error) => {
            syntax_error(file, &error, findings);
            None
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // Both entries reach the tree, which tells each duplicate with both its lines.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
        budget: serde_saphyr::budget! {
            max_nodes: MOST_NODES,
            max_events: 4 * MOST_NODES,
            max_recorded_anchor_events: 100_000,
            max_anchors: 1_000,
            max_aliases: 1_000,
            max_documents: 1,
        },
    }
}

/// Tells a syntax error, the `{id}` trap in words of its own.
fn syntax_error(file: u16, error: &serde_saphyr::Error, findings: &mut Findings) {
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let text = &*findings.text(file);
    let line = usize::try_from(location.line()).unwrap_or(0).max(1);
    let mut at = span_of(file, text, location);
    if at.start == at.end {
        // The parser gives a point; without byte offsets, find it by line and column.
        let line_start = nth_line(text, line);
        let column = usize::try_from(location.column()).unwrap_or(1).max(1);
        let point: usize =
            text[line_start..].chars().take(column - 1).map(char::len_utf8).sum::<usize>();
        let point = clamp32((line_start + point).min(text.len()));
        at = Span { file, start: point, end: point };
    }
    if let Some((start, end)) = unquoted_placeholder(text, line) {
        let written = text[start..end].to_owned();
        let at = Span { file, start: clamp32(start), end: clamp32(end) };
        findings.error_with(
            at,
            "YAML takes `{…}` inside a flow list or map for a map of its own",
            format!("quote it: \"{written}\""),
        );
        return;
    }
    let mut cause = error.without_snippet();
    while let serde_saphyr::Error::AliasError { error, .. } = cause {
        cause = error;
    }
    if matches!(
        cause,
        serde_saphyr::Error::Budget { .. } | serde_saphyr::Error::AliasReplayLimitExceeded { .. }
    ) {
        findings.error_with(
            at,
            "this YAML expands to more than a policy may hold",
            "write without anchors and aliases, or keep keys in a .jsonl file".to_owned(),
        );
        return;
    }
    let message = error.to_string();
    let message = message.split(" at line").next().unwrap_or(&message);
    findings.error(at, format!("this is no YAML: {}", message.trim()));
}

/// An unquoted value with `{name}` in it on the erroneous line or the three before: where it starts and ends.
fn unquoted_placeholder(text: &str, line: usize) -> Option<(usize, usize)> {
    (line.saturating_sub(3).max(1)..=line).rev().find_map(|number| {
        let start = nth_line(text, number);
        let line = text[start..].lines().next()?;
        let mut quote = None;
        let mut item = None;
        for (at, c) in line.char_indices() {
            if let Some(open) = quote {
                quote = (c != open).then_some(open);
                continue;
            }
            match c {
                '"' | '\'' if item.is_none() => quote = Some(c),
                '{' if item.is_some() && !line[..at].ends_with(' ') => {
                    let from = item?;
                    let close = line[at..].find('}').map(|length| at + length + 1)?;
                    let rest: usize = line[close..]
                        .find([',', ']', '}', ' '])
                        .unwrap_or(line[close..].trim_end().len());
                    return Some((start + from, start + close + rest));
                }
                '#' if line[..at].ends_with(' ') => break,
                '[' | ']' | '{' | '}' | ',' | ':' => item = None,
                c if !c.is_whitespace() && item.is_none() => item = Some(at),
                _ => {}
            }
        }
        None
    })
}

/// Byte offset of line `number`, from 1.
fn nth_line(text: &str, number: usize) -> usize {
    if number <= 1 {
        return 0;
    }
    text.bytes()
        .enumerate()
        .filter(|(_, byte)| *byte == b'\n')
        .nth(number - 2)
        .map_or(text.len(), |(at, _)| at + 1)
}

fn clamp32(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn span_of(file: u16, text: &str, location: Location) -> Span {
    let start = location.span().byte_offset().unwrap_or(0);
    let length = location.span().byte_len().unwrap_or(0);
    let start = usize::try_from(start).unwrap_or(0).min(text.len());
    let end = start.saturating_add(usize::try_from(length).unwrap_or(0)).min(text.len());
    Span { file, start: clamp32(start), end: clamp32(end) }
}

/// What serde hands over, before places are spans.
enum Loose {
    Null,
    Text(String),
    Number(String),
    Bool(bool),
    List(Vec<Spanned<Loose>>),
    Map(Vec<(Spanned<Loose>, Spanned<Loose>)>),
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Loose, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Null)
    }

    fn visit_none<E>(self) -> Result<Loose, E> {
        Ok(Loose::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Loose, E> {
        Ok(Loose::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Loose, E> {
        Ok(Loose::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Loose, E> {
        Ok(Loose::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Loose::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Loose::Map(entries))
    }
}

/// Turns places into spans, and numbers back into their text.
struct Placing<'a> {
    file: u16,
    text: &'a str,
    duplicates: Vec<(Key, Span)>,
}

impl Placing<'_> {
    fn node(&mut self, loose: Spanned<Loose>) -> Node {
        let mut at = span_of(self.file, self.text, loose.referenced);
        let defined = span_of(self.file, self.text, loose.defined);
        let value = match loose.value {
            Loose::Null => Value::Null,
            Loose::Text(text) => Value::Scalar(Scalar { text, json: Json::Text }),
            Loose::Number(value) => Value::Scalar(Scalar {
                text: self.written(defined).unwrap_or(value),
                json: Json::Number,
            }),
            Loose::Bool(value) => {
                Value::Scalar(Scalar { text: value.to_string(), json: Json::Bool })
            }
            Loose::List(items) => {
                Value::List(items.into_iter().map(|item| self.node(item)).collect())
            }
            Loose::Map(entries) => Value::Map(self.entries(entries)),
        };
        // A container starts and ends with what it holds, so that a place inside it is seen to be inside.
        let held = match &value {
            Value::List(items) => items.first().map(|item| item.at).zip(items.last().map(|i| i.at)),
            Value::Map(entries) => {
                entries.first().map(|(key, _)| key.at).zip(entries.last().map(|(_, node)| node.at))
            }
            Value::Null | Value::Scalar(_) => None,
        };
        if let Some((first, last)) = held {
            at.start = at.start.min(first.start);
            at.end = at.end.max(last.end);
        }
        if at.end <= at.start && !matches!(value, Value::Null) {
            at = self.to_line_end(at);
        }
        Node { value, at }
    }

    fn entries(&mut self, entries: Vec<(Spanned<Loose>, Spanned<Loose>)>) -> Vec<(Key, Node)> {
        let mut seen: HashMap<String, Span> = HashMap::with_capacity(entries.len());
        let mut out: Vec<(Key, Node)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = self.node(key);
            let value = self.node(value);
            let text = match key.value {
                Value::Scalar(scalar) => scalar.text,
                Value::Null => "null".to_owned(),
                // A list or map as a key: the readers call it an unknown field, in the words it was written in.
                Value::List(_) | Value::Map(_) => {
                    self.written(key.at).unwrap_or_else(|| "{…}".to_owned())
                }
            };
            let key = Key { text, at: key.at };
            if let Some(first) = seen.get(&key.text) {
                self.duplicates.push((key, *first));
            } else {
                seen.insert(key.text.clone(), key.at);
                out.push((key, value));
            }
        }
        out
    }

    /// A scalar as it was written; `None` where the place is not known.
    fn written(&self, at: Span) -> Option<String> {
        let text = self.text.get(at.start as usize..at.end as usize)?.trim();
        let plain = !text.is_empty() && !text.starts_with(['"', '\'', '!', '&', '|', '>']);
        plain.then(|| text.to_owned())
    }

    fn to_line_end(&self, at: Span) -> Span {
        let start = at.start as usize;
        let rest = self.text.get(start..).unwrap_or("");
        let length = rest.find('\n').unwrap_or(rest.len());
        Span { end: clamp32(start + rest[..length].trim_end().len()), ..at }
    }
}
