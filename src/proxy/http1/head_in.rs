//! The head of an answer (RFC 9112 §2, §4, §5): read once, into the fields that the client will see. What belongs to
//! the upstream's connection is left out on the way, and values are slices of the bytes that were read.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::framing::{Asked, BodyLength, Codings, content_length};

/// The most bytes of an answer's head.
pub(super) const MOST_HEAD: usize = 64 * 1024;
/// The most fields of an answer's head.
const MOST_FIELDS: usize = 100;
/// The most interim answers (1xx) before the one that is waited for.
const MOST_INTERIM: u32 = 64;
/// Fields that the gate adds to an answer, as a reservation.
const ADDED: usize = 8;

/// The head of a final answer, or of a 101.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its reason phrase, where it is not the usual one.
    pub(super) reason: Option<Bytes>,
    /// Its fields, without those of the hop. A 101 keeps what it switches with.
    pub(super) fields: HeaderMap,
    /// The length of what follows.
    pub(super) length: BodyLength,
    /// What becomes of the connection.
    pub(super) after: After,
}

/// What becomes of a connection when its answer has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It may serve another request.
    Reuse,
    /// It ends, by the upstream's word or because of the upstream's framing.
    Close,
}

/// These bytes are no answer, or go over a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadHead;

/// Reads the heads of one request's answers.
#[derive(Debug)]
pub(super) struct HeadReader {
    asked: Asked,
    interim: u32,
    /// How many of the unread bytes were looked at in vain.
    seen: usize,
    /// An emptied map of fields, so that the answer's needs no memory of its own.
    fields: HeaderMap,
}

impl HeadReader {
    /// For the answer to a request; `fields` is an emptied map whose memory is used again.
    pub(super) fn new(asked: Asked, fields: HeaderMap) -> HeadReader {
        HeadReader { asked, interim: 0, seen: 0, fields }
    }

    /// The head at the start of `unread`, which it takes away, with the interim ones before it; `None` without more
    /// bytes.
    pub(super) fn read(&mut self, unread: &mut BytesMut) -> Result<Option<AnswerHead>, BadHead> {
        // Without the end of a line there is no end of a head.
        while unread[self.seen..].contains(&b'\n') {
            let Some(found) = Found::at_the_start_of(unread)? else {
                self.seen = unread.len();
                break;
            };
            let head = unread.split_to(found.bytes).freeze();
            self.seen = 0;
            match found.status {
                StatusCode::SWITCHING_PROTOCOLS => return self.switching(&found, &head).map(Some),
                status if status.is_informational() => {
                    self.interim += 1;
                    if self.interim > MOST_INTERIM {
                        return Err(BadHead);
                    }
                }
                _ => return self.answer(&found, &head).map(Some),
            }
        }
        if unread.len() >= MOST_HEAD {
            return Err(BadHead);
        }
        Ok(None)
    }

    fn answer(&mut self, found: &Found, head: &Bytes) -> Result<AnswerHead, BadHead> {
        let mut fields = std::mem::take(&mut self.fields);
        fields.reserve(found.places.len() + ADDED);
        let hop = take_fields(found, head, &mut fields)?;
        let bodiless = self.asked == Asked::FieldsAlone
            || matches!(found.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut after = if hop.close || found.version == 0 { After::Close } else { After::Reuse };
        let length = match (hop.codings, hop.length) {
            _ if bodiless => BodyLength::Nothing,
            // RFC 9112 §6.1: HTTP/1.0 knows no transfer codings, so that nobody knows where this ends.
            (Codings::Chunked | Codings::Others, _) if found.version == 0 => {
                return Err(BadHead);
            }
            (Codings::Chunked, _) => BodyLength::Chunked,
            (Codings::Others, _) | (Codings::Absent, None) => BodyLength::UntilClose,
            (Codings::Absent, Some(length)) => BodyLength::Exactly(length),
        };
        if length == BodyLength::UntilClose {
            after = After::Close;
        }
        // RFC 9112 §6.3, rule 3: the coding overrides the length, and who sends both may be splitting answers.
        if hop.codings != Codings::Absent && fields.remove(header::CONTENT_LENGTH).is_some() {
            after = After::Close;
        }
        Ok(AnswerHead {
            status: found.status,
            reason: found.reason.clone().map(|place| head.slice(place)),
            fields,
            length,
            after,
        })
    }

    /// A 101 (RFC 9110 §15.2.2): what follows is no HTTP.
    fn switching(&mut self, found: &Found, head: &Bytes) -> Result<AnswerHead, BadHead> {
        let mut fields = std::mem::take(&mut self.fields);
        let hop = take_fields(found, head, &mut fields)?;
        if let Some(protocol) = hop.upgrade {
            fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(header::UPGRADE, protocol);
        }
        Ok(AnswerHead {
            status: found.status,
            reason: found.reason.clone().map(|place| head.slice(place)),
            fields,
            length: BodyLength::Nothing,
            after: After::Close,
        })
    }
}

/// Where the parts of a head are.
struct Found {
    bytes: usize,
    status: StatusCode,
    /// Minor: 0 or 1.
    version: u8,
    reason: Option<Range<usize>>,
    places: SmallVec<[Place; 24]>,
}

/// Where a field is. No head is longer than 64 KiB, and a field ends before the empty line: an offset fits.
#[derive(Clone, Copy)]
struct Place {
    name: (u16, u16),
    value: (u16, u16),
}

impl Found {
    fn at_the_start_of(unread: &[u8]) -> Result<Option<Found>, BadHead> {
        let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut answer = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut answer,
            unread,
            &mut fields,
        );
        let bytes = match parsed {
            Ok(httparse::Status::Complete(bytes)) if bytes <= MOST_HEAD => bytes,
            Ok(httparse::Status::Partial) => return Ok(None),
            Ok(httparse::Status::Complete(_)) | Err(_) => return Err(BadHead),
        };
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadHead)?;
        let start = unread.as_ptr().addr();
        let range = |part: &[u8]| {
            let from = part.as_ptr().addr() - start;
            from..from + part.len()
        };
        let place = |part: &[u8]| {
            let Range { start, end } = range(part);
            (u16::try_from(start).unwrap_or(0), u16::try_from(end).unwrap_or(0))
        };
        let reason = answer.reason.filter(|reason| Some(*reason) != status.canonical_reason());
        Ok(Some(Found {
            bytes,
            status,
            version: answer.version.unwrap_or(0),
            reason: reason.filter(|reason| !reason.is_empty()).map(|text| range(text.as_bytes())),
            places: answer
                .headers
                .iter()
                .map(|field| Place {
                    name: place(field.name.as_bytes()),
                    value: place(field.value),
                })
                .collect(),
        }))
    }
}

/// What a head says of its connection and its framing.
struct Hop {
    close: bool,
    codings: Codings,
    length: Option<u64>,
    upgrade: Option<HeaderValue>,
}

/// Puts the fields of a head into `fields`, but for those of the hop (RFC 9110 §7.6.1).
fn take_fields(found: &Found, head: &Bytes, fields: &mut HeaderMap) -> Result<Hop, BadHead> {
    let mut hop = Hop { close: false, codings: Codings::Absent, length: None, upgrade: None };
    let mut nominated: SmallVec<[HeaderName; 4]> = SmallVec::new();
    for place in &found.places {
        let part = |(start, end): (u16, u16)| usize::from(start)..usize::from(end);
        let name = HeaderName::from_bytes(&head[part(place.name)]).map_err(|_| BadHead)?;
        let value = HeaderValue::from_maybe_shared(head.slice(part(place.value)));
        let value = value.map_err(|_| BadHead)?;
        match name {
            header::CONTENT_LENGTH => {
                let length = content_length(value.as_bytes());
                let length = length.ok_or(BadHead)?;
                match hop.length {
                    None if value.as_bytes().contains(&b',') => {
                        fields.insert(name, HeaderValue::from(length));
                    }
                    None => {
                        fields.insert(name, value);
                    }
                    Some(same) if same == length => {}
                    Some(_) => return Err(BadHead),
                }
                hop.length = Some(length);
            }
            header::TRANSFER_ENCODING => {
                let codings = hop.codings.and(value.as_bytes());
                hop.codings = codings.ok_or(BadHead)?;
            }
            header::CONNECTION => {
                for word in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    if word.eq_ignore_ascii_case(b"close") {
                        hop.close = true;
                    } else if !word.eq_ignore_ascii_case(b"keep-alive")
                        && let Ok(name) = HeaderName::from_bytes(word)
                    {
                        nominated.push(name);
                    }
                }
            }
            header::UPGRADE => {
                hop.upgrade.get_or_insert(value);
            }
            name if is_of_the_hop(&name) => {}
            name => {
                fields.append(name, value);
            }
        }
    }
    for name in &nominated {
        fields.remove(name);
    }
    Ok(hop)
}

/// Whether a field is about one connection alone (RFC 9110 §7.6.1).
pub(crate) fn is_of_the_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Option<AnswerHead>, BadHead> {
        let mut reader = HeadReader::new(Asked::Whole, HeaderMap::new());
        let mut unread = BytesMut::new();
        for piece in pieces {
            unread.extend_from_slice(piece);
            if let Some(head) = reader.read(&mut unread)? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_in_two_pieces_is_the_same_head() {
        let bytes = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 Fine\r\nX: y\r\n\
            Content-Length: 4, 4\r\nX: z\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
        for cut in 0..=bytes.len() {
            let head = read(&[&bytes[..cut], &bytes[cut..]]).unwrap().expect("a whole head");
            assert_eq!((head.status, head.length), (StatusCode::OK, BodyLength::Exactly(4)));
            assert_eq!((head.reason.as_deref(), head.after), (Some(&b"Fine"[..]), After::Reuse));
            let fields: Vec<(&str, &[u8])> =
                head.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            assert_eq!(fields, [("x", &b"y"[..]), ("x", b"z"), ("content-length", b"4")]);
        }
        for end in 0..bytes.len() {
            assert!(read(&[&bytes[..end]]).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn the_length_follows_the_order_of_the_rfc() {
        let of = |fields: &str| {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            read(&[head.as_bytes()]).map(|head| head.map(|head| (head.length, head.after)))
        };
        assert_eq!(of(""), Ok(Some((BodyLength::UntilClose, After::Close))));
        let two = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n";
        assert_eq!(of(two), Ok(Some((BodyLength::Chunked, After::Close))));
        let coded = "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(of(coded), Ok(Some((BodyLength::Chunked, After::Reuse))));
        let open = "Transfer-Encoding: gzip\r\nContent-Length: 3\r\n";
        assert_eq!(of(open), Ok(Some((BodyLength::UntilClose, After::Close))));
        assert_eq!(of("Content-Length: 3\r\nContent-Length: 4\r\n"), Err(BadHead));
        // The values of a head without a body are held to the same.
        let switching = b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: x\r\n\r\n";
        assert_eq!(read(&[switching]).map(|_| ()), Err(BadHead));
    }
}
