//! One subject's meters behind one short lock.
//!
//! Under the lock nothing allocates, calls out or waits: what needs room is made before, and checked again inside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::clock::Now;
use crate::policy::limit::{Ceiling, LimitId, LimitKind, Window};
use crate::policy::meter::Meter;

/// A subject's cell. With its subject it is two cache lines, which the allocator aligns to as many: the table keeps it
/// in place behind its key, and unrelated subjects share none.
#[derive(Debug)]
pub(super) struct Cell {
    room: Room,
    /// Whether something was taken since the last flush. Written under the lock, and read without it.
    changed: AtomicBool,
    meters: Mutex<Meters>,
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
#[derive(Debug)]
pub(super) struct Meters {
    life: Life,
    /// Few: one a limit that counts this subject, two where a limit's name changed its family.
    entries: SmallVec<[Entry; 1]>,
}

/// Whether a cell may still be charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Live,
    /// Swept: it is leaving the table, and whoever still holds it must look its subject up again.
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
    pub(super) fn new(room: Room) -> Cell {
        let meters = Meters { life: Life::Live, entries: SmallVec::new() };
        Cell { room, changed: AtomicBool::new(false), meters: Mutex::new(meters) }
    }

    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// Begins to fetch the line in which the lock is. A lock waits for all that is read before it, so that without this
    /// the second line of a cell would be asked for only when the first has come: 100 ns with a million cells.
    pub(super) fn approach(&self) {
        std::hint::black_box(self.room);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Meters> {
        self.meters.lock()
    }

    /// Makes sure that there is a meter of this limit that counts as the ceiling says, starting from the use of the
    /// one that counted otherwise, or else of the `crowd` in which the subject was counted until now. A retired cell is
    /// left alone.
    pub(super) fn furnish(
        &self,
        limit: LimitId,
        ceiling: &Ceiling,
        now: Now,
        crowd: Option<&Cell>,
    ) {
        let mut fresh = Meter::empty(ceiling.window);
        if let Some(crowd) = crowd {
            let mut theirs = crowd.lock();
            if let Some(at) = theirs.place(limit, ceiling.window.kind()) {
                fresh.inherit(&theirs.entries[at].meter, ceiling, now);
            }
        }
        let mut spare: SmallVec<[Entry; 1]> = SmallVec::new();
        let mut made = Some(Entry::new(limit, fresh));
        // What is replaced lives until after the lock.
        let _replaced;
        let mut meters = self.lock();
        loop {
            if meters.is_retired() {
                return;
            }
            if let Some(at) = meters.place(limit, ceiling.window.kind()) {
                let meter = &mut meters.entries[at].meter;
                if !meter.counts(ceiling.window)
                    && let Some(Entry { meter: mut fresh, .. }) = made.take()
                {
                    fresh.inherit(meter, ceiling, now);
                    _replaced = std::mem::replace(meter, fresh);
                }
                return;
            }
            let many = meters.entries.len();
            if many < meters.entries.capacity() {
                break;
            }
            if many < spare.capacity() {
                spare.append(&mut meters.entries);
                std::mem::swap(&mut spare, &mut meters.entries);
                break;
            }
            drop(meters);
            spare.reserve(many + 1);
            meters = self.lock();
        }
        meters.entries.extend(made);
        drop(meters);
    }

    /// Puts a meter in that was remembered. Only before anybody asks.
    pub(super) fn restore(&self, limit: LimitId, meter: Meter) {
        let entry = Entry::new(limit, meter);
        self.lock().entries.push(entry);
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
    pub(super) fn images(&self, now: Now, wanted: &[LimitKind]) -> Images {
        let of_interest =
            |entry: &Entry| wanted.contains(&entry.meter.kind()) && !entry.meter.is_idle(now);
        let shapes: SmallVec<[(LimitId, Window); 4]> = {
            let meters = self.lock();
            // First of all: what is taken from here on is in the next images, whether or not it is in these.
            self.changed.store(false, Ordering::Relaxed);
            let wanted = meters.entries.iter().filter(|entry| of_interest(entry));
            wanted.map(|entry| (entry.limit, entry.meter.shape())).collect()
        };
        let mut images: Images =
            shapes.iter().map(|(limit, shape)| (*limit, Meter::empty(*shape))).collect();
        let mut meters = self.lock();
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

    /// Retires the cell if it says nothing that an absent one would not say.
    pub(super) fn retire_if_idle(&self, now: Now) -> bool {
        let mut meters = self.lock();
        meters.entries.iter_mut().for_each(Entry::recount);
        let idle = meters.entries.iter().all(|entry| entry.meter.is_idle(now));
        if idle {
            meters.life = Life::Retired;
        }
        idle
    }
}

impl Meters {
    pub(super) fn is_retired(&self) -> bool {
        self.life == Life::Retired
    }

    /// The meter that counts so for a limit. From here on, and as long as the lock is held, a concurrent one counts no
    /// fewer places than are open.
    pub(super) fn place(&mut self, limit: LimitId, kind: LimitKind) -> Option<usize> {
        let is_it = |entry: &Entry| entry.limit == limit && entry.meter.kind() == kind;
        let at = self.entries.iter().position(is_it)?;
        self.entries[at].recount();
        Some(at)
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
