//! `tollgate credit`.

use serde_json::json;

use super::super::failure::Failure;
use super::super::print;
use super::args::{Add, Credit, CreditCommand};
use super::{Remote, cell};

pub(in crate::cli) fn credit(arguments: &Credit) -> Result<(), Failure> {
    match &arguments.command {
        CreditCommand::Add(arguments) => add(arguments),
    }
}

fn add(arguments: &Add) -> Result<(), Failure> {
    let remote = Remote::at(&arguments.at)?;
    let mut body = json!({ "limit": arguments.limit, "add": arguments.amount });
    for (name, value) in arguments.whose.named() {
        body[name] = value.into();
    }
    if let Some(note) = &arguments.note {
        body["note"] = note.as_str().into();
    }
    let told = remote.act("/v1/credit", &body, arguments.once.as_deref())?;
    if arguments.json {
        return print(&format!("{told}\n"));
    }
    let unit = told["unit"].as_str().map(|unit| format!(" {unit}")).unwrap_or_default();
    let lasting =
        if told["durable"] == true { "" } else { " (in memory: forgotten when the gate ends)" };
    print(&format!(
        "{}: {} of {}: {} -> {}{unit}{lasting}\n",
        cell(&told["act"]),
        cell(&told["limit"]),
        cell(&told["subject"]),
        cell(&told["balance_before"]),
        cell(&told["balance_after"]),
    ))
}
