//! Reads everything back at the start.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::panic::resume_unwind;
use std::thread::ScopedJoinHandle;

use foldhash::fast::RandomState;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use crate::clock::{Now, Wall};
use crate::policy::idempotency::RecordId;
use crate::policy::limit::SubjectKey;
use crate::policy::meter::Meter;

use super::super::op::{Op, Record, ReservationId};
use super::super::restored::Restored;
use super::codec::Malformed;
use super::log::LogProblem;
use super::places::Places;
use super::rows::{self, MeterKey, MeterRow};
use super::tables::{
    ACTS, META, META_FORMAT, META_SEQUENCE, METERS, PENDING, RECORDS, REVOKED, SEEN, TABLES_FORMAT,
    TableProblem, transact,
};

/// How long the use of a period that is over is kept, in milliseconds: refunds of it are long decided.
const KEPT_PERIODS: i64 = 400 * 24 * 60 * 60 * 1000;
/// Fewer records are not worth a thread.
const LEAST_SHARE: u64 = 16_384;
/// Threads that read at most: beyond some, they wait for the library's cache.
const MOST_READERS: u64 = 4;
/// Wall clocks are read in milliseconds: a difference of so many nanoseconds says nothing.
const NOISE: i128 = 2_000_000;

/// What stood in the journal.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) restored: Restored,
    /// Rows that say nothing any more.
    pub(super) stale: Vec<Stale>,
    /// Where the records stand.
    pub(super) places: Places,
    /// Number of the last commit.
    pub(super) sequence: u64,
}

/// A row that says nothing any more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stale {
    Meter(MeterKey),
    Record(RecordId),
}

/// Some of the records.
#[derive(Debug, Default)]
struct Part {
    records: Vec<(RecordId, Record)>,
    stale: Vec<Stale>,
    places: Vec<(RecordId, u64)>,
}

impl Part {
    fn read(
        database: &Database,
        share: RangeInclusive<u64>,
        now: Now,
    ) -> Result<Part, TableProblem> {
        let mut part = Part::default();
        for row in database.begin_read()?.open_table(RECORDS)?.range(share)? {
            let (place, row) = row?;
            part.take(place.value(), row.value(), now)?;
        }
        Ok(part)
    }

    fn take(&mut self, place: u64, row: &[u8], now: Now) -> Result<(), TableProblem> {
        let (id, record) = rows::read_record(place, row).map_err(in_table("records"))?;
        self.places.push((id, place));
        if record.until > now.wall {
            self.records.push((id, record));
        } else {
            self.stale.push(Stale::Record(id));
        }
        Ok(())
    }
}

/// The places of all records, one share a thread that reads them: places that are next to each other, so that each page is
/// read once.
fn shares(first: u64, last: u64, records: u64) -> Vec<RangeInclusive<u64>> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let places = (last - first).saturating_add(1);
    let threads = (records.min(places) / LEAST_SHARE).clamp(1, cores.min(MOST_READERS));
    let width = places / threads;
    let end = |nth| if nth == threads { last } else { first + (width * nth - 1) };
    (1..=threads).map(|nth| first + width * (nth - 1)..=end(nth)).collect()
}

/// Reads everything, once the tables have what only the log has: a process that was killed left it there. `log` tells the
/// changes of all commits after one, and the number of the last.
pub(super) fn load(
    database: &Database,
    log: impl FnOnce(u64) -> Result<(Vec<Op>, u64), LogProblem>,
    now: Now,
) -> Result<Loaded, TableProblem> {
    let mut loaded = Loaded {
        restored: Restored { at: now, ..Restored::default() },
        stale: Vec::new(),
        places: Places::default(),
        sequence: 0,
    };
    // The log's records have places only when those of the tables are known.
    loaded.read_records(database)?;
    loaded.catch_up(database, log)?;
    loaded.read_the_rest(database)?;
    Ok(loaded)
}

impl Loaded {
    fn read_records(&mut self, database: &Database) -> Result<(), TableProblem> {
        let transaction = database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let number = |name| -> Result<u64, TableProblem> {
            let row = meta.get(name)?;
            row.map(|row| row.value()).ok_or(TableProblem::Row("meta", Malformed("it is missing")))
        };
        let format = number(META_FORMAT)?;
        if format != TABLES_FORMAT {
            return Err(TableProblem::Format(format));
        }
        self.sequence = number(META_SEQUENCE)?;
        let records = transaction.open_table(RECORDS)?;
        let (Some((first, _)), Some((last, _))) = (records.first()?, records.last()?) else {
            return Ok(());
        };
        let shares = shares(first.value(), last.value(), records.len()?);
        let now = self.restored.at;
        let parts = std::thread::scope(|scope| -> Result<Vec<Part>, TableProblem> {
            let read = |share: RangeInclusive<u64>| move || Part::read(database, share, now);
            if let [share] = shares.as_slice() {
                return read(share.clone())().map(|part| vec![part]);
            }
            let readers: Vec<_> =
                shares.iter().map(|share| scope.spawn(read(share.clone()))).collect();
            let joined = readers.into_iter().map(ScopedJoinHandle::join);
            // What the library meets in a damaged file is caught where it is caught without threads.
            joined.map(|part| part.unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })?;
        self.restored.records.reserve_exact(parts.iter().map(|part| part.records.len()).sum());
        for mut part in parts {
            for (name, place) in part.places {
                if !self.places.found(name, place) {
                    let twice = Malformed("one name stands there twice");
                    return Err(TableProblem::Row("records", twice));
                }
            }
            self.restored.records.append(&mut part.records);
            self.stale.append(&mut part.stale);
        }
        Ok(())
    }

    /// Writes what only the log has into the tables, and reads the records again of which it tells.
    fn catch_up(
        &mut self,
        database: &Database,
        log: impl FnOnce(u64) -> Result<(Vec<Op>, u64), LogProblem>,
    ) -> Result<(), TableProblem> {
        let (ops, last) = log(self.sequence)?;
        if last == self.sequence {
            return Ok(());
        }
        transact(database, &mut self.places, last, |changes| {
            ops.iter().try_for_each(|op| changes.apply(op))
        })?;
        self.sequence = last;
        let told = ops.iter().filter_map(|op| match op {
            Op::Record(id, _) | Op::Forget(id) => Some(*id),
            _ => None,
        });
        let told: HashSet<RecordId, RandomState> = told.collect();
        self.restored.records.retain(|(id, _)| !told.contains(id));
        self.stale.retain(|row| !matches!(row, Stale::Record(id) if told.contains(id)));
        let transaction = database.begin_read()?;
        let records = transaction.open_table(RECORDS)?;
        for place in told.iter().filter_map(|id| self.places.known(*id)).collect::<Vec<_>>() {
            if let Some(row) = records.get(place)? {
                let mut part = Part::default();
                part.take(place, row.value(), self.restored.at)?;
                self.restored.records.append(&mut part.records);
                self.stale.append(&mut part.stale);
            }
        }
        Ok(())
    }

    fn read_the_rest(&mut self, database: &Database) -> Result<(), TableProblem> {
        let Loaded { restored, stale, .. } = self;
        let transaction = database.begin_read()?;
        for row in transaction.open_table(METERS)?.iter()? {
            let (key, row) = row?;
            let key = *key.value();
            match read_meter(&key, row.value(), restored.at).map_err(in_table("meters"))? {
                Standing::Counts(id, meter) => restored.meters.push((id, meter)),
                Standing::Stale => stale.push(Stale::Meter(key)),
            }
        }
        for row in transaction.open_table(PENDING)?.iter()? {
            let (id, row) = row?;
            let pending = rows::read_pending(ReservationId(id.value()), row.value());
            restored.pending.push(pending.map_err(in_table("pending"))?);
        }
        for row in transaction.open_table(REVOKED)?.iter()? {
            let (key, row) = row?;
            let key = SubjectKey(key.value());
            let revoked = rows::read_revoked(key, row.value()).map_err(in_table("revoked"))?;
            restored.revoked.push((key, revoked));
        }
        for row in transaction.open_table(SEEN)?.iter()? {
            let (key, row) = row?;
            let key = SubjectKey(key.value());
            let at = rows::read_seen(key, row.value()).map_err(in_table("seen"))?;
            restored.seen.push((key, at));
        }
        for row in transaction.open_table(ACTS)?.iter()? {
            let (key, row) = row?;
            let (at, id) = key.value();
            let answer = rows::read_act(Wall(at), id, row.value()).map_err(in_table("acts"))?;
            restored.acts.push((id.into(), Wall(at), answer));
        }
        Ok(())
    }
}

/// Whether a record's life was over at `now`.
pub(super) fn record_is_stale(place: u64, row: &[u8], now: Now) -> bool {
    rows::record_until(place, row).is_ok_and(|until| until <= now.wall)
}

/// Whether a meter said nothing any more at `now`.
pub(super) fn meter_is_stale(key: &MeterKey, row: &[u8], now: Now) -> bool {
    matches!(read_meter(key, row, now), Ok(Standing::Stale))
}

enum Standing {
    Counts(super::super::op::MeterId, Meter),
    Stale,
}

fn read_meter(key: &MeterKey, row: &[u8], now: Now) -> Result<Standing, Malformed> {
    let id = rows::read_meter_key(key)?;
    let MeterRow { meter, .. } = rows::read_meter(id, key, row, |saved| moved(saved, now))?;
    let over = match &meter {
        Meter::Bucket(_) | Meter::Sliding(_) | Meter::Fixed(_) => meter.is_idle(now),
        Meter::Quota(tally) | Meter::Spend(tally) => {
            let (period, ..) = tally.remembers();
            period.until.0.saturating_add(KEPT_PERIODS) < now.wall.0
        }
        Meter::Concurrent(_) | Meter::Credit(_) => false,
    };
    Ok(if over { Standing::Stale } else { Standing::Counts(id, meter) })
}

/// By how many nanoseconds the steady instants of a meter that was saved at `saved` move, so that at `now` as much time has
/// passed over it as the wall clock says, and none if the wall clock went back: what refills in the meantime is no more
/// than what the meantime was long.
fn moved(saved: Now, now: Now) -> i128 {
    let away = i128::from(now.wall.0.saturating_sub(saved.wall.0).max(0)) * 1_000_000;
    let stands_at = i128::from(now.steady.0) - away;
    let by = stands_at - i128::from(saved.steady.0);
    // Unmoved where both clocks agree: fixed windows keep their edges.
    if by.abs() <= NOISE && saved.steady <= now.steady { 0 } else { by }
}

fn in_table(table: &'static str) -> impl Fn(Malformed) -> TableProblem {
    move |malformed| TableProblem::Row(table, malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_read_by_exactly_one_thread() {
        for (first, last, records) in [
            (0, 0, 1),
            (5, 6, 2),
            (0, LEAST_SHARE * 9, LEAST_SHARE * 9 + 1),
            (17, u64::MAX, LEAST_SHARE * 100),
            (u64::MAX - 1, u64::MAX, LEAST_SHARE * 100),
        ] {
            let shares = shares(first, last, records);
            let mut next = Some(first);
            for share in shares.iter().filter(|share| !share.is_empty()) {
                assert_eq!(Some(*share.start()), next, "{first} to {last}");
                next = share.end().checked_add(1);
            }
            assert_eq!(next, last.checked_add(1));
        }
    }
}
