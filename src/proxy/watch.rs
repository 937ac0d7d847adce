//! The deadlines of a client connection, on one timer: for a head that arrives in pieces, for a connection without
//! requests, and for a client that does not read. A request costs no timer of its own. Never closes anything itself.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::policy::snapshot::Bounds;

/// Why a connection is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// A head did not arrive in time.
    SlowHead,
    /// No request came.
    Idle,
    /// The client does not read: not a byte, or (HTTP/2) not one chunk of any answer, within the deadline.
    Stalled,
}

/// What a client must send soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// Nothing.
    Nothing,
    /// Its first request.
    FirstRequest,
    /// The rest of a head (HTTP/1).
    RestOfHead,
}

/// A look at a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) awaits: Awaits,
    /// Whether any answer is owed.
    pub(crate) open: bool,
    /// Requests so far, or whatever else grows while a client is at work.
    pub(crate) requests: u64,
    /// Grows whenever a byte moves either way.
    pub(crate) moved: u64,
    /// Whether bytes wait because the client does not read.
    pub(crate) write_waits: bool,
    /// Whether every open answer waits for the client to take what there is (HTTP/2).
    pub(crate) all_held_up: bool,
    /// Frames that answers gave so far (HTTP/2).
    pub(crate) frames: u64,
}

/// How many looks at a connection make up the shorter of its two long deadlines, at least.
const LOOKS: u32 = 4;

/// The deadlines of a connection, on one timer.
pub(crate) struct Watch {
    head_timeout: Duration,
    step: Duration,
    idle_steps: u32,
    stall_steps: u32,
    awaits: Awaits,
    registered: bool,
    moved: u64,
    requests: u64,
    frames: u64,
    idle: u32,
    stalled: u32,
}

impl Watch {
    /// To be polled with a timer that is set to `head_timeout`, in which the first head must arrive.
    pub(crate) fn new(bounds: &Bounds) -> Watch {
        let shorter = bounds.keep_alive.min(bounds.body_idle);
        let step = (shorter / LOOKS).max(Duration::from_millis(1));
        let steps = |long: Duration| {
            u32::try_from(long.as_nanos().div_ceil(step.as_nanos())).unwrap_or(u32::MAX)
        };
        Watch {
            head_timeout: bounds.head_timeout,
            step,
            idle_steps: steps(bounds.keep_alive),
            stall_steps: steps(bounds.body_idle),
            awaits: Awaits::FirstRequest,
            registered: false,
            moved: 0,
            requests: 0,
            frames: 0,
            idle: 0,
            stalled: 0,
        }
    }

    /// Ready with the reason to end the connection, or with `None` when the timer was set anew and must be polled.
    pub(crate) fn poll(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        sight: Sight,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Over>> {
        if sight.awaits != self.awaits {
            let same_time = sight.awaits != Awaits::Nothing && self.awaits != Awaits::Nothing;
            self.awaits = sight.awaits;
            if !same_time {
                self.registered = false;
                let awaits_head = sight.awaits != Awaits::Nothing;
                timer.set(sleep(if awaits_head { self.head_timeout } else { self.step }));
            }
        }
        if self.registered && !timer.is_elapsed() {
            return Poll::Pending;
        }
        self.registered = true;
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        match sight.awaits {
            Awaits::RestOfHead => return Poll::Ready(Some(Over::SlowHead)),
            Awaits::FirstRequest => return Poll::Ready(Some(Over::Idle)),
            Awaits::Nothing => {}
        }
        let idle = !sight.open && sight.requests == self.requests;
        // The client takes no bytes, or opens no window for any answer.
        let stalled = (sight.write_waits && sight.moved == self.moved)
            || (sight.all_held_up && sight.frames == self.frames);
        self.idle = if idle { self.idle + 1 } else { 0 };
        self.stalled = if stalled { self.stalled + 1 } else { 0 };
        (self.requests, self.moved) = (sight.requests, sight.moved);
        self.frames = sight.frames;
        self.registered = false;
        timer.set(sleep(self.step));
        Poll::Ready(if self.stalled >= self.stall_steps {
            Some(Over::Stalled)
        } else if self.idle >= self.idle_steps {
            Some(Over::Idle)
        } else {
            None
        })
    }
}
