//! How a change is written in the log: a code, and the fields that its rows have in the tables.

use super::super::acts::Adjustment;
use super::super::op::{Op, ReservationId};
use super::codec::{Malformed, RowReader, RowWriter};
use super::rows::{self, MeterRow};
use crate::clock::Wall;
use crate::policy::idempotency::RecordId;
use crate::policy::limit::SubjectKey;
use crate::policy::meter::{Block, Meter};

const BLOCK: u8 = 1;
const RESERVE: u8 = 2;
const SETTLE: u8 = 3;
const DOUBT: u8 = 4;
const RECORD: u8 = 5;
const FORGET: u8 = 6;
const METER: u8 = 7;
const ADD: u8 = 8;
const REMOVE: u8 = 9;
const TOP_UP: u8 = 10;
const RESET: u8 = 11;
const REVOKE: u8 = 12;
const RESTORE: u8 = 13;
const SEEN: u8 = 14;
const ACT: u8 = 15;

pub(super) fn write(writer: &mut RowWriter, op: &Op) {
    match op {
        Op::Block(meter, block) => {
            writer.u8(BLOCK);
            writer.array(&rows::meter_key(*meter));
            rows::write_period(writer, block.period);
            writer.i64(block.at.0);
            writer.u64(block.to);
        }
        Op::Reserve(pending) => {
            writer.u8(RESERVE);
            writer.u128(pending.id.0);
            rows::write_reservation(writer, pending);
        }
        Op::Settle { id, back } => {
            writer.u8(SETTLE);
            writer.u128(id.0);
            rows::write_charges(writer, back);
        }
        Op::Doubt(id, doubt) => {
            writer.u8(DOUBT);
            writer.u128(id.0);
            writer.u8(rows::doubt_code(*doubt));
        }
        Op::Record(id, record) => {
            writer.u8(RECORD);
            rows::write_claim(writer, *id, record);
        }
        Op::Forget(id) => {
            writer.u8(FORGET);
            writer.u128(id.0);
        }
        // What is open ends with the process.
        Op::Meter { image, .. } if matches!(**image, Meter::Concurrent(_)) => {}
        Op::Meter { meter, image, now } => {
            writer.u8(METER);
            writer.array(&rows::meter_key(*meter));
            rows::write_image(writer, *now, image);
        }
        Op::Adjust { meter, period, at, by } => {
            let (code, amount) = match by {
                Adjustment::Add(amount) => (ADD, amount),
                Adjustment::Remove(amount) => (REMOVE, amount),
            };
            writer.u8(code);
            writer.array(&rows::meter_key(*meter));
            rows::write_period(writer, *period);
            writer.i64(at.0);
            writer.u64(*amount);
        }
        Op::TopUp { meter, amount } => {
            writer.u8(TOP_UP);
            writer.array(&rows::meter_key(*meter));
            writer.u64(*amount);
        }
        Op::Reset(meter) => {
            writer.u8(RESET);
            writer.array(&rows::meter_key(*meter));
        }
        Op::Revoke(key, revoked) => {
            writer.u8(REVOKE);
            writer.u128(key.0);
            rows::write_revocation(writer, revoked);
        }
        Op::Restore(key) => {
            writer.u8(RESTORE);
            writer.u128(key.0);
        }
        Op::Seen(key, at) => {
            writer.u8(SEEN);
            writer.u128(key.0);
            writer.i64(at.0);
        }
        Op::Act { id, at, answer } => {
            writer.u8(ACT);
            writer.text(id);
            writer.i64(at.0);
            writer.text(answer);
        }
    }
}

pub(super) fn read(reader: &mut RowReader<'_>) -> Result<Op, Malformed> {
    let code = reader.u8()?;
    Ok(match code {
        BLOCK => Op::Block(
            rows::read_meter_key(&reader.array()?)?,
            Block {
                period: rows::read_period(reader)?,
                at: Wall(reader.i64()?),
                to: reader.u64()?,
            },
        ),
        RESERVE => {
            let id = ReservationId(reader.u128()?);
            Op::Reserve(Box::new(rows::read_reservation(reader, id)?))
        }
        SETTLE => {
            let id = ReservationId(reader.u128()?);
            Op::Settle { id, back: rows::read_charges(reader)? }
        }
        DOUBT => Op::Doubt(ReservationId(reader.u128()?), rows::read_doubt(reader.u8()?)?),
        RECORD => {
            let (id, record) = rows::read_claim(reader)?;
            Op::Record(id, Box::new(record))
        }
        FORGET => Op::Forget(RecordId(reader.u128()?)),
        METER => {
            let meter = rows::read_meter_key(&reader.array()?)?;
            // Moved to the time of the new process when its row is read.
            let MeterRow { now, meter: image } = rows::read_image(reader, meter.kind, |_| 0)?;
            Op::Meter { meter, image: Box::new(image), now }
        }
        ADD | REMOVE => {
            let meter = rows::read_meter_key(&reader.array()?)?;
            let period = rows::read_period(reader)?;
            let (at, amount) = (Wall(reader.i64()?), reader.u64()?);
            let by = if code == ADD { Adjustment::Add(amount) } else { Adjustment::Remove(amount) };
            Op::Adjust { meter, period, at, by }
        }
        TOP_UP => {
            Op::TopUp { meter: rows::read_meter_key(&reader.array()?)?, amount: reader.u64()? }
        }
        RESET => Op::Reset(rows::read_meter_key(&reader.array()?)?),
        REVOKE => {
            let key = SubjectKey(reader.u128()?);
            Op::Revoke(key, Box::new(rows::read_revocation(reader)?))
        }
        RESTORE => Op::Restore(SubjectKey(reader.u128()?)),
        SEEN => Op::Seen(SubjectKey(reader.u128()?), Wall(reader.i64()?)),
        ACT => {
            let id = reader.text()?.into();
            let at = Wall(reader.i64()?);
            Op::Act { id, at, answer: reader.text()?.into() }
        }
        _ => return Err(Malformed("it tells of a change that this release does not know")),
    })
}
