//! Fills a state directory with idempotency records until its journal has so many MiB, says so, and waits to be killed:
//! what `benches/recovery.py` lets a gate recover from.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use tollgate::clock::{Clock, Now, Wall};
use tollgate::policy::idempotency::{BodyPrint, HeadPrint, RecordId};
use tollgate::policy::limit::SubjectKey;
use tollgate::store::{
    Backing, Batch, KeptAnswer, Op, Party, PartyNames, Progress, Record, StoreFailed,
};

const USAGE: &str = "usage: fill_state DIRECTORY MIB BODY";
const TOGETHER: u64 = 512;
const DAY: i64 = 24 * 60 * 60 * 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, mib, body] = arguments.as_slice() else { return Err(USAGE.into()) };
    let (directory, bytes) = (PathBuf::from(directory), mib.parse::<u64>()? << 20);
    let body = Bytes::from(vec![b'x'; body.parse()?]);
    let now = Clock::system().now();
    let failed = Box::new(|why: &str| eprintln!("the journal failed: {why}"));
    let backing = Backing::open(&directory, now, failed)?.backing;
    let (mut records, mut before) = (0, None);
    while journal_bytes(&directory)? < bytes {
        let batch = (records..records + TOGETHER).map(|nth| record(nth, now, &body)).collect();
        records += TOGETHER;
        // One is written while the next is made.
        let waiting = submit(&backing, batch)?;
        if let Some(before) = before.replace(waiting) {
            durable(&before)?;
        }
    }
    if let Some(before) = before {
        durable(&before)?;
    }
    println!("{records}");
    io::stdout().flush()?;
    // Until whoever started it kills it, or is gone.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

type Heard = Receiver<Result<(), StoreFailed>>;

fn submit(backing: &Backing, batch: Batch) -> Result<Heard, &'static str> {
    let (told, heard) = channel();
    let reply = Box::new(move |result| _ = told.send(result));
    backing.submit(batch, Some(reply)).map_err(|_| "the store has failed")?;
    Ok(heard)
}

fn durable(heard: &Heard) -> Result<(), &'static str> {
    match heard.recv() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(StoreFailed)) | Err(_) => Err("the store has failed"),
    }
}

fn journal_bytes(directory: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(directory.join("journal"))?.len())
}

/// The record of an answered request. Names are hashes where a gate makes them, so these are spread as well.
fn record(nth: u64, now: Now, body: &Bytes) -> Op {
    let name = u128::from(nth).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let answer = KeptAnswer {
        status: 201,
        fields: vec![("content-type".into(), Bytes::from_static(b"application/json"))],
        body: body.clone(),
    };
    let record = Record {
        tenant: SubjectKey(u128::from(nth % 100)),
        head: HeadPrint([9; 32]),
        at: now.wall,
        until: Wall(now.wall.0 + DAY),
        party: Party::of(PartyNames {
            tenant: "acme",
            key: "bench",
            route: "sms-send",
            request: "0192f0c1-7d3b-7cc3-98c4-dc0c0c07398f",
        }),
        progress: Progress::Answered(Arc::new(answer), BodyPrint { bytes: 35, digest: [4; 32] }),
    };
    Op::Record(RecordId(name), Box::new(record))
}
