//! The ledger itself: what it is made of, and what the rest of the gate may ask of it between requests.

use std::hash::BuildHasher;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};
use foldhash::fast::RandomState;

use crate::clock::{Now, Wall};
use crate::policy::idempotency::RecordId;
use crate::policy::keys::Near;
use crate::policy::limit::{LimitKind, SubjectKey};
use crate::policy::meter::{Block, Meter};
use crate::policy::order::Ask;
use crate::policy::overlay::Overlay;

use super::backing::Backing;
use super::flush::Sightings;
use super::office::Office;
use super::op::{Batch, Charge, Charges, Doubt, MeterId, Op, Pending, Record, ReservationId};
use super::promise::Keeping;
use super::records::{RecordOccupancy, Records};
use super::resets::Resets;
use super::restored::Restored;
use super::table::{Occupancy, Swept, Table};
use super::unresolved::Unresolved;

/// How long a calendar period is remembered after its end, in milliseconds: a clock that is set back by less than this
/// finds its use again.
const LINGER: i64 = 24 * 3_600_000;

/// The keys that are revoked outside their files, as of one moment.
#[derive(Debug)]
pub enum Overlaid<'a> {
    /// None is.
    Nothing(&'a Overlay),
    /// Some are.
    Some(Guard<Arc<Overlay>>),
}

impl Deref for Overlaid<'_> {
    type Target = Overlay;

    fn deref(&self) -> &Overlay {
        match self {
            Overlaid::Nothing(overlay) => overlay,
            Overlaid::Some(overlay) => overlay,
        }
    }
}

/// What every subject has used, what is known of every idempotency key, and what was done to keys at run time.
#[derive(Debug)]
pub struct Ledger {
    pub(super) table: Table,
    pub(super) records: Records,
    pub(super) unresolved: Unresolved,
    pub(super) resets: Resets,
    overlay: ArcSwap<Overlay>,
    /// Whether there is anything in it. Mostly nothing is, and to look here takes no locked instruction, of which the
    /// other takes two in every request.
    overlaid: AtomicBool,
    /// What is there when nothing is.
    nothing: Overlay,
    pub(super) office: Office,
    pub(super) sightings: Sightings,
    backing: Backing,
    /// When the first sweep was.
    origin: OnceLock<Now>,
    /// The next reservation's number; it begins anywhere, so that two processes hardly share one.
    numbers: AtomicU64,
}

impl Ledger {
    /// A ledger with room for so many dynamic subjects, which goes on from where its backing says that it was.
    pub fn new(subjects_bound: usize, backing: Backing, restored: Restored) -> Arc<Ledger> {
        let Restored { at, meters, records, pending, revoked, seen, acts } = restored;
        let table = Table::new(subjects_bound);
        for (id, meter) in meters {
            table.named(id.subject).cell.restore(id.limit, meter);
        }
        let overlay: Overlay =
            revoked.into_iter().fold(Overlay::default(), |overlay, (subject, revoked)| {
                overlay.revoking(subject, revoked)
            });
        Arc::new(Ledger {
            table,
            records: Records::new(records, at),
            unresolved: Unresolved::new(pending),
            resets: Resets::default(),
            overlaid: AtomicBool::new(!overlay.is_empty()),
            overlay: ArcSwap::from_pointee(overlay),
            nothing: Overlay::default(),
            office: Office::new(acts),
            sightings: Sightings::new(seen),
            backing,
            origin: OnceLock::new(),
            numbers: AtomicU64::new(RandomState::default().hash_one(0)),
        })
    }

    /// What stands behind it.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Changes the room for dynamic subjects. Those that are over a lower bound stay until they are idle.
    pub fn set_subjects_bound(&self, bound: usize) {
        self.table.set_bound(bound);
    }

    /// How full it is.
    pub fn occupancy(&self) -> Occupancy {
        self.table.occupancy()
    }

    /// Removes cells that say nothing any more. Looks at no more than `budget` cells; the next sweep goes on from
    /// there.
    pub fn sweep(&self, now: Now, budget: usize) -> Swept {
        // A wall clock that jumps ahead and back again must not have ended a period for good: what is believed of it is
        // how far the steady one came since the first sweep.
        let origin = self.origin.get_or_init(|| now);
        let passed = now.steady.since(origin.steady);
        let believed = now.wall.min(origin.wall.plus_nanos(passed));
        let wall = Wall(believed.0.saturating_sub(LINGER));
        self.table.sweep(Now { wall, ..now }, budget)
    }

    /// The keys that are revoked outside their files. Costs no shared counter; not to be held for long.
    pub fn overlay(&self) -> Overlaid<'_> {
        if self.overlaid.load(Ordering::Acquire) {
            Overlaid::Some(self.overlay.load())
        } else {
            Overlaid::Nothing(&self.nothing)
        }
    }

    /// From here on these keys are revoked outside their files. Under the office's lock.
    pub(super) fn overlay_with(&self, overlay: Overlay) {
        let overlaid = !overlay.is_empty();
        self.overlay.store(Arc::new(overlay));
        // Behind it: who reads that there is something reads it.
        self.overlaid.store(overlaid, Ordering::Release);
    }

    /// Begins to fetch from memory what the key of this secret has used. It changes nothing.
    pub fn approach(&self, secret: Near) {
        self.table.approach(secret);
    }

    /// Reservations whose outcome nobody knows, oldest first.
    pub fn unresolved(&self) -> Vec<(Pending, Doubt)> {
        self.unresolved.oldest(usize::MAX)
    }

    /// The oldest of them, at most so many.
    pub fn oldest_unresolved(&self, most: usize) -> Vec<(Pending, Doubt)> {
        self.unresolved.oldest(most)
    }

    /// This one of them.
    pub fn unresolved_one(&self, id: ReservationId) -> Option<Pending> {
        self.unresolved.lock().get(id).map(|(pending, _)| pending.clone())
    }

    /// Those of them that this did not return before, at most so many: for who says them.
    pub fn newly_unresolved(&self, most: usize) -> Vec<(Pending, Doubt)> {
        self.unresolved.news(most)
    }

    /// How many had to leave the list since the start, because it was full. They stay charged.
    pub fn unlisted_total(&self) -> u64 {
        self.unresolved.pushed_out()
    }

    /// How many there are of them.
    pub fn unresolved_count(&self) -> usize {
        self.unresolved.lock().len()
    }

    /// Idempotency records whose outcome nobody knows, oldest first.
    pub fn unknown_records(&self) -> Vec<(RecordId, Record)> {
        self.records.unknown(usize::MAX)
    }

    /// The oldest of them, at most so many.
    pub fn oldest_unknown_records(&self, most: usize) -> Vec<(RecordId, Record)> {
        self.records.unknown(most)
    }

    /// This one of them.
    pub fn unknown_record(&self, id: RecordId) -> Option<Record> {
        self.records.unknown_one(id)
    }

    /// How full the idempotency records are.
    pub fn records(&self) -> RecordOccupancy {
        self.records.occupancy()
    }

    /// Forgets records whose life has ended, at most `budget`.
    pub fn sweep_records(&self, now: Now, budget: usize) {
        self.records.sweep(now, budget, |batch| self.backing.submit(batch, None));
    }

    /// Lists money whose outcome nobody knows. What that pushes off the list stays charged.
    pub(super) fn doubt(&self, pending: Pending, doubt: Doubt) {
        for id in self.unresolved.add(pending, doubt) {
            self.tell(Op::Settle { id, back: Charges::new() });
        }
    }

    pub(super) fn keeping(&self) -> Keeping {
        if self.backing.remembers() { Keeping::Durable } else { Keeping::Memory }
    }

    /// Tells the backing something that nobody waits for. What is lost of it errs towards charging, and towards not
    /// sending again.
    pub(super) fn tell(&self, op: Op) {
        if self.backing.remembers() {
            let _ = self.backing.submit(Batch::from_iter([op]), None);
        }
    }

    pub(super) fn next_reservation(&self, now: Wall) -> ReservationId {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let millis = u64::try_from(now.0).unwrap_or(0);
        ReservationId((u128::from(millis) << 64) | u128::from(number))
    }

    /// Undoes a take of a rate or a quota, unless a reset has undone it.
    pub(super) fn give_back(&self, ask: &Ask, seated: SubjectKey, at: Now) {
        let id = MeterId { limit: ask.id, kind: ask.ceiling.window.kind(), subject: seated };
        if self.resets.forgave(&id, at.steady) {
            return;
        }
        self.change(&id, |meter| meter.give_back(&ask.ceiling, ask.weight, at));
    }

    /// Gives money back to the period that was charged.
    pub(super) fn refund(&self, charge: &Charge) {
        self.change(&charge.meter, |meter| match meter {
            Meter::Spend(tally) => tally.give_back(charge.amount, charge.at),
            Meter::Credit(purse) => purse.give_back(charge.amount),
            Meter::Bucket(_)
            | Meter::Sliding(_)
            | Meter::Fixed(_)
            | Meter::Concurrent(_)
            | Meter::Quota(_) => {}
        });
    }

    /// A block of a quota is durable.
    pub(super) fn secured(&self, meter: &MeterId, block: &Block) {
        debug_assert_eq!(meter.kind, LimitKind::Quota, "only quotas have blocks");
        self.change(meter, |meter| {
            if let Meter::Quota(tally) = meter {
                tally.secured(block);
            }
        });
    }

    /// Changes a meter; nothing if its cell was swept since, for then it counted nothing any more.
    pub(super) fn change(&self, id: &MeterId, change: impl FnOnce(&mut Meter)) {
        let Some(seat) = self.table.get(id.subject) else { return };
        let Some(mut meters) = seat.lock() else { return };
        if let Some(place) = meters.place(id.limit, id.kind) {
            change(meters.at_mut(place));
            seat.cell.note_change();
        }
    }

    /// When a key was last used, or first seen. To the hour.
    pub fn last_seen(&self, key: SubjectKey) -> Option<Wall> {
        self.sightings.last(key)
    }

    /// A key was used. Kept to the hour, and written then only.
    pub fn saw(&self, key: SubjectKey, now: Wall) {
        self.sightings.note(key, now);
    }
}
