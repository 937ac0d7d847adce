//! What the gate answers by itself to those it admits.

use http::StatusCode;

use super::body::Body;
use super::context::WorkerContext;
use super::field_text::Legal;
use super::forward::X_REQUEST_ID;
use super::request_id::RequestId;
use super::serve::Answer;
use crate::policy::limit::LimitIx;
use crate::policy::money::Money;
use crate::policy::order::Heard;
use crate::policy::snapshot::Snapshot;

/// A status and nothing else.
pub(super) fn bare(status: StatusCode, request_id: &RequestId) -> Answer {
    let mut answer = Answer::new(status, Body::empty());
    answer.head.fields_mut().add(X_REQUEST_ID.as_str(), request_id.into());
    answer
}

/// `answer: ready` on a public route: for balancers that cannot reach the admin listener.
pub(super) fn readiness(at: &WorkerContext, request_id: &RequestId) -> Answer {
    match at.lifecycle.ready() {
        Ok(()) => json(StatusCode::OK, "{\"ready\":true}".to_owned(), request_id),
        Err(_) => json(StatusCode::SERVICE_UNAVAILABLE, "{\"ready\":false}".to_owned(), request_id),
    }
}

/// `answer: { balance: LIMIT }`: what the caller has left, as a number with all its places; `null` where the limit does
/// not bind it.
pub(super) fn balance(
    policy: &Snapshot,
    of: LimitIx,
    heard: Heard<'_>,
    request_id: &RequestId,
) -> Answer {
    let limit = policy.limit(of);
    let left = heard.of(of);
    let left = left.map_or("null".to_owned(), |line| Money(line.reading.remaining).to_string());
    // The loader keeps units to characters that need no escaping.
    let unit = limit.unit.as_ref().map_or("null".to_owned(), |unit| format!("\"{unit}\""));
    json(StatusCode::OK, format!("{{\"balance\":{left},\"unit\":{unit}}}"), request_id)
}

fn json(status: StatusCode, body: String, request_id: &RequestId) -> Answer {
    let mut answer = Answer::new(status, Body::full(body));
    let fields = answer.head.fields_mut();
    fields.add("content-type", Legal::known(b"application/json"));
    fields.add("cache-control", Legal::known(b"no-store"));
    fields.add(X_REQUEST_ID.as_str(), request_id.into());
    answer
}
