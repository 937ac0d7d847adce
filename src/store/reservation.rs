//! What an admitted request holds until its outcome is known: one owned guard, settled once, whoever leaves first.

use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::Now;
use crate::policy::charge::{ChargeRule, Stated, Verdict};
use crate::policy::idempotency::BodyPrint;
use crate::policy::limit::{LimitKind, SubjectKey};
use crate::policy::meter::Block;
use crate::policy::order::{Ask, Asks};
use crate::policy::outcome::{Charge, Settlement, Stage, Step};

use super::backing::{Reply, StoreFailed};
use super::cell::Slot;
use super::ledger::Ledger;
use super::op::{Doubt, KeptAnswer};
use super::party::Party;
use super::promise::{Hold, Keeping, Promise};
use super::records::Ended;

/// The guard of what one request took.
///
/// To be ended by [`Reservation::close`] or [`Reservation::release`]. Dropped without either it frees its slots and
/// leaves everything else as a crash would: charged, and in flight.
#[derive(Debug)]
#[must_use = "dropping it leaves the request undecided"]
pub struct Reservation {
    stage: Stage,
    /// One a concurrent limit.
    slots: Slots,
    /// What was asked. Nearly all of it was taken, each by its own subject: most requests never look at it again.
    asks: Rc<Asks>,
    /// Those of which neither is so.
    others: Vec<Other>,
    /// Money, blocks and the claim; most requests have none.
    promise: Option<Box<Promise>>,
    at: Now,
}

/// Open places in concurrent limits.
pub(super) type Slots = SmallVec<[Slot; 1]>;

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

/// An ask that was not taken by its own subject.
#[derive(Clone, Copy, Debug)]
struct Other {
    /// Its place.
    ask: usize,
    /// The crowd that it was counted in; `None` of a limit in shadow that would refuse, where nothing was taken.
    seated: Option<SubjectKey>,
}

impl Reservation {
    pub(super) fn new(now: Now, asks: &Rc<Asks>) -> Reservation {
        Reservation {
            stage: Stage::Held,
            slots: Slots::new(),
            asks: Rc::clone(asks),
            others: Vec::new(),
            promise: None,
            at: now,
        }
    }

    /// Holds open places, one of each concurrent limit.
    pub(super) fn open(&mut self, slots: Slots) {
        self.slots = slots;
    }

    /// Nothing was taken of the ask at this place.
    pub(super) fn leave_out(&mut self, ask: usize) {
        self.others.push(Other { ask, seated: None });
    }

    /// The ask at this place was counted in a crowd.
    pub(super) fn seat_elsewhere(&mut self, ask: usize, crowd: SubjectKey) {
        self.others.push(Other { ask, seated: Some(crowd) });
    }

    /// Holds money that was taken. What costs nothing has nothing to settle.
    pub(super) fn charge(
        &mut self,
        ledger: &Ledger,
        keeping: Keeping,
        ask: &Ask,
        seated: SubjectKey,
    ) {
        if ask.weight > 0 {
            self.promise(ledger, keeping).charge(ask, seated);
        }
    }

    /// Holds a block that must be durable first.
    pub(super) fn block(&mut self, ledger: &Ledger, ask: &Ask, seated: SubjectKey, block: Block) {
        self.promise(ledger, Keeping::Durable).block(ask, seated, block);
    }

    /// Holds a claim.
    pub(super) fn claim(&mut self, ledger: &Ledger, keeping: Keeping, hold: Hold) {
        self.promise(ledger, keeping).claim(hold);
    }

    fn promise(&mut self, ledger: &Ledger, keeping: Keeping) -> &mut Promise {
        let now = self.at;
        self.promise.get_or_insert_with(|| Box::new(Promise::new(ledger, now, keeping)))
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether something must be durable before a byte goes upstream: money, a claim, a block of a quota. Rates and
    /// slots never need it, nor does anything where nothing is remembered.
    pub fn needs_commit(&self) -> bool {
        self.promise.as_ref().is_some_and(|promise| promise.needs_commit())
    }

    /// Sends what must be durable on its way; `reply` is told when it is, soonest if the backing is
    /// [rung](super::Backing::ring) for. On an error nothing was sent, and the reservation is to be
    /// [released](Reservation::release). Where nothing needs a commit it tells at once, and the lists of what nobody knows
    /// have the party all the same.
    pub fn commit(
        &mut self,
        ledger: &Ledger,
        party: Party,
        reply: Reply,
    ) -> Result<(), StoreFailed> {
        if let Some(promise) = &mut self.promise {
            promise.commit(ledger, party, reply)
        } else {
            reply(Ok(()));
            Ok(())
        }
    }

    /// What must be durable is.
    pub fn committed(&mut self, ledger: &Ledger) {
        if self.step(Step::Commit)
            && let Some(promise) = &mut self.promise
        {
            promise.committed(ledger);
        }
    }

    /// Whether a claim on an idempotency key hangs on it: then its answer is to be captured and handed to
    /// [`Reservation::complete`].
    pub fn holds_claim(&self) -> bool {
        self.promise.as_ref().is_some_and(|promise| promise.holds_claim())
    }

    /// Whether its outcome matters to more than this request, so that it must be learned even when the client leaves:
    /// money or a claim hangs on it, whether or not a backing remembers them.
    pub fn holds_promise(&self) -> bool {
        self.promise.as_ref().is_some_and(|promise| promise.outlives())
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
        ledger: &Ledger,
        verdict: Verdict,
        rule: &ChargeRule,
        stated: Stated,
    ) -> Settlement {
        let row = rule.settlement(verdict);
        if self.step(Step::Learn(verdict.outcome)) {
            match row.quota {
                Charge::Kept => {}
                Charge::Back => self.give_back(ledger, |kind| kind == LimitKind::Quota),
            }
            if let Some(promise) = &mut self.promise {
                promise.learned(ledger, verdict.outcome, row, stated);
            }
        }
        row
    }

    /// What becomes of the claim is known, because the answer's body has ended. Without a claim, nothing happens.
    pub fn complete(&mut self, ledger: &Ledger, completion: Completion) {
        if let Some(promise) = &mut self.promise {
            promise.complete(ledger, |hold| match completion {
                Completion::Answered(answer, body) => Ended::Answered(answer, body, hold.bytes),
                Completion::NotReplayable => Ended::NotReplayable,
                Completion::Broken => Ended::Unknown(Doubt::NoAnswer),
            });
        }
    }

    /// The exchange is over: what was not decided yet is decided by how far it came. Before anything was sent, nothing
    /// was processed; after that, nobody knows.
    pub fn close(mut self, ledger: &Ledger) {
        match self.stage {
            Stage::Held | Stage::Committed => {
                self.give_back(ledger, |kind| kind == LimitKind::Quota);
                if let Some(promise) = &mut self.promise {
                    promise.undo(ledger);
                }
            }
            Stage::Sending | Stage::Known(_) | Stage::Closed => {
                if let Some(promise) = &mut self.promise {
                    promise.doubt(ledger);
                    promise.complete(ledger, |_| Ended::Unknown(Doubt::NoAnswer));
                }
            }
        }
    }

    /// Gives back everything, rates too, because the commit failed and nothing was sent. Afterwards the request was
    /// never there. From `sending` on it is too late, and this only closes.
    pub fn release(mut self, ledger: &Ledger) {
        if !matches!(self.stage, Stage::Held | Stage::Committed) {
            debug_assert!(false, "released in stage {:?}", self.stage);
            self.close(ledger);
            return;
        }
        self.give_back(ledger, |kind| matches!(kind, LimitKind::Rate | LimitKind::Quota));
        if let Some(promise) = &mut self.promise {
            promise.undo(ledger);
        }
    }

    /// Gives back what was taken of limits of some kinds: once, for no stage that it is done in comes again.
    fn give_back(&self, ledger: &Ledger, is_wanted: impl Fn(LimitKind) -> bool) {
        for (at, ask) in self.asks.iter().enumerate() {
            let other = self.others.iter().find(|other| other.ask == at);
            let seated = other.map_or(Some(ask.subject), |other| other.seated);
            if let Some(seated) = seated.filter(|_| is_wanted(ask.ceiling.window.kind())) {
                ledger.give_back(ask, seated, self.at);
            }
        }
    }

    /// Whether the step was legal. An illegal one changes nothing, and is a mistake of the caller that tests must see.
    fn step(&mut self, step: Step) -> bool {
        let next = self.stage.after(step);
        debug_assert!(next.is_some(), "{step:?} in stage {:?}", self.stage);
        self.stage = next.unwrap_or(self.stage);
        next.is_some()
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
