//! The reloader at work on the gate's own policy: what is counted, logged and woken at each look, and which settings
//! wait for a restart.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Wall};
use crate::policy::snapshot::{Listener, RecordSink, Server, Snapshot};
use crate::telemetry::events::{Event, Log};
use crate::telemetry::lifecycle::Lifecycle;
use crate::telemetry::metrics::Metrics;

use super::{Loaded, ReloadHandle, Reloader, Told};

/// What the reload of the gate's policy works with. The first policy is loaded by whoever starts the gate.
#[derive(Debug)]
pub struct Parts {
    /// The policy in force.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// The files that it was read from; a directory counts its entries' names, for globs.
    pub files: Vec<PathBuf>,
    /// When its load began.
    pub since: Wall,
    /// Where policies are counted; the first is generation 1.
    pub metrics: Arc<Metrics>,
    /// Whose readiness may ask for the upstream.
    pub lifecycle: Arc<Lifecycle>,
    /// Where it is said.
    pub log: Arc<Log>,
    /// The time.
    pub clock: Clock,
}

/// Says that the first policy is in force, and starts to follow its files. `load` reads them, given the policy in
/// force; it gives the policy, its files and the warnings, or the problems. `wake` makes the workers take the policy
/// in force anew; it is called after each swap.
pub fn start(
    parts: Parts,
    first_warnings: &str,
    mut load: impl FnMut(Option<&Snapshot>) -> Result<(Snapshot, Vec<PathBuf>, String), String>
    + Send
    + 'static,
    wake: impl Fn() + Send + 'static,
) -> io::Result<ReloadHandle> {
    let Parts { current, files, since, metrics, lifecycle, log, clock } = parts;
    let first = current.load_full();
    let mut teller = Teller {
        started_with: Fixed::of(&first),
        generation: 0,
        refused: false,
        metrics,
        lifecycle,
        log,
        clock: clock.clone(),
    };
    teller.in_force(&first, first_warnings);
    let reloader = Reloader {
        load: Box::new(move |current: &Snapshot| {
            let (policy, files, warnings) = load(Some(current))?;
            Ok(Loaded { policy, files, warnings })
        }),
        same: |old, new| old.digest == new.digest && old.keys_digest == new.keys_digest,
        tell: Box::new(move |told| teller.tell(&told, &wake)),
        current,
        files,
        since,
        clock,
    };
    reloader.start()
}

struct Teller {
    started_with: Fixed,
    generation: u64,
    refused: bool,
    metrics: Arc<Metrics>,
    lifecycle: Arc<Lifecycle>,
    log: Arc<Log>,
    clock: Clock,
}

impl Teller {
    fn tell(&mut self, told: &Told<'_, Snapshot>, wake: &dyn Fn()) {
        let now = self.clock.now();
        match told {
            Told::Coming(policy) => self.metrics.make_room(policy),
            Told::InForce { new, warnings } => {
                wake();
                self.in_force(new, warnings);
            }
            Told::Unchanged => {
                self.metrics.load_ok();
                let recovered = std::mem::take(&mut self.refused);
                let event = if recovered { Event::PolicyRecovered } else { Event::PolicyUnchanged };
                self.log.say(now.wall, &event);
            }
            Told::Refused { problems } => {
                self.refused = true;
                self.metrics.load_failed(problems, now);
                self.log.say(now.wall, &Event::PolicyRejected { problems });
            }
            Told::Requested => self.log.say(now.wall, &Event::ReloadRequested),
            Told::WatchUnavailable { why } => {
                self.log.say(now.wall, &Event::WatchUnavailable { why });
            }
        }
    }

    fn in_force(&mut self, policy: &Snapshot, warnings: &str) {
        let now = self.clock.now();
        self.generation += 1;
        self.refused = false;
        self.lifecycle.ask_upstream(policy.ready_asks_upstream);
        self.lifecycle.ask_store(policy.ready_asks_store);
        self.metrics.policy_in_force(policy, self.generation, now);
        let event = Event::PolicyLoaded {
            digest: &policy.digest,
            keys_digest: &policy.keys_digest,
            generation: self.generation,
            keys: policy.keys.len(),
            warnings,
        };
        self.log.say(now.wall, &event);
        let settings = self.started_with.differences(&Fixed::of(policy));
        self.metrics.restart_needed(settings.iter().copied());
        if !settings.is_empty() {
            self.log.say(now.wall, &Event::RestartNeeded { settings: &settings });
        }
    }
}

/// What a running process cannot change: as it was when the listeners were bound.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fixed {
    server: Server,
    records: RecordSink,
}

impl Fixed {
    fn of(policy: &Snapshot) -> Fixed {
        Fixed { server: policy.server.clone(), records: policy.record.to.clone() }
    }

    /// The names, in the policy, of the settings that differ.
    fn differences(&self, new: &Fixed) -> Vec<&'static str> {
        let (old, new_server) = (&self.server, &new.server);
        let differs = |of: fn(&Listener) -> ListenerPart| {
            !old.listeners.iter().map(of).eq(new_server.listeners.iter().map(of))
        };
        let addresses = differs(|listener| ListenerPart::Address(listener.address));
        let mut settings = Vec::new();
        if addresses {
            settings.push("listen");
        } else {
            // With other addresses it is not known which listener is which.
            if differs(|listener| ListenerPart::Has(listener.tls.is_some())) {
                settings.push("tls");
            }
            if differs(|listener| ListenerPart::Has(listener.proxy_protocol)) {
                settings.push("proxy_protocol");
            }
        }
        if old.admin != new_server.admin {
            settings.push("admin");
        }
        if old.workers != new_server.workers {
            settings.push("workers");
        }
        if old.state != new_server.state {
            settings.push("state");
        }
        if self.records != new.records {
            settings.push("record");
        }
        settings
    }
}

/// A part of a listener that is compared.
#[derive(PartialEq)]
enum ListenerPart {
    Address(std::net::SocketAddr),
    Has(bool),
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use crate::policy::snapshot::{AdminListener, ListenerTls, StateAt};

    use super::*;

    fn fixed() -> Fixed {
        let listener = Listener {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            tls: None,
            proxy_protocol: false,
        };
        Fixed {
            server: Server {
                listeners: vec![listener],
                admin: None,
                workers: Some(2),
                state: StateAt::Memory,
            },
            records: RecordSink::Stdout,
        }
    }

    fn tls(chain: &[u8]) -> ListenerTls {
        ListenerTls { chain: chain.into(), key: chain.into(), client_ca: None }
    }

    #[test]
    fn each_setting_that_needs_a_restart_is_named() {
        let old = fixed();
        assert!(old.differences(&fixed()).is_empty());
        let mut new = fixed();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9901));
        new.server.admin = Some(AdminListener { address, token: None });
        new.server.workers = None;
        new.server.state = StateAt::Directory("state".into());
        new.server.listeners[0].tls = Some(tls(b"a"));
        new.server.listeners[0].proxy_protocol = true;
        new.records = RecordSink::Off;
        assert_eq!(
            old.differences(&new),
            ["tls", "proxy_protocol", "admin", "workers", "state", "record"]
        );
        new.server.listeners[0].address.set_port(1);
        assert!(old.differences(&new).starts_with(&["listen", "admin"]));
        let mut fewer = fixed();
        fewer.server.listeners.clear();
        assert_eq!(old.differences(&fewer), ["listen"]);
    }

    #[test]
    fn a_renewed_certificate_needs_no_restart() {
        let (mut old, mut new) = (fixed(), fixed());
        old.server.listeners[0].tls = Some(tls(b"a"));
        new.server.listeners[0].tls = Some(tls(b"b"));
        assert!(old.differences(&new).is_empty());
    }
}
