//! An answer on its way to the client: its head as text, written once, and its body. HTTP/1 sends the text as it stands;
//! for HTTP/2 fields are made of it at the edge.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Response, StatusCode, response};
use hyper::ext::ReasonPhrase;

use super::field_text::FieldText;

/// Where the reason phrase of a status line begins.
const REASON: usize = "HTTP/1.1 200 ".len();
/// Fields that a connection adds, as a reservation.
const ADDED: usize = 4;

/// The head of an answer. It frames no body by itself: `content-length` is there where somebody knew it, and stands for
/// the body as it is; else who writes the answer frames it.
#[derive(Debug)]
pub struct Head {
    status: StatusCode,
    /// Behind a status line.
    fields: FieldText,
    /// Where the first line begins.
    first: usize,
    /// What hyper spells names by, where it is asked to.
    spelling: Extensions,
}

impl Head {
    /// A head without fields.
    pub fn new(status: StatusCode) -> Head {
        Head::with_reason(status, None)
    }

    /// A head without fields, in which the upstream gives the status a reason of its own (RFC 9112 §4): legal in a
    /// field.
    pub(super) fn with_reason(status: StatusCode, reason: Option<&[u8]>) -> Head {
        let mut fields = FieldText::new();
        let usual = status.canonical_reason().unwrap_or("");
        let reason = reason.unwrap_or(usual.as_bytes());
        fields.begin_with_status(status.as_u16(), reason);
        let first = fields.as_bytes().len();
        Head { status, fields, first, spelling: Extensions::new() }
    }

    /// The head that another HTTP implementation has read.
    pub(super) fn of(status: StatusCode, fields: &HeaderMap) -> Head {
        let mut head = Head::new(status);
        for (name, value) in fields {
            head.fields.add(name.as_str(), value.into());
        }
        head
    }

    /// The same head in memory of its own.
    pub(super) fn copied(&self) -> Head {
        let Head { status, first, .. } = *self;
        Head { status, fields: self.fields.copied(), first, spelling: self.spelling.clone() }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its reason phrase, where it is not the usual one.
    pub(super) fn reason(&self) -> Option<&[u8]> {
        let reason = &self.fields.as_bytes()[REASON..self.first - 2];
        let usual = self.status.canonical_reason().unwrap_or("");
        Some(reason).filter(|reason| *reason != usual.as_bytes())
    }

    /// Its field lines.
    pub fn fields(&self) -> &FieldText {
        &self.fields
    }

    /// Its field lines, to be changed.
    pub fn fields_mut(&mut self) -> &mut FieldText {
        &mut self.fields
    }

    /// The status line, in HTTP/1.1, and all field lines; without the empty line that ends a head.
    pub fn as_bytes(&self) -> &[u8] {
        self.fields.as_bytes()
    }

    /// Has hyper spell names by this.
    pub(super) fn spelled_by(&mut self, spelling: Extensions) {
        self.spelling = spelling;
    }

    /// The same for an implementation of HTTP that has fields in a map.
    pub(super) fn into_parts(self) -> response::Parts {
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = self.status;
        parts.headers.reserve(self.fields.len() + ADDED);
        for (name, value) in self.fields.shared() {
            let value = HeaderValue::from_maybe_shared(value);
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
                parts.headers.append(name, value);
            }
        }
        parts.extensions = self.spelling.clone();
        let reason = self.reason().and_then(|reason| ReasonPhrase::try_from(reason).ok());
        if let Some(reason) = reason {
            parts.extensions.insert(reason);
        }
        parts
    }
}

/// A head, and a body of some kind.
#[derive(Debug)]
pub struct Answer<B> {
    /// The head.
    pub head: Head,
    /// The body.
    pub body: B,
}

impl<B> Answer<B> {
    /// A status, a body and no fields.
    pub fn new(status: StatusCode, body: B) -> Answer<B> {
        Answer { head: Head::new(status), body }
    }

    /// The same head with another body.
    pub fn map<C>(self, into: impl FnOnce(B) -> C) -> Answer<C> {
        Answer { head: self.head, body: into(self.body) }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.head.status()
    }
}

#[cfg(test)]
mod tests {
    use super::super::field_text::Legal;
    use super::*;

    #[test]
    fn a_head_goes_out_as_it_stands() {
        let mut head = Head::new(StatusCode::NOT_FOUND);
        head.fields_mut().add("a", Legal::of(b"1").unwrap());
        assert_eq!(head.as_bytes(), b"HTTP/1.1 404 Not Found\r\na: 1\r\n");
        assert_eq!((head.status(), head.reason()), (StatusCode::NOT_FOUND, None));
        assert_eq!(head.copied().as_bytes(), head.as_bytes());
        let unnamed = Head::new(StatusCode::from_u16(299).unwrap());
        assert_eq!((unnamed.as_bytes(), unnamed.reason()), (&b"HTTP/1.1 299 \r\n"[..], None));
    }

    #[test]
    fn a_map_of_it_says_the_same() {
        let mut fields = HeaderMap::new();
        for (name, value) in [("b", "1"), ("a", "2"), ("b", "3")] {
            fields.append(name, HeaderValue::from_static(value));
        }
        let parts = Head::of(StatusCode::CREATED, &fields).into_parts();
        assert_eq!((parts.status, parts.headers), (StatusCode::CREATED, fields));
        assert!(parts.extensions.get::<ReasonPhrase>().is_none());
        let parts = Head::with_reason(StatusCode::OK, Some(b"Fine")).into_parts();
        let reason = parts.extensions.get::<ReasonPhrase>().unwrap();
        assert_eq!(reason.as_bytes(), b"Fine");
    }
}
