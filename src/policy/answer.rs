//! The gate's own answers as compiled from `errors:`: a status, headers and a body for each refusal. What does not
//! depend on the request was rendered at load, so most refusals are one shared buffer.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::refusal::Refusal;

/// One answer for each refusal.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Indexed by `Refusal as usize`, as long as [`Refusal::ALL`].
    pub by_refusal: Box<[Answer]>,
}

impl Answers {
    /// The answer to `refusal`.
    pub fn to(&self, refusal: Refusal) -> &Answer {
        &self.by_refusal[refusal as usize]
    }
}

/// How one refusal is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its machine-readable code (`{code}`).
    pub code: Box<str>,
    /// Headers of its own, beside those that every answer of its status gets.
    pub headers: Vec<(HeaderName, Text)>,
    /// `Content-Type` of the body.
    pub content_type: HeaderValue,
    /// The body.
    pub body: Text,
}

/// Text with placeholders, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// No placeholder that depends on the request.
    Fixed(Bytes),
    /// Pieces in order.
    Pieces(Box<[Piece]>),
}

/// A piece of a [`Text`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it stands, already escaped for where it stands.
    Literal(Box<str>),
    /// A fact of the request.
    Fact(Fact, Escape),
}

/// How a fact is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Inside a JSON string: quotes and controls escaped, no quotes around it.
    JsonString,
    /// A JSON value of its own: a number as a number, text as a quoted string, what is absent as `null`.
    JsonValue,
    /// As it stands (headers, plain text); controls dropped.
    Plain,
}

/// Facts that a template may name. Never text of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// `{retry_after}`: whole seconds, as in the header.
    RetryAfter,
    /// `{reset}`: Unix seconds at which the refusing limit admits again.
    Reset,
    /// `{limit}`: name of the limit that refused.
    Limit,
    /// `{ceiling}`: its units.
    Ceiling,
    /// `{remaining}`: what is left of it.
    Remaining,
    /// `{scope}`: the scope that the route demands.
    Scope,
    /// `{route}`: name of the route.
    Route,
    /// `{request_id}`: the id that is returned and logged.
    RequestId,
}

impl Fact {
    /// All of them with their placeholder's word. `{status}`, `{code}` and `{message}` are constants of a refusal and
    /// are put in at load.
    pub const ALL: &'static [(&'static str, Fact)] = &[
        ("retry_after", Fact::RetryAfter),
        ("reset", Fact::Reset),
        ("limit", Fact::Limit),
        ("ceiling", Fact::Ceiling),
        ("remaining", Fact::Remaining),
        ("scope", Fact::Scope),
        ("route", Fact::Route),
        ("request_id", Fact::RequestId),
    ];
}
