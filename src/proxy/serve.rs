//! The way of a request. This file is the only place that knows the whole order; each step is decided elsewhere.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap};
use http::{HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::Body as _;
use hyper::body::Incoming;
use smallvec::SmallVec;

use super::body::{Body, RequestBody};
use super::context::WorkerContext;
use super::exchange::{Decided, Exchange};
use super::forward::{self, Hops, Passage, Wish, X_REQUEST_ID};
use super::passage;
use super::peer::{ClientHttp, Peer};
use super::pool::Pool;
use super::respond::{LimitFields, Reads, Refusing, refusal};
use crate::clock::Now;
use crate::policy::authenticate::{Caller, authenticate};
use crate::policy::authorize::{Permit, authorize};
use crate::policy::covering;
use crate::policy::head::{Head, is_grpc};
use crate::policy::keys::KeyIx;
use crate::policy::order::{Readings, longest_wait, refusing};
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::route::Routed;
use crate::policy::snapshot::{Access, OnRevoke, RouteIx, Snapshot, Target};
use crate::store::{Opening, Order, Reservation};

/// An answer on its way out; the exchange hangs on the end of its body.
pub(super) type Answer = Response<Body<Exchange>>;

/// Answers one request. Step 1, accepting, is the connection's.
pub(super) async fn serve(
    at: Rc<WorkerContext>,
    peer: Rc<Peer>,
    request: Request<Incoming>,
) -> Answer {
    let now = at.clock.now();
    let (mut head, body) = request.into_parts();
    let mut exchange = Exchange::begin(&at, now);
    match decide(&at, &peer, &mut head, now, &mut exchange) {
        Decision::Here(mut answer) => {
            if peer.http == ClientHttp::Http1
                && !body.is_end_stream()
                && outgrows_draining(&head.headers)
            {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            exchange.answered(answer)
        }
        Decision::Pass(admission) => {
            // 8 commit: nothing that can be held now needs a durable record; what will is awaited here
            exchange.committed();
            // 9 forward; 10 settle and 11 record hang on the exchange, which travels with the answer's body
            let body = RequestBody::new(body, admission.max_body, admission.body_idle).held_to(&at);
            let request = Request::from_parts(head, body);
            passage::pass(at, peer, request, admission, exchange).await
        }
    }
}

/// Whether a body that nobody will read ends its connection, which is then announced (RFC 9110 §10.1.1). One that has
/// very likely arrived with its head is drained instead, and the connection goes on.
fn outgrows_draining(headers: &HeaderMap) -> bool {
    const DRAINED: u64 = 8 * 1024;
    let drained = content_length(headers).is_some_and(|length| length <= DRAINED);
    !drained || headers.contains_key(EXPECT)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What lives on of a decision when the policy it was made under is let go.
pub(super) struct Admission {
    /// Whether the client asks for a tunnel.
    pub(super) wish: Wish,
    /// Time to the head of the upstream's answer.
    pub(super) response_timeout: Duration,
    /// Longest silence inside the request's body.
    body_idle: Duration,
    /// Largest request body.
    max_body: Option<u64>,
    /// What becomes of the exchange when its key is revoked.
    pub(super) on_revoke: OnRevoke,
    /// Who asked.
    pub(super) caller: Option<Caller>,
    /// The route's stable place.
    pub(super) route: u32,
    /// From where.
    pub(super) client: IpAddr,
    /// The connections it goes out by.
    pub(super) pool: Rc<Pool>,
}

/// The inputs of a decision, as far as it came; what the record holds of it.
pub(super) struct Facts {
    pub(super) client: IpAddr,
    pub(super) route: Option<RouteIx>,
    pub(super) key: Option<KeyIx>,
    caller: Option<Caller>,
    pub(super) readings: Readings,
    pub(super) asked: Asked,
    pub(super) shadowed: SmallVec<[Refusal; 2]>,
    allow: Option<String>,
}

/// What becomes of a request.
enum Decision {
    /// It goes on to the upstream.
    Pass(Admission),
    /// The gate answers it by itself.
    Here(Answer),
}

/// What readings are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// They decided.
    Decided,
    /// They were only looked at, for what an answer shows: the request was refused before its limits were asked.
    Peeked,
}

/// Steps 2 to 7, and the head of step 9, under one policy and without waiting for anything.
fn decide(
    at: &WorkerContext,
    peer: &Peer,
    head: &mut request::Parts,
    now: Now,
    exchange: &mut Exchange,
) -> Decision {
    let policy = at.policy.load();
    let mut facts = Facts {
        client: peer.address(),
        route: None,
        key: None,
        caller: None,
        readings: Readings::new(),
        asked: Asked::Decided,
        shadowed: SmallVec::new(),
        allow: None,
    };
    let reads = if is_grpc(&head.headers) { Reads::Grpc } else { Reads::Http };
    let (id, made) = at.next_id();
    let request_id = if policy.client_address.trusts_fields(peer.address()) {
        head.headers.get(&X_REQUEST_ID).cloned().unwrap_or(made)
    } else {
        made
    };

    let judged = judge(at, &policy, peer, head, now, &mut facts);
    if judged.is_err() && facts.readings.is_empty() {
        facts.readings = untaken(at, &policy, &facts, now);
        facts.asked = Asked::Peeked;
    }
    let fields = LimitFields::new(&policy, &facts.readings, now.wall);
    let decided = Decided { id, request_id: &request_id, parts: head, fields: &fields, reads };
    exchange.decided(&policy, peer, &decided, &facts);

    let stop = match judged
        .and_then(|admitted| ready_to_leave(at, &policy, peer, head, &facts, &request_id, admitted))
    {
        Ok((admission, reservation)) => {
            exchange.admitted(reservation);
            return Decision::Pass(admission);
        }
        Err(stop) => stop,
    };
    Decision::Here(match stop {
        Stop::Here(status) => {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = status;
            answer.headers_mut().insert(&X_REQUEST_ID, request_id);
            answer
        }
        Stop::Ready => readiness(at, request_id),
        Stop::Refused(refused) => {
            exchange.refused(&policy, &refused);
            refusal(&Refusing {
                policy: &policy,
                refused: &refused,
                route: facts.route,
                readings: &facts.readings,
                fields: &fields,
                allow: facts.allow.as_deref(),
                request_id: &request_id,
                now: now.wall,
                reads,
            })
        }
    })
}

/// What steps 6 and 7 give.
struct Admitted {
    permit: Permit,
    reservation: Reservation,
}

/// Why a request goes no further than the gate.
enum Stop {
    Refused(Refused),
    /// The gate answers with this status and no body.
    Here(StatusCode),
    /// The gate answers with its readiness.
    Ready,
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Stop {
        Stop::Refused(refused)
    }
}

/// Steps 2 to 7.
fn judge(
    at: &WorkerContext,
    policy: &Snapshot,
    peer: &Peer,
    head: &request::Parts,
    now: Now,
    facts: &mut Facts,
) -> Result<Admitted, Stop> {
    if head.method == Method::OPTIONS && head.uri.path() == "*" {
        // RFC 9110 §9.3.7: a ping of the server itself, which must not reach the backend unauthenticated.
        return Err(Stop::Here(StatusCode::NO_CONTENT));
    }
    if at.in_flight.get() > policy.bounds.in_flight.div_ceil(at.workers) {
        return Err(Refused::because(Refusal::Overloaded, "too many requests are in flight").into());
    }
    // 2 head
    let head = Head::check(&head.method, &head.uri, head.version, &head.headers, &policy.bounds)?;
    // 3 client address
    facts.client = policy.client_address.client(peer.address(), head.headers);
    // 4 route
    let routed = policy.router.find(head.method, head.path);
    if let Routed::To(ix) = routed {
        facts.route = Some(ix);
    }
    // 5 authenticate; what step 4 found missing is said after it only, so that strangers learn no routes
    let caller = identify(at, policy, &head, routed, now, facts)?;
    let route_ix = match routed {
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
    let permit = authorize(policy, route_ix, caller, facts.client, &head)?;
    facts.shadowed.clone_from(&permit.shadowed);
    refuse_large_body(policy.body_bound(route_ix), &head)?;
    // 7 open
    let asks = covering::asks(policy, route_ix, permit.caller, facts.client, now.wall);
    match at.ledger.open(now, &Order::of(&asks)) {
        Opening::Admitted(reservation, readings) => {
            facts.readings = readings;
            Ok(Admitted { permit, reservation })
        }
        Opening::Refused(readings) => {
            let refused = limited(policy, &readings);
            facts.readings = readings;
            Err(refused.into())
        }
        Opening::Repeated(_, readings)
        | Opening::Full(readings)
        | Opening::StoreFailed(readings) => {
            facts.readings = readings;
            let detail = "the store has failed";
            Err(Refused::because(Refusal::StoreUnavailable, detail).into())
        }
    }
}

/// What the limits say to a caller who was refused before they were asked: every answer to an authenticated request
/// shows them, and a refused request spends nothing.
fn untaken(at: &WorkerContext, policy: &Snapshot, facts: &Facts, now: Now) -> Readings {
    match (facts.route, facts.caller) {
        (Some(route), Some(caller)) => {
            let asks = covering::asks(policy, route, Some(caller), facts.client, now.wall);
            asks.iter().map(|ask| at.ledger.peek(now, ask)).collect()
        }
        _ => Readings::new(),
    }
}

/// Step 5. A public route asks nobody; a path of no route asks, unless there is nothing here that needs a key.
fn identify(
    at: &WorkerContext,
    policy: &Snapshot,
    head: &Head<'_>,
    routed: Routed<'_>,
    now: Now,
    facts: &mut Facts,
) -> Result<Option<Caller>, Refused> {
    let keyed = match routed {
        Routed::To(ix) => policy.route(ix).access == Access::Keyed,
        Routed::OtherMethods(_) | Routed::Nowhere => {
            policy.routes.iter().any(|route| route.access == Access::Keyed)
        }
    };
    if !keyed {
        return Ok(None);
    }
    match authenticate(policy, head, now.wall) {
        Ok(caller) => {
            (facts.key, facts.caller) = (Some(caller.key), Some(caller));
            Ok(Some(caller))
        }
        Err(stranger) => {
            facts.key = stranger.key;
            Err(guessed(at, policy, stranger.refused, now, facts).unwrap_or(stranger.refused))
        }
    }
}

/// Counts a failed authentication against its address. A missing key is no guess.
fn guessed(
    at: &WorkerContext,
    policy: &Snapshot,
    refused: Refused,
    now: Now,
    facts: &Facts,
) -> Option<Refused> {
    if policy.guessing.is_empty() || refused.why == Refusal::KeyMissing {
        return None;
    }
    let asks = covering::guesses(policy, facts.client, now.wall);
    match at.ledger.open(now, &Order::of(&asks)) {
        // Rates alone are asked for here, which neither a record nor a failed store answers.
        Opening::Admitted(..)
        | Opening::Repeated(..)
        | Opening::Full(_)
        | Opening::StoreFailed(_) => None,
        Opening::Refused(readings) => {
            let reading = refusing(&readings)?;
            Some(Refused {
                why: Refusal::Guessing,
                limit: Some(reading.limit),
                wait: longest_wait(&readings),
                detail: "too many failed authentications from this address",
            })
        }
    }
}

/// A body that says it is too large is refused before its `100 Continue`, and before it spends anything.
fn refuse_large_body(most: Option<u64>, head: &Head<'_>) -> Result<(), Refused> {
    match (content_length(head.headers), most) {
        (Some(length), Some(most)) if length > most => {
            Err(Refused::because(Refusal::BodyTooLarge, "Content-Length is over the route's bound"))
        }
        _ => Ok(()),
    }
}

/// The refusal of the limit with the longest wait.
fn limited(policy: &Snapshot, readings: &Readings) -> Refused {
    let reading = refusing(readings);
    Refused {
        why: reading.map_or(Refusal::Rate, |reading| policy.limit(reading.limit).kind.refusal()),
        limit: reading.map(|reading| reading.limit),
        wait: longest_wait(readings),
        detail: "a limit is used up",
    }
}

/// Step 9's head, edited while the policy is at hand.
fn ready_to_leave(
    at: &WorkerContext,
    policy: &Snapshot,
    peer: &Peer,
    head: &mut request::Parts,
    facts: &Facts,
    request_id: &HeaderValue,
    admitted: Admitted,
) -> Result<(Admission, Reservation), Stop> {
    let Admitted { permit, reservation } = admitted;
    let route = policy.route(permit.route);
    match route.target {
        Target::Ready => return Err(Stop::Ready),
        Target::Balance(_) | Target::Upstream => {}
    }
    if forward::count_hop(&head.method, &mut head.headers) == Hops::EndHere {
        return Err(Stop::Here(StatusCode::NO_CONTENT));
    }
    let passage = Passage {
        policy,
        permit: &permit,
        client: facts.client,
        peer,
        pseudonym: &at.pseudonym,
        request_id,
    };
    let prepared = forward::request_head(head, &passage).and_then(|wish| {
        let detail = "the TLS material for the upstream cannot be used";
        let pool = at.pools.of(&policy.upstream);
        Ok((wish, pool.map_err(|_| Refused::because(Refusal::UpstreamUnreachable, detail))?))
    });
    let (wish, pool) = match prepared {
        Ok(prepared) => prepared,
        Err(refused) => {
            // A refused request spends nothing, also when it is refused this late.
            reservation.release(&at.ledger);
            return Err(refused.into());
        }
    };
    let admission = Admission {
        wish,
        response_timeout: route.response_timeout,
        body_idle: policy.bounds.body_idle,
        max_body: policy.body_bound(permit.route),
        on_revoke: route.on_revoke,
        caller: permit.caller,
        route: route.slot,
        client: facts.client,
        pool,
    };
    Ok((admission, reservation))
}

/// `answer: ready` on a public route: for balancers that cannot reach the admin listener.
fn readiness(at: &WorkerContext, request_id: HeaderValue) -> Answer {
    let (status, body) = match at.lifecycle.ready() {
        Ok(()) => (StatusCode::OK, "{\"ready\":true}"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "{\"ready\":false}"),
    };
    let mut answer = Response::new(Body::full(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(&X_REQUEST_ID, request_id);
    answer
}

/// A refusal after admission, in the words of the policy in force now: its decision stands, and a slow upload must not
/// keep an old policy alive for its wording.
pub(super) fn late_refusal(at: &WorkerContext, exchange: &Exchange, refused: &Refused) -> Answer {
    let policy = at.policy.load();
    refusal(&Refusing {
        policy: &policy,
        refused,
        route: None,
        readings: &[],
        fields: exchange.fields(),
        allow: None,
        request_id: exchange.request_id(),
        now: at.clock.now().wall,
        reads: exchange.reads(),
    })
}
