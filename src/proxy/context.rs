//! What a request needs of its worker: everything is the worker's own, or shared read-only. Nothing here is locked.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;

use super::long_lived::LongLived;
use super::pool::Pools;
use crate::clock::Clock;
use crate::policy::snapshot::Snapshot;
use crate::store::Ledger;
use crate::telemetry::decision_id::{DecisionId, DecisionIds};
use crate::telemetry::lifecycle::Lifecycle;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::record::RecordBuffer;

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
    pub(super) pseudonym: String,
    pub(super) records: RefCell<RecordBuffer>,
    pub(super) ids: RefCell<DecisionIds>,
    pub(super) long_lived: LongLived,
    pub(super) in_flight: Cell<usize>,
    /// How many workers share `bounds.in_flight`.
    pub(super) workers: usize,
}

impl WorkerContext {
    /// A name for one more request, and the id that its client and its backend see.
    pub(super) fn next_id(&self) -> (DecisionId, HeaderValue) {
        let mut ids = self.ids.borrow_mut();
        let id = ids.next_id();
        let request_id = HeaderValue::from_bytes(ids.request_id(id).as_bytes());
        (id, request_id.unwrap_or(HeaderValue::from_static("-")))
    }
}
