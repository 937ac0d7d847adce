//! What the refusals of one policy say whoever is refused, worded once and remembered with a worker.

use std::sync::Arc;

use http::StatusCode;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};

use super::answer::Head;
use super::field_text::Legal;
use super::made_of::MadeOf;
use super::respond::Reads;
use crate::policy::answer::Text;
use crate::policy::refusal::Refusal;
use crate::policy::snapshot::Snapshot;

/// What a worker's refusals have in common.
#[derive(Debug, Default)]
pub(super) struct Wordings {
    policy: MadeOf,
    http: Vec<Option<Wording>>,
    grpc: Vec<Option<Wording>>,
    /// Where texts are put together.
    room: Vec<u8>,
}

/// What all answers with one refusal have in common.
#[derive(Debug)]
pub(super) struct Wording {
    /// The status, and every field that no request changes.
    pub(super) head: Head,
    /// Whether the policy has words of its own for a field in which the gate speaks of a request.
    pub(super) overrides: Overrides,
}

/// Whether a policy's own fields take the place of those that the gate words for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overrides {
    /// They are all others.
    None,
    /// Some do.
    Some,
}

impl Wordings {
    /// The words for this refusal, and the room in which the rest is put together.
    pub(super) fn of(
        &mut self,
        policy: &Arc<Snapshot>,
        why: Refusal,
        reads: Reads,
    ) -> (&Wording, &mut Vec<u8>) {
        if self.policy.was_another(policy) {
            for all in [&mut self.http, &mut self.grpc] {
                all.clear();
                all.resize_with(Refusal::ALL.len(), || None);
            }
        }
        let all = match reads {
            Reads::Http => &mut self.http,
            Reads::Grpc => &mut self.grpc,
        };
        let wording = all[why as usize].get_or_insert_with(|| Wording::new(policy, why, reads));
        (wording, &mut self.room)
    }
}

impl Wording {
    fn new(policy: &Snapshot, why: Refusal, reads: Reads) -> Wording {
        let answer = policy.answers.to(why);
        let status = match reads {
            Reads::Http => answer.status,
            Reads::Grpc => StatusCode::OK,
        };
        let mut head = Head::new(status);
        let fields = head.fields_mut();
        fields.insert(CACHE_CONTROL.as_str(), Legal::known(b"no-store"));
        if answer.status == StatusCode::UNAUTHORIZED
            && let Some(challenge) = policy.credentials.challenges.to_unknown(why)
        {
            fields.insert(WWW_AUTHENTICATE.as_str(), challenge.into());
        }
        for (name, text) in &answer.headers {
            if let Text::Fixed(value) = text
                && let Some(value) = Legal::of(value)
            {
                fields.insert(name.as_str(), value);
            }
        }
        match reads {
            Reads::Http => fields.insert(CONTENT_TYPE.as_str(), (&answer.content_type).into()),
            Reads::Grpc => {
                fields.insert(CONTENT_TYPE.as_str(), Legal::known(b"application/grpc"));
                fields.add_number("grpc-status", u64::from(u16::from(why.grpc_status())));
                fields.insert("grpc-message", (&grpc_message(&answer.code)).into());
            }
        }
        let ours = answer.headers.iter().any(|(name, _)| speaks_of_a_request(name));
        Wording { head, overrides: if ours { Overrides::Some } else { Overrides::None } }
    }
}

/// Whether the gate has the last word on this field of a refusal.
pub(super) fn is_the_gates(name: &HeaderName, reads: Reads) -> bool {
    *name == CONTENT_TYPE || (reads == Reads::Grpc && name.as_str().starts_with("grpc-"))
}

/// Whether the gate says this field of a refused request by itself.
fn speaks_of_a_request(name: &HeaderName) -> bool {
    matches!(*name, ALLOW | RETRY_AFTER | WWW_AUTHENTICATE)
        || name == "x-request-id"
        || name.as_str().contains("ratelimit")
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
