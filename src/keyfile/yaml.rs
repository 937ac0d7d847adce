//! Key files in YAML: entries are found by their places, and only the bytes of what changes are replaced.

use serde_json::Value;

use super::entry::{Fields, Listed, block, flow};
use super::tree::{Kind, Node, Style, Tree, parse};
use super::{Change, EditProblem};

/// The keys of the list.
pub(super) fn list(text: &str) -> Result<Vec<Listed>, EditProblem> {
    let tree = parse(text)?;
    entries(&tree)?.iter().map(|entry| fields_of(entry).map(|fields| Listed::of(&fields))).collect()
}

/// The text with an entry behind the last one, in its style.
pub(super) fn append(text: &str, fields: &Fields) -> Result<String, EditProblem> {
    let tree = parse(text)?;
    let newline = newline_of(text);
    let items = entries(&tree)?;
    let list_is_flow = matches!(&tree.root, Some(Node { kind: Kind::Seq(Style::Flow, _), .. }));
    let new = match (&tree.root, items.last()) {
        (Some(root), Some(last)) if list_is_flow => {
            let gap = if root.line == last.line {
                ", ".to_owned()
            } else {
                format!(",{newline}{}", " ".repeat(last.column))
            };
            spliced(
                text,
                last.span.end..last.span.end,
                &(gap + &flow(&Value::Object(fields.clone()))),
            )
        }
        (Some(root), None) if list_is_flow => {
            // `[]` holds the place of a list: a block list takes it, at the end, where people look for new keys.
            let rest = spliced(text, root.span.clone(), "");
            let blank = rest.lines().all(|line| line.trim().is_empty());
            let rest = if blank { String::new() } else { rest };
            with_block(&rest, None, &block(fields, "", newline), newline)
        }
        (root, last) => {
            let indent = root.as_ref().filter(|_| last.is_some()).map_or(0, |root| root.column);
            let indent = " ".repeat(indent);
            let entry = match last.map(|last| &last.kind) {
                Some(Kind::Map(Style::Flow, _)) => {
                    format!("{indent}- {}{newline}", flow(&Value::Object(fields.clone())))
                }
                _ => block(fields, &indent, newline),
            };
            with_block(text, tree.end_marker, &entry, newline)
        }
    };
    verified(text, new, |before, after| {
        after.pop().is_some_and(|last| last == as_text(fields)) && before == after
    })
}

/// The text with fields of the entry `id` changed.
pub(super) fn edit(text: &str, id: &str, changes: &[Change<'_>]) -> Result<String, EditProblem> {
    let mut new = text.to_owned();
    for change in changes {
        new = set(&new, id, change)?;
    }
    verified(text, new, |before, after| {
        let Some(entry) = before.iter_mut().find(|entry| entry.get("id") == Some(&id.into()))
        else {
            return false;
        };
        for change in changes {
            super::jsonl::apply(entry, change);
        }
        // The order of fields carries no meaning.
        before.len() == after.len() && before.iter().zip(after.iter()).all(|(a, b)| same(a, b))
    })
}

fn same(left: &Fields, right: &Fields) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .all(|(name, value)| right.get(name).is_some_and(|other| &texts_only(value) == other))
}

fn set(text: &str, id: &str, change: &Change<'_>) -> Result<String, EditProblem> {
    let tree = parse(text)?;
    let items = entries(&tree)?;
    let entry = items
        .iter()
        .find(|entry| entry.get("id").and_then(Node::text) == Some(id))
        .ok_or(EditProblem::Unknown { ids: Vec::new() })?;
    if entry.anchored {
        return Err(EditProblem::Shared { line: entry.line });
    }
    let Kind::Map(style, pairs) = &entry.kind else {
        return Err(EditProblem::NoEntry { line: entry.line });
    };
    let pair = format!("{}: {}", change.name, flow(&change.value));
    if let Some((key, value)) = change.replaces.iter().find_map(|name| entry.pair(name)) {
        if value.anchored {
            return Err(EditProblem::Shared { line: value.line });
        }
        let place = key.span.start..value.span.end.max(key.span.end);
        // Comments inside what is replaced move above it; in braces a comment would swallow the rest of the line.
        let indent = " ".repeat(key.column);
        let kept = tree.comments.iter().filter(|at| place.contains(&at.start));
        let kept: String = match style {
            Style::Block => kept
                .filter_map(|at| text.get(at.clone()))
                .flat_map(|comment| [comment, newline_of(text), &indent])
                .collect(),
            Style::Flow => String::new(),
        };
        return Ok(spliced(text, place, &(kept + &pair)));
    }
    let Some((first, _)) = pairs.first() else {
        return Err(EditProblem::NoEntry { line: entry.line });
    };
    let end = entry_end(entry);
    Ok(match style {
        Style::Flow => spliced(text, end..end, &format!(", {pair}")),
        Style::Block => {
            let newline = newline_of(text);
            let indent = " ".repeat(first.column);
            match text.get(end..).and_then(|rest| rest.find('\n')) {
                Some(to_break) => {
                    let at = end + to_break + 1;
                    spliced(text, at..at, &format!("{indent}{pair}{newline}"))
                }
                None => format!("{text}{newline}{indent}{pair}{newline}"),
            }
        }
    })
}

fn entry_end(entry: &Node) -> usize {
    match &entry.kind {
        Kind::Map(_, pairs) => {
            pairs.last().map_or(entry.span.end, |(key, value)| value.span.end.max(key.span.end))
        }
        _ => entry.span.end,
    }
}

/// The entries of the list: nothing, or only comments, is a list without entries.
fn entries(tree: &Tree) -> Result<&[Node], EditProblem> {
    match &tree.root {
        None => Ok(&[]),
        Some(root) => match &root.kind {
            Kind::Seq(_, items) => Ok(items),
            Kind::Scalar(..) if root.text().is_none() => Ok(&[]),
            _ => Err(EditProblem::NoList),
        },
    }
}

fn fields_of(entry: &Node) -> Result<Fields, EditProblem> {
    match (&entry.kind, entry.json()) {
        (Kind::Alias, _) => Err(EditProblem::Shared { line: entry.line }),
        (_, Value::Object(fields)) if fields.get("id").is_some_and(Value::is_string) => Ok(fields),
        _ => Err(EditProblem::NoEntry { line: entry.line }),
    }
}

fn with_block(text: &str, end_marker: Option<usize>, entry: &str, newline: &str) -> String {
    let (before, after) = text.split_at(end_marker.unwrap_or(text.len()));
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { newline };
    format!("{before}{gap}{entry}{after}")
}

fn spliced(text: &str, place: std::ops::Range<usize>, with: &str) -> String {
    let before = text.get(..place.start).unwrap_or_default();
    let after = text.get(place.end..).unwrap_or_default();
    format!("{before}{with}{after}")
}

fn newline_of(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

/// Reads both texts back and lets `holds` compare their entries.
fn verified(
    before: &str,
    after: String,
    holds: impl Fn(&mut Vec<Fields>, &mut Vec<Fields>) -> bool,
) -> Result<String, EditProblem> {
    let read = |text: &str| -> Result<Vec<Fields>, EditProblem> {
        entries(&parse(text)?)?.iter().map(fields_of).collect()
    };
    let mut old = read(before)?;
    let mut new = read(&after).map_err(|_| EditProblem::Verify)?;
    if holds(&mut old, &mut new) { Ok(after) } else { Err(EditProblem::Verify) }
}

fn as_text(fields: &Fields) -> Fields {
    fields.iter().map(|(name, value)| (name.clone(), texts_only(value))).collect()
}

/// Scalars as texts, which is how the tree reads them.
fn texts_only(value: &Value) -> Value {
    match value {
        Value::Bool(_) | Value::Number(_) => Value::from(value.to_string()),
        Value::Array(items) => items.iter().map(texts_only).collect(),
        Value::Object(fields) => Value::Object(as_text(fields)),
        other => other.clone(),
    }
}
