//! Step 8: what must be durable is, before a byte goes upstream.

use std::time::Duration;

use super::exchange::Exchange;
use crate::killpoint::{self, KillPoint};
use crate::policy::refusal::{Refusal, Refused};
use crate::store::{Party, StoreFailed};

/// A disk that takes longer than this to sync is no disk to promise on.
const LONGEST_SYNC: Duration = Duration::from_secs(5);

/// Commits what the exchange holds. If that fails everything is given back, and the request was never there.
pub(super) async fn commit(exchange: &mut Exchange, party: Party) -> Result<(), Refused> {
    killpoint::pass(KillPoint::BeforeCommit);
    let (tell, told) = tokio::sync::oneshot::channel();
    // Who has left meanwhile is told nothing; its guard gives back what it held.
    let reply = Box::new(move |durable: Result<(), StoreFailed>| {
        let _ = tell.send(durable);
    });
    let since = exchange.steady();
    let durable = match exchange.commit(party, reply) {
        Ok(()) => matches!(tokio::time::timeout(LONGEST_SYNC, told).await, Ok(Ok(Ok(())))),
        Err(StoreFailed) => false,
    };
    exchange.waited(since);
    if durable {
        exchange.committed();
        killpoint::pass(KillPoint::AfterCommit);
        return Ok(());
    }
    exchange.release();
    Err(Refused::because(Refusal::StoreUnavailable, "the store did not acknowledge the commit"))
}
