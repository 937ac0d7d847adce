//! The one operation of a request: look at its record, find its cells, lock them in order, read every limit, take from
//! all or from none.

use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use crate::clock::Now;
use crate::killpoint::{self, KillPoint};
use crate::policy::authenticate::Caller;
use crate::policy::idempotency::{BodyPrint, HeadPrint, OnUnknown, RecordBounds, RecordId};
use crate::policy::limit::{LimitKind, Mode, OnStoreFailure, SubjectKey, Window};
use crate::policy::meter::{Block, Look, Meter};
use crate::policy::order::{Ask, Asks, Reading, Readings};

use super::backing::Health;
use super::cell::{Cell, Meters};
use super::ledger::Ledger;
use super::op::KeptAnswer;
use super::promise::{Hold, Keeping};
use super::records::Claimed;
use super::reservation::{Reservation, Slots};
use super::table::{Seat, Way};

/// The answer to [`Ledger::open_into`].
#[derive(Debug)]
pub enum Told {
    /// Every enforced limit admits, and all that admit were taken.
    Admitted,
    /// An enforced limit refuses; nothing was taken.
    Refused,
    /// A record answers; of the limits only rates were asked and taken.
    Repeated(Found),
    /// There is no room for one more record; nothing was taken.
    Full,
    /// The store has failed, and something that was asked for cannot do without it; nothing was taken.
    StoreFailed,
}

/// The answer to [`Ledger::open`]. One reading an ask, in the order of the asks. A limit that was not asked has a reading
/// that admits and shows how it stands.
#[derive(Debug)]
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
    /// What it asks of its limits. Shared with what it holds of them afterwards.
    pub asks: &'a Rc<Asks>,
    /// The claim on its idempotency key.
    pub claim: Option<&'a Claim>,
    /// The most records that there may be.
    pub bounds: RecordBounds,
    /// Who asks: what is counted by the key is found by its place. Without it, by name.
    pub caller: Option<&'a Caller>,
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
    pub fn of(asks: &'a Rc<Asks>) -> Order<'a> {
        let bounds = RecordBounds { records: 0, per_tenant: 0, bytes: 0 };
        Order { asks, claim: None, bounds, caller: None }
    }
}

/// What is known of an ask on its way: where it is counted, at which place its meter is in the cell, and what that says.
/// The seat is taken apart: as a whole it is put together in pieces and copied at once, for which the processor waits.
struct Line<'g> {
    /// Whose cell it is: the ask's subject, or the crowd that it shares.
    subject: SubjectKey,
    cell: &'g Cell,
    /// The place in [`Locks`] of its cell's, which all lines of one cell share.
    lock: usize,
    meter: usize,
    look: Look,
}

/// One an ask, in their order.
type Lines<'g> = SmallVec<[Line<'g>; 6]>;

/// One a cell.
type Locks<'g> = SmallVec<[MutexGuard<'g, Meters>; 6]>;

/// Where a line's cell stands in memory, and the line's place: in that order of weight, for they are compared and moved as
/// one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(u64);

impl Turn {
    /// Bits of a line's place: there are at most as many asks as limits, whose places have as many.
    const PLACE: u32 = u16::BITS;

    fn new(cell: &Cell, at: usize) -> Turn {
        // An address has fewer bits than are left, without those that are 0 in each.
        let cell = ptr::from_ref(cell).addr() / align_of::<Cell>();
        Turn(((cell as u64) << Turn::PLACE) | (at as u64 & u64::from(u16::MAX)))
    }

    #[expect(clippy::cast_possible_truncation, reason = "cut to what was put in")]
    fn at(self) -> usize {
        usize::from(self.0 as u16)
    }
}

/// The order in which lines are locked, ascending by cell: everybody locks in this order, so nobody waits in a ring. By
/// place and not by subject, because a cell stays where it is when it becomes another's.
type Turns = SmallVec<[Turn; 6]>;

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
        let (mut readings, mut taken) = (Readings::new(), None);
        match (self.open_into(now, order, &mut readings, &mut taken), taken) {
            (Told::Admitted, Some(reservation)) => Opening::Admitted(reservation, readings),
            (Told::Admitted, None) => {
                Opening::Admitted(Reservation::new(now, order.asks), readings)
            }
            (Told::Refused, _) => Opening::Refused(readings),
            (Told::Repeated(found), _) => Opening::Repeated(found, readings),
            (Told::Full, _) => Opening::Full(readings),
            (Told::StoreFailed, _) => Opening::StoreFailed(readings),
        }
    }

    /// As [`Ledger::open`], into what the caller has: the `readings`, one an ask, and, where it is admitted, what was
    /// `taken`. Some hundred bytes each, which is why they are not handed from hand to hand: 1 000 instructions a request.
    pub fn open_into(
        &self,
        now: Now,
        order: &Order<'_>,
        readings: &mut Readings,
        taken: &mut Option<Reservation>,
    ) -> Told {
        readings.clear();
        match order.claim {
            None => self.open_limits(now, order, readings, taken),
            Some(claim) => self.open_claimed(now, order, claim, readings, taken),
        }
    }

    fn open_claimed(
        &self,
        now: Now,
        order: &Order<'_>,
        claim: &Claim,
        readings: &mut Readings,
        taken: &mut Option<Reservation>,
    ) -> Told {
        killpoint::pass(KillPoint::BeforeClaim);
        let waived = match self
            .records
            .claim(now, claim, order.bounds, |batch| self.backing().submit(batch, None))
        {
            Claimed::Fresh(waived) => waived,
            Claimed::Found(found) => return self.open_repeat(now, order, found, readings),
            Claimed::Full => {
                self.peek_all(now, order.asks, readings);
                return Told::Full;
            }
        };
        killpoint::pass(KillPoint::AfterClaim);
        // Only now: what is known of earlier requests is as true as before, and needs no store to be told.
        if self.backing().health() == Health::Failed {
            self.records.withdraw(claim.id, waived, drop);
            self.peek_all(now, order.asks, readings);
            return Told::StoreFailed;
        }
        match (self.open_limits(now, order, readings, taken), taken) {
            (Told::Admitted, Some(reservation)) => {
                let hold = Hold { id: claim.id, waived, bytes: order.bounds.bytes, fate: None };
                reservation.claim(self, self.keeping(), hold);
                Told::Admitted
            }
            (refused, _) => {
                // The backing was not told yet.
                self.records.withdraw(claim.id, waived, drop);
                refused
            }
        }
    }

    /// A repeat is an attempt like any other, and spends nothing else.
    fn open_repeat(
        &self,
        now: Now,
        order: &Order<'_>,
        found: Found,
        readings: &mut Readings,
    ) -> Told {
        let is_rate = |ask: &Ask| ask.ceiling.window.kind() == LimitKind::Rate;
        // What it holds of rates is dropped, and stays taken.
        let mut taken = None;
        match self.open_some(now, order, is_rate, readings, &mut taken) {
            Told::Admitted => Told::Repeated(found),
            refused => refused,
        }
    }

    fn open_limits(
        &self,
        now: Now,
        order: &Order<'_>,
        readings: &mut Readings,
        taken: &mut Option<Reservation>,
    ) -> Told {
        match self.backing().health() {
            Health::Up => self.open_all(now, order, self.keeping(), readings, taken),
            Health::Failed
                if order.asks.iter().any(|ask| without_store(ask) == WithoutStore::Refused) =>
            {
                self.peek_all(now, order.asks, readings);
                Told::StoreFailed
            }
            Health::Failed => {
                let is_asked = |ask: &Ask| without_store(ask) == WithoutStore::Asked;
                self.open_some(now, order, is_asked, readings, taken)
            }
        }
    }

    /// Asks some of the limits, in memory alone.
    fn open_some(
        &self,
        now: Now,
        order: &Order<'_>,
        is_asked: impl Fn(&Ask) -> bool,
        readings: &mut Readings,
        taken: &mut Option<Reservation>,
    ) -> Told {
        let some = Rc::new(order.asks.iter().copied().filter(&is_asked).collect());
        let mut of_some = Readings::new();
        let of_those = Order { asks: &some, ..*order };
        let told = self.open_all(now, &of_those, Keeping::Memory, &mut of_some, taken);
        let mut asked = of_some.into_iter();
        readings.extend(order.asks.iter().map(|ask| {
            let read = if is_asked(ask) { asked.next() } else { None };
            read.unwrap_or_else(|| Reading { admits: true, wait: Some(0), ..self.peek(now, ask) })
        }));
        told
    }

    fn open_all(
        &self,
        now: Now,
        order: &Order<'_>,
        keeping: Keeping,
        readings: &mut Readings,
        taken: &mut Option<Reservation>,
    ) -> Told {
        if order.asks.is_empty() {
            *taken = Some(Reservation::new(now, order.asks));
            return Told::Admitted;
        }
        let mut way = Way::Shortcut;
        loop {
            if let Some(told) = self.try_open(now, order, way, keeping, readings, taken) {
                return told;
            }
            way = Way::Name;
        }
    }

    /// One attempt; `None` when a cell was swept meanwhile, or a meter had to be made first.
    fn try_open(
        &self,
        now: Now,
        order: &Order<'_>,
        way: Way,
        keeping: Keeping,
        readings: &mut Readings,
        taken: &mut Option<Reservation>,
    ) -> Option<Told> {
        let asks = order.asks.as_slice();
        // Lists are made where they stay: to hand one on moves all that it may hold.
        let (mut lines, mut turns) = (Lines::new(), Turns::new());
        lines.reserve(asks.len());
        turns.reserve(asks.len());
        let concurrent = self.find_seats(order, way, &mut lines, &mut turns);
        turns.sort_unstable();
        let lines = lines.as_mut_slice();
        // Room for everything is made before a lock is held.
        let (mut blocks, mut slots, mut locks) = (Blocks::new(), Slots::new(), Locks::new());
        readings.reserve(asks.len());
        blocks.reserve(asks.len());
        locks.reserve(asks.len());
        slots.reserve(concurrent);
        let mut latest = None;
        let mut crowded = 0;
        let mut are_there = true;
        let mut agreed = true;
        // Nothing is written before everything is known.
        for turn in &turns {
            let (ask, line) = (&asks[turn.at()], &mut lines[turn.at()]);
            if latest.is_none_or(|latest| !ptr::eq(latest, line.cell)) {
                locks.push(line.cell.lock(line.subject)?);
                latest = Some(line.cell);
            } else if !line.cell.seems_to_be_of(line.subject) {
                // It became another's since it was found.
                return None;
            }
            line.lock = locks.len() - 1;
            if line.subject != ask.subject {
                crowded += 1;
                if self.table.has_nearer(ask, line.subject) {
                    return None;
                }
            }
            // Lines of one cell follow one another.
            let Some((meter, look)) = locks.last_mut()?.look(ask, now) else {
                are_there = false;
                continue;
            };
            (line.meter, line.look) = (meter, look);
            agreed &= look.admits || ask.mode == Mode::Shadow;
        }
        if !are_there {
            drop(locks);
            self.furnish(now, asks, lines);
            return None;
        }
        self.table.count_crowded(crowded);
        let cells = locks.as_mut_slice();
        for (at, (ask, line)) in asks.iter().zip(lines.iter()).enumerate() {
            let meters = &mut cells[line.lock];
            let meter = meters.at_mut(line.meter);
            if !agreed || !line.look.admits {
                readings.push(meter.decline(ask, now, line.look));
                continue;
            }
            readings.push(meter.charge(ask, now, line.look));
            match meter {
                Meter::Quota(tally) if keeping == Keeping::Durable => {
                    blocks.extend(tally.block(&ask.ceiling).map(|block| (at, block)));
                }
                Meter::Concurrent(_) => slots.extend(meters.slot(line.meter)),
                Meter::Bucket(_)
                | Meter::Sliding(_)
                | Meter::Fixed(_)
                | Meter::Quota(_)
                | Meter::Spend(_)
                | Meter::Credit(_) => {}
            }
        }
        if !agreed {
            return Some(Told::Refused);
        }
        // A repeat takes rates in memory alone, and they are flushed like any other.
        if self.backing().remembers() {
            for line in lines.iter() {
                line.cell.note_change();
            }
        }
        drop(locks);
        let reservation = taken.insert(Reservation::new(now, order.asks));
        reservation.open(slots);
        for (at, (ask, line)) in asks.iter().zip(lines.iter()).enumerate() {
            if !line.look.admits {
                reservation.leave_out(at);
            } else if line.subject != ask.subject {
                reservation.seat_elsewhere(at, line.subject);
            }
            if line.look.admits && ask.ceiling.window.kind().is_money() {
                reservation.charge(self, keeping, ask, line.subject);
            }
        }
        // By reference: to take the list apart would move its 300 bytes, which are nearly always empty.
        for (at, block) in &blocks {
            reservation.block(self, &asks[*at], lines[*at].subject, *block);
        }
        Some(Told::Admitted)
    }

    /// Finds where each ask of an order is counted; how many of them are concurrent.
    fn find_seats<'t>(
        &'t self,
        order: &Order<'_>,
        way: Way,
        lines: &mut Lines<'t>,
        turns: &mut Turns,
    ) -> usize {
        let mut concurrent = 0;
        for (at, ask) in order.asks.iter().enumerate() {
            let Seat { subject, cell } = self.table.seat(ask, order.caller, way);
            cell.approach();
            turns.push(Turn::new(cell, at));
            lines.push(Line { subject, cell, lock: 0, meter: 0, look: Look::default() });
            concurrent += usize::from(ask.ceiling.window == Window::Concurrent);
        }
        concurrent
    }

    /// Makes the meters that are missing.
    fn furnish(&self, now: Now, asks: &[Ask], lines: &[Line<'_>]) {
        for (ask, line) in asks.iter().zip(lines) {
            let Line { subject, cell, .. } = *line;
            let crowd = self.table.crowd_of(ask, subject);
            cell.furnish(subject, ask.id, &ask.ceiling, now, crowd);
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
