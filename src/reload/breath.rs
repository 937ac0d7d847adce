//! How a reload of many keys leaves the cores to requests: it works a little, and sleeps a little.
//!
//! A low priority is not enough. It says how a core is shared by those who wait for it; but the scheduler hardly moves anyone
//! away from a core that another is kept busy on, and a core on which a reload computes is busy. A core that falls idle draws
//! waiting threads at once, so sleeping gives away what yielding does not.

use std::cell::Cell;
use std::time::Duration;

use crate::clock::{Clock, Steady};

/// Nanoseconds of work between two rests. With half of it requests wait no less for a reload, and a reload takes longer.
const WORK: u64 = 400_000;
/// How long a rest is; the system makes it about twice as long.
const REST: Duration = Duration::from_micros(50);

/// Counts the time since the last rest.
#[derive(Debug)]
pub struct Breath<'a> {
    clock: &'a Clock,
    rested: Cell<Steady>,
}

impl Breath<'_> {
    /// The work begins now.
    pub fn new(clock: &Clock) -> Breath<'_> {
        Breath { clock, rested: Cell::new(clock.steady()) }
    }

    /// Rests if it has worked long enough. With a clock that does not move it never does.
    pub fn draw(&self) {
        if self.clock.steady().since(self.rested.get()) < WORK {
            return;
        }
        std::thread::sleep(REST);
        self.rested.set(self.clock.steady());
    }
}
