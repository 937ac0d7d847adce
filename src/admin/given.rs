//! What a request gives: the parameters of its query and the fields of its body, each read once by its name. What nobody
//! asks for is a mistake that is told by its name.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::{StatusCode, Uri};
use http_body::Body;
use serde_json::{Map, Value};

use super::answers::Problem;
use crate::policy::head::query_parameters;

/// Largest body in bytes.
const MOST: usize = 64 * 1024;
/// Time for a body to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest reason or note, in bytes.
const LONGEST_NOTE: usize = 500;

/// Named texts, from a query or a body.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: Map<String, Value>,
    /// What they are called in a complaint.
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default)]
enum Kind {
    #[default]
    Parameter,
    Field,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Parameter => "parameter",
            Kind::Field => "field",
        }
    }
}

impl Given {
    /// The parameters of a query.
    pub(super) fn query(uri: &Uri) -> Result<Given, Problem> {
        let mut values = Map::new();
        for (name, value) in query_parameters(uri.query().unwrap_or("")) {
            let (Ok(name), Ok(value)) = (String::from_utf8(name), String::from_utf8(value)) else {
                return Err(Problem::bad("The query is not UTF-8."));
            };
            if values.insert(name.clone(), Value::String(value)).is_some() {
                return Err(Problem::bad(format!("The parameter `{name}` is given twice.")));
            }
        }
        Ok(Given { values, kind: Kind::Parameter })
    }

    /// The fields of a body, which is a JSON object, or nothing where nothing needs to be said.
    pub(super) fn body(bytes: &[u8]) -> Result<Given, Problem> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Given { values: Map::new(), kind: Kind::Field });
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(values)) => Ok(Given { values, kind: Kind::Field }),
            Ok(_) => Err(Problem::bad("The body must be a JSON object.")),
            Err(error) => Err(Problem::bad(format!("The body is no JSON: {error}."))),
        }
    }

    /// The text of this name, if it is given.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::bad(format!("`{name}` must be a string."))),
        }
    }

    /// An amount, as text or as a whole number; a fraction has to be text, which loses no digit.
    pub(super) fn amount(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) if number.is_u64() => Ok(Some(number.to_string())),
            Some(_) => {
                let message = format!("`{name}` must be a decimal number as a string: \"10.50\".");
                Err(Problem::bad(message))
            }
        }
    }

    /// A text that must be given.
    pub(super) fn needed(&mut self, name: &str) -> Result<String, Problem> {
        self.text(name)?
            .ok_or_else(|| Problem::bad(format!("The {} `{name}` is missing.", self.kind.name())))
    }

    /// A reason or note for those who read the log later: one line, not too long.
    pub(super) fn note(&mut self, name: &str) -> Result<String, Problem> {
        let note = self.text(name)?.unwrap_or_default();
        if note.len() > LONGEST_NOTE || note.contains(char::is_control) {
            let message = format!(
                "`{name}` is one line of at most {LONGEST_NOTE} bytes without control characters."
            );
            return Err(Problem::bad(message));
        }
        Ok(note)
    }

    /// Nothing else may have been given.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => Err(Problem::bad(format!(
                "The {} `{}` is not known here.",
                self.kind.name(),
                name.escape_debug()
            ))),
        }
    }
}

/// Reads a whole body, as far as it is bounded in size and time.
pub(super) async fn whole_body<B: Body + Unpin>(body: B) -> Result<BytesMut, Problem> {
    let Ok(read) = tokio::time::timeout(PATIENCE, collect(body)).await else {
        let message = "The body did not arrive in time.";
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_client", message));
    };
    read
}

async fn collect<B: Body + Unpin>(mut body: B) -> Result<BytesMut, Problem> {
    let mut whole = BytesMut::new();
    loop {
        let frame = std::future::poll_fn(|task| std::pin::Pin::new(&mut body).poll_frame(task));
        let Some(frame) = frame.await else { return Ok(whole) };
        let Ok(frame) = frame else { return Err(Problem::bad("The body broke off.")) };
        let Ok(mut data) = frame.into_data() else { continue };
        if whole.len() + data.remaining() > MOST {
            let message = format!("The body is larger than {MOST} bytes.");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            whole.extend_from_slice(chunk);
            let read = chunk.len();
            data.advance(read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_asked_for_is_told_by_its_name() {
        let mut given = Given::body(br#"{"limit":"wallet","ad":"1"}"#).unwrap();
        assert_eq!(given.needed("limit").unwrap(), "wallet");
        assert_eq!(given.end().unwrap_err().message, "The field `ad` is not known here.");
        let given = Given::query(&"/v1/usage?kee=1".parse().unwrap()).unwrap();
        assert!(given.end().unwrap_err().message.contains("`kee`"));
    }

    #[test]
    fn an_amount_is_text_or_a_whole_number_and_never_a_float() {
        let amount = |json: &str| Given::body(json.as_bytes()).unwrap().amount("add");
        assert_eq!(amount(r#"{"add":"10.50"}"#).unwrap().as_deref(), Some("10.50"));
        assert_eq!(amount(r#"{"add":10}"#).unwrap().as_deref(), Some("10"));
        assert_eq!(amount("{}").unwrap(), None);
        for json in [r#"{"add":10.5}"#, r#"{"add":-1}"#, r#"{"add":true}"#, r#"{"add":1e3}"#] {
            assert!(amount(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_body_that_is_no_object_and_a_parameter_said_twice_are_refused() {
        for body in ["[]", "1", "{", "nonsense"] {
            assert!(Given::body(body.as_bytes()).is_err(), "{body}");
        }
        assert!(Given::body(b" \n").is_ok());
        assert!(Given::query(&"/?a=1&a=2".parse().unwrap()).is_err());
    }
}
