//! The head of an answer as its client will read it (RFC 9112 §4, §6, §9): how long its body is, and whether the
//! connection goes on behind it.

use http::header::HeaderName;
use http::{StatusCode, Version};
use http_body::SizeHint;

use super::super::framing::{Asked, BodyLength, content_length};
use super::super::head_out::Announced;
use super::super::text::Text;
use super::date::Today;
use super::head::{After, Trailers};
use crate::policy::decimal::Digits;
use crate::policy::fields::{lists, members};
use crate::proxy::answer::Head;
use crate::proxy::field_text::Lengths;

/// What an answer to a client of HTTP/1.0 begins with: no version is said that it may not know.
const VERSION_10: &[u8] = b"HTTP/1.0";

/// What an answer's head depends on, besides the answer itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    /// The version that the client speaks.
    pub(super) version: Version,
    /// Whether it wants the body.
    pub(super) asked: Asked,
    /// What becomes of the connection, as far as client and gate are concerned.
    pub(super) after: After,
    /// Whether it reads what stands behind a body.
    pub(super) trailers: Trailers,
}

impl Asker {
    /// Whether it takes an answer as HTTP/1.1 has it, whole, and may ask again behind it.
    pub(super) fn takes_as_it_stands(self) -> bool {
        self.version == Version::HTTP_11 && self.asked == Asked::Whole && self.after == After::Keep
    }

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

/// Writes the head of an answer with a body of this size behind `text`. Most heads go out as they stand; what the answer
/// says of the hop is the connection's to say, and what frames the body is said once.
pub(super) fn write(
    mut text: Text,
    head: &mut Head,
    size: &SizeHint,
    asker: Asker,
    today: &Today,
) -> Written {
    let status = head.status();
    let said = Said::by(head);
    let (length, says) = framing(status, size, asker, said.length);
    if said.hop == Hop::Said && status != StatusCode::SWITCHING_PROTOCOLS {
        head.fields_mut().remove_all(|name| matches!(name, b"connection" | b"transfer-encoding"));
    }
    let as_it_stands = said.lengths == 1 && said.length.map(Says::Length) == Some(says);
    if said.lengths > 0 && !as_it_stands {
        head.fields_mut().remove("content-length");
    }
    let before = text.len();
    text.push(head.as_bytes());
    if asker.version == Version::HTTP_10 {
        text.as_mut_bytes()[before..before + VERSION_10.len()].copy_from_slice(VERSION_10);
    }
    match says {
        Says::Chunked => text.push(b"transfer-encoding: chunked\r\n"),
        Says::Length(length) if !as_it_stands => {
            text.field(b"content-length", Digits::of(length).as_bytes());
        }
        Says::Length(_) | Says::Nothing => {}
    }
    if said.date == Date::Missing && !status.is_informational() {
        text.piece(&today.line());
    }
    let then = match (status, length, said.after, asker.after) {
        (StatusCode::SWITCHING_PROTOCOLS, ..) => Then::Switches,
        (_, BodyLength::UntilClose, ..) | (.., After::Close, _) | (.., After::Close) => {
            Then::Closes
        }
        (_, _, After::Keep, After::Keep) => Then::Asks,
    };
    match (then, asker.version) {
        (Then::Closes, _) => text.push(b"connection: close\r\n"),
        (Then::Asks, Version::HTTP_10) => text.push(b"connection: keep-alive\r\n"),
        (Then::Asks | Then::Switches, _) => {}
    }
    text.end_line();
    let announced = match (said.trailer, asker.trailers) {
        (Trailer::Announced, Trailers::Taken) => Some(Box::new(announced(head))),
        (Trailer::Announced | Trailer::Silent, _) => None,
    };
    Written { text, length, then, announced }
}

/// What an answer says of its body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Nothing,
    Length(u64),
    Chunked,
}

/// How long the body is, and what is said of it; `own` is what the answer says itself.
fn framing(
    status: StatusCode,
    size: &SizeHint,
    asker: Asker,
    own: Option<u64>,
) -> (BodyLength, Says) {
    // RFC 9110 §8.6: none may say a length that can have no body at all.
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return (BodyLength::Nothing, Says::Nothing);
    }
    let says = |length: Option<u64>| length.map_or(Says::Nothing, Says::Length);
    if status == StatusCode::NOT_MODIFIED {
        return (BodyLength::Nothing, says(own));
    }
    if asker.asked == Asked::FieldsAlone {
        // What the body would be. An empty one tells nothing: it may just not be there.
        return (BodyLength::Nothing, says(own.or(size.exact().filter(|size| *size > 0))));
    }
    match (size.exact().or(own), asker.version) {
        (Some(length), _) => (BodyLength::Exactly(length), Says::Length(length)),
        (None, Version::HTTP_10) => (BodyLength::UntilClose, Says::Nothing),
        (None, _) => (BodyLength::Chunked, Says::Chunked),
    }
}

/// What an answer's own fields say of what is the connection's.
#[derive(Debug)]
struct Said {
    after: After,
    length: Option<u64>,
    /// How many lines say so.
    lengths: usize,
    hop: Hop,
    date: Date,
    trailer: Trailer,
}

/// Whether an answer is dated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Date {
    Missing,
    Said,
}

/// Whether an answer has fields of the hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    Silent,
    Said,
}

/// Whether an answer announces fields behind its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailer {
    Silent,
    Announced,
}

/// The lengths of the names that [`Said`] is made of.
const NAMES: Lengths = Lengths::of([4, 7, 10, 14, 17]);

impl Said {
    fn by(head: &Head) -> Said {
        let mut said = Said {
            after: After::Keep,
            length: None,
            lengths: 0,
            hop: Hop::Silent,
            date: Date::Missing,
            trailer: Trailer::Silent,
        };
        for (name, value) in head.fields().of_lengths(NAMES) {
            match name {
                b"content-length" => {
                    said.length = content_length(value);
                    said.lengths += 1;
                }
                b"date" => said.date = Date::Said,
                b"trailer" => said.trailer = Trailer::Announced,
                b"transfer-encoding" => said.hop = Hop::Said,
                b"connection" => {
                    said.hop = Hop::Said;
                    if lists(value, "close") {
                        said.after = After::Close;
                    }
                }
                _ => {}
            }
        }
        said
    }
}

/// The fields that an answer announces behind its body.
fn announced(head: &Head) -> Vec<HeaderName> {
    let names = head.fields().all("trailer").flat_map(members);
    names.filter_map(|word| HeaderName::from_bytes(word).ok()).collect()
}
