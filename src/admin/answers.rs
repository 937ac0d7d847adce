//! What an answer of the admin listener is made of: a whole body, JSON nearly always, and problems with a code.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde_json::{Value, json};

const JSON_TYPE: &str = "application/json";

/// A whole body.
pub(super) struct Answer(Option<Bytes>);

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// A word for programs.
    pub(super) code: &'static str,
    /// A sentence for people.
    pub(super) message: Cow<'static, str>,
    /// The methods that the path has, for 405.
    pub(super) allow: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem { status, code, message: message.into(), allow: None }
    }

    /// What was asked for cannot be understood.
    pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// What was asked for is understood and cannot be done.
    pub(super) fn unfit(code: &'static str, message: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    /// There is no such thing.
    pub(super) fn unknown(code: &'static str, message: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, code, message)
    }

    /// The path is there, the method is not.
    pub(super) fn method(allow: &'static str) -> Problem {
        let message = format!("This method is not allowed here; {allow}: these are.");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Problem { allow: Some(allow), ..Problem::new(status, "method_unknown", message) }
    }

    /// The store has failed, so nothing may be promised.
    pub(super) fn store_failed() -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "The state cannot be written; nothing is promised until the gate is restarted. Ask again then.",
        )
    }

    /// Its answer.
    pub(super) fn answer(&self) -> Response<Answer> {
        let body = json!({ "code": self.code, "message": self.message });
        let mut response = json_answer(self.status, &body);
        let headers = response.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"admin\""));
        }
        response
    }
}

pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response<Answer> {
    whole(status, JSON_TYPE, format!("{value}\n"))
}

pub(super) fn whole(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Answer> {
    let mut response = Response::new(Answer(Some(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
