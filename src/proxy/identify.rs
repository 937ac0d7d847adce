//! Step 5 as the shell takes it: who asks, and what a failed attempt costs its address.

use std::rc::Rc;

use super::context::WorkerContext;
use super::serve::Facts;
use crate::clock::Now;
use crate::policy::authenticate::{Remembered, authenticate};
use crate::policy::covering;
use crate::policy::known_head::Request;
use crate::policy::order::Heard;
use crate::policy::recall::Recall;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::route::Routed;
use crate::policy::snapshot::{Access, Snapshot};
use crate::store::{Opening, Order};

/// Step 5: whoever asks is in `facts` then. A public route asks nobody; a path of no route asks, unless there is nothing here that needs a key.
pub(super) fn identify(
    at: &WorkerContext,
    policy: &Snapshot,
    request: &Request<'_, '_>,
    credential: (&mut Recall, Remembered),
    now: Now,
    facts: &mut Facts,
) -> Result<(), Refused> {
    let keyed = match request.routed {
        Routed::To(ix) => policy.route(ix).access == Access::Keyed,
        Routed::OtherMethods(_) | Routed::Nowhere => {
            policy.routes.iter().any(|route| route.access == Access::Keyed)
        }
    };
    if !keyed {
        return Ok(());
    }
    let overlay = at.ledger.overlay();
    match authenticate(policy, &overlay, &request.head, credential, now.wall) {
        Ok(caller) => {
            policy.keys.approach_row(caller.key);
            (facts.key, facts.caller) = (Some(caller.key), Some(caller));
            at.used(policy, now.wall, caller.subject);
            Ok(())
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
    let asks = Rc::new(covering::guesses(policy, facts.client, now.wall));
    match at.ledger.open(now, &Order::of(&asks)) {
        // Rates alone are asked for here, which neither a record nor a failed store answers.
        Opening::Admitted(..)
        | Opening::Repeated(..)
        | Opening::Full(_)
        | Opening::StoreFailed(_) => None,
        Opening::Refused(readings) => {
            let heard = Heard { asks: &asks, readings: &readings };
            let (refusing, wait) = heard.refusal()?;
            Some(Refused {
                why: Refusal::Guessing,
                limit: Some(refusing.ask.limit),
                wait,
                detail: "too many failed authentications from this address",
            })
        }
    }
}
