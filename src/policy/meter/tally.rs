//! Use in calendar periods: quotas in units, spend in millionths.
//!
//! A tally belongs to the instant of its latest take, and counts in whatever period that instant falls in. So a changed
//! zone, anchor or period carries the use over, and a clock that is set back grants nothing: it goes on counting in the
//! latest period that it has seen.

use crate::clock::Wall;
use crate::policy::calendar::Period;
use crate::policy::limit::Ceiling;
use crate::policy::order::Reading;

use super::Standing;

/// The use of one calendar period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    period: Period,
    /// The latest take.
    at: Wall,
    used: u64,
    /// Use that has been sent to be made durable: a crash restores no less.
    reserved: u64,
    /// Use that is durable.
    durable: u64,
}

/// What is to be made durable before a unit of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The period that is counted.
    pub period: Period,
    /// The latest take.
    pub at: Wall,
    /// Use that a crash will restore.
    pub to: u64,
}

impl Tally {
    /// A tally as a journal remembers it: all of its use is durable.
    pub fn remembered(period: Period, at: Wall, used: u64) -> Tally {
        Tally { period, at, used, reserved: used, durable: used }
    }

    /// The period, the latest take and the use.
    pub fn remembers(self) -> (Period, Wall, u64) {
        (self.period, self.at, self.used)
    }

    /// This tally as it stands in `period`: the same, or empty once its time is over.
    #[must_use]
    pub fn in_period(self, period: Period) -> Tally {
        // Of an empty one nothing says when it was: a take that was given back must not carry on what comes after.
        if self.at < period.from || self.used == 0 && self.period.from != period.from {
            Tally { period, at: period.from, ..Tally::default() }
        } else if period.until <= self.period.from || self.period == period {
            self
        } else {
            // Nobody has made durable that this use is of this period.
            Tally { period, durable: 0, ..self }
        }
    }

    pub(super) fn admits(self, ceiling: &Ceiling, weight: u64, period: Period) -> bool {
        self.in_period(period).has_room(ceiling, weight)
    }

    /// Whether it has room in the period in which it stands.
    fn has_room(self, ceiling: &Ceiling, weight: u64) -> bool {
        if ceiling.window.kind().is_money() && weight == 0 {
            return true;
        }
        ceiling.units > 0 && weight <= ceiling.units.saturating_sub(self.used)
    }

    pub(super) fn read(self, ceiling: &Ceiling, weight: u64, period: Period, now: Wall) -> Reading {
        let stands = self.in_period(period);
        stands.stand(ceiling, now).saying(stands.has_room(ceiling, weight), || {
            (ceiling.units > 0 && weight <= ceiling.units).then(|| stands.period.left(now))
        })
    }

    pub(super) fn standing(self, ceiling: &Ceiling, period: Period, now: Wall) -> Standing {
        self.in_period(period).stand(ceiling, now)
    }

    /// How the limit stands in the period in which it stands.
    fn stand(self, ceiling: &Ceiling, now: Wall) -> Standing {
        Standing {
            whole: ceiling.units,
            used: self.used,
            remaining: ceiling.units.saturating_sub(self.used),
            more_in: (ceiling.units > 0 && self.used > 0).then(|| self.period.left(now)),
        }
    }

    /// Counts `amount` at `now`. Also what a journal does with what it is told, so that memory and disk agree.
    pub fn take(&mut self, amount: u64, period: Period, now: Wall) {
        *self = self.in_period(period);
        self.at = self.at.max(now);
        self.used = self.used.saturating_add(amount);
    }

    /// Gives back what was taken at `taken`, if the period that was charged still counts.
    pub fn give_back(&mut self, amount: u64, taken: Wall) {
        if taken >= self.period.from {
            self.used = self.used.saturating_sub(amount);
        }
    }

    /// Counts use that no ask took, unless its period is over here.
    pub(super) fn count(&mut self, amount: u64, period: Period, at: Wall) {
        if self.used == 0 || period.until > self.period.from {
            self.take(amount, period, at.max(period.from));
        }
    }

    /// Takes use out that was counted in `period`. What of it was durable is no longer, for the journal takes it out too.
    pub(super) fn discount(&mut self, amount: u64, period: Period) {
        *self = self.in_period(period);
        if self.period.from == period.from {
            self.used = self.used.saturating_sub(amount);
            self.reserved = self.reserved.saturating_sub(amount);
            self.durable = self.durable.saturating_sub(amount);
        }
    }

    /// The use that must be durable before what was just taken may be used; `None` if it is. Blocks are a sixteenth of
    /// what is left, at least one unit and at most a hundredth of the ceiling, so that a crash loses little and most
    /// requests wait for nothing.
    pub fn block(&mut self, ceiling: &Ceiling) -> Option<Block> {
        if self.used <= self.durable {
            return None;
        }
        if self.used > self.reserved {
            let left = ceiling.units.saturating_sub(self.used);
            let ahead = (left / 16).min(ceiling.units / 100).max(1).min(left);
            self.reserved = self.used.saturating_add(ahead);
        }
        Some(Block { period: self.period, at: self.at, to: self.reserved })
    }

    /// The block is durable. One of before a reset, or of before use was taken out, says nothing any more.
    pub fn secured(&mut self, block: &Block) {
        if block.period.from == self.period.from && block.to <= self.reserved {
            self.durable = self.durable.max(block.to);
        }
    }

    /// Makes room for a block that was durable before: the journal's side of [`Tally::block`]. One that comes late, when a
    /// later period has begun, says nothing of that.
    pub fn reserve(&mut self, block: &Block) {
        if self.used > 0 && block.period.until <= self.period.from {
            return;
        }
        *self = self.in_period(block.period);
        self.at = self.at.max(block.at);
        self.used = self.used.max(block.to);
    }

    pub(super) fn is_idle(self, now: Wall) -> bool {
        self.used == 0 && self.reserved == 0 || now >= self.period.until
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::calendar::CalendarIx;
    use crate::policy::limit::Window;

    const DAY: i64 = 86_400_000;

    fn day(n: i64) -> Period {
        Period { from: Wall(n * DAY), until: Wall((n + 1) * DAY) }
    }

    fn noon(n: i64) -> Wall {
        Wall(n * DAY + DAY / 2)
    }

    fn ceiling(units: u64) -> Ceiling {
        Ceiling { window: Window::Quota(CalendarIx(0)), units, period: 0, burst: units }
    }

    #[test]
    fn a_period_that_is_over_counts_nothing_and_one_that_comes_back_grants_nothing() {
        let mut tally = Tally::default();
        tally.take(3, day(5), noon(5));
        assert_eq!(tally.in_period(day(6)).used, 0);
        tally.take(2, day(6), noon(6));
        assert_eq!(tally.in_period(day(5)).used, 2, "the clock was set back: still day 6");
        tally.take(1, day(5), noon(5));
        assert_eq!(tally.in_period(day(6)).used, 3);
    }

    #[test]
    fn use_is_carried_into_another_zone_and_into_a_longer_period() {
        let mut tally = Tally::default();
        tally.take(3, day(5), noon(5));
        let shifted = Period { from: Wall(5 * DAY - 7_200_000), until: Wall(6 * DAY - 7_200_000) };
        assert_eq!(tally.in_period(shifted).used, 3);
        let month = Period { from: Wall(0), until: Wall(31 * DAY) };
        assert_eq!(tally.in_period(month).used, 3);
    }

    #[test]
    fn use_that_is_carried_over_is_made_durable_as_use_of_its_new_period() {
        let (mut tally, mut journal) = (Tally::default(), Tally::default());
        let early = Wall(5 * DAY);
        tally.take(1, day(5), early);
        let block = tally.block(&ceiling(10_000)).unwrap();
        journal.reserve(&block);
        tally.secured(&block);
        tally.take(50, day(5), noon(5));
        assert_eq!(tally.block(&ceiling(10_000)), None, "it is within the block");
        // Days begin six hours later now. The journal has not heard of the take at noon.
        let shifted = Period { from: Wall(5 * DAY + DAY / 4), until: Wall(6 * DAY + DAY / 4) };
        tally.take(1, shifted, noon(5));
        journal.reserve(&tally.block(&ceiling(10_000)).unwrap());
        assert!(journal.in_period(shifted).used >= tally.in_period(shifted).used);
    }

    #[test]
    fn a_refund_goes_to_the_period_that_was_charged_or_nowhere() {
        let mut tally = Tally::default();
        tally.take(3, day(5), noon(5));
        tally.take(4, day(6), noon(6));
        tally.give_back(3, noon(5));
        assert_eq!(tally.used, 4, "day 5 is over");
        tally.give_back(4, noon(6));
        assert_eq!(tally.used, 0);
    }

    #[test]
    fn a_take_that_was_given_back_leaves_no_instant_behind() {
        let mut tally = Tally::default();
        tally.take(1, day(9), noon(9));
        tally.give_back(1, noon(9));
        tally.take(2, day(5), noon(5));
        assert_eq!(tally.in_period(day(9)).used, 0, "the use is of day 5");
    }

    #[test]
    fn waiting_until_the_period_ends_admits() {
        let mut tally = Tally::default();
        tally.take(10, day(5), noon(5));
        let reading = tally.read(&ceiling(10), 1, day(5), noon(5));
        let wait = reading.wait.unwrap();
        assert_eq!(noon(5).plus_nanos(wait), day(6).from);
        assert!(tally.admits(&ceiling(10), 1, day(6)));
        assert_eq!(tally.read(&ceiling(10), 11, day(5), noon(5)).wait, None, "it never fits");
    }

    #[test]
    fn a_block_is_a_sixteenth_of_what_is_left_within_one_unit_and_a_hundredth() {
        let block = |used: u64, units: u64| {
            let mut tally = Tally::default();
            tally.take(used, day(5), noon(5));
            tally.block(&ceiling(units)).unwrap().to - used
        };
        assert_eq!(block(1, 10_000), 100);
        assert_eq!(block(9_000, 10_000), 62);
        assert_eq!(block(9_999, 10_000), 1);
        assert_eq!(block(10_000, 10_000), 0, "never above the ceiling");
        assert_eq!(block(1, 10), 1);
    }

    #[test]
    fn what_is_taken_out_by_hand_was_never_durable() {
        let mut tally = Tally::default();
        tally.take(50, day(5), noon(5));
        let early = tally.block(&ceiling(1_000)).unwrap();
        tally.secured(&early);
        tally.discount(20, day(5));
        assert_eq!((tally.used, tally.durable), (30, early.to - 20));
        tally.secured(&early);
        assert_eq!(tally.durable, early.to - 20, "a block of before says nothing any more");
        tally.discount(5, day(4));
        assert_eq!(tally.used, 30, "that day is over");
    }

    proptest! {
        /// A journal is told of blocks and of nothing else; every unit that went upstream must be in one.
        #[test]
        fn a_crash_at_any_moment_finds_at_least_what_was_used_and_at_most_a_block_more(
            units in 1u64..2_000,
            steps in prop::collection::vec((1u64..9, 0i64..3, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let (mut tally, mut journal) = (Tally::default(), Tally::default());
            let mut on_the_way: Vec<Block> = Vec::new();
            let (mut now, mut sent, mut given_back) = (0, 0, 0);
            for (weight, days, is_synced, is_refunded) in steps {
                if days == 2 && weight == 8 {
                    now += 1;
                    (sent, given_back) = (0, 0);
                }
                let (period, at) = (day(now), noon(now));
                if !tally.admits(&ceiling(units), weight, period) {
                    continue;
                }
                tally.take(weight, period, at);
                if let Some(block) = tally.block(&ceiling(units)) {
                    on_the_way.push(block);
                    if !is_synced {
                        // It never went upstream.
                        tally.give_back(weight, at);
                        given_back += weight;
                        continue;
                    }
                    for block in on_the_way.drain(..) {
                        journal.reserve(&block);
                        tally.secured(&block);
                    }
                }
                sent += weight;
                if is_refunded {
                    tally.give_back(weight, at);
                    sent -= weight;
                    given_back += weight;
                }
                let remembered = journal.in_period(period).used;
                prop_assert!(sent <= tally.used && sent <= remembered);
                prop_assert!(remembered <= units);
                prop_assert!(remembered - sent <= (units / 100).max(1) + given_back);
            }
        }
    }
}
