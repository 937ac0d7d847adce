//! The metrics. Each worker counts in cells of its own ([`WorkerMetrics`]); a scrape sums them ([`Metrics::render`])
//! and takes no lock that a request takes. Never: a label out of a request.

mod cells;
mod collect;
mod names;
mod policy;
mod process;
mod store;

use std::cell::Cell as NotShared;
use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::{Clock, Now};
use crate::policy::Name;
use crate::policy::limit::Mode;
use crate::policy::refusal::Refusal;
use crate::policy::snapshot::Snapshot;

use cells::{COMMIT_BOUNDS, GATE_BOUNDS, UPSTREAM_BOUNDS, UPSTREAM_ERRORS, WorkerCells};
use policy::{InForce, LastLoad};
use store::{RevocationCounts, StoreSource};

pub use collect::TEXT_TYPE;
pub use policy::PolicyStatus;
pub use store::{IdempotencyOutcome, StoreFigures};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The upstream's answer was passed on, whatever its status, or the gate's own `answer:` was given.
    Admitted,
    /// An idempotency record answered.
    Replayed,
    /// The gate said no, and the caller could have known.
    Refused,
    /// It was admitted, and the upstream or the gate failed.
    Failed,
}

impl Outcome {
    /// The word of the label and of the record.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Admitted => "admitted",
            Outcome::Replayed => "replayed",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        }
    }
}

/// The word of a mode in labels, records and reports.
pub const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    }
}

/// What this binary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// The crate's version.
    pub version: &'static str,
    /// The commit it was built from, or `unknown`.
    pub revision: &'static str,
}

/// What one owner of connections (a worker, the admin listener) says when asked at a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFigures {
    /// Client connections open now.
    pub open: u64,
    /// Client connections accepted since the start.
    pub accepted: u64,
    /// Client connections closed at once because a bound was reached, since the start.
    pub refused: u64,
    /// Upstream connections with a request on them.
    pub upstream_active: u64,
    /// Upstream connections that wait in a pool.
    pub upstream_idle: u64,
}

type ConnectionSource = Box<dyn Fn() -> ConnectionFigures + Send + Sync>;
type DropSource = Box<dyn Fn() -> u64 + Send + Sync>;

/// All metrics of a process. The locks in it are taken by start, reload and scrape, never by a request.
pub struct Metrics {
    build: BuildInfo,
    clock: Clock,
    started: Now,
    workers: Mutex<Vec<Arc<WorkerCells>>>,
    connections: Mutex<Vec<(&'static str, ConnectionSource)>>,
    dropped: Mutex<Vec<(&'static str, DropSource)>>,
    in_force: Mutex<InForce>,
    last_load: Mutex<LastLoad>,
    store: Mutex<Option<StoreSource>>,
    auto_revocations: Mutex<RevocationCounts>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("build", &self.build).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics that have counted nothing. `workers` is how many will ask for a [`WorkerMetrics`]; more may.
    pub fn new(workers: usize, build: BuildInfo, clock: Clock) -> Arc<Metrics> {
        Arc::new(Metrics {
            build,
            started: clock.now(),
            clock,
            workers: Mutex::new(Vec::with_capacity(workers)),
            connections: Mutex::default(),
            dropped: Mutex::default(),
            in_force: Mutex::default(),
            last_load: Mutex::default(),
            store: Mutex::default(),
            auto_revocations: Mutex::default(),
        })
    }

    /// Cells of its own for one more worker. What it counts stays in the sums after it is gone.
    pub fn worker(&self) -> WorkerMetrics {
        let cells = Arc::new(WorkerCells::default());
        let mut workers = self.workers.lock();
        {
            let in_force = self.in_force.lock();
            cells.routes.grow(in_force.routes.len());
            cells.limits.grow(in_force.limits.len());
        }
        workers.push(Arc::clone(&cells));
        WorkerMetrics { cells, one_writer: PhantomData }
    }

    /// Makes room for the routes and limits of a policy that is about to be in force. Until then its new routes
    /// would be counted as unlisted.
    pub fn make_room(&self, snapshot: &Snapshot) {
        self.grow(snapshot.route_slots.len(), snapshot.limit_slots.len());
    }

    fn grow(&self, routes: usize, limits: usize) {
        for worker in &*self.workers.lock() {
            worker.routes.grow(routes);
            worker.limits.grow(limits);
        }
    }

    /// Asks `figures` at every scrape; sources of one listener are summed. Names of listeners: `traffic`, `admin`.
    pub fn watch_connections(
        &self,
        listener: &'static str,
        figures: impl Fn() -> ConnectionFigures + Send + Sync + 'static,
    ) {
        self.connections.lock().push((listener, Box::new(figures)));
    }

    /// Asks at every scrape how many lines of `sink` (`records`, `log`) were dropped; sources of one sink are summed.
    pub fn watch_dropped(
        &self,
        sink: &'static str,
        dropped: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.dropped.lock().push((sink, Box::new(dropped)));
    }

    /// Asks `figures` at every scrape for what the store says of itself. Until somebody does, a store in memory works.
    pub fn watch_store(&self, figures: impl Fn() -> StoreFigures + Send + Sync + 'static) {
        *self.store.lock() = Some(Box::new(figures));
    }

    /// Counts a key that a rule revoked or, in `mode: shadow`, would have revoked.
    pub fn auto_revocation(&self, rule: &Name, mode: Mode) {
        *self.auto_revocations.lock().entry((Name::clone(rule), mode as usize)).or_default() += 1;
    }
}

/// One worker's hand on its cells. It moves to the worker's thread and cannot be shared: a cell has one writer.
pub struct WorkerMetrics {
    cells: Arc<WorkerCells>,
    one_writer: PhantomData<NotShared<()>>,
}

impl std::fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerMetrics").finish_non_exhaustive()
    }
}

impl WorkerMetrics {
    /// Counts a request that ended: `route` is its [`Route::slot`](crate::policy::snapshot::Route::slot),
    /// `gate_nanos` what the gate took of its time, `upstream_nanos` the time to the head of the upstream's answer.
    #[inline]
    pub fn request(
        &self,
        route: Option<u32>,
        outcome: Outcome,
        status: u16,
        gate_nanos: u64,
        upstream_nanos: Option<u64>,
    ) {
        let class = usize::from((status / 100).clamp(1, 5)) - 1;
        let cells = self.cells.route(route);
        cells.requests[outcome as usize][class].add(1);
        self.cells.gate[outcome as usize].observe(&GATE_BOUNDS, gate_nanos);
        if let Some(nanos) = upstream_nanos {
            cells.upstream.observe(&UPSTREAM_BOUNDS, nanos);
        }
    }

    /// Counts a refusal, or what would have been one in `mode: shadow`. `limit` is the
    /// [`Limit::slot`](crate::policy::limit::Limit::slot) of the limit that refused, if one did.
    pub fn refusal(&self, route: Option<u32>, why: Refusal, limit: Option<u32>, mode: Mode) {
        let limited = limit.and_then(|slot| self.cells.limits.get(slot)).and_then(|limit| {
            // Place 0 is for the requests of no route.
            let place = route.map_or(Some(0), |slot| slot.checked_add(1))?;
            limit.by_route.get_or_grow(place)
        });
        let cells = limited.unwrap_or_else(|| &self.cells.route(route).refusals);
        cells.get_or_init(Box::default).at(why, mode).add(1);
    }

    /// Moves the number of open requests: +1 at a head, -1 when its exchange is over.
    #[inline]
    pub fn in_flight(&self, by: i64) {
        self.cells.in_flight.add(by.cast_unsigned());
    }

    /// Counts a request that the upstream failed. A refusal that is not the upstream's fault is not counted.
    pub fn upstream_error(&self, why: Refusal) {
        if let Some(at) = UPSTREAM_ERRORS.iter().position(|error| *error == why) {
            self.cells.upstream_errors[at].add(1);
        }
    }

    /// Counts what became of a request on a route to which idempotency keys mean something.
    pub fn idempotency(&self, route: Option<u32>, outcome: IdempotencyOutcome) {
        let cells = self.cells.route(route).idempotency.get_or_init(Box::default);
        cells[outcome as usize].add(1);
    }

    /// Counts a wait of `nanos` until what a request holds was durable, or until that had failed.
    #[inline]
    pub fn commit_wait(&self, nanos: u64) {
        self.cells.commit.observe(&COMMIT_BOUNDS, nanos);
    }

    /// Counts an answer whose stated cost is above what was reserved, or cannot be read.
    pub fn cost_exceeded(&self, route: Option<u32>) {
        self.cells.route(route).cost_exceeded.add(1);
    }

    /// Counts a request that met a bug of ours.
    pub fn panic(&self) {
        self.cells.panics.add(1);
    }
}

#[cfg(test)]
mod tests;
