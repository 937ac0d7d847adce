//! What waits for the journal's thread: batches in the order of their coming, and a bell beside them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::super::backing::StoreFailed;
use super::writer::Work;

/// Batches that may wait; one more is refused, which is a failure of that request and not of the store.
const MOST_WAITING: usize = 8192;
/// The most batches of one commit.
const MOST_BATCHES: usize = 1024;
/// The most changes of one commit, unless one batch alone has more.
const MOST_CHANGES: usize = 8192;
/// How long batches for which nobody rings wait for company. Short: what a crash loses of them is an answer that a client
/// has and the next start calls unknown.
const COMPANY: Duration = Duration::from_millis(1);

/// Where batches are left for the journal's thread.
///
/// To leave a batch and to ring are two things. A worker leaves the batches of all the requests that it has at hand, and
/// rings once: if the first of them woke the thread, it would take the worker's core, commit that one alone, and the
/// others would wait for the next sync. When it did, and napped for company after a commit of many, a keyed request took
/// 52 µs of CPU time and not 44 where worker and thread share a core.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

#[derive(Default)]
#[expect(clippy::vec_box, reason = "a batch is hundreds of bytes, and is handed from list to list")]
struct Waiting {
    works: Vec<Box<Work>>,
    /// The bell was rung for these.
    rung: bool,
    ended: bool,
    sleep: Sleep,
}

/// What the thread sleeps for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sleep {
    /// It is awake.
    #[default]
    Awake,
    /// The first batch.
    ForBatch,
    /// The bell: there are batches.
    ForBell,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Batches, and more may come.
    Batches,
    /// Nothing, for as long as was to be waited.
    Nothing,
    /// The last batches, if any.
    Last,
}

impl Inbox {
    /// Leaves a batch, to be written when somebody rings, or a little later.
    pub(super) fn leave(&self, work: Box<Work>) -> Result<(), StoreFailed> {
        let mut waiting = self.waiting.lock();
        if waiting.ended || waiting.works.len() >= MOST_WAITING {
            return Err(StoreFailed);
        }
        waiting.works.push(work);
        let wakes = waiting.sleep == Sleep::ForBatch;
        drop(waiting);
        if wakes {
            self.bell.notify_one();
        }
        Ok(())
    }

    /// Has what was left written at once.
    pub(super) fn ring(&self) {
        let mut waiting = self.waiting.lock();
        // What this is for may be on its way already.
        waiting.rung = !waiting.works.is_empty();
        let wakes = waiting.sleep == Sleep::ForBell;
        drop(waiting);
        if wakes {
            self.bell.notify_one();
        }
    }

    /// Takes in nothing more; what was left is still written.
    pub(super) fn end(&self) {
        self.waiting.lock().ended = true;
        self.bell.notify_one();
    }
}

/// The journal's thread's side of an inbox. Without it nothing is taken in, and what is there is dropped.
pub(super) struct Outlet(pub(super) Arc<Inbox>);

impl Outlet {
    /// Waits for batches, `longest` for the first if that is said, and takes as many as one commit may have. `into` is
    /// empty before.
    #[expect(clippy::vec_box, reason = "as in the inbox")]
    pub(super) fn take(&self, longest: Option<Duration>, into: &mut Vec<Box<Work>>) -> Came {
        let Outlet(inbox) = self;
        let mut waiting = inbox.waiting.lock();
        waiting.sleep = Sleep::ForBatch;
        let is_empty = |waiting: &mut Waiting| waiting.works.is_empty() && !waiting.ended;
        match longest {
            None => inbox.bell.wait_while(&mut waiting, is_empty),
            Some(longest) => {
                inbox.bell.wait_while_for(&mut waiting, is_empty, longest);
            }
        }
        if !waiting.works.is_empty() {
            waiting.sleep = Sleep::ForBell;
            let is_quiet = |waiting: &mut Waiting| !waiting.rung && !waiting.ended;
            inbox.bell.wait_while_for(&mut waiting, is_quiet, COMPANY);
        }
        waiting.sleep = Sleep::Awake;
        waiting.rung = false;
        let fit = how_many_fit(&waiting.works);
        if fit == waiting.works.len() {
            std::mem::swap(&mut waiting.works, into);
        } else {
            into.extend(waiting.works.drain(..fit));
            // The others have waited enough.
            waiting.rung = true;
        }
        match (waiting.ended && waiting.works.is_empty(), into.is_empty()) {
            (true, _) => Came::Last,
            (false, true) => Came::Nothing,
            (false, false) => Came::Batches,
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.ended = true;
        let left = std::mem::take(&mut waiting.works);
        drop(waiting);
        // Whoever waits for these is told by that.
        drop(left);
    }
}

/// How many of the first go into one commit.
fn how_many_fit(works: &[Box<Work>]) -> usize {
    let mut changes = 0;
    works
        .iter()
        .take(MOST_BATCHES)
        .take_while(|work| {
            let fits = changes < MOST_CHANGES;
            changes += work.batch.len();
            fits
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::op::Batch;

    fn work() -> Box<Work> {
        Box::new(Work { batch: Batch::new(), reply: None })
    }

    fn pair() -> (Arc<Inbox>, Outlet) {
        let inbox = Arc::new(Inbox::default());
        (Arc::clone(&inbox), Outlet(inbox))
    }

    fn taken(outlet: &Outlet) -> (usize, Came) {
        let mut works = Vec::new();
        let came = outlet.take(Some(Duration::ZERO), &mut works);
        (works.len(), came)
    }

    #[test]
    fn what_was_left_is_taken_together() {
        let (inbox, outlet) = pair();
        assert_eq!(taken(&outlet), (0, Came::Nothing));
        inbox.leave(work()).unwrap();
        inbox.leave(work()).unwrap();
        inbox.ring();
        assert_eq!(taken(&outlet), (2, Came::Batches));
        assert_eq!(taken(&outlet), (0, Came::Nothing));
    }

    #[test]
    fn what_nobody_rings_for_is_taken_too() {
        let (inbox, outlet) = pair();
        inbox.leave(work()).unwrap();
        assert_eq!(taken(&outlet), (1, Came::Batches));
    }

    #[test]
    fn more_than_one_commit_may_have_is_left_for_the_next() {
        let (inbox, outlet) = pair();
        for _ in 0..=MOST_BATCHES {
            inbox.leave(work()).unwrap();
        }
        inbox.ring();
        assert_eq!(taken(&outlet), (MOST_BATCHES, Came::Batches));
        assert_eq!(taken(&outlet), (1, Came::Batches));
    }

    #[test]
    fn an_inbox_that_is_full_takes_in_nothing_more() {
        let (inbox, outlet) = pair();
        for _ in 0..MOST_WAITING {
            inbox.leave(work()).unwrap();
        }
        assert_eq!(inbox.leave(work()), Err(StoreFailed));
        assert_eq!(taken(&outlet), (MOST_BATCHES, Came::Batches));
        assert_eq!(inbox.leave(work()), Ok(()));
    }

    #[test]
    fn after_its_end_an_inbox_takes_in_nothing_and_gives_out_what_it_has() {
        let (inbox, outlet) = pair();
        inbox.leave(work()).unwrap();
        inbox.end();
        assert_eq!(inbox.leave(work()), Err(StoreFailed));
        assert_eq!(taken(&outlet), (1, Came::Last));
    }

    #[test]
    fn without_its_outlet_an_inbox_tells_those_who_wait_by_dropping_their_replies() {
        let (inbox, outlet) = pair();
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let reply = Box::new(move |_| drop(tell));
        inbox.leave(Box::new(Work { batch: Batch::new(), reply: Some(reply) })).unwrap();
        drop(outlet);
        assert!(told.recv().is_err());
        assert_eq!(inbox.leave(work()), Err(StoreFailed));
    }

    #[test]
    fn a_ring_before_anything_was_left_makes_nobody_sleep_through_what_comes() {
        let (inbox, outlet) = pair();
        let taker = std::thread::spawn(move || {
            let mut works = Vec::new();
            (outlet.take(None, &mut works), works.len())
        });
        while inbox.waiting.lock().sleep != Sleep::ForBatch {
            std::thread::yield_now();
        }
        inbox.ring();
        inbox.leave(work()).unwrap();
        inbox.ring();
        assert_eq!(taker.join().unwrap(), (Came::Batches, 1));
    }
}
