//! What an admitted request holds until its outcome is known: one owned guard, settled once, whoever leaves first.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::{Now, Steady};
use crate::policy::limit::{Ceiling, LimitId, SubjectKey};
use crate::policy::meter::Family;
use crate::policy::order::{Ask, Asks};
use crate::policy::outcome::{Outcome, Settlement, Stage, Step, settlement};

use super::cell::Cell;
use super::ledger::Ledger;
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
    at: Steady,
}

/// Units taken from one rate.
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
        Reservation {
            stage: Stage::Held,
            slots: SmallVec::new(),
            taken: SmallVec::new(),
            at: now.steady,
        }
    }

    /// Makes room for what these asks can take, so that nothing allocates between taking and holding.
    pub(super) fn reserve(&mut self, asks: &Asks) {
        self.taken.reserve(asks.len());
    }

    /// Holds what an ask took where it was seated.
    pub(super) fn hold(&mut self, ask: &Ask, seat: &Seat<'_>) {
        match Family::of(ask.ceiling.window) {
            Family::Open => {
                self.slots.push(Slot { cell: Arc::clone(seat.cell), limit: ask.id });
            }
            Family::Rate => self.taken.push(Taken {
                seated: seat.subject,
                limit: ask.id,
                ceiling: ask.ceiling,
                weight: ask.weight,
            }),
        }
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether something must be durable before a byte goes upstream. Rates and slots never need it.
    pub fn needs_commit(&self) -> bool {
        false
    }

    /// What must be durable is.
    pub fn committed(&mut self) {
        self.step(Step::Commit);
    }

    /// From now on the backend may see a byte. Said again for a second attempt after the first provably reached
    /// nobody.
    pub fn sending(&mut self) {
        self.step(Step::Send);
    }

    /// The outcome is known: the charge is decided. The slots stay taken until the exchange is over.
    pub fn outcome(&mut self, outcome: Outcome) {
        self.step(Step::Learn(outcome));
    }

    /// What becomes of the charge as things stand.
    #[must_use]
    pub fn settlement(&self) -> Settlement {
        settlement(self.stage.outcome_if_dropped())
    }

    /// The exchange is over. The same as dropping it.
    pub fn close(self) {}

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
