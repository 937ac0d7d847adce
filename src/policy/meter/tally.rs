//! Use in calendar periods: quotas in units, spend in millionths.
//!
//! A tally belongs to the instant of its latest take, and counts in whatever period that instant falls in. So a changed
//! zone, anchor or period carries the use over, and a clock that is set back grants nothing: it goes on counting in the
//! latest period that it has seen.

use crate::clock::Wall;
use crate::policy::calendar::Period;
use crate::policy::limit::Ceiling;

use super::Figures;

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
        } else if period.until <= self.period.from {
            self
        } else {
            Tally { period, ..self }
        }
    }

    pub(super) fn admits(self, ceiling: &Ceiling, weight: u64, period: Period) -> bool {
        let used = self.in_period(period).used;
        if ceiling.window.kind().is_money() && weight == 0 {
            return true;
        }
        ceiling.units > 0 && weight <= ceiling.units.saturating_sub(used)
    }

    pub(super) fn figures(
        self,
        ceiling: &Ceiling,
        weight: u64,
        period: Period,
        now: Wall,
    ) -> Figures {
        let stands = self.in_period(period);
        let admits = self.admits(ceiling, weight, period);
        let to_the_end = stands.period.left(now);
        Figures {
            used: stands.used,
            remaining: ceiling.units.saturating_sub(stands.used),
            admits,
            wait: if admits {
                Some(0)
            } else {
                (ceiling.units > 0 && weight <= ceiling.units).then_some(to_the_end)
            },
            more_in: (ceiling.units > 0 && stands.used > 0).then_some(to_the_end),
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
