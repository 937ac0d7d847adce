//! Meters: how much of a limit one subject has used. A meter stores *use*, never what is left and never a time to
//! refill: the ceiling comes with every ask, so a changed limit is in force on the next reading.
//!
//! Pure and synchronous; the ledger holds the lock. Nothing here may read a clock, allocate in [`Meter::take`], or
//! forget a use because a ceiling, or the clock, moved. All of it saturates: no number from a policy can overflow.

mod bucket;
mod concurrent;
mod fixed;
mod sliding;

pub use bucket::Bucket;
pub use concurrent::Concurrent;
pub use fixed::Fixed;
pub use sliding::Sliding;

use crate::clock::{Now, Steady};

use super::limit::{Ceiling, Window};
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
}

/// Two ways of counting that cannot be turned into one another: use over time, and what is open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Bucket, sliding, fixed: what was used passes with time.
    Rate,
    /// Concurrent: what is open stays until it is closed.
    Open,
}

impl Family {
    /// The family of a window.
    pub fn of(window: Window) -> Family {
        match window {
            Window::Bucket | Window::Sliding | Window::Fixed => Family::Rate,
            Window::Concurrent => Family::Open,
        }
    }
}

/// The figures of a [`Reading`], as each kind of meter works them out.
#[derive(Clone, Copy, Debug)]
struct Figures {
    used: u64,
    remaining: u64,
    admits: bool,
    wait: Option<u64>,
    more_in: Option<u64>,
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
        }
    }

    /// How it counts.
    pub fn window(&self) -> Window {
        match self {
            Meter::Bucket(_) => Window::Bucket,
            Meter::Sliding(_) => Window::Sliding,
            Meter::Fixed(_) => Window::Fixed,
            Meter::Concurrent(_) => Window::Concurrent,
        }
    }

    /// Whether the ask is admitted: the same answer as [`Meter::read`], for less work.
    pub fn admits(&self, ask: &Ask, now: Now) -> bool {
        let (ceiling, weight, now) = (&ask.ceiling, ask.weight, now.steady);
        match (self, ceiling.window) {
            (Meter::Bucket(bucket), Window::Bucket) => bucket.admits(ceiling, weight, now),
            (Meter::Sliding(sliding), Window::Sliding) => sliding.admits(ceiling, weight, now),
            (Meter::Fixed(fixed), Window::Fixed) => fixed.admits(ceiling, weight, now),
            (Meter::Concurrent(concurrent), Window::Concurrent) => concurrent.admits(ceiling),
            _ => self.figures(ask, now).admits,
        }
    }

    /// What the limit says to the ask. Changes nothing. A meter of another window answers with its use carried over.
    pub fn read(&self, ask: &Ask, now: Now) -> Reading {
        reading(ask, self.figures(ask, now.steady))
    }

    /// What a limit says of which nothing is used: as `Meter::empty(window).read(…)`, without making the meter.
    pub fn unused(ask: &Ask, now: Now) -> Reading {
        // A bucket needs no storage of its own, and every other window answers as if its use had been carried over.
        Meter::empty(Window::Bucket).read(ask, now)
    }

    fn figures(&self, ask: &Ask, now: Steady) -> Figures {
        let (ceiling, weight) = (&ask.ceiling, ask.weight);
        match (self, ceiling.window) {
            (Meter::Bucket(bucket), Window::Bucket) => bucket.figures(ceiling, weight, now),
            (Meter::Sliding(sliding), Window::Sliding) => sliding.figures(ceiling, weight, now),
            (Meter::Fixed(fixed), Window::Fixed) => fixed.figures(ceiling, weight, now),
            (Meter::Concurrent(concurrent), Window::Concurrent) => concurrent.figures(ceiling),
            (other, Window::Bucket) => {
                Bucket::carrying(other.carried(ceiling, now), ceiling).figures(ceiling, weight, now)
            }
            (other, Window::Sliding) => {
                sliding::figures_carrying(other.carried(ceiling, now), ceiling, weight, now)
            }
            (other, Window::Fixed) => {
                Fixed::carrying(other.carried(ceiling, now), ceiling).figures(ceiling, weight, now)
            }
            (_, Window::Concurrent) => Concurrent::default().figures(ceiling),
        }
    }

    /// Takes what was asked for. Only after a reading under the same lock, with the same `now`, that admits.
    /// Allocates nothing, unless the window is another one and the meter was not made to [`Meter::inherit`] before.
    pub fn take(&mut self, ask: &Ask, now: Now) {
        if self.window() != ask.ceiling.window {
            let mut fresh = Meter::empty(ask.ceiling.window);
            fresh.inherit(self, &ask.ceiling, now);
            *self = fresh;
        }
        match self {
            Meter::Bucket(bucket) => bucket.take(&ask.ceiling, ask.weight, now.steady),
            Meter::Sliding(sliding) => sliding.take(&ask.ceiling, ask.weight, now.steady),
            Meter::Fixed(fixed) => fixed.take(&ask.ceiling, ask.weight, now.steady),
            Meter::Concurrent(concurrent) => concurrent.take(),
        }
    }

    /// Undoes a take of `weight` that was made at `taken` under this ceiling, as far as its units are still in use; what time has given back since,
    /// or a window that has ended, is not given back twice.
    pub fn give_back(&mut self, ceiling: &Ceiling, weight: u64, taken: Steady) {
        match self {
            Meter::Bucket(bucket) => bucket.give_back(ceiling, weight, taken),
            Meter::Sliding(sliding) => sliding.give_back(ceiling, weight, taken),
            Meter::Fixed(fixed) => fixed.give_back(ceiling, weight, taken),
            Meter::Concurrent(concurrent) => concurrent.close_one(),
        }
    }

    /// Frees one slot of a concurrent meter; nothing for any other.
    pub fn close_one(&mut self) {
        if let Meter::Concurrent(concurrent) = self {
            concurrent.close_one();
        }
    }

    /// Makes this meter, which is empty, count what `old` counted; use over time and what is open stay apart.
    /// Between windows it errs towards refusing: all use is put at the instant of the latest. Allocates nothing.
    pub fn inherit(&mut self, old: &Meter, ceiling: &Ceiling, now: Now) {
        match (&mut *self, old) {
            (Meter::Bucket(bucket), Meter::Bucket(old)) => *bucket = *old,
            (Meter::Sliding(sliding), Meter::Sliding(old)) => sliding.copy_from(old),
            (Meter::Fixed(fixed), Meter::Fixed(old)) => *fixed = *old,
            (Meter::Concurrent(_), _) | (_, Meter::Concurrent(_)) => {}
            (Meter::Bucket(bucket), _) => {
                *bucket = Bucket::carrying(old.carried(ceiling, now.steady), ceiling);
            }
            (Meter::Sliding(sliding), _) => sliding.carry(old.carried(ceiling, now.steady)),
            (Meter::Fixed(fixed), _) => {
                *fixed = Fixed::carrying(old.carried(ceiling, now.steady), ceiling);
            }
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
            Meter::Concurrent(_) => {}
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
        }
    }

    fn carried(&self, ceiling: &Ceiling, now: Steady) -> Carried {
        match self {
            Meter::Bucket(bucket) => bucket.carried(),
            Meter::Sliding(sliding) => sliding.carried(ceiling, now),
            Meter::Fixed(fixed) => fixed.carried(),
            Meter::Concurrent(_) => Carried::default(),
        }
    }
}

fn reading(ask: &Ask, figures: Figures) -> Reading {
    let Figures { used, remaining, admits, wait, more_in } = figures;
    let (limit, mode, ceiling) = (ask.limit, ask.mode, ask.ceiling);
    Reading { limit, mode, ceiling, used, remaining, admits, wait, more_in }
}

#[cfg(test)]
mod tests;
