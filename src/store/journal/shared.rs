//! What the journal's threads and their owner share.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::backing::StoreFailed;
use super::tables::TableProblem;

/// Says, once, why the journal failed.
pub type OnFailure = Box<dyn Fn(&str) + Send>;

/// How the journal fares.
pub(super) struct Shared {
    path: PathBuf,
    failed: AtomicBool,
    commits: AtomicU64,
    batches: AtomicU64,
    on_failure: Mutex<OnFailure>,
}

impl Shared {
    /// Of the journal in this file.
    pub(super) fn new(path: PathBuf, on_failure: OnFailure) -> Shared {
        Shared {
            path,
            failed: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            on_failure: Mutex::new(on_failure),
        }
    }

    /// Whether nothing more is promised.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Commits since the start, to the log and to the tables.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Batches in them.
    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    pub(super) fn count_commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_batches(&self, batches: usize) {
        self.batches.fetch_add(u64::try_from(batches).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Writes something. After the first failure nothing is written again: what a failed sync left behind is unknown, and a second
    /// one may report a success that it has not earned.
    pub(super) fn guarded<T>(
        &self,
        write: impl FnOnce() -> Result<T, TableProblem>,
    ) -> Result<T, StoreFailed> {
        if self.has_failed() {
            return Err(StoreFailed);
        }
        let why = match catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(written)) => return Ok(written),
            Ok(Err(why)) => why.to_string(),
            Err(_) => "its structure leads nowhere".to_owned(),
        };
        self.fail(&why);
        Err(StoreFailed)
    }

    /// Nothing more is promised, and somebody is told why, unless it was so before.
    pub(super) fn fail(&self, why: &str) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            self.say(why);
        }
    }

    /// Tells somebody what went wrong.
    pub(super) fn say(&self, why: &str) {
        (self.on_failure.lock())(&format!("{}: {why}", self.path.display()));
    }

    /// Nothing more is promised, because all is over.
    pub(super) fn end(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}
