//! What the refusals of one policy say whoever is refused, worded once and remembered with a worker; and the latest answer
//! of each kind, which is nearly always the next one but for its id.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};

use super::answer::Head;
use super::field_text::Legal;
use super::formula::Formula;
use super::limit_fields::{Edition, LimitLines};
use super::made_of::MadeOf;
use super::respond::Reads;
use crate::policy::answer::{Figure, Text};
use crate::policy::limit::LimitIx;
use crate::policy::refusal::Refusal;
use crate::policy::report::Spelling;
use crate::policy::snapshot::{RouteIx, Snapshot};
use crate::telemetry::decision_id::RequestId;

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
    spelling: Spelling,
    latest: Option<Latest>,
}

/// What the words of a refusal follow from, besides its kind, the policy and the id of the request.
#[derive(Debug, PartialEq)]
pub(super) struct Case {
    /// The route, where the request came that far.
    pub(super) route: Option<RouteIx>,
    /// The limit that refused.
    pub(super) limit: Option<LimitIx>,
    /// Its units.
    pub(super) ceiling: Option<Figure>,
    /// What is left of it.
    pub(super) remaining: Option<Figure>,
    /// Whole seconds after which trying again makes sense.
    pub(super) retry_after: Option<u64>,
    /// Unix seconds at which the limit admits again.
    pub(super) reset: Option<i64>,
}

/// The latest case, and the answer to it as soon as it comes a second time: floods are of one case, but callers that are refused
/// in turn would each forget the other's.
#[derive(Debug)]
struct Latest {
    case: Case,
    /// What limits say on the answer.
    fields: Option<Edition>,
    /// An answer is mostly sent before the next one is given, which then has its memory: only the id is written. Some 300
    /// instructions fewer than a copy.
    formula: Option<Rc<Formula>>,
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
    ) -> (&mut Wording, &mut Vec<u8>) {
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
        let overrides = if ours { Overrides::Some } else { Overrides::None };
        Wording { head, overrides, spelling: policy.report.spelling, latest: None }
    }

    /// The answer to the latest case once more, for a request with this id: 1 200 instructions fewer than to put it together.
    pub(super) fn again(
        &mut self,
        case: &Case,
        fields: Option<&LimitLines<'_>>,
        id: &RequestId,
    ) -> Option<Rc<Formula>> {
        let latest = self.latest.as_mut().filter(|latest| latest.is_of(case, fields))?;
        let formula = latest.formula.as_mut()?;
        Rc::make_mut(formula).say_to(id);
        Some(Rc::clone(formula))
    }

    /// Remembers the answer to a case, if it is the second time that this one comes. `ids` says where in the body the id of
    /// its request begins.
    pub(super) fn remember(
        &mut self,
        case: Case,
        fields: Option<&LimitLines<'_>>,
        head: &Head,
        body: &Bytes,
        ids: &[usize],
    ) {
        // Where the policy words a field of the gate's, the id may be anywhere.
        if self.overrides == Overrides::Some {
            return;
        }
        match &mut self.latest {
            Some(latest) if latest.is_of(&case, fields) => {
                let mut head = head.copied();
                head.spell(self.spelling);
                latest.formula = Formula::of(&head, body, ids).map(Rc::new);
            }
            _ => {
                let fields = fields.map(LimitLines::edition);
                self.latest = Some(Latest { case, fields, formula: None });
            }
        }
    }
}

impl Latest {
    #[inline]
    fn is_of(&self, case: &Case, fields: Option<&LimitLines<'_>>) -> bool {
        let same_fields = match (&self.fields, fields) {
            (Some(edition), Some(fields)) => fields.say_as(edition),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_fields && self.case == *case
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::super::answer::Answer;
    use super::super::body::Body;
    use super::*;
    use crate::clock::Wall;
    use crate::config::{self, Overrides as Flags, Sources};
    use crate::telemetry::decision_id::{BootId, DecisionIds};

    /// A policy without keys, with this behind its routes: `open` is public, at `/open`.
    pub(in super::super) fn policy(rest: &str) -> Arc<Snapshot> {
        let text = format!(
            "version: 1\nupstream: http://127.0.0.1:9\nstate: memory\ncredentials: {{ keys: k.yaml }}\n\
             routes: [{{ name: open, match: GET /open, public: true }}]\n{rest}"
        );
        let read = move |path: &Path| {
            Ok(if path.ends_with("k.yaml") { b"[]".to_vec() } else { text.clone().into_bytes() })
        };
        let sources = Sources {
            read: &read,
            open: None,
            list: &|_| Ok(Vec::new()),
            env: &|_| None,
            breathe: &|| (),
        };
        let loaded = config::load(Path::new("p.yaml"), &Flags::default(), &sources, Wall(0), None);
        Arc::new(loaded.unwrap_or_else(|problems| panic!("{problems}")).snapshot)
    }

    fn field(wording: &Wording, name: &str) -> Option<String> {
        let value = wording.head.fields().first(name)?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    fn case(retry_after: Option<u64>) -> Case {
        Case { route: None, limit: None, ceiling: None, remaining: None, retry_after, reset: None }
    }

    #[test]
    fn a_refusal_is_worded_as_the_policy_in_force_has_it() {
        let mut wordings = Wordings::default();
        for (errors, why, status, overrides) in [
            ("", Refusal::KeyUnknown, 401, Overrides::None),
            (
                "errors: { on: { key_unknown: { status: 404 } } }",
                Refusal::KeyUnknown,
                404,
                Overrides::None,
            ),
            ("errors: { headers: { X-A: b } }", Refusal::Rate, 429, Overrides::None),
            ("errors: { headers: { Retry-After: \"9\" } }", Refusal::Rate, 429, Overrides::Some),
        ] {
            let policy = policy(errors);
            let (wording, _) = wordings.of(&policy, why, Reads::Http);
            assert_eq!((wording.head.status().as_u16(), wording.overrides), (status, overrides));
            assert_eq!(field(wording, "x-a").is_some(), errors.contains("X-A"));
            assert_eq!(field(wording, "www-authenticate").is_some(), status == 401);
            assert_eq!(field(wording, "cache-control").as_deref(), Some("no-store"));
        }
    }

    #[test]
    fn who_speaks_grpc_reads_its_status_and_the_code() {
        let policy = policy("errors: { on: { rate: { code: \"50% gone\" } } }");
        let wording = Wording::new(&policy, Refusal::Rate, Reads::Grpc);
        assert_eq!(wording.head.status(), StatusCode::OK);
        assert_eq!(field(&wording, "grpc-message").as_deref(), Some("50%25 gone"));
        assert_eq!(field(&wording, "grpc-status").as_deref(), Some("8"));
        assert_eq!(field(&wording, "content-type").as_deref(), Some("application/grpc"));
    }

    #[test]
    fn an_answer_is_given_again_to_the_same_case_alone_and_with_the_id_of_its_own_request() {
        let mut ids = DecisionIds::new(BootId::from_bytes([7; 24]), 0);
        let mut next_id = || {
            let id = ids.next_id();
            ids.request_id(id)
        };
        let mut wording = Wording::new(&policy(""), Refusal::Rate, Reads::Http);
        let (first, second) = (next_id(), next_id());
        let mut head = wording.head.copied();
        head.fields_mut().add("x-request-id", Legal::known(first.as_bytes()));
        let body = Bytes::from(format!("{{\"id\":\"{}\"}}", first.as_str()));
        head.fields_mut().add_number("content-length", body.len() as u64);
        let places = [7];
        for times in 0..3 {
            let again = wording.again(&case(Some(1)), None, &second);
            assert_eq!(again.is_some(), times == 2, "remembered the second time");
            wording.remember(case(Some(1)), None, &head, &body, &places);
        }
        let again = wording.again(&case(Some(1)), None, &second).unwrap();
        let mut again: Answer<Body> = again.answer();
        assert_eq!(again.head.fields().first("x-request-id"), Some(second.as_bytes()));
        assert_eq!(again.body.take_full(), format!("{{\"id\":\"{}\"}}", second.as_str()));
        assert!(wording.again(&case(Some(2)), None, &second).is_none());
        assert!(wording.again(&case(None), None, &second).is_none());
    }

    #[test]
    fn nothing_is_given_again_where_the_policy_words_a_field_of_the_gates() {
        let policy = policy("errors: { headers: { X-Request-Id: none } }");
        let mut wording = Wording::new(&policy, Refusal::Rate, Reads::Http);
        let head = wording.head.copied();
        for _ in 0..2 {
            wording.remember(case(None), None, &head, &Bytes::new(), &[]);
        }
        assert!(wording.latest.is_none());
    }
}
