//! A look at limits that takes nothing: for what an answer shows of limits that were not asked, and for a request that
//! is refused as the one before it was.

use crate::clock::Now;
use crate::policy::authenticate::Caller;
use crate::policy::meter::Meter;
use crate::policy::order::{Ask, Line, Reading, Readings};

use super::backing::Health;
use super::ledger::Ledger;
use super::opening::Order;
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

    /// Whether the limits refuse an order without a claim, of which one of them refused the one before: that of the ask at
    /// `refuser`. If they do, `readings` are what [`Ledger::open_into`] would have read, one an ask; if they do not, or that
    /// takes more than a look, they are empty, and nothing is decided. Nothing is taken in either case, so no limit needs
    /// to wait for another one's lock: 950 instructions fewer for five limits.
    pub fn refuses_again(
        &self,
        now: Now,
        order: &Order<'_>,
        refuser: usize,
        readings: &mut Readings,
    ) -> bool {
        readings.clear();
        let (asks, caller) = (order.asks.as_slice(), order.caller);
        let (Some(first), Some(refusing)) = (asks.first(), asks.get(refuser)) else { return false };
        if order.claim.is_some() || self.backing().health() != Health::Up {
            return false;
        }
        for (at, ask) in asks.iter().enumerate() {
            // The refuser in place of the first one: where it admits again, nothing else was done in vain.
            let ask = match at {
                0 => refusing,
                at if at == refuser => first,
                _ => ask,
            };
            match self.decline(now, ask, caller) {
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
        if refuser > 0 {
            readings.swap(0, refuser);
        }
        true
    }

    /// What a limit says to a request that is refused, by it or by another one. `None` where there is more to do than to look.
    fn decline(&self, now: Now, ask: &Ask, caller: Option<&Caller>) -> Option<Reading> {
        // Noting what a refusal notes that is asked in order.
        self.table.known(ask, caller)?.lock()?.decline(ask, now)
    }
}

fn read(seat: &Seat<'_>, now: Now, ask: &Ask) -> Option<Reading> {
    let mut meters = seat.lock()?;
    let place = meters.place(ask.id, ask.ceiling.window.kind())?;
    Some(meters.at(place).read(ask, now))
}
