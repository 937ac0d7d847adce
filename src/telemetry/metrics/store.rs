//! Metrics of what lasts: the store, idempotency records, money in doubt, and rules that revoke. What the store knows
//! of itself is asked at a scrape; nothing of it is on the way of a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::policy::Name;
use crate::policy::limit::{LimitKind, Mode, OnStoreFailure};
use crate::policy::refusal::Refusal;
use crate::policy::snapshot::Snapshot;

use super::cells::{COMMIT_BOUNDS, MODES, WorkerCells};
use super::collect::{Families, cells_of, float, histogram, routes, total};
use super::names::{self, label};
use super::policy::InForce;
use super::{Metrics, mode_name};

/// What became of a request on a route to which idempotency keys mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdempotencyOutcome {
    /// The first with its key: forwarded, or at least claimed.
    Fresh,
    /// Answered with what the first one got.
    Replayed,
    /// The first is under way.
    InFlight,
    /// The first was another request.
    Mismatch,
    /// Nobody knows what became of the first.
    Unknown,
    /// The first is done, and its answer was not kept.
    NotReplayable,
    /// There is no room for another record.
    Full,
    /// The header is no key.
    Malformed,
    /// The route demands a key, and there was none.
    Required,
}

/// How many outcomes there are.
pub(super) const IDEMPOTENCY_OUTCOMES: usize = IdempotencyOutcome::ALL.len();

impl IdempotencyOutcome {
    /// All of them, in the order of their cells.
    pub const ALL: [IdempotencyOutcome; 9] = [
        IdempotencyOutcome::Fresh,
        IdempotencyOutcome::Replayed,
        IdempotencyOutcome::InFlight,
        IdempotencyOutcome::Mismatch,
        IdempotencyOutcome::Unknown,
        IdempotencyOutcome::NotReplayable,
        IdempotencyOutcome::Full,
        IdempotencyOutcome::Malformed,
        IdempotencyOutcome::Required,
    ];

    /// What a refusal says of it; `None` for those that have nothing to do with idempotency keys.
    pub const fn of(why: Refusal) -> Option<IdempotencyOutcome> {
        match why {
            Refusal::IdempotencyInFlight => Some(IdempotencyOutcome::InFlight),
            Refusal::IdempotencyMismatch => Some(IdempotencyOutcome::Mismatch),
            Refusal::IdempotencyUnknown => Some(IdempotencyOutcome::Unknown),
            Refusal::IdempotencyNotReplayable => Some(IdempotencyOutcome::NotReplayable),
            Refusal::IdempotencyFull => Some(IdempotencyOutcome::Full),
            Refusal::IdempotencyMalformed => Some(IdempotencyOutcome::Malformed),
            Refusal::IdempotencyRequired => Some(IdempotencyOutcome::Required),
            _ => None,
        }
    }

    /// The word of the label and of the record.
    pub const fn name(self) -> &'static str {
        match self {
            IdempotencyOutcome::Fresh => "fresh",
            IdempotencyOutcome::Replayed => "replayed",
            IdempotencyOutcome::InFlight => "in_flight",
            IdempotencyOutcome::Mismatch => "mismatch",
            IdempotencyOutcome::Unknown => "unknown",
            IdempotencyOutcome::NotReplayable => "not_replayable",
            IdempotencyOutcome::Full => "full",
            IdempotencyOutcome::Malformed => "malformed",
            IdempotencyOutcome::Required => "required",
        }
    }
}

/// What the store says of itself when asked at a scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFigures {
    /// `memory` or `directory`.
    pub store: &'static str,
    /// Whether it can be relied on.
    pub up: bool,
    /// Failures since the start, by reason; reasons that alert are there at 0.
    pub errors: Vec<(&'static str, u64)>,
    /// Syncs since the start.
    pub syncs: u64,
    /// Nanoseconds since uses of rates were last handed to it; `None` where it forgets them anyway.
    pub lag_nanos: Option<u64>,
    /// Bytes free where the state lives; `None` in memory, and where the system does not say.
    pub free_bytes: Option<u64>,
    /// Idempotency records by state.
    pub records: Vec<(&'static str, u64)>,
    /// Bytes of the answers that they keep.
    pub records_bytes: u64,
    /// Charges whose outcome nobody knows.
    pub unresolved: u64,
    /// Of these, how many had to leave the list since the start because it was full; they stay charged.
    pub unlisted: u64,
}

/// A store in memory that has nothing to say.
impl Default for StoreFigures {
    fn default() -> StoreFigures {
        StoreFigures {
            store: "memory",
            up: true,
            errors: Vec::new(),
            syncs: 0,
            lag_nanos: None,
            free_bytes: None,
            records: Vec::new(),
            records_bytes: 0,
            unresolved: 0,
            unlisted: 0,
        }
    }
}

pub(super) type StoreSource = Box<dyn Fn() -> StoreFigures + Send + Sync>;

/// By rule and the place of its mode in [`MODES`].
pub(super) type RevocationCounts = BTreeMap<(Name, usize), u64>;

/// What a policy says that these metrics speak of.
#[derive(Debug, Default)]
pub(super) struct Lasting {
    fallbacks: Vec<(Name, &'static str)>,
    records_limit: u64,
    rules: Vec<(Name, Mode)>,
}

impl Lasting {
    pub(super) fn of(snapshot: &Snapshot) -> Lasting {
        // Slots of concurrent limits are never stored.
        let stored = snapshot.limits.iter().filter(|limit| limit.kind != LimitKind::Concurrent);
        Lasting {
            fallbacks: stored
                .map(|limit| (Name::clone(&limit.name), behaviour(limit.on_store_failure)))
                .collect(),
            records_limit: snapshot.records.records as u64,
            rules: snapshot
                .auto_revoke
                .iter()
                .map(|rule| (Name::clone(&rule.name), rule.mode))
                .collect(),
        }
    }
}

const fn behaviour(on_store_failure: OnStoreFailure) -> &'static str {
    match on_store_failure {
        OnStoreFailure::Local => "local",
        OnStoreFailure::Allow => "allow",
        OnStoreFailure::Deny => "deny",
    }
}

impl Metrics {
    pub(super) fn lasting(
        &self,
        out: &mut Families,
        workers: &[Arc<WorkerCells>],
        in_force: &InForce,
    ) {
        let store = self.store.lock().as_ref().map(|figures| figures()).unwrap_or_default();
        let lasting = &in_force.lasting;
        let named = [(label::STORE, store.store)];
        out.gauge(names::STORE_UP, &named, float(u64::from(store.up)));
        for (reason, count) in &store.errors {
            let labels = [(label::STORE, store.store), (label::REASON, reason)];
            out.counter(names::STORE_ERRORS, &labels, *count);
        }
        let waits = histogram(&COMMIT_BOUNDS, workers.iter().map(|worker| &worker.commit));
        let labels = [(label::STORE, store.store), (label::OP, "commit")];
        out.histogram(names::STORE_SECONDS, &labels, waits);
        out.counter(names::STORE_SYNCS, &named, store.syncs);
        if let Some(nanos) = store.lag_nanos {
            out.gauge(names::STORE_LAG, &named, float(nanos) / 1e9);
        }
        if let Some(free) = store.free_bytes {
            out.gauge(names::STATE_FREE, &[], float(free));
        }
        for (limit, behaviour) in &lasting.fallbacks {
            let labels = [(label::LIMIT, &**limit), (label::BEHAVIOUR, behaviour)];
            out.gauge(names::LIMIT_FALLBACK, &labels, float(u64::from(!store.up)));
        }
        for (state, count) in &store.records {
            out.gauge(names::IDEMPOTENCY_RECORDS, &[(label::STATE, state)], float(*count));
        }
        out.gauge(names::IDEMPOTENCY_RECORDS_LIMIT, &[], float(lasting.records_limit));
        out.gauge(names::IDEMPOTENCY_RECORDS_BYTES, &[], float(store.records_bytes));
        out.gauge(names::UNRESOLVED, &[], float(store.unresolved));
        out.counter(names::UNRESOLVED_UNLISTED, &[], store.unlisted);
        out.idempotency(workers, in_force);
        let mut revocations = self.auto_revocations.lock().clone();
        for (rule, mode) in &lasting.rules {
            revocations.entry((Name::clone(rule), *mode as usize)).or_default();
        }
        for ((rule, mode), count) in revocations {
            let labels = [(label::RULE, &*rule), (label::MODE, mode_name(MODES[mode]))];
            out.counter(names::AUTO_REVOCATIONS, &labels, count);
        }
    }
}

impl Families {
    /// By route and outcome: what happened, and every outcome of `_unlisted` from the start. Costs above their reserve
    /// stand there for every route, so that an alert sees the first.
    fn idempotency(&mut self, workers: &[Arc<WorkerCells>], in_force: &InForce) {
        for (route, slots) in routes(in_force) {
            for (at, outcome) in IdempotencyOutcome::ALL.iter().enumerate() {
                let cells = cells_of(workers, &slots);
                let count = total(cells.filter_map(|cells| Some(&cells.idempotency.get()?[at])));
                if count > 0 || route == names::UNLISTED {
                    let labels = [(label::ROUTE, route), (label::OUTCOME, outcome.name())];
                    self.counter(names::IDEMPOTENCY, &labels, count);
                }
            }
            let exceeded = cells_of(workers, &slots).map(|cells| &cells.cost_exceeded);
            self.counter(names::COST_EXCEEDED, &[(label::ROUTE, route)], total(exceeded));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_stand_in_the_order_of_their_cells() {
        for (at, outcome) in IdempotencyOutcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, at);
        }
    }
}
