//! The values of an event's fields, in both forms of the log.

use std::io::Write as _;
use std::net::SocketAddr;

use crate::telemetry::json::{Object, string};

/// A field's value.
pub(super) enum Value<'a> {
    Text(&'a str),
    /// Text of several lines, which a terminal shows as they are.
    Lines(&'a str),
    Number(u64),
    Address(SocketAddr),
    List(&'a [&'a str]),
}

impl Value<'_> {
    pub(super) fn json(&self, line: &mut Object<'_>, name: &str) {
        match self {
            Value::Text(text) | Value::Lines(text) => line.text(name, text),
            Value::Number(number) => line.number(name, *number),
            Value::Address(address) => line.text(name, &address.to_string()),
            Value::List(list) => {
                let out = line.member(name);
                for (at, text) in list.iter().enumerate() {
                    out.push(if at == 0 { b'[' } else { b',' });
                    string(out, text.as_bytes());
                }
                out.extend_from_slice(if list.is_empty() { b"[]" } else { b"]" });
            }
        }
    }

    pub(super) fn text(&self, out: &mut Vec<u8>, name: &str) {
        if let Value::Lines(text) = self {
            for line in text.lines() {
                out.extend_from_slice(b"\n    ");
                printable(out, line);
            }
            return;
        }
        // Writing to a vector cannot fail.
        let _ = write!(out, " {name}=");
        match self {
            Value::Text(text) | Value::Lines(text) => string(out, text.as_bytes()),
            Value::Number(number) => drop(write!(out, "{number}")),
            Value::Address(address) => drop(write!(out, "{address}")),
            Value::List(list) => drop(write!(out, "{}", list.join(","))),
        }
    }
}

/// Text without what moves a terminal's cursor.
fn printable(out: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        let shown =
            if character.is_control() && character != '\t' { '\u{fffd}' } else { character };
        out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
    }
}
