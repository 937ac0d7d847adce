//! Where admin acts are done: one at a time, on their way to the backing before they are in force.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::clock::{Now, Wall};
use crate::policy::Name;
use crate::policy::calendar::CalendarIx;
use crate::policy::idempotency::RecordId;
use crate::policy::limit::{Ceiling, LimitKind, Window};
use crate::policy::meter::Meter;
use crate::policy::overlay::Overlay;

use super::acts::{Act, ActProblem, Adjustment, Named, Resolution};
use super::backing::{Health, Reply};
use super::ledger::Ledger;
use super::op::{Batch, Charges, MeterId, Op, Pending, ReservationId};

/// Named acts that are remembered; a repeat of an older one is a fresh one. By number and not by age, so that a clock
/// that jumps makes no act be done twice.
pub(super) const MOST_ACTS: usize = 10_000;

/// The named acts that were done. Its lock is held while one is done: two with one name are done once.
#[derive(Debug)]
pub(super) struct Office(Mutex<HashMap<Name, Done>>);

#[derive(Debug)]
struct Done {
    at: Wall,
    answer: Arc<str>,
    durable: Arc<AtomicBool>,
}

/// An act on its way: what it changes, the name that it goes by, and who waits for it.
struct Post<'a> {
    ledger: &'a Ledger,
    batch: Batch,
    reply: Reply,
}

impl Office {
    pub(super) fn new(restored: Vec<(Name, Wall, Box<str>)>) -> Office {
        let done = |(id, at, answer): (Name, Wall, Box<str>)| {
            (id, Done { at, answer: answer.into(), durable: Arc::new(AtomicBool::new(true)) })
        };
        Office(Mutex::new(restored.into_iter().map(done).collect()))
    }

    /// While this is held no act is done.
    pub(super) fn hold(&self) -> MutexGuard<'_, impl Sized> {
        self.0.lock()
    }
}

/// Makes room for one more. The oldest goes, which is the one that the backing forgets too.
fn make_room(office: &mut HashMap<Name, Done>) {
    while office.len() >= MOST_ACTS {
        let by_age = |(name, done): &(&Name, &Done)| (done.at, Name::clone(name));
        let Some(oldest) = office.iter().min_by_key(by_age).map(|(name, _)| Name::clone(name))
        else {
            return;
        };
        office.remove(&oldest);
    }
}

impl Post<'_> {
    /// Sends it; nothing has happened if that fails.
    fn send(mut self, ops: impl IntoIterator<Item = Op>) -> Result<(), ActProblem> {
        // The changes before the name under which they are remembered.
        let named = std::mem::take(&mut self.batch);
        let batch = ops.into_iter().chain(named).collect();
        let sent = self.ledger.backing().submit(batch, Some(self.reply));
        sent.map_err(|_| ActProblem::StoreFailed)
    }
}

impl Ledger {
    /// Does what a person or a rule asks for: sends it on its way, then applies it in memory. `reply` is told when it is
    /// durable, and must not ask the ledger anything. Without a backing that remembers, at once. An act whose name was used
    /// before is not done again: its `reply` is told when the first one is durable.
    pub fn act(
        &self,
        now: Now,
        act: Act,
        named: Option<Named>,
        reply: Reply,
    ) -> Result<(), ActProblem> {
        if self.backing().health() == Health::Failed {
            return Err(ActProblem::StoreFailed);
        }
        let mut office = self.office.0.lock();
        let mut batch = Batch::new();
        if named.as_ref().is_some_and(|named| office.contains_key(&*named.id)) {
            return Post { ledger: self, batch, reply }.send([]);
        }
        let Some(Named { id, answer }) = named else {
            return self.perform(now, act, Post { ledger: self, batch, reply });
        };
        let durable = Arc::new(AtomicBool::new(false));
        let done = Done { at: now.wall, answer: answer.clone().into(), durable: durable.clone() };
        batch.push(Op::Act { id: id.clone(), at: now.wall, answer });
        let reply: Reply = Box::new(move |result| {
            durable.store(result.is_ok(), Ordering::Release);
            reply(result);
        });
        self.perform(now, act, Post { ledger: self, batch, reply })?;
        make_room(&mut office);
        office.insert(id, done);
        Ok(())
    }

    /// The answer that an act of this name got, once that act is durable.
    pub fn acted(&self, id: &str) -> Option<Arc<str>> {
        let office = self.office.0.lock();
        let done = office.get(id).filter(|done| done.durable.load(Ordering::Acquire))?;
        Some(Arc::clone(&done.answer))
    }

    fn perform(&self, now: Now, act: Act, post: Post<'_>) -> Result<(), ActProblem> {
        match act {
            Act::TopUp { meter, amount } if meter.kind == LimitKind::Credit => {
                post.send([Op::TopUp { meter, amount }])?;
                self.change_made(&meter, now, |meter| {
                    if let Meter::Credit(purse) = meter {
                        purse.top_up(amount);
                    }
                });
            }
            Act::Adjust { meter, period, by } if keeps_sums(meter.kind) => {
                post.send([Op::Adjust { meter, period, at: now.wall, by }])?;
                self.change_made(&meter, now, |meter| match by {
                    Adjustment::Add(amount) => meter.count(amount, period, now.wall),
                    Adjustment::Remove(amount) => meter.discount(amount, period),
                });
            }
            Act::Reset { meter } if meter.kind != LimitKind::Concurrent => {
                post.send([Op::Reset(meter)])?;
                // Noted before it is done, so that nothing is given back out of what comes after.
                self.resets.note(meter, now.steady);
                self.change(&meter, Meter::reset);
                self.unresolved.lock().forgive(&meter);
            }
            Act::TopUp { .. } | Act::Adjust { .. } | Act::Reset { .. } => {
                return Err(ActProblem::NotFound);
            }
            Act::Revoke { key, revoked } => {
                let next = self.overlay().revoking(key, revoked.clone());
                post.send([Op::Revoke(key, Box::new(revoked))])?;
                self.overlay_with(next);
            }
            Act::Restore { key } => {
                let next: Overlay = {
                    let overlay = self.overlay();
                    overlay.revoked(key).ok_or(ActProblem::NotFound)?;
                    overlay.restoring(key)
                };
                post.send([Op::Restore(key), Op::Seen(key, now.wall)])?;
                self.overlay_with(next);
                // Or else a rule about disuse would strike again at once.
                self.saw(key, now.wall);
            }
            Act::Resolve { id, how } => self.resolve(id, how, post)?,
            Act::ResolveRecord { id, how } => self.resolve_record(id, how, post)?,
        }
        Ok(())
    }

    /// Settles a reservation, and the record that hangs on it if nobody knows that one's outcome either.
    fn resolve(
        &self,
        id: ReservationId,
        how: Resolution,
        post: Post<'_>,
    ) -> Result<(), ActProblem> {
        let mut listed = self.unresolved.lock();
        let (pending, _) = listed.get(id).ok_or(ActProblem::NotFound)?;
        let mut post = Some(post);
        let mut send = |record: Option<Op>| match post.take() {
            Some(post) => post.send([settling(pending, how)].into_iter().chain(record)),
            None => Ok(()),
        };
        let with_record = pending.record.map(|record| {
            self.records.resolve(record, Some(pending.at), how, |_, op| send(Some(op)))
        });
        match with_record {
            Some(Ok(())) => {}
            Some(Err(ActProblem::StoreFailed)) => return Err(ActProblem::StoreFailed),
            // The record is another request's by now, or is settled.
            Some(Err(ActProblem::NotFound | ActProblem::UnderWay)) | None => send(None)?,
        }
        if let Some(pending) = listed.remove(id) {
            self.resolved(&pending, how);
        }
        Ok(())
    }

    /// Settles a record, and the reservations that hang on it.
    fn resolve_record(
        &self,
        id: RecordId,
        how: Resolution,
        post: Post<'_>,
    ) -> Result<(), ActProblem> {
        let mut listed = self.unresolved.lock();
        let mut hanging: Vec<Pending> = Vec::new();
        self.records.resolve(id, None, how, |claimed, op| {
            let hangs = |one: &&Pending| one.record == Some(id) && one.at == claimed;
            hanging = listed.all().filter(hangs).cloned().collect();
            post.send(hanging.iter().map(|one| settling(one, how)).chain([op]))
        })?;
        for pending in hanging {
            listed.remove(pending.id);
            self.resolved(&pending, how);
        }
        Ok(())
    }

    fn resolved(&self, pending: &Pending, how: Resolution) {
        match how {
            Resolution::Confirm => {}
            Resolution::Release => pending.charges.iter().for_each(|charge| self.refund(charge)),
        }
    }

    /// Changes a meter, which is made if it is not there yet.
    fn change_made(&self, id: &MeterId, now: Now, change: impl Fn(&mut Meter)) {
        let ceiling = nominal(id.kind);
        loop {
            let seat = self.table.named(id.subject);
            seat.cell.furnish(id.subject, id.limit, &ceiling, now, None);
            // It may have been swept meanwhile.
            if let Some(mut meters) = seat.lock()
                && let Some(place) = meters.place(id.limit, id.kind)
            {
                change(meters.at_mut(place));
                return;
            }
        }
    }
}

fn settling(pending: &Pending, how: Resolution) -> Op {
    let back = match how {
        Resolution::Confirm => Charges::new(),
        Resolution::Release => pending.charges.clone(),
    };
    Op::Settle { id: pending.id, back }
}

/// Whether use of this kind can be counted by hand.
fn keeps_sums(kind: LimitKind) -> bool {
    match kind {
        LimitKind::Quota | LimitKind::Spend | LimitKind::Credit => true,
        LimitKind::Rate | LimitKind::Concurrent => false,
    }
}

/// A ceiling under which a meter of this kind can be made; it is never asked.
fn nominal(kind: LimitKind) -> Ceiling {
    let window = match kind {
        LimitKind::Rate => Window::Bucket,
        LimitKind::Concurrent => Window::Concurrent,
        LimitKind::Quota => Window::Quota(CalendarIx(0)),
        LimitKind::Spend => Window::Spend(CalendarIx(0)),
        LimitKind::Credit => Window::Prepaid,
    };
    Ceiling { window, units: 0, period: 0, burst: 0 }
}
