//! The tables' thread: they follow the log, many commits in one transaction, while commits go on.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use redb::Database;

use crate::clock::Now;
use crate::killpoint::{self, KillPoint};

use super::super::backing::StoreFailed;
use super::load::{self, Stale};
use super::places::Places;
use super::shared::Shared;
use super::tables::{TableProblem, transact};
use super::writer::Work;

/// How much nicer the thread is than the others: where cores are scarce, requests come first. No more than that: a thread
/// that workers starve would keep them waiting in the end, when the log is full.
const NICER: i32 = 5;

/// What the tables get in one transaction.
#[expect(clippy::vec_box, reason = "a batch is hundreds of bytes, and is handed from list to list")]
pub(super) struct Portion {
    /// What stands in one half of the log, in its order.
    pub(super) works: Vec<Box<Work>>,
    /// The last commit of that.
    pub(super) sequence: u64,
    /// Rows that said nothing any more when the journal was opened, and go if they still do not.
    pub(super) stale: Vec<Stale>,
}

/// The tables as the journal's thread sees them: they take one portion at a time.
#[derive(Debug)]
pub(super) struct Tables {
    portions: Sender<Portion>,
    taken: Receiver<Result<(), StoreFailed>>,
    standing: Standing,
    thread: JoinHandle<Result<(), String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// They have everything that they were given.
    Free,
    /// They are at it.
    Busy,
}

impl Tables {
    /// Starts the thread. Fails where the system gives none.
    pub(super) fn start(
        database: Database,
        places: Places,
        opened: Now,
        shared: Arc<Shared>,
    ) -> io::Result<Tables> {
        let (portions, given) = channel();
        let (took, taken) = channel();
        let follower = Follower { database, places, opened, given, took, shared };
        let thread = std::thread::Builder::new().name("tables".to_owned()).spawn(move || {
            // On Linux this is the calling thread's own. Without it the tables merely compete.
            let _ = rustix::process::nice(NICER);
            follower.run()
        })?;
        Ok(Tables { portions, taken, standing: Standing::Free, thread })
    }

    /// Whether they have everything that they were given.
    pub(super) fn are_free(&mut self) -> bool {
        if self.standing == Standing::Busy {
            match self.taken.try_recv() {
                Ok(_) => self.standing = Standing::Free,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
        self.standing == Standing::Free
    }

    /// Gives them one more, when they have what they were given before.
    pub(super) fn give(&mut self, portion: Portion) -> Result<(), StoreFailed> {
        self.wait()?;
        self.standing = Standing::Busy;
        self.portions.send(portion).map_err(|_| StoreFailed)
    }

    /// Returns when they have everything that they were given.
    pub(super) fn wait(&mut self) -> Result<(), StoreFailed> {
        match self.standing {
            Standing::Free => Ok(()),
            Standing::Busy => {
                let taken = self.taken.recv().unwrap_or(Err(StoreFailed));
                self.standing = Standing::Free;
                taken
            }
        }
    }

    /// Closes them. Says why that did not work.
    pub(super) fn end(self) -> Result<(), String> {
        let Tables { portions, taken, thread, .. } = self;
        drop(portions);
        drop(taken);
        thread.join().unwrap_or(Ok(()))
    }
}

/// The thread's own.
struct Follower {
    database: Database,
    places: Places,
    /// When the journal was opened: what was stale then.
    opened: Now,
    given: Receiver<Portion>,
    took: Sender<Result<(), StoreFailed>>,
    shared: Arc<Shared>,
}

impl Follower {
    /// Runs until nobody can give it anything any more.
    fn run(mut self) -> Result<(), String> {
        while let Ok(portion) = self.given.recv() {
            let shared = Arc::clone(&self.shared);
            // A failure is said by the guard.
            let taken = shared.guarded(|| self.take(&portion));
            if self.took.send(taken).is_err() {
                break;
            }
        }
        let database = self.database;
        match catch_unwind(AssertUnwindSafe(|| database.close())) {
            Ok(Err(error)) => Err(error.to_string()),
            // Everything that was acknowledged is durable whatever became of this; the next start looks at all of it.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// One transaction, after which that half of the log is over.
    fn take(&mut self, portion: &Portion) -> Result<(), TableProblem> {
        killpoint::pass(KillPoint::BeforeTables);
        let now = self.opened;
        transact(&self.database, &mut self.places, portion.sequence, |changes| {
            for op in portion.works.iter().flat_map(|work| &work.batch) {
                changes.apply(op)?;
            }
            for row in &portion.stale {
                match row {
                    Stale::Record(id) => changes
                        .drop_record(*id, |place, row| load::record_is_stale(place, row, now))?,
                    Stale::Meter(key) => {
                        changes.drop_meter(key, |row| load::meter_is_stale(key, row, now))?;
                    }
                }
            }
            killpoint::pass(KillPoint::WithinTables);
            Ok(())
        })?;
        self.shared.count_commit();
        killpoint::pass(KillPoint::AfterTables);
        Ok(())
    }
}
