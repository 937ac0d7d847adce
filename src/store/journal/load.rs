//! Reads everything back at the start.

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use crate::clock::{Now, Wall};
use crate::policy::idempotency::RecordId;
use crate::policy::limit::SubjectKey;
use crate::policy::meter::Meter;

use super::super::op::ReservationId;
use super::super::restored::Restored;
use super::codec::Malformed;
use super::places::Places;
use super::rows::{self, MeterKey, MeterRow};
use super::tables::{
    ACTS, META, META_FORMAT, META_SEQUENCE, METERS, PENDING, RECORDS, REVOKED, SEEN, TableProblem,
};

/// How long the use of a period that is over is kept, in milliseconds: refunds of it are long decided.
const KEPT_PERIODS: i64 = 400 * 24 * 60 * 60 * 1000;
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
    /// The format that the journal itself names.
    pub(super) format: u64,
}

/// A row that says nothing any more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stale {
    Meter(MeterKey),
    Record(RecordId),
}

pub(super) fn load(database: &Database, now: Now) -> Result<Loaded, TableProblem> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name| -> Result<u64, TableProblem> {
        let row = meta.get(name)?;
        row.map(|row| row.value()).ok_or(TableProblem::Row("meta", Malformed("it is missing")))
    };
    let (format, sequence) = (number(META_FORMAT)?, number(META_SEQUENCE)?);
    let mut restored = Restored { at: now, ..Restored::default() };
    let mut stale = Vec::new();

    for row in transaction.open_table(METERS)?.iter()? {
        let (key, row) = row?;
        let key = *key.value();
        match read_meter(&key, row.value(), now).map_err(in_table("meters"))? {
            Standing::Counts(id, meter) => restored.meters.push((id, meter)),
            Standing::Stale => stale.push(Stale::Meter(key)),
        }
    }
    let records = transaction.open_table(RECORDS)?;
    restored.records.reserve_exact(usize::try_from(records.len()?).unwrap_or(0));
    let mut places = Places::default();
    for row in records.iter()? {
        let (place, row) = row?;
        let place = place.value();
        let (id, record) = rows::read_record(place, row.value()).map_err(in_table("records"))?;
        if !places.found(id, place) {
            return Err(TableProblem::Row("records", Malformed("one name stands there twice")));
        }
        if record.until > now.wall {
            restored.records.push((id, record));
        } else {
            stale.push(Stale::Record(id));
        }
    }
    restored.records.shrink_to_fit();
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
    Ok(Loaded { restored, stale, places, sequence, format })
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
