//! The journal's thread: takes what is waiting, writes all of it into the log with one sync, then tells everybody. The
//! tables get it later, many commits at a time, from [a thread of their own](super::follower).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::killpoint::{self, KillPoint};

use super::super::backing::{Reply, StoreFailed};
use super::super::op::Batch;
use super::directory::Directory;
use super::follower::{Portion, Tables};
use super::inbox::{Came, Outlet};
use super::load::Stale;
use super::log::{Appended, Log};
use super::mark::Mark;
use super::shared::Shared;

/// Changes in one half of the log that are due in the tables: enough that most of what they reserve and claim is settled
/// and answered within them, and that a transaction's own cost is shared by many; not more, because a worker that shares
/// its core with the tables' thread waits for that. In the gates of the crash suite, which die after some hundred
/// requests, the tables follow sooner.
pub(super) const DUE: usize = if cfg!(feature = "kill-points") { 32 } else { 1024 };
/// Stale rows that one idle moment removes.
const STALE_ROWS: usize = 512;
/// How long nothing must come before a moment is idle.
const IDLE: Duration = Duration::from_millis(500);

/// One batch, and who waits for it.
pub(super) struct Work {
    pub(super) batch: Batch,
    pub(super) reply: Option<Reply>,
}

/// The thread's own.
#[expect(clippy::vec_box, reason = "a batch is hundreds of bytes, and is handed from list to list")]
pub(super) struct Writer {
    pub(super) log: Log,
    pub(super) tables: Tables,
    pub(super) mark: Mark,
    /// Number of the last commit.
    pub(super) sequence: u64,
    /// What stands in the half of the log that is written, and how many changes that is.
    pub(super) ahead: Vec<Box<Work>>,
    pub(super) changes_ahead: usize,
    /// Changes of it that are due in the tables.
    pub(super) due: usize,
    pub(super) stale: Vec<Stale>,
    pub(super) outlet: Outlet,
    pub(super) shared: Arc<Shared>,
    /// Locked until the thread ends.
    pub(super) directory: Directory,
}

impl Writer {
    /// Runs until it is told to end, or nobody can tell it anything any more.
    pub(super) fn run(mut self) {
        let mut works = Vec::new();
        loop {
            let longest = (!self.stale.is_empty() && !self.shared.has_failed()).then_some(IDLE);
            let came = self.outlet.take(longest, &mut works);
            if !works.is_empty() {
                let replies = replies_of(&mut works);
                let written = self.write(&mut works);
                answer(replies, written);
                works.clear();
                if self.changes_ahead >= self.due && self.tables.are_free() {
                    // A failure is said by whoever met it.
                    let _ = self.hand_over(Vec::new());
                }
            } else if came == Came::Nothing && self.tables.are_free() {
                let stale = self.stale.split_off(self.stale.len().saturating_sub(STALE_ROWS));
                let _ = self.hand_over(stale);
            }
            if came == Came::Last {
                break;
            }
        }
        self.end();
    }

    /// One commit of all of these. Where the log has no room for it, it waits for the tables.
    #[expect(clippy::vec_box, reason = "as in the writer itself")]
    fn write(&mut self, works: &mut Vec<Box<Work>>) -> Result<(), StoreFailed> {
        let sequence = self.sequence + 1;
        self.shared.count_batches(works.len());
        let mut appended = self.append(sequence, works)?;
        if appended == Appended::NoRoom && !self.ahead.is_empty() {
            self.hand_over(Vec::new())?;
            appended = self.append(sequence, works)?;
        }
        match appended {
            Appended::Written => {
                self.changes_ahead += works.iter().map(|work| work.batch.len()).sum::<usize>();
                self.ahead.append(works);
            }
            // More than a half holds: into the tables at once.
            Appended::NoRoom => {
                let works = std::mem::take(works);
                self.tables.give(Portion { works, sequence, stale: Vec::new() })?;
                self.tables.wait()?;
                let Writer { shared, mark, .. } = self;
                shared.guarded(|| Ok(mark.acknowledge(sequence).map_err(redb::Error::Io)?))?;
            }
        }
        self.sequence = sequence;
        Ok(())
    }

    /// Writes one commit into the half of the log that is in use, if it has room, and makes it durable.
    fn append(&mut self, sequence: u64, works: &[Box<Work>]) -> Result<Appended, StoreFailed> {
        let Writer { shared, log, mark, .. } = self;
        shared.guarded(|| {
            let ops = works.iter().flat_map(|work| &work.batch);
            let appended = log.append(sequence, ops).map_err(redb::Error::Io)?;
            if appended == Appended::Written {
                killpoint::pass(KillPoint::BeforeSync);
                log.sync().map_err(redb::Error::Io)?;
                killpoint::pass(KillPoint::AfterSync);
                mark.acknowledge(sequence).map_err(redb::Error::Io)?;
                shared.count_commit();
            }
            Ok(appended)
        })
    }

    /// Gives the tables what the log has, and goes on in its other half. Waits where they have not done with that one.
    fn hand_over(&mut self, stale: Vec<Stale>) -> Result<(), StoreFailed> {
        let works = std::mem::take(&mut self.ahead);
        self.changes_ahead = 0;
        self.tables.give(Portion { works, sequence: self.sequence, stale })?;
        self.log.turn();
        Ok(())
    }

    fn end(mut self) {
        if !self.ahead.is_empty() {
            let _ = self.hand_over(Vec::new());
        }
        let _ = self.tables.wait();
        let Writer { tables, directory, shared, .. } = self;
        let has_failed = shared.has_failed();
        shared.end();
        if let (Err(why), false) = (tables.end(), has_failed) {
            shared.say(&format!("it was not closed: {why}"));
        }
        drop(directory);
    }
}

fn replies_of(works: &mut [Box<Work>]) -> Vec<Reply> {
    works.iter_mut().filter_map(|work| work.reply.take()).collect()
}

fn answer(replies: Vec<Reply>, result: Result<(), StoreFailed>) {
    for reply in replies {
        // Whoever is told may fail at it; the others are told all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| reply(result)));
    }
}
