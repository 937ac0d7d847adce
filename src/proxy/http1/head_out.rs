//! The head of a request, written straight as bytes (RFC 9112 §3, §5). It says what it is told to say, in that order; the
//! fields that frame the body are its own, and come last, when the body is at hand (§6).

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::uri::PathAndQuery;
use http::{Method, request};
use http_body::Body as _;

use super::framing::{Asked, BodyLength, content_length};
use super::served::Interims;
use super::text::Text;
use crate::policy::decimal::Digits;
use crate::policy::fields::members;
use crate::proxy::request_body::RequestBody;

/// What stands behind every field.
const LINE_END: &[u8] = b"\r\n";

/// A request's head on its way, but for what frames its body.
#[derive(Debug)]
pub struct RequestHead {
    text: Text,
    asked: Asked,
    length: Length,
    /// The fields that the client announced behind its body: only these are passed on from there.
    announced: Announced,
    interims: Option<Interims>,
}

/// What the client said of its body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Unsaid,
    Said(u64),
}

/// Names in `Trailer` fields; nearly no request has one.
pub(super) type Announced = Option<Box<Vec<HeaderName>>>;

/// A `Content-Length` that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength;

impl RequestHead {
    /// Begins with the request line, in origin form (RFC 9112 §3.2.1). `text` is empty.
    pub(crate) fn begin(
        mut text: Text,
        method: &Method,
        path: &str,
        query: Option<&str>,
    ) -> RequestHead {
        let (mark, query) = query.map_or(("", ""), |query| ("?", query));
        text.push_all([method.as_str(), " ", path, mark, query, " HTTP/1.1\r\n"]);
        let asked = if method == Method::HEAD { Asked::FieldsAlone } else { Asked::Whole };
        RequestHead { text, asked, length: Length::Unsaid, announced: None, interims: None }
    }

    /// Has interim answers go there; else they go nowhere.
    #[must_use]
    pub fn telling(self, interims: Option<Interims>) -> RequestHead {
        RequestHead { interims, ..self }
    }

    /// A head of which everything is final but the framing, as it is.
    pub fn of(head: &request::Parts) -> Result<RequestHead, BadLength> {
        let root = PathAndQuery::from_static("/");
        let target = head.uri.path_and_query().unwrap_or(&root);
        // By its parts: of `?a` the path is `/`.
        let (path, query) = (target.path(), target.query());
        let mut written = RequestHead::begin(Text::for_a_head(), &head.method, path, query);
        for (name, value) in &head.headers {
            written.field(name.as_str(), value.as_bytes())?;
        }
        Ok(written)
    }

    /// Says a field, whose name is in lower case and whose value is one. Of those that frame the body it takes notice only.
    pub(crate) fn field(&mut self, name: &str, value: &[u8]) -> Result<(), BadLength> {
        match (name.len(), name) {
            (17, "transfer-encoding") => return Ok(()),
            (14, "content-length") => {
                let length = content_length(value).ok_or(BadLength)?;
                self.length = Length::Said(length);
                return Ok(());
            }
            (7, "trailer") => self.announce(value),
            _ => {}
        }
        self.own(name, value);
        Ok(())
    }

    /// Says a field that frames nothing and announces nothing, and whose value is one.
    pub(crate) fn own(&mut self, name: &str, value: &[u8]) {
        self.text.field(name.as_bytes(), value);
    }

    /// Says fields that frame nothing and announce nothing, as they stand: whole lines.
    pub(crate) fn lines(&mut self, lines: &[u8]) {
        self.text.push(lines);
    }

    fn announce(&mut self, value: &[u8]) {
        let names = members(value).filter_map(|name| HeaderName::from_bytes(name).ok());
        self.announced.get_or_insert_default().extend(names);
    }

    /// Whether the answer will have a body.
    pub(super) fn asked(&self) -> Asked {
        self.asked
    }

    /// Where interim answers go.
    pub(super) fn take_interims(&mut self) -> Option<Interims> {
        self.interims.take()
    }

    /// Ends the head with what frames `body`: the length that the client said, else chunks; nothing where there is no
    /// body (RFC 9112 §6.3, rule 7).
    pub(super) fn end(mut self, body: &RequestBody) -> (Text, BodyLength, Announced) {
        let length = match self.length {
            Length::Said(length) => {
                self.text.push(b"content-length: ");
                self.text.push(Digits::of(length).as_bytes());
                self.text.push(LINE_END);
                BodyLength::Exactly(length)
            }
            Length::Unsaid if body.is_end_stream() => BodyLength::Nothing,
            Length::Unsaid => {
                self.text.push(b"transfer-encoding: chunked\r\n");
                BodyLength::Chunked
            }
        };
        self.text.push(LINE_END);
        (self.text, length, self.announced)
    }
}

/// Writes one chunk's size (RFC 9112 §7.1).
pub(super) fn chunk_size(out: &mut Text, data: &Bytes) {
    let mut digits = [0; 16];
    let (mut left, mut at) = (data.len(), digits.len());
    while left > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left % 16];
        left /= 16;
    }
    out.push(&digits[at..]);
    out.push(LINE_END);
}

/// Whether a field may stand behind a body (RFC 9110 §6.5.1): none that frames, routes, authenticates or describes it.
fn may_trail(name: &HeaderName) -> bool {
    !super::head_in::is_of_the_hop(name)
        && !matches!(
            *name,
            header::AUTHORIZATION
                | header::CACHE_CONTROL
                | header::CONTENT_ENCODING
                | header::CONTENT_LENGTH
                | header::CONTENT_RANGE
                | header::CONTENT_TYPE
                | header::HOST
                | header::MAX_FORWARDS
                | header::SET_COOKIE
                | header::TRAILER
        )
}

/// Writes the end of a chunked body: the last chunk and those trailers that were announced and may stand there.
pub(super) fn last_chunk(
    out: &mut Text,
    trailers: Option<&header::HeaderMap>,
    announced: &Announced,
) {
    out.push(b"0\r\n");
    let announced = announced.as_ref().map_or(&[][..], |names| names);
    for (name, value) in trailers.into_iter().flatten() {
        if announced.contains(name) && may_trail(name) {
            out.field(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.push(LINE_END);
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn written(request: http::request::Builder) -> String {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (text, _, _) = RequestHead::of(&parts).unwrap().end(&RequestBody::empty());
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_target_is_in_origin_form_byte_for_byte() {
        for (uri, target) in [
            ("/", "/"),
            ("/a%20b/?c=d&e", "/a%20b/?c=d&e"),
            ("/a?", "/a?"),
            ("http://host", "/"),
            ("http://host/x?y", "/x?y"),
            ("http://host?y", "/?y"),
        ] {
            let head = written(Request::get(uri));
            assert_eq!(head, format!("GET {target} HTTP/1.1\r\n\r\n"), "{uri}");
        }
    }

    #[test]
    fn framing_is_said_once_and_by_the_writer_alone() {
        let head = written(
            Request::post("/")
                .header("host", "a")
                .header("transfer-encoding", "gzip")
                .header("content-length", "0")
                .header("x", "y"),
        );
        assert_eq!(head, "POST / HTTP/1.1\r\nhost: a\r\nx: y\r\ncontent-length: 0\r\n\r\n");
        let (parts, ()) =
            Request::post("/").header("content-length", "+1").body(()).unwrap().into_parts();
        assert_eq!(RequestHead::of(&parts).err(), Some(BadLength));
    }

    #[test]
    fn sizes_of_chunks_are_hexadecimal() {
        for (length, size) in [(1, "1\r\n"), (10, "a\r\n"), (16, "10\r\n"), (65_535, "ffff\r\n")] {
            let mut out = Text::for_a_head();
            chunk_size(&mut out, &vec![0; length].into());
            assert_eq!(out.as_bytes(), size.as_bytes());
        }
    }
}
