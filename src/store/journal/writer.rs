//! The journal's thread: takes what is waiting, writes all of it in one transaction with one sync, then tells everybody.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use redb::Database;

use crate::clock::Now;
use crate::killpoint::{self, KillPoint};

use super::super::backing::{Reply, StoreFailed};
use super::super::op::Batch;
use super::directory::Directory;
use super::load::{self, Stale};
use super::mark::Mark;
use super::places::Places;
use super::tables::{Changes, META, META_SEQUENCE, TableProblem};

/// The most batches of one commit.
const MOST_BATCHES: usize = 1024;
/// The most changes of one commit, unless one batch alone has more.
const MOST_CHANGES: usize = 8192;
/// How long changes that nobody waits for wait for company. Short: what a crash loses of them is an answer that a client
/// has and the next start calls unknown.
const COMPANY: Duration = Duration::from_millis(1);
/// Stale rows that one idle moment removes.
const STALE_ROWS: usize = 512;
/// How long nothing must come before a moment is idle.
const IDLE: Duration = Duration::from_millis(500);

/// What the thread is told.
pub(super) enum Message {
    /// Write this.
    Write(Box<Work>),
    /// Write what came before, and end.
    End,
}

/// One batch, and who waits for it.
pub(super) struct Work {
    pub(super) batch: Batch,
    pub(super) reply: Option<Reply>,
}

/// What the thread and its owner share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Nothing more is promised.
    pub(super) failed: AtomicBool,
    /// Commits since the start.
    pub(super) commits: AtomicU64,
    /// Batches in them.
    pub(super) batches: AtomicU64,
}

/// Says, once, why the journal failed.
pub type OnFailure = Box<dyn Fn(&str) + Send>;

/// The thread's own.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) mark: Mark,
    /// Number of the last commit.
    pub(super) sequence: u64,
    pub(super) stale: Vec<Stale>,
    pub(super) places: Places,
    /// When the journal was opened: what was stale then.
    pub(super) opened: Now,
    pub(super) path: PathBuf,
    pub(super) messages: Receiver<Message>,
    pub(super) shared: Arc<Shared>,
    pub(super) on_failure: OnFailure,
    /// Locked until the thread ends.
    pub(super) directory: Directory,
}

impl Writer {
    /// Runs until it is told to end, or nobody can tell it anything any more.
    pub(super) fn run(mut self) {
        let mut works = Vec::new();
        loop {
            let more = self.gather(&mut works);
            if !works.is_empty() {
                let result = self.write(&works);
                answer(works.drain(..), result);
            } else if more.is_continue() {
                self.drop_stale();
            }
            if more.is_break() {
                break;
            }
        }
        self.end();
    }

    /// Waits for work and takes all that is there. Nothing, if nothing came and stale rows can be removed.
    fn gather(&self, works: &mut Vec<Work>) -> ControlFlow<()> {
        let first = if self.stale.is_empty() {
            self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            self.messages.recv_timeout(IDLE)
        };
        let mut next = match first {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => return ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
        };
        let (mut changes, mut awaited, mut waited) = (0, false, false);
        loop {
            match next {
                Message::Write(work) => {
                    changes += work.batch.len();
                    awaited |= work.reply.is_some();
                    works.push(*work);
                }
                Message::End => return ControlFlow::Break(()),
            }
            if works.len() >= MOST_BATCHES || changes >= MOST_CHANGES {
                return ControlFlow::Continue(());
            }
            next = match self.messages.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
                Err(TryRecvError::Empty) if awaited || waited => {
                    return ControlFlow::Continue(());
                }
                Err(TryRecvError::Empty) => {
                    waited = true;
                    match self.messages.recv_timeout(COMPANY) {
                        Ok(message) => message,
                        Err(RecvTimeoutError::Timeout) => return ControlFlow::Continue(()),
                        Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
                    }
                }
            };
        }
    }

    fn write(&mut self, works: &[Work]) -> Result<(), StoreFailed> {
        self.commit(|changes| {
            works.iter().flat_map(|work| &work.batch).try_for_each(|op| changes.apply(op))
        })?;
        let batches = u64::try_from(works.len()).unwrap_or(u64::MAX);
        self.shared.batches.fetch_add(batches, Ordering::Relaxed);
        Ok(())
    }

    /// Removes some rows that said nothing any more when the journal was opened, and still do not.
    fn drop_stale(&mut self) {
        let rows = self.stale.split_off(self.stale.len().saturating_sub(STALE_ROWS));
        if rows.is_empty() {
            return;
        }
        let now = self.opened;
        // A failure is said by `commit`.
        let _ = self.commit(|changes| {
            rows.iter().try_for_each(|row| match row {
                Stale::Record(id) => {
                    changes.drop_record(*id, |place, row| load::record_is_stale(place, row, now))
                }
                Stale::Meter(key) => {
                    changes.drop_meter(key, |row| load::meter_is_stale(key, row, now))
                }
            })
        });
    }

    /// One transaction, one sync. After the first failure nothing is written again: what a failed sync left behind is
    /// unknown, and a second one may report a success that it has not earned.
    fn commit(
        &mut self,
        with: impl FnOnce(&mut Changes<'_>) -> Result<(), TableProblem>,
    ) -> Result<(), StoreFailed> {
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(StoreFailed);
        }
        let sequence = self.sequence + 1;
        let Writer { database, mark, places, .. } = &mut *self;
        let committed = catch_unwind(AssertUnwindSafe(|| -> Result<(), String> {
            transact(database, places, sequence, with).map_err(|problem| problem.to_string())?;
            mark.acknowledge(sequence).map_err(|error| error.to_string())
        }));
        let why = match committed {
            Ok(Ok(())) => {
                self.sequence = sequence;
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Ok(Err(why)) => why,
            Err(_) => "its structure leads nowhere".to_owned(),
        };
        self.fail(&why);
        Err(StoreFailed)
    }

    fn fail(&mut self, why: &str) {
        self.shared.failed.store(true, Ordering::Relaxed);
        self.stale.clear();
        (self.on_failure)(&format!("{}: {why}", self.path.display()));
    }

    fn end(self) {
        let Writer { database, messages, directory, shared, on_failure, path, .. } = self;
        let failed = shared.failed.swap(true, Ordering::Relaxed);
        // Whoever came too late is told.
        let late = messages.try_iter().filter_map(|message| match message {
            Message::Write(work) => Some(*work),
            Message::End => None,
        });
        answer(late, Err(StoreFailed));
        let closed = catch_unwind(AssertUnwindSafe(|| database.close()));
        // Everything that was acknowledged is durable whatever became of this; the next start looks at all of it.
        if let (Ok(Err(error)), false) = (closed, failed) {
            on_failure(&format!("{}: it was not closed: {error}", path.display()));
        }
        drop(directory);
    }
}

fn transact(
    database: &Database,
    places: &mut Places,
    sequence: u64,
    with: impl FnOnce(&mut Changes<'_>) -> Result<(), TableProblem>,
) -> Result<(), TableProblem> {
    let transaction = database.begin_write()?;
    let mut changes = Changes::new(&transaction, places)?;
    with(&mut changes)?;
    changes.finish()?;
    transaction.open_table(META)?.insert(META_SEQUENCE, sequence)?;
    killpoint::pass(KillPoint::BeforeSync);
    transaction.commit()?;
    killpoint::pass(KillPoint::AfterSync);
    Ok(())
}

fn answer(works: impl Iterator<Item = Work>, result: Result<(), StoreFailed>) {
    for reply in works.filter_map(|work| work.reply) {
        // Whoever is told may fail at it; the others are told all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| reply(result)));
    }
}
