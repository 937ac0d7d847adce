//! Step 8: what must be durable is, before a byte goes upstream.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::context::WorkerContext;
use super::exchange::Exchange;
use crate::killpoint::{self, KillPoint};
use crate::policy::refusal::{Refusal, Refused};
use crate::store::{Backing, Party, Reply, Reservation, StoreFailed};

/// A disk that takes longer than this to sync is no disk to promise on.
const LONGEST_SYNC: Duration = Duration::from_secs(5);

type Durable = Result<(), StoreFailed>;

/// What is said between the requests of one worker and the journal's thread, in both directions once for many.
///
/// What requests have to be durable they leave, and the worker rings when it has served all that it had at hand. The thread
/// tells of them all after a sync: told one by one, each would wake the worker with a system call of its own. So it leaves
/// word for all of them here, which wakes the worker once, and the worker tells its requests. There are at most as many
/// words as requests that wait.
pub(super) struct Words {
    /// Whether something was left for which nobody has rung yet.
    left: Cell<bool>,
    /// The task that hands words out and rings.
    porter: RefCell<Option<Waker>>,
    to: UnboundedSender<(oneshot::Sender<Durable>, Durable)>,
    from: RefCell<UnboundedReceiver<(oneshot::Sender<Durable>, Durable)>>,
}

impl Default for Words {
    fn default() -> Self {
        let (to, from) = unbounded_channel();
        Words { left: Cell::default(), porter: RefCell::default(), to, from: RefCell::new(from) }
    }
}

impl Words {
    /// Tells requests what was left for them, and rings for what they leave, as long as the worker lives. For a task of
    /// its own.
    pub(super) async fn hand_out(&self, backing: &Backing) {
        let mut next = |context: &mut Context<'_>| {
            if self.left.replace(false) {
                backing.ring();
            }
            let mut porter = self.porter.borrow_mut();
            if !porter.as_ref().is_some_and(|porter| porter.will_wake(context.waker())) {
                *porter = Some(context.waker().clone());
            }
            self.from.borrow_mut().poll_recv(context)
        };
        while let Some((request, durable)) = poll_fn(&mut next).await {
            // Who has left meanwhile is told nothing; its guard gives back what it held.
            let _ = request.send(durable);
        }
    }

    /// Has the backing rung for what was left once all tasks that are ready now had their turn: their requests share a
    /// sync.
    fn ring_soon(&self) {
        if !self.left.replace(true)
            && let Some(porter) = &*self.porter.borrow()
        {
            porter.wake_by_ref();
        }
    }

    /// A reply that leaves word for this request.
    fn reply(&self, request: oneshot::Sender<Durable>) -> Reply {
        let to = self.to.clone();
        Box::new(move |durable| {
            // A worker that has ended has no requests any more.
            let _ = to.send((request, durable));
        })
    }
}

/// Commits what the exchange holds. If that fails everything is given back, and the request was never there.
pub(super) async fn commit(
    at: &WorkerContext,
    exchange: &mut Exchange,
    party: Party,
) -> Result<(), Refused> {
    killpoint::pass(KillPoint::BeforeCommit);
    let (tell, mut told) = oneshot::channel();
    // Where nothing needs to be durable the answer comes at once, and nobody has to wait for it.
    let waits = exchange.held().is_some_and(Reservation::needs_commit);
    let reply: Reply = if waits {
        at.words.reply(tell)
    } else {
        Box::new(move |durable| {
            let _ = tell.send(durable);
        })
    };
    let since = exchange.steady();
    let durable = match exchange.commit(party, reply) {
        Ok(()) if waits => {
            at.words.ring_soon();
            matches!(tokio::time::timeout(LONGEST_SYNC, told).await, Ok(Ok(Ok(()))))
        }
        Ok(()) => matches!(told.try_recv(), Ok(Ok(()))),
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
