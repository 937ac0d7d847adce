//! The head of an answer (RFC 9112 §2, §4, §5): read once, into the text that the client will see. What belongs to the
//! upstream's connection is left out on the way.

use std::mem::MaybeUninit;

use bytes::{Buf as _, BytesMut};
use http::StatusCode;
use http::header::HeaderName;
use smallvec::SmallVec;

use super::framing::{Asked, BodyLength, Codings, content_length};
use super::recent::Recent;
use super::served::Interims;
use crate::policy::fields::members;
use crate::proxy::answer::Head;
use crate::proxy::field_text::Legal;

/// The most bytes of an answer's head.
pub(super) const MOST_HEAD: usize = 64 * 1024;
/// The most fields of an answer's head.
const MOST_FIELDS: usize = 100;
/// The most interim answers (1xx) before the one that is waited for.
const MOST_INTERIM: u32 = 64;

/// The head of a final answer, or of a 101.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    /// Its status and its fields, without those of the hop. A 101 keeps what it switches with.
    pub(super) head: Head,
    /// The length of what follows.
    pub(super) length: BodyLength,
    /// What becomes of the connection.
    pub(super) after: After,
}

impl AnswerHead {
    /// The same head in memory of its own.
    pub(super) fn copied(&self) -> AnswerHead {
        AnswerHead { head: self.head.copied(), length: self.length, after: self.after }
    }
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
    /// Where interim answers go, until the final one is there.
    interims: Option<Interims>,
    /// How many of the unread bytes were looked at in vain.
    seen: usize,
}

impl HeadReader {
    /// For the answer to a request.
    pub(super) fn new(asked: Asked, interims: Option<Interims>) -> HeadReader {
        HeadReader { asked, interim: 0, interims, seen: 0 }
    }

    /// The head at the start of `unread`, which it takes away, and passes the interim ones before it on; `None` without
    /// more bytes.
    pub(super) fn read(
        &mut self,
        unread: &mut BytesMut,
        recent: &Recent,
    ) -> Result<Option<AnswerHead>, BadHead> {
        // 1 400 instructions less, and some 150 more where it is another one.
        if self.seen == 0
            && let Some((head, bytes)) = recent.again(self.asked, unread)
        {
            unread.advance(bytes);
            self.interims = None;
            return Ok(Some(head));
        }
        // Without the end of a line there is no end of a head.
        while unread[self.seen..].contains(&b'\n') {
            let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
            let Some((found, bytes)) = Found::at_the_start_of(unread, &mut fields)? else {
                self.seen = unread.len();
                break;
            };
            let head = match found.status {
                StatusCode::SWITCHING_PROTOCOLS => Some(found.switching()?),
                // The gate has said it by itself, where the client has asked for it.
                StatusCode::CONTINUE => None,
                status if status.is_informational() => {
                    if let Some(interims) = &self.interims {
                        interims.say(&found.copied()?.0);
                    }
                    None
                }
                _ => {
                    let head = found.answer(self.asked)?;
                    recent.keep(self.asked, unread, bytes, &head);
                    Some(head)
                }
            };
            unread.advance(bytes);
            self.seen = 0;
            if head.is_some() {
                self.interims = None;
                return Ok(head);
            }
            self.interim += 1;
            if self.interim > MOST_INTERIM {
                return Err(BadHead);
            }
        }
        if unread.len() >= MOST_HEAD {
            return Err(BadHead);
        }
        Ok(None)
    }
}

/// The parts of a head, where they were received.
struct Found<'a> {
    status: StatusCode,
    /// Minor: 0 or 1.
    version: u8,
    /// Where it is not the usual one.
    reason: Option<&'a [u8]>,
    fields: &'a [httparse::Header<'a>],
}

impl<'a> Found<'a> {
    /// The head that begins here, and its length in bytes.
    fn at_the_start_of(
        unread: &'a [u8],
        fields: &'a mut [MaybeUninit<httparse::Header<'a>>; MOST_FIELDS],
    ) -> Result<Option<(Found<'a>, usize)>, BadHead> {
        let mut answer = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut answer,
            unread,
            fields,
        );
        let bytes = match parsed {
            Ok(httparse::Status::Complete(bytes)) if bytes <= MOST_HEAD => bytes,
            Ok(httparse::Status::Partial) => return Ok(None),
            Ok(httparse::Status::Complete(_)) | Err(_) => return Err(BadHead),
        };
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadHead)?;
        let reason = answer.reason.filter(|reason| Some(*reason) != status.canonical_reason());
        let found = Found {
            status,
            version: answer.version.unwrap_or(0),
            reason: reason.filter(|reason| !reason.is_empty()).map(str::as_bytes),
            fields: answer.headers,
        };
        Ok(Some((found, bytes)))
    }

    fn answer(&self, asked: Asked) -> Result<AnswerHead, BadHead> {
        let (mut head, hop) = self.copied()?;
        let bodiless = asked == Asked::FieldsAlone
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut after = if hop.close || self.version == 0 { After::Close } else { After::Reuse };
        let length = match (hop.codings, hop.length) {
            _ if bodiless => BodyLength::Nothing,
            // RFC 9112 §6.1: HTTP/1.0 knows no transfer codings, so that nobody knows where this ends.
            (Codings::Chunked | Codings::Others, _) if self.version == 0 => {
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
        if hop.codings != Codings::Absent && head.fields_mut().remove("content-length") {
            after = After::Close;
        }
        Ok(AnswerHead { head, length, after })
    }

    /// A 101 (RFC 9110 §15.2.2): what follows is no HTTP.
    fn switching(&self) -> Result<AnswerHead, BadHead> {
        let (mut head, hop) = self.copied()?;
        if let Some(protocol) = hop.upgrade {
            head.fields_mut().add("connection", Legal::known(b"upgrade"));
            head.fields_mut().add("upgrade", protocol);
        }
        Ok(AnswerHead { head, length: BodyLength::Nothing, after: After::Close })
    }

    /// A copy without the fields of the hop (RFC 9110 §7.6.1), and what those say.
    fn copied(&self) -> Result<(Head, Hop<'a>), BadHead> {
        let mut head = Head::with_reason(self.status, self.reason);
        let fields = head.fields_mut();
        let mut hop = Hop { close: false, codings: Codings::Absent, length: None, upgrade: None };
        let mut nominated: SmallVec<[&[u8]; 4]> = SmallVec::new();
        for field in self.fields {
            let (name, value) = (field.name.as_bytes(), Legal::known(field.value));
            match Says::of(name) {
                Says::Anything => fields.add_received(name, value),
                Says::Length => {
                    let length = content_length(field.value).ok_or(BadHead)?;
                    match hop.length {
                        None if field.value.contains(&b',') => {
                            fields.add_number("content-length", length);
                        }
                        None => fields.add("content-length", value),
                        Some(same) if same == length => {}
                        Some(_) => return Err(BadHead),
                    }
                    hop.length = Some(length);
                }
                Says::Codings if members(field.value).any(is_unasked) => return Err(BadHead),
                Says::Codings => hop.codings = hop.codings.and(field.value).ok_or(BadHead)?,
                Says::Connection => {
                    for word in members(field.value) {
                        if word.eq_ignore_ascii_case(b"close") {
                            hop.close = true;
                        } else if !word.eq_ignore_ascii_case(b"keep-alive") {
                            nominated.push(word);
                        }
                    }
                }
                Says::Upgrade => {
                    hop.upgrade.get_or_insert(value);
                }
                Says::OfTheHop => {}
            }
        }
        if !nominated.is_empty() {
            fields.remove_all(|name| nominated.iter().any(|no| no.eq_ignore_ascii_case(name)));
        }
        Ok((head, hop))
    }
}

/// Whether an answer may not wear this coding. The gate's `TE` asks for none, so that `chunked` alone is acceptable (RFC 9112
/// §7.4), which it takes off and puts on again; another would reach the client as the body itself. `identity` is what old
/// backends call none.
fn is_unasked(coding: &[u8]) -> bool {
    let is = |known: &[u8]| coding.eq_ignore_ascii_case(known);
    !(coding.is_empty() || is(b"chunked") || is(b"identity"))
}

/// What a head says of its connection and its framing.
struct Hop<'a> {
    close: bool,
    codings: Codings,
    length: Option<u64>,
    upgrade: Option<Legal<'a>>,
}

/// What a field is about, as far as a connection wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Length,
    Codings,
    Connection,
    Upgrade,
    OfTheHop,
    Anything,
}

impl Says {
    fn of(name: &[u8]) -> Says {
        // By length first, so that most names are compared with none of these.
        match name.len() {
            14 if is(name, b"content-length") => Says::Length,
            17 if is(name, b"transfer-encoding") => Says::Codings,
            10 if is(name, b"connection") => Says::Connection,
            7 if is(name, b"upgrade") => Says::Upgrade,
            2 if is(name, b"te") => Says::OfTheHop,
            10 if is(name, b"keep-alive") => Says::OfTheHop,
            16 if is(name, b"proxy-connection") => Says::OfTheHop,
            _ => Says::Anything,
        }
    }
}

/// Whether a name is this one, in any case. Of a token the bit that tells cases apart tells nothing else but letters. All
/// bytes at a time: 130 instructions less than one by one.
fn is<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    let differs = |all: u8, (name, known): (&u8, &u8)| all | ((name | 0x20) ^ known);
    name.iter().zip(known).fold(0, differs) == 0
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
        let mut reader = HeadReader::new(Asked::Whole, None);
        let mut unread = BytesMut::new();
        for piece in pieces {
            unread.extend_from_slice(piece);
            if let Some(head) = reader.read(&mut unread, &Recent::default())? {
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
            assert_eq!((head.length, head.after), (BodyLength::Exactly(4), After::Reuse));
            let text = b"HTTP/1.1 200 Fine\r\nx: y\r\ncontent-length: 4\r\nx: z\r\n";
            assert_eq!(head.head.as_bytes(), text);
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
        let coded = "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(of(coded), Ok(Some((BodyLength::Chunked, After::Reuse))));
        let open = "Transfer-Encoding: identity\r\nContent-Length: 3\r\n";
        assert_eq!(of(open), Ok(Some((BodyLength::UntilClose, After::Close))));
        assert_eq!(of("Content-Length: 3\r\nContent-Length: 4\r\n"), Err(BadHead));
        for unasked in
            ["gzip", "gzip, chunked", "x-own\r\nTransfer-Encoding: chunked", "chunked;q=1"]
        {
            assert_eq!(of(&format!("Transfer-Encoding: {unasked}\r\n")), Err(BadHead), "{unasked}");
        }
        // The values of a head without a body are held to the same.
        let switching = b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: x\r\n\r\n";
        assert_eq!(read(&[switching]).map(|_| ()), Err(BadHead));
    }
}
