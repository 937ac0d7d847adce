//! One subject's meters behind one short lock.
//!
//! Under the lock nothing allocates, calls out or waits: what needs room is made before, and checked again inside.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::clock::Now;
use crate::fetch;
use crate::policy::limit::{Ceiling, LimitId, LimitKind, SubjectKey, Window};
use crate::policy::meter::{Look, Meter};
use crate::policy::order::{Ask, Reading};

use super::table::Seat;

/// A subject's cell, or one that waits for a subject. Two cache lines, aligned to as many, so that unrelated subjects share
/// none; the fields stand in this order, so that what is read without the lock is in both.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Cell {
    /// Whose it is or was, in halves. Written under the lock.
    subject: [AtomicU64; 2],
    meters: Mutex<Meters>,
    /// Whether something was taken since the last flush. Written under the lock, and read without it.
    changed: AtomicBool,
}

/// Whose room a cell takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Subjects that the policy and the key files name: they always get room.
    Kept,
    /// Subjects that strangers can invent: counted against the bound.
    Counted,
}

/// What the lock guards.
#[derive(Debug, Default)]
pub(super) struct Meters {
    life: Life,
    /// Few: one a limit that counts this subject, two where a limit's name changed its family.
    entries: SmallVec<[Entry; 1]>,
}

/// Whether a cell may be charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    Live(Room),
    /// It waits for a subject, or was just swept: whoever came for the one it had must look that up again.
    #[default]
    Retired,
}

#[derive(Debug)]
struct Entry {
    limit: LimitId,
    meter: Meter,
    /// Of a concurrent limit: as many references as there are open places, and this one.
    open: Option<Slot>,
}

/// One open place in a concurrent limit. Dropping it frees it, without the lock and whatever became of the cell.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    place: Arc<()>,
}

impl Slot {
    /// Those that are open beside the one that counts them.
    fn others(&self) -> u64 {
        u64::try_from(Arc::strong_count(&self.place)).unwrap_or(u64::MAX).saturating_sub(1)
    }
}

impl Entry {
    /// Allocates for a concurrent limit.
    fn new(limit: LimitId, meter: Meter) -> Entry {
        let open = match meter.kind() {
            LimitKind::Concurrent => Some(Slot { place: Arc::default() }),
            LimitKind::Rate | LimitKind::Quota | LimitKind::Spend | LimitKind::Credit => None,
        };
        Entry { limit, meter, open }
    }

    /// Tells the meter of a concurrent limit how many places are open now.
    fn recount(&mut self) {
        if let Some(open) = &self.open {
            self.meter.set_open(open.others());
        }
    }
}

/// Meters as they stood at one moment.
pub(super) type Images = SmallVec<[(LimitId, Meter); 4]>;

impl Cell {
    /// Begins to fetch both lines. A lock waits for all that is read before it, so that without this the second line of a
    /// cell would be asked for only when the first has come: 100 ns with a million cells.
    pub(super) fn approach(&self) {
        fetch::ahead(&self.subject);
        fetch::ahead(&self.changed);
    }

    /// Whether it is this subject's, or was just now: only the lock makes it certain.
    pub(super) fn seems_to_be_of(&self, subject: SubjectKey) -> bool {
        let halves = [0, 1].map(|at: usize| self.subject[at].load(Ordering::Relaxed));
        halves == halved(subject)
    }

    /// The meters of this subject; `None` if the cell is retired or another's.
    pub(super) fn lock(&self, subject: SubjectKey) -> Option<MutexGuard<'_, Meters>> {
        let meters = self.meters.lock();
        (meters.life != Life::Retired && self.seems_to_be_of(subject)).then_some(meters)
    }

    /// Gives the vacant cell to a subject, if it can be `named` so; an error leaves it vacant.
    pub(super) fn occupy<E>(
        &self,
        subject: SubjectKey,
        room: Room,
        named: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut meters = self.meters.lock();
        debug_assert!(meters.life == Life::Retired && meters.entries.is_empty(), "it is vacant");
        named()?;
        meters.life = Life::Live(room);
        self.changed.store(false, Ordering::Relaxed);
        for (half, value) in self.subject.iter().zip(halved(subject)) {
            half.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes sure that there is a meter of this limit that counts as the ceiling says, starting from the use of the
    /// one that counted otherwise, or else of the `crowd` in which the subject was counted until now. A cell that is the
    /// subject's no more is left alone.
    pub(super) fn furnish(
        &self,
        subject: SubjectKey,
        limit: LimitId,
        ceiling: &Ceiling,
        now: Now,
        crowd: Option<Seat<'_>>,
    ) {
        let mut fresh = Meter::empty(ceiling.window);
        if let Some(mut theirs) = crowd.and_then(|crowd| crowd.lock())
            && let Some(at) = theirs.place(limit, ceiling.window.kind())
        {
            fresh.inherit(&theirs.entries[at].meter, ceiling, now);
        }
        let mut spare: SmallVec<[Entry; 1]> = SmallVec::new();
        let mut made = Some(Entry::new(limit, fresh));
        // What is replaced lives until after the lock.
        let _replaced;
        loop {
            let Some(mut meters) = self.lock(subject) else { return };
            if let Some(at) = meters.place(limit, ceiling.window.kind()) {
                let meter = &mut meters.entries[at].meter;
                if !meter.counts(ceiling.window)
                    && let Some(Entry { meter: mut fresh, .. }) = made.take()
                {
                    fresh.inherit(meter, ceiling, now);
                    _replaced = mem::replace(meter, fresh);
                }
                return;
            }
            let many = meters.entries.len();
            if many == meters.entries.capacity() && many < spare.capacity() {
                spare.append(&mut meters.entries);
                mem::swap(&mut spare, &mut meters.entries);
            }
            if many < meters.entries.capacity() {
                meters.entries.extend(made.take());
                return;
            }
            drop(meters);
            spare.reserve(many + 1);
        }
    }

    /// Puts a meter in that was remembered. Only before anybody asks.
    pub(super) fn restore(&self, limit: LimitId, meter: Meter) {
        let entry = Entry::new(limit, meter);
        self.meters.lock().entries.push(entry);
    }

    /// Something was taken. To be called under the lock.
    pub(super) fn note_change(&self) {
        // Mostly it is said already, and nobody else's line is taken away for saying it again.
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether something was taken since the last images were made.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Images of those meters of the `wanted` kinds that say something, and from now on nothing has changed.
    pub(super) fn images(&self, subject: SubjectKey, now: Now, wanted: &[LimitKind]) -> Images {
        let of_interest =
            |entry: &Entry| wanted.contains(&entry.meter.kind()) && !entry.meter.is_idle(now);
        let shapes: SmallVec<[(LimitId, Window); 4]> = {
            let Some(meters) = self.lock(subject) else { return Images::new() };
            // First of all: what is taken from here on is in the next images, whether or not it is in these.
            self.changed.store(false, Ordering::Relaxed);
            let wanted = meters.entries.iter().filter(|entry| of_interest(entry));
            wanted.map(|entry| (entry.limit, entry.meter.shape())).collect()
        };
        let mut images: Images =
            shapes.iter().map(|(limit, shape)| (*limit, Meter::empty(*shape))).collect();
        let Some(mut meters) = self.lock(subject) else { return Images::new() };
        images.retain(|(limit, image)| {
            let place = meters.place(*limit, image.kind());
            // One that counts otherwise since a moment ago was changed since.
            let meter = place.map(|at| meters.at(at)).filter(|meter| meter.counts(image.shape()));
            meter.is_some_and(|meter| {
                image.copy_from(meter);
                true
            })
        });
        images
    }

    /// Retires the cell if it says nothing that an absent one would not say, and has it forgotten by its name; whose room
    /// it took.
    pub(super) fn retire_if_idle(
        &self,
        subject: SubjectKey,
        now: Now,
        forget: impl FnOnce(),
    ) -> Option<Room> {
        let mut meters = self.lock(subject)?;
        let Life::Live(room) = meters.life else { return None };
        meters.entries.iter_mut().for_each(Entry::recount);
        if !meters.entries.iter().all(|entry| entry.meter.is_idle(now)) {
            return None;
        }
        meters.life = Life::Retired;
        forget();
        let spent = mem::take(&mut meters.entries);
        drop(meters);
        drop(spent);
        Some(room)
    }
}

/// Halves that fit an atomic each.
#[expect(clippy::cast_possible_truncation, reason = "the other half is in the other place")]
fn halved(subject: SubjectKey) -> [u64; 2] {
    [(subject.0 >> 64) as u64, subject.0 as u64]
}

impl Meters {
    /// The meter that counts this kind of use for a limit. From here on, and as long as the lock is held, a concurrent one
    /// counts no fewer places than are open.
    pub(super) fn place(&mut self, limit: LimitId, kind: LimitKind) -> Option<usize> {
        let is_it = |entry: &Entry| entry.limit == limit && entry.meter.kind() == kind;
        let at = self.entries.iter().position(is_it)?;
        self.entries[at].recount();
        Some(at)
    }

    /// The meter that counts as the ask's window does, recounted alike, and what it says to the ask.
    pub(super) fn look(&mut self, ask: &Ask, now: Now) -> Option<(usize, Look)> {
        let mut entries = self.entries.iter_mut().enumerate();
        entries.find_map(|(at, entry)| {
            if entry.limit != ask.id {
                return None;
            }
            entry.recount();
            Some((at, entry.meter.look(ask, now)?))
        })
    }

    /// What it says to an ask that is refused, by it or by another one. `None` if there is none.
    pub(super) fn decline(&mut self, ask: &Ask, now: Now) -> Option<Reading> {
        for entry in &mut self.entries {
            if entry.limit == ask.id {
                entry.recount();
                let said = entry.meter.look_and_decline(ask, now);
                if said.is_some() {
                    return said;
                }
            }
        }
        None
    }

    /// One more open place of a concurrent limit; `None` of any other.
    pub(super) fn slot(&self, place: usize) -> Option<Slot> {
        self.entries[place].open.clone()
    }

    pub(super) fn at(&self, place: usize) -> &Meter {
        &self.entries[place].meter
    }

    pub(super) fn at_mut(&mut self, place: usize) -> &mut Meter {
        &mut self.entries[place].meter
    }
}
