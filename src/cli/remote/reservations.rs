//! `tollgate reservations`.

use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::print;
use super::args::{ListDoubts, Reservations, ReservationsCommand, Settle};
use super::{Remote, cell, encoded, table};

pub(in crate::cli) fn reservations(arguments: &Reservations) -> Result<(), Failure> {
    match &arguments.command {
        ReservationsCommand::List(arguments) => list(arguments),
        ReservationsCommand::Confirm(arguments) => settle(arguments, "confirm"),
        ReservationsCommand::Release(arguments) => settle(arguments, "release"),
    }
}

fn list(arguments: &ListDoubts) -> Result<(), Failure> {
    let told = Remote::at(&arguments.at)?.get_json("/v1/reservations", "reservations")?;
    if arguments.json {
        return print(&format!("{told}\n"));
    }
    let rows = |kind: &'static str, what: &'static str| {
        let all = told[kind].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().map(move |one| row(what, one)).collect::<Vec<_>>()
    };
    let mut all = rows("reservations", "charge");
    all.extend(rows("records", "record"));
    if all.is_empty() {
        return print("Nothing is unresolved.\n");
    }
    let heads = ["WHAT", "ID", "SINCE", "DOUBT", "TENANT", "KEY", "ROUTE", "REQUEST", "AMOUNT"];
    let more = |kind: &str, list: &str| {
        let listed = told[list].as_array().map_or(0, Vec::len) as u64;
        told[kind].as_u64().unwrap_or(0).saturating_sub(listed)
    };
    let rest = more("reservations_total", "reservations") + more("records_total", "records");
    let mut text = table(&heads, &all);
    if rest > 0 {
        text += "and ";
        text += &rest.to_string();
        text += " more, which are listed once these are settled\n";
    }
    print(&text)
}

fn row(what: &str, one: &Value) -> Vec<String> {
    let charges = one["charges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let amounts: Vec<String> = charges
        .iter()
        .map(|charge| {
            let unit = charge["unit"].as_str().map(|unit| format!(" {unit}")).unwrap_or_default();
            format!("{}{unit} of {}", cell(&charge["amount"]), cell(&charge["limit"]))
        })
        .collect();
    let amounts = if amounts.is_empty() { "-".to_owned() } else { amounts.join(", ") };
    let mut row = vec![what.to_owned()];
    let fields = ["id", "at", "doubt", "tenant", "key", "route", "request_id"];
    row.extend(fields.map(|field| cell(&one[field])));
    row.push(amounts.replace(char::is_control, " "));
    row
}

fn settle(arguments: &Settle, verb: &str) -> Result<(), Failure> {
    let kind = if arguments.record { "records" } else { "reservations" };
    let path = format!("/v1/{kind}/{}/{verb}", encoded(&arguments.id));
    let body = arguments.note.as_ref().map_or(json!({}), |note| json!({ "note": note }));
    let told = Remote::at(&arguments.at)?.act(&path, &body, None)?;
    print(&if arguments.json {
        format!("{told}\n")
    } else {
        format!("{} is {}\n", arguments.id, cell(&told["state"]))
    })
}
