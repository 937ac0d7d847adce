//! The gate inside the test's own process, with a clock that moves when told to: minutes and years pass without waiting.
//! Sockets, threads and the policy's files are real.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use tollgate::clock::{Clock, ManualClock, Now};
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
    clock: Arc<ManualClock>,
    gate: Gate,
}

impl Inside {
    pub(crate) fn start(policy: Policy, backend: &Backend) -> Inside {
        // Starts at the real time: `keys new` counts lifetimes from it.
        let now = Now { wall: Clock::system().now().wall, ..Now::default() };
        let clock = ManualClock::starting_at(now);
        let options = Options {
            config: policy.file().to_owned(),
            overrides: Overrides {
                listen: Some("127.0.0.1:0".parse().expect("it is an address")),
                admin: Some("127.0.0.1:0".to_owned()),
                upstream: Some(backend.url()),
                state: Some("memory".to_owned()),
                ..Overrides::default()
            },
            clock: Clock::Manual(Arc::clone(&clock)),
            env: |_| None,
            log: Log::discard(),
            records: Some(RecordSink::Off),
            handed: ListenFd::empty(),
        };
        let gate = Gate::start(options).expect("a shipped policy starts");
        Inside { policy, traffic: gate.traffic[0], clock, gate }
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
