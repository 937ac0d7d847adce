//! A deadline on silence that costs nothing while there is none: the timer is set only when a read has to wait.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// Fires when nothing was heard for the given time.
#[derive(Debug)]
pub(crate) struct Silence {
    longest: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Silence {
    /// Allows `longest` without a sound. The timer is made when it is first needed.
    pub(crate) fn new(longest: Duration) -> Silence {
        Silence { longest, timer: None, running: false }
    }

    /// Something arrived: the next wait starts from zero.
    pub(crate) fn heard(&mut self) {
        self.running = false;
    }

    /// To be polled whenever the awaited thing is pending; ready when the silence was too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.running {
                    timer.set(sleep(self.longest));
                }
                timer
            }
            none => none.insert(Box::pin(sleep(self.longest))),
        };
        self.running = true;
        timer.as_mut().poll(cx)
    }
}
