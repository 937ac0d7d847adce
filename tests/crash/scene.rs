//! What the threads of one world share: the door of the gate that lives now, and who waits before it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::books::Books;
use crate::support::eventually;

/// Where the gate of this boot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Door {
    pub(crate) boot: usize,
    pub(crate) traffic: SocketAddr,
    pub(crate) admin: SocketAddr,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open(Door),
    Closed,
    Over,
}

/// One world's stage.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) books: Books,
    /// The tenant of this round.
    pub(crate) tenant: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    waiting: AtomicUsize,
    actors: usize,
}

impl Scene {
    pub(crate) fn with(actors: usize) -> Scene {
        Scene {
            books: Books::default(),
            tenant: AtomicUsize::new(0),
            state: Mutex::new(State::Closed),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            actors,
        }
    }

    pub(crate) fn open(&self, door: Door) {
        *self.state() = State::Open(door);
        self.changed.notify_all();
    }

    /// Closes the door, and waits until everybody knows.
    pub(crate) fn close(&self) -> bool {
        *self.state() = State::Closed;
        eventually(Duration::from_secs(20), || self.waiting.load(Ordering::SeqCst) == self.actors)
    }

    /// Sends everybody home.
    pub(crate) fn end(&self) {
        *self.state() = State::Over;
        self.changed.notify_all();
    }

    /// Waits for an open door; `None`: there will be none.
    pub(crate) fn enter(&self) -> Option<Door> {
        let mut state = self.state();
        if let State::Open(door) = *state {
            return Some(door);
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            match *state {
                State::Open(door) => break Some(door),
                State::Over => break None,
                State::Closed => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        found
    }

    /// Whether this door is still the one to use.
    pub(crate) fn is_open(&self, door: Door) -> bool {
        matches!(*self.state(), State::Open(now) if now == door)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
