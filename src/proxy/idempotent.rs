//! Idempotency keys on the way of a request: the claim that it makes, and the answer that a repeat gets.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode, response};
use http_body::Body as _;

use super::body::Body;
use super::exchange::Exchange;
use super::request_body::{BodyFate, RequestBody};
use crate::policy::authenticate::Caller;
use crate::policy::head::Head;
use crate::policy::idempotency::{
    BodyPrint, Demand, HeadPrint, IDEMPOTENT_REPLAYED, KeyText, Malformed, RecordId,
};
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::{Route, Snapshot};
use crate::store::{Claim, KeptAnswer};

/// Fields of an answer that are of its own moment, hop or connection, and say nothing on a later one.
const MOMENTARY: [HeaderName; 13] = [
    header::AGE,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-request-id"),
];

/// The claim that this request makes; `None` where its route knows no idempotency keys, or it brings none and need not.
pub(super) fn claim(
    policy: &Snapshot,
    route: &Route,
    caller: Option<Caller>,
    head: &Head<'_>,
) -> Result<Option<Claim>, Refused> {
    let (Some(rule), Some(caller)) = (&route.idempotency, caller) else { return Ok(None) };
    let key = match KeyText::of(head.seen.idempotency_key) {
        Ok(Some(key)) => key,
        Ok(None) => {
            return match rule.demand {
                Demand::Accept => Ok(None),
                Demand::Require => Err(Refused::because(
                    Refusal::IdempotencyRequired,
                    "the route demands an Idempotency-Key",
                )),
            };
        }
        Err(Malformed(detail)) => {
            return Err(Refused::because(Refusal::IdempotencyMalformed, detail));
        }
    };
    let tenant = policy.tenant(caller.tenant).subject;
    Ok(Some(Claim {
        id: RecordId::of(tenant, &key),
        tenant,
        head: HeadPrint::of(head, &policy.credentials),
        keep: rule.keep,
        on_unknown: rule.on_unknown,
    }))
}

/// The head of an answer as it is kept.
pub(super) fn kept_head(head: &response::Parts) -> KeptAnswer {
    let matters =
        |name: &HeaderName| !MOMENTARY.contains(name) && !name.as_str().starts_with("x-ratelimit-");
    let fields = head
        .headers
        .iter()
        .filter(|(name, _)| matters(name))
        .map(|(name, value)| (name.as_str().into(), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    KeptAnswer { status: head.status.as_u16(), fields, body: Bytes::new() }
}

/// A request that was made before: its answer is here, for a body with this print.
pub(super) struct Repeat {
    /// The answer.
    pub(super) answer: Arc<KeptAnswer>,
    /// The first request's body.
    pub(super) print: BodyPrint,
}

/// Whether a repeat's body is the first one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// To the byte.
    Same,
    /// It is another.
    Other,
    /// It did not arrive whole.
    Broken(BodyFate),
}

impl Repeat {
    /// Reads the repeat's body, no further than the first one's length, and compares.
    pub(super) async fn compare(&self, mut body: RequestBody) -> Compared {
        let watch = body.watch();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            if frame.is_err() {
                return match watch.fate() {
                    BodyFate::TooLarge => Compared::Other,
                    fate => Compared::Broken(fate),
                };
            }
        }
        if watch.print() == Some(self.print) { Compared::Same } else { Compared::Other }
    }

    /// The first answer once more.
    pub(super) fn answer(&self) -> Response<Body<Exchange>> {
        let mut response = Response::new(Body::full(self.answer.body.clone()));
        *response.status_mut() = StatusCode::from_u16(self.answer.status).unwrap_or(StatusCode::OK);
        let headers = response.headers_mut();
        for (name, value) in &self.answer.fields {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_maybe_shared(value.clone()),
            ) {
                headers.append(name, value);
            }
        }
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        response
    }
}
