//! What stands behind the ledger and remembers after the process is gone. A closed list: each has promises of its own
//! about what survives, which a trait would hide.

use std::path::{Path, PathBuf};

use crate::clock::Now;

use super::journal::{Journal, JournalFigures, OnFailure, OpenProblem, OpenedJournal};
use super::op::Batch;
use super::restored::Restored;

/// Where use is remembered.
///
/// Reached through a bounded channel; decisions stay in memory.
#[derive(Debug)]
pub enum Backing {
    /// Nowhere: everything is forgotten at exit.
    None,
    /// In a directory: what is acknowledged survives a kill and a power cut.
    Directory(Journal),
}

/// A backing, with what it remembered.
#[derive(Debug)]
pub struct OpenedBacking {
    /// The backing.
    pub backing: Backing,
    /// What it knows of the time before.
    pub restored: Restored,
    /// What others could read, and can no longer.
    pub opened_up: Vec<PathBuf>,
}

/// The store has failed, or its channel is full: nothing may be promised. A failed write or sync fails it until restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFailed;

/// Told once, from the backing's thread or at once, whether a batch is durable.
pub type Reply = Box<dyn FnOnce(Result<(), StoreFailed>) + Send>;

/// Whether the backing can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// A write or a sync failed; until restart nothing more is promised.
    Failed,
}

impl Backing {
    /// Opens the state in a directory, and makes it if it is not there. Reads all of it, and refuses what is damaged, in
    /// use, or of a later format. `on_failure` is told once, from the backing's thread, why a write failed.
    pub fn open(
        directory: &Path,
        now: Now,
        on_failure: OnFailure,
    ) -> Result<OpenedBacking, OpenProblem> {
        Journal::open(directory, now, on_failure).map(OpenedBacking::from)
    }

    /// The same with the data on storages that are given, for tests that cut their power; the directory holds the rest.
    /// The tables follow the log after `due` changes.
    pub fn open_on(
        directory: &Path,
        log: impl redb::StorageBackend,
        tables: impl redb::StorageBackend,
        now: Now,
        due: usize,
        on_failure: OnFailure,
    ) -> Result<OpenedBacking, OpenProblem> {
        Journal::open_on(directory, log, tables, now, due, on_failure).map(OpenedBacking::from)
    }

    /// Whether what it is told is remembered.
    pub fn remembers(&self) -> bool {
        match self {
            Backing::None => false,
            Backing::Directory(_) => true,
        }
    }

    /// Whether it can be relied on.
    pub fn health(&self) -> Health {
        match self {
            Backing::None => Health::Up,
            Backing::Directory(journal) => journal.health(),
        }
    }

    /// Hands a batch on, without waiting. With a `reply` it is told when the batch is durable; without one nobody waits
    /// for it, and it becomes durable with the next that somebody waits for, or within a second. On an error the reply is
    /// dropped unheard, and nothing of the batch will be durable.
    pub fn submit(&self, batch: Batch, reply: Option<Reply>) -> Result<(), StoreFailed> {
        match self {
            Backing::None => {
                drop(batch);
                if let Some(reply) = reply {
                    reply(Ok(()));
                }
                Ok(())
            }
            Backing::Directory(journal) => {
                let waits = reply.is_some();
                journal.leave(batch, reply)?;
                if waits {
                    journal.ring();
                }
                Ok(())
            }
        }
    }

    /// Hands on a batch that somebody waits for, together with others that come at once: it becomes durable when somebody
    /// [rings](Backing::ring), or a millisecond later. On an error as [`Backing::submit`].
    pub fn leave(&self, batch: Batch, reply: Reply) -> Result<(), StoreFailed> {
        match self {
            Backing::None => self.submit(batch, Some(reply)),
            Backing::Directory(journal) => journal.leave(batch, Some(reply)),
        }
    }

    /// Has everything made durable at once that was handed on.
    pub fn ring(&self) {
        match self {
            Backing::None => {}
            Backing::Directory(journal) => journal.ring(),
        }
    }

    /// How much was written since the start; nothing where nothing is.
    pub fn figures(&self) -> JournalFigures {
        match self {
            Backing::None => JournalFigures::default(),
            Backing::Directory(journal) => journal.figures(),
        }
    }

    /// Makes durable what was handed on, and lets a successor have the directory. Returns when that is done; what is
    /// handed on later is refused.
    pub fn close(&self) {
        match self {
            Backing::None => {}
            Backing::Directory(journal) => journal.close(),
        }
    }
}

impl From<OpenedJournal> for OpenedBacking {
    fn from(opened: OpenedJournal) -> OpenedBacking {
        let OpenedJournal { journal, restored, opened_up } = opened;
        OpenedBacking { backing: Backing::Directory(journal), restored, opened_up }
    }
}
