//! What is known of the policy in force and of the last look at its files: the source of the `policy_*` and key
//! metrics and of the admin listener's `/v1/policy`. Written by the reload, read by a scrape.

use crate::clock::{Now, Wall};
use crate::policy::Name;
use crate::policy::keys::{KeyStatus, Keys};
use crate::policy::limit::{Limit, LimitKind};
use crate::policy::money::Money;
use crate::policy::snapshot::Snapshot;

use super::Metrics;
use super::collect::float;
use super::store::Lasting;

/// The policy in force, as far as metrics speak of it.
#[derive(Debug, Default)]
pub(super) struct InForce {
    pub(super) digest: Box<str>,
    pub(super) keys_digest: Box<str>,
    pub(super) generation: u64,
    pub(super) loaded_at: Option<Wall>,
    pub(super) routes: Vec<Name>,
    pub(super) limits: Vec<Name>,
    pub(super) ceilings: Vec<(Name, f64)>,
    pub(super) connections_limit: u64,
    pub(super) keys: KeyCounts,
    pub(super) lasting: Lasting,
}

/// A limit's own ceiling as a metric shows it: units, or whole units of money. A balance has none.
fn figure(limit: &Limit) -> Option<f64> {
    let units = float(limit.ceiling?.units);
    match limit.kind {
        LimitKind::Rate | LimitKind::Concurrent | LimitKind::Quota => Some(units),
        LimitKind::Spend => Some(units / float(Money::WHOLE)),
        LimitKind::Credit => None,
    }
}

/// The last look at the policy's files.
#[derive(Debug, Default)]
pub(super) struct LastLoad {
    pub(super) refused: Option<(Wall, Box<str>)>,
    pub(super) restart_needed: Vec<Box<str>>,
}

/// What the admin listener and tools are told of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatus {
    /// SHA-256 of the policy, hex; empty before the first.
    pub digest: Box<str>,
    /// SHA-256 of the key files, hex.
    pub keys_digest: Box<str>,
    /// Counts the policies in force since the start, from 1; 0 before the first.
    pub generation: u64,
    /// When it came into force.
    pub loaded_at: Option<Wall>,
    /// Keys in it.
    pub keys: usize,
    /// The settings that only a restart can change, and that the files have changed since the start.
    pub restart_needed: Vec<Box<str>>,
    /// When and why the files were refused since, if they were.
    pub refused: Option<(Wall, Box<str>)>,
}

impl Metrics {
    /// A policy is in force. Room is made for its routes and limits; its digest, names and keys are what scrapes
    /// speak of from now on, and the last load is a good one.
    pub fn policy_in_force(&self, snapshot: &Snapshot, generation: u64, now: Now) {
        self.make_room(snapshot);
        let next = InForce {
            digest: snapshot.digest.clone(),
            keys_digest: snapshot.keys_digest.clone(),
            generation,
            loaded_at: Some(now.wall),
            routes: snapshot.route_slots.to_vec(),
            limits: snapshot.limit_slots.to_vec(),
            ceilings: snapshot
                .limits
                .iter()
                .filter_map(|limit| Some((Name::clone(&limit.name), figure(limit)?)))
                .collect(),
            connections_limit: snapshot.bounds.connections as u64,
            keys: KeyCounts::of(&snapshot.keys),
            lasting: Lasting::of(snapshot),
        };
        *self.in_force.lock() = next;
        self.load_ok();
    }

    /// The files lead to the policy that is in force already.
    pub fn load_ok(&self) {
        self.last_load.lock().refused = None;
    }

    /// The files were refused; `why` is what the operator is told. The last good policy stays in force.
    pub fn load_failed(&self, why: &str, now: Now) {
        self.last_load.lock().refused = Some((now.wall, why.into()));
    }

    /// The settings of the policy in force that wait for a restart; none ends the waiting.
    pub fn restart_needed<'a>(&self, settings: impl IntoIterator<Item = &'a str>) {
        self.last_load.lock().restart_needed = settings.into_iter().map(Box::from).collect();
    }

    /// What tools are told of the policy.
    pub fn policy_status(&self) -> PolicyStatus {
        let in_force = self.in_force.lock();
        let last_load = self.last_load.lock();
        PolicyStatus {
            digest: in_force.digest.clone(),
            keys_digest: in_force.keys_digest.clone(),
            generation: in_force.generation,
            loaded_at: in_force.loaded_at,
            keys: in_force.keys.total,
            restart_needed: last_load.restart_needed.clone(),
            refused: last_load.refused.clone(),
        }
    }
}

/// Keys that are counted before the thread, which is the reload's, offers its core to others.
const PIECE: usize = 16 * 1024;

/// Enough of the keys to say at any later time how many are live, without holding or walking them.
#[derive(Debug, Default)]
pub(super) struct KeyCounts {
    pub(super) total: usize,
    pub(super) revoked: usize,
    /// Ends of the keys that are not revoked, ascending.
    ends: Box<[Wall]>,
    /// Starts of the keys that are not revoked, ascending.
    starts: Box<[Wall]>,
}

/// Keys by state at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyStates {
    pub(super) live: usize,
    pub(super) not_yet: usize,
    pub(super) expired: usize,
    pub(super) revoked: usize,
}

impl KeyCounts {
    pub(super) fn of(keys: &Keys) -> KeyCounts {
        let (mut ends, mut starts, mut revoked) = (Vec::new(), Vec::new(), 0);
        for (nth, entitlement) in keys.entitlements().enumerate() {
            if nth.is_multiple_of(PIECE) {
                std::thread::yield_now();
            }
            match entitlement.status {
                KeyStatus::Revoked => revoked += 1,
                KeyStatus::Live => {
                    ends.extend(entitlement.expires);
                    starts.extend(entitlement.not_before);
                }
            }
        }
        ends.sort_unstable();
        starts.sort_unstable();
        KeyCounts { total: keys.len(), revoked, ends: ends.into(), starts: starts.into() }
    }

    /// The states at `now`.
    pub(super) fn states(&self, now: Wall) -> KeyStates {
        let expired = self.ends.partition_point(|end| *end <= now);
        let not_yet = self.starts.len() - self.starts.partition_point(|start| *start <= now);
        let valid = self.total - self.revoked;
        KeyStates {
            live: valid.saturating_sub(expired + not_yet),
            not_yet,
            expired,
            revoked: self.revoked,
        }
    }

    /// Keys that have not expired at `now` and will have `days` later.
    pub(super) fn expiring(&self, now: Wall, days: i64) -> usize {
        let until = Wall(now.0.saturating_add(days.saturating_mul(86_400_000)));
        self.ends.partition_point(|end| *end <= until)
            - self.ends.partition_point(|end| *end <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_change_state_as_time_passes_without_a_reload() {
        let day = 86_400_000;
        let counts = KeyCounts {
            total: 5,
            revoked: 1,
            ends: [Wall(day), Wall(10 * day)].into(),
            starts: [Wall(2 * day)].into(),
        };
        assert_eq!(
            counts.states(Wall(0)),
            KeyStates { live: 3, not_yet: 1, expired: 0, revoked: 1 }
        );
        assert_eq!(
            counts.states(Wall(2 * day)),
            KeyStates { live: 3, not_yet: 0, expired: 1, revoked: 1 }
        );
        assert_eq!(counts.expiring(Wall(0), 1), 1);
        assert_eq!(counts.expiring(Wall(0), 30), 2);
        assert_eq!(counts.expiring(Wall(day), 7), 0);
    }
}
