//! What the backing is told without anybody waiting: rates about every second, last uses, and everything once more when
//! the gate ends.

use std::collections::HashSet;
use std::mem;

use foldhash::fast::RandomState;
use papaya::HashMap;
use parking_lot::Mutex;

use crate::clock::{Now, Wall};
use crate::policy::limit::{LimitKind, SubjectKey};

use super::backing::{Health, Reply, StoreFailed};
use super::ledger::Ledger;
use super::op::{Batch, MeterId, Op};

/// Changes that are handed on at a time.
const BATCH: usize = 256;

const HOUR: i64 = 3_600_000;

/// When keys were last used. Read without a lock by every request, and written once an hour and key.
#[derive(Debug)]
pub(super) struct Sightings {
    last: HashMap<SubjectKey, Wall, RandomState>,
    /// Those that the backing was not told of. A set: where nobody is ever told, it holds each key once.
    news: Mutex<HashSet<SubjectKey>>,
}

impl Sightings {
    pub(super) fn new(restored: Vec<(SubjectKey, Wall)>) -> Sightings {
        let last = HashMap::with_hasher(RandomState::default());
        for (key, at) in restored {
            last.pin().insert(key, at);
        }
        Sightings { last, news: Mutex::default() }
    }

    pub(super) fn last(&self, key: SubjectKey) -> Option<Wall> {
        self.last.pin().get(&key).copied()
    }

    pub(super) fn note(&self, key: SubjectKey, now: Wall) {
        let hour = Wall(now.0 - now.0.rem_euclid(HOUR));
        let last = self.last.pin();
        // A clock that was set back makes nobody unused.
        if last.get(&key).is_none_or(|at| *at < hour) {
            last.insert(key, hour);
            self.news.lock().insert(key);
        }
    }
}

/// Which meters a flush hands on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Rates of which something was taken since the last time.
    Changes,
    /// Rates and quotas, whether they changed or not.
    Everything,
}

impl Ledger {
    /// Hands on what changed since the last time and nobody waits for: rates, last uses. To be called about every
    /// second, not on a worker.
    pub fn flush(&self, now: Now) {
        let _ = self.hand_on(now, Extent::Changes);
    }

    /// Hands everything on to the unit, once nobody asks any more, so that an orderly end loses no part of a block.
    /// `reply` is told when it is durable.
    pub fn finish(&self, now: Now, reply: Reply) -> Result<(), StoreFailed> {
        self.hand_on(now, Extent::Everything)?;
        self.backing().submit(Batch::new(), Some(reply))
    }

    fn hand_on(&self, now: Now, extent: Extent) -> Result<(), StoreFailed> {
        if !self.backing().remembers() {
            return Ok(());
        }
        if self.backing().health() == Health::Failed {
            return Err(StoreFailed);
        }
        let wanted: &[LimitKind] = match extent {
            Extent::Changes => &[LimitKind::Rate],
            Extent::Everything => &[LimitKind::Rate, LimitKind::Quota],
        };
        // Between an act's way to the backing and its effect in memory no image may be made: it would undo the act there.
        let _no_act = self.office.hold();
        let mut parcel = Parcel { ledger: self, batch: Batch::new(), failed: None };
        self.table.each(|subject, cell| {
            if extent == Extent::Changes && !cell.has_changed() || parcel.failed.is_some() {
                return;
            }
            for (limit, image) in cell.images(subject, now, wanted) {
                let meter = MeterId { limit, kind: image.kind(), subject };
                parcel.add(Op::Meter { meter, image: Box::new(image), now });
            }
        });
        let news = mem::take(&mut *self.sightings.news.lock());
        for key in &news {
            if let Some(at) = self.sightings.last(*key) {
                parcel.add(Op::Seen(*key, at));
            }
        }
        parcel.send();
        if parcel.failed.is_some() {
            // What was on its way is lost, and some of it will not change again: all of it goes once more.
            self.table.each(|_, cell| cell.note_change());
            self.sightings.news.lock().extend(news);
        }
        parcel.failed.map_or(Ok(()), Err)
    }
}

/// Changes on their way, some hundreds at a time.
struct Parcel<'a> {
    ledger: &'a Ledger,
    batch: Batch,
    failed: Option<StoreFailed>,
}

impl Parcel<'_> {
    fn add(&mut self, op: Op) {
        self.batch.push(op);
        if self.batch.len() >= BATCH {
            self.send();
        }
    }

    fn send(&mut self) {
        let batch = mem::take(&mut self.batch);
        if self.failed.is_none() && !batch.is_empty() {
            self.failed = self.ledger.backing().submit(batch, None).err();
        }
    }
}
