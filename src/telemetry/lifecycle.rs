//! Where the gate is in its life, and whether a balancer should send it traffic.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Where the gate is in its life. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No policy is in force yet.
    Starting,
    /// Requests are served.
    Serving,
    /// The end has begun: no new work.
    Draining,
}

/// Why the gate is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// No policy is in force yet.
    Starting,
    /// It is shutting down.
    Draining,
    /// The policy asks for it (`ready: { upstream: true }`), and the upstream cannot be reached.
    UpstreamUnreachable,
    /// The policy asks for it (`ready: { store: true }`), and the store has failed.
    StoreFailed,
}

impl NotReady {
    /// The word that `/readyz` answers with.
    pub const fn name(self) -> &'static str {
        match self {
            NotReady::Starting => "starting",
            NotReady::Draining => "draining",
            NotReady::UpstreamUnreachable => "upstream_unreachable",
            NotReady::StoreFailed => "store_failed",
        }
    }
}

/// The gate's life, shared by everyone who changes or asks it.
#[derive(Debug, Default)]
pub struct Lifecycle {
    phase: AtomicU8,
    asks_upstream: AtomicBool,
    upstream_reachable: AtomicBool,
    asks_store: AtomicBool,
    store_failed: AtomicBool,
}

impl Lifecycle {
    /// A gate that starts.
    pub fn new() -> Lifecycle {
        Lifecycle::default()
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// A policy is in force and the listeners are bound. Does nothing once draining.
    pub fn serving(&self) {
        self.phase.fetch_max(Phase::Serving as u8, Ordering::AcqRel);
    }

    /// The end begins; there is no way back.
    pub fn draining(&self) {
        self.phase.fetch_max(Phase::Draining as u8, Ordering::AcqRel);
    }

    /// Whether the policy in force makes readiness depend on the upstream. A reload that begins to ask takes the
    /// upstream for reachable until the first attempt: a gate that serves is not made unready by a question.
    pub fn ask_upstream(&self, asks: bool) {
        if asks && !self.asks_upstream.load(Ordering::Acquire) && self.phase() == Phase::Serving {
            self.upstream_reachable.store(true, Ordering::Release);
        }
        self.asks_upstream.store(asks, Ordering::Release);
    }

    /// What the last attempt to reach the upstream found. Until the first one of a starting gate it is unreachable.
    pub fn upstream_reachable(&self, reachable: bool) {
        self.upstream_reachable.store(reachable, Ordering::Release);
    }

    /// Whether the policy in force makes readiness depend on the store.
    pub fn ask_store(&self, asks: bool) {
        self.asks_store.store(asks, Ordering::Release);
    }

    /// The store has failed; until restart there is no way back.
    pub fn store_failed(&self) {
        self.store_failed.store(true, Ordering::Release);
    }

    /// Whether a balancer should send traffic.
    pub fn ready(&self) -> Result<(), NotReady> {
        match self.phase() {
            Phase::Starting => Err(NotReady::Starting),
            Phase::Draining => Err(NotReady::Draining),
            Phase::Serving => {
                let asks = self.asks_upstream.load(Ordering::Acquire);
                if asks && !self.upstream_reachable.load(Ordering::Acquire) {
                    return Err(NotReady::UpstreamUnreachable);
                }
                if self.asks_store.load(Ordering::Acquire)
                    && self.store_failed.load(Ordering::Acquire)
                {
                    return Err(NotReady::StoreFailed);
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_ready_only_between_its_first_policy_and_its_drain() {
        let life = Lifecycle::new();
        assert_eq!(life.ready(), Err(NotReady::Starting));
        life.serving();
        assert_eq!(life.ready(), Ok(()));
        life.draining();
        assert_eq!(life.ready(), Err(NotReady::Draining));
        life.serving();
        assert_eq!(life.phase(), Phase::Draining);
    }

    #[test]
    fn the_upstream_matters_only_where_the_policy_asks() {
        let life = Lifecycle::new();
        life.serving();
        life.upstream_reachable(false);
        assert_eq!(life.ready(), Ok(()));
        life.ask_upstream(true);
        assert_eq!(life.ready(), Ok(()));
        life.upstream_reachable(false);
        assert_eq!(life.ready(), Err(NotReady::UpstreamUnreachable));
        life.ask_upstream(true);
        assert_eq!(life.ready(), Err(NotReady::UpstreamUnreachable));
        life.upstream_reachable(true);
        assert_eq!(life.ready(), Ok(()));
    }

    #[test]
    fn a_failed_store_matters_only_where_the_policy_asks_and_stays_failed() {
        let life = Lifecycle::new();
        life.serving();
        life.store_failed();
        assert_eq!(life.ready(), Ok(()));
        life.ask_store(true);
        assert_eq!(life.ready(), Err(NotReady::StoreFailed));
        life.ask_store(false);
        assert_eq!(life.ready(), Ok(()));
    }

    #[test]
    fn a_gate_that_starts_with_the_question_waits_for_the_answer() {
        let life = Lifecycle::new();
        life.ask_upstream(true);
        life.serving();
        assert_eq!(life.ready(), Err(NotReady::UpstreamUnreachable));
    }
}
