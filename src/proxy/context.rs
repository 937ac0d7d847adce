//! What a request needs of its worker: everything is the worker's own, or shared read-only. Nothing here is locked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::commit::Words;
use super::counters::ConnectionCounters;
use super::http1::Stock;
use super::long_lived::LongLived;
use super::pool::Pools;
use super::refrain::LimitRefrains;
use super::request_id::RequestId;
use super::said::Pseudonym;
use super::served_tls::ServedTls;
use super::wording::Wordings;
use crate::clock::{Clock, Now, Steady, Wall};
use crate::policy::keys::KeyIx;
use crate::policy::limit::SubjectKey;
use crate::policy::refusal::Refusal;
use crate::policy::revocation::RevocationRule;
use crate::policy::snapshot::Snapshot;
use crate::store::Ledger;
use crate::telemetry::decision_id::{BootId, DecisionId, DecisionIds};
use crate::telemetry::events::Log;
use crate::telemetry::lifecycle::Lifecycle;
use crate::telemetry::metrics::{Metrics, WorkerMetrics};
use crate::telemetry::record::{RecordBuffer, RecordWriter};
use crate::upkeep::revocation::Strikes;

/// One worker's hands.
pub(crate) struct WorkerContext {
    /// The policy in force. Loaded once a request.
    pub(super) policy: Arc<ArcSwap<Snapshot>>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) pools: Pools,
    pub(super) clock: Clock,
    pub(super) metrics: WorkerMetrics,
    pub(super) lifecycle: Arc<Lifecycle>,
    /// This gate's pseudonym in `Via`.
    pub(super) pseudonym: Pseudonym,
    pub(super) records: RefCell<RecordBuffer>,
    /// What the journal's thread has to tell its requests.
    pub(super) words: Words,
    pub(super) ids: RefCell<DecisionIds>,
    /// What its answers and records say of limits.
    pub(super) limit_refrains: RefCell<LimitRefrains>,
    /// What its refusals have in common.
    pub(super) wordings: RefCell<Wordings>,
    pub(super) long_lived: LongLived,
    pub(super) tls: Arc<ServedTls>,
    pub(super) in_flight: Cell<usize>,
    /// How many workers share `bounds.in_flight`.
    pub(super) workers: usize,
    /// Whether this worker is the one that sweeps the ledger.
    pub(super) sweeps: bool,
    /// Where it says that it moves.
    pub(super) pulse: Pulse,
    /// Where the gate speaks of itself.
    pub(super) log: Arc<Log>,
    /// Where it reports keys that are refused again and again.
    strikes: Arc<OnceLock<Strikes>>,
}

/// What all workers of a gate have in common, to make each its context of.
#[derive(Clone, Debug)]
pub struct Common {
    /// The policy in force; the reload is its only writer.
    pub policy: Arc<ArcSwap<Snapshot>>,
    /// What everyone has used.
    pub ledger: Arc<Ledger>,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the gate is ready.
    pub lifecycle: Arc<Lifecycle>,
    /// Where records go.
    pub records: Arc<RecordWriter>,
    /// The time.
    pub clock: Clock,
    /// The TLS configurations in force.
    pub tls: Arc<ServedTls>,
    /// The name of this run.
    pub boot: BootId,
    /// The number of workers.
    pub workers: usize,
    /// One a worker.
    pub pulses: Arc<[Pulse]>,
    /// Where the gate speaks of itself.
    pub log: Arc<Log>,
    /// Where keys that are refused again and again are reported, once the upkeep runs: it starts after the workers, whom
    /// it wakes.
    pub strikes: Arc<OnceLock<Strikes>>,
}

/// When a worker last kept house, in nanoseconds of the steady clock: a worker that is stuck in a request does not.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The pulse of a worker that starts now.
    pub fn starting(now: Steady) -> Pulse {
        Pulse(Arc::new(AtomicU64::new(now.0)))
    }

    pub(super) fn beat(&self, now: Steady) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    /// The latest beat; the start before the first.
    pub fn last(&self) -> Steady {
        Steady(self.0.load(Ordering::Relaxed))
    }
}

impl Common {
    fn pulse_of(&self, index: usize) -> Pulse {
        let pulse = self.pulses.get(index).cloned();
        pulse.unwrap_or_else(|| Pulse::starting(self.clock.steady()))
    }

    /// One worker's own.
    pub(super) fn context(
        &self,
        index: usize,
        counters: Arc<ConnectionCounters>,
        stock: Rc<Stock>,
    ) -> WorkerContext {
        let worker = u16::try_from(index).unwrap_or(u16::MAX);
        WorkerContext {
            policy: Arc::clone(&self.policy),
            ledger: Arc::clone(&self.ledger),
            pools: Pools::new(counters, stock),
            clock: self.clock.clone(),
            metrics: self.metrics.worker(),
            lifecycle: Arc::clone(&self.lifecycle),
            pseudonym: Pseudonym::new(&self.boot),
            records: RefCell::new(self.records.buffer()),
            words: Words::default(),
            ids: RefCell::new(DecisionIds::new(self.boot, worker)),
            limit_refrains: RefCell::default(),
            wordings: RefCell::default(),
            long_lived: LongLived::default(),
            tls: Arc::clone(&self.tls),
            in_flight: Cell::new(0),
            workers: self.workers,
            sweeps: index == 0,
            pulse: self.pulse_of(index),
            log: Arc::clone(&self.log),
            strikes: Arc::clone(&self.strikes),
        }
    }
}

impl WorkerContext {
    /// A key that exists was refused: the rules of `auto_revoke:` may count it.
    pub(super) fn struck(&self, policy: &Snapshot, now: Now, key: KeyIx, why: Refusal) {
        if policy.auto_revoke.is_empty() {
            return;
        }
        if let Some(strikes) = self.strikes.get() {
            strikes.refused(policy, &self.ledger, now, &policy.keys.at(key), why);
        }
    }

    /// A key was used: rules about disuse want to know.
    pub(super) fn used(&self, policy: &Snapshot, now: Wall, key: SubjectKey) {
        if policy.auto_revoke.iter().any(RevocationRule::is_about_disuse) {
            self.ledger.saw(key, now);
        }
    }

    /// A name for one more request, and the id that its client and its backend see.
    pub(super) fn next_id(&self) -> (DecisionId, RequestId) {
        let mut ids = self.ids.borrow_mut();
        let id = ids.next_id();
        (id, RequestId::Made(ids.request_id(id)))
    }
}
