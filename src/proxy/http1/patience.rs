//! How long an answer's head is waited for. A timer for every request would cost more than many a request itself: a
//! connection has one, which ticks while somebody waits and is otherwise left as it stands.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::proxy::request_body::BodyWatch;

/// Ticks in the time that an answer may take.
const TICKS: u32 = 16;

/// The time for one answer after the other on one connection. It starts again while the request's body moves: a slow
/// upload is the body's own deadline's business. Never too early, and late by at most one tick.
#[derive(Debug, Default)]
pub(super) struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
    tick: Duration,
    left: Ticks,
}

impl Patience {
    /// Another answer is waited for, at most `longest` from the last byte of its request.
    pub(super) fn begin(&mut self, longest: Duration, watch: &BodyWatch) {
        let tick = longest / TICKS;
        if tick != self.tick {
            (self.tick, self.timer) = (tick, None);
        }
        let first = if self.timer.is_some() { First::Begun } else { First::Whole };
        self.left = Ticks::new(first, watch.bytes());
    }

    /// To be polled while the answer is not there; ready when it is late.
    pub(super) fn poll(&mut self, watch: &BodyWatch, cx: &mut Context<'_>) -> Poll<()> {
        let tick = self.tick;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(tick)));
        loop {
            ready!(timer.as_mut().poll(cx));
            timer.set(sleep(tick));
            if self.left.pass(watch.bytes()) == Left::None {
                return Poll::Ready(());
            }
        }
    }
}

/// Ticks in which nothing may move before an answer is late.
#[derive(Debug, Default)]
struct Ticks {
    left: u32,
    moved: u64,
}

/// The tick in which a wait begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// It begins with the wait.
    Whole,
    /// It runs already, or is long over: it does not count.
    Begun,
}

/// What is left of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Some,
    None,
}

impl Ticks {
    /// A wait begins when `moved` bytes of the request have moved.
    fn new(first: First, moved: u64) -> Ticks {
        let left = match first {
            First::Whole => TICKS,
            First::Begun => TICKS + 1,
        };
        Ticks { left, moved }
    }

    /// A tick has passed; by now `moved` bytes have moved.
    fn pass(&mut self, moved: u64) -> Left {
        if moved == self.moved {
            self.left = self.left.saturating_sub(1);
        } else {
            *self = Ticks::new(First::Whole, moved);
        }
        if self.left == 0 { Left::None } else { Left::Some }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_takes_all_its_ticks_and_a_tick_that_had_begun_is_none_of_them() {
        for (first, ticks) in [(First::Whole, TICKS), (First::Begun, TICKS + 1)] {
            let mut left = Ticks::new(first, 7);
            assert!((1..ticks).all(|_| left.pass(7) == Left::Some));
            assert_eq!(left.pass(7), Left::None);
        }
    }

    #[test]
    fn a_byte_of_the_request_starts_the_time_again() {
        let mut left = Ticks::new(First::Begun, 0);
        for moved in 1..100 {
            assert!((1..TICKS).all(|_| left.pass(moved - 1) == Left::Some));
            assert_eq!(left.pass(moved), Left::Some);
        }
        assert!((1..TICKS).all(|_| left.pass(99) == Left::Some));
        assert_eq!(left.pass(99), Left::None);
    }
}
