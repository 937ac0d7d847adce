//! A handle that ends a long-lived exchange from outside, when its key or tenant is no longer admitted: a tunnel, or an
//! answer whose body still streams. Never says why.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Ends one exchange. Cheap to clone; of one worker.
#[derive(Clone, Debug, Default)]
pub struct Cut(Rc<State>);

#[derive(Debug, Default)]
struct State {
    cut: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Cut {
    /// A handle that has not cut yet.
    pub fn new() -> Cut {
        Cut::default()
    }

    /// Ends the exchange at once: a tunnel closes without a farewell, an answer breaks off.
    pub fn cut(&self) {
        self.0.cut.set(true);
        if let Some(waker) = self.0.waiting.take() {
            waker.wake();
        }
    }

    /// Whether it was cut.
    pub fn is_cut(&self) -> bool {
        self.0.cut.get()
    }

    /// Ready when it is cut. One task waits at a time: the one that carries the exchange.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_cut() {
            return Poll::Ready(());
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if waiting.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
