//! The state directory on a real file system: what is opened, what is refused, and what comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use smallvec::smallvec;
use tempfile::TempDir;
use tollgate::clock::{Now, Steady, Wall};
use tollgate::policy::calendar::Period;
use tollgate::policy::idempotency::{BodyPrint, HeadPrint, RecordId};
use tollgate::policy::limit::{LimitId, LimitKind, SubjectKey};
use tollgate::policy::meter::{Block, Meter, Purse, Tally};
use tollgate::policy::overlay::{Revoked, RevokedBy};
use tollgate::store::{
    Backing, Batch, Charge, Doubt, Health, KeptAnswer, MeterId, Op, OpenProblem, OpenedBacking,
    Party, Pending, Progress, Record, ReservationId, Restored, StoreFailed,
};

const DAY: i64 = 24 * 60 * 60 * 1000;
const NOW: Now = Now { steady: Steady(1_700_000_000_000_000_000), wall: Wall(1_700_000_000_000) };

fn open(directory: &Path) -> Result<OpenedBacking, OpenProblem> {
    open_at(directory, NOW)
}

fn open_at(directory: &Path, now: Now) -> Result<OpenedBacking, OpenProblem> {
    Backing::open(directory, now, Box::new(|why| panic!("the journal failed: {why}")))
}

/// Hands a batch on and waits until it is durable.
fn write(backing: &Backing, batch: Batch) -> Result<(), StoreFailed> {
    let (told, heard) = channel();
    backing.submit(batch, Some(Box::new(move |result| told.send(result).unwrap())))?;
    heard.recv().unwrap()
}

fn state_directory() -> (TempDir, std::path::PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join("state");
    (outer, directory)
}

fn meter(kind: LimitKind) -> MeterId {
    MeterId { limit: LimitId(7), kind, subject: SubjectKey(u128::MAX - 5) }
}

fn month() -> Period {
    Period { from: Wall(NOW.wall.0 - 10 * DAY), until: Wall(NOW.wall.0 + 20 * DAY) }
}

fn pending(id: u128, amount: u64) -> Pending {
    let charge = |kind| Charge { meter: meter(kind), period: month(), at: NOW.wall, amount };
    Pending {
        id: ReservationId(id),
        at: NOW.wall,
        charges: smallvec![charge(LimitKind::Spend), charge(LimitKind::Credit)],
        record: Some(RecordId(id + 1)),
        party: party(),
    }
}

fn party() -> Party {
    Party {
        tenant: "acme".into(),
        key: "k-1".into(),
        route: "sms-send".into(),
        request: "0199".into(),
    }
}

fn record(progress: Progress) -> Record {
    Record {
        tenant: SubjectKey(3),
        head: HeadPrint([9; 32]),
        at: NOW.wall,
        until: Wall(NOW.wall.0 + DAY),
        party: party(),
        progress,
    }
}

fn answer() -> Progress {
    let answer = KeptAnswer {
        status: 202,
        fields: vec![("content-type".into(), Bytes::from_static(b"application/json"))],
        body: Bytes::from_static(b"{\"ok\":true}"),
    };
    Progress::Answered(Arc::new(answer), BodyPrint { bytes: 11, digest: [4; 32] })
}

fn revoked() -> Revoked {
    Revoked {
        key: "k-1".into(),
        at: NOW.wall,
        by: RevokedBy::Rule("idle".into()),
        why: "unused for 90 days".into(),
    }
}

fn tally(restored: &Restored, kind: LimitKind) -> Option<u64> {
    restored.meters.iter().find(|(id, _)| id.kind == kind).map(|(_, meter)| match meter {
        Meter::Quota(tally) | Meter::Spend(tally) => tally.remembers().2,
        Meter::Credit(purse) => purse.used,
        _ => panic!("{meter:?}"),
    })
}

#[test]
fn everything_that_was_acknowledged_comes_back_as_it_was() {
    let (_outer, directory) = state_directory();
    let opened = open(&directory).unwrap();
    assert!(opened.restored.meters.is_empty() && opened.restored.records.is_empty());
    let quota = Op::Block(meter(LimitKind::Quota), Block { period: month(), at: NOW.wall, to: 61 });
    write(
        &opened.backing,
        smallvec![
            quota,
            Op::TopUp { meter: meter(LimitKind::Credit), amount: 500 },
            Op::Reserve(Box::new(pending(1, 30))),
            Op::Reserve(Box::new(pending(2, 12))),
            Op::Record(RecordId(2), Box::new(record(Progress::InFlight))),
            Op::Record(RecordId(3), Box::new(record(answer()))),
            Op::Record(RecordId(4), Box::new(record(Progress::NotReplayable))),
            Op::Revoke(SubjectKey(8), Box::new(revoked())),
            Op::Revoke(SubjectKey(9), Box::new(revoked())),
            Op::Restore(SubjectKey(9)),
            Op::Seen(SubjectKey(8), Wall(50)),
            Op::Seen(SubjectKey(8), Wall(40)),
            Op::Act { id: "top-up-1".into(), at: NOW.wall, answer: "{}".into() },
        ],
    )
    .unwrap();
    write(
        &opened.backing,
        smallvec![
            Op::Settle { id: ReservationId(1), back: pending(1, 10).charges },
            Op::Settle { id: ReservationId(1), back: pending(1, 10).charges },
            Op::Doubt(ReservationId(2), Doubt::NoAnswer),
            Op::Record(RecordId(5), Box::new(record(Progress::Unknown(Doubt::NoAnswer)))),
            Op::Forget(RecordId(4)),
        ],
    )
    .unwrap();
    drop(opened);

    let restored = open(&directory).unwrap().restored;
    assert_eq!(tally(&restored, LimitKind::Quota), Some(61));
    assert_eq!(tally(&restored, LimitKind::Spend), Some(32), "42 less 10, once");
    let purse = restored.meters.iter().find_map(|(_, meter)| match meter {
        Meter::Credit(purse) => Some(*purse),
        _ => None,
    });
    assert_eq!(purse, Some(Purse { granted: 500, used: 32 }));
    assert_eq!(restored.pending, [(pending(2, 12), Some(Doubt::NoAnswer))]);
    let records = [
        (RecordId(2), record(Progress::InFlight)),
        (RecordId(3), record(answer())),
        (RecordId(5), record(Progress::Unknown(Doubt::NoAnswer))),
    ];
    assert_eq!(restored.records, records);
    assert_eq!(restored.revoked, [(SubjectKey(8), revoked())]);
    assert_eq!(restored.seen, [(SubjectKey(8), Wall(50))]);
    assert_eq!(restored.acts, [("top-up-1".into(), NOW.wall, "{}".into())]);
}

#[test]
fn what_nobody_waits_for_is_written_when_the_backing_is_closed() {
    let (_outer, directory) = state_directory();
    let opened = open(&directory).unwrap();
    opened.backing.submit(smallvec![Op::Seen(SubjectKey(1), Wall(5))], None).unwrap();
    opened.backing.close();
    assert_eq!(
        opened.backing.submit(smallvec![Op::Restore(SubjectKey(1))], None),
        Err(StoreFailed)
    );
    // Closed, and still owned: the directory is free.
    let next = open(&directory).unwrap();
    assert_eq!(next.restored.seen, [(SubjectKey(1), Wall(5))]);
    assert_eq!(next.backing.health(), Health::Up);
}
