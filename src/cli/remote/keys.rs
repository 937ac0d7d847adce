//! `tollgate keys revoke --admin` and `tollgate keys restore`.

use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::{print, tell};
use super::args::Restore;
use super::{Remote, cell, encoded};

/// Revokes a key at the running gate, over its file.
pub(in crate::cli) fn revoke(remote: &Remote, id: &str, why: Option<&str>) -> Result<(), Failure> {
    let body = why.map_or(json!({}), |why| json!({ "why": why }));
    let told = remote.act(&format!("/v1/keys/{}/revoke", encoded(id)), &body, None)?;
    if told["changed"] == true {
        tell(&format!("Key {id} is revoked at the gate{}.", lasting(&told)));
    } else {
        let at = cell(&told["revoked"]["at"]);
        tell(&format!("Key {id} was revoked before: {at}. Nothing was changed."));
    }
    Ok(())
}

pub(in crate::cli) fn restore(arguments: &Restore) -> Result<(), Failure> {
    let Restore { at, id, note, json } = arguments;
    let body = note.as_ref().map_or(json!({}), |note| json!({ "note": note }));
    let path = format!("/v1/keys/{}/restore", encoded(id));
    let told = Remote::at(at)?.act(&path, &body, None)?;
    if *json {
        return print(&format!("{told}\n"));
    }
    let state = cell(&told["state"]);
    if told["changed"] == true {
        tell(&format!("Key {id} is restored{}; by its file it is: {state}.", lasting(&told)));
    } else {
        tell(&format!("Key {id} is not revoked at the gate ({state}). Nothing was changed."));
    }
    Ok(())
}

fn lasting(told: &Value) -> &'static str {
    if told["durable"] == true { "" } else { ", in memory only" }
}
