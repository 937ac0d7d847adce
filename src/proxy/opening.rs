//! Step 7 as the shell takes it: the limits and the claim of one request, in one operation of the ledger.

use std::sync::Arc;

use super::context::WorkerContext;
use super::idempotent::{self, Repeat};
use super::peer::Peer;
use super::serve::{Facts, Stop};
use crate::clock::Now;
use crate::policy::authorize::Permit;
use crate::policy::head::Head;
use crate::policy::order::Heard;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::Snapshot;
use crate::store::{Found, Order, Refuser, Reservation, Told};
use crate::telemetry::metrics::IdempotencyOutcome;

/// Takes everything that the request needs, which is then `taken`, or nothing.
pub(super) fn open(
    at: &WorkerContext,
    policy: &Arc<Snapshot>,
    (peer, head): (&Peer, &Head<'_>),
    permit: &Permit,
    now: Now,
    facts: &mut Facts,
    taken: &mut Option<Reservation>,
) -> Result<(), Stop> {
    let caller = permit.caller.as_ref();
    let route = policy.route(permit.route);
    let claim = idempotent::claim(policy, route, caller, head).inspect_err(|refused| {
        facts.idempotency = IdempotencyOutcome::of(refused.why);
    })?;
    // It is named in the record, and to the backend.
    if let Some(caller) = caller {
        policy.keys.approach_id(caller.key);
    }
    let mut refrain = peer.refrain.borrow_mut();
    let asking = refrain.asking(policy, permit.route, caller, facts.client, now.wall);
    let asks = facts.binding.insert(asking.all()).asks();
    let order = Order { asks, claim: claim.as_ref(), bounds: policy.records, caller };
    let readings = &mut facts.readings;
    let again = |refuser: &Refuser| at.ledger.refuses_again(now, &order, refuser, readings);
    let told = if asking.refuser().is_some_and(again) {
        Told::Refused
    } else {
        let told = at.ledger.open_into(now, &order, readings, taken);
        let refused = matches!(told, Told::Refused).then_some(Heard { asks, readings });
        asking.refused_by(refused.and_then(|heard| at.ledger.refuser(heard)));
        told
    };
    let stop = match told {
        Told::Admitted => {
            facts.idempotency = claim.map(|_| IdempotencyOutcome::Fresh);
            return Ok(());
        }
        Told::Refused => limited(policy, facts.heard()).into(),
        Told::Repeated(found) => repeated(found),
        Told::Full => because(Refusal::IdempotencyFull, "there is no room for one more record"),
        Told::StoreFailed => because(Refusal::StoreUnavailable, "the store has failed"),
    };
    facts.idempotency = match &stop {
        Stop::Repeated(_) => Some(IdempotencyOutcome::Replayed),
        Stop::Refused(refused) => IdempotencyOutcome::of(refused.why),
        Stop::Here(_) | Stop::Ready | Stop::Balance(_) => None,
    };
    Err(stop)
}

/// What a record says to a repeat.
fn repeated(found: Found) -> Stop {
    match found {
        Found::InFlight => because(Refusal::IdempotencyInFlight, "the first request is under way"),
        Found::Mismatch => {
            because(Refusal::IdempotencyMismatch, "the first request had another head")
        }
        Found::Unknown => {
            because(Refusal::IdempotencyUnknown, "nobody knows what became of the first request")
        }
        Found::NotReplayable => {
            because(Refusal::IdempotencyNotReplayable, "the first answer was not kept")
        }
        Found::Answered(answer, print) => Stop::Repeated(Repeat { answer, print }),
    }
}

fn because(why: Refusal, detail: &'static str) -> Stop {
    Stop::Refused(Refused::because(why, detail))
}

/// What the limits say to a caller who was refused before they were asked, into `facts`, as far as the answer may show it:
/// every answer to an authenticated request does, and a refused request spends nothing.
pub(super) fn look_at(
    at: &WorkerContext,
    policy: &Arc<Snapshot>,
    peer: &Peer,
    facts: &mut Facts,
    now: Now,
) {
    if let (Some(route), Some(caller)) = (facts.route, &facts.caller) {
        let mut refrain = peer.refrain.borrow_mut();
        let asking = refrain.asking(policy, route, Some(caller), facts.client, now.wall);
        let shown = facts.binding.insert(asking.shown(&policy.report));
        at.ledger.peek_each(now, shown.asks(), Some(caller), &mut facts.readings);
    }
}

/// The refusal of the limit with the longest wait.
fn limited(policy: &Snapshot, heard: Heard<'_>) -> Refused {
    let refusal = heard.refusal();
    let limit = refusal.map(|(line, _)| line.ask.limit);
    Refused {
        why: limit.map_or(Refusal::Rate, |limit| policy.limit(limit).kind.refusal()),
        limit,
        wait: refusal.and_then(|(_, wait)| wait),
        detail: "a limit is used up",
    }
}
