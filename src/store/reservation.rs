//! What an admitted request holds until its outcome is known: one owned guard, settled once, whoever leaves first.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::Now;
use crate::policy::charge::{ChargeRule, Stated, Verdict};
use crate::policy::idempotency::BodyPrint;
use crate::policy::limit::{Ceiling, LimitId, LimitKind, SubjectKey};
use crate::policy::order::{Ask, Asks};
use crate::policy::outcome::{Settlement, Stage, Step};

use super::backing::{Reply, StoreFailed};
use super::cell::Cell;
use super::ledger::Ledger;
use super::op::{KeptAnswer, Party};
use super::table::Seat;

/// The guard of what one request took.
///
/// Dropped before [`Reservation::sending`], nothing was processed; dropped after it without an outcome, the outcome is
/// unknown. Rates stay taken whatever becomes of the request; slots of concurrent limits are freed when it closes.
#[derive(Debug)]
#[must_use = "dropping it settles the request"]
pub struct Reservation {
    stage: Stage,
    /// One a concurrent limit.
    slots: SmallVec<[Slot; 1]>,
    /// What was taken over time, for giving it back when the commit fails. Names, not cells: most requests never
    /// look at it again, and counting references would write to lines that other requests read.
    taken: SmallVec<[Taken; 6]>,
    at: Now,
}

/// How the answer to a claimed request ended.
#[derive(Clone, Debug)]
pub enum Completion {
    /// To its last byte; kept for repeats whose body has this print.
    Answered(Arc<KeptAnswer>, BodyPrint),
    /// Its head came and its charge is decided, but it is too large or too long to be kept.
    NotReplayable,
    /// It broke off: nobody knows whether the backend finished.
    Broken,
}

/// Units taken from one limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// Where it was counted: the ask's subject or its crowd.
    pub(super) seated: SubjectKey,
    pub(super) limit: LimitId,
    pub(super) ceiling: Ceiling,
    pub(super) weight: u64,
}

/// One open place in a concurrent limit. Dropping it frees it.
#[derive(Debug)]
struct Slot {
    cell: Arc<Cell>,
    limit: LimitId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.cell.close_one(self.limit);
    }
}

impl Reservation {
    pub(super) fn new(now: Now) -> Reservation {
        Reservation { stage: Stage::Held, slots: SmallVec::new(), taken: SmallVec::new(), at: now }
    }

    /// Makes room for what these asks can take, so that nothing allocates between taking and holding.
    pub(super) fn reserve(&mut self, asks: &Asks) {
        self.taken.reserve(asks.len());
    }

    /// Holds what an ask took where it was seated.
    pub(super) fn hold(&mut self, ask: &Ask, seat: &Seat<'_>) {
        match ask.ceiling.window.kind() {
            LimitKind::Concurrent => {
                self.slots.push(Slot { cell: Arc::clone(seat.cell), limit: ask.id });
            }
            LimitKind::Rate | LimitKind::Quota | LimitKind::Spend | LimitKind::Credit => {
                self.taken.push(Taken {
                    seated: seat.subject,
                    limit: ask.id,
                    ceiling: ask.ceiling,
                    weight: ask.weight,
                })
            }
        }
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether something must be durable before a byte goes upstream: money, a claim, a block of a quota. Rates and
    /// slots never need it, nor does anything where nothing is remembered.
    pub fn needs_commit(&self) -> bool {
        false
    }

    /// Sends what must be durable on its way; `reply` is told when it is. On an error nothing was sent, and the
    /// reservation is to be [released](Reservation::release).
    pub fn commit(
        &mut self,
        _ledger: &Ledger,
        _party: Party,
        reply: Reply,
    ) -> Result<(), StoreFailed> {
        reply(Ok(()));
        Ok(())
    }

    /// What must be durable is.
    pub fn committed(&mut self, _ledger: &Ledger) {
        self.step(Step::Commit);
    }

    /// Whether a claim on an idempotency key hangs on it: then its answer is to be captured and handed to
    /// [`Reservation::complete`].
    pub fn holds_claim(&self) -> bool {
        false
    }

    /// Whether its outcome matters to more than memory, so that it must be learned even when the client leaves.
    pub fn holds_promise(&self) -> bool {
        self.needs_commit() || self.holds_claim()
    }

    /// From now on the backend may see a byte. Said again for a second attempt after the first provably reached
    /// nobody.
    pub fn sending(&mut self) {
        self.step(Step::Send);
    }

    /// The outcome is known: the charge is decided now, and what goes back has gone back when this returns. The slots
    /// stay taken, and the claim stays claimed, until the exchange is over.
    pub fn learned(
        &mut self,
        _ledger: &Ledger,
        verdict: Verdict,
        rule: &ChargeRule,
        _stated: Stated,
    ) -> Settlement {
        self.step(Step::Learn(verdict.outcome));
        rule.settlement(verdict)
    }

    /// What becomes of the claim is known, because the answer's body has ended. Without a claim, nothing happens.
    pub fn complete(&mut self, _ledger: &Ledger, _completion: Completion) {}

    /// The exchange is over: what was not decided yet is decided by how far it came. Dropping it does the same for
    /// slots, and leaves everything else as a crash would.
    pub fn close(self, _ledger: &Ledger) {}

    /// Gives back everything, rates too, because the commit failed and nothing was sent. Afterwards the request was
    /// never there. From `sending` on it is too late, and this only closes.
    pub fn release(mut self, ledger: &Ledger) {
        if matches!(self.stage, Stage::Held | Stage::Committed) {
            for taken in self.taken.drain(..) {
                ledger.give_back(&taken, self.at);
            }
        } else {
            debug_assert!(false, "released in stage {:?}", self.stage);
        }
    }

    /// An illegal step changes nothing, and is a mistake of the caller that tests must see.
    fn step(&mut self, step: Step) {
        match self.stage.after(step) {
            Some(stage) => self.stage = stage,
            None => debug_assert!(false, "{step:?} in stage {:?}", self.stage),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let outcome = self.stage.outcome_if_dropped();
        if !matches!(self.stage, Stage::Known(_) | Stage::Closed) {
            self.step(Step::Learn(outcome));
        }
        self.step(Step::Close);
        self.slots.clear();
    }
}
