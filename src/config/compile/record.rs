//! `record:` → where access records go, and which headers stand in them.

use http::{HeaderName, header};

use super::super::raw;
use super::Desk;
use crate::policy::credential::{Credentials, Place};
use crate::policy::snapshot::{RecordRule, RecordSink};

pub(super) fn record(
    record: Option<raw::Record>,
    credentials: &Credentials,
    desk: &mut Desk<'_>,
) -> RecordRule {
    let Some(raw::Record { at: _, to, headers }) = record else {
        return RecordRule { to: RecordSink::Stdout, headers: Vec::new() };
    };
    let to = match to {
        None => RecordSink::Stdout,
        Some(to) => match to.value.as_str() {
            "stdout" => RecordSink::Stdout,
            "none" => RecordSink::Off,
            "" => {
                desk.findings.error(to.at, "expected `stdout`, `none` or a file, found nothing");
                RecordSink::Stdout
            }
            // Nobody means a file by these; it would fill beside the policy, whose directory is watched.
            word @ ("off" | "no" | "false" | "stderr") => {
                desk.findings.error_with(
                    to.at,
                    format!("records would go to a file of the name `{word}`"),
                    format!("write `none` for no records, or `./{word}` if you want that file"),
                );
                RecordSink::Off
            }
            file => RecordSink::File(desk.beside(file)),
        },
    };
    let holds_secrets = |name: &HeaderName| {
        [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].contains(name)
            || credentials.places.contains(&Place::Header(name.clone()))
    };
    let mut names = Vec::new();
    for header in headers.map_or_else(Vec::new, |headers| headers.items) {
        if holds_secrets(&header.value) {
            desk.findings.error(header.at, "a secret is never recorded");
        } else {
            names.push(header.value);
        }
    }
    RecordRule { to, headers: names }
}
