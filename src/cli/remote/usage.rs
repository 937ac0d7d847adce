//! `tollgate usage`.

use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::print;
use super::args::Usage;
use super::{Remote, cell, encoded, table};

pub(in crate::cli) fn usage(arguments: &Usage) -> Result<(), Failure> {
    let remote = Remote::at(&arguments.at)?;
    let mut query: Vec<String> = arguments
        .whose
        .named()
        .chain(arguments.address.as_deref().map(|address| ("address", address)))
        .chain(arguments.limit.as_deref().map(|limit| ("limit", limit)))
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    if query.is_empty() {
        return Err(Failure::usage("say whose usage: --key, --tenant, --plan or --limit"));
    }
    if arguments.csv {
        query.push("format=csv".to_owned());
    }
    let path = format!("/v1/usage?{}", query.join("&"));
    if arguments.csv {
        return csv(&remote, &path);
    }
    let rows = all_pages(&remote, &path)?;
    print(&if arguments.json {
        json!({ "usage": rows }).to_string() + "\n"
    } else {
        in_columns(&rows)
    })
}

fn all_pages(remote: &Remote, path: &str) -> Result<Vec<Value>, Failure> {
    let mut rows = Vec::new();
    let mut from = String::new();
    loop {
        let mut page = remote.get_json(&format!("{path}{from}"), "usage")?;
        if let Some(more) = page["usage"].as_array_mut() {
            rows.append(more);
        }
        match page["next"].as_str() {
            None => return Ok(rows),
            Some(next) => from = format!("&after={}", encoded(next)),
        }
    }
}

/// Page by page, with one line of names. Where a page ends is asked for as JSON.
fn csv(remote: &Remote, path: &str) -> Result<(), Failure> {
    let mut from = String::new();
    loop {
        let text = remote.get(&format!("{path}{from}"))?;
        let body = match (from.is_empty(), text.split_once("\r\n")) {
            (false, Some((_, rest))) => rest,
            _ => &text,
        };
        print(body)?;
        let same = path.replace("&format=csv", "");
        match remote.get_json(&format!("{same}{from}"), "usage")?["next"].as_str() {
            None => return Ok(()),
            Some(next) => from = format!("&after={}", encoded(next)),
        }
    }
}

fn in_columns(rows: &[Value]) -> String {
    const FIELDS: [&str; 8] =
        ["limit", "subject", "used", "ceiling", "remaining", "unit", "resets_at", "mode"];
    let heads = FIELDS.map(|field| field.to_uppercase().replace('_', " "));
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| FIELDS.map(|field| cell(&row[field])).to_vec()).collect();
    table(&heads.each_ref().map(String::as_str), &rows)
}
