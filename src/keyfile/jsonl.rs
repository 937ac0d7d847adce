//! Key files in JSON lines: nothing is ever changed, a change is one more line.

use std::collections::HashMap;

use serde_json::Value;

use super::entry::{Fields, line};
use super::{Change, EditProblem};

/// The last line of each id with its number, in the order of the ids' first lines.
pub(super) fn read(text: &str) -> Result<Vec<(usize, Fields)>, EditProblem> {
    let mut entries: Vec<(usize, Fields)> = Vec::new();
    let mut place_of: HashMap<String, usize> = HashMap::new();
    for (number, content) in (1..).zip(text.lines()) {
        if content.trim().is_empty() {
            continue;
        }
        let fields: Fields = serde_json::from_str(content)
            .map_err(|error| EditProblem::Json { line: number, why: error.to_string() })?;
        let Some(id) = fields.get("id").and_then(Value::as_str) else {
            return Err(EditProblem::NoEntry { line: number });
        };
        if let Some(place) = place_of.get(id) {
            entries[*place] = (number, fields);
        } else {
            place_of.insert(id.to_owned(), entries.len());
            entries.push((number, fields));
        }
    }
    Ok(entries)
}

/// The text with one more line.
pub(super) fn append(text: &str, fields: &Fields) -> String {
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{}", line(fields))
}

/// The text with one more line for `id`: its last one with the changes.
pub(super) fn edit(text: &str, id: &str, changes: &[Change<'_>]) -> Result<String, EditProblem> {
    let mut entries = read(text)?;
    let entry = entries
        .iter_mut()
        .map(|(_, fields)| fields)
        .find(|fields| fields.get("id").and_then(Value::as_str) == Some(id))
        .ok_or(EditProblem::Unknown { ids: Vec::new() })?;
    for change in changes {
        apply(entry, change);
    }
    Ok(append(text, entry))
}

/// Sets a field where the one that it replaces stood, or at the end.
pub(super) fn apply(fields: &mut Fields, change: &Change<'_>) {
    let place = fields.keys().position(|name| change.replaces.contains(&name.as_str()));
    for name in change.replaces {
        fields.shift_remove(*name);
    }
    let place = place.unwrap_or(fields.len()).min(fields.len());
    fields.shift_insert(place, change.name.to_owned(), change.value.clone());
}
