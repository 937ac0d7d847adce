//! What the store says of itself at a scrape, put together from what the ledger, its backing and the file system know.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{Clock, Steady};
use crate::store::{Health, Ledger};
use crate::telemetry::metrics::StoreFigures;

/// When uses were last handed to the store, in nanoseconds of the steady clock. One writer: the upkeep.
#[derive(Clone, Debug, Default)]
pub(super) struct HandedOn(Arc<AtomicU64>);

impl HandedOn {
    pub(super) fn at(&self, now: Steady) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    fn last(&self) -> Steady {
        Steady(self.0.load(Ordering::Relaxed))
    }
}

/// Where figures come from.
pub(super) struct Source {
    pub(super) ledger: Arc<Ledger>,
    pub(super) clock: Clock,
    /// Where the state lives; `None`: in memory.
    pub(super) directory: Option<PathBuf>,
    pub(super) handed_on: HandedOn,
}

impl Source {
    pub(super) fn figures(&self) -> StoreFigures {
        let backing = self.ledger.backing();
        let failed = backing.health() == Health::Failed;
        let records = self.ledger.records();
        let done = records.records.saturating_sub(records.in_flight + records.unknown);
        let lag = || self.clock.steady().since(self.handed_on.last());
        StoreFigures {
            store: if self.directory.is_some() { "directory" } else { "memory" },
            up: !failed,
            // The first failure is the last: nothing is written after it.
            errors: vec![("failed", u64::from(failed))],
            syncs: backing.figures().commits,
            lag_nanos: self.directory.is_some().then(lag),
            free_bytes: self.directory.as_deref().and_then(free_bytes),
            records: vec![
                ("in_flight", records.in_flight as u64),
                ("done", done as u64),
                ("unknown", records.unknown as u64),
            ],
            records_bytes: records.bytes as u64,
            unresolved: self.ledger.unresolved_count() as u64,
            unlisted: self.ledger.unlisted_total(),
        }
    }
}

/// What is free for processes without the right to the reserve.
fn free_bytes(directory: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(directory).ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}
