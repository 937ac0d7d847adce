//! Texts with placeholders → pieces. `{status}`, `{code}` and `{message}` are constants of a refusal and are put in
//! here; the other placeholders are facts of a request. Text of a caller is no placeholder. Must never: render.

use bytes::Bytes;

use super::problem::{Findings, Span, did_you_mean};
use super::read::clip;
use crate::policy::answer::{Escape, Fact, Piece, Text, escape_json};

/// A text taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Fact(Fact),
    Status,
    Code,
    Message,
}

/// What the constants of one refusal stand for.
#[derive(Clone, Debug)]
pub(super) struct Constants {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: Vec<Part>,
}

/// Which placeholders a text may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// A body or header: all.
    All,
    /// A message, which is itself one of them: all but `{message}`.
    AllButMessage,
}

/// Takes a text apart; unknown placeholders are problems. `{{` and `}}` are braces.
pub(super) fn parts(text: &str, at: Span, allowed: Allowed, findings: &mut Findings) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(brace) = rest.find(['{', '}']) {
        literal.push_str(&rest[..brace]);
        let tail = &rest[brace..];
        if let Some(after) = tail.strip_prefix("{{") {
            literal.push('{');
            rest = after;
        } else if let Some(after) = tail.strip_prefix("}}") {
            literal.push('}');
            rest = after;
        } else if let Some(after) = tail.strip_prefix('}') {
            literal.push('}');
            rest = after;
        } else if let Some(close) = tail.find('}') {
            let name = &tail[1..close];
            match placeholder(name, allowed) {
                Some(part) => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(part);
                }
                None => findings.error_with(
                    at,
                    format!("`{{{}}}` is no placeholder", clip(name)),
                    did_you_mean(name, known(allowed))
                        .map(|remedy| format!("{remedy} A brace itself is written {{{{")),
                ),
            }
            rest = &tail[close + 1..];
        } else {
            findings.error_with(
                at,
                "this `{` has no end",
                "a brace itself is written {{".to_owned(),
            );
            rest = "";
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    parts
}

fn known(allowed: Allowed) -> impl Iterator<Item = &'static str> {
    let message = (allowed == Allowed::All).then_some("message");
    ["status", "code"].into_iter().chain(message).chain(Fact::ALL.iter().map(|(word, _)| *word))
}

fn placeholder(name: &str, allowed: Allowed) -> Option<Part> {
    match name {
        "status" => Some(Part::Status),
        "code" => Some(Part::Code),
        "message" if allowed == Allowed::All => Some(Part::Message),
        "message" => None,
        fact => Fact::ALL.iter().find(|(word, _)| *word == fact).map(|(_, fact)| Part::Fact(*fact)),
    }
}

/// Pieces under construction; neighbouring literals become one.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pieces: Vec<Piece>,
    literal: String,
}

impl Builder {
    /// Text as it stands.
    pub(super) fn raw(&mut self, text: &str) {
        self.literal.push_str(text);
    }

    fn fact(&mut self, fact: Fact, escape: Escape) {
        if !self.literal.is_empty() {
            self.pieces.push(Piece::Literal(std::mem::take(&mut self.literal).into()));
        }
        self.pieces.push(Piece::Fact(fact, escape));
    }

    /// A text and its placeholders, escaped for where they stand: `JsonString` or `Plain`.
    pub(super) fn text(&mut self, parts: &[Part], constants: &Constants, escape: Escape) {
        for part in parts {
            match part {
                Part::Text(text) => self.escaped(text, escape),
                Part::Status => self.raw(&constants.status.to_string()),
                Part::Code => self.escaped(&constants.code, escape),
                Part::Fact(fact) => self.fact(*fact, escape),
                Part::Message => self.text(&constants.message, constants, escape),
            }
        }
    }

    /// A JSON value of its own: one placeholder alone keeps its type, anything else is a string.
    pub(super) fn json(&mut self, parts: &[Part], constants: &Constants) {
        match parts {
            [Part::Status] => self.raw(&constants.status.to_string()),
            [Part::Fact(fact)] => self.fact(*fact, Escape::JsonValue),
            parts => {
                self.raw("\"");
                self.text(parts, constants, Escape::JsonString);
                self.raw("\"");
            }
        }
    }

    fn escaped(&mut self, text: &str, escape: Escape) {
        match escape {
            Escape::JsonString | Escape::JsonValue => escape_json(&mut self.literal, text),
            Escape::Plain => {
                self.literal.extend(text.chars().filter(|c| !c.is_control() || *c == '\n'));
            }
        }
    }

    /// The compiled text.
    pub(super) fn finish(mut self) -> Text {
        if self.pieces.is_empty() {
            return Text::Fixed(Bytes::from(self.literal));
        }
        if !self.literal.is_empty() {
            self.pieces.push(Piece::Literal(self.literal.into()));
        }
        Text::Pieces(self.pieces.into())
    }
}
