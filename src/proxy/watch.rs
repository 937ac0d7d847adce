//! The deadlines of a client connection, on one timer: for a head that arrives in pieces, for a connection without
//! requests, and for a client that does not read. A request costs no timer of its own. Never closes anything itself.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::wire::{Stage, Wire};
use crate::policy::snapshot::Bounds;

/// Why a connection is over, or hyper's part of it.
pub(crate) enum Over {
    /// hyper is done with the connection.
    Done(hyper::Result<()>),
    /// A head did not arrive in time.
    SlowHead,
    /// No request came.
    Idle,
    /// No request came for a while: hyper's buffers can go, the connection stays (HTTP/1).
    Quiet,
    /// The client does not read: not a byte, or (HTTP/2) not one chunk of any answer, within the deadline.
    Stalled,
}

/// What a part of a head looks like in the protocol of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// HTTP/1: bytes while nothing is owed are a head.
    Heads,
    /// HTTP/2: bytes may be anything; only requests count.
    Frames,
}

/// How many looks at a connection make up the shorter of its two long deadlines, at least.
const LOOKS: u32 = 4;
/// The longest time between two looks at an HTTP/1 connection. One without a request from one look to the next gives
/// hyper's buffers back.
const LONGEST_STEP: Duration = Duration::from_secs(4);

/// The deadlines of a connection, on one timer.
pub(crate) struct Watch {
    pieces: Pieces,
    head_timeout: Duration,
    step: Duration,
    idle_steps: u32,
    stall_steps: u32,
    awaits_head: bool,
    registered: bool,
    moved: u64,
    requests: u64,
    frames: u64,
    idle: u32,
    stalled: u32,
}

impl Watch {
    /// To be polled with a timer that is set to `head_timeout`, in which the first head must arrive.
    pub(crate) fn new(bounds: &Bounds, pieces: Pieces) -> Watch {
        let shorter = bounds.keep_alive.min(bounds.body_idle);
        let step = (shorter / LOOKS).max(Duration::from_millis(1));
        let step = match pieces {
            Pieces::Heads => step.min(LONGEST_STEP),
            Pieces::Frames => step,
        };
        let steps = |long: Duration| {
            u32::try_from(long.as_nanos().div_ceil(step.as_nanos())).unwrap_or(u32::MAX)
        };
        Watch {
            pieces,
            head_timeout: bounds.head_timeout,
            step,
            idle_steps: steps(bounds.keep_alive),
            stall_steps: steps(bounds.body_idle),
            awaits_head: true,
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
        wire: &Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Over>> {
        let in_pieces = self.pieces == Pieces::Heads && wire.stage() == Stage::Head;
        let awaits_head = in_pieces || (wire.requests() == 0 && wire.open() == 0);
        if awaits_head != self.awaits_head {
            self.awaits_head = awaits_head;
            self.registered = false;
            timer.set(sleep(if awaits_head { self.head_timeout } else { self.step }));
        }
        if self.registered && !timer.is_elapsed() {
            return Poll::Pending;
        }
        self.registered = true;
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if awaits_head {
            return Poll::Ready(Some(if in_pieces { Over::SlowHead } else { Over::Idle }));
        }
        let idle = wire.open() == 0 && wire.requests() == self.requests;
        // The client takes no bytes, or (HTTP/2) opens no window for any answer.
        let stalled = (wire.write_waits() && wire.moved() == self.moved)
            || (self.pieces == Pieces::Frames
                && wire.all_held_up()
                && wire.frames() == self.frames);
        self.idle = if idle { self.idle + 1 } else { 0 };
        self.stalled = if stalled { self.stalled + 1 } else { 0 };
        (self.requests, self.moved) = (wire.requests(), wire.moved());
        self.frames = wire.frames();
        self.registered = false;
        timer.set(sleep(self.step));
        Poll::Ready(if self.stalled >= self.stall_steps {
            Some(Over::Stalled)
        } else if self.idle >= self.idle_steps {
            Some(Over::Idle)
        } else if self.idle > 0 && self.pieces == Pieces::Heads && wire.may_be_left() {
            Some(Over::Quiet)
        } else {
            None
        })
    }

    /// What is left of the idle time.
    pub(crate) fn rest(&self) -> Duration {
        self.step * self.idle_steps.saturating_sub(self.idle)
    }

    /// Ticks again after a pause.
    pub(crate) fn resume(&mut self, mut timer: Pin<&mut Sleep>) {
        (self.idle, self.awaits_head, self.registered) = (0, false, false);
        timer.set(sleep(self.step));
    }
}
