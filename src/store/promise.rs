//! The part of a reservation that matters to more than memory: money, blocks of quotas, and the claim on a record.
//! Most requests have none of it, and pay nothing for it.

use smallvec::SmallVec;

use crate::clock::Now;
use crate::killpoint::{self, KillPoint};
use crate::policy::charge::Stated;
use crate::policy::idempotency::RecordId;
use crate::policy::limit::{LimitKind, SubjectKey};
use crate::policy::meter::Block;
use crate::policy::order::Ask;
use crate::policy::outcome::{Money, Outcome, Record as Fate, Settlement};

use super::backing::{Reply, StoreFailed};
use super::ledger::Ledger;
use super::op::{Batch, Charge, Charges, Doubt, MeterId, Op, Pending, ReservationId};
use super::party::Party;
use super::records::{Ended, Kept};

/// What hangs on one request.
#[derive(Debug)]
pub(super) struct Promise {
    id: ReservationId,
    at: Now,
    telling: Telling,
    /// Money that is not settled yet.
    charges: Charges,
    /// Blocks of quotas that are not durable yet.
    blocks: SmallVec<[(MeterId, Block); 1]>,
    hold: Option<Hold>,
    party: Party,
}

/// Where what a request takes is to be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    /// In memory alone: the backing remembers nothing, or has failed and the limits go on without it.
    Memory,
    /// By the backing, before a byte goes upstream.
    Durable,
}

/// What the backing knows of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// Nothing, and it never will.
    Never,
    /// Nothing yet.
    Due,
    /// It was told.
    Told,
}

/// A claim on an idempotency record.
#[derive(Debug)]
pub(super) struct Hold {
    /// Which.
    pub(super) id: RecordId,
    /// What nobody knew of an earlier request, and is true again if this one is never processed.
    pub(super) waived: Option<Kept>,
    /// Most bytes of all kept answers.
    pub(super) bytes: usize,
    /// What the outcome makes of it; `None` while that is not known.
    pub(super) fate: Option<Fate>,
}

impl Promise {
    pub(super) fn new(ledger: &Ledger, now: Now, keeping: Keeping) -> Promise {
        Promise {
            id: ledger.next_reservation(now.wall),
            at: now,
            telling: match keeping {
                Keeping::Memory => Telling::Never,
                Keeping::Durable => Telling::Due,
            },
            charges: Charges::new(),
            blocks: SmallVec::new(),
            hold: None,
            party: Party::default(),
        }
    }

    /// Money was taken.
    pub(super) fn charge(&mut self, ask: &Ask, seated: SubjectKey) {
        let kind = ask.ceiling.window.kind();
        self.charges.push(Charge {
            meter: MeterId { limit: ask.id, kind, subject: seated },
            period: ask.period,
            at: self.at.wall,
            amount: ask.weight,
        });
    }

    /// Use of a quota was taken that is not durable.
    pub(super) fn block(&mut self, ask: &Ask, seated: SubjectKey, block: Block) {
        let meter = MeterId { limit: ask.id, kind: LimitKind::Quota, subject: seated };
        self.blocks.push((meter, block));
    }

    pub(super) fn claim(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    pub(super) fn needs_commit(&self) -> bool {
        self.telling == Telling::Due && (self.outlives() || !self.blocks.is_empty())
    }

    /// Whether the outcome matters to more than this request.
    pub(super) fn outlives(&self) -> bool {
        !self.charges.is_empty() || self.hold.is_some()
    }

    pub(super) fn holds_claim(&self) -> bool {
        self.hold.is_some()
    }

    /// One batch with all that must be durable, on its way.
    pub(super) fn commit(
        &mut self,
        ledger: &Ledger,
        party: Party,
        reply: Reply,
    ) -> Result<(), StoreFailed> {
        self.party = party;
        let record = self.hold.as_ref().and_then(|hold| {
            let record = ledger.records.name(hold.id, &self.party)?;
            Some(Op::Record(hold.id, Box::new(record)))
        });
        if self.telling != Telling::Due {
            reply(Ok(()));
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.extend(self.blocks.iter().map(|(meter, block)| Op::Block(*meter, *block)));
        if !self.charges.is_empty() {
            batch.push(Op::Reserve(Box::new(self.pending(ledger))));
        }
        batch.extend(record);
        ledger.backing().leave(batch, reply)?;
        self.telling = Telling::Told;
        Ok(())
    }

    /// The batch is durable.
    pub(super) fn committed(&mut self, ledger: &Ledger) {
        for (meter, block) in self.blocks.drain(..) {
            ledger.secured(&meter, &block);
        }
    }

    /// The outcome is known: money is settled or doubted, and the fate of the claim is noted until the exchange is over.
    pub(super) fn learned(
        &mut self,
        ledger: &Ledger,
        outcome: Outcome,
        row: Settlement,
        stated: Stated,
    ) {
        if let Some(hold) = &mut self.hold {
            hold.fate = Some(row.record);
            if outcome != Outcome::NotProcessed {
                hold.waived = None;
            }
        }
        match (row.money, outcome) {
            (Money::Back, _) => self.settle(ledger, |_| 0),
            (Money::Kept, Outcome::Unknown) => self.doubt(ledger),
            (Money::Kept, _) => self.settle(ledger, |reserved| reserved),
            (Money::KeptUpToReserve, _) => self.settle(ledger, |reserved| match stated {
                Stated::Cost(cost) => cost.0.min(reserved),
                Stated::Unasked | Stated::Exceeds(_) | Stated::Unreadable => reserved,
            }),
        }
    }

    /// Of each amount that was reserved so much is kept, and the rest goes back to the period that was charged, unless the
    /// meter was reset since.
    fn settle(&mut self, ledger: &Ledger, kept: impl Fn(u64) -> u64) {
        if self.charges.is_empty() {
            return;
        }
        let mut back = std::mem::take(&mut self.charges);
        back.retain(|charge| {
            charge.amount -= kept(charge.amount).min(charge.amount);
            charge.amount > 0 && !ledger.resets.forgave(&charge.meter, self.at.steady)
        });
        for charge in &back {
            ledger.refund(charge);
        }
        self.tell(ledger, || Op::Settle { id: self.id, back });
    }

    /// Nobody knows the outcome: the money stays charged and is listed.
    pub(super) fn doubt(&mut self, ledger: &Ledger) {
        if self.charges.is_empty() {
            return;
        }
        self.tell(ledger, || Op::Doubt(self.id, Doubt::NoAnswer));
        ledger.doubt(self.pending(ledger), Doubt::NoAnswer);
        self.charges.clear();
    }

    /// The answer is over: what becomes of the claim, unless its outcome says that it is not kept at all.
    pub(super) fn complete(&mut self, ledger: &Ledger, kept: impl FnOnce(&Hold) -> Ended) {
        let Some(hold) = self.hold.take() else { return };
        let ended = match hold.fate {
            Some(Fate::ClaimRemoved) => {
                ledger.records.withdraw(hold.id, hold.waived, |op| self.tell(ledger, || op));
                return;
            }
            Some(Fate::Stored | Fate::StoredWhenComplete) => kept(&hold),
            Some(Fate::Unknown) | None => Ended::Unknown(Doubt::NoAnswer),
        };
        killpoint::pass(KillPoint::BeforeRecord);
        ledger.records.end(hold.id, ended, |op| self.tell(ledger, || op));
        killpoint::pass(KillPoint::AfterRecord);
    }

    /// Nothing was sent: money goes back, and the record is as it was before.
    pub(super) fn undo(&mut self, ledger: &Ledger) {
        self.settle(ledger, |_| 0);
        if let Some(hold) = self.hold.take() {
            ledger.records.withdraw(hold.id, hold.waived, |op| self.tell(ledger, || op));
        }
    }

    fn pending(&self, ledger: &Ledger) -> Pending {
        let mut charges = self.charges.clone();
        charges.retain(|charge| !ledger.resets.forgave(&charge.meter, self.at.steady));
        Pending {
            id: self.id,
            at: self.at.wall,
            charges,
            record: self.hold.as_ref().map(|hold| hold.id),
            party: self.party.clone(),
        }
    }

    /// Tells the backing, if it was told of the promise. Nobody waits: where this is lost, a crash leaves the promise open,
    /// which errs towards charging and towards not sending again.
    fn tell(&self, ledger: &Ledger, op: impl FnOnce() -> Op) {
        if self.telling == Telling::Told {
            ledger.tell(op());
        }
    }
}
