//! The gate's own words for requests that it refuses.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use super::body::Body;
use super::context::WorkerContext;
use super::field_text::Legal;
use super::formula::Formula;
use super::forward::X_REQUEST_ID;
use super::limit_fields::{FieldWords, LimitFields};
use super::request_id::RequestId;
use super::serve::Answer;
use super::wording::{Case, Overrides, is_the_gates};
use crate::clock::Wall;
use crate::policy::answer::{Facts, Figure, Places, Text};
use crate::policy::limit::Mode;
use crate::policy::order::{Heard, Line};
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::report::retry_after_seconds;
use crate::policy::route::{ScopeDemand, ScopeRule};
use crate::policy::snapshot::{RouteIx, Snapshot};

/// Methods that some route of some policy may allow; what `Allow` says where no route was looked up.
const FORWARDABLE: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Everything that the words of a refusal may depend on.
pub(super) struct Refusing<'a> {
    /// Whose words.
    pub(super) policy: &'a Arc<Snapshot>,
    /// Why.
    pub(super) refused: &'a Refused,
    /// The route, where the request came that far.
    pub(super) route: Option<RouteIx>,
    /// What the limits said, where they were asked.
    pub(super) heard: Heard<'a>,
    /// The fields to show of them.
    pub(super) fields: Shown<'a>,
    /// Value of `Allow` on 405, where the path has routes.
    pub(super) allow: Option<&'a str>,
    /// The id of this request.
    pub(super) request_id: &'a RequestId,
    /// The instant of the decision.
    pub(super) now: Wall,
    /// What the caller reads.
    pub(super) reads: Reads,
}

/// What a refusal shows of limits.
#[derive(Clone, Copy)]
pub(super) enum Shown<'a> {
    /// What was heard of them, in these words.
    Heard(&'a Rc<FieldWords>),
    /// What was said of them when the request was decided.
    Decided(&'a LimitFields),
}

/// What a caller reads of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// Status, headers and body.
    Http,
    /// `grpc-status`, in an answer whose head is its trailers.
    Grpc,
}

/// What a refused caller is told.
pub(super) enum Words {
    /// What the one before was told.
    Formula(Rc<Formula>),
    /// Put together for this one.
    Answer(Answer),
}

impl From<Words> for Answer {
    fn from(words: Words) -> Answer {
        match words {
            Words::Formula(formula) => formula.answer(),
            Words::Answer(answer) => answer,
        }
    }
}

/// The answer to a refused request.
pub(super) fn refusal(at: &WorkerContext, refusing: &Refusing<'_>) -> Words {
    let Refusing { policy, refused, request_id, .. } = *refusing;
    let words = policy.answers.to(refused.why);
    let case = case(refusing);
    let mut wordings = at.wordings.borrow_mut();
    let (wording, room) = wordings.of(policy, refused.why, refusing.reads);
    let lines = match refusing.fields {
        Shown::Heard(words) => Some(words.lines(&policy.report, refusing.heard, refusing.now)),
        Shown::Decided(fields) => fields.lines(),
    };
    let made = match request_id {
        RequestId::Made(id) if refusing.allow.is_none() => Some(id),
        RequestId::Made(_) | RequestId::Given(_) | RequestId::Nameless => None,
    };
    if let Some(answer) = made.and_then(|id| wording.again(&case, lines.as_ref(), id)) {
        return Words::Formula(answer);
    }
    let facts = facts(policy, &case, request_id.printable());
    let mut ids = Places::new();
    let mut head = wording.head.copied();
    let fields = head.fields_mut();
    fields.add(X_REQUEST_ID.as_str(), request_id.into());
    if words.status == StatusCode::FORBIDDEN
        && refused.why == Refusal::ScopeDenied
        && let Some(scope) = facts.scope
        && let Some(challenge) = policy.credentials.challenges.to_unscoped(scope)
    {
        fields.add_text("www-authenticate", &challenge);
    }
    if let Some(seconds) = facts.retry_after.filter(|_| policy.report.retry_after) {
        fields.add_number("retry-after", seconds);
    }
    if words.status == StatusCode::METHOD_NOT_ALLOWED {
        fields.add_text("allow", &[refusing.allow.unwrap_or(FORWARDABLE)]);
    }
    if let Some(lines) = &lines {
        lines.say(fields);
    }
    for (name, text) in &words.headers {
        let fixed = matches!(text, Text::Fixed(_));
        let said = fixed && wording.overrides == Overrides::None;
        if said || is_the_gates(name, refusing.reads) {
            continue;
        }
        if let Some(value) = Legal::of(&text.render(&facts, room, &mut ids)) {
            fields.insert(name.as_str(), value);
        }
    }
    let in_fields = ids.len();
    let body = match refusing.reads {
        Reads::Http => words.body.render(&facts, room, &mut ids),
        Reads::Grpc => Bytes::new(),
    };
    if !body.is_empty() {
        // Here, and not for each answer that is the same but for its id: 150 instructions.
        head.fields_mut().add_number("content-length", body.len() as u64);
    }
    if made.is_some() && in_fields == 0 {
        wording.remember(case, lines.as_ref(), &head, &body, &ids);
    }
    Words::Answer(Answer { head, body: Body::full(body) })
}

/// The answer where no request was decided: its head cannot be read, or the gate failed on it.
pub(super) fn unasked(at: &WorkerContext, refused: &Refused) -> Answer {
    let policy = at.policy.load();
    let (_, request_id) = at.next_id();
    at.metrics.refusal(None, refused.why, None, Mode::Enforce);
    let refusing = Refusing {
        policy: &policy,
        refused,
        route: None,
        heard: Heard::default(),
        fields: Shown::Decided(&LimitFields::default()),
        allow: None,
        request_id: &request_id,
        now: at.clock.now().wall,
        reads: Reads::Http,
    };
    refusal(at, &refusing).into()
}

/// What the words follow from.
fn case(refusing: &Refusing<'_>) -> Case {
    let Refusing { policy: _, refused, heard, now, .. } = *refusing;
    let line = refused.limit.and_then(|limit| heard.of(limit));
    let figure = |line: Line<'_>, units| Figure::of(line.ask.ceiling.window.kind(), units);
    Case {
        route: refusing.route,
        limit: refused.limit,
        ceiling: line.map(|line| figure(line, line.reading.whole)),
        remaining: line.map(|line| figure(line, line.reading.remaining)),
        retry_after: retry_after(refused),
        reset: refused.wait.map(|wait| now.plus_nanos(wait).unix_seconds_up()),
    }
}

fn facts<'a>(policy: &'a Snapshot, case: &Case, request_id: &'a [u8]) -> Facts<'a> {
    Facts {
        retry_after: case.retry_after,
        reset: case.reset,
        limit: case.limit.map(|ix| &*policy.limit(ix).name),
        ceiling: case.ceiling,
        remaining: case.remaining,
        scope: demanded_scope(policy, case.route),
        route: case.route.map(|ix| &*policy.route(ix).name),
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
