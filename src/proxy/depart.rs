//! What an admitted request takes along when its policy is let go: its head as the backend will see it, and a few facts.

use std::sync::Arc;

use http::{StatusCode, request};

use super::context::WorkerContext;
use super::exchange::Exchange;
use super::forward::{self, Hops, Passage, Wish};
use super::http1::RequestHead;
use super::peer::Peer;
use super::request_id::RequestId;
use super::serve::{Admission, Facts, Stop};
use crate::policy::authorize::Permit;
use crate::policy::head::{Seen, Unchecked};
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::{Snapshot, Target, UpstreamProtocol};
use crate::store::{Party, PartyNames, Reservation};

/// A head as the backend will read it.
pub(super) enum Written {
    /// In HTTP/1: its text.
    Http1(RequestHead),
    /// In HTTP/2: its target is absolute. Boxed, because it is rarer and larger.
    Http2(Box<request::Parts>),
}

/// Step 9's head, written while the policy and the client's head are at hand.
pub(super) fn ready_to_leave(
    at: &WorkerContext,
    policy: &Arc<Snapshot>,
    peer: &Peer,
    (head, seen): (&Unchecked<'_>, &Seen<'_>),
    facts: &Facts,
    permit: &Permit,
    exchange: &mut Exchange,
) -> Result<(Written, Box<Admission>), Stop> {
    let route = policy.route(permit.route);
    let hops = forward::count_hop(head.method, head.fields);
    let here = match route.target {
        Target::Ready => Some(Stop::Ready),
        Target::Balance(of) => Some(Stop::Balance(of)),
        Target::Upstream => (hops == Hops::EndHere).then_some(Stop::Here(StatusCode::NO_CONTENT)),
    };
    if let Some(stop) = here {
        // Nothing was forwarded: all but rates goes back.
        if let Some(reservation) = exchange.take_reservation() {
            reservation.close(&at.ledger);
        }
        return Err(stop);
    }
    let passage = Passage {
        head,
        seen,
        hops,
        policy,
        permit,
        client: facts.client,
        peer,
        pseudonym: &at.pseudonym,
        request_id: exchange.request_id(),
        heard: facts.heard(),
    };
    let prepared = at.pools.of(&policy.upstream).map_err(|_| {
        let detail = "the TLS material for the upstream cannot be used";
        Refused::because(Refusal::UpstreamUnreachable, detail)
    });
    let prepared = prepared.and_then(|pool| {
        let (written, wish) = match policy.upstream.protocol {
            UpstreamProtocol::Http1 => {
                let (written, wish) = forward::http1_head(&passage, pool.stock().text())?;
                (Written::Http1(written), wish)
            }
            UpstreamProtocol::Http2 => {
                (Written::Http2(Box::new(forward::http2_head(&passage)?)), Wish::Http)
            }
        };
        Ok((pool, written, wish))
    });
    let (pool, written, wish) = match prepared {
        Ok(prepared) => prepared,
        Err(refused) => {
            // A refused request spends nothing, also when it is refused this late.
            exchange.release();
            return Err(refused.into());
        }
    };
    let needs_commit = exchange.held().is_some_and(Reservation::needs_commit);
    let holds_promise = exchange.held().is_some_and(Reservation::holds_promise);
    let holds_claim = exchange.held().is_some_and(Reservation::holds_claim);
    // Boxed: it goes from hand to hand.
    let admission = Box::new(Admission {
        wish,
        response_timeout: route.response_timeout,
        body_idle: policy.bounds.body_idle,
        max_body: policy.body_bound(permit.route),
        on_revoke: route.on_revoke,
        secret: permit.caller.map(|caller| policy.keys.digest(caller.place)),
        route: route.slot,
        client: facts.client,
        pool,
        // Where nothing needs a commit, the lists of what nobody knows still want a name.
        party: (needs_commit || holds_promise)
            .then(|| Box::new(party(policy, permit, exchange.request_id()))),
        charge: holds_promise.then(|| Arc::clone(&route.charge)),
        keep_answer: route.idempotency.as_ref().filter(|_| holds_claim).map(|rule| rule.max_answer),
    });
    Ok((written, admission))
}

/// The longest request id that is remembered with a record, in bytes: a trusted hop may make it as long as a head, and
/// there is one of them a record.
const LONGEST_ID: usize = 200;

/// Who asks, for people who may have to settle what becomes of it.
fn party(policy: &Snapshot, permit: &Permit, request_id: &RequestId) -> Party {
    let caller = permit.caller;
    // All of it is ASCII.
    let id = request_id.as_str();
    Party::of(PartyNames {
        tenant: caller.map_or("", |caller| &policy.tenant(caller.tenant).name),
        key: caller.map_or("", |caller| policy.keys.at(caller.key).id),
        route: &policy.route(permit.route).name,
        request: id.get(..LONGEST_ID).unwrap_or(id),
    })
}
