//! The one operation of a request: look at its record, find its cells, lock them in order, read every limit, take from
//! all or from none.

use std::sync::Arc;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use crate::clock::Now;
use crate::killpoint::{self, KillPoint};
use crate::policy::idempotency::{BodyPrint, HeadPrint, OnUnknown, RecordBounds, RecordId};
use crate::policy::limit::{LimitKind, Mode, OnStoreFailure, SubjectKey};
use crate::policy::meter::{Block, Meter};
use crate::policy::order::{Ask, Asks, Reading, Readings};

use super::backing::Health;
use super::cell::Meters;
use super::ledger::Ledger;
use super::op::KeptAnswer;
use super::promise::{Hold, Keeping};
use super::records::Claimed;
use super::reservation::Reservation;
use super::table::Seat;

/// The answer to [`Ledger::open`]. One reading an ask, in the order of the asks. A limit that was not asked has a reading
/// that admits and shows how it stands.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation in every request")]
pub enum Opening {
    /// Every enforced limit admits, and all that admit were taken.
    Admitted(Reservation, Readings),
    /// An enforced limit refuses; nothing was taken.
    Refused(Readings),
    /// A record answers; of the limits only rates were asked and taken.
    Repeated(Found, Readings),
    /// There is no room for one more record; nothing was taken.
    Full(Readings),
    /// The store has failed, and something that was asked for cannot do without it; nothing was taken.
    StoreFailed(Readings),
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

/// Blocks that must be durable, each with the place of its ask.
type Blocks = SmallVec<[(usize, Block); 6]>;

/// What becomes of an ask while the store has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WithoutStore {
    Asked,
    LeftOut,
    Refused,
}

impl Ledger {
    /// Asks all limits of one request at one instant, after the record of its idempotency key. Once the subjects have
    /// their meters a request without money and claim allocates nothing for up to six asks, one of them concurrent,
    /// unless a block of a quota must be made durable.
    pub fn open(&self, now: Now, order: &Order<'_>) -> Opening {
        match order.claim {
            None => self.open_limits(now, order.asks),
            Some(claim) => self.open_claimed(now, order, claim),
        }
    }

    /// What a limit would say now. Takes nothing and makes nothing.
    pub fn peek(&self, now: Now, ask: &Ask) -> Reading {
        let guard = self.table.guard();
        let read = self.table.find(ask, &guard).and_then(|cell| {
            let meters = cell.lock();
            let place = meters.place(ask.id, ask.ceiling.window.kind())?;
            Some(meters.at(place).read(ask, now))
        });
        read.unwrap_or_else(|| Meter::unused(ask, now))
    }

    fn peek_all(&self, now: Now, asks: &Asks) -> Readings {
        asks.iter().map(|ask| self.peek(now, ask)).collect()
    }

    fn open_claimed(&self, now: Now, order: &Order<'_>, claim: &Claim) -> Opening {
        killpoint::pass(KillPoint::BeforeClaim);
        let waived = match self
            .records
            .claim(now, claim, order.bounds, |batch| self.backing().submit(batch, None))
        {
            Claimed::Fresh(waived) => waived,
            Claimed::Found(found) => return self.open_repeat(now, order.asks, found),
            Claimed::Full => return Opening::Full(self.peek_all(now, order.asks)),
        };
        killpoint::pass(KillPoint::AfterClaim);
        // Only now: what is known of earlier requests is as true as before, and needs no store to be told.
        if self.backing().health() == Health::Failed {
            self.records.withdraw(claim.id, waived, drop);
            return Opening::StoreFailed(self.peek_all(now, order.asks));
        }
        match self.open_limits(now, order.asks) {
            Opening::Admitted(mut reservation, readings) => {
                let hold = Hold { id: claim.id, waived, bytes: order.bounds.bytes, fate: None };
                reservation.claim(self, self.keeping(), hold);
                Opening::Admitted(reservation, readings)
            }
            refused => {
                // The backing was not told yet.
                self.records.withdraw(claim.id, waived, drop);
                refused
            }
        }
    }

    /// A repeat is an attempt like any other, and spends nothing else.
    fn open_repeat(&self, now: Now, asks: &Asks, found: Found) -> Opening {
        let is_rate = |ask: &Ask| ask.ceiling.window.kind() == LimitKind::Rate;
        match self.open_some(now, asks, is_rate) {
            Opening::Admitted(_, readings) => Opening::Repeated(found, readings),
            refused => refused,
        }
    }

    fn open_limits(&self, now: Now, asks: &Asks) -> Opening {
        match self.backing().health() {
            Health::Up => self.open_all(now, asks, self.keeping()),
            Health::Failed
                if asks.iter().any(|ask| without_store(ask) == WithoutStore::Refused) =>
            {
                Opening::StoreFailed(self.peek_all(now, asks))
            }
            Health::Failed => {
                self.open_some(now, asks, |ask| without_store(ask) == WithoutStore::Asked)
            }
        }
    }

    /// Asks some of the limits, in memory alone.
    fn open_some(&self, now: Now, asks: &Asks, is_asked: impl Fn(&Ask) -> bool) -> Opening {
        let some: Asks = asks.iter().copied().filter(&is_asked).collect();
        let woven = |readings: Readings| -> Readings {
            let mut asked = readings.into_iter();
            let reading = |ask: &Ask| {
                let read = if is_asked(ask) { asked.next() } else { None };
                read.unwrap_or_else(|| Reading {
                    admits: true,
                    wait: Some(0),
                    ..self.peek(now, ask)
                })
            };
            asks.iter().map(reading).collect()
        };
        match self.open_all(now, &some, Keeping::Memory) {
            Opening::Admitted(reservation, readings) => {
                Opening::Admitted(reservation, woven(readings))
            }
            Opening::Refused(readings) => Opening::Refused(woven(readings)),
            other @ (Opening::Repeated(..) | Opening::Full(_) | Opening::StoreFailed(_)) => other,
        }
    }

    fn open_all(&self, now: Now, asks: &Asks, keeping: Keeping) -> Opening {
        if asks.is_empty() {
            return Opening::Admitted(Reservation::new(now), Readings::new());
        }
        loop {
            if let Some(opening) = self.try_open(now, asks, keeping) {
                return opening;
            }
        }
    }

    /// One attempt; `None` when a cell was swept meanwhile, or a meter had to be made first.
    fn try_open(&self, now: Now, asks: &Asks, keeping: Keeping) -> Option<Opening> {
        let guard = self.table.guard();
        let seated: Seats<'_> = asks.iter().map(|ask| self.table.seat(ask, &guard)).collect();
        let mut cells = seated.clone();
        cells.sort_unstable_by_key(|seat| seat.subject);
        cells.dedup_by_key(|seat| seat.subject);
        let mut places: SmallVec<[Place; 6]> = SmallVec::with_capacity(asks.len());
        let mut blocks = Blocks::with_capacity(asks.len());
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
        if !decide(now, asks, &places, &mut locked, &mut readings) {
            return Some(Opening::Refused(readings));
        }
        if keeping == Keeping::Durable {
            find_blocks(asks, &places, &mut locked, &readings, &mut blocks);
        }
        // A repeat takes rates in memory alone, and they are flushed like any other.
        if self.backing().remembers() {
            cells.iter().for_each(|seat| seat.cell.note_change());
        }
        drop(locked);
        for ((ask, seat), reading) in asks.iter().zip(&seated).zip(&readings) {
            if reading.admits {
                reservation.hold(self, keeping, ask, seat);
            }
        }
        for (at, block) in blocks {
            reservation.block(self, &asks[at], &seated[at], block);
        }
        Some(Opening::Admitted(reservation, readings))
    }
}

/// The place of the ask's meter, if it is there and counts as the ask's ceiling does.
fn place_of(ask: &Ask, meters: &Meters) -> Option<usize> {
    let place = meters.place(ask.id, ask.ceiling.window.kind())?;
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

/// The blocks that what was just taken of quotas waits for.
fn find_blocks(
    asks: &Asks,
    places: &[Place],
    locked: &mut Locked<'_>,
    readings: &Readings,
    blocks: &mut Blocks,
) {
    for (at, ((ask, place), reading)) in asks.iter().zip(places).zip(readings).enumerate() {
        if let Meter::Quota(tally) = locked[place.cell].at_mut(place.meter)
            && reading.admits
            && let Some(block) = tally.block(&ask.ceiling)
        {
            blocks.push((at, block));
        }
    }
}

/// Slots live in memory anyway, and what costs nothing has nothing to remember. In shadow nothing is ever refused.
fn without_store(ask: &Ask) -> WithoutStore {
    let kind = ask.ceiling.window.kind();
    if kind == LimitKind::Concurrent || kind.is_money() && ask.weight == 0 {
        return WithoutStore::Asked;
    }
    match (ask.on_store_failure, ask.mode) {
        (OnStoreFailure::Local, _) => WithoutStore::Asked,
        (OnStoreFailure::Allow, _) | (OnStoreFailure::Deny, Mode::Shadow) => WithoutStore::LeftOut,
        (OnStoreFailure::Deny, Mode::Enforce) => WithoutStore::Refused,
    }
}
