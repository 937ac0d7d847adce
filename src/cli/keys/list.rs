//! `tollgate keys list`.

use std::path::Path;

use serde_json::{Value, json};

use super::super::args::List;
use super::super::failure::Failure;
use super::super::print;
use super::{Policy, keys_of};
use crate::clock::Wall;
use crate::keyfile::Listed;
use crate::keyfile::entry::instant;

pub(super) fn list(arguments: &List) -> Result<(), Failure> {
    let policy = Policy::load(&arguments.config)?;
    let mut keys = Vec::new();
    for path in &policy.loaded.issuing.key_files {
        keys.extend(keys_of(path)?.into_iter().map(|key| (path.as_path(), key)));
    }
    print(&if arguments.json {
        let keys: Vec<Value> =
            keys.iter().map(|(path, key)| as_json(path, key, policy.now)).collect();
        Value::from(keys).to_string() + "\n"
    } else {
        table(&keys, policy.now)
    })
}

/// One word for what becomes of a request with this key, in the order in which a gate would ask.
fn state(key: &Listed, now: Wall) -> &'static str {
    let rotating = key.digests.iter().any(|digest| digest.until.is_some_and(|until| until > now));
    if key.revoked.is_some() {
        "revoked"
    } else if key.expires.is_some_and(|expires| expires <= now) {
        "expired"
    } else if key.not_before.is_some_and(|from| from > now) {
        "not yet"
    } else if rotating {
        "rotating"
    } else {
        "active"
    }
}

fn as_json(path: &Path, key: &Listed, now: Wall) -> Value {
    json!({
        "id": key.id,
        "tenant": key.tenant,
        "plan": key.plan,
        "scopes": key.scopes,
        "label": key.label,
        "last4": key.last4,
        "state": state(key, now).replace(' ', "_"),
        "not_before": key.not_before.map(instant),
        "expires": key.expires.map(instant),
        "revoked": key.revoked,
        "file": path.display().to_string(),
    })
}

fn table(keys: &[(&Path, Listed)], now: Wall) -> String {
    const HEADS: [&str; 8] =
        ["ID", "TENANT", "STATE", "LAST4", "PLAN", "SCOPES", "EXPIRES", "LABEL"];
    let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or("-".into());
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(keys.iter().map(|(_, key)| {
        [
            key.id.clone(),
            or_dash(key.tenant.clone()),
            state(key, now).to_owned(),
            or_dash(key.last4.clone()),
            or_dash(key.plan.clone()),
            key.scopes.as_ref().map_or("*".to_owned(), |scopes| or_dash(Some(scopes.join(" ")))),
            or_dash(key.expires.map(instant)),
            or_dash(key.label.clone()),
        ]
    }));
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            // A key file is written by people: nothing in it may move the cursor.
            line.trim_end().replace(char::is_control, " ") + "\n"
        })
        .collect()
}
