//! The operational log: what happened to the gate, for the person who runs it. One closed list of events; requests
//! are not among them (they have records), and what a client can cause is rare or counted, so that no attacker
//! writes this log.

mod log;
mod value;

use std::io::Write;
use std::net::SocketAddr;

use crate::clock::Wall;

use super::json::{Object, rfc3339};
use value::Value;

pub use log::Log;

/// How much a person should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For someone who looks for something.
    Debug,
    /// Normal life.
    Info,
    /// Should be looked at in working hours.
    Warning,
    /// Should be looked at now.
    Error,
}

impl Level {
    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// The form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people at a terminal.
    Text,
    /// For machines.
    Json,
}

/// Everything that the gate says about itself.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A listener is bound.
    Listening {
        /// `traffic` or `admin`.
        listener: &'a str,
        /// With the real port.
        address: SocketAddr,
    },
    /// A policy is in force.
    PolicyLoaded {
        /// SHA-256 of the policy, hex.
        digest: &'a str,
        /// SHA-256 of the key files, hex.
        keys_digest: &'a str,
        /// Counts the policies since the start.
        generation: u64,
        /// Number of keys.
        keys: usize,
        /// The loader's warnings; empty if there are none.
        warnings: &'a str,
    },
    /// The files were looked at and lead to the policy that is in force already.
    PolicyUnchanged,
    /// Files that were refused lead to the policy in force again.
    PolicyRecovered,
    /// The files are no policy; the last good one stays in force.
    PolicyRejected {
        /// What is wrong, for people.
        problems: &'a str,
    },
    /// Settings were changed that only a restart can change; the rest of the policy is in force.
    RestartNeeded {
        /// Their names in the policy.
        settings: &'a [&'a str],
    },
    /// Someone asked for a reload (SIGHUP).
    ReloadRequested,
    /// The kernel does not tell of changed files; they are polled.
    WatchUnavailable {
        /// Why.
        why: &'a str,
    },
    /// State lives in memory and will be forgotten at exit.
    StateForgets,
    /// The state directory is open, and what it remembers is in memory.
    StateOpened {
        /// Where it is.
        directory: &'a str,
        /// Meters that it remembers.
        meters: u64,
        /// Idempotency records that it remembers.
        records: u64,
        /// Charges whose outcome nobody knows.
        unresolved: u64,
    },
    /// Others could read a part of the state, and can no longer.
    StateClosedToOthers {
        /// The directory or the file.
        path: &'a str,
    },
    /// A write or a sync of the state failed: until restart nothing more is promised.
    StateFailed {
        /// Why, and what to do.
        why: &'a str,
    },
    /// A rule revoked a key, or would have in `mode: shadow`.
    AutoRevoked {
        /// The key's public id.
        key: &'a str,
        /// The rule's name.
        rule: &'a str,
        /// `enforce` or `shadow`.
        mode: &'a str,
        /// What the key did, or did not do.
        why: &'a str,
    },
    /// Somebody changed the state over the admin listener.
    AdminAct {
        /// How they were known: `token` or `loopback`.
        by: &'a str,
        /// The connection's other end.
        peer: SocketAddr,
        /// What was done.
        act: &'a str,
        /// The act's name: its `Idempotency-Key`, or one made for it.
        id: &'a str,
        /// What it was done to.
        to: &'a str,
        /// How that stood before.
        before: &'a str,
        /// How it stands now.
        after: &'a str,
        /// The reason that was given; empty if there was none.
        note: &'a str,
    },
    /// An answer stated a cost above what was reserved, or none that can be read; the reserve was charged.
    CostExceeded {
        /// The route's name.
        route: &'a str,
        /// What was stated, as an amount, or `unreadable`.
        stated: &'a str,
        /// What was reserved.
        reserved: &'a str,
    },
    /// Nobody knows what became of a request that holds money. It stays charged until a person settles it.
    Unresolved {
        /// The reservation's name.
        reservation: &'a str,
        /// The tenant's name.
        tenant: &'a str,
        /// The key's public id.
        key: &'a str,
        /// The route's name.
        route: &'a str,
        /// The id that client and backend saw.
        request: &'a str,
        /// Why nobody knows.
        doubt: &'a str,
    },
    /// The end begins.
    Draining {
        /// Client connections that are open.
        open: u64,
    },
    /// The end: everything was answered, or the deadline came.
    Drained {
        /// Client connections that were still open at the deadline.
        cut: u64,
    },
    /// A connection could not be accepted.
    AcceptFailed {
        /// `traffic` or `admin`.
        listener: &'a str,
        /// Why.
        why: &'a str,
    },
    /// A client's TLS handshake failed.
    TlsHandshakeFailed {
        /// The client.
        peer: SocketAddr,
        /// Why.
        why: &'a str,
    },
    /// The upstream failed a request.
    UpstreamFailed {
        /// The refusal's word.
        reason: &'a str,
        /// What happened.
        why: &'a str,
    },
    /// A bug of ours was met. It ends its request or its thread, and the process where that is the main one.
    PanicCaught {
        /// Where.
        place: &'a str,
        /// The panic's message.
        message: &'a str,
    },
    /// Access records were lost since the last time this was said.
    RecordsDropped {
        /// How many.
        records: u64,
    },
    /// The sink of the access records failed.
    RecordsFailed {
        /// Why.
        why: &'a str,
    },
    /// A task of the gate's own ended that should not have.
    TaskFailed {
        /// Which.
        task: &'a str,
        /// Why.
        why: &'a str,
    },
}

/// Kinds of events that clients, or a broken neighbour, can cause at will; each has a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    Accept,
    Handshake,
    Upstream,
    Panic,
    Records,
    Cost,
    Unresolved,
}

/// How many budgets there are.
const BUDGETS: usize = 7;

impl Event<'_> {
    /// The word in `"event":`.
    pub const fn name(&self) -> &'static str {
        match self {
            Event::Listening { .. } => "listening",
            Event::PolicyLoaded { .. } => "policy_loaded",
            Event::PolicyUnchanged => "policy_unchanged",
            Event::PolicyRecovered => "policy_recovered",
            Event::PolicyRejected { .. } => "policy_rejected",
            Event::RestartNeeded { .. } => "restart_needed",
            Event::ReloadRequested => "reload_requested",
            Event::WatchUnavailable { .. } => "watch_unavailable",
            Event::StateForgets => "state_forgets",
            Event::StateOpened { .. } => "state_opened",
            Event::StateClosedToOthers { .. } => "state_closed_to_others",
            Event::StateFailed { .. } => "state_failed",
            Event::AutoRevoked { .. } => "auto_revoked",
            Event::AdminAct { .. } => "admin_act",
            Event::CostExceeded { .. } => "cost_exceeded",
            Event::Unresolved { .. } => "unresolved",
            Event::Draining { .. } => "draining",
            Event::Drained { .. } => "drained",
            Event::AcceptFailed { .. } => "accept_failed",
            Event::TlsHandshakeFailed { .. } => "tls_handshake_failed",
            Event::UpstreamFailed { .. } => "upstream_failed",
            Event::PanicCaught { .. } => "panic_caught",
            Event::RecordsDropped { .. } => "records_dropped",
            Event::RecordsFailed { .. } => "records_failed",
            Event::TaskFailed { .. } => "task_failed",
        }
    }

    /// How much a person should care. A client's mistake is never above info.
    pub const fn level(&self) -> Level {
        match self {
            Event::PolicyUnchanged | Event::TlsHandshakeFailed { .. } => Level::Debug,
            Event::Listening { .. }
            | Event::PolicyLoaded { .. }
            | Event::PolicyRecovered
            | Event::ReloadRequested
            | Event::StateForgets
            | Event::StateOpened { .. }
            | Event::AdminAct { .. }
            | Event::Draining { .. }
            | Event::Drained { .. } => Level::Info,
            Event::RestartNeeded { .. }
            | Event::AutoRevoked { .. }
            | Event::CostExceeded { .. }
            | Event::Unresolved { .. }
            | Event::StateClosedToOthers { .. }
            | Event::WatchUnavailable { .. }
            | Event::UpstreamFailed { .. }
            | Event::RecordsDropped { .. } => Level::Warning,
            Event::PolicyRejected { .. }
            | Event::StateFailed { .. }
            | Event::AcceptFailed { .. }
            | Event::PanicCaught { .. }
            | Event::RecordsFailed { .. }
            | Event::TaskFailed { .. } => Level::Error,
        }
    }

    /// The budget it is paid from; `None` for what happens only when an operator does something.
    const fn budget(&self) -> Option<Budget> {
        match self {
            Event::AcceptFailed { .. } => Some(Budget::Accept),
            Event::TlsHandshakeFailed { .. } => Some(Budget::Handshake),
            Event::UpstreamFailed { .. } => Some(Budget::Upstream),
            Event::PanicCaught { .. } => Some(Budget::Panic),
            Event::RecordsDropped { .. } | Event::RecordsFailed { .. } => Some(Budget::Records),
            Event::CostExceeded { .. } => Some(Budget::Cost),
            Event::Unresolved { .. } => Some(Budget::Unresolved),
            Event::Listening { .. }
            | Event::PolicyLoaded { .. }
            | Event::PolicyUnchanged
            | Event::PolicyRecovered
            | Event::PolicyRejected { .. }
            | Event::RestartNeeded { .. }
            | Event::ReloadRequested
            | Event::WatchUnavailable { .. }
            | Event::StateForgets
            | Event::StateOpened { .. }
            | Event::StateClosedToOthers { .. }
            | Event::StateFailed { .. }
            | Event::AutoRevoked { .. }
            | Event::AdminAct { .. }
            | Event::Draining { .. }
            | Event::Drained { .. }
            | Event::TaskFailed { .. } => None,
        }
    }

    /// The line, with its line end. `suppressed`: how many of its kind were not written before it.
    fn line(&self, format: Format, time: Wall, suppressed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        match format {
            Format::Json => {
                let mut line = Object::begin(&mut out);
                line.time("time", time);
                line.text("level", self.level().name());
                line.text("event", self.name());
                self.fields(&mut |name, value| value.json(&mut line, name));
                if suppressed > 0 {
                    line.number("suppressed", suppressed);
                }
                line.end();
            }
            Format::Text => {
                out.extend_from_slice(&rfc3339(time));
                // Writing to a vector cannot fail.
                let _ = write!(out, " {:7} {}", self.level().name(), self.name());
                self.fields(&mut |name, value| value.text(&mut out, name));
                if suppressed > 0 {
                    let _ = write!(out, " suppressed={suppressed}");
                }
            }
        }
        out.push(b'\n');
        out
    }

    /// Every field in order. The names are the log's published form.
    fn fields(&self, field: &mut dyn FnMut(&'static str, Value<'_>)) {
        match *self {
            Event::Listening { listener, address } => {
                field("listener", Value::Text(listener));
                field("address", Value::Address(address));
            }
            Event::PolicyLoaded { digest, keys_digest, generation, keys, warnings } => {
                field("digest", Value::Text(digest));
                field("keys_digest", Value::Text(keys_digest));
                field("generation", Value::Number(generation));
                field("keys", Value::Number(keys as u64));
                if !warnings.is_empty() {
                    field("warnings", Value::Lines(warnings));
                }
            }
            Event::PolicyRejected { problems } => field("problems", Value::Lines(problems)),
            Event::RestartNeeded { settings } => field("settings", Value::List(settings)),
            Event::WatchUnavailable { why }
            | Event::RecordsFailed { why }
            | Event::StateFailed { why } => {
                field("why", Value::Text(why));
            }
            Event::PolicyUnchanged
            | Event::PolicyRecovered
            | Event::ReloadRequested
            | Event::StateForgets => {}
            Event::StateClosedToOthers { path } => field("path", Value::Text(path)),
            Event::StateOpened { directory, meters, records, unresolved } => {
                field("directory", Value::Text(directory));
                field("meters", Value::Number(meters));
                field("records", Value::Number(records));
                field("unresolved", Value::Number(unresolved));
            }
            Event::AutoRevoked { key, rule, mode, why } => {
                field("key", Value::Text(key));
                field("rule", Value::Text(rule));
                field("mode", Value::Text(mode));
                field("why", Value::Text(why));
            }
            Event::AdminAct { by, peer, act, id, to, before, after, note } => {
                field("by", Value::Text(by));
                field("peer", Value::Address(peer));
                for (name, text) in
                    [("act", act), ("id", id), ("to", to), ("before", before), ("after", after)]
                {
                    field(name, Value::Text(text));
                }
                if !note.is_empty() {
                    field("note", Value::Text(note));
                }
            }
            Event::CostExceeded { route, stated, reserved } => {
                field("route", Value::Text(route));
                field("stated", Value::Text(stated));
                field("reserved", Value::Text(reserved));
            }
            Event::Unresolved { reservation, tenant, key, route, request, doubt } => {
                for (name, text) in [
                    ("reservation", reservation),
                    ("tenant", tenant),
                    ("key", key),
                    ("route", route),
                    ("request", request),
                    ("doubt", doubt),
                ] {
                    field(name, Value::Text(text));
                }
            }
            Event::Draining { open } => field("open", Value::Number(open)),
            Event::Drained { cut } => field("cut", Value::Number(cut)),
            Event::AcceptFailed { listener, why } => {
                field("listener", Value::Text(listener));
                field("why", Value::Text(why));
            }
            Event::TlsHandshakeFailed { peer, why } => {
                field("peer", Value::Address(peer));
                field("why", Value::Text(why));
            }
            Event::UpstreamFailed { reason, why } => {
                field("reason", Value::Text(reason));
                field("why", Value::Text(why));
            }
            Event::PanicCaught { place, message } => {
                field("place", Value::Text(place));
                field("message", Value::Text(message));
            }
            Event::RecordsDropped { records } => field("records", Value::Number(records)),
            Event::TaskFailed { task, why } => {
                field("task", Value::Text(task));
                field("why", Value::Text(why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn json(event: &Event<'_>) -> serde_json::Value {
        let line = event.line(Format::Json, Wall(0), 0);
        assert_eq!(String::from_utf8_lossy(&line).lines().count(), 1);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_listener_s_line_has_exactly_the_fields_that_tools_read() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 41234));
        let line = json(&Event::Listening { listener: "traffic", address });
        assert_eq!(
            line,
            serde_json::json!({
                "time": "1970-01-01T00:00:00.000Z", "level": "info", "event": "listening",
                "listener": "traffic", "address": "127.0.0.1:41234"
            })
        );
    }

    #[test]
    fn problems_of_many_lines_stay_one_line_of_json_and_many_of_text() {
        let event = Event::PolicyRejected { problems: "a: b\n  ^ \u{1b}[31mhere" };
        assert_eq!(json(&event)["problems"], "a: b\n  ^ \u{1b}[31mhere");
        let text = String::from_utf8(event.line(Format::Text, Wall(0), 3)).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains('\u{1b}'));
        assert!(text.contains("error"));
        assert!(text.ends_with("suppressed=3\n"));
    }

    #[test]
    fn hostile_text_cannot_add_a_line_to_a_terminal() {
        let event = Event::UpstreamFailed { reason: "x", why: "a\n2026 error policy_rejected" };
        let text = String::from_utf8(event.line(Format::Text, Wall(0), 0)).unwrap();
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn settings_are_a_list() {
        let settings = ["listen", "workers"];
        let line = json(&Event::RestartNeeded { settings: &settings });
        assert_eq!(line["settings"], serde_json::json!(settings));
        let none: [&str; 0] = [];
        let line = json(&Event::RestartNeeded { settings: &none });
        assert_eq!(line["settings"], serde_json::json!([]));
    }
}
