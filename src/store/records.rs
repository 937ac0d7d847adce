//! The idempotency records: what is known of the first request of each key.
//!
//! Sharded, each shard behind one short lock. What a record's change sends to the backing is sent under that lock, so
//! that the backing hears of one record's changes in the order in which they were made; it only queues, and never waits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};

use crate::clock::{Now, Steady, Wall};
use crate::policy::idempotency::{BodyPrint, OnUnknown, RecordBounds, RecordId};
use crate::policy::limit::SubjectKey;

use super::acts::{ActProblem, Resolution};
use super::backing::StoreFailed;
use super::op::{Batch, Doubt, KeptAnswer, Op, Progress, Record};
use super::opening::{Claim, Found};
use super::party::Party;

/// How many shards: enough that two requests seldom meet.
const SHARDS: usize = 64;

/// How long a record that outlived its life is left alone before it is looked at again, in nanoseconds: its request is
/// still under way, or the wall clock was set back. When that clock is put right, what it kept alive makes room for claims
/// only so much later: without it every claim that finds no room would look through all that outlived their lives.
const AGAIN: u64 = 1_000_000_000;

/// How many ended records make room for one new one at a time.
const MAKE_ROOM: usize = 1_000;

/// How many ended records of one shard are forgotten together: the backing is told of them in one batch, because its
/// channel is for requests.
const LOT: usize = 512;

/// Bytes that a kept answer takes beside its texts, and each of its fields.
const OVERHEAD: usize = 64;

/// All records.
#[derive(Debug)]
pub(super) struct Records {
    shards: Box<[Shard]>,
    tenants: Box<[Tenants]>,
    total: AtomicUsize,
    in_flight: AtomicUsize,
    unknown: AtomicUsize,
    bytes: AtomicUsize,
}

#[repr(align(128))]
#[derive(Debug, Default)]
struct Shard(Mutex<Drawer>);

/// How many records each tenant has; none that has none.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Tenants(Mutex<HashMap<SubjectKey, usize, RandomState>>);

/// One shard's records, and the same by the end of their lives.
#[derive(Debug, Default)]
struct Drawer {
    records: HashMap<RecordId, Kept, RandomState>,
    by_end: BTreeSet<(Steady, RecordId)>,
}

/// A record, the end of its life by the clock that does not jump, and where it stands in `by_end`.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    record: Record,
    ends: Steady,
    listed: Steady,
}

/// How full the idempotency records are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordOccupancy {
    /// Records.
    pub records: usize,
    /// Of these, in flight.
    pub in_flight: usize,
    /// Of these, unknown.
    pub unknown: usize,
    /// Bytes of kept answers.
    pub bytes: usize,
}

/// What a claim finds.
#[derive(Debug)]
pub(super) enum Claimed {
    /// The record is in flight now, and the caller's. What nobody knew of an earlier request under an operator's waiver is
    /// handed over, to be put back if this one turns out never to have been sent.
    Fresh(Option<Kept>),
    /// A record answers.
    Found(Found),
    /// There is no room.
    Full,
}

/// What became of a request that held a record.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// It has an answer, with its body's print, if there is room for it in so many bytes of all answers.
    Answered(Arc<KeptAnswer>, BodyPrint, usize),
    /// It is done, and has no answer to repeat.
    NotReplayable,
    /// Nobody knows.
    Unknown(Doubt),
}

impl Kept {
    fn new(record: Record, ends: Steady) -> Kept {
        Kept { record, ends, listed: ends }
    }

    /// A record that is read back `now`. It has no more of its life left than it ever had, however wrong the clock is.
    fn restored(record: Record, now: Now) -> Kept {
        let whole = record.until.0.saturating_sub(record.at.0);
        let left = record.until.0.saturating_sub(now.wall.0).min(whole);
        Kept::new(record, after(now, left))
    }

    /// A record in flight does not end while its request is under way, however long that takes; and none ends because
    /// the wall clock jumped: a key that became fresh too early would be sent again.
    fn has_ended(&self, now: Now) -> bool {
        self.record.progress != Progress::InFlight
            && self.record.until <= now.wall
            && self.ends <= now.steady
    }
}

impl Drawer {
    /// Those whose life has ended, at most so many; those that live on are looked at later.
    fn ended(&mut self, now: Now, most: usize) -> Vec<RecordId> {
        let due = self.by_end.iter().take_while(|(listed, _)| *listed <= now.steady);
        let due: Vec<(Steady, RecordId)> = due.take(most).copied().collect();
        let mut ended = Vec::new();
        for (listed, id) in due {
            match self.records.get_mut(&id).filter(|kept| !kept.has_ended(now)) {
                Some(kept) => {
                    kept.listed = now.steady.plus(AGAIN);
                    let again = (kept.listed, id);
                    self.by_end.remove(&(listed, id));
                    self.by_end.insert(again);
                }
                None => ended.push(id),
            }
        }
        ended
    }
}

impl Records {
    /// Those that were read back `now`.
    pub(super) fn new(restored: Vec<(RecordId, Record)>, now: Now) -> Records {
        let records = Records {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            tenants: (0..SHARDS).map(|_| Tenants::default()).collect(),
            total: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            unknown: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        };
        for (id, mut record) in restored {
            if record.progress == Progress::InFlight {
                record.progress = Progress::Unknown(Doubt::Crash);
            }
            let tenant = record.tenant;
            if let Progress::Answered(answer, _) = &record.progress {
                records.bytes.fetch_add(size_of_answer(answer), Ordering::Relaxed);
            }
            let kept = Kept::restored(record, now);
            if records.put(&mut records.drawer(id), id, kept).is_none() {
                records.total.fetch_add(1, Ordering::Relaxed);
                *records.tenant(tenant).entry(tenant).or_default() += 1;
            }
        }
        records
    }

    /// Looks at the record of a key, and claims it where the request is a fresh one.
    pub(super) fn claim(
        &self,
        now: Now,
        claim: &Claim,
        bounds: RecordBounds,
        submit: impl FnMut(Batch) -> Result<(), StoreFailed>,
    ) -> Claimed {
        let first = self.try_claim(now, claim, bounds);
        if !matches!(first, Claimed::Full) || self.sweep(now, MAKE_ROOM, submit) == 0 {
            return first;
        }
        // Records whose life had ended stood in the way.
        self.try_claim(now, claim, bounds)
    }

    fn try_claim(&self, now: Now, claim: &Claim, bounds: RecordBounds) -> Claimed {
        let mut drawer = self.drawer(claim.id);
        let mut waived = None;
        match drawer.records.get(&claim.id) {
            Some(kept) if !kept.has_ended(now) => {
                let record = &kept.record;
                if record.head != claim.head {
                    return Claimed::Found(Found::Mismatch);
                }
                match (&record.progress, claim.on_unknown) {
                    (Progress::InFlight, _) => return Claimed::Found(Found::InFlight),
                    (Progress::Answered(answer, body), _) => {
                        return Claimed::Found(Found::Answered(Arc::clone(answer), *body));
                    }
                    (Progress::NotReplayable, _) => return Claimed::Found(Found::NotReplayable),
                    (Progress::Unknown(_), OnUnknown::Refuse) => {
                        return Claimed::Found(Found::Unknown);
                    }
                    (Progress::Unknown(_), OnUnknown::Forward) => waived = Some(kept.clone()),
                }
            }
            Some(_) => {}
            None if self.make_place(claim.tenant, bounds) => {}
            None => return Claimed::Full,
        }
        let record = Record {
            tenant: claim.tenant,
            head: claim.head,
            at: now.wall,
            until: Wall(now.wall.0.saturating_add(claim.keep)),
            party: Party::default(),
            progress: Progress::InFlight,
        };
        self.put(&mut drawer, claim.id, Kept::new(record, after(now, claim.keep)));
        Claimed::Fresh(waived)
    }

    /// Counts one more record, if the bounds allow it.
    fn make_place(&self, tenant: SubjectKey, bounds: RecordBounds) -> bool {
        if !add_below(&self.total, 1, bounds.records) {
            return false;
        }
        let mut tenants = self.tenant(tenant);
        let own = tenants.get(&tenant).copied().unwrap_or(0);
        if own >= bounds.per_tenant {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        tenants.insert(tenant, own + 1);
        true
    }

    /// Says who holds a record in flight, and what it says now.
    pub(super) fn name(&self, id: RecordId, party: &Party) -> Option<Record> {
        let mut drawer = self.drawer(id);
        let kept = drawer.records.get_mut(&id)?;
        kept.record.party = party.clone();
        Some(kept.record.clone())
    }

    /// The holder of a record is done with it. Tells what it says now.
    pub(super) fn end(&self, id: RecordId, ended: Ended, tell: impl FnOnce(Op)) {
        let drawer = &mut *self.drawer(id);
        let Some(kept) = drawer.records.get_mut(&id) else { return };
        let progress = match ended {
            Ended::Answered(answer, body, bound) => {
                if add_below(&self.bytes, size_of_answer(&answer), bound) {
                    Progress::Answered(answer, body)
                } else {
                    Progress::NotReplayable
                }
            }
            Ended::NotReplayable => Progress::NotReplayable,
            Ended::Unknown(doubt) => Progress::Unknown(doubt),
        };
        self.enter(&progress);
        self.leave(&std::mem::replace(&mut kept.record.progress, progress));
        // Where its end was put off while it was in flight, it stands there again.
        if kept.listed != kept.ends {
            drawer.by_end.remove(&(kept.listed, id));
            drawer.by_end.insert((kept.ends, id));
            kept.listed = kept.ends;
        }
        tell(Op::Record(id, Box::new(kept.record.clone())));
    }

    /// The holder of a record proved that its request was never processed: what was there before is there again.
    pub(super) fn withdraw(&self, id: RecordId, before: Option<Kept>, tell: impl FnOnce(Op)) {
        let mut drawer = self.drawer(id);
        if let Some(kept) = before {
            tell(Op::Record(id, Box::new(kept.record.clone())));
            self.put(&mut drawer, id, kept);
        } else {
            tell(Op::Forget(id));
            self.remove(&mut drawer, id);
        }
    }

    /// A person settles a record whose outcome nobody knows; with `claimed`, only if it is the one that was claimed then,
    /// and not that of a later request with the same key. `submit` is called under the lock, with when the record was
    /// claimed, and nothing changes if it fails.
    pub(super) fn resolve(
        &self,
        id: RecordId,
        claimed: Option<Wall>,
        how: Resolution,
        submit: impl FnOnce(Wall, Op) -> Result<(), ActProblem>,
    ) -> Result<(), ActProblem> {
        let mut drawer = self.drawer(id);
        let found = drawer.records.get(&id);
        let found = found.filter(|kept| claimed.is_none_or(|at| kept.record.at == at));
        let Some(Kept { record, ends, .. }) = found else { return Err(ActProblem::NotFound) };
        let at = record.at;
        match (&record.progress, how) {
            (Progress::InFlight, _) => Err(ActProblem::UnderWay),
            (Progress::Answered(..) | Progress::NotReplayable, _) => Err(ActProblem::NotFound),
            (Progress::Unknown(_), Resolution::Confirm) => {
                let record = Record { progress: Progress::NotReplayable, ..record.clone() };
                let kept = Kept::new(record, *ends);
                submit(at, Op::Record(id, Box::new(kept.record.clone())))?;
                self.put(&mut drawer, id, kept);
                Ok(())
            }
            (Progress::Unknown(_), Resolution::Release) => {
                submit(at, Op::Forget(id))?;
                self.remove(&mut drawer, id);
                Ok(())
            }
        }
    }

    /// This record, if nobody knows its outcome.
    pub(super) fn unknown_one(&self, id: RecordId) -> Option<Record> {
        let drawer = self.drawer(id);
        let kept = drawer.records.get(&id).filter(|kept| is_unknown(&kept.record))?;
        Some(kept.record.clone())
    }

    /// The oldest of those whose outcome nobody knows, at most so many, oldest first. Only their names are taken down
    /// while a shard is locked.
    pub(super) fn unknown(&self, most: usize) -> Vec<(RecordId, Record)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let drawer = shard.0.lock();
            let unknown = drawer.records.iter().filter(|(_, kept)| is_unknown(&kept.record));
            all.extend(unknown.map(|(id, kept)| (kept.record.at, *id)));
        }
        all.sort_unstable();
        all.truncate(most);
        all.into_iter().filter_map(|(_, id)| Some((id, self.unknown_one(id)?))).collect()
    }

    /// Forgets at most `budget` records whose life has ended, and returns how many. What the backing cannot be told of
    /// now is forgotten another time.
    pub(super) fn sweep(
        &self,
        now: Now,
        budget: usize,
        mut submit: impl FnMut(Batch) -> Result<(), StoreFailed>,
    ) -> usize {
        let mut removed = 0;
        for shard in &self.shards {
            let mut drawer = shard.0.lock();
            let ended = drawer.ended(now, LOT.min(budget - removed));
            if ended.is_empty() {
                continue;
            }
            if submit(ended.iter().copied().map(Op::Forget).collect()).is_err() {
                break;
            }
            removed += ended.len();
            for id in ended {
                self.remove(&mut drawer, id);
            }
        }
        removed
    }

    pub(super) fn occupancy(&self) -> RecordOccupancy {
        RecordOccupancy {
            records: self.total.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Puts a record in the place of the one that was there. The bytes of its answer are counted already.
    fn put(&self, drawer: &mut Drawer, id: RecordId, kept: Kept) -> Option<Kept> {
        self.enter(&kept.record.progress);
        let listed = kept.listed;
        let before = drawer.records.insert(id, kept);
        if let Some(before) = &before {
            drawer.by_end.remove(&(before.listed, id));
            self.leave(&before.record.progress);
        }
        drawer.by_end.insert((listed, id));
        before
    }

    fn remove(&self, drawer: &mut Drawer, id: RecordId) {
        let Some(Kept { record, listed, .. }) = drawer.records.remove(&id) else { return };
        drawer.by_end.remove(&(listed, id));
        self.leave(&record.progress);
        self.total.fetch_sub(1, Ordering::Relaxed);
        let mut tenants = self.tenant(record.tenant);
        if let Some(own) = tenants.get_mut(&record.tenant) {
            *own -= 1;
            if *own == 0 {
                tenants.remove(&record.tenant);
            }
        }
    }

    /// Counts one that has come so far. The bytes of its answer are counted already.
    fn enter(&self, progress: &Progress) {
        if let Some(gauge) = self.gauge(progress) {
            gauge.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts it no longer.
    fn leave(&self, progress: &Progress) {
        if let Progress::Answered(answer, _) = progress {
            self.bytes.fetch_sub(size_of_answer(answer), Ordering::Relaxed);
        }
        if let Some(gauge) = self.gauge(progress) {
            gauge.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn gauge(&self, progress: &Progress) -> Option<&AtomicUsize> {
        match progress {
            Progress::InFlight => Some(&self.in_flight),
            Progress::Unknown(_) => Some(&self.unknown),
            Progress::Answered(..) | Progress::NotReplayable => None,
        }
    }

    fn drawer(&self, id: RecordId) -> MutexGuard<'_, Drawer> {
        self.shards[shard_of(id.0)].0.lock()
    }

    /// Always locked after a drawer, never before one.
    fn tenant(
        &self,
        tenant: SubjectKey,
    ) -> MutexGuard<'_, HashMap<SubjectKey, usize, RandomState>> {
        self.tenants[shard_of(tenant.0)].0.lock()
    }
}

/// Names are halves of SHA-256, so any bits of them will do.
fn shard_of(name: u128) -> usize {
    usize::from(name.to_le_bytes()[0]) % SHARDS
}

/// So many milliseconds from now.
fn after(now: Now, millis: i64) -> Steady {
    now.steady.plus(u64::try_from(millis).unwrap_or(0).saturating_mul(1_000_000))
}

fn is_unknown(record: &Record) -> bool {
    matches!(record.progress, Progress::Unknown(_))
}

/// Adds if the sum stays within the bound.
fn add_below(sum: &AtomicUsize, more: usize, bound: usize) -> bool {
    let fits = |sum: usize| sum.checked_add(more).filter(|sum| *sum <= bound);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
}

fn size_of_answer(answer: &KeptAnswer) -> usize {
    let fields = answer.fields.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD);
    answer.body.len() + fields.sum::<usize>() + OVERHEAD
}
