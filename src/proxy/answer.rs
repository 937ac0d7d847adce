//! An answer on its way to the client: its head as text, written once, and its body. HTTP/1 sends the text as it stands;
//! for HTTP/2 fields are made of it at the edge.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, response};

use super::field_text::FieldText;
use crate::policy::report::Spelling;

/// Fields that a connection adds, as a reservation.
const ADDED: usize = 4;

/// The head of an answer. It frames no body by itself: `content-length` is there where somebody knew it, and stands for
/// the body as it is; else who writes the answer frames it.
#[derive(Debug)]
pub struct Head {
    status: StatusCode,
    /// Behind a status line.
    fields: FieldText,
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
        Head { status, fields }
    }

    /// The head that another HTTP implementation has read.
    pub(super) fn of(status: StatusCode, fields: &HeaderMap) -> Head {
        let mut head = Head::new(status);
        for (name, value) in fields {
            head.fields_mut().add(name.as_str(), value.into());
        }
        head
    }

    /// The same head in memory of its own.
    pub(super) fn copied(&self) -> Head {
        Head { status: self.status, fields: self.fields.copied() }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its field lines.
    pub fn fields(&self) -> &FieldText {
        &self.fields
    }

    /// Its field lines, to be changed.
    pub fn fields_mut(&mut self) -> &mut FieldText {
        &mut self.fields
    }

    /// Spells the names of the gate's own fields in this way.
    pub(super) fn spell(&mut self, spelling: Spelling) {
        match spelling {
            Spelling::Lower => {}
            Spelling::Printed => self.fields.print(),
        }
    }

    /// The status line, in HTTP/1.1, and all field lines; without the empty line that ends a head.
    pub fn as_bytes(&self) -> &[u8] {
        self.fields().as_bytes()
    }

    /// The same for an implementation of HTTP that has fields in a map, and no reason phrases: for HTTP/2.
    pub(super) fn into_parts(self) -> response::Parts {
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = self.status;
        parts.headers.reserve(self.fields().len() + ADDED);
        for (name, value) in self.fields().shared() {
            let value = HeaderValue::from_maybe_shared(value);
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
                parts.headers.append(name, value);
            }
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
        assert_eq!(head.status(), StatusCode::NOT_FOUND);
        assert_eq!(head.copied().as_bytes(), head.as_bytes());
        let unnamed = Head::new(StatusCode::from_u16(299).unwrap());
        assert_eq!(unnamed.as_bytes(), b"HTTP/1.1 299 \r\n");
        let fine = Head::with_reason(StatusCode::OK, Some(b"Fine"));
        assert_eq!(fine.as_bytes(), b"HTTP/1.1 200 Fine\r\n");
    }

    #[test]
    fn a_map_of_it_says_the_same() {
        let mut fields = HeaderMap::new();
        for (name, value) in [("b", "1"), ("a", "2"), ("b", "3")] {
            fields.append(name, HeaderValue::from_static(value));
        }
        let parts = Head::of(StatusCode::CREATED, &fields).into_parts();
        assert_eq!((parts.status, parts.headers), (StatusCode::CREATED, fields));
    }
}
