//! The gate's own answers as compiled from `errors:`: a status, headers and a body for each refusal. What does not
//! depend on the request was rendered at load, so most refusals are one shared buffer.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;

use super::decimal::write_count;
use super::limit::LimitKind;
use super::money::Money;
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

/// The facts of one refusal that templates may name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Whole seconds, as in `Retry-After`.
    pub retry_after: Option<u64>,
    /// Unix seconds at which the refusing limit admits again.
    pub reset: Option<i64>,
    /// Name of the limit that refused.
    pub limit: Option<&'a str>,
    /// Its units.
    pub ceiling: Option<Figure>,
    /// What is left of it.
    pub remaining: Option<Figure>,
    /// The scope that the route demands.
    pub scope: Option<&'a str>,
    /// Name of the route.
    pub route: Option<&'a str>,
    /// The id that is returned and logged.
    /// Printable ASCII, or nothing.
    pub request_id: &'a [u8],
}

/// A number of a limit, in what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Requests, or units of them.
    Units(u64),
    /// Money, printed with all its places.
    Money(Money),
}

impl Figure {
    /// `units` of a limit of this kind, which are millionths where it counts money.
    pub fn of(kind: LimitKind, units: u64) -> Figure {
        if kind.is_money() { Figure::Money(Money(units)) } else { Figure::Units(units) }
    }
}

/// Offsets in a text.
pub type Places = SmallVec<[usize; 2]>;

enum Value<'a> {
    Figure(Figure),
    UnixSeconds(i64),
    Text(&'a [u8]),
    Absent,
}

impl<'a> Facts<'a> {
    fn value(&self, fact: Fact) -> Value<'a> {
        let text =
            |name: Option<&'a str>| name.map_or(Value::Absent, |name| Value::Text(name.as_bytes()));
        match fact {
            Fact::RetryAfter => self
                .retry_after
                .map_or(Value::Absent, |seconds| Value::Figure(Figure::Units(seconds))),
            Fact::Reset => self.reset.map_or(Value::Absent, Value::UnixSeconds),
            Fact::Ceiling => self.ceiling.map_or(Value::Absent, Value::Figure),
            Fact::Remaining => self.remaining.map_or(Value::Absent, Value::Figure),
            Fact::Limit => text(self.limit),
            Fact::Scope => text(self.scope),
            Fact::Route => text(self.route),
            Fact::RequestId => Value::Text(self.request_id),
        }
    }
}

impl Text {
    /// The text for one refusal. It is put together in `room`, whatever that holds. `ids` is told where in the text the id of
    /// the request begins.
    pub fn render(&self, facts: &Facts<'_>, room: &mut Vec<u8>, ids: &mut Places) -> Bytes {
        let pieces = match self {
            Text::Fixed(bytes) => return bytes.clone(),
            Text::Pieces(pieces) => pieces,
        };
        room.clear();
        for piece in pieces {
            match piece {
                Piece::Literal(text) => room.extend_from_slice(text.as_bytes()),
                Piece::Fact(fact, escape) => {
                    if *fact == Fact::RequestId {
                        ids.push(room.len() + usize::from(*escape == Escape::JsonValue));
                    }
                    write_value(room, &facts.value(*fact), *escape);
                }
            }
        }
        Bytes::copy_from_slice(room)
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value<'_>, escape: Escape) {
    match (value, escape) {
        (Value::Figure(Figure::Units(units)), _) => write_count(out, *units),
        (Value::Figure(Figure::Money(money)), _) => money.write(out),
        (Value::UnixSeconds(seconds), _) => {
            if *seconds < 0 {
                out.push(b'-');
            }
            write_count(out, seconds.unsigned_abs());
        }
        (Value::Absent, Escape::JsonValue) => out.extend_from_slice(b"null"),
        (Value::Absent, Escape::JsonString | Escape::Plain) => {}
        // Nearly every text, among them every id that the gate made.
        (Value::Text(text), Escape::Plain | Escape::JsonString) if is_word(text) => {
            out.extend_from_slice(text);
        }
        (Value::Text(text), Escape::Plain | Escape::JsonString) => {
            let mut written = String::new();
            let text = str::from_utf8(text).unwrap_or_default();
            match escape {
                Escape::Plain => written.extend(text.chars().filter(|c| !c.is_control())),
                Escape::JsonString | Escape::JsonValue => escape_json(&mut written, text),
            }
            out.extend_from_slice(written.as_bytes());
        }
        (Value::Text(_), Escape::JsonValue) => {
            out.push(b'"');
            write_value(out, value, Escape::JsonString);
            out.push(b'"');
        }
    }
}

/// Whether `text` is letters, digits and what stands between them in names: the same wherever it is written.
fn is_word(text: &[u8]) -> bool {
    // All bytes, without a stop at the first odd one: sixteen at once.
    text.iter().fold(true, |fine, byte| {
        fine & (byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'_' | b'.' | b':'))
    })
}

/// Appends `text` as it stands inside a JSON string (RFC 8259 §7).
pub fn escape_json(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_keeps_its_type_and_text_is_escaped() {
        let text = Text::Pieces(Box::new([
            Piece::Literal("{\"n\":".into()),
            Piece::Fact(Fact::RetryAfter, Escape::JsonValue),
            Piece::Literal(",\"m\":\"wait ".into()),
            Piece::Fact(Fact::RetryAfter, Escape::JsonString),
            Piece::Literal(" for ".into()),
            Piece::Fact(Fact::Limit, Escape::JsonString),
            Piece::Literal("\",\"r\":".into()),
            Piece::Fact(Fact::Route, Escape::JsonValue),
            Piece::Literal("}".into()),
        ]));
        let facts = Facts { retry_after: Some(7), limit: Some("a\"b\u{1}"), ..Facts::default() };
        let want = "{\"n\":7,\"m\":\"wait 7 for a\\\"b\\u0001\",\"r\":null}";
        let mut ids = Places::new();
        assert_eq!(text.render(&facts, &mut b"of before".to_vec(), &mut ids), want);
        assert!(ids.is_empty());
    }

    #[test]
    fn a_text_tells_where_the_id_of_its_request_begins() {
        let text = Text::Pieces(Box::new([
            Piece::Literal("id ".into()),
            Piece::Fact(Fact::RequestId, Escape::Plain),
            Piece::Literal(", as JSON ".into()),
            Piece::Fact(Fact::RequestId, Escape::JsonValue),
        ]));
        let facts = Facts { request_id: b"a1", ..Facts::default() };
        let mut ids = Places::new();
        let said = text.render(&facts, &mut Vec::new(), &mut ids);
        assert_eq!(said, "id a1, as JSON \"a1\"");
        assert!(ids.iter().all(|at| said[*at..].starts_with(b"a1")) && ids.len() == 2);
    }
}
