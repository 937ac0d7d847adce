//! The gate inside the test's own process, with a clock that moves when told to: minutes and years pass without waiting.
//! Sockets, threads and the policy's files are real.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use tollgate::clock::{Clock, ManualClock, Now, Wall};
use tollgate::config::Overrides;
use tollgate::gate::{Gate, Options};
use tollgate::policy::snapshot::RecordSink;
use tollgate::telemetry::events::Log;

use super::wire::{Answer, Connection, Request, send};
use super::{Backend, Policy};

/// A gate whose time stands still.
pub(crate) struct Inside {
    pub(crate) policy: Policy,
    pub(crate) traffic: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    clock: Arc<ManualClock>,
    gate: Option<Gate>,
}

impl Inside {
    pub(crate) fn start(policy: Policy, backend: &Backend) -> Inside {
        Inside::before(policy, &backend.url())
    }

    /// In front of anybody. State is kept where the policy says, and in memory where it says nothing.
    pub(crate) fn before(policy: Policy, upstream: &str) -> Inside {
        // Starts at the real time: `keys new` counts lifetimes from it.
        let now = Now { wall: Clock::system().now().wall, ..Now::default() };
        Inside::at(policy, upstream, ManualClock::starting_at(now))
    }

    fn at(policy: Policy, upstream: &str, clock: Arc<ManualClock>) -> Inside {
        let says_state = policy.text().lines().any(|line| line.starts_with("state:"));
        let options = Options {
            config: policy.file().to_owned(),
            overrides: Overrides {
                listen: Some("127.0.0.1:0".parse().expect("it is an address")),
                admin: Some("127.0.0.1:0".to_owned()),
                upstream: Some(upstream.to_owned()),
                state: (!says_state).then(|| "memory".to_owned()),
                ..Overrides::default()
            },
            clock: Clock::Manual(Arc::clone(&clock)),
            env: |_| None,
            log: Log::discard(),
            records: Some(RecordSink::Off),
            handed: ListenFd::empty(),
        };
        let gate = Gate::start(options).expect("the policy starts");
        Inside { policy, traffic: gate.traffic[0], admin: gate.admin, clock, gate: Some(gate) }
    }

    /// Ends it in order, and starts another on the same policy, state and time.
    pub(crate) fn restarted(mut self, upstream: &Backend) -> Inside {
        drop(self.gate.take());
        Inside::at(self.policy, &upstream.url(), self.clock)
    }

    /// Sets the wall clock back, as an operator or NTP would.
    pub(crate) fn set_clock_back(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).expect("not that far");
        self.clock.set_wall(Wall(self.clock.now().wall.0 - by));
    }

    pub(crate) fn send(&self, request: &Request) -> Answer {
        send(self.traffic, request)
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::to(self.traffic)
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Unix milliseconds, as the gate reads them.
    pub(crate) fn unix_millis(&self) -> i64 {
        self.clock.now().wall.0
    }
}
