//! What stands in each kind of row, both ways.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::{Now, Steady, Wall};
use crate::policy::calendar::Period;
use crate::policy::idempotency::{BodyPrint, HeadPrint, RecordId};
use crate::policy::limit::{LimitId, LimitKind, SubjectKey};
use crate::policy::meter::{Bucket, BucketParts, Fixed, FixedParts, Meter, Purse, Sliding, Tally};
use crate::policy::overlay::{Revoked, RevokedBy};

use super::super::op::{
    Charge, Charges, Doubt, KeptAnswer, MeterId, Pending, Progress, Record, ReservationId,
};
use super::super::party::{Party, PartyNames};
use super::codec::{Malformed, RowReader, RowWriter};

/// A meter's key: limit, kind, subject. Big-endian, so that the meters of one limit are neighbours.
pub(super) type MeterKey = [u8; 25];

/// A meter as it stands on disk.
#[derive(Clone, Debug)]
pub(super) struct MeterRow {
    /// When its image was handed over; zero for one that was only changed.
    pub(super) now: Now,
    pub(super) meter: Meter,
}

pub(super) fn meter_key(id: MeterId) -> MeterKey {
    let mut key = [0; 25];
    key[..8].copy_from_slice(&id.limit.0.to_be_bytes());
    key[8] = kind_code(id.kind);
    key[9..].copy_from_slice(&id.subject.0.to_be_bytes());
    key
}

pub(super) fn read_meter_key(key: &MeterKey) -> Result<MeterId, Malformed> {
    let mut reader = RowReader::unchecked(key);
    let limit = LimitId(u64::from_be_bytes(reader.array()?));
    let kind = read_kind(reader.u8()?)?;
    let subject = SubjectKey(u128::from_be_bytes(reader.array()?));
    Ok(MeterId { limit, kind, subject })
}

/// `None` for what is open: that ends with the process.
pub(super) fn write_meter(key: &MeterKey, row: &MeterRow) -> Option<Vec<u8>> {
    if matches!(row.meter, Meter::Concurrent(_)) {
        return None;
    }
    let mut writer = RowWriter::new();
    write_image(&mut writer, row.now, &row.meter);
    Some(writer.finish(key))
}

/// How a meter stands. Nothing of what is open is written.
pub(super) fn write_image(writer: &mut RowWriter, now: Now, meter: &Meter) {
    writer.u64(now.steady.0);
    writer.i64(now.wall.0);
    match meter {
        Meter::Bucket(bucket) => {
            let BucketParts { level, period, at, idle_from } = bucket.parts();
            writer.u8(1);
            writer.u128(level);
            writer.u64(period);
            writer.u64(at.0);
            writer.u64(idle_from.0);
        }
        Meter::Sliding(sliding) => {
            writer.u8(2);
            writer.u64(sliding.idle_from().0);
            let groups = sliding.groups();
            writer.count(groups.len());
            for (at, units) in groups {
                writer.u64(at.0);
                writer.u64(units);
            }
        }
        Meter::Fixed(fixed) => {
            let FixedParts { at, used, idle_from } = fixed.parts();
            writer.u8(3);
            writer.u64(at.0);
            writer.u64(used);
            writer.u64(idle_from.0);
        }
        Meter::Quota(tally) | Meter::Spend(tally) => {
            let (period, at, used) = tally.remembers();
            writer.u8(4);
            write_period(writer, period);
            writer.i64(at.0);
            writer.u64(used);
        }
        Meter::Credit(purse) => {
            writer.u8(5);
            writer.u64(purse.granted);
            writer.u64(purse.used);
        }
        Meter::Concurrent(_) => {}
    }
}

/// A meter, with every instant of the steady clock moved by what `moved` says of the instant at which it was saved.
pub(super) fn read_meter(
    id: MeterId,
    key: &MeterKey,
    row: &[u8],
    moved: impl Fn(Now) -> i128,
) -> Result<MeterRow, Malformed> {
    let mut reader = RowReader::new(row, key)?;
    let row = read_image(&mut reader, id.kind, moved)?;
    reader.finish()?;
    Ok(row)
}

/// The same from the fields of a row.
pub(super) fn read_image(
    reader: &mut RowReader<'_>,
    kind: LimitKind,
    moved: impl Fn(Now) -> i128,
) -> Result<MeterRow, Malformed> {
    let now = Now { steady: Steady(reader.u64()?), wall: Wall(reader.i64()?) };
    let by = moved(now);
    let steady = |reader: &mut RowReader<'_>| reader.u64().map(|at| shifted(Steady(at), by));
    let meter = match (reader.u8()?, kind) {
        (1, LimitKind::Rate) => Meter::Bucket(Bucket::from_parts(BucketParts {
            level: reader.u128()?,
            period: reader.u64()?,
            at: steady(reader)?,
            idle_from: steady(reader)?,
        })),
        (2, LimitKind::Rate) => {
            let idle_from = steady(reader)?;
            let groups: Vec<(Steady, u64)> = (0..reader.count()?)
                .map(|_| Ok((steady(reader)?, reader.u64()?)))
                .collect::<Result<_, Malformed>>()?;
            let sliding = Sliding::from_groups(groups.into_iter(), idle_from);
            Meter::Sliding(sliding.ok_or(Malformed("its instants do not ascend"))?)
        }
        (3, LimitKind::Rate) => Meter::Fixed(Fixed::from_parts(FixedParts {
            at: steady(reader)?,
            used: reader.u64()?,
            idle_from: steady(reader)?,
        })),
        (4, kind @ (LimitKind::Quota | LimitKind::Spend)) => {
            let period = read_period(reader)?;
            let tally = Tally::remembered(period, Wall(reader.i64()?), reader.u64()?);
            if kind == LimitKind::Quota { Meter::Quota(tally) } else { Meter::Spend(tally) }
        }
        (5, LimitKind::Credit) => {
            Meter::Credit(Purse { granted: reader.u64()?, used: reader.u64()? })
        }
        _ => return Err(Malformed("its meter is not of its limit's kind")),
    };
    Ok(MeterRow { now: Now { steady: shifted(now.steady, by), ..now }, meter })
}

pub(super) fn write_pending(pending: &Pending, doubt: Option<Doubt>) -> Vec<u8> {
    let mut writer = RowWriter::new();
    writer.u8(doubt.map_or(0, doubt_code));
    write_reservation(&mut writer, pending);
    writer.finish(&pending.id.0.to_le_bytes())
}

/// What a reservation holds, and who asked.
pub(super) fn write_reservation(writer: &mut RowWriter, pending: &Pending) {
    writer.i64(pending.at.0);
    write_charges(writer, &pending.charges);
    match pending.record {
        Some(RecordId(record)) => {
            writer.u8(1);
            writer.u128(record);
        }
        None => writer.u8(0),
    }
    write_party(writer, &pending.party);
}

pub(super) fn read_pending(
    id: ReservationId,
    row: &[u8],
) -> Result<(Pending, Option<Doubt>), Malformed> {
    let mut reader = RowReader::new(row, &id.0.to_le_bytes())?;
    let doubt = match reader.u8()? {
        0 => None,
        code => Some(read_doubt(code)?),
    };
    let pending = read_reservation(&mut reader, id)?;
    reader.finish()?;
    Ok((pending, doubt))
}

/// The same from the fields of a row.
pub(super) fn read_reservation(
    reader: &mut RowReader<'_>,
    id: ReservationId,
) -> Result<Pending, Malformed> {
    let at = Wall(reader.i64()?);
    let charges = read_charges(reader)?;
    let record = match reader.u8()? {
        0 => None,
        1 => Some(RecordId(reader.u128()?)),
        _ => return Err(Malformed("it neither has a record nor has none")),
    };
    let party = read_party(reader)?;
    Ok(Pending { id, at, charges, record, party })
}

pub(super) fn write_charges(writer: &mut RowWriter, charges: &Charges) {
    writer.count(charges.len());
    for charge in charges {
        writer.array(&meter_key(charge.meter));
        write_period(writer, charge.period);
        writer.i64(charge.at.0);
        writer.u64(charge.amount);
    }
}

pub(super) fn read_charges(reader: &mut RowReader<'_>) -> Result<Charges, Malformed> {
    (0..reader.count()?)
        .map(|_| {
            Ok(Charge {
                meter: read_meter_key(&reader.array()?)?,
                period: read_period(reader)?,
                at: Wall(reader.i64()?),
                amount: reader.u64()?,
            })
        })
        .collect()
}

pub(super) fn write_record(place: u64, id: RecordId, record: &Record) -> Vec<u8> {
    let mut writer = RowWriter::new();
    write_claim(&mut writer, id, record);
    writer.finish(&place.to_le_bytes())
}

/// A record, its name with it.
pub(super) fn write_claim(writer: &mut RowWriter, id: RecordId, record: &Record) {
    // First, so that the end of its life is read without the rest.
    writer.i64(record.until.0);
    writer.u128(id.0);
    writer.i64(record.at.0);
    writer.u128(record.tenant.0);
    writer.array(&record.head.0);
    write_party(writer, &record.party);
    match &record.progress {
        Progress::InFlight => writer.u8(1),
        Progress::Answered(answer, print) => {
            writer.u8(2);
            writer.u64(print.bytes);
            writer.array(&print.digest);
            writer.u16(answer.status);
            writer.count(answer.fields.len());
            for (name, value) in &answer.fields {
                writer.text(name);
                writer.bytes(value);
            }
            writer.bytes(&answer.body);
        }
        Progress::NotReplayable => writer.u8(3),
        Progress::Unknown(doubt) => {
            writer.u8(4);
            writer.u8(doubt_code(*doubt));
        }
    }
}

/// The first millisecond of no longer being remembered.
pub(super) fn record_until(place: u64, row: &[u8]) -> Result<Wall, Malformed> {
    RowReader::new(row, &place.to_le_bytes())?.i64().map(Wall)
}

pub(super) fn read_record(place: u64, row: &[u8]) -> Result<(RecordId, Record), Malformed> {
    let mut reader = RowReader::new(row, &place.to_le_bytes())?;
    let record = read_claim(&mut reader)?;
    reader.finish()?;
    Ok(record)
}

/// The same from the fields of a row.
pub(super) fn read_claim(reader: &mut RowReader<'_>) -> Result<(RecordId, Record), Malformed> {
    let until = Wall(reader.i64()?);
    let id = RecordId(reader.u128()?);
    let at = Wall(reader.i64()?);
    let tenant = SubjectKey(reader.u128()?);
    let head = HeadPrint(reader.array()?);
    let party = read_party(reader)?;
    let progress = match reader.u8()? {
        1 => Progress::InFlight,
        2 => {
            let print = BodyPrint { bytes: reader.u64()?, digest: reader.array()? };
            Progress::Answered(Arc::new(read_answer(reader)?), print)
        }
        3 => Progress::NotReplayable,
        4 => Progress::Unknown(read_doubt(reader.u8()?)?),
        _ => return Err(Malformed("its progress is none that this release knows")),
    };
    Ok((id, Record { tenant, head, at, until, party, progress }))
}

fn read_answer(reader: &mut RowReader<'_>) -> Result<KeptAnswer, Malformed> {
    let status = reader.u16()?;
    let fields = (0..reader.count()?)
        .map(|_| Ok((reader.text()?.into(), Bytes::copy_from_slice(reader.bytes()?))))
        .collect::<Result<_, Malformed>>()?;
    Ok(KeptAnswer { status, fields, body: Bytes::copy_from_slice(reader.bytes()?) })
}

pub(super) fn write_revoked(subject: SubjectKey, revoked: &Revoked) -> Vec<u8> {
    let mut writer = RowWriter::new();
    write_revocation(&mut writer, revoked);
    writer.finish(&subject.0.to_le_bytes())
}

/// Which key is revoked, when, by whom and why.
pub(super) fn write_revocation(writer: &mut RowWriter, revoked: &Revoked) {
    writer.text(&revoked.key);
    writer.i64(revoked.at.0);
    match &revoked.by {
        RevokedBy::Person => writer.u8(1),
        RevokedBy::Rule(name) => {
            writer.u8(2);
            writer.text(name);
        }
    }
    writer.text(&revoked.why);
}

pub(super) fn read_revoked(subject: SubjectKey, row: &[u8]) -> Result<Revoked, Malformed> {
    let mut reader = RowReader::new(row, &subject.0.to_le_bytes())?;
    let revoked = read_revocation(&mut reader)?;
    reader.finish()?;
    Ok(revoked)
}

/// The same from the fields of a row.
pub(super) fn read_revocation(reader: &mut RowReader<'_>) -> Result<Revoked, Malformed> {
    let key = reader.text()?.into();
    let at = Wall(reader.i64()?);
    let by = match reader.u8()? {
        1 => RevokedBy::Person,
        2 => RevokedBy::Rule(reader.text()?.into()),
        _ => return Err(Malformed("nobody that this release knows revoked it")),
    };
    let why = reader.text()?.into();
    Ok(Revoked { key, at, by, why })
}

pub(super) fn write_seen(subject: SubjectKey, at: Wall) -> Vec<u8> {
    let mut writer = RowWriter::new();
    writer.i64(at.0);
    writer.finish(&subject.0.to_le_bytes())
}

pub(super) fn read_seen(subject: SubjectKey, row: &[u8]) -> Result<Wall, Malformed> {
    let mut reader = RowReader::new(row, &subject.0.to_le_bytes())?;
    let at = Wall(reader.i64()?);
    reader.finish()?;
    Ok(at)
}

pub(super) fn write_act(at: Wall, id: &str, answer: &str) -> Vec<u8> {
    let mut writer = RowWriter::new();
    writer.text(answer);
    writer.finish(&act_place(at, id))
}

pub(super) fn read_act(at: Wall, id: &str, row: &[u8]) -> Result<Box<str>, Malformed> {
    let place = act_place(at, id);
    let mut reader = RowReader::new(row, &place)?;
    let answer = reader.text()?.into();
    reader.finish()?;
    Ok(answer)
}

fn act_place(at: Wall, id: &str) -> Vec<u8> {
    let mut place = at.0.to_le_bytes().to_vec();
    place.extend_from_slice(id.as_bytes());
    place
}

pub(super) fn write_period(writer: &mut RowWriter, period: Period) {
    writer.i64(period.from.0);
    writer.i64(period.until.0);
}

pub(super) fn read_period(reader: &mut RowReader<'_>) -> Result<Period, Malformed> {
    Ok(Period { from: Wall(reader.i64()?), until: Wall(reader.i64()?) })
}

fn write_party(writer: &mut RowWriter, party: &Party) {
    let PartyNames { tenant, key, route, request } = party.names();
    for text in [tenant, key, route, request] {
        writer.text(text);
    }
}

fn read_party(reader: &mut RowReader<'_>) -> Result<Party, Malformed> {
    Ok(Party::of(PartyNames {
        tenant: reader.text()?,
        key: reader.text()?,
        route: reader.text()?,
        request: reader.text()?,
    }))
}

fn kind_code(kind: LimitKind) -> u8 {
    match kind {
        LimitKind::Rate => 1,
        LimitKind::Concurrent => 2,
        LimitKind::Quota => 3,
        LimitKind::Spend => 4,
        LimitKind::Credit => 5,
    }
}

fn read_kind(code: u8) -> Result<LimitKind, Malformed> {
    Ok(match code {
        1 => LimitKind::Rate,
        2 => LimitKind::Concurrent,
        3 => LimitKind::Quota,
        4 => LimitKind::Spend,
        5 => LimitKind::Credit,
        _ => return Err(Malformed("it counts nothing that this release knows")),
    })
}

pub(super) fn doubt_code(doubt: Doubt) -> u8 {
    match doubt {
        Doubt::Crash => 1,
        Doubt::NoAnswer => 2,
    }
}

pub(super) fn read_doubt(code: u8) -> Result<Doubt, Malformed> {
    match code {
        1 => Ok(Doubt::Crash),
        2 => Ok(Doubt::NoAnswer),
        _ => Err(Malformed("it is in doubt for no reason that this release knows")),
    }
}

fn shifted(at: Steady, by: i128) -> Steady {
    let moved = i128::from(at.0).saturating_add(by).clamp(0, i128::from(u64::MAX));
    Steady(u64::try_from(moved).unwrap_or(u64::MAX))
}
