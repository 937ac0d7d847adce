//! Meters: how much of a limit one subject has used. A meter stores *use*, never what is left and never a time to
//! refill: the ceiling comes with every ask, so a changed limit is in force on the next reading.
//!
//! Pure and synchronous; the ledger holds the lock. Nothing here may read a clock, allocate in [`Meter::take`], or
//! forget a use because a ceiling, or the clock, moved. All of it saturates: no number from a policy can overflow.

mod bucket;
mod concurrent;
mod fixed;
mod purse;
mod sliding;
mod tally;
mod wide;

pub use bucket::{Bucket, BucketParts};
pub use concurrent::Concurrent;
pub use fixed::{Fixed, FixedParts};
pub use purse::Purse;
pub use sliding::Sliding;
pub use tally::{Block, Tally};

use crate::clock::{Now, Steady, Wall};

use super::calendar::{CalendarIx, Period};
use super::limit::{Ceiling, LimitKind, Window};
use super::order::{Ask, Reading};

/// What one subject has used of one limit.
#[derive(Clone, Debug)]
pub enum Meter {
    /// A level that drains.
    Bucket(Bucket),
    /// When the use of the last period was.
    Sliding(Sliding),
    /// The use of one window.
    Fixed(Fixed),
    /// What is open.
    Concurrent(Concurrent),
    /// The units of one calendar period.
    Quota(Tally),
    /// The money of one calendar period.
    Spend(Tally),
    /// Prepaid credit.
    Credit(Purse),
}

/// What a meter says to an ask before it is taken: [`Meter::look`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Whether the ask is admitted.
    pub admits: bool,
    /// The level of a bucket or the use of a sliding window at this instant, so that the take need not work it out again; 0
    /// of every other meter.
    level: u128,
}

/// The figures of a [`Reading`] that no weight changes.
#[derive(Clone, Copy, Debug)]
struct Standing {
    whole: u64,
    used: u64,
    remaining: u64,
    more_in: Option<u64>,
}

impl Standing {
    /// What is said to an ask that is admitted.
    fn admitting(self) -> Reading {
        let Standing { whole, used, remaining, more_in } = self;
        Reading { whole, used, remaining, admits: true, wait: Some(0), more_in }
    }

    /// What is said to an ask, which waits so long if it is not admitted.
    fn saying(self, admits: bool, wait: impl FnOnce() -> Option<u64>) -> Reading {
        if admits {
            return self.admitting();
        }
        let Standing { whole, used, remaining, more_in } = self;
        Reading { whole, used, remaining, admits, wait: wait(), more_in }
    }
}

/// Use in the form in which one kind of meter hands it to another: all of it at the instant of the latest.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    at: Steady,
    units: u64,
}

impl Meter {
    /// A meter of which nothing is used, with all the storage that it will ever need.
    pub fn empty(window: Window) -> Meter {
        match window {
            Window::Bucket => Meter::Bucket(Bucket::default()),
            Window::Sliding => Meter::Sliding(Sliding::default()),
            Window::Fixed => Meter::Fixed(Fixed::default()),
            Window::Concurrent => Meter::Concurrent(Concurrent::default()),
            Window::Quota(_) => Meter::Quota(Tally::default()),
            Window::Spend(_) => Meter::Spend(Tally::default()),
            Window::Prepaid => Meter::Credit(Purse::default()),
        }
    }

    /// What it counts.
    pub fn kind(&self) -> LimitKind {
        match self {
            Meter::Bucket(_) | Meter::Sliding(_) | Meter::Fixed(_) => LimitKind::Rate,
            Meter::Concurrent(_) => LimitKind::Concurrent,
            Meter::Quota(_) => LimitKind::Quota,
            Meter::Spend(_) => LimitKind::Spend,
            Meter::Credit(_) => LimitKind::Credit,
        }
    }

    /// Whether it counts as this window does. A tally counts for every calendar.
    pub fn counts(&self, window: Window) -> bool {
        match (self, window) {
            (Meter::Bucket(_), Window::Bucket)
            | (Meter::Sliding(_), Window::Sliding)
            | (Meter::Fixed(_), Window::Fixed)
            | (Meter::Concurrent(_), Window::Concurrent)
            | (Meter::Quota(_), Window::Quota(_))
            | (Meter::Spend(_), Window::Spend(_))
            | (Meter::Credit(_), Window::Prepaid) => true,
            (
                Meter::Bucket(_)
                | Meter::Sliding(_)
                | Meter::Fixed(_)
                | Meter::Concurrent(_)
                | Meter::Quota(_)
                | Meter::Spend(_)
                | Meter::Credit(_),
                _,
            ) => false,
        }
    }

    /// The first half of a take, which changes nothing; the other is [`Meter::charge`] or [`Meter::decline`]. `None` if it
    /// does not count as the ask's window does.
    pub fn look(&self, ask: &Ask, now: Now) -> Option<Look> {
        let (ceiling, weight, steady) = (&ask.ceiling, ask.weight, now.steady);
        let admits = match (self, ceiling.window) {
            (Meter::Bucket(bucket), Window::Bucket) => {
                return Some(bucket.look(ceiling, weight, steady));
            }
            (Meter::Sliding(sliding), Window::Sliding) => {
                return Some(sliding.look(ceiling, weight, steady));
            }
            (Meter::Fixed(fixed), Window::Fixed) => fixed.admits(ceiling, weight, steady),
            (Meter::Concurrent(concurrent), Window::Concurrent) => concurrent.admits(ceiling),
            (Meter::Quota(tally), Window::Quota(_)) | (Meter::Spend(tally), Window::Spend(_)) => {
                tally.admits(ceiling, weight, ask.period)
            }
            (Meter::Credit(purse), Window::Prepaid) => purse.admits(weight),
            _ => return None,
        };
        Some(Look { admits, level: 0 })
    }

    /// What the limit says to the ask. Changes nothing. A meter of another window answers with its use carried over.
    pub fn read(&self, ask: &Ask, at: Now) -> Reading {
        let (ceiling, weight, now) = (&ask.ceiling, ask.weight, at.steady);
        match (self, ceiling.window) {
            (Meter::Bucket(bucket), Window::Bucket) => bucket.read(ceiling, weight, now),
            (Meter::Sliding(sliding), Window::Sliding) => sliding.read(ceiling, weight, now),
            (Meter::Fixed(fixed), Window::Fixed) => fixed.read(ceiling, weight, now),
            (Meter::Concurrent(concurrent), Window::Concurrent) => concurrent.read(ceiling),
            (other, Window::Bucket) => {
                Bucket::carrying(other.carried(ceiling, now), ceiling).read(ceiling, weight, now)
            }
            (other, Window::Sliding) => {
                sliding::read_carrying(other.carried(ceiling, now), ceiling, weight, now)
            }
            (other, Window::Fixed) => {
                Fixed::carrying(other.carried(ceiling, now), ceiling).read(ceiling, weight, now)
            }
            (_, Window::Concurrent) => Concurrent::default().read(ceiling),
            (Meter::Quota(tally), Window::Quota(_)) | (Meter::Spend(tally), Window::Spend(_)) => {
                tally.read(ceiling, weight, ask.period, at.wall)
            }
            (_, Window::Quota(_) | Window::Spend(_)) => {
                Tally::default().read(ceiling, weight, ask.period, at.wall)
            }
            (Meter::Credit(purse), Window::Prepaid) => purse.read(weight),
            (_, Window::Prepaid) => Purse::default().read(weight),
        }
    }

    /// What a limit says of which nothing is used: as `Meter::empty(window).read(…)`, without making the meter.
    pub fn unused(ask: &Ask, now: Now) -> Reading {
        // A bucket needs no storage of its own, and every other window answers as if its use had been carried over.
        Meter::empty(Window::Bucket).read(ask, now)
    }

    /// Takes what was asked for. Only after a reading under the same lock, with the same `now`, that admits.
    /// Allocates nothing, unless the window is another one and the meter was not made to [`Meter::inherit`] before.
    pub fn take(&mut self, ask: &Ask, now: Now) {
        self.turn_into(ask, now);
        match self {
            Meter::Bucket(bucket) => bucket.take(&ask.ceiling, ask.weight, now.steady),
            Meter::Sliding(sliding) => sliding.take(&ask.ceiling, ask.weight, now.steady),
            Meter::Fixed(fixed) => fixed.take(&ask.ceiling, ask.weight, now.steady),
            Meter::Concurrent(concurrent) => concurrent.take(),
            Meter::Quota(tally) | Meter::Spend(tally) => {
                tally.take(ask.weight, ask.period, now.wall);
            }
            Meter::Credit(purse) => purse.take(ask.weight),
        }
    }

    /// Makes it a meter of the ask's window, if it is not, that counts what it counted.
    fn turn_into(&mut self, ask: &Ask, now: Now) {
        if !self.counts(ask.ceiling.window) {
            let mut fresh = Meter::empty(ask.ceiling.window);
            fresh.inherit(self, &ask.ceiling, now);
            *self = fresh;
        }
    }

    /// Takes what was asked for, as [`Meter::take`] does, and says how the limit stands after that. As reading it again
    /// would, but that the ask is known to be admitted: the half of a reading that says so is not worked out. Only behind a
    /// `look` under the same lock, at the same `now`, that admits.
    pub fn charge(&mut self, ask: &Ask, now: Now, look: Look) -> Reading {
        debug_assert!(look.admits && self.counts(ask.ceiling.window), "it was looked at");
        let (ceiling, weight, steady) = (&ask.ceiling, ask.weight, now.steady);
        let standing = match self {
            Meter::Bucket(bucket) => bucket.charge(ceiling, weight, steady, look.level),
            Meter::Sliding(sliding) => sliding.charge(ceiling, weight, steady, look.level),
            Meter::Fixed(fixed) => {
                fixed.take(ceiling, weight, steady);
                fixed.standing(ceiling, steady)
            }
            Meter::Concurrent(concurrent) => {
                concurrent.take();
                concurrent.standing(ceiling)
            }
            Meter::Quota(tally) | Meter::Spend(tally) => {
                tally.take(weight, ask.period, now.wall);
                tally.standing(ceiling, ask.period, now.wall)
            }
            Meter::Credit(purse) => {
                purse.take(weight);
                purse.standing()
            }
        };
        standing.admitting()
    }

    /// Takes nothing, because the ask or another one of its request is refused, and says how the limit stands. Notes the
    /// ceiling under which the meter was looked at, as [`Meter::keep`] does. Only behind a `look` under the same lock, at the
    /// same `now`.
    pub fn decline(&mut self, ask: &Ask, now: Now, look: Look) -> Reading {
        match self {
            Meter::Bucket(bucket) => bucket.decline(&ask.ceiling, ask.weight, now.steady, look),
            Meter::Sliding(sliding) => sliding.decline(&ask.ceiling, ask.weight, now.steady, look),
            Meter::Fixed(_)
            | Meter::Concurrent(_)
            | Meter::Quota(_)
            | Meter::Spend(_)
            | Meter::Credit(_) => {
                self.keep(&ask.ceiling, now);
                self.read(ask, now)
            }
        }
    }

    /// [`Meter::look`] and [`Meter::decline`] in one, for who takes nothing whatever is said. `None` if it does not count as
    /// the ask's window does, and nothing is noted then.
    pub fn look_and_decline(&mut self, ask: &Ask, now: Now) -> Option<Reading> {
        let (ceiling, weight, steady) = (&ask.ceiling, ask.weight, now.steady);
        Some(match (self, ceiling.window) {
            (Meter::Bucket(bucket), Window::Bucket) => {
                let look = bucket.look(ceiling, weight, steady);
                bucket.decline(ceiling, weight, steady, look)
            }
            (Meter::Sliding(sliding), Window::Sliding) => {
                sliding.keep(ceiling);
                sliding.read(ceiling, weight, steady)
            }
            (Meter::Fixed(fixed), Window::Fixed) => {
                fixed.keep(ceiling);
                fixed.read(ceiling, weight, steady)
            }
            (Meter::Concurrent(concurrent), Window::Concurrent) => concurrent.read(ceiling),
            (Meter::Quota(tally), Window::Quota(_)) | (Meter::Spend(tally), Window::Spend(_)) => {
                tally.read(ceiling, weight, ask.period, now.wall)
            }
            (Meter::Credit(purse), Window::Prepaid) => purse.read(weight),
            _ => return None,
        })
    }

    /// Undoes a take of `weight` that was made at `taken` under this ceiling, as far as its units are still in use; what time has given back since,
    /// or a window that has ended, is not given back twice.
    pub fn give_back(&mut self, ceiling: &Ceiling, weight: u64, taken: Now) {
        match self {
            Meter::Bucket(bucket) => bucket.give_back(ceiling, weight, taken.steady),
            Meter::Sliding(sliding) => sliding.give_back(ceiling, weight, taken.steady),
            Meter::Fixed(fixed) => fixed.give_back(ceiling, weight, taken.steady),
            Meter::Concurrent(concurrent) => concurrent.close_one(),
            Meter::Quota(tally) | Meter::Spend(tally) => tally.give_back(weight, taken.wall),
            Meter::Credit(purse) => purse.give_back(weight),
        }
    }

    /// Counts use in a calendar period, or of credit, that no ask took. What time has left behind is not counted, nor is
    /// anything by a meter of another kind.
    pub fn count(&mut self, amount: u64, period: Period, at: Wall) {
        match self {
            Meter::Quota(tally) | Meter::Spend(tally) => tally.count(amount, period, at),
            Meter::Credit(purse) => purse.take(amount),
            Meter::Bucket(_) | Meter::Sliding(_) | Meter::Fixed(_) | Meter::Concurrent(_) => {}
        }
    }

    /// The reverse of [`Meter::count`], down to nothing at most.
    pub fn discount(&mut self, amount: u64, period: Period) {
        match self {
            Meter::Quota(tally) | Meter::Spend(tally) => tally.discount(amount, period),
            Meter::Credit(purse) => purse.give_back(amount),
            Meter::Bucket(_) | Meter::Sliding(_) | Meter::Fixed(_) | Meter::Concurrent(_) => {}
        }
    }

    /// Starts from nothing; credit keeps what was topped up, and what is open stays open. Frees no storage.
    pub fn reset(&mut self) {
        match self {
            Meter::Bucket(bucket) => *bucket = Bucket::default(),
            Meter::Sliding(sliding) => sliding.reset(),
            Meter::Fixed(fixed) => *fixed = Fixed::default(),
            Meter::Concurrent(_) => {}
            Meter::Quota(tally) | Meter::Spend(tally) => *tally = Tally::default(),
            Meter::Credit(purse) => purse.used = 0,
        }
    }

    /// A window that it counts as; of a calendar it knows none, and the one that is named here means nothing.
    pub fn shape(&self) -> Window {
        match self {
            Meter::Bucket(_) => Window::Bucket,
            Meter::Sliding(_) => Window::Sliding,
            Meter::Fixed(_) => Window::Fixed,
            Meter::Concurrent(_) => Window::Concurrent,
            Meter::Quota(_) => Window::Quota(CalendarIx(0)),
            Meter::Spend(_) => Window::Spend(CalendarIx(0)),
            Meter::Credit(_) => Window::Prepaid,
        }
    }

    /// Makes this meter say what `other` says, without allocating. Nothing happens between meters of two shapes.
    pub fn copy_from(&mut self, other: &Meter) {
        match (self, other) {
            (Meter::Bucket(own), Meter::Bucket(theirs)) => *own = *theirs,
            (Meter::Sliding(own), Meter::Sliding(theirs)) => own.copy_from(theirs),
            (Meter::Fixed(own), Meter::Fixed(theirs)) => *own = *theirs,
            (Meter::Concurrent(own), Meter::Concurrent(theirs)) => *own = *theirs,
            (Meter::Quota(own), Meter::Quota(theirs))
            | (Meter::Spend(own), Meter::Spend(theirs)) => *own = *theirs,
            (Meter::Credit(own), Meter::Credit(theirs)) => *own = *theirs,
            (
                Meter::Bucket(_)
                | Meter::Sliding(_)
                | Meter::Fixed(_)
                | Meter::Concurrent(_)
                | Meter::Quota(_)
                | Meter::Spend(_)
                | Meter::Credit(_),
                _,
            ) => {}
        }
    }

    /// How many are open, where who holds the slots counts them. Nothing for a meter that is not concurrent.
    pub fn set_open(&mut self, open: u64) {
        if let Meter::Concurrent(concurrent) = self {
            concurrent.set_open(open);
        }
    }

    /// Makes this meter, which is empty, count what `old` counted; use over time and what is open stay apart.
    /// Between windows it errs towards refusing: all use is put at the instant of the latest. Allocates nothing.
    pub fn inherit(&mut self, old: &Meter, ceiling: &Ceiling, now: Now) {
        let alike = self.kind() == old.kind();
        match (&mut *self, old) {
            (Meter::Bucket(bucket), Meter::Bucket(old)) => *bucket = *old,
            (Meter::Sliding(sliding), Meter::Sliding(old)) => sliding.copy_from(old),
            (Meter::Fixed(fixed), Meter::Fixed(old)) => *fixed = *old,
            (Meter::Quota(tally), Meter::Quota(old)) | (Meter::Spend(tally), Meter::Spend(old)) => {
                *tally = *old;
            }
            (Meter::Credit(purse), Meter::Credit(old)) => *purse = *old,
            // What one kind counted says nothing to another.
            _ if !alike => {}
            (Meter::Bucket(bucket), _) => {
                *bucket = Bucket::carrying(old.carried(ceiling, now.steady), ceiling);
            }
            (Meter::Sliding(sliding), _) => sliding.carry(old.carried(ceiling, now.steady)),
            (Meter::Fixed(fixed), _) => {
                *fixed = Fixed::carrying(old.carried(ceiling, now.steady), ceiling);
            }
            (Meter::Concurrent(_) | Meter::Quota(_) | Meter::Spend(_) | Meter::Credit(_), _) => {}
        }
        self.keep(ceiling, now);
    }

    /// Notes the ceiling under which the meter was looked at, so that [`Meter::is_idle`] is as slow to forget as that
    /// ceiling is. For asks that were refused; [`Meter::take`] does it by itself.
    pub fn keep(&mut self, ceiling: &Ceiling, now: Now) {
        match self {
            Meter::Bucket(bucket) => bucket.keep(ceiling, now.steady),
            Meter::Sliding(sliding) => sliding.keep(ceiling),
            Meter::Fixed(fixed) => fixed.keep(ceiling),
            Meter::Concurrent(_) | Meter::Quota(_) | Meter::Spend(_) | Meter::Credit(_) => {}
        }
    }

    /// Whether the meter says the same as one that is not there, under the ceiling of the latest ask; it can be
    /// dropped then.
    pub fn is_idle(&self, now: Now) -> bool {
        match self {
            Meter::Bucket(bucket) => bucket.is_idle(now.steady),
            Meter::Sliding(sliding) => sliding.is_idle(now.steady),
            Meter::Fixed(fixed) => fixed.is_idle(now.steady),
            Meter::Concurrent(concurrent) => concurrent.is_idle(),
            Meter::Quota(tally) | Meter::Spend(tally) => tally.is_idle(now.wall),
            Meter::Credit(purse) => purse.is_idle(),
        }
    }

    fn carried(&self, ceiling: &Ceiling, now: Steady) -> Carried {
        match self {
            Meter::Bucket(bucket) => bucket.carried(),
            Meter::Sliding(sliding) => sliding.carried(ceiling, now),
            Meter::Fixed(fixed) => fixed.carried(),
            Meter::Concurrent(_) | Meter::Quota(_) | Meter::Spend(_) | Meter::Credit(_) => {
                Carried::default()
            }
        }
    }
}

#[cfg(test)]
mod tests;
