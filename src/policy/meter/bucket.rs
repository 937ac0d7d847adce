//! The token bucket, as a level of use that drains: GCRA's arithmetic, in whole numbers.
//!
//! The level is counted in units × period, so that it drains by exactly `units` a nanosecond and no rate is ever
//! rounded. Any interval of t admits at most burst + rate · t.

use crate::clock::Steady;
use crate::policy::limit::Ceiling;
use crate::policy::order::Reading;

use super::wide::Wide;
use super::{Carried, Look, Standing};

/// A level at an instant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// Units × `period` in use at `at`.
    level: Wide,
    /// The period of the ceiling under which `level` was written; a reading under another rescales it, upwards.
    period: u64,
    at: Steady,
    idle: Idle,
}

/// When a bucket says the same as an empty one.
#[derive(Clone, Copy, Debug)]
enum Idle {
    /// From here on.
    From(Steady),
    /// When its level has drained at so many units a period, at least one. Only the sweep asks when that is: to divide in
    /// every take for it would be a third of a take's divisions.
    Drained(u64),
}

impl Default for Idle {
    fn default() -> Idle {
        Idle::From(Steady::default())
    }
}

/// What a bucket remembers, for a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketParts {
    /// Units × `period` in use at `at`.
    pub level: u128,
    /// The period under which the level was written, in nanoseconds.
    pub period: u64,
    /// The level's instant.
    pub at: Steady,
    /// When it says the same as an empty one.
    pub idle_from: Steady,
}

impl Bucket {
    /// What it remembers.
    pub fn parts(self) -> BucketParts {
        let Bucket { level, period, at, .. } = self;
        BucketParts { level: level.get(), period, at, idle_from: self.idle_from() }
    }

    /// The bucket that remembers this.
    pub fn from_parts(parts: BucketParts) -> Bucket {
        let BucketParts { level, period, at, idle_from } = parts;
        Bucket { level: Wide::new(level), period, at, idle: Idle::From(idle_from) }
    }

    pub(super) fn carrying(carried: Carried, ceiling: &Ceiling) -> Bucket {
        let period = ceiling.period.max(1);
        let level = Wide::new(u128::from(carried.units) * u128::from(period));
        let mut bucket = Bucket { level, period, at: carried.at, idle: Idle::From(carried.at) };
        bucket.keep(ceiling, carried.at);
        bucket
    }

    pub(super) fn look(&self, ceiling: &Ceiling, weight: u64, now: Steady) -> Look {
        let level = self.level_at(ceiling, now);
        let free = scaled(ceiling.burst, ceiling).saturating_sub(level);
        Look { admits: time_helps(ceiling) && scaled(weight, ceiling) <= free, level }
    }

    pub(super) fn read(&self, ceiling: &Ceiling, weight: u64, now: Steady) -> Reading {
        self.read_behind(self.look(ceiling, weight, now), ceiling, weight, now)
    }

    fn read_behind(&self, look: Look, ceiling: &Ceiling, weight: u64, now: Steady) -> Reading {
        let Look { admits, level } = look;
        self.standing_at(level, ceiling, now).saying(admits, || {
            (time_helps(ceiling) && weight <= ceiling.burst)
                .then(|| self.until_fits(weight, level, ceiling, now))
        })
    }

    fn standing_at(&self, level: u128, ceiling: &Ceiling, now: Steady) -> Standing {
        let period = ceiling.period.max(1);
        let used = ceil(level, period);
        // A burst is a whole number of units, so this is what is left of it, rounded down.
        let remaining = ceiling.burst.saturating_sub(used);
        let more_in = (time_helps(ceiling) && remaining < ceiling.burst).then(|| {
            match u64::try_from(level) {
                // One more is there when what is above the last whole unit has drained: as `until_fits` says it, in 64 bits.
                Ok(level) if used <= ceiling.burst => {
                    let above = level - (used - 1) * period;
                    above.div_ceil(ceiling.units).saturating_add(self.at.since(now))
                }
                _ => self.until_fits(remaining + 1, level, ceiling, now),
            }
        });
        Standing { whole: ceiling.burst, used, remaining, more_in }
    }

    /// Nanoseconds until `units` fit, counted from `now` even where the level is of a later instant.
    fn until_fits(&self, units: u64, level: u128, ceiling: &Ceiling, now: Steady) -> u64 {
        let room_for_others = scaled(ceiling.burst.saturating_sub(units), ceiling);
        ceil(level.saturating_sub(room_for_others), ceiling.units)
            .saturating_add(self.at.since(now))
    }

    /// Takes, from the `level` of this same instant, and says how it stands then: nothing has drained since.
    pub(super) fn charge(
        &mut self,
        ceiling: &Ceiling,
        weight: u64,
        now: Steady,
        level: u128,
    ) -> Standing {
        let level = level.saturating_add(scaled(weight, ceiling));
        self.rise_to(level, ceiling, now);
        self.standing_at(level, ceiling, now)
    }

    pub(super) fn take(&mut self, ceiling: &Ceiling, weight: u64, now: Steady) {
        let level = self.level_at(ceiling, now).saturating_add(scaled(weight, ceiling));
        self.rise_to(level, ceiling, now);
    }

    fn rise_to(&mut self, level: u128, ceiling: &Ceiling, now: Steady) {
        // A ceiling of 0 drains nothing; the ceiling before it decides how long the use is remembered.
        self.idle = match ceiling.units {
            0 => Idle::From(self.idle_from()),
            units => Idle::Drained(units),
        };
        self.level = Wide::new(level);
        self.period = ceiling.period.max(1);
        self.at = self.at.max(now);
    }

    pub(super) fn give_back(&mut self, ceiling: &Ceiling, weight: u64, taken: Steady) {
        // The level may have touched the ground since, and others' use may stand on it: what could have drained by
        // itself is not given back again.
        let drained = u128::from(ceiling.units) * u128::from(self.at.since(taken));
        let back = scaled(weight, ceiling).saturating_sub(drained);
        let level = rescaled(self.level.get(), self.period, ceiling.period.max(1));
        self.idle = Idle::From(self.idle_from());
        self.level = Wide::new(level.saturating_sub(back));
        self.period = ceiling.period.max(1);
        self.keep(ceiling, self.at);
    }

    /// Keeps the ceiling, and says how it stands, behind a look at this same instant.
    #[inline]
    pub(super) fn decline(
        &mut self,
        ceiling: &Ceiling,
        weight: u64,
        now: Steady,
        look: Look,
    ) -> Reading {
        self.keep_at(look.level, ceiling, now);
        self.read_behind(look, ceiling, weight, now)
    }

    pub(super) fn keep(&mut self, ceiling: &Ceiling, now: Steady) {
        self.keep_at(self.level_at(ceiling, now), ceiling, now);
    }

    fn keep_at(&mut self, level: u128, ceiling: &Ceiling, now: Steady) {
        match ceiling.units {
            0 => {}
            // As below: what has drained by `now` drained at this same rate.
            units if self.period == ceiling.period.max(1) => self.idle = Idle::Drained(units),
            units => self.idle = Idle::From(self.at.max(now).plus(ceil(level, units))),
        }
    }

    fn idle_from(&self) -> Steady {
        match self.idle {
            Idle::From(at) => at,
            Idle::Drained(units) => self.at.plus(ceil(self.level.get(), units)),
        }
    }

    pub(super) fn is_idle(&self, now: Steady) -> bool {
        self.level.get() == 0 || now >= self.idle_from()
    }

    pub(super) fn carried(&self) -> Carried {
        Carried { at: self.at, units: ceil(self.level.get(), self.period.max(1)) }
    }

    /// The level at `now`, in units × the ceiling's period. An earlier `now` drains nothing.
    fn level_at(&self, ceiling: &Ceiling, now: Steady) -> u128 {
        rescaled(self.level.get(), self.period, ceiling.period.max(1))
            .saturating_sub(u128::from(ceiling.units) * u128::from(now.since(self.at)))
    }
}

/// Whether anything is ever admitted.
fn time_helps(ceiling: &Ceiling) -> bool {
    ceiling.units > 0 && ceiling.burst > 0
}

fn scaled(units: u64, ceiling: &Ceiling) -> u128 {
    u128::from(units) * u128::from(ceiling.period.max(1))
}

/// The same level under another period, rounded up.
fn rescaled(level: u128, old: u64, new: u64) -> u128 {
    if old == new || level == 0 {
        return level;
    }
    let (old, new) = (u128::from(old.max(1)), u128::from(new));
    // In two parts, so that neither product can overflow.
    (level / old).saturating_mul(new).saturating_add(((level % old) * new).div_ceil(old))
}

/// `n / d` rounded up. Both fit in 64 bits for any sensible policy, and a 128-bit division costs ten times as much.
fn ceil(n: u128, d: u64) -> u64 {
    match u64::try_from(n) {
        Ok(small) => small.div_ceil(d),
        Err(_) => u64::try_from(n.div_ceil(u128::from(d))).unwrap_or(u64::MAX),
    }
}
