//! How a worker stops: what its connections must know of it, and the two times that say when.
//!
//! First, for `delay`, everything goes on but every answer says that its connection closes (HTTP/2: GOAWAY), so that a
//! balancer can notice. Then the listeners close, idle connections close with a half-close first, and what is in flight
//! goes on until `deadline`; what is left then is dropped. Never ends an answer early.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;

/// How far the drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainPhase {
    /// No drain.
    #[default]
    Serving,
    /// Accepting goes on, connections end with their next answer.
    Announcing,
    /// Nothing is accepted, idle connections close.
    Closing,
}

/// A worker's drain, as its connections see it. Asking costs one load; being told costs one entry a connection.
#[derive(Debug, Default)]
pub struct DrainSignal {
    phase: Cell<DrainPhase>,
    next: Cell<u64>,
    listening: RefCell<HashMap<u64, Waker>>,
}

impl DrainSignal {
    /// How far the drain is.
    pub fn phase(&self) -> DrainPhase {
        self.phase.get()
    }

    /// Moves on and wakes whoever listens.
    pub(crate) fn advance(&self, to: DrainPhase) {
        if to > self.phase.get() {
            self.phase.set(to);
            for waker in self.listening.borrow().values() {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes this task at every step of the drain, as long as the value lives.
    pub(crate) fn listen(self: &Rc<DrainSignal>, waker: Waker) -> Listening {
        let id = self.next.get();
        self.next.set(id + 1);
        self.listening.borrow_mut().insert(id, waker);
        Listening { signal: Rc::clone(self), id }
    }
}

/// See [`DrainSignal::listen`].
#[derive(Debug)]
pub(crate) struct Listening {
    signal: Rc<DrainSignal>,
    id: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.signal.listening.borrow_mut().remove(&self.id);
    }
}
