//! The head of an answer as its client will read it (RFC 9112 §4, §6, §9): how long its body is, and whether the
//! connection goes on behind it.

use http::header::{self, HeaderName};
use http::{HeaderValue, StatusCode, Version, response};
use http_body::SizeHint;
use hyper::ext::ReasonPhrase;

use super::super::framing::{Asked, BodyLength, content_length};
use super::super::head_out::Announced;
use super::super::text::Text;
use super::date::Today;
use super::head::{After, Trailers};

/// What an answer's head depends on, besides the answer itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    /// The version that the client speaks: none is said that it may not know.
    pub(super) version: Version,
    /// Whether it wants the body.
    pub(super) asked: Asked,
    /// What becomes of the connection, as far as client and gate are concerned.
    pub(super) after: After,
    /// Whether it reads what stands behind a body.
    pub(super) trailers: Trailers,
}

impl Asker {
    /// Before the first request.
    pub(super) const NOBODY: Asker = Asker {
        version: Version::HTTP_11,
        asked: Asked::Whole,
        after: After::Close,
        trailers: Trailers::Ignored,
    };
}

/// What follows an answer on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The client may ask again.
    Asks,
    /// Its end.
    Closes,
    /// Another protocol.
    Switches,
}

/// An answer's head, written, and what follows it.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) text: Text,
    pub(super) length: BodyLength,
    pub(super) then: Then,
    pub(super) announced: Announced,
}

/// Writes the head of an answer with a body of this size. `text` is what goes out before it.
pub(super) fn write(
    mut text: Text,
    head: &response::Parts,
    size: &SizeHint,
    asker: Asker,
    today: &Today,
) -> Written {
    status_line(&mut text, head, asker.version);
    let mut said = Said { after: asker.after, length: None, date: Date::Missing, announced: None };
    for (name, value) in &head.headers {
        if said.look_at(name, value, head.status) == Say::AsItIs {
            text.field(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    let length = say_framing(&mut text, head.status, size, asker, &mut said);
    if said.date == Date::Missing && !head.status.is_informational() {
        text.field(b"date", &today.words());
    }
    let then = match (head.status, said.after) {
        (StatusCode::SWITCHING_PROTOCOLS, _) => Then::Switches,
        (_, After::Close) => Then::Closes,
        (_, After::Keep) => Then::Asks,
    };
    match (then, asker.version) {
        (Then::Closes, _) => text.push(b"connection: close\r\n"),
        (Then::Asks, Version::HTTP_10) => text.push(b"connection: keep-alive\r\n"),
        (Then::Asks | Then::Switches, _) => {}
    }
    text.push(b"\r\n");
    let announced = said.announced.filter(|_| asker.trailers == Trailers::Taken);
    Written { text, length, then, announced }
}

/// Says how long the body is.
fn say_framing(
    text: &mut Text,
    status: StatusCode,
    size: &SizeHint,
    asker: Asker,
    said: &mut Said,
) -> BodyLength {
    let exact = size.exact().or(said.length);
    if asker.asked == Asked::FieldsAlone
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        // What a body would be is said where it is known, and where there may be a length at all (RFC 9110 §8.6).
        let own = exact.filter(|length| *length > 0 && asker.asked == Asked::FieldsAlone);
        let sayable = !status.is_informational() && status != StatusCode::NO_CONTENT;
        if let Some(length) = said.length.or(own).filter(|_| sayable) {
            say_length(text, length);
        }
        return BodyLength::Nothing;
    }
    if let Some(length) = exact {
        say_length(text, length);
        return BodyLength::Exactly(length);
    }
    if asker.version == Version::HTTP_10 {
        said.after = After::Close;
        return BodyLength::UntilClose;
    }
    text.push(b"transfer-encoding: chunked\r\n");
    BodyLength::Chunked
}

fn status_line(text: &mut Text, head: &response::Parts, version: Version) {
    let reason = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
    let usual = head.status.canonical_reason().unwrap_or("");
    text.push(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    text.push(head.status.as_str().as_bytes());
    text.push(b" ");
    text.push(reason.unwrap_or(usual.as_bytes()));
    text.push(b"\r\n");
}

fn say_length(text: &mut Text, length: u64) {
    text.field(b"content-length", itoa::Buffer::new().format(length).as_bytes());
}

/// What an answer's own fields say.
#[derive(Debug)]
struct Said {
    after: After,
    length: Option<u64>,
    date: Date,
    announced: Announced,
}

/// Whether an answer is dated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Date {
    Missing,
    Said,
}

/// Who says a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    /// It goes out as it is.
    AsItIs,
    /// The connection, in its own words.
    Otherwise,
}

impl Said {
    fn look_at(&mut self, name: &HeaderName, value: &HeaderValue, status: StatusCode) -> Say {
        let words = || value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        match *name {
            header::CONTENT_LENGTH => {
                self.length = content_length(value.as_bytes());
                return Say::Otherwise;
            }
            header::TRANSFER_ENCODING => return Say::Otherwise,
            header::CONNECTION if status != StatusCode::SWITCHING_PROTOCOLS => {
                if words().any(|word| word.eq_ignore_ascii_case(b"close")) {
                    self.after = After::Close;
                }
                return Say::Otherwise;
            }
            header::DATE => self.date = Date::Said,
            header::TRAILER => {
                let names = words().filter_map(|word| HeaderName::from_bytes(word).ok());
                self.announced.get_or_insert_default().extend(names);
            }
            _ => {}
        }
        Say::AsItIs
    }
}
