//! Fixed windows, counted from 1970 on the steady clock: at most N in each, so at most 2 N across an edge.

use crate::clock::Steady;
use crate::policy::limit::Ceiling;
use crate::policy::order::Reading;

use super::{Carried, Standing};

/// The use of the window in which the latest take was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed {
    /// The latest take. Not the window's number: that changes its meaning with the period.
    at: Steady,
    used: u64,
    idle_from: Steady,
}

/// What a fixed window remembers, for a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedParts {
    /// The latest take.
    pub at: Steady,
    /// The use of its window.
    pub used: u64,
    /// When it says the same as an empty one.
    pub idle_from: Steady,
}

impl Fixed {
    /// What it remembers.
    pub fn parts(self) -> FixedParts {
        let Fixed { at, used, idle_from } = self;
        FixedParts { at, used, idle_from }
    }

    /// The window that remembers this.
    pub fn from_parts(parts: FixedParts) -> Fixed {
        let FixedParts { at, used, idle_from } = parts;
        Fixed { at, used, idle_from }
    }

    pub(super) fn carrying(carried: Carried, ceiling: &Ceiling) -> Fixed {
        let mut fixed = Fixed { at: carried.at, used: carried.units, idle_from: Steady::default() };
        fixed.keep(ceiling);
        fixed
    }

    pub(super) fn admits(self, ceiling: &Ceiling, weight: u64, now: Steady) -> bool {
        ceiling.units > 0
            && weight <= ceiling.units.saturating_sub(self.used_at(ceiling, now.max(self.at)))
    }

    pub(super) fn read(self, ceiling: &Ceiling, weight: u64, now: Steady) -> Reading {
        self.standing(ceiling, now).saying(self.admits(ceiling, weight, now), || {
            (ceiling.units > 0 && weight <= ceiling.units).then(|| self.to_the_end(ceiling, now))
        })
    }

    pub(super) fn standing(self, ceiling: &Ceiling, now: Steady) -> Standing {
        let used = self.used_at(ceiling, now.max(self.at));
        Standing {
            whole: ceiling.units,
            used,
            remaining: ceiling.units.saturating_sub(used),
            more_in: (ceiling.units > 0 && used > 0).then(|| self.to_the_end(ceiling, now)),
        }
    }

    fn to_the_end(self, ceiling: &Ceiling, now: Steady) -> u64 {
        window_end(now.max(self.at), ceiling.period).since(now)
    }

    pub(super) fn take(&mut self, ceiling: &Ceiling, weight: u64, now: Steady) {
        let now = now.max(self.at);
        self.used = self.used_at(ceiling, now).saturating_add(weight);
        self.at = now;
        self.keep(ceiling);
    }

    pub(super) fn give_back(&mut self, ceiling: &Ceiling, weight: u64, taken: Steady) {
        if window(taken, ceiling.period) == window(self.at, ceiling.period) {
            self.used = self.used.saturating_sub(weight);
        }
    }

    pub(super) fn keep(&mut self, ceiling: &Ceiling) {
        self.idle_from = window_end(self.at, ceiling.period);
    }

    pub(super) fn is_idle(self, now: Steady) -> bool {
        self.used == 0 || now >= self.idle_from
    }

    pub(super) fn carried(self) -> Carried {
        Carried { at: self.at, units: self.used }
    }

    fn used_at(self, ceiling: &Ceiling, now: Steady) -> u64 {
        if window(self.at, ceiling.period) == window(now, ceiling.period) { self.used } else { 0 }
    }
}

fn window(at: Steady, period: u64) -> u64 {
    at.0 / period.max(1)
}

fn window_end(at: Steady, period: u64) -> Steady {
    let period = period.max(1);
    Steady((at.0 - at.0 % period).saturating_add(period))
}
