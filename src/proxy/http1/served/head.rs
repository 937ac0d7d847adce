//! The head of a request (RFC 9112 §3, §5, §6): found at the start of what was read, and looked at where it lies. What two
//! readers could read two ways is no head.

use std::mem::MaybeUninit;
use std::ops::Range;

use http::{Method, Version};
use smallvec::SmallVec;

use super::super::framing::{BodyLength, Codings, content_length};
use super::first_line::FirstLine;
use super::section::Latest;
use super::target;
use crate::policy::fields::{Field, lists, members};
use crate::policy::head::{Mark, Target};

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
    /// Where `part` lies in `whole`.
    fn of(part: &[u8], whole: &[u8]) -> Place {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        // A head of more than 4 GiB is over every bound.
        let place = |at: usize| u32::try_from(at).unwrap_or(0);
        Place { start: place(start), end: place(start + part.len()) }
    }

    /// The same as a range of the head's bytes.
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Where the name and the value of a line lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    name: Place,
    value: Place,
}

impl Line {
    /// The same in bytes that begin so much later.
    pub(super) fn ahead(self, bytes: usize) -> Line {
        // No line begins before its section, and a head of more than 4 GiB is over every bound.
        let bytes = u32::try_from(bytes).unwrap_or(0);
        let ahead = |place: Place| Place {
            start: place.start.saturating_sub(bytes),
            end: place.end.saturating_sub(bytes),
        };
        Line { name: ahead(self.name), value: ahead(self.value) }
    }
}

/// Where the parts of a head's lines lie.
pub(super) type Lines = SmallVec<[Line; FEW]>;

/// The lines of a head, to be looked at.
pub(super) type FieldLines<'a> = SmallVec<[Field<'a>; FEW]>;

/// The first line of a head (RFC 9112 §3).
#[derive(Clone, Debug)]
pub(super) struct RequestLine {
    pub(super) method: Method,
    pub(super) target: Place,
    pub(super) version: Version,
}

/// A head that was found, but for its lines.
#[derive(Debug)]
pub(super) struct Found {
    /// Its length in bytes, with the empty line.
    pub(super) bytes: usize,
    /// Its first line.
    pub(super) line: RequestLine,
    /// Where the line's target is.
    asked: Said,
    /// What its lines say of the hop.
    pub(super) hop: Hop,
    /// Where its lines are.
    said: Said,
    /// By what it is known again, where both are kept.
    pub(super) mark: Option<Mark>,
}

/// Whether the lines of a head, or its first one, are those of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// They are in what was read.
    Anew,
    /// They are in what is kept.
    Again,
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
    latest: Latest,
    first: FirstLine,
    /// How often what is kept became another.
    changes: u64,
}

impl HeadReader {
    /// At the start of a connection.
    pub(super) fn new(bounds: HeadBounds) -> HeadReader {
        let (latest, first) = (Latest::default(), FirstLine::default());
        HeadReader { bounds, seen: 0, latest, first, changes: 0 }
    }

    /// The head at the start of `unread`; `None` without more bytes. Its lines are what [`HeadReader::fields`] makes of the
    /// head and of `lines`. An error also where it cannot be said for certain where the request ends (RFC 9112 §6.1, §6.3).
    pub(super) fn read(
        &mut self,
        unread: &mut [u8],
        lines: &mut Lines,
    ) -> Result<Option<Found>, BadHead> {
        if unread.len() == self.seen {
            return Ok(None);
        }
        if self.seen == 0
            && let Some(found) = self.again(unread)
        {
            return self.bounded(found.bytes).map(|()| Some(found));
        }
        // A head that arrives byte by byte is parsed twice, not once a byte.
        if self.seen > 0 && !ends_in(unread, self.seen) {
            self.seen = unread.len();
            return self.waits(unread);
        }
        let Some((bytes, line)) = parse(unread, self.bounds.fields, lines)? else {
            self.seen = unread.len();
            return self.waits(unread);
        };
        self.seen = 0;
        self.bounded(bytes)?;
        let head = &mut unread[..bytes];
        let behind_target = line.target.range().end;
        let start = line_end(&head[behind_target..]).map_or(bytes, |end| behind_target + end);
        self.changes += 1;
        let kept = self.latest.keep(&head[start..], start, lines, line.version)?;
        let (said, hop) = if let Some(hop) = kept {
            (Said::Again, hop)
        } else {
            lower(head, lines);
            (Said::Anew, Hop::of(head, lines, line.version)?)
        };
        Ok(Some(Found { bytes, line, asked: Said::Anew, hop, said, mark: None }))
    }

    /// A head whose lines are those of the one before: only its first line is looked at. 2 000 instructions fewer for six lines,
    /// and 500 more, to keep them, where they are others after all.
    fn again(&mut self, unread: &[u8]) -> Option<Found> {
        self.latest.kept()?;
        if let Some((line, length)) = self.first.again(unread)
            && let Some(section) = self.latest.again(&unread[length..])
            && line.version == section.version
        {
            let (bytes, hop) = (length + section.bytes(), section.hop);
            let (line, asked) = (line.clone(), Said::Again);
            self.first.hit();
            // Both are what is kept, byte for byte: so is every head until that changes.
            let mark = Some(Mark(self.changes));
            return Some(Found { bytes, line, asked, hop, said: Said::Again, mark });
        }
        let (first, rest) = unread.split_at(line_end(unread)?);
        let section = self.latest.again(rest)?;
        let mut request = httparse::Request::new(&mut []);
        // A head that breaks off behind its first line.
        if request.parse(first) != Ok(httparse::Status::Partial) {
            return None;
        }
        let line =
            RequestLine::of(&request, first).filter(|line| line.version == section.version)?;
        let (bytes, hop) = (first.len() + section.bytes(), section.hop);
        self.changes += 1;
        self.first.keep(first, &line);
        Some(Found { bytes, line, asked: Said::Anew, hop, said: Said::Again, mark: None })
    }

    /// What a head that was just found asks for; `None` if that is no target.
    pub(super) fn target<'a>(&'a self, found: &Found, head: &'a [u8]) -> Option<Target<'a>> {
        match found.asked {
            Said::Again => self.first.target(),
            Said::Anew => {
                let text = str::from_utf8(&head[found.line.target.range()]).ok()?;
                target::of(&found.line.method, text)
            }
        }
    }

    /// The lines of a head that was just found, in lower case as far as they are names. `lines` is what [`HeadReader::read`]
    /// left there.
    pub(super) fn fields<'a>(
        &'a self,
        found: &Found,
        head: &'a [u8],
        lines: &[Line],
        into: &mut FieldLines<'a>,
    ) {
        let kept = self.latest.kept().filter(|_| found.said == Said::Again);
        let (bytes, whole, lines) = match kept {
            Some(section) => (section.text.as_bytes(), Some(&*section.text), &*section.lines),
            // Asked once for the head, not once a name: 400 instructions less for five lines.
            None => (head, str::from_utf8(head).ok(), lines),
        };
        // One by one, where `extend` would call for each: 80 instructions for five lines.
        into.reserve(lines.len());
        for line in lines {
            let name = match whole {
                Some(whole) => whole.get(line.name.range()),
                None => str::from_utf8(&bytes[line.name.range()]).ok(),
            };
            // A token is ASCII.
            into.push(Field { name: name.unwrap_or(""), value: &bytes[line.value.range()] });
        }
    }

    fn bounded(&self, bytes: usize) -> Result<(), BadHead> {
        if bytes > self.bounds.bytes { Err(BadHead::TooLarge) } else { Ok(()) }
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

/// How many bytes there are up to the first line feed, with it; `None` where there is none. Eight bytes at a look.
fn line_end(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const FEEDS: u64 = u64::from_le_bytes([b'\n'; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        // The lowest byte that is 0 here is a line feed: only those above it may be taken for one by the borrow.
        let word = u64::from_le_bytes(*word) ^ FEEDS;
        let feeds = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if feeds != 0 {
            return Some(8 * at + feeds.trailing_zeros() as usize / 8 + 1);
        }
    }
    let at = rest.iter().position(|byte| *byte == b'\n')?;
    Some(8 * words.len() + at + 1)
}

/// Brings the names of these lines into lower case.
pub(super) fn lower(bytes: &mut [u8], lines: &[Line]) {
    for line in lines {
        bytes[line.name.range()].make_ascii_lowercase();
    }
}

/// The length of the head at the start of `unread`, and its first line; its others go into `lines`.
fn parse(
    unread: &[u8],
    most: usize,
    lines: &mut Lines,
) -> Result<Option<(usize, RequestLine)>, BadHead> {
    let mut few = [const { MaybeUninit::uninit() }; MANY];
    let mut many: Vec<MaybeUninit<httparse::Header<'_>>>;
    let places = if let Some(few) = few.get_mut(..most) {
        few
    } else {
        many = std::iter::repeat_with(MaybeUninit::uninit).take(most).collect();
        &mut many
    };
    let mut request = httparse::Request::new(&mut []);
    let bytes = match request.parse_with_uninit_headers(unread, places) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        Err(_) => return Err(BadHead::Malformed),
    };
    lines.extend(request.headers.iter().map(|field| Line {
        name: Place::of(field.name.as_bytes(), unread),
        value: Place::of(field.value, unread),
    }));
    let line = RequestLine::of(&request, unread).ok_or(BadHead::Malformed)?;
    Ok(Some((bytes, line)))
}

impl RequestLine {
    /// What was found at the start of `unread`; `None` if that is not the whole line.
    fn of(request: &httparse::Request<'_, '_>, unread: &[u8]) -> Option<RequestLine> {
        Some(RequestLine {
            method: Method::from_bytes(request.method?.as_bytes()).ok()?,
            target: Place::of(request.path?.as_bytes(), unread),
            version: if request.version? == 0 { Version::HTTP_10 } else { Version::HTTP_11 },
        })
    }
}

impl Hop {
    /// What the lines say of the hop; their names are in lower case. An error where it cannot be said for certain where
    /// the request ends (RFC 9112 §6.1, §6.3).
    pub(super) fn of(head: &[u8], lines: &[Line], version: Version) -> Result<Hop, BadHead> {
        let mut hop = Hop {
            length: BodyLength::Nothing,
            after: if version == Version::HTTP_10 { After::Close } else { After::Keep },
            expects: Expects::Nothing,
            trailers: Trailers::Ignored,
        };
        let (mut length, mut codings, mut closes) = (None, Codings::Absent, false);
        for line in lines {
            let value = &head[line.value.range()];
            match &head[line.name.range()] {
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
                    for word in members(value) {
                        if word.eq_ignore_ascii_case(b"close") {
                            closes = true;
                        } else if word.eq_ignore_ascii_case(b"keep-alive") {
                            hop.after = After::Keep;
                        }
                    }
                }
                b"expect"
                    if version == Version::HTTP_11
                        && value.eq_ignore_ascii_case(b"100-continue") =>
                {
                    hop.expects = Expects::Continue;
                }
                b"te" if lists(value, "trailers") => {
                    hop.trailers = Trailers::Taken;
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

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: HeadBounds = HeadBounds { bytes: 1000, fields: 10 };

    /// A head, with the names and values of its lines.
    type Read = (Found, Vec<(String, String)>);

    /// What a reader makes of a head that arrives in these pieces.
    fn read(pieces: &[&[u8]]) -> Result<Option<Read>, BadHead> {
        let mut reader = HeadReader::new(BOUNDS);
        let (mut unread, mut lines) = (Vec::new(), Lines::new());
        for piece in pieces {
            unread.extend_from_slice(piece);
            if let Some(found) = reader.read(&mut unread, &mut lines)? {
                let fields = said(&reader, &found, &unread, &lines);
                return Ok(Some((found, fields)));
            }
        }
        Ok(None)
    }

    fn said(
        reader: &HeadReader,
        found: &Found,
        head: &[u8],
        lines: &Lines,
    ) -> Vec<(String, String)> {
        let mut fields = FieldLines::new();
        reader.fields(found, head, lines, &mut fields);
        let text = |value| String::from_utf8_lossy(value).into_owned();
        fields.iter().map(|field| (field.name.to_owned(), text(field.value))).collect()
    }

    fn hop(fields: &str) -> Result<Hop, BadHead> {
        let version = if fields.contains("(1.0)") { "1.0" } else { "1.1" };
        let mut head = format!("POST / HTTP/{version}\r\n{fields}\r\n").into_bytes();
        let found = HeadReader::new(BOUNDS).read(&mut head, &mut Lines::new())?;
        Ok(found.expect("a whole head").hop)
    }

    #[test]
    fn heads_with_one_mark_are_the_same_byte_for_byte() {
        let mut reader = HeadReader::new(BOUNDS);
        let mut heads: Vec<(Mark, Vec<u8>)> = Vec::new();
        let mut known = 0;
        // Each first line with each section, in turns of one to four of a kind.
        for turn in 0..2_000usize {
            let (path, line) = (turn / 5 % 3 % 2, turn / 7 % 4 % 3);
            let text = format!("GET /{path} HTTP/1.1\r\nHost: a\r\nX: {line}\r\n\r\n");
            let (mut head, mut lines) = (text.clone().into_bytes(), Lines::new());
            let found = reader.read(&mut head, &mut lines).unwrap().expect("a whole head");
            let target = reader.target(&found, &head).expect("a target");
            assert_eq!(target.path, format!("/{path}"));
            if let Some(mark) = found.mark {
                let before = heads.iter().find(|(other, _)| *other == mark);
                assert!(before.is_none_or(|(_, same)| same == text.as_bytes()), "{turn}");
                known += usize::from(before.is_some());
                heads.push((mark, text.into_bytes()));
            }
        }
        assert!(known > 400, "{known}");
    }

    #[test]
    fn a_head_is_the_same_in_one_piece_in_two_and_byte_by_byte() {
        let bytes = b"\r\nGET /a?b HTTP/1.0\r\nHoSt: a\r\nX-Empty:\r\nX-Y:  z \t\r\n\r\nrest";
        let same = |pieces: &[&[u8]]| {
            let (found, fields) = read(pieces).unwrap().expect("a whole head");
            assert_eq!((found.bytes, found.line.version), (bytes.len() - 4, Version::HTTP_10));
            assert_eq!(&bytes[found.line.target.range()], b"/a?b");
            let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
            assert_eq!(fields, [("host", "a"), ("x-empty", ""), ("x-y", "z")]);
        };
        same(&[bytes]);
        for cut in 0..bytes.len() {
            same(&[&bytes[..cut], &bytes[cut..]]);
        }
        same(&bytes.iter().map(std::slice::from_ref).collect::<Vec<_>>());
        for end in 0..bytes.len() - 4 {
            assert!(read(&[&bytes[..end]]).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn a_line_feed_alone_ends_a_line_and_a_carriage_return_alone_ends_none() {
        let (found, fields) = read(&[b"GET / HTTP/1.1\nA: b\n\n"]).unwrap().expect("a head");
        assert_eq!((found.bytes, fields.len()), (21, 1));
        for bytes in ["GET / HTTP/1.1\rA: b\r\n\r\n", "GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n"] {
            assert_eq!(read(&[bytes.as_bytes()]).err(), Some(BadHead::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn what_has_two_readings_is_no_head() {
        for bytes in [
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\n A: b\r\n\r\n",
            "GET / HTTP/1.1\r\n: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
            "GET / HTTP/1.1\r\nA b: c\r\n\r\n",
            "GET / http/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(read(&[bytes.as_bytes()]).err(), Some(BadHead::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_head_over_a_bound_says_over_which() {
        let long = format!("GET /{}", "x".repeat(1000));
        assert_eq!(read(&[long.as_bytes()]).err(), Some(BadHead::LongTarget));
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(1000));
        assert_eq!(read(&[long.as_bytes()]).err(), Some(BadHead::TooLarge));
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1000));
        assert_eq!(read(&[long.as_bytes()]).err(), Some(BadHead::TooLarge));
        let many = |lines| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(lines));
        assert!(read(&[many(10).as_bytes()]).unwrap().is_some());
        assert_eq!(read(&[many(11).as_bytes()]).err(), Some(BadHead::TooLarge));
        assert_eq!([414, 431], [BadHead::LongTarget.status(), BadHead::TooLarge.status()]);
    }

    #[test]
    fn where_a_request_ends_is_certain_or_it_is_refused() {
        let length = |fields: &str| hop(fields).map(|hop| hop.length);
        assert_eq!(length(""), Ok(BodyLength::Nothing));
        assert_eq!(length("Content-Length: 7\r\n"), Ok(BodyLength::Exactly(7)));
        assert_eq!(length("Transfer-Encoding: Chunked\r\n"), Ok(BodyLength::Chunked));
        assert_eq!(length("Transfer-Encoding: gzip, chunked\r\n"), Ok(BodyLength::Chunked));
        for fields in [
            "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 7\r\n",
            "Transfer-Encoding: chunked\r\nX: (1.0)\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding:\r\n",
            "Content-Length: 7\r\nContent-Length: 8\r\n",
            "Content-Length: 7, 7\r\n",
            "Content-Length: +7\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
        ] {
            assert_eq!(length(fields), Err(BadHead::Malformed), "{fields:?}");
        }
    }

    #[test]
    fn a_connection_goes_on_as_its_version_and_its_client_say() {
        let after = |fields: &str| hop(fields).unwrap().after;
        assert_eq!(after(""), After::Keep);
        assert_eq!(after("Connection: x, CLOSE\r\n"), After::Close);
        assert_eq!(after("Connection: close\r\nConnection: keep-alive\r\n"), After::Close);
        assert_eq!(after("X: (1.0)\r\n"), After::Close);
        assert_eq!(after("X: (1.0)\r\nConnection: Keep-Alive\r\n"), After::Keep);
    }

    #[test]
    fn an_expectation_is_http_1_1s_and_trailers_are_taken_where_they_are_named() {
        let of = |fields: &str| hop(fields).map(|hop| (hop.expects, hop.trailers)).unwrap();
        assert_eq!(of("Expect: 100-Continue\r\n"), (Expects::Continue, Trailers::Ignored));
        assert_eq!(of("Expect: 100-continue\r\nX: (1.0)\r\n").0, Expects::Nothing);
        assert_eq!(of("TE: gzip, Trailers\r\n"), (Expects::Nothing, Trailers::Taken));
    }

    /// Each of these heads, as a reader finds it behind the ones before it and as one does that has seen none.
    fn in_turn(heads: &[&[u8]]) {
        let mut reader = HeadReader::new(BOUNDS);
        for (at, head) in heads.iter().enumerate() {
            let mut told = [Vec::new(), Vec::new()];
            for (reader, told) in
                [&mut reader, &mut HeadReader::new(BOUNDS)].into_iter().zip(&mut told)
            {
                let (mut unread, mut lines) = (head.to_vec(), Lines::new());
                let found = reader.read(&mut unread, &mut lines);
                told.push(match &found {
                    Ok(Some(found)) => {
                        let head = &unread[..found.bytes];
                        let target = &unread[found.line.target.range()];
                        let asked = reader.target(found, head).map(|target| {
                            format!("{:?} {} {:?}", target.authority, target.path, target.query)
                        });
                        let fields = said(reader, found, &unread[..found.bytes], &lines);
                        format!(
                            "{} {} {:?} {target:?} {asked:?} {:?} {fields:?}",
                            found.bytes, found.line.method, found.line.version, found.hop
                        )
                    }
                    other => format!("{other:?}"),
                });
            }
            assert_eq!(told[0], told[1], "{at}: {head:?}");
        }
    }

    #[test]
    fn a_head_says_the_same_whatever_the_heads_before_it_said() {
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(600));
        let one: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n";
        in_turn(&[
            one,
            one,
            b"POST /b?c HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\nbody\n",
            b"POST /b?c HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"POST /b? HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"POST /b? HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"POST /b? HTTP/1.1\r\nHost: a\r\nTE: other\r\n\r\n",
            b"POST /b? HTTP/1.1\r\nHost: a\r\nTE: other\r\n\r\n",
            b"GET http://a/b?c HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"GET http://a/b?c HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"GET /a#b HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"GET /a#b HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            one,
            one,
            b"GET /a HTTP/1.1\nHost: a\r\nTE: trailers\r\n\r\n",
            b"\r\nGET /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            b"GET /a HTTP/1.0\r\nHost: a\r\nTE: trailers\r\n\r\n",
            one,
            b"GET /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nX: b\r\n\r\n",
            b"GET /a HTTP/1.1\r\nhost: a\r\nTE: trailers\r\nX: b\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: \xff\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: \xff\r\n\r\n",
            long.as_bytes(),
            long.as_bytes(),
            b"GET /a HTTP/1.1\r\n\r\n",
            b"G(T /a HTTP/1.1\r\n\r\n",
            b"GET /a HTTP/1.1\r\n\r\n",
            b"GET /a HTTP/1.2\r\n\r\n",
            b"GET /a\nHTTP/1.1\r\n\r\n",
            b"GET /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            b"GET /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            b"GET /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        ]);
        let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1000));
        in_turn(&[b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", target.as_bytes()]);
    }

    #[test]
    fn a_connection_that_says_something_new_in_every_head_keeps_none() {
        let mut reader = HeadReader::new(BOUNDS);
        let mut kept = Vec::new();
        for request in 0..12 {
            let mut head = format!("GET / HTTP/1.1\r\nTrace: {request}\r\n\r\n").into_bytes();
            assert!(reader.read(&mut head, &mut Lines::new()).unwrap().is_some());
            kept.push(reader.latest.kept().is_some());
        }
        assert_eq!(kept.iter().filter(|kept| **kept).count(), 8);
        assert!(!kept[11]);
    }

    #[test]
    fn a_connection_that_asks_for_something_new_in_every_head_keeps_no_first_line() {
        let mut reader = HeadReader::new(BOUNDS);
        let mut kept = Vec::new();
        for request in 0..12 {
            let mut head = format!("GET /{request}?a HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
            assert!(reader.read(&mut head, &mut Lines::new()).unwrap().is_some());
            kept.push(reader.first.again(&head).is_some());
        }
        // Nothing is kept before the lines behind it are.
        assert_eq!(kept.iter().filter(|kept| **kept).count(), 8);
        assert!(!kept[0] && !kept[11]);
    }

    #[test]
    fn a_first_line_ends_where_a_look_at_each_byte_finds_its_end() {
        for length in 0..40 {
            for at in 0..length {
                for other in [b'a', 0x0b, 0x8a, 0xff, 0] {
                    let mut bytes = vec![other; length];
                    assert_eq!(line_end(&bytes), None);
                    bytes[at] = b'\n';
                    assert_eq!(line_end(&bytes), Some(at + 1));
                    bytes[length - 1] = b'\n';
                    assert_eq!(line_end(&bytes), Some(at + 1));
                }
            }
        }
    }
}
