//! Subject → cell: read without a lock, bounded where strangers choose the subjects.

use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use papaya::{Guard, HashMap, LocalGuard};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::clock::Now;
use crate::policy::limit::SubjectKey;
use crate::policy::order::Ask;

use super::cell::{Cell, Room};

/// The cell of newcomers for whose network there is no room either: every limit has one meter for all of them.
const CROWD: SubjectKey = SubjectKey(0x746f_6c6c_6761_7465_0000_0000_0000_0002);

/// How many cells a sweep takes off the queue at a time.
const BATCH: usize = 32;

/// All cells.
#[derive(Debug)]
pub(super) struct Table {
    /// Hashed with a random state: addresses are chosen by strangers. A cell stands behind its subject, one place in
    /// memory for both: one miss less for each of a million keys.
    cells: HashMap<SubjectKey, Cell, RandomState>,
    room: Padded<Dynamic>,
    crowded_total: Padded<AtomicU64>,
    /// Every subject in `cells` once, in the order in which the sweep will look at them.
    queue: Mutex<VecDeque<SubjectKey>>,
}

/// Kept apart from what other cores write or read all the time (two lines: they are fetched in pairs).
#[repr(align(128))]
#[derive(Debug, Default)]
struct Padded<T>(T);

/// Room for subjects that strangers can invent. Written only when a cell comes or goes.
#[derive(Debug, Default)]
struct Dynamic {
    count: AtomicUsize,
    bound: AtomicUsize,
}

/// How full the table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Cells of all kinds.
    pub cells: usize,
    /// Cells of dynamic subjects, the cells that full networks share among them.
    pub dynamic: usize,
    /// The most dynamic subjects that get cells of their own; an eighth more is kept for their networks.
    pub bound: usize,
    /// Asks, since the start, that were decided against a network's cell because there was no room.
    pub crowded_total: u64,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Cells looked at.
    pub looked: usize,
    /// Idle ones among them, which are gone.
    pub removed: usize,
}

/// Where an ask is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat<'g> {
    /// The subject itself, or the crowd that it shares.
    pub(super) subject: SubjectKey,
    pub(super) cell: &'g Cell,
}

impl Table {
    pub(super) fn new(bound: usize) -> Table {
        let room = Dynamic { count: AtomicUsize::new(0), bound: AtomicUsize::new(bound) };
        Table {
            cells: HashMap::with_hasher(RandomState::default()),
            room: Padded(room),
            crowded_total: Padded::default(),
            queue: Mutex::default(),
        }
    }

    /// What holds the cells that a lookup finds. To be held shortly.
    pub(super) fn guard(&self) -> LocalGuard<'_> {
        self.cells.guard()
    }

    pub(super) fn get<'g>(&self, subject: SubjectKey, guard: &'g impl Guard) -> Option<&'g Cell> {
        self.cells.get(&subject, guard)
    }

    /// Where the ask is counted; makes the cell if there is none and there is room.
    pub(super) fn seat<'g>(&self, ask: &Ask, guard: &'g impl Guard) -> Seat<'g> {
        let own = ask.subject;
        if let Some(cell) = self.get(own, guard) {
            return Seat { subject: own, cell };
        }
        let Some(crowd) = ask.crowded else {
            return Seat { subject: own, cell: self.insert(own, Room::Kept, guard) };
        };
        let bound = self.room.0.bound.load(Ordering::Relaxed);
        if self.claim(bound) {
            return Seat { subject: own, cell: self.insert(own, Room::Counted, guard) };
        }
        if let Some(cell) = self.get(crowd, guard) {
            Seat { subject: crowd, cell }
        } else if self.claim(with_reserve(bound)) {
            Seat { subject: crowd, cell: self.insert(crowd, Room::Counted, guard) }
        } else {
            let cell = self.get(CROWD, guard);
            let cell = cell.unwrap_or_else(|| self.insert(CROWD, Room::Kept, guard));
            Seat { subject: CROWD, cell }
        }
    }

    /// The cell of a subject that somebody named: it gets room whatever it is.
    pub(super) fn named<'g>(&self, subject: SubjectKey, guard: &'g impl Guard) -> &'g Cell {
        self.get(subject, guard).unwrap_or_else(|| self.insert(subject, Room::Kept, guard))
    }

    /// Shows every cell once, in no order; one that comes meanwhile may be left out.
    pub(super) fn each(&self, mut show: impl FnMut(SubjectKey, &Cell)) {
        let guard = self.guard();
        for (subject, cell) in self.cells.iter(&guard) {
            show(*subject, cell);
        }
    }

    /// Where the ask would be counted, if that is anywhere yet.
    pub(super) fn find<'g>(&self, ask: &Ask, guard: &'g impl Guard) -> Option<&'g Cell> {
        let own = self.get(ask.subject, guard);
        own.or_else(|| self.crowd_of(ask, ask.subject, guard))
    }

    /// The cell in which the ask may have been counted before it was seated at `seated`. What is in use there is in use.
    pub(super) fn crowd_of<'g>(
        &self,
        ask: &Ask,
        seated: SubjectKey,
        guard: &'g impl Guard,
    ) -> Option<&'g Cell> {
        let crowd = ask.crowded.filter(|_| seated != CROWD)?;
        let nearer = if seated == crowd { None } else { self.get(crowd, guard) };
        nearer.or_else(|| self.get(CROWD, guard))
    }

    /// Counts asks that were decided in a crowd.
    pub(super) fn count_crowded(&self, asks: u64) {
        if asks > 0 {
            self.crowded_total.0.fetch_add(asks, Ordering::Relaxed);
        }
    }

    /// Whether there is a nearer cell for the ask than the crowd in which it was seated. Asked again under the crowd's
    /// lock: a cell that appears later starts from what is charged to the crowd until then.
    pub(super) fn has_nearer(&self, ask: &Ask, seated: SubjectKey, guard: &impl Guard) -> bool {
        let exists = |subject| seated != subject && self.get(subject, guard).is_some();
        seated != ask.subject && (exists(ask.subject) || ask.crowded.is_some_and(exists))
    }

    /// Takes a retired cell out, unless another has taken its place.
    pub(super) fn forget(&self, subject: SubjectKey, cell: &Cell, guard: &impl Guard) {
        let removed = self.cells.remove_if(&subject, |_, found| ptr::eq(found, cell), guard);
        if matches!(removed, Ok(Some(_))) && cell.room() == Room::Counted {
            self.room.0.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Removes idle cells; looks at no more than `budget` of them, and goes on from there the next time.
    pub(super) fn sweep(&self, now: Now, budget: usize) -> Swept {
        let mut swept = Swept::default();
        let mut left = budget.min(self.queue.lock().len());
        while left > 0 {
            let mut batch: SmallVec<[SubjectKey; BATCH]> = SmallVec::new();
            let mut queue = self.queue.lock();
            let many = left.min(BATCH).min(queue.len());
            batch.extend(queue.drain(..many));
            drop(queue);
            if batch.is_empty() {
                break;
            }
            left -= batch.len();
            swept.looked += batch.len();
            let before = batch.len();
            let guard = self.guard();
            batch.retain(|subject| !self.remove_if_idle(*subject, now, &guard));
            swept.removed += before - batch.len();
            self.queue.lock().extend(batch);
        }
        swept
    }

    fn remove_if_idle(&self, subject: SubjectKey, now: Now, guard: &impl Guard) -> bool {
        let Some(cell) = self.get(subject, guard) else { return true };
        let idle = cell.retire_if_idle(now);
        if idle {
            self.forget(subject, cell, guard);
        }
        idle
    }

    pub(super) fn set_bound(&self, bound: usize) {
        self.room.0.bound.store(bound, Ordering::Relaxed);
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy {
            cells: self.cells.len(),
            dynamic: self.room.0.count.load(Ordering::Relaxed),
            bound: self.room.0.bound.load(Ordering::Relaxed),
            crowded_total: self.crowded_total.0.load(Ordering::Relaxed),
        }
    }

    fn claim(&self, bound: usize) -> bool {
        let count = &self.room.0.count;
        let more = |count: usize| (count < bound).then(|| count + 1);
        // A plain read first: a full table must not be written to by everyone who finds it full.
        count.load(Ordering::Relaxed) < bound
            && count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn insert<'g>(&self, subject: SubjectKey, room: Room, guard: &'g impl Guard) -> &'g Cell {
        match self.cells.try_insert(subject, Cell::new(room), guard) {
            Ok(cell) => {
                self.queue.lock().push_back(subject);
                cell
            }
            Err(taken) => {
                if room == Room::Counted {
                    self.room.0.count.fetch_sub(1, Ordering::Relaxed);
                }
                taken.current
            }
        }
    }
}

/// The bound for cells that networks share: without one, a stranger with many networks could still fill memory.
fn with_reserve(bound: usize) -> usize {
    bound.saturating_add(bound / 8).saturating_add(64)
}
