//! The way of a request. This file is the only place that knows the whole order; each step is decided elsewhere.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use super::asking::Binding;
use super::body::Body;
use super::client_body::ClientBody;
use super::commit::commit;
use super::context::WorkerContext;
use super::depart::{Written, ready_to_leave};
use super::exchange::{Decided, Exchange, Worded};
use super::forward::Wish;
use super::here;
use super::idempotent::{Compared, Repeat};
use super::identify::identify;
use super::opening::{look_at, open};
use super::passage;
use super::peer::{AtHand, Coming, Peer};
use super::pool::{Departure, Pool};
use super::request_body::RequestBody;
use super::request_id::RequestId;
use super::respond::{Reads, Refusing, Shown, Words, refusal};
use crate::clock::Now;
use crate::policy::authenticate::{Caller, approach};
use crate::policy::authorize::Permit;
use crate::policy::charge::ChargeRule;
use crate::policy::fields::{Lines, printable};
use crate::policy::head::{Head, Seen, Unchecked};
use crate::policy::keys::{KeyIx, SecretDigest};
use crate::policy::limit::LimitIx;
use crate::policy::order::{Heard, Readings};
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::route::Routed;
use crate::policy::snapshot::{OnRevoke, RouteIx, Snapshot};
use crate::store::{Party, Reservation};
use crate::telemetry::metrics::IdempotencyOutcome;

/// An answer on its way out; the exchange hangs on the end of its body.
pub(super) type Answer = super::answer::Answer<Body<Exchange>>;

/// Answers one request. Step 1, accepting, is the connection's. Steps 2 to 7 wait for nothing, so only what follows them
/// is a future: what is moved about is small, and a refusal is none at all.
pub(super) fn serve(
    at: Rc<WorkerContext>,
    peer: Rc<Peer>,
    unchecked: &Unchecked<'_>,
    body: ClientBody,
    at_hand: &mut AtHand<Exchange>,
) -> Option<Coming<Exchange>> {
    let now = at.clock.now();
    let mut exchange = Exchange::begin(&at, now);
    match decide(&at, &peer, unchecked, now, (&mut exchange, at_hand)) {
        Decision::Here => {
            exchange.answered(at_hand);
            None
        }
        Decision::Replay(repeat, idle) => Some(Box::pin(replay(at, exchange, repeat, idle, body))),
        Decision::Pass(head, mut admission) => Some(if let Some(party) = admission.party.take() {
            Box::pin(promise(at, peer, (head, body), admission, exchange, party))
        } else {
            exchange.committed();
            forward(at, peer, (head, body), admission, exchange)
        }),
    }
}

/// Step 8, and what follows.
async fn promise(
    at: Rc<WorkerContext>,
    peer: Rc<Peer>,
    request: (Written, ClientBody),
    admission: Box<Admission>,
    mut exchange: Exchange,
    party: Box<Party>,
) -> Answer {
    let committed = Box::pin(commit(&at, &mut exchange, *party)).await;
    if let Err(refused) = committed {
        let answer = late_refusal(&at, &mut exchange, &refused);
        return exchange.failed(&refused, answer);
    }
    forward(at, peer, request, admission, exchange).await
}

/// Step 9; 10 settle and 11 record hang on the exchange, which travels with the answer's body.
fn forward(
    at: Rc<WorkerContext>,
    peer: Rc<Peer>,
    (head, body): (Written, ClientBody),
    admission: Box<Admission>,
    exchange: Exchange,
) -> Coming<Exchange> {
    let upgrade = match admission.wish {
        Wish::Upgrade => body.upgrading(),
        Wish::Http => None,
    };
    let interims = body.interims();
    let body = RequestBody::new(body, admission.max_body, admission.body_idle).held_to(&at);
    let body = match admission.keep_answer {
        Some(_) => body.printed(),
        None => body,
    };
    let departure = match head {
        Written::Http1(head) => Departure::Http1(head.telling(interims), body),
        Written::Http2(head) => Departure::Http2(head, body),
    };
    if exchange.held().is_some_and(Reservation::holds_promise) {
        Box::pin(passage::pass_in_any_case(at, peer, departure, upgrade, admission, exchange))
    } else {
        Box::pin(passage::pass(at, peer, departure, upgrade, admission, exchange))
    }
}

/// Step 7's end for a repeat: the first answer once more, if its body is the first one's too.
async fn replay(
    at: Rc<WorkerContext>,
    mut exchange: Exchange,
    repeat: Repeat,
    idle: Duration,
    body: ClientBody,
) -> Answer {
    let body = RequestBody::new(body, Some(repeat.print.bytes), idle).printed();
    let refused = match repeat.compare(body).await {
        Compared::Same => return exchange.replayed(repeat.answer()),
        Compared::Other => {
            Refused::because(Refusal::IdempotencyMismatch, "the first request had another body")
        }
        Compared::Broken(fate) => passage::blamed_on_body(fate)
            .unwrap_or(Refused::because(Refusal::BadRequest, "the request's body did not arrive")),
    };
    let answer = late_refusal(&at, &mut exchange, &refused);
    exchange.failed(&refused, answer)
}

fn length(line: &[u8]) -> Option<u64> {
    printable(line)?.parse().ok()
}

/// What lives on of a decision when the policy it was made under is let go.
pub(super) struct Admission {
    /// Whether the client asks for a tunnel.
    pub(super) wish: Wish,
    /// Time to the head of the upstream's answer.
    pub(super) response_timeout: Duration,
    /// Longest silence inside the request's body.
    pub(super) body_idle: Duration,
    /// Largest request body.
    pub(super) max_body: Option<u64>,
    /// What becomes of the exchange when its key is revoked.
    pub(super) on_revoke: OnRevoke,
    /// The secret of who asked, by which an exchange that is open for long is looked up again after a reload.
    pub(super) secret: Option<SecretDigest>,
    /// The route's stable place.
    pub(super) route: u32,
    /// From where.
    pub(super) client: IpAddr,
    /// The connections it goes out by.
    pub(super) pool: Rc<Pool>,
    /// Who asked, in words, where something must be durable first.
    pub(super) party: Option<Box<Party>>,
    /// What it costs, where it holds money or a claim.
    pub(super) charge: Option<Arc<ChargeRule>>,
    /// Where it holds a claim: the most bytes of an answer's body that are kept.
    pub(super) keep_answer: Option<usize>,
}

/// The inputs of a decision, as far as it came; what the record holds of it.
pub(super) struct Facts {
    pub(super) client: IpAddr,
    pub(super) route: Option<RouteIx>,
    pub(super) key: Option<KeyIx>,
    pub(super) caller: Option<Caller>,
    /// What its limits are asked, as soon as they are.
    pub(super) binding: Option<Rc<Binding>>,
    /// What they said.
    pub(super) readings: Readings,
    pub(super) asked: Asked,
    pub(super) shadowed: Vec<Refusal>,
    /// What its idempotency key came to.
    pub(super) idempotency: Option<IdempotencyOutcome>,
    allow: Option<String>,
}

impl Facts {
    /// What its limits were asked, and what they said.
    pub(super) fn heard(&self) -> Heard<'_> {
        let asks =
            self.binding.as_deref().map_or([].as_slice(), |binding| binding.asks().as_slice());
        Heard { asks, readings: &self.readings }
    }
}

/// What becomes of a request.
enum Decision {
    /// It goes on to the upstream.
    Pass(Written, Box<Admission>),
    /// The gate answers it by itself, with what is at hand.
    Here,
    /// It was made before: its body, with at most so much silence in it, is compared with the first one's.
    Replay(Repeat, Duration),
}

/// What readings are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// They decided.
    Decided,
    /// They were only looked at, for what an answer shows: the request was refused before its limits were asked.
    Peeked,
}

/// Steps 2 to 7, and the head of step 9, under one policy and without waiting for anything. The gate's own answer is `at_hand`
/// then.
fn decide(
    at: &WorkerContext,
    peer: &Peer,
    head: &Unchecked<'_>,
    now: Now,
    (exchange, at_hand): (&mut Exchange, &mut AtHand<Exchange>),
) -> Decision {
    let policy = at.policy.load();
    let mut facts = Facts {
        client: peer.address(),
        route: None,
        key: None,
        caller: None,
        binding: None,
        readings: Readings::new(),
        asked: Asked::Decided,
        shadowed: Vec::new(),
        idempotency: None,
        allow: None,
    };
    let seen = Seen::of(head.fields);
    let reads = if seen.is_grpc() { Reads::Grpc } else { Reads::Http };
    let (id, made) = at.next_id();
    let given =
        seen.request_id.first().filter(|_| policy.client_address.trusts_fields(peer.address()));
    let request_id = given.map_or(made, RequestId::given);

    // The guard has what is taken from the moment on when it is, whatever fails.
    let judged = judge(at, &policy, peer, (head, &seen), now, &mut facts, exchange);
    if judged.is_err() && facts.readings.is_empty() {
        look_at(at, &policy, peer, &mut facts, now);
        facts.asked = Asked::Peeked;
    }
    let worded = match judged {
        Err(Stop::Refused(_)) => Worded::AtOnce,
        Ok(_) | Err(_) => Worded::Later,
    };
    let said = Decided { id, request_id, reads, worded };
    let said_of_limits = exchange.decided(&policy, peer, (head, &seen), said, &facts);

    let stop = match judged.and_then(|permit| {
        ready_to_leave(at, &policy, peer, (head, &seen), &facts, &permit, exchange)
    }) {
        Ok((head, admission)) => return Decision::Pass(head, admission),
        Err(stop) => stop,
    };
    let request_id = exchange.request_id();
    // Put there by each, and not by all of them together: that would copy it as the largest of them once more.
    match stop {
        Stop::Repeated(repeat) => return Decision::Replay(repeat, policy.bounds.body_idle),
        Stop::Here(status) => *at_hand = AtHand::Answer(here::bare(status, request_id)),
        Stop::Ready => *at_hand = AtHand::Answer(here::readiness(at, request_id)),
        Stop::Balance(of) => {
            let mut answer = here::balance(&policy, of, facts.heard(), request_id);
            exchange.fields_mut().give(answer.head.fields_mut());
            *at_hand = AtHand::Answer(answer);
        }
        Stop::Refused(refused) => {
            exchange.refused(&policy, &refused);
            if let Some(key) = facts.key {
                at.struck(&policy, now, key, refused.why);
            }
            let refusing = Refusing {
                policy: &policy,
                refused: &refused,
                route: facts.route,
                heard: facts.heard(),
                fields: match &said_of_limits {
                    Some(said) => Shown::Heard(&said.fields),
                    None => Shown::Decided(exchange.fields()),
                },
                allow: facts.allow.as_deref(),
                request_id: exchange.request_id(),
                now: now.wall,
                reads,
            };
            match refusal(at, &refusing) {
                Words::Formula(formula) => *at_hand = AtHand::Formula(formula, None),
                Words::Answer(answer) => *at_hand = AtHand::Answer(answer),
            }
        }
    }
    Decision::Here
}

/// Why a request goes no further than the gate.
pub(super) enum Stop {
    Refused(Refused),
    /// A record has the answer.
    Repeated(Repeat),
    /// The gate answers with this status and no body.
    Here(StatusCode),
    /// The gate answers with its readiness.
    Ready,
    /// The gate answers with what is left of this limit.
    Balance(LimitIx),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Stop {
        Stop::Refused(refused)
    }
}

/// Steps 2 to 7.
fn judge(
    at: &WorkerContext,
    policy: &Arc<Snapshot>,
    peer: &Peer,
    (unchecked, seen): (&Unchecked<'_>, &Seen<'_>),
    now: Now,
    facts: &mut Facts,
    exchange: &mut Exchange,
) -> Result<Permit, Stop> {
    if unchecked.target.path == "*" && unchecked.method == Method::OPTIONS {
        // RFC 9110 §9.3.7: a ping of the server itself, which must not reach the backend unauthenticated.
        return Err(Stop::Here(StatusCode::NO_CONTENT));
    }
    if at.in_flight.get() > policy.bounds.in_flight.div_ceil(at.workers) {
        return Err(Refused::because(Refusal::Overloaded, "too many requests are in flight").into());
    }
    let mut refrain = peer.refrain.borrow_mut();
    let shown = refrain.shown(policy);
    // What step 5 and step 7 will read is brought from memory meanwhile.
    let secret_near = |place| at.ledger.approach(place);
    let credential = &mut shown.credential;
    let remembered = approach(policy, (unchecked, seen), credential, secret_near);
    // 2 head, 3 client address, 4 route
    let request = shown.head.read(policy, unchecked, seen, peer.address())?;
    facts.client = request.client;
    if let Routed::To(ix) = request.routed {
        facts.route = Some(ix);
    }
    // 5 authenticate; what step 4 found missing is said after it only, so that strangers learn no routes
    identify(at, policy, &request, (&mut shown.credential, remembered), now, facts)?;
    let route_ix = match request.routed {
        Routed::To(ix) => ix,
        Routed::OtherMethods(allow) => {
            facts.allow = Some(allow.to_owned());
            return Err(Refused::because(
                Refusal::MethodUnknown,
                "no route of this path has this method",
            )
            .into());
        }
        Routed::Nowhere => {
            return Err(Refused::because(Refusal::RouteUnknown, "no route has this path").into());
        }
    };
    // 6 authorise
    let permit = shown.head.authorize(policy, &request, route_ix, facts.caller)?;
    drop(refrain);
    if !permit.shadowed.is_empty() {
        facts.shadowed.clone_from(&permit.shadowed);
    }
    let head = &request.head;
    refuse_large_body(policy.body_bound(route_ix), head)?;
    // 7 open
    open(at, policy, (peer, head), &permit, now, facts, exchange.hold())?;
    Ok(permit)
}

/// A refusal after admission, in the words of the policy in force now: its decision stands, and a slow upload must not
/// keep an old policy alive for its wording.
pub(super) fn late_refusal(
    at: &WorkerContext,
    exchange: &mut Exchange,
    refused: &Refused,
) -> Answer {
    let policy = at.policy.load();
    let refusing = Refusing {
        policy: &policy,
        refused,
        route: None,
        heard: Heard::default(),
        fields: Shown::Decided(exchange.fields()),
        allow: None,
        request_id: exchange.request_id(),
        now: at.clock.now().wall,
        reads: exchange.reads(),
    };
    refusal(at, &refusing).into()
}

/// A body that says it is too large is refused before its `100 Continue`, and before it spends anything.
fn refuse_large_body(most: Option<u64>, head: &Head<'_>) -> Result<(), Refused> {
    let stated = match head.seen.content_length {
        Lines::One(line) => length(line),
        Lines::None | Lines::Several(_) => None,
    };
    match (stated, most) {
        (Some(length), Some(most)) if length > most => {
            Err(Refused::because(Refusal::BodyTooLarge, "Content-Length is over the route's bound"))
        }
        _ => Ok(()),
    }
}
