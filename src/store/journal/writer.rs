//! The journal's thread: takes what is waiting, writes all of it into the log with one sync, then tells everybody. The
//! tables get it later, many commits at a time.

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
use super::log::{Appended, Log};
use super::mark::Mark;
use super::places::Places;
use super::tables::{TableProblem, transact};

/// The most batches of one commit.
const MOST_BATCHES: usize = 1024;
/// The most changes of one commit, unless one batch alone has more.
const MOST_CHANGES: usize = 8192;
/// How long changes that nobody waits for wait for company. Short: what a crash loses of them is an answer that a client
/// has and the next start calls unknown.
const COMPANY: Duration = Duration::from_millis(1);
/// So many that are waited for in one commit come only where many clients come at once. There a commit waits while more
/// keep coming, since the worker that feeds them has other work meanwhile and more share a sync: for so many that are
/// waited for, and so often for so long.
const CROWD: usize = 4;
const CROWD_ENOUGH: usize = 16;
const MOST_WAITS: usize = 6;
const CROWD_COMPANY: Duration = Duration::from_micros(150);
/// Changes in the log that are due in the tables: enough that most of what they reserve and claim is settled and answered
/// within them, and so few that writing them keeps nobody waiting for long.
pub(super) const DUE: usize = 1024;
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

/// When the tables are brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Others may be waiting.
    Busy,
    /// Nothing came for a while.
    Idle,
}

/// What the thread and its owner share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Nothing more is promised.
    pub(super) failed: AtomicBool,
    /// Commits since the start, to the log and to the tables.
    pub(super) commits: AtomicU64,
    /// Batches in them.
    pub(super) batches: AtomicU64,
}

/// Says, once, why the journal failed.
pub type OnFailure = Box<dyn Fn(&str) + Send>;

/// The thread's own.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) log: Log,
    pub(super) mark: Mark,
    /// Number of the last commit.
    pub(super) sequence: u64,
    /// What the log has and the tables have not, and how many changes that is.
    pub(super) ahead: Vec<Box<Work>>,
    pub(super) changes_ahead: usize,
    /// Changes of the log that are due in the tables.
    pub(super) due: usize,
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
        let mut crowd = 0;
        loop {
            let more = self.gather(&mut works, &mut crowd);
            if !works.is_empty() {
                let written = self.write(&works);
                answer(&mut works, written.map(|_| ()));
                match written {
                    Ok(Appended::Written) => {
                        self.changes_ahead +=
                            works.iter().map(|work| work.batch.len()).sum::<usize>();
                        self.ahead.append(&mut works);
                    }
                    Ok(Appended::NoRoom) | Err(StoreFailed) => works.clear(),
                }
                if self.changes_ahead >= self.due {
                    self.bring_up(Moment::Busy);
                }
            } else if more.is_continue() {
                self.bring_up(Moment::Idle);
            }
            if more.is_break() {
                break;
            }
        }
        self.end();
    }

    /// Waits for work and takes all that is there. Nothing, if nothing came and there are rows to remove. `crowd` is
    /// how many were waited for in the last commit that anybody waited for.
    fn gather(&self, works: &mut Vec<Box<Work>>, crowd: &mut usize) -> ControlFlow<()> {
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
        let mut waits = if *crowd >= CROWD { MOST_WAITS } else { 0 };
        let (mut changes, mut awaited, mut waited) = (0, 0, false);
        loop {
            match next {
                Message::Write(work) => {
                    changes += work.batch.len();
                    if work.reply.is_some() {
                        awaited += 1;
                        *crowd = awaited;
                    }
                    works.push(work);
                }
                Message::End => return ControlFlow::Break(()),
            }
            if works.len() >= MOST_BATCHES || changes >= MOST_CHANGES {
                return ControlFlow::Continue(());
            }
            let mut came = self.messages.try_recv();
            if matches!(came, Err(TryRecvError::Empty)) && waits > 0 && awaited < CROWD_ENOUGH {
                waits -= 1;
                waited = true;
                // Asleep, not listening: whoever hands a batch on has nobody to wake.
                std::thread::sleep(CROWD_COMPANY);
                came = self.messages.try_recv();
            }
            next = match came {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
                Err(TryRecvError::Empty) if awaited > 0 || waited => {
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

    /// One commit of all of these. Where the log has no room for it, it goes into the tables at once.
    fn write(&mut self, works: &[Box<Work>]) -> Result<Appended, StoreFailed> {
        let sequence = self.sequence + 1;
        let appended = self.guarded(|it| {
            let ops = works.iter().flat_map(|work| &work.batch);
            let appended = it.log.append(sequence, ops).map_err(redb::Error::Io)?;
            match appended {
                Appended::Written => {
                    killpoint::pass(KillPoint::BeforeSync);
                    it.log.sync().map_err(redb::Error::Io)?;
                    killpoint::pass(KillPoint::AfterSync);
                }
                Appended::NoRoom => {
                    let ahead = std::mem::take(&mut it.ahead);
                    it.write_tables(sequence, ahead.iter().chain(works), &[])?;
                }
            }
            it.sequence = sequence;
            it.mark.acknowledge(sequence).map_err(redb::Error::Io)?;
            Ok(appended)
        })?;
        let batches = u64::try_from(works.len()).unwrap_or(u64::MAX);
        self.shared.batches.fetch_add(batches, Ordering::Relaxed);
        Ok(appended)
    }

    /// Brings the tables up to the log. In an idle moment some rows go that said nothing any more when the journal was
    /// opened, and still do not.
    fn bring_up(&mut self, moment: Moment) {
        let stale = match moment {
            Moment::Busy => Vec::new(),
            Moment::Idle => self.stale.split_off(self.stale.len().saturating_sub(STALE_ROWS)),
        };
        if stale.is_empty() && self.ahead.is_empty() {
            return;
        }
        let ahead = std::mem::take(&mut self.ahead);
        // A failure is said by `guarded`.
        let _ = self.guarded(|it| it.write_tables(it.sequence, ahead.iter(), &stale));
    }

    /// One transaction, after which the log has nothing that the tables have not.
    fn write_tables<'o>(
        &mut self,
        sequence: u64,
        works: impl Iterator<Item = &'o Box<Work>>,
        stale: &[Stale],
    ) -> Result<(), TableProblem> {
        let now = self.opened;
        transact(&self.database, &mut self.places, sequence, |changes| {
            for op in works.flat_map(|work| &work.batch) {
                changes.apply(op)?;
            }
            for row in stale {
                match row {
                    Stale::Record(id) => changes
                        .drop_record(*id, |place, row| load::record_is_stale(place, row, now))?,
                    Stale::Meter(key) => {
                        changes.drop_meter(key, |row| load::meter_is_stale(key, row, now))?;
                    }
                }
            }
            killpoint::pass(KillPoint::BeforeSync);
            Ok(())
        })?;
        killpoint::pass(KillPoint::AfterSync);
        self.log.begin_anew();
        self.changes_ahead = 0;
        Ok(())
    }

    /// After the first failure nothing is written again: what a failed sync left behind is unknown, and a second one may
    /// report a success that it has not earned.
    fn guarded<T>(
        &mut self,
        write: impl FnOnce(&mut Writer) -> Result<T, TableProblem>,
    ) -> Result<T, StoreFailed> {
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(StoreFailed);
        }
        let why = match catch_unwind(AssertUnwindSafe(|| write(self))) {
            Ok(Ok(written)) => {
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                return Ok(written);
            }
            Ok(Err(why)) => why.to_string(),
            Err(_) => "its structure leads nowhere".to_owned(),
        };
        self.fail(&why);
        Err(StoreFailed)
    }

    fn fail(&mut self, why: &str) {
        self.shared.failed.store(true, Ordering::Relaxed);
        self.stale.clear();
        self.ahead.clear();
        (self.on_failure)(&format!("{}: {why}", self.path.display()));
    }

    fn end(mut self) {
        self.bring_up(Moment::Busy);
        let Writer { database, messages, directory, shared, on_failure, path, .. } = self;
        let failed = shared.failed.swap(true, Ordering::Relaxed);
        // Whoever came too late is told.
        let late = messages.try_iter().filter_map(|message| match message {
            Message::Write(work) => Some(work),
            Message::End => None,
        });
        answer(&mut late.collect::<Vec<_>>(), Err(StoreFailed));
        let closed = catch_unwind(AssertUnwindSafe(|| database.close()));
        // Everything that was acknowledged is durable whatever became of this; the next start looks at all of it.
        if let (Ok(Err(error)), false) = (closed, failed) {
            on_failure(&format!("{}: it was not closed: {error}", path.display()));
        }
        drop(directory);
    }
}

fn answer(works: &mut [Box<Work>], result: Result<(), StoreFailed>) {
    for reply in works.iter_mut().filter_map(|work| work.reply.take()) {
        // Whoever is told may fail at it; the others are told all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| reply(result)));
    }
}
