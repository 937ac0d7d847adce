//! Step 2: refuse what two parsers could read two ways. Nothing is repaired: the decision and the backend see the
//! same bytes, or the backend sees nothing.

use http::uri::Authority;
use http::{Method, Version};

use super::fields::{Field, Fields, Lines, members};
use super::plain::{is_plain_host, is_plain_path, is_plain_query};
use super::refusal::{Refusal, Refused};
use super::snapshot::Bounds;

/// A head as its parser let it through.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked<'a> {
    /// The method.
    pub method: &'a Method,
    /// What is asked for.
    pub target: Target<'a>,
    /// The protocol version.
    pub version: Version,
    /// All field lines.
    pub fields: Fields<'a>,
    /// By what it is known again, if its parser can tell.
    pub mark: Option<Mark>,
}

/// By what a head is known again: heads of one connection with the same mark are the same, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

/// What a request asks for, in the parts that it was sent in (RFC 9112 §3.2, RFC 9113 §8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Of absolute-form, or `:authority`.
    pub authority: Option<&'a str>,
    /// The path; `*` of asterisk-form, empty where there is none.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
}

/// The facts of a head that later steps read, checked.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method, never CONNECT or TRACE.
    pub method: &'a Method,
    /// The path, canonical: what is matched is what is forwarded, byte for byte.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// All fields.
    pub fields: Fields<'a>,
    /// Those of them that many steps read.
    pub seen: &'a Seen<'a>,
    /// By what it is known again.
    pub mark: Option<Mark>,
}

/// That the head with this mark was checked, and was good. Made by [`Head::checked`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked(Mark);

/// The fields that many steps read, found in one pass over a head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// `Host`.
    pub host: Lines<'a>,
    /// `Authorization`.
    pub authorization: Lines<'a>,
    /// `Content-Length`.
    pub content_length: Lines<'a>,
    /// `Content-Type`.
    pub content_type: Lines<'a>,
    /// `Transfer-Encoding`.
    pub transfer_encoding: Lines<'a>,
    /// `Connection`.
    pub connection: Lines<'a>,
    /// `Idempotency-Key`.
    pub idempotency_key: Lines<'a>,
    /// `X-Request-Id`.
    pub request_id: Lines<'a>,
}

impl<'a> Seen<'a> {
    /// Looks through a head.
    pub fn of(fields: Fields<'a>) -> Seen<'a> {
        let mut seen = Seen::default();
        for Field { name, value } in fields {
            // By length first: most names are passed over by that alone.
            let lines = match (name.len(), *name) {
                (4, "host") => &mut seen.host,
                (10, "connection") => &mut seen.connection,
                (12, "content-type") => &mut seen.content_type,
                (12, "x-request-id") => &mut seen.request_id,
                (13, "authorization") => &mut seen.authorization,
                (14, "content-length") => &mut seen.content_length,
                (15, "idempotency-key") => &mut seen.idempotency_key,
                (17, "transfer-encoding") => &mut seen.transfer_encoding,
                _ => continue,
            };
            lines.add(value);
        }
        seen
    }

    /// Whether the caller speaks gRPC, and so reads `grpc-status` and not a body.
    pub fn is_grpc(&self) -> bool {
        self.content_type.first().is_some_and(|value| {
            value.starts_with(b"application/grpc") && !value.starts_with(b"application/grpc-web")
        })
    }
}

impl<'a> Head<'a> {
    /// Checks a head that the HTTP parser let through; `seen` is what there is in its fields.
    pub fn check(
        head: &Unchecked<'a>,
        seen: &'a Seen<'a>,
        bounds: &Bounds,
    ) -> Result<Head<'a>, Refused> {
        let bad = |detail| Err(Refused::because(Refusal::BadRequest, detail));
        let Unchecked { method, target, version, fields, mark } = *head;
        let Target { authority, path, query } = target;
        if fields.len() > bounds.fields {
            return Err(Refused::because(Refusal::HeadTooLarge, "too many header fields"));
        }
        if path.len() + query.map_or(0, str::len) > bounds.target {
            return Err(Refused::because(Refusal::HeadTooLarge, "the request target is too long"));
        }
        if *method != Method::GET {
            check_method(method)?;
        }
        check_host(authority, version, seen.host)?;
        if seen.connection != Lines::None {
            check_connection(fields)?;
        }
        if matches!(seen.content_length, Lines::Several(_)) {
            return bad("more than one Content-Length");
        }
        check_transfer_coding(seen.transfer_encoding)?;
        if let Err(detail) = canonical_path(path) {
            return bad(detail);
        }
        if let Some(query) = query {
            check_query(query)?;
        }
        Ok(Head { method, path, query, fields, seen, mark })
    }

    /// That this head was checked, for the next one of its connection; `None` where that could not be known again.
    pub fn checked(&self) -> Option<Checked> {
        self.mark.map(Checked)
    }

    /// The head, if it is the one that was checked before, on the same connection and under the same bounds.
    pub fn again(head: &Unchecked<'a>, seen: &'a Seen<'a>, before: Checked) -> Option<Head<'a>> {
        let Unchecked { method, target, fields, mark, version: _ } = *head;
        let Target { path, query, authority: _ } = target;
        (mark == Some(before.0)).then_some(Head { method, path, query, fields, seen, mark })
    }
}

fn check_method(method: &Method) -> Result<(), Refused> {
    if method == Method::CONNECT || method == Method::TRACE {
        // RFC 9110 §9.3.6, §9.3.8: a gateway is no tunnel, and an echo would show credentials.
        let detail = "CONNECT and TRACE are never forwarded";
        return Err(Refused::because(Refusal::MethodUnknown, detail));
    }
    if method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        // Methods are case-sensitive (RFC 9110 §9.1), but many frameworks take `post` for `POST`.
        return Err(Refused::because(Refusal::BadRequest, "a method in lower case"));
    }
    Ok(())
}

fn check_query(query: &str) -> Result<(), Refused> {
    let bad = |detail| Err(Refused::because(Refusal::BadRequest, detail));
    if is_plain_query(query.as_bytes()) {
        return Ok(());
    }
    if query.bytes().any(|byte| !(0x21..0x7f).contains(&byte)) {
        return bad("a byte in the query that is not printable ASCII");
    }
    if query.bytes().any(|byte| matches!(byte, b'#' | b'"' | b'<' | b'>')) {
        return bad("a byte in the query that must be encoded");
    }
    if names_a_control_character(query) {
        return bad("an encoded control character in the name of a query parameter");
    }
    Ok(())
}

/// RFC 9112 §3.2: one `Host` line, valid, in every HTTP/1.1 request; RFC 9113 §8.3.1: it must not contradict `:authority`.
fn check_host(authority: Option<&str>, version: Version, lines: Lines<'_>) -> Result<(), Refused> {
    let bad = |detail| Err(Refused::because(Refusal::BadRequest, detail));
    let host = match lines {
        Lines::None => None,
        Lines::One(only) => Some(only),
        Lines::Several(_) => return bad("more than one Host"),
    };
    if let Some(authority) = authority {
        if authority.contains('@') {
            return bad("user information in the authority");
        }
        if !is_host(authority.as_bytes()) {
            return bad("an invalid authority");
        }
        // Absolute-form replaces Host in HTTP/1.1 (RFC 9112 §3.2.2); in HTTP/2 two that differ are an attack.
        let same = |host: &[u8]| host.eq_ignore_ascii_case(authority.as_bytes());
        if version == Version::HTTP_2 && host.is_some_and(|host| !same(host)) {
            return bad(":authority and Host differ");
        }
    }
    match host {
        None if version == Version::HTTP_11 => bad("no Host"),
        None if version == Version::HTTP_2 && authority.is_none() => {
            bad("neither :authority nor Host")
        }
        None => Ok(()),
        Some(host) if is_host(host) => Ok(()),
        Some(_) => bad("an invalid Host"),
    }
}

fn is_host(host: &[u8]) -> bool {
    is_plain_host(host) || is_other_host(host)
}

fn is_other_host(host: &[u8]) -> bool {
    // The `http` crate's grammar of an authority also lets user information and commas through.
    !host.is_empty()
        && !host
            .iter()
            .any(|byte| matches!(byte, b'@' | b',' | b'/' | b'?' | b'#' | b'\\' | b' ' | b'\t'))
        && Authority::try_from(host).is_ok()
}

/// RFC 9112 §6.1: the gate takes `chunked` off and puts it on again, and knows no other coding. One that it passed over
/// would reach the backend as the body itself.
fn check_transfer_coding(lines: Lines<'_>) -> Result<(), Refused> {
    match lines {
        Lines::None => Ok(()),
        Lines::One(only) if only.trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        Lines::One(_) | Lines::Several(_) => {
            Err(Refused::because(Refusal::BadRequest, "a transfer coding other than one chunked"))
        }
    }
}

/// RFC 9110 §7.6.1: a sender may not nominate end-to-end fields. One that does wants them to vanish behind the gate.
fn check_connection(fields: Fields<'_>) -> Result<(), Refused> {
    const END_TO_END: [&str; 7] = [
        "host",
        "content-length",
        "authorization",
        "cookie",
        "idempotency-key",
        "forwarded",
        "content-type",
    ];
    for line in fields.all("connection") {
        for name in members(line) {
            let end_to_end = END_TO_END
                .iter()
                .any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
                || name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"));
            if end_to_end {
                return Err(Refused::because(
                    Refusal::BadRequest,
                    "Connection names an end-to-end field",
                ));
            }
        }
    }
    Ok(())
}

/// Whether `path` has one reading only. The error says what has two.
pub fn canonical_path(path: &str) -> Result<(), &'static str> {
    // Nearly all paths.
    if is_plain_path(path.as_bytes()) {
        return Ok(());
    }
    let Some(below_root) = path.strip_prefix('/') else {
        return Err("a path that does not start with a slash");
    };
    // A fragment is never sent (RFC 9110 §4.2.5), and what one parser cuts off, another reads. The others stand in no path.
    if path.bytes().any(|byte| matches!(byte, b'#' | b'<' | b'>' | b'`')) {
        return Err("a byte that must be encoded");
    }
    let mut segments = below_root.as_bytes().split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err("an empty path segment");
        }
        canonical_segment(segment)?;
    }
    Ok(())
}

/// Whether one path segment has one reading only. Empty is fine here: only the last segment of a path may be.
pub fn canonical_segment(segment: &[u8]) -> Result<(), &'static str> {
    if matches!(segment, b"." | b"..") {
        return Err("a dot segment");
    }
    let mut rest = segment;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let Some(decoded) = after.get(..2).and_then(hex_pair) else {
                    return Err("a percent sign without two hexadecimal digits");
                };
                rest = &after[2..];
                match decoded {
                    b'/' | b'\\' => return Err("an encoded slash or backslash"),
                    0..0x20 | 0x7f => return Err("an encoded control character"),
                    b'%' if rest.get(..2).and_then(hex_pair).is_some() => {
                        return Err("a doubly encoded character");
                    }
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b';' => {
                        return Err("an encoded character that needs no encoding");
                    }
                    _ => {}
                }
            }
            b'\\' => return Err("a backslash"),
            b';' => return Err("a semicolon, which some servers cut the segment at"),
            0x21..0x7f => {}
            _ => return Err("a byte that is not printable ASCII"),
        }
    }
    if decoded_utf8(segment) { Ok(()) } else { Err("percent-encoding that is not UTF-8") }
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(pair[0])? * 16 + digit(pair[1])?;
    u8::try_from(value).ok()
}

/// Overlong and broken sequences are what filters and backends read differently.
fn decoded_utf8(segment: &[u8]) -> bool {
    if !segment.contains(&b'%') {
        return true;
    }
    std::str::from_utf8(&percent_decoded(segment)).is_ok()
}

/// `text` with its percent-encoding undone; what is no valid triplet stays as it is.
pub fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(decoded) = after.get(..2).and_then(hex_pair).filter(|_| byte == b'%') {
            out.push(decoded);
            rest = &after[2..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

/// Whether a parameter's *name* hides a control character: where a backend's strings end at a zero byte, `user%00x`
/// is `user`. Values may hold any byte: messages do.
fn names_a_control_character(query: &str) -> bool {
    query.contains('%')
        && query.split('&').any(|pair| {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            name.contains('%') && form_decoded(name).iter().any(u8::is_ascii_control)
        })
}

/// The parameters of a query: name and value, both decoded, `+` as a space.
pub fn query_parameters(query: &str) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decoded(name), form_decoded(value))
    })
}

/// The parameters that a backend may read in one `&`-separated part of a query, decoded: the part as a whole, and each
/// piece between semicolons, at which some servers cut as well.
pub fn readings(part: &str) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
    let pieces = part.contains(';').then(|| part.split(';'));
    std::iter::once(part).chain(pieces.into_iter().flatten()).map(|piece| {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        (form_decoded(name), form_decoded(value))
    })
}

/// Whether a backend may read a parameter of this decoded name as `wanted`: without regard to case and to spaces around
/// it, and as an array or a map of that name (`name[]`, `name[x]`).
pub fn may_be_read_as(given: &[u8], wanted: &str) -> bool {
    let outer = given.split(|byte| *byte == b'[').next().unwrap_or(given);
    [given, outer].iter().any(|name| name.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// One name or value of a query, decoded.
pub fn form_decoded(text: &str) -> Vec<u8> {
    let spaced: Vec<u8> = text.bytes().map(|byte| if byte == b'+' { b' ' } else { byte }).collect();
    percent_decoded(&spaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_two_readings_is_refused() {
        for path in [
            "",
            "a",
            "//",
            "/a//b",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/b",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/%00",
            "/a%0d%0a",
            "/..;/b",
            "/a;x=1",
            "/%252e",
            "/%c0%ae",
            "/%ff",
            "/%zz",
            "/%4",
            "/%61",
            "/a b",
            "/\u{e9}",
            "/a%3bb",
            "/a#b",
            "/<a>",
            "/`",
        ] {
            assert!(canonical_path(path).is_err(), "{path:?}");
        }
        for path in
            ["/", "/a", "/a/", "/a/b.c", "/a%20b", "/%C3%A9", "/a:b@c", "/100%25", "/a/...", "/~u"]
        {
            assert_eq!(canonical_path(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn a_host_with_two_readings_is_refused() {
        for host in ["", "a@b", "a/b", "a,b", "a b", "a:b:c", "[::1"] {
            assert!(!is_host(host.as_bytes()), "{host:?}");
        }
        for host in ["a", "a.example:8080", "127.0.0.1", "[::1]:80", "xn--bcher-kva.example"] {
            assert!(is_host(host.as_bytes()), "{host:?}");
        }
        for (authority, fine) in [("a,b", false), ("a:b:c", false), ("[::1]:80", true)] {
            let told = check_host(Some(authority), Version::HTTP_11, Lines::One(b"a"));
            assert_eq!(told.is_ok(), fine, "{authority}");
        }
    }

    #[test]
    fn a_body_may_be_chunked_once_and_coded_no_other_way() {
        let check = |lines: &[&str]| {
            check_transfer_coding(lines.iter().map(|line| line.as_bytes()).collect()).is_ok()
        };
        assert!(check(&[]) && check(&["chunked"]) && check(&["Chunked "]));
        assert!(!check(&["gzip, chunked"]) && !check(&["chunked", "chunked"]) && !check(&["gzip"]));
    }

    #[test]
    fn the_fields_that_steps_read_are_found_and_counted_in_one_pass() {
        let field = |name, value: &'static str| Field { name, value: value.as_bytes() };
        let lines = [
            field("host", "a"),
            field("x-request-ie", "no"),
            field("content-type", "application/grpc+proto"),
            field("host", "b"),
            field("content-type", "text/plain"),
        ];
        let seen = Seen::of(Fields(&lines));
        assert_eq!(seen.host, Lines::Several(b"a"));
        assert_eq!((seen.request_id, seen.authorization), (Lines::None, Lines::None));
        assert!(seen.is_grpc(), "by the first of two");
    }

    #[test]
    fn a_query_has_printable_bytes_and_no_fragment() {
        assert!(check_query("a=b&c=%20'{}|`").is_ok());
        for query in ["a=\u{e9}", "a b", "a#b", "a=<b>", "a=\"", "a%00=b"] {
            assert!(check_query(query).is_err(), "{query:?}");
        }
    }

    #[test]
    fn a_control_character_may_stand_in_a_value_and_not_in_a_name() {
        for query in ["user%00=x", "a=b&%0auser=x", "us%7fer"] {
            assert!(names_a_control_character(query), "{query}");
        }
        for query in ["text=a%0ab%00", "us%20er=x", "a&b=c"] {
            assert!(!names_a_control_character(query), "{query}");
        }
    }

    #[test]
    fn a_query_is_decoded_by_name_and_value() {
        let pairs: Vec<_> = query_parameters("a=1&b%20c=%2F+x&&d").collect();
        assert_eq!(
            pairs,
            [
                (b"a".to_vec(), b"1".to_vec()),
                (b"b c".to_vec(), b"/ x".to_vec()),
                (b"d".to_vec(), vec![])
            ]
        );
    }
}
