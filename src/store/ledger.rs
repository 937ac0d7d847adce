//! The one operation of a request: find its cells, lock them in order, read every limit, take from all or from none.

use std::sync::Arc;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use crate::clock::{Now, Wall};
use crate::policy::idempotency::{BodyPrint, HeadPrint, OnUnknown, RecordBounds, RecordId};
use crate::policy::limit::{Mode, SubjectKey};
use crate::policy::meter::Meter;
use crate::policy::order::{Ask, Asks, Reading, Readings};
use crate::policy::overlay::Overlay;

use super::acts::{Act, ActProblem, Named};
use super::backing::Backing;
use super::backing::Reply;
use super::cell::Meters;
use super::op::{Doubt, KeptAnswer, Pending, Record};
use super::reservation::{Reservation, Taken};
use super::table::{Occupancy, Seat, Swept, Table};

/// What every subject has used.
#[derive(Debug)]
pub struct Ledger {
    table: Table,
    backing: Backing,
}

/// The answer to [`Ledger::open`]. One reading an ask, in the order of the asks.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation in every request")]
pub enum Opening {
    /// Every enforced limit admits, and all that admit were taken.
    Admitted(Reservation, Readings),
    /// An enforced limit refuses; nothing was taken.
    Refused(Readings),
    /// A record answers; of the limits only rates were taken.
    Repeated(Found, Readings),
    /// There is no room for one more record; nothing was taken.
    Full(Readings),
    /// The store has failed, and something that was asked for cannot do without it; nothing was taken.
    StoreFailed(Readings),
}

/// How full the idempotency records are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordOccupancy {
    /// Records.
    pub records: usize,
    /// Of these, in flight.
    pub in_flight: usize,
    /// Of these, unknown.
    pub unknown: usize,
    /// Bytes of kept answers.
    pub bytes: usize,
}

/// What the record of an idempotency key says to a repeat of its request.
#[derive(Clone, Debug)]
pub enum Found {
    /// The first is under way.
    InFlight,
    /// The first had another head.
    Mismatch,
    /// Nobody knows what became of the first.
    Unknown,
    /// The first is done; its answer was not kept.
    NotReplayable,
    /// The first is done: this is its answer, for those whose body has this print.
    Answered(Arc<KeptAnswer>, BodyPrint),
}

/// What a request asks of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Its limits.
    pub asks: &'a Asks,
    /// The claim on its idempotency key.
    pub claim: Option<&'a Claim>,
    /// The most records that there may be.
    pub bounds: RecordBounds,
}

/// A claim on an idempotency key.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The record's name.
    pub id: RecordId,
    /// Whose it is.
    pub tenant: SubjectKey,
    /// The print of this request's head.
    pub head: HeadPrint,
    /// How long the record lives, in milliseconds.
    pub keep: i64,
    /// What becomes of a repeat of an unknown outcome.
    pub on_unknown: OnUnknown,
}

impl<'a> Order<'a> {
    /// Limits alone.
    pub fn of(asks: &'a Asks) -> Order<'a> {
        Order { asks, claim: None, bounds: RecordBounds { records: 0, per_tenant: 0, bytes: 0 } }
    }
}

/// Where an ask's meter is: the cell's place among the request's cells, and the meter's place in the cell.
#[derive(Clone, Copy)]
struct Place {
    cell: usize,
    meter: usize,
}

/// The cells of one request, each once, ascending by subject: everybody locks in this order, so nobody waits in a ring.
type Seats<'g> = SmallVec<[Seat<'g>; 6]>;

type Locked<'g> = SmallVec<[MutexGuard<'g, Meters>; 6]>;

impl Ledger {
    /// An empty ledger with room for so many dynamic subjects.
    pub fn new(subjects_bound: usize, backing: Backing) -> Arc<Ledger> {
        Arc::new(Ledger { table: Table::new(subjects_bound), backing })
    }

    /// What stands behind it.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Asks all limits of one request at one instant. Once the subjects have their meters it allocates nothing for up
    /// to six asks, one of them concurrent.
    pub fn open(&self, now: Now, order: &Order<'_>) -> Opening {
        let asks = order.asks;
        if asks.is_empty() {
            return Opening::Admitted(Reservation::new(now), Readings::new());
        }
        loop {
            if let Some(opening) = self.try_open(now, asks) {
                return opening;
            }
        }
    }

    /// What a limit would say now. Takes nothing and makes nothing.
    pub fn peek(&self, now: Now, ask: &Ask) -> Reading {
        let guard = self.table.guard();
        let read = self.table.find(ask, &guard).and_then(|cell| {
            let meters = cell.lock();
            let place = meters.place(ask.id, ask.ceiling.window)?;
            Some(meters.at(place).read(ask, now))
        });
        read.unwrap_or_else(|| Meter::unused(ask, now))
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
        self.table.sweep(now, budget)
    }

    /// The keys that are revoked outside their files.
    pub fn overlay(&self) -> Arc<Overlay> {
        Arc::default()
    }

    /// Does what a person or a rule asks for: sends it on its way, then applies it in memory. `reply` is told when it is
    /// durable. Without a backing that remembers, at once.
    pub fn act(
        &self,
        _now: Now,
        _act: Act,
        _named: Option<Named>,
        _reply: Reply,
    ) -> Result<(), ActProblem> {
        Err(ActProblem::StoreFailed)
    }

    /// The answer that an act of this name got.
    pub fn acted(&self, _id: &str) -> Option<Arc<str>> {
        None
    }

    /// Reservations whose outcome nobody knows, oldest first.
    pub fn unresolved(&self) -> Vec<(Pending, Doubt)> {
        Vec::new()
    }

    /// Idempotency records whose outcome nobody knows, oldest first.
    pub fn unknown_records(&self) -> Vec<(RecordId, Record)> {
        Vec::new()
    }

    /// A key was used. Kept to the hour, and written then only.
    pub fn saw(&self, _key: SubjectKey, _now: Wall) {}

    /// When a key was last used, or first seen.
    pub fn last_seen(&self, _key: SubjectKey) -> Option<Wall> {
        None
    }

    /// How full the idempotency records are.
    pub fn records(&self) -> RecordOccupancy {
        RecordOccupancy::default()
    }

    /// Hands on what changed since the last time and nobody waits for: rates, last uses. To be called about every
    /// second, not on a worker.
    pub fn flush(&self, _now: Now) {}

    /// Forgets records whose life has ended. Looks at no more than `budget`.
    pub fn sweep_records(&self, _now: Now, _budget: usize) {}

    /// Undoes a take; nothing if the cell was swept since, for then it counted nothing any more.
    pub(super) fn give_back(&self, taken: &Taken, at: Now) {
        let guard = self.table.guard();
        let Some(cell) = self.table.get(taken.seated, &guard) else { return };
        let mut meters = cell.lock();
        if let Some(place) = meters.place(taken.limit, taken.ceiling.window) {
            meters.at_mut(place).give_back(&taken.ceiling, taken.weight, at);
        }
    }

    /// One attempt; `None` when a cell was swept meanwhile, or a meter had to be made first.
    fn try_open(&self, now: Now, asks: &Asks) -> Option<Opening> {
        let guard = self.table.guard();
        let seated: Seats<'_> = asks.iter().map(|ask| self.table.seat(ask, &guard)).collect();
        let mut cells = seated.clone();
        cells.sort_unstable_by_key(|seat| seat.subject);
        cells.dedup_by_key(|seat| seat.subject);
        let mut places: SmallVec<[Place; 6]> = SmallVec::with_capacity(asks.len());
        let mut readings = Readings::with_capacity(asks.len());
        let mut reservation = Reservation::new(now);
        reservation.reserve(asks);
        let mut locked: Locked<'_> = SmallVec::with_capacity(cells.len());
        locked.extend(cells.iter().map(|seat| seat.cell.lock()));

        if let Some(swept) = locked.iter().position(|meters| meters.is_retired()) {
            drop(locked);
            self.table.forget(cells[swept].subject, cells[swept].cell, &guard);
            return None;
        }
        let outgrown =
            |(ask, seat): (&Ask, &Seat<'_>)| self.table.has_nearer(ask, seat.subject, &guard);
        if asks.iter().zip(&seated).any(outgrown) {
            return None;
        }
        for (ask, seat) in asks.iter().zip(&seated) {
            let cell = cells.iter().position(|cell| cell.subject == seat.subject)?;
            match place_of(ask, &locked[cell]) {
                Some(meter) => places.push(Place { cell, meter }),
                None => break,
            }
        }
        if places.len() < asks.len() {
            drop(locked);
            for (ask, seat) in asks.iter().zip(&seated) {
                let crowd = self.table.crowd_of(ask, seat.subject, &guard);
                seat.cell.furnish(ask.id, &ask.ceiling, now, crowd.map(AsRef::as_ref));
            }
            return None;
        }
        let in_crowds = asks.iter().zip(&seated).filter(|(ask, seat)| ask.subject != seat.subject);
        self.table.count_crowded(in_crowds.count() as u64);
        Some(if decide(now, asks, &places, &mut locked, &mut readings) {
            drop(locked);
            for ((ask, seat), reading) in asks.iter().zip(&seated).zip(&readings) {
                if reading.admits {
                    reservation.hold(ask, seat);
                }
            }
            Opening::Admitted(reservation, readings)
        } else {
            Opening::Refused(readings)
        })
    }
}

/// The place of the ask's meter, if it is there and counts as the ask's ceiling does.
fn place_of(ask: &Ask, meters: &Meters) -> Option<usize> {
    let place = meters.place(ask.id, ask.ceiling.window)?;
    meters.at(place).counts(ask.ceiling.window).then_some(place)
}

/// Reads all limits, takes from all that admit if every enforced one does, and fills in the readings. Nothing is
/// written before everything is known.
fn decide(
    now: Now,
    asks: &Asks,
    places: &[Place],
    locked: &mut Locked<'_>,
    readings: &mut Readings,
) -> bool {
    let admits = |ask: &Ask, place: &Place| locked[place.cell].at(place.meter).admits(ask, now);
    let vetoed = asks
        .iter()
        .zip(places)
        .any(|(ask, place)| ask.mode == Mode::Enforce && !admits(ask, place));
    for (ask, place) in asks.iter().zip(places) {
        let meter = locked[place.cell].at_mut(place.meter);
        if vetoed || !meter.admits(ask, now) {
            meter.keep(&ask.ceiling, now);
            readings.push(meter.read(ask, now));
        } else {
            meter.take(ask, now);
            readings.push(Reading { admits: true, wait: Some(0), ..meter.read(ask, now) });
        }
    }
    !vetoed
}
