//! Idempotency keys on the way of a request: the claim that it makes, and the answer that a repeat gets.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;

use super::answer::Head;
use super::body::Body;
use super::field_text::{Legal, is_token};
use super::request_body::{BodyFate, RequestBody};
use super::serve::Answer;
use crate::policy::authenticate::Caller;
use crate::policy::head;
use crate::policy::idempotency::{
    BodyPrint, Demand, HeadPrint, IDEMPOTENT_REPLAYED, KeyText, Malformed, RecordId,
};
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::{Route, Snapshot};
use crate::store::{Claim, KeptAnswer};

/// Fields of an answer that are of its own moment, hop or connection, and say nothing on a later one.
const MOMENTARY: [&str; 13] = [
    "age",
    "connection",
    "content-length",
    "date",
    "retry-after",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "ratelimit",
    "ratelimit-policy",
    "x-request-id",
];

/// The claim that this request makes; `None` where its route knows no idempotency keys, or it brings none and need not.
pub(super) fn claim(
    policy: &Snapshot,
    route: &Route,
    caller: Option<&Caller>,
    head: &head::Head<'_>,
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
pub(super) fn kept_head(head: &Head) -> KeptAnswer {
    let matters = |name: &str| !MOMENTARY.contains(&name) && !name.starts_with("x-ratelimit-");
    let fields = head
        .fields()
        .iter()
        .filter(|line| matters(line.name))
        .map(|line| (line.name.into(), Bytes::copy_from_slice(line.value)))
        .collect();
    KeptAnswer { status: head.status().as_u16(), fields, body: Bytes::new() }
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
    pub(super) fn answer(&self) -> Answer {
        let kept = &*self.answer;
        let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
        let mut answer = Answer::new(status, Body::full(kept.body.clone()));
        let fields = answer.head.fields_mut();
        for (name, value) in &kept.fields {
            // Read back from a file, they are as strange as a client's.
            if let Some(value) = Legal::of(value).filter(|_| is_token(name)) {
                fields.add(name, value);
            }
        }
        fields.insert(IDEMPOTENT_REPLAYED.as_str(), Legal::known(b"true"));
        answer
    }
}
