//! The journal's thread: takes what is waiting, writes all of it into the log with one sync, then tells everybody. The
//! tables get it later, many commits at a time, from [a thread of their own](super::follower).

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use crate::killpoint::{self, KillPoint};

use super::super::backing::{Reply, StoreFailed};
use super::super::op::Batch;
use super::directory::Directory;
use super::follower::{Portion, Tables};
use super::load::Stale;
use super::log::{Appended, Log};
use super::mark::Mark;
use super::shared::Shared;

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
/// Changes in one half of the log that are due in the tables: enough that most of what they reserve and claim is settled
/// and answered within them, and that a transaction's own cost is shared by many; not more, because a worker that shares
/// its core with the tables' thread waits for that. In the gates of the crash suite, which die after some hundred
/// requests, the tables follow sooner.
pub(super) const DUE: usize = if cfg!(feature = "kill-points") { 32 } else { 1024 };
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
    pub(super) messages: Receiver<Message>,
    pub(super) shared: Arc<Shared>,
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
                let replies = replies_of(&mut works);
                let written = self.write(&mut works);
                answer(replies, written);
                works.clear();
                if self.changes_ahead >= self.due && self.tables.are_free() {
                    // A failure is said by whoever met it.
                    let _ = self.hand_over(Vec::new());
                }
            } else if more.is_continue() && self.tables.are_free() {
                let stale = self.stale.split_off(self.stale.len().saturating_sub(STALE_ROWS));
                let _ = self.hand_over(stale);
            }
            if more.is_break() {
                break;
            }
        }
        self.end();
    }

    /// Waits for work and takes all that is there. Nothing, if nothing came and there are rows to remove. `crowd` is
    /// how many were waited for in the last commit that anybody waited for.
    #[expect(clippy::vec_box, reason = "as in the writer itself")]
    fn gather(&self, works: &mut Vec<Box<Work>>, crowd: &mut usize) -> ControlFlow<()> {
        let first = if self.stale.is_empty() || self.shared.has_failed() {
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
        let Writer { tables, messages, directory, shared, .. } = self;
        let has_failed = shared.has_failed();
        shared.end();
        // Whoever came too late is told.
        let late = messages.try_iter().filter_map(|message| match message {
            Message::Write(work) => work.reply,
            Message::End => None,
        });
        answer(late.collect(), Err(StoreFailed));
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
