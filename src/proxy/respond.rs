//! The gate's own answers, and the fields that every answer to a limited request carries.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::body::Body;
use super::context::WorkerContext;
use super::exchange::Exchange;
use super::forward::X_REQUEST_ID;
use super::refrain::LimitRefrain;
use crate::clock::Wall;
use crate::policy::answer::{Facts, Figure};
use crate::policy::decimal::write_count;
use crate::policy::limit::Mode;
use crate::policy::order::Reading;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::report::{Report, Spelling, XFields, retry_after_seconds, state_member};
use crate::policy::route::{ScopeDemand, ScopeRule};
use crate::policy::snapshot::{RouteIx, Snapshot};

static X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Methods that some route of some policy may allow; what `Allow` says where no route was looked up.
const FORWARDABLE: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What limits say on an answer. Rendered when the request is decided, so that it outlives the snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct LimitFields {
    /// How the names of all of the gate's fields are written, limits or not.
    pub(super) spelling: Spelling,
    /// Limit, remaining, reset.
    x: Option<[HeaderValue; 3]>,
    /// Policy, state.
    ietf: Option<[HeaderValue; 2]>,
}

impl LimitFields {
    /// The fields for these readings, of which `refrain` is what is always said. All values share one buffer: each by
    /// itself would be two allocations.
    pub(super) fn new(
        report: &Report,
        refrain: &mut LimitRefrain,
        readings: &[Reading],
        now: Wall,
    ) -> LimitFields {
        let mut fields = LimitFields { spelling: report.spelling, x: None, ietf: None };
        let x = report.x_fields(readings, now);
        if x.is_none() && refrain.policy_field.is_none() {
            return fields;
        }
        let mut text = Vec::with_capacity(64 + 40 * readings.len());
        if refrain.policy_field.is_some() {
            for (words, reading) in refrain.limits.iter().zip(readings) {
                if reading.mode == Mode::Enforce {
                    state_member(&mut text, &words.state, reading);
                }
            }
        }
        let after_state = text.len();
        if let Some(x) = &x {
            write_count(&mut text, x.remaining);
        }
        let text = Bytes::from(text);
        let value = |from, to| HeaderValue::from_maybe_shared(text.slice(from..to)).ok();
        fields.ietf = refrain.policy_field.as_ref().and_then(|policy| {
            let state = value(0, after_state)?;
            Some([policy.clone(), state])
        });
        fields.x = x.and_then(|XFields { shown, remaining: _, reset }| {
            let limit = refrain.limits.get(shown)?.most.clone();
            let remaining = value(after_state, text.len())?;
            Some([limit, remaining, refrain.reset(u64::try_from(reset).unwrap_or(0))])
        });
        fields
    }

    /// Moves the fields to the answer, over whatever the backend said of limits of its own under the `X-` names.
    pub(super) fn give(&mut self, headers: &mut HeaderMap) {
        if let Some([limit, remaining, reset]) = self.x.take() {
            headers.insert(&X_RATELIMIT_LIMIT, limit);
            headers.insert(&X_RATELIMIT_REMAINING, remaining);
            headers.insert(&X_RATELIMIT_RESET, reset);
        }
        // The draft forbids an intermediary to remove the backend's own: ours are further list members.
        if let Some([policy, state]) = self.ietf.take() {
            headers.append(&RATELIMIT_POLICY, policy);
            headers.append(&RATELIMIT, state);
        }
    }
}

/// Everything that the words of a refusal may depend on.
pub(super) struct Refusing<'a> {
    /// Whose words.
    pub(super) policy: &'a Snapshot,
    /// Why.
    pub(super) refused: &'a Refused,
    /// The route, where the request came that far.
    pub(super) route: Option<RouteIx>,
    /// What the limits said, where they were asked.
    pub(super) readings: &'a [Reading],
    /// The fields to show of them.
    pub(super) fields: &'a mut LimitFields,
    /// Value of `Allow` on 405, where the path has routes.
    pub(super) allow: Option<&'a str>,
    /// The id of this request.
    pub(super) request_id: &'a HeaderValue,
    /// The instant of the decision.
    pub(super) now: Wall,
    /// What the caller reads.
    pub(super) reads: Reads,
}

/// What a caller reads of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// Status, headers and body.
    Http,
    /// `grpc-status`, in an answer whose head is its trailers.
    Grpc,
}

/// The answer to a refused request. Its fields take the room of `room`, the request's own where there is one: a map of their
/// own would be allocated and grown twice, a thousand instructions.
pub(super) fn refusal(
    refusing: &mut Refusing<'_>,
    mut room: HeaderMap,
) -> Response<Body<Exchange>> {
    let Refusing { policy, refused, request_id, .. } = *refusing;
    let answer = policy.answers.to(refused.why);
    let request_id_text = request_id.to_str().unwrap_or("");
    let facts = facts(refusing, request_id_text);

    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status;
    room.clear();
    *response.headers_mut() = room;
    let headers = response.headers_mut();
    headers.insert(&X_REQUEST_ID, request_id.clone());
    headers.insert(header::CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
    if let Some(challenge) = challenge(refusing, answer.status) {
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = facts.retry_after.filter(|_| policy.report.retry_after) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        let allow = HeaderValue::from_str(refusing.allow.unwrap_or(FORWARDABLE));
        headers.insert(header::ALLOW, allow.unwrap_or(HeaderValue::from_static(FORWARDABLE)));
    }
    refusing.fields.give(headers);
    for (name, text) in &answer.headers {
        if let Ok(value) = HeaderValue::from_maybe_shared(text.render(&facts)) {
            headers.insert(name, value);
        }
    }
    match refusing.reads {
        Reads::Http => {
            headers.insert(header::CONTENT_TYPE, answer.content_type.clone());
            *response.body_mut() = Body::full(answer.body.render(&facts));
        }
        Reads::Grpc => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(&GRPC_STATUS, HeaderValue::from(u16::from(refused.why.grpc_status())));
            headers.insert(&GRPC_MESSAGE, grpc_message(&answer.code));
            *response.status_mut() = StatusCode::OK;
        }
    }
    response
}

/// The answer where no request was decided: its head cannot be read, or the gate failed on it.
pub(super) fn unasked(at: &WorkerContext, refused: &Refused) -> Response<Body<Exchange>> {
    let policy = at.policy.load();
    let (_, request_id) = at.next_id();
    at.metrics.refusal(None, refused.why, None, Mode::Enforce);
    let mut refusing = Refusing {
        policy: &policy,
        refused,
        route: None,
        readings: &[],
        fields: &mut LimitFields::default(),
        allow: None,
        request_id: &request_id,
        now: at.clock.now().wall,
        reads: Reads::Http,
    };
    refusal(&mut refusing, HeaderMap::new())
}

fn facts<'a>(refusing: &Refusing<'a>, request_id: &'a str) -> Facts<'a> {
    let Refusing { policy, refused, .. } = refusing;
    let reading = refusing.readings.iter().find(|reading| Some(reading.limit) == refused.limit);
    let retry_after = retry_after(refused);
    let figure = |reading: &Reading, units| Figure::of(reading.ceiling.window.kind(), units);
    Facts {
        retry_after,
        reset: refused.wait.map(|wait| refusing.now.plus_nanos(wait).unix_seconds_up()),
        limit: refused.limit.map(|ix| &*policy.limit(ix).name),
        ceiling: reading.map(|reading| figure(reading, reading.ceiling.whole())),
        remaining: reading.map(|reading| figure(reading, reading.remaining)),
        scope: demanded_scope(policy, refusing.route),
        route: refusing.route.map(|ix| &*policy.route(ix).name),
        request_id,
    }
}

/// Seconds after which trying again makes sense; `None` where time does not help.
fn retry_after(refused: &Refused) -> Option<u64> {
    match refused.why {
        Refusal::Overloaded
        | Refusal::StoreUnavailable
        | Refusal::Draining
        | Refusal::IdempotencyFull => Some(1),
        _ => refused.wait.map(retry_after_seconds),
    }
}

pub(super) fn demanded_scope(policy: &Snapshot, route: Option<RouteIx>) -> Option<&str> {
    let ScopeRule { demand, .. } = policy.route(route?).scope.as_ref()?;
    let (ScopeDemand::Any(scopes) | ScopeDemand::All(scopes)) = demand;
    scopes.first().map(|ix| &*policy.scopes[ix.0 as usize])
}

/// How to authenticate, or what the key lacks.
fn challenge(refusing: &Refusing<'_>, status: StatusCode) -> Option<HeaderValue> {
    let challenges = &refusing.policy.credentials.challenges;
    match (status, refusing.refused.why) {
        (StatusCode::UNAUTHORIZED, why) => challenges.to_unknown(why),
        (StatusCode::FORBIDDEN, Refusal::ScopeDenied) => {
            challenges.to_unscoped(demanded_scope(refusing.policy, refusing.route)?)
        }
        _ => None,
    }
}

/// The code, percent-encoded where gRPC demands it.
fn grpc_message(code: &str) -> HeaderValue {
    let encoded: String = code
        .bytes()
        .map(|byte| match byte {
            b'%' => "%25".to_owned(),
            0x20..0x7f => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    HeaderValue::try_from(encoded).unwrap_or(HeaderValue::from_static("refused"))
}
