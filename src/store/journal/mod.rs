//! The journal: what a directory remembers. A commit goes into [a log](log), written by one thread, one sync for all that
//! waited meanwhile. [The tables](follower) of an embedded store follow many commits later in one transaction, on a thread
//! of their own, while commits go on: nobody waits for them, unless they fall behind by all that the log holds. Without the
//! log each commit was a transaction: 112 000 instructions a request with a key and a price. With it they are 15 000, 22
//! requests a commit, of which the tables' thread has 11 000 (callgrind, these threads alone).
//!
//! Why redb (4.5), measured against fjall (3.1) on one virtual machine of two cores, keyed requests of 200 B claims and 600 B
//! answers:
//!
//! | | redb | fjall |
//! |---|---|---|
//! | one transaction of 1, 8, 64 requests | 0.25, 0.55, 2.3 ms | 0.10, 0.20, 0.41 ms |
//! | syncs a commit | 1 | 1 |
//! | open after a kill and read all of 300 MiB, 1 GiB | 1.0, 2.4 s | 0.8, 3.4 s |
//! | resident after that, 1 GiB | 8 MiB | 144 MiB |
//! | threads of its own | none | 2 |
//! | one flipped bit, of 45 files | refused or harmless; after a kill the last commit may be rolled back | refused or harmless |
//! | truncated, of 15 files | refused | opened; 3 with less in them |
//!
//! redb costs more work a commit, and takes an eighteenth of the memory; it verifies every page against a tree of checksums
//! when it opens, and lets tests put a failing disk under it. The one hole, the last commit after a kill, is closed by
//! [`mark`].

mod changes;
mod codec;
mod directory;
mod follower;
mod inbox;
mod load;
mod log;
mod mark;
mod open;
mod places;
mod problem;
mod rows;
mod shared;
mod storage;
mod tables;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::clock::Now;

use super::backing::{Health, Reply, StoreFailed};
use super::op::Batch;
use super::restored::Restored;
use follower::Tables;
use inbox::{Inbox, Outlet};
use shared::Shared;
use writer::{Work, Writer};

pub use problem::OpenProblem;
pub use shared::OnFailure;

/// The open journal of one directory. Ends with what is waiting written and the directory's lock released, when it is
/// closed or dropped.
pub struct Journal {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How much was written since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalFigures {
    /// Commits, each with one sync.
    pub commits: u64,
    /// Batches in them.
    pub batches: u64,
}

/// A journal, with what it remembered.
#[derive(Debug)]
pub(super) struct OpenedJournal {
    pub(super) journal: Journal,
    pub(super) restored: Restored,
    pub(super) opened_up: Vec<PathBuf>,
}

impl Journal {
    /// Opens the journal in this directory, and makes both if they are not there.
    pub(super) fn open(
        path: &Path,
        now: Now,
        on_failure: OnFailure,
    ) -> Result<OpenedJournal, OpenProblem> {
        start(open::in_files(path, now)?, now, writer::DUE, on_failure)
    }

    /// The same with the data on other storages, and the tables brought up after so many changes.
    pub(super) fn open_on(
        path: &Path,
        log: impl StorageBackend,
        tables: impl StorageBackend,
        now: Now,
        due: usize,
        on_failure: OnFailure,
    ) -> Result<OpenedJournal, OpenProblem> {
        start(open::on_storages(path, log, tables, now)?, now, due, on_failure)
    }

    pub(super) fn health(&self) -> Health {
        if self.shared.has_failed() { Health::Failed } else { Health::Up }
    }

    /// Leaves a batch, which is written when somebody [rings](Journal::ring), or a little later.
    pub(super) fn leave(&self, batch: Batch, reply: Option<Reply>) -> Result<(), StoreFailed> {
        if self.health() == Health::Failed {
            return Err(StoreFailed);
        }
        self.inbox.leave(Box::new(Work { batch, reply }))
    }

    /// Has everything written that was left.
    pub(super) fn ring(&self) {
        self.inbox.ring();
    }

    pub(super) fn figures(&self) -> JournalFigures {
        JournalFigures { commits: self.shared.commits(), batches: self.shared.batches() }
    }

    /// Writes what is waiting, releases the directory, and returns when that is done. What comes later is refused.
    pub(super) fn close(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        self.inbox.end();
        // A reply may be the last to hold the journal: its thread cannot wait for itself, and ends when nobody is left.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        // Panics of the library do not leave it.
        let _ = thread.join();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("shared", &self.shared).finish_non_exhaustive()
    }
}

fn start(
    opened: open::Opened,
    now: Now,
    due: usize,
    on_failure: OnFailure,
) -> Result<OpenedJournal, OpenProblem> {
    let open::Opened { directory, database, log, mark, loaded } = opened;
    let load::Loaded { restored, stale, places, sequence } = loaded;
    let path = directory.journal_path();
    let opened_up = directory.opened_up().to_vec();
    let inbox = Arc::new(Inbox::default());
    let shared = Arc::new(Shared::new(path.clone(), on_failure));
    let no_thread = |error: io::Error| OpenProblem::Unusable {
        path,
        what: format!("its thread cannot be started: {error}"),
    };
    let tables = match Tables::start(database, places, now, Arc::clone(&shared)) {
        Ok(tables) => tables,
        Err(error) => return Err(no_thread(error)),
    };
    let writer = Writer {
        log,
        tables,
        mark,
        sequence,
        ahead: Vec::new(),
        changes_ahead: 0,
        due,
        stale,
        outlet: Outlet(Arc::clone(&inbox)),
        shared: Arc::clone(&shared),
        directory,
    };
    let thread = std::thread::Builder::new()
        .name("state".to_owned())
        .spawn(move || writer.run())
        .map_err(no_thread)?;
    let journal = Journal { inbox, shared, thread: Mutex::new(Some(thread)) };
    Ok(OpenedJournal { journal, restored, opened_up })
}
