//! The only file that asks the system for time. Everything else is handed a [`Now`].

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on a clock that never goes back. It starts at what the wall clock says when the process starts, so that an
/// instant of one process means something to the next; from then on the two go their own ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Steady(pub u64);

impl Steady {
    /// Nanoseconds from `earlier` to `self`, 0 if `earlier` is later.
    pub fn since(self, earlier: Steady) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `nanos` later; saturates at the end of time (584 years).
    #[must_use]
    pub fn plus(self, nanos: u64) -> Steady {
        Steady(self.0.saturating_add(nanos))
    }
}

/// Milliseconds since the Unix epoch, UTC. It may jump either way: only expiry, calendars and prints use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

impl Wall {
    /// The instant `nanos` nanoseconds later, rounded up to the millisecond.
    #[must_use]
    pub fn plus_nanos(self, nanos: u64) -> Wall {
        Wall(self.0.saturating_add(i64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(i64::MAX)))
    }

    /// Whole Unix seconds, rounded up, so that waiting until then is never too short.
    pub fn unix_seconds_up(self) -> i64 {
        // Up is down from the other side, for which one division is enough.
        -self.0.saturating_neg().div_euclid(1000)
    }
}

/// One reading of both clocks. A request reads once at its head and once when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For rates, deadlines and durations.
    pub steady: Steady,
    /// For expiry, calendars and prints.
    pub wall: Wall,
}

/// Where time comes from: the system, or a test's hand.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system's clocks.
    System(Origin),
    /// A clock that moves only when told to.
    Manual(Arc<ManualClock>),
}

/// Where [`Steady`] starts.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// What the system's monotonic clock read then, in nanoseconds.
    monotonic: u64,
    reads: Steady,
}

impl Origin {
    // The system is asked directly: `Instant` and `Duration` know of more than fits, which takes 70 instructions of 100 in
    // each of a request's four readings.
    fn steady(self) -> Steady {
        self.reads.plus(nanos(ClockId::Monotonic).saturating_sub(self.monotonic))
    }
}

/// What a clock of the system reads; 0 before its epoch.
fn nanos(clock: ClockId) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is the file that may")]
    let time = clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec))
}

impl Clock {
    /// The system's clocks, with [`Steady`] starting at the nanoseconds since 1970.
    pub fn system() -> Clock {
        let reads = Steady(nanos(ClockId::Realtime));
        Clock::System(Origin { monotonic: nanos(ClockId::Monotonic), reads })
    }

    /// Reads the steady clock alone: half the price, where no calendar is needed.
    pub fn steady(&self) -> Steady {
        match self {
            Clock::System(origin) => origin.steady(),
            Clock::Manual(manual) => manual.now().steady,
        }
    }

    /// Reads both clocks. What the system's wall clock jumped in the last 10 ms may be missing.
    pub fn now(&self) -> Now {
        match self {
            Clock::System(origin) => system_now(*origin),
            Clock::Manual(manual) => manual.now(),
        }
    }
}

/// For how long the two clocks are taken to keep their distance, in nanoseconds. A jump of the wall clock is noticed that
/// much later.
const KEPT: u64 = 10_000_000;

thread_local! {
    /// When this thread read both clocks of the system, and what each of them read, in nanoseconds.
    static BOTH: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// Reads the monotonic clock, and the other one where that was not done of late: it takes 25 ns a request, and moves with
/// the first.
fn system_now(origin: Origin) -> Now {
    let monotonic = nanos(ClockId::Monotonic);
    let passed = |since: u64| monotonic.saturating_sub(since);
    let (at, wall) = BOTH.get().filter(|(at, _)| passed(*at) < KEPT).unwrap_or_else(|| {
        let both = (monotonic, nanos(ClockId::Realtime));
        BOTH.set(Some(both));
        both
    });
    let millis = wall.saturating_add(passed(at)) / 1_000_000;
    Now {
        steady: origin.reads.plus(monotonic.saturating_sub(origin.monotonic)),
        wall: Wall(i64::try_from(millis).unwrap_or(i64::MAX)),
    }
}

/// A clock for tests: both readings stand still until moved.
#[derive(Debug, Default)]
pub struct ManualClock {
    steady: AtomicU64,
    wall: AtomicI64,
}

impl ManualClock {
    /// A clock that reads `start`.
    pub fn starting_at(start: Now) -> Arc<ManualClock> {
        Arc::new(ManualClock {
            steady: AtomicU64::new(start.steady.0),
            wall: AtomicI64::new(start.wall.0),
        })
    }

    /// What the clock reads.
    pub fn now(&self) -> Now {
        Now {
            steady: Steady(self.steady.load(Ordering::SeqCst)),
            wall: Wall(self.wall.load(Ordering::SeqCst)),
        }
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        self.steady.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
        self.wall.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the wall clock alone, as an operator or NTP would: the steady clock does not notice.
    pub fn set_wall(&self, wall: Wall) {
        self.wall.store(wall.0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up_on_both_sides_of_1970_and_at_the_ends_of_time() {
        for (millis, seconds) in [
            (0, 0),
            (1, 1),
            (1_000, 1),
            (1_001, 2),
            (-1, 0),
            (-999, 0),
            (-1_000, -1),
            (-1_001, -1),
            (i64::MAX, i64::MAX / 1_000 + 1),
            (i64::MIN, i64::MIN / 1_000),
        ] {
            assert_eq!(Wall(millis).unix_seconds_up(), seconds, "{millis}");
        }
    }
}
