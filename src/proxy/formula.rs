//! An answer in set words: what refused callers are told again and again, with only the id of the request written anew.
//! Over HTTP/1 it goes out as it stands here, between two pieces of text that are copied.

use http::StatusCode;

use super::answer::{Answer, Head};
use super::body::{Body, OnEnd};
use super::forward::X_REQUEST_ID;
use super::http1::{DATE_LINE, Text, content_length};
use super::io::COALESCED;
use crate::policy::answer::Places;
use crate::policy::fields::Lines;
use crate::telemetry::decision_id::RequestId;

/// An answer, and where the id of its request stands in it.
#[derive(Debug)]
pub struct Formula {
    /// The head as it was when it became one. Says nothing of a hop or of the time.
    head: Head,
    /// All of it as HTTP/1.1 has it, beginning with the head; with a place for the line that says its date.
    text: Vec<u8>,
    /// Where its own fields end, and its date begins.
    date: usize,
    /// Where its body begins.
    body: usize,
    ids: Places,
}

impl Clone for Formula {
    fn clone(&self) -> Formula {
        let (text, ids) = (self.text.clone(), self.ids.clone());
        Formula { head: self.head.copied(), text, ids, ..*self }
    }
}

impl Formula {
    /// This head with this body, in which the id of the request begins at `ids`. `None` where the connection would have more
    /// to say of it than its date, or its id is nowhere.
    pub(super) fn of(head: &Head, body: &[u8], ids: &[usize]) -> Option<Formula> {
        let fields = head.fields();
        let others = ["connection", "transfer-encoding", "date", "trailer"];
        let status = head.status();
        let bare = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
        let framed = bare || status.is_informational() || body.len() > COALESCED;
        if framed || others.iter().any(|name| fields.has(name)) {
            return None;
        }
        let unsaid: &[u8] = match fields.lines("content-length") {
            Lines::None if body.is_empty() => b"content-length: 0\r\n",
            Lines::One(line) if content_length(line) == Some(body.len() as u64) => b"",
            Lines::None | Lines::One(_) | Lines::Several(_) => return None,
        };
        let in_head = fields.place_of(X_REQUEST_ID.as_str())?.start;
        let mut text = [head.as_bytes(), unsaid].concat();
        let date = text.len();
        text.extend_from_slice(&[b' '; DATE_LINE]);
        text.extend_from_slice(b"\r\n");
        let start = text.len();
        text.extend_from_slice(body);
        let in_body = ids.iter().map(|at| start + at);
        let ids = std::iter::once(in_head).chain(in_body).collect();
        Some(Formula { head: head.copied(), text, date, body: start, ids })
    }

    /// Says it to the request with this id, which is as long as the one before.
    pub(super) fn say_to(&mut self, id: &RequestId) {
        let id = id.as_bytes();
        for at in &self.ids {
            if let Some(place) = self.text.get_mut(*at..*at + id.len()) {
                place.copy_from_slice(id);
            }
        }
    }

    /// Its status.
    pub(super) fn status(&self) -> StatusCode {
        self.head.status()
    }

    /// The bytes of its body.
    pub(super) fn body(&self) -> &[u8] {
        &self.text[self.body..]
    }

    /// Adds all of it to `text` as HTTP/1.1 has it, with the line that says its date, and to be followed by another answer. 500
    /// instructions fewer than by way of [`Formula::answer`].
    pub(super) fn write(&self, text: &mut Text, date: &[u8; DATE_LINE]) {
        let before = text.len();
        text.push(&self.text);
        let behind = text.as_mut_bytes().get_mut(before + self.date..);
        if let Some(place) = behind.and_then(<[u8]>::first_chunk_mut) {
            *place = *date;
        }
    }

    /// The same as an answer like any other.
    pub(super) fn answer<E: OnEnd>(&self) -> Answer<Body<E>> {
        let mut head = self.head.copied();
        let length = head.as_bytes().len();
        head.fields_mut().write_over(0, &self.text[..length]);
        Answer { head, body: Body::full(self.body().to_vec()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::field_text::Legal;
    use super::*;
    use crate::telemetry::decision_id::{BootId, DecisionIds};

    const DATED: &[u8; DATE_LINE] = b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

    fn head(status: u16, lines: &[(&str, &str)]) -> Head {
        let mut head = Head::new(StatusCode::from_u16(status).unwrap());
        for (name, value) in lines {
            head.fields_mut().add(name, Legal::of(value.as_bytes()).unwrap());
        }
        head
    }

    #[test]
    fn set_words_go_out_whole_with_the_id_of_their_request_and_a_date() {
        let mut ids = DecisionIds::new(BootId::from_bytes([7; 24]), 0);
        let mut next = || {
            let id = ids.next_id();
            ids.request_id(id)
        };
        let (first, second) = (next(), next());
        let body = format!("<{}>", first.as_str());
        let lines = [("x-request-id", first.as_str()), ("content-length", "34"), ("a", "b")];
        let mut said = Formula::of(&head(403, &lines), body.as_bytes(), &[1]).unwrap();
        said.say_to(&second);
        let mut text = Text::for_a_head();
        said.write(&mut text, DATED);
        let id = second.as_str();
        assert_eq!(
            str::from_utf8(text.as_bytes()).unwrap(),
            format!(
                "HTTP/1.1 403 Forbidden\r\nx-request-id: {id}\r\ncontent-length: 34\r\na: b\r\n\
                 date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n<{id}>"
            )
        );
        let mut answer: Answer<Body> = said.answer();
        assert_eq!(answer.head.fields().first("x-request-id"), Some(id.as_bytes()));
        assert_eq!(answer.body.take_full(), format!("<{id}>"));
    }

    #[test]
    fn an_answer_without_a_body_says_so() {
        let said = Formula::of(&head(200, &[("x-request-id", "1")]), b"", &[]).unwrap();
        let mut text = Text::for_a_head();
        said.write(&mut text, DATED);
        let expected = "HTTP/1.1 200 OK\r\nx-request-id: 1\r\ncontent-length: 0\r\n\
                        date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        assert_eq!(str::from_utf8(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_the_connection_has_to_frame_is_no_formula() {
        for (status, lines, body) in [
            (403, &[("x-request-id", "1"), ("connection", "close")][..], ""),
            (403, &[("x-request-id", "1"), ("date", "now")], ""),
            (403, &[("x-request-id", "1"), ("transfer-encoding", "chunked")], ""),
            (403, &[("x-request-id", "1")], "body"),
            (403, &[("x-request-id", "1"), ("content-length", "3")], "body"),
            (403, &[], ""),
            (204, &[("x-request-id", "1")], ""),
            (304, &[("x-request-id", "1")], ""),
        ] {
            let said = Formula::of(&head(status, lines), body.as_bytes(), &[]);
            assert!(said.is_none(), "{status} {lines:?} {body}");
        }
    }
}
