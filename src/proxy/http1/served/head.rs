//! The head of a request (RFC 9112 §3, §5, §6): found at the start of what was read, and looked at where it lies. What two
//! readers could read two ways is no head.

use std::mem::MaybeUninit;
use std::ops::Range;

use http::{Method, Version};
use smallvec::SmallVec;

use super::super::framing::{BodyLength, Codings, content_length};

/// Lines for which no memory is asked for.
pub(super) const FEW: usize = 32;
/// Lines that are parsed without asking for memory.
const MANY: usize = 100;

/// The sizes within which a head must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadBounds {
    /// Bytes, with the request line.
    pub(super) bytes: usize,
    /// Field lines.
    pub(super) fields: usize,
}

/// Why bytes are no head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// They are none, or one that can be read two ways.
    Malformed,
    /// The request line alone is too long.
    LongTarget,
    /// There is too much of it.
    TooLarge,
}

impl BadHead {
    /// The status that says so (RFC 9110 §15.5.1, §15.5.15; RFC 6585 §5).
    pub(super) fn status(self) -> u16 {
        match self {
            BadHead::Malformed => 400,
            BadHead::LongTarget => 414,
            BadHead::TooLarge => 431,
        }
    }
}

/// Where a part of a head lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    start: u32,
    end: u32,
}

impl Place {
    /// The same as a range of the head's bytes.
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Where the parts of a head's lines lie.
pub(super) type Lines = SmallVec<[(Place, Place); FEW]>;

/// A head that was found, but for its lines.
#[derive(Debug)]
pub(super) struct Found {
    /// Its length in bytes, with the empty line.
    pub(super) bytes: usize,
    pub(super) method: Method,
    pub(super) target: Place,
    pub(super) version: Version,
}

/// What a head says of its connection and its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) length: BodyLength,
    pub(super) after: After,
    /// Whether the client waits to be asked for its body.
    pub(super) expects: Expects,
    /// Whether it reads what stands behind a body.
    pub(super) trailers: Trailers,
}

/// What the client wants to become of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It may ask again.
    Keep,
    /// This is its last request.
    Close,
}

/// Whether a client waits before it sends its body (RFC 9110 §10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    Nothing,
    Continue,
}

/// Whether a client takes trailers (RFC 9110 §6.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trailers {
    Ignored,
    Taken,
}

/// Finds heads at the start of what was read.
#[derive(Debug)]
pub(super) struct HeadReader {
    bounds: HeadBounds,
    /// How many of the unread bytes were looked at in vain.
    seen: usize,
}

impl HeadReader {
    /// At the start of a connection.
    pub(super) fn new(bounds: HeadBounds) -> HeadReader {
        HeadReader { bounds, seen: 0 }
    }

    /// The head at the start of `unread`, whose lines go into `lines`; `None` without more bytes. Names are in lower case
    /// from then on.
    pub(super) fn read(
        &mut self,
        unread: &mut [u8],
        lines: &mut Lines,
    ) -> Result<Option<Found>, BadHead> {
        if unread.len() == self.seen {
            return Ok(None);
        }
        // A head that arrives byte by byte is parsed twice, not once a byte.
        if self.seen > 0 && !ends_in(unread, self.seen) {
            self.seen = unread.len();
            return self.waits(unread);
        }
        let Some(found) = parse(unread, self.bounds.fields, lines)? else {
            self.seen = unread.len();
            return self.waits(unread);
        };
        self.seen = 0;
        if found.bytes > self.bounds.bytes {
            return Err(BadHead::TooLarge);
        }
        for (name, _) in lines {
            unread[name.range()].make_ascii_lowercase();
        }
        Ok(Some(found))
    }

    fn waits(&self, unread: &[u8]) -> Result<Option<Found>, BadHead> {
        if unread.len() < self.bounds.bytes {
            return Ok(None);
        }
        Err(if unread.contains(&b'\n') { BadHead::TooLarge } else { BadHead::LongTarget })
    }
}

/// Whether the end of a head lies in `unread`, not before the byte `from`.
fn ends_in(unread: &[u8], from: usize) -> bool {
    // The line end of the last line may have been there.
    let tail = &unread[from.saturating_sub(2)..];
    tail.windows(2).any(|two| two == b"\n\n") || tail.windows(3).any(|three| three == b"\n\r\n")
}

fn parse(unread: &[u8], most: usize, lines: &mut Lines) -> Result<Option<Found>, BadHead> {
    let mut few = [const { MaybeUninit::uninit() }; MANY];
    let mut many: Vec<MaybeUninit<httparse::Header<'_>>>;
    let places = match few.get_mut(..most) {
        Some(few) => few,
        None => {
            many = std::iter::repeat_with(MaybeUninit::uninit).take(most).collect();
            &mut many
        }
    };
    let mut request = httparse::Request::new(&mut []);
    let bytes = match request.parse_with_uninit_headers(unread, places) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        Err(_) => return Err(BadHead::Malformed),
    };
    let start = unread.as_ptr().addr();
    let place = |part: &[u8]| {
        let from = part.as_ptr().addr() - start;
        // A head of more than 4 GiB is over every bound.
        let place = |at: usize| u32::try_from(at).unwrap_or(0);
        Place { start: place(from), end: place(from + part.len()) }
    };
    lines.extend(
        request.headers.iter().map(|field| (place(field.name.as_bytes()), place(field.value))),
    );
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(BadHead::Malformed);
    };
    Ok(Some(Found {
        bytes,
        method: Method::from_bytes(method.as_bytes()).map_err(|_| BadHead::Malformed)?,
        target: place(target.as_bytes()),
        version: if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 },
    }))
}

impl Hop {
    /// What the lines say of the hop; their names are in lower case. An error where it cannot be said for certain where
    /// the request ends (RFC 9112 §6.1, §6.3).
    pub(super) fn of(head: &[u8], lines: &Lines, version: Version) -> Result<Hop, BadHead> {
        let mut hop = Hop {
            length: BodyLength::Nothing,
            after: if version == Version::HTTP_10 { After::Close } else { After::Keep },
            expects: Expects::Nothing,
            trailers: Trailers::Ignored,
        };
        let (mut length, mut codings, mut closes) = (None, Codings::Absent, false);
        for (name, value) in lines {
            let value = &head[value.range()];
            match &head[name.range()] {
                b"content-length" => {
                    let said = content_length(value).filter(|_| !value.contains(&b','));
                    let said = said.ok_or(BadHead::Malformed)?;
                    if length.is_some_and(|before| before != said) {
                        return Err(BadHead::Malformed);
                    }
                    length = Some(said);
                }
                b"transfer-encoding" => {
                    codings = codings.and(value).ok_or(BadHead::Malformed)?;
                    if version == Version::HTTP_10 || codings != Codings::Chunked {
                        // It may be a line of several, but a request with another coding is refused in any case.
                        return Err(BadHead::Malformed);
                    }
                }
                b"connection" => {
                    for word in words(value) {
                        if word.eq_ignore_ascii_case(b"close") {
                            closes = true;
                        } else if word.eq_ignore_ascii_case(b"keep-alive") {
                            hop.after = After::Keep;
                        }
                    }
                }
                b"expect" if version == Version::HTTP_11 => {
                    if value.eq_ignore_ascii_case(b"100-continue") {
                        hop.expects = Expects::Continue;
                    }
                }
                b"te" => {
                    if words(value).any(|word| word.eq_ignore_ascii_case(b"trailers")) {
                        hop.trailers = Trailers::Taken;
                    }
                }
                _ => {}
            }
        }
        if closes {
            hop.after = After::Close;
        }
        hop.length = match (codings, length) {
            (Codings::Absent, None) => BodyLength::Nothing,
            (Codings::Absent, Some(length)) => BodyLength::Exactly(length),
            (Codings::Chunked, None) => BodyLength::Chunked,
            // Whoever sends both may be smuggling a request.
            (Codings::Chunked | Codings::Others, _) => return Err(BadHead::Malformed),
        };
        Ok(hop)
    }
}

fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}
