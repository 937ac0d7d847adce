//! Subject → cell: read without a lock, bounded where strangers choose the subjects.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use papaya::HashMap;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::clock::Now;
use crate::policy::authenticate::Caller;
use crate::policy::keys::Near;
use crate::policy::limit::SubjectKey;
use crate::policy::order::Ask;

use super::cell::{Cell, Meters, Room};
use super::shortcuts::Shortcuts;
use super::slab::{CellIx, Slab};

/// The cell of newcomers for whose network there is no room either: every limit has one meter for all of them.
const CROWD: SubjectKey = SubjectKey(0x746f_6c6c_6761_7465_0000_0000_0000_0002);

/// How many cells a sweep takes off the queue at a time.
const BATCH: usize = 32;

/// All cells.
#[derive(Debug)]
pub(super) struct Table {
    cells: Slab,
    /// Hashed with a random state: addresses are chosen by strangers.
    names: HashMap<SubjectKey, CellIx, RandomState>,
    shortcuts: Shortcuts,
    room: Padded<Dynamic>,
    crowded_total: Padded<AtomicU64>,
    /// Every subject in `names` once, in the order in which the sweep will look at them.
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
pub(super) struct Seat<'t> {
    /// The subject itself, or the crowd that it shares.
    pub(super) subject: SubjectKey,
    pub(super) cell: &'t Cell,
}

/// How a cell is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Where it was the last time, or else by name.
    Shortcut,
    /// By name: what a shortcut led to was another's under its lock.
    Name,
}

impl<'t> Seat<'t> {
    /// The subject's meters; `None` if the cell is not its any more.
    pub(super) fn lock(&self) -> Option<MutexGuard<'t, Meters>> {
        self.cell.lock(self.subject)
    }
}

impl Table {
    pub(super) fn new(bound: usize) -> Table {
        let room = Dynamic { count: AtomicUsize::new(0), bound: AtomicUsize::new(bound) };
        Table {
            cells: Slab::default(),
            names: HashMap::with_hasher(RandomState::default()),
            shortcuts: Shortcuts::new(),
            room: Padded(room),
            crowded_total: Padded::default(),
            queue: Mutex::default(),
        }
    }

    /// The cell of a subject, by name.
    pub(super) fn get(&self, subject: SubjectKey) -> Option<Seat<'_>> {
        let ix = self.number_of(subject)?;
        Some(self.seat_at(subject, ix))
    }

    /// The number of a subject's own cell, if it has one.
    pub(super) fn number_of(&self, subject: SubjectKey) -> Option<CellIx> {
        self.names.pin().get(&subject).copied()
    }

    /// The seat of a subject in the cell of this number, which may be another's by now.
    pub(super) fn seat_at(&self, subject: SubjectKey, ix: CellIx) -> Seat<'_> {
        Seat { subject, cell: self.cells.at(ix) }
    }

    /// Begins to fetch from memory the cell of the key of this secret.
    pub(super) fn approach(&self, secret: Near) {
        match secret {
            Near::About(about) => self.shortcuts.approach(about),
            Near::At(at) => {
                if let Some(ix) = self.shortcuts.of_key(at) {
                    self.cells.at(ix).approach();
                }
            }
        }
    }

    /// Where the ask is counted; makes the cell if there is none and there is room.
    pub(super) fn seat(&self, ask: &Ask, caller: Option<&Caller>, way: Way) -> Seat<'_> {
        let of_key = caller.filter(|caller| caller.subject == ask.subject);
        if way == Way::Shortcut
            && let Some(cell) = self.remembered(ask.subject, of_key)
        {
            return Seat { subject: ask.subject, cell };
        }
        self.seat_newly(ask, of_key)
    }

    /// Where the ask is counted, by name, and that is remembered.
    #[cold]
    fn seat_newly(&self, ask: &Ask, of_key: Option<&Caller>) -> Seat<'_> {
        let (subject, ix) = self.placed_by_name(ask);
        if subject == ask.subject {
            match of_key {
                Some(caller) => self.shortcuts.note_key(caller.place, ix),
                None => self.shortcuts.note_other(subject, ix),
            }
        }
        self.seat_at(subject, ix)
    }

    /// Where the ask was counted the last time, if that cell still looks like its subject's own.
    #[expect(
        clippy::inline_always,
        reason = "one asks it, of each limit that an answer shows, and a call takes 20 instructions"
    )]
    #[inline(always)]
    pub(super) fn known(&self, ask: &Ask, caller: Option<&Caller>) -> Option<Seat<'_>> {
        let of_key = caller.filter(|caller| caller.subject == ask.subject);
        let cell = self.remembered(ask.subject, of_key)?;
        Some(Seat { subject: ask.subject, cell })
    }

    /// The subject's cell where it was the last time, if it still looks like its own.
    #[expect(
        clippy::inline_always,
        reason = "two ask it, and a call takes 100 instructions an admitted request"
    )]
    #[inline(always)]
    fn remembered(&self, subject: SubjectKey, of_key: Option<&Caller>) -> Option<&Cell> {
        let look = |ix: Option<CellIx>| {
            let cell = self.cells.at(ix?);
            cell.seems_to_be_of(subject).then_some(cell)
        };
        if let Some(caller) = of_key {
            return look(self.shortcuts.of_key(caller.place));
        }
        let [first, second] = self.shortcuts.of_other(subject);
        look(first).or_else(|| look(second))
    }

    /// Whose cell the ask is counted in, and its number.
    fn placed_by_name(&self, ask: &Ask) -> (SubjectKey, CellIx) {
        let own = ask.subject;
        if let Some(ix) = self.number_of(own) {
            return (own, ix);
        }
        let Some(crowd) = ask.crowded else { return (own, self.insert(own, Room::Kept)) };
        let bound = self.room.0.bound.load(Ordering::Relaxed);
        if self.claim(bound) {
            return (own, self.insert(own, Room::Counted));
        }
        if let Some(ix) = self.number_of(crowd) {
            (crowd, ix)
        } else if self.claim(with_reserve(bound)) {
            (crowd, self.insert(crowd, Room::Counted))
        } else {
            (CROWD, self.number_of_named(CROWD))
        }
    }

    /// The cell of a subject that somebody named: it gets room whatever it is.
    pub(super) fn named(&self, subject: SubjectKey) -> Seat<'_> {
        self.seat_at(subject, self.number_of_named(subject))
    }

    fn number_of_named(&self, subject: SubjectKey) -> CellIx {
        self.number_of(subject).unwrap_or_else(|| self.insert(subject, Room::Kept))
    }

    /// Shows every cell once, in no order; one that comes meanwhile may be left out.
    pub(super) fn each(&self, mut show: impl FnMut(SubjectKey, &Cell)) {
        for (subject, ix) in &self.names.pin() {
            show(*subject, self.cells.at(*ix));
        }
    }

    /// Where the ask would be counted, if that is anywhere yet.
    pub(super) fn find(&self, ask: &Ask) -> Option<Seat<'_>> {
        // Pinned once for all names: 40 instructions less for each but the first.
        let names = self.names.pin();
        let seat = |subject| names.get(&subject).map(|ix| self.seat_at(subject, *ix));
        seat(ask.subject).or_else(|| crowd_among(ask, ask.subject, seat))
    }

    /// The cell in which the ask may have been counted before it was seated at `seated`. What is in use there is in use.
    pub(super) fn crowd_of(&self, ask: &Ask, seated: SubjectKey) -> Option<Seat<'_>> {
        crowd_among(ask, seated, |subject| self.get(subject))
    }

    /// Counts asks that were decided in a crowd.
    pub(super) fn count_crowded(&self, asks: u64) {
        if asks > 0 {
            self.crowded_total.0.fetch_add(asks, Ordering::Relaxed);
        }
    }

    /// Whether there is a nearer cell for the ask than the crowd in which it was seated. Asked again under the crowd's
    /// lock: a cell that appears later starts from what is charged to the crowd until then.
    pub(super) fn has_nearer(&self, ask: &Ask, seated: SubjectKey) -> bool {
        let exists = |subject| seated != subject && self.get(subject).is_some();
        seated != ask.subject && (exists(ask.subject) || ask.crowded.is_some_and(exists))
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
            batch.retain(|subject| !self.remove_if_idle(*subject, now));
            swept.removed += before - batch.len();
            self.queue.lock().extend(batch);
        }
        swept
    }

    fn remove_if_idle(&self, subject: SubjectKey, now: Now) -> bool {
        let names = self.names.pin();
        let Some(ix) = self.number_of(subject) else { return true };
        // The name goes under the lock: who waits for it finds the cell retired, and the name gone or another cell's.
        let forget = || {
            names.remove(&subject);
        };
        let Some(room) = self.cells.at(ix).retire_if_idle(subject, now, forget) else {
            return false;
        };
        if room == Room::Counted {
            self.room.0.count.fetch_sub(1, Ordering::Relaxed);
        }
        self.cells.leave(ix);
        true
    }

    pub(super) fn set_bound(&self, bound: usize) {
        self.room.0.bound.store(bound, Ordering::Relaxed);
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy {
            cells: self.names.len(),
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

    fn insert(&self, subject: SubjectKey, room: Room) -> CellIx {
        let ix = self.cells.take();
        let names = self.names.pin();
        let name = || names.try_insert(subject, ix).map(drop).map_err(|taken| *taken.current);
        // Under its lock the cell gets its name and its subject at once: who comes by an old shortcut or by the new name
        // waits until it is clear whether it stays.
        if let Err(other) = self.cells.at(ix).occupy(subject, room, name) {
            self.cells.leave(ix);
            if room == Room::Counted {
                self.room.0.count.fetch_sub(1, Ordering::Relaxed);
            }
            return other;
        }
        self.queue.lock().push_back(subject);
        ix
    }
}

/// The bound for cells that networks share: without one, a stranger with many networks could still fill memory.
fn with_reserve(bound: usize) -> usize {
    bound.saturating_add(bound / 8).saturating_add(64)
}

/// The nearest crowd that has a seat and in which the ask may have been counted before it was seated at `seated`.
fn crowd_among<'t>(
    ask: &Ask,
    seated: SubjectKey,
    seat: impl Fn(SubjectKey) -> Option<Seat<'t>>,
) -> Option<Seat<'t>> {
    let crowd = ask.crowded.filter(|_| seated != CROWD)?;
    let nearer = if seated == crowd { None } else { seat(crowd) };
    nearer.or_else(|| seat(CROWD))
}
