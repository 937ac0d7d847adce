//! A look at limits that takes nothing: for what an answer shows of limits that were not asked, and for a request that
//! is refused as the one before it was.

use smallvec::SmallVec;

use crate::clock::Now;
use crate::policy::authenticate::Caller;
use crate::policy::meter::Meter;
use crate::policy::order::{Ask, Heard, Line, Reading, Readings};

use super::backing::Health;
use super::ledger::Ledger;
use super::opening::Order;
use super::slab::CellIx;
use super::table::Seat;

impl Ledger {
    /// What a limit would say now. Takes nothing and makes nothing.
    pub fn peek(&self, now: Now, ask: &Ask) -> Reading {
        let read = self.table.find(ask).and_then(|seat| read(&seat, now, ask));
        read.unwrap_or_else(|| Meter::unused(ask, now))
    }

    /// As [`Ledger::peek`], what each of them would say to the `caller`, behind what `readings` hold: by where a request
    /// that is admitted finds its cells, and by name where nothing is there: each name that is not looked up saves some 50 instructions.
    pub fn peek_each(
        &self,
        now: Now,
        asks: &[Ask],
        caller: Option<&Caller>,
        readings: &mut Readings,
    ) {
        for ask in asks {
            let known = self.table.known(ask, caller);
            let read = known.and_then(|seat| read(&seat, now, ask));
            readings.push(read.unwrap_or_else(|| self.peek(now, ask)));
        }
    }

    /// As [`Ledger::peek`], what each of them would say, in their order.
    pub(super) fn peek_all(&self, now: Now, asks: &[Ask], readings: &mut Readings) {
        readings.extend(asks.iter().map(|ask| self.peek(now, ask)));
    }

    /// Who refused an order of which this was heard. `None` if nothing vetoes, or a limit is not counted by its own subject.
    pub fn refuser(&self, heard: Heard<'_>) -> Option<Refuser> {
        let at = heard.lines().position(|line| line.vetoes())?;
        let cell_of = |ask: &Ask| self.table.number_of(ask.subject);
        let cells: Option<SmallVec<[CellIx; 6]>> = heard.asks.iter().map(cell_of).collect();
        Some(Refuser { at, cells: cells? })
    }

    /// Whether the limits refuse an order without a claim, whose like was refused before by this `refuser`. If they do,
    /// `readings` are what [`Ledger::open_into`] would have read, one an ask; if they do not, or that takes more than a look,
    /// they are empty, and nothing is decided. Nothing is taken in either case, so no limit needs to wait for another one's
    /// lock: 1 100 instructions fewer for five limits.
    pub fn refuses_again(
        &self,
        now: Now,
        order: &Order<'_>,
        refuser: &Refuser,
        readings: &mut Readings,
    ) -> bool {
        readings.clear();
        let (asks, Refuser { at: refuser, cells }) = (order.asks.as_slice(), refuser);
        let are_its = asks.len() == cells.len();
        if !are_its || order.claim.is_some() || self.backing().health() != Health::Up {
            return false;
        }
        for at in 0..asks.len() {
            // The refuser in place of the first one: where it admits again, nothing else was done in vain.
            let place = match at {
                0 => *refuser,
                at if at == *refuser => 0,
                at => at,
            };
            let ask = &asks[place];
            match self.decline(now, ask, cells[place]) {
                Some(reading) if at > 0 || (Line { ask, reading: &reading }).vetoes() => {
                    readings.push(reading);
                }
                // It is not refused any more, or a cell or a meter is not where it was.
                Some(_) | None => {
                    readings.clear();
                    return false;
                }
            }
        }
        readings.swap(0, *refuser);
        true
    }

    /// What a limit says to a request that is refused, by it or by another one. `None` where there is more to do than to look.
    fn decline(&self, now: Now, ask: &Ask, ix: CellIx) -> Option<Reading> {
        // Noting what a refusal notes that is asked in order.
        self.table.seat_at(ask.subject, ix).lock()?.decline(ask, now)
    }
}

/// Which ask of an order refused it, and where all of them were counted then. Of the same asks again it says where to look
/// first, and nothing else: whose a cell is now is found out under its lock.
#[derive(Debug)]
pub struct Refuser {
    at: usize,
    cells: SmallVec<[CellIx; 6]>,
}

fn read(seat: &Seat<'_>, now: Now, ask: &Ask) -> Option<Reading> {
    let mut meters = seat.lock()?;
    let place = meters.place(ask.id, ask.ceiling.window.kind())?;
    Some(meters.at(place).read(ask, now))
}
