//! The tables of the journal, and what a change does to them. Counting is done by the same code as in memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use redb::{
    Database, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use crate::clock::Now;
use crate::policy::idempotency::RecordId;
use crate::policy::limit::LimitKind;
use crate::policy::meter::{Meter, Purse, Tally};

use super::super::acts::Adjustment;
use super::super::office::MOST_ACTS;
use super::super::op::{Charge, Doubt, MeterId, Op, Pending, Record, ReservationId};
use super::codec::Malformed;
use super::log::LogProblem;
use super::places::Places;
use super::rows::{self, MeterKey, MeterRow};

/// Meters by limit, kind and subject.
pub(super) const METERS: TableDefinition<&MeterKey, &[u8]> = TableDefinition::new("meters");
/// Open and doubtful reservations by their ids.
pub(super) const PENDING: TableDefinition<u128, &[u8]> = TableDefinition::new("pending");
/// Idempotency records by their places.
pub(super) const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
/// Revocations by the hash of the key's id.
pub(super) const REVOKED: TableDefinition<u128, &[u8]> = TableDefinition::new("revoked");
/// Last uses by the hash of the key's id.
pub(super) const SEEN: TableDefinition<u128, &[u8]> = TableDefinition::new("seen");
/// Admin acts by time and name.
pub(super) const ACTS: TableDefinition<(i64, &str), &[u8]> = TableDefinition::new("acts");
/// Numbers about the journal itself.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The format of the tables. It is older than that of the directory, of which the log has changed since.
pub(super) const META_FORMAT: &str = "format";
pub(super) const TABLES_FORMAT: u64 = 2;
/// Number of the last commit that the tables have.
pub(super) const META_SEQUENCE: &str = "sequence";

/// Why a change cannot be written, or the state not be read.
#[derive(Debug)]
pub(super) enum TableProblem {
    /// The library, or the system below it.
    Library(redb::Error),
    /// A row is not what was written.
    Row(&'static str, Malformed),
    /// The log is not what was written.
    Log(Malformed),
    /// The tables say that they have this format.
    Format(u64),
}

impl fmt::Display for TableProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableProblem::Library(error) => error.fmt(f),
            TableProblem::Row(table, malformed) => write!(f, "a row of `{table}`: {malformed}"),
            TableProblem::Log(malformed) => malformed.fmt(f),
            TableProblem::Format(format) => {
                write!(f, "it says of itself that it has format {format}")
            }
        }
    }
}

macro_rules! from_the_library {
    ($($error:ty),+) => { $(
        impl From<$error> for TableProblem {
            fn from(error: $error) -> TableProblem {
                TableProblem::Library(error.into())
            }
        }
    )+ };
}

from_the_library!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::CursorError,
    redb::DatabaseError
);

impl From<LogProblem> for TableProblem {
    fn from(problem: LogProblem) -> TableProblem {
        match problem {
            LogProblem::Io(error) => TableProblem::Library(redb::Error::Io(error)),
            LogProblem::Malformed(malformed) => TableProblem::Log(malformed),
        }
    }
}

/// One transaction, after which the tables have every commit up to `sequence`.
pub(super) fn transact<'o>(
    database: &Database,
    places: &mut Places,
    sequence: u64,
    with: impl FnOnce(&mut Changes<'_, 'o>) -> Result<(), TableProblem>,
) -> Result<(), TableProblem> {
    let transaction = database.begin_write()?;
    let mut changes = Changes::new(&transaction, places)?;
    with(&mut changes)?;
    changes.finish()?;
    transaction.open_table(META)?.insert(META_SEQUENCE, sequence)?;
    transaction.commit()?;
    Ok(())
}

/// The tables inside one transaction. What many changes of a transaction come to is written once, at its end.
pub(super) struct Changes<'t, 'o> {
    meters: Table<'t, &'static MeterKey, &'static [u8]>,
    pending: Table<'t, u128, &'static [u8]>,
    records: Table<'t, u64, &'static [u8]>,
    places: &'t mut Places,
    revoked: Table<'t, u128, &'static [u8]>,
    seen: Table<'t, u128, &'static [u8]>,
    acts: Table<'t, (i64, &'static str), &'static [u8]>,
    /// Meters that were changed: many requests charge the same ones.
    changed: BTreeMap<MeterKey, Option<MeterRow>>,
    /// Reservations that were made: most are settled before the end, and never written.
    reserved: BTreeMap<ReservationId, (Cow<'o, Pending>, Option<Doubt>)>,
    /// Records that came further: most are claimed and answered before the end.
    told: BTreeMap<u64, (RecordId, &'o Record)>,
}

impl<'t, 'o> Changes<'t, 'o> {
    pub(super) fn new(
        transaction: &'t WriteTransaction,
        places: &'t mut Places,
    ) -> Result<Changes<'t, 'o>, TableProblem> {
        Ok(Changes {
            meters: transaction.open_table(METERS)?,
            pending: transaction.open_table(PENDING)?,
            records: transaction.open_table(RECORDS)?,
            places,
            revoked: transaction.open_table(REVOKED)?,
            seen: transaction.open_table(SEEN)?,
            acts: transaction.open_table(ACTS)?,
            changed: BTreeMap::new(),
            reserved: BTreeMap::new(),
            told: BTreeMap::new(),
        })
    }

    pub(super) fn apply(&mut self, op: &'o Op) -> Result<(), TableProblem> {
        match op {
            Op::Block(meter, block) => self.change(*meter, |meter| match meter {
                Meter::Quota(tally) | Meter::Spend(tally) => tally.reserve(block),
                Meter::Bucket(_)
                | Meter::Sliding(_)
                | Meter::Fixed(_)
                | Meter::Concurrent(_)
                | Meter::Credit(_) => {}
            }),
            Op::Reserve(pending) => self.reserve(pending),
            Op::Settle { id, back } => self.settle(*id, back),
            Op::Doubt(id, doubt) => {
                if let Some((_, known)) = self.reserved.get_mut(id) {
                    *known = Some(*doubt);
                    return Ok(());
                }
                let Some((pending, _)) = self.pending_row(*id)? else { return Ok(()) };
                let row = rows::write_pending(&pending, Some(*doubt));
                self.pending.insert(id.0, row.as_slice())?;
                Ok(())
            }
            Op::Record(id, record) => {
                let place = self.places.of(*id);
                self.told.insert(place, (*id, record));
                Ok(())
            }
            Op::Forget(id) => {
                if let Some(place) = self.places.leave(*id) {
                    self.told.remove(&place);
                    self.records.remove(place)?;
                }
                Ok(())
            }
            Op::Meter { meter, image, now } => {
                // One thread hands images over, and the channel keeps their order: the last is the newest.
                self.changed.insert(
                    rows::meter_key(*meter),
                    Some(MeterRow { now: *now, meter: Meter::clone(image) }),
                );
                Ok(())
            }
            Op::Adjust { meter, period, at, by } => self.change(*meter, |meter| match by {
                Adjustment::Add(units) => meter.count(*units, *period, *at),
                Adjustment::Remove(units) => meter.discount(*units, *period),
            }),
            Op::TopUp { meter, amount } => self.change(*meter, |meter| {
                if let Meter::Credit(purse) = meter {
                    purse.top_up(*amount);
                }
            }),
            Op::Reset(meter) => self.reset(*meter),
            Op::Revoke(key, revoked) => {
                // The first one of a key stays, as in memory.
                if self.revoked.get(key.0)?.is_none() {
                    self.revoked.insert(key.0, rows::write_revoked(*key, revoked).as_slice())?;
                }
                Ok(())
            }
            Op::Restore(key) => {
                self.revoked.remove(key.0)?;
                Ok(())
            }
            Op::Seen(key, at) => {
                let known = match self.seen.get(key.0)? {
                    Some(row) => Some(
                        rows::read_seen(*key, row.value())
                            .map_err(|malformed| TableProblem::Row("seen", malformed))?,
                    ),
                    None => None,
                };
                if known.is_none_or(|known| known < *at) {
                    self.seen.insert(key.0, rows::write_seen(*key, *at).as_slice())?;
                }
                Ok(())
            }
            Op::Act { id, at, answer } => {
                let row = rows::write_act(*at, id, answer);
                self.acts.insert((at.0, &**id), row.as_slice())?;
                while self.acts.len()? > MOST_ACTS as u64 {
                    self.acts.pop_first()?;
                }
                Ok(())
            }
        }
    }

    /// Writes what all changes came to.
    pub(super) fn finish(mut self) -> Result<(), TableProblem> {
        for (id, (pending, doubt)) in &self.reserved {
            self.pending.insert(id.0, rows::write_pending(pending, *doubt).as_slice())?;
        }
        self.write_records()?;
        for (key, row) in &self.changed {
            match row.as_ref().and_then(|row| rows::write_meter(key, row)) {
                Some(row) => drop(self.meters.insert(key, row.as_slice())?),
                None => drop(self.meters.remove(key)?),
            }
        }
        Ok(())
    }

    /// Those that are new come behind all others, in their order: a cursor fills one page after the other with them, and
    /// looks for no place.
    fn write_records(&mut self) -> Result<(), TableProblem> {
        let end = self.records.last()?.map_or(0, |(place, _)| place.value().saturating_add(1));
        let new = self.told.split_off(&end);
        for (place, (id, record)) in &self.told {
            self.records.insert(place, rows::write_record(*place, *id, record).as_slice())?;
        }
        let mut cursor = self.records.upper_bound_mut(Bound::<u64>::Unbounded)?;
        for (place, (id, record)) in &new {
            cursor.insert_before(place, rows::write_record(*place, *id, record).as_slice())?;
        }
        cursor.close()?;
        Ok(())
    }

    /// Removes a record if its row is still what `stale` says of it.
    pub(super) fn drop_record(
        &mut self,
        id: RecordId,
        stale: impl FnOnce(u64, &[u8]) -> bool,
    ) -> Result<(), TableProblem> {
        let Some(place) = self.places.leave(id) else { return Ok(()) };
        if !self.told.contains_key(&place)
            && self.records.get(place)?.is_some_and(|row| stale(place, row.value()))
        {
            self.records.remove(place)?;
        } else {
            self.places.found(id, place);
        }
        Ok(())
    }

    /// Removes a meter if it is still what `stale` says of its row.
    pub(super) fn drop_meter(
        &mut self,
        key: &MeterKey,
        stale: impl FnOnce(&[u8]) -> bool,
    ) -> Result<(), TableProblem> {
        if !self.changed.contains_key(key)
            && self.meters.get(key)?.is_some_and(|row| stale(row.value()))
        {
            self.meters.remove(key)?;
        }
        Ok(())
    }

    fn reserve(&mut self, pending: &'o Pending) -> Result<(), TableProblem> {
        self.reserved.insert(pending.id, (Cow::Borrowed(pending), None));
        for Charge { meter, period, at, amount } in &pending.charges {
            self.change(*meter, |meter| match meter {
                Meter::Quota(tally) | Meter::Spend(tally) => tally.take(*amount, *period, *at),
                Meter::Credit(purse) => purse.take(*amount),
                Meter::Bucket(_) | Meter::Sliding(_) | Meter::Fixed(_) | Meter::Concurrent(_) => {}
            })?;
        }
        Ok(())
    }

    /// What is not open was settled before, and nothing goes back twice.
    fn settle(&mut self, id: ReservationId, back: &[Charge]) -> Result<(), TableProblem> {
        if self.reserved.remove(&id).is_none() && self.pending.remove(id.0)?.is_none() {
            return Ok(());
        }
        for Charge { meter, at, amount, .. } in back {
            self.change(*meter, |meter| match meter {
                Meter::Quota(tally) | Meter::Spend(tally) => tally.give_back(*amount, *at),
                Meter::Credit(purse) => purse.give_back(*amount),
                Meter::Bucket(_) | Meter::Sliding(_) | Meter::Fixed(_) | Meter::Concurrent(_) => {}
            })?;
        }
        Ok(())
    }

    fn reset(&mut self, meter: MeterId) -> Result<(), TableProblem> {
        self.forgive(meter)?;
        match meter.kind {
            LimitKind::Credit => self.change(meter, Meter::reset),
            LimitKind::Rate | LimitKind::Concurrent | LimitKind::Quota | LimitKind::Spend => {
                self.changed.insert(rows::meter_key(meter), None);
                Ok(())
            }
        }
    }

    /// What a reservation had charged before a reset is not given back after it.
    fn forgive(&mut self, meter: MeterId) -> Result<(), TableProblem> {
        let charges = |pending: &Pending| pending.charges.iter().any(|one| one.meter == meter);
        let mut forgiven = Vec::new();
        for row in self.pending.iter()? {
            let id = ReservationId(row?.0.value());
            if let Some((pending, doubt)) = self.pending_row(id)?
                && charges(&pending)
            {
                forgiven.push((pending, doubt));
            }
        }
        for (mut pending, doubt) in forgiven {
            pending.charges.retain(|one| one.meter != meter);
            self.pending.insert(pending.id.0, rows::write_pending(&pending, doubt).as_slice())?;
        }
        for (pending, _) in self.reserved.values_mut().filter(|(pending, _)| charges(pending)) {
            pending.to_mut().charges.retain(|one| one.meter != meter);
        }
        Ok(())
    }

    /// Changes a meter; one that is not there starts from nothing. A rate that is not there stays away, since it is only
    /// ever known by its image.
    fn change(&mut self, id: MeterId, with: impl FnOnce(&mut Meter)) -> Result<(), TableProblem> {
        let key = rows::meter_key(id);
        if !self.changed.contains_key(&key) {
            let known = match self.meters.get(&key)? {
                Some(row) => Some(
                    rows::read_meter(id, &key, row.value(), |_| 0)
                        .map_err(|malformed| TableProblem::Row("meters", malformed))?,
                ),
                None => None,
            };
            self.changed.insert(key, known);
        }
        let slot = self.changed.entry(key).or_default();
        if slot.is_none() {
            let meter = match id.kind {
                LimitKind::Rate | LimitKind::Concurrent => return Ok(()),
                LimitKind::Quota => Meter::Quota(Tally::default()),
                LimitKind::Spend => Meter::Spend(Tally::default()),
                LimitKind::Credit => Meter::Credit(Purse::default()),
            };
            *slot = Some(MeterRow { now: Now::default(), meter });
        }
        if let Some(row) = slot {
            with(&mut row.meter);
        }
        Ok(())
    }

    fn pending_row(
        &self,
        id: ReservationId,
    ) -> Result<Option<(Pending, Option<Doubt>)>, TableProblem> {
        let Some(row) = self.pending.get(id.0)? else { return Ok(None) };
        rows::read_pending(id, row.value())
            .map(Some)
            .map_err(|malformed| TableProblem::Row("pending", malformed))
    }
}
