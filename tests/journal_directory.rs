//! The state directory on a real file system: what is opened, what is refused, and what comes back.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "journal/samples.rs"]
mod samples;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use samples::{MONTH, NOW, answer, pending, record, revoked};
use smallvec::smallvec;
use tempfile::TempDir;
use tollgate::clock::{Now, Steady, Wall};
use tollgate::policy::calendar::Period;
use tollgate::policy::idempotency::RecordId;
use tollgate::policy::limit::{
    Ceiling, LimitId, LimitIx, LimitKind, Mode, OnStoreFailure, SubjectKey, Window,
};
use tollgate::policy::meter::{Block, Meter, Purse};
use tollgate::policy::order::Ask;
use tollgate::store::{
    Adjustment, Backing, Batch, Doubt, Health, MeterId, Op, OpenProblem, OpenedBacking, Progress,
    ReservationId, Restored, StoreFailed,
};

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

fn meter_of(kind: LimitKind) -> MeterId {
    samples::meter(kind, 1)
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
    let quota =
        Op::Block(meter_of(LimitKind::Quota), Block { period: MONTH, at: NOW.wall, to: 61 });
    write(
        &opened.backing,
        smallvec![
            quota,
            Op::TopUp { meter: meter_of(LimitKind::Credit), amount: 500 },
            Op::Reserve(Box::new(pending(1, 30))),
            Op::Reserve(Box::new(pending(5, 12))),
            Op::Record(RecordId(2), Box::new(record(Progress::InFlight))),
            Op::Record(RecordId(3), Box::new(record(answer(11)))),
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
            Op::Doubt(ReservationId(5), Doubt::NoAnswer),
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
    assert_eq!(restored.pending, [(pending(5, 12), Some(Doubt::NoAnswer))]);
    let records = [
        (RecordId(2), record(Progress::InFlight)),
        (RecordId(3), record(answer(11))),
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

#[test]
fn a_person_s_corrections_come_back_with_the_rest() {
    let (_outer, directory) = state_directory();
    let opened = open(&directory).unwrap();
    let (quota, credit) = (meter_of(LimitKind::Quota), meter_of(LimitKind::Credit));
    let adjust = |meter, by| Op::Adjust { meter, period: MONTH, at: NOW.wall, by };
    write(
        &opened.backing,
        smallvec![
            adjust(quota, Adjustment::Add(50)),
            adjust(quota, Adjustment::Remove(8)),
            Op::TopUp { meter: credit, amount: 900 },
            adjust(credit, Adjustment::Add(70)),
            Op::Reset(credit),
            adjust(meter_of(LimitKind::Spend), Adjustment::Add(7)),
            Op::Reset(meter_of(LimitKind::Spend)),
        ],
    )
    .unwrap();
    drop(opened);
    let restored = open(&directory).unwrap().restored;
    assert_eq!(tally(&restored, LimitKind::Quota), Some(42));
    assert_eq!(tally(&restored, LimitKind::Credit), Some(0));
    assert_eq!(tally(&restored, LimitKind::Spend), None);
}

#[test]
fn a_second_process_is_refused_and_told_what_to_do() {
    let (_outer, directory) = state_directory();
    let first = open(&directory).unwrap();
    let problem = open(&directory).unwrap_err();
    assert_eq!(problem, OpenProblem::Locked { directory: directory.clone() });
    assert!(problem.to_string().contains("in use by another tollgate"), "{problem}");
    drop(first);
    open(&directory).unwrap();
}

#[test]
fn another_format_is_refused_and_damage_to_the_format_is_none() {
    let (_outer, directory) = state_directory();
    drop(open(&directory).unwrap());
    let format = directory.join("format");
    assert_eq!(fs::read_to_string(&format).unwrap(), "tollgate state, format 3\n");
    for other in [1, 4] {
        fs::write(&format, format!("tollgate state, format {other}\n")).unwrap();
        let problem = open(&directory).unwrap_err();
        assert_eq!(
            problem,
            OpenProblem::OtherFormat { directory: directory.clone(), found: other, known: 3 }
        );
        assert!(problem.to_string().contains(&format!("has format {other}")), "{problem}");
    }
    for text in ["tollgate state, format 0\n", "tollgate state, format", "state", "\u{1}\n"] {
        fs::write(&format, text).unwrap();
        let problem = open(&directory).unwrap_err();
        assert!(matches!(problem, OpenProblem::Corrupt { .. }), "{text:?}: {problem}");
    }
}

#[test]
fn a_file_that_is_missing_or_empty_is_noticed() {
    for name in ["journal", "log", "acknowledged", "format"] {
        for empty in [false, true] {
            let (_outer, directory) = state_directory();
            let opened = open(&directory).unwrap();
            write(&opened.backing, smallvec![Op::Seen(SubjectKey(1), Wall(5))]).unwrap();
            drop(opened);
            let file = directory.join(name);
            if empty {
                fs::write(&file, "").unwrap();
            } else {
                fs::remove_file(&file).unwrap();
            }
            let problem = open(&directory).unwrap_err();
            assert!(matches!(problem, OpenProblem::Corrupt { .. }), "{name}: {problem}");
            assert!(problem.to_string().contains("backup"), "{problem}");
            // Nor is it forgotten on a second try.
            assert!(open(&directory).is_err(), "{name}");
        }
    }
}

#[test]
fn older_files_beside_newer_ones_are_noticed() {
    for older in [&["journal", "log"][..], &["journal"], &["log"]] {
        let (_outer, directory) = state_directory();
        let sighting = |key| smallvec![Op::Seen(SubjectKey(key), Wall(5))];
        write(&open(&directory).unwrap().backing, sighting(1)).unwrap();
        let kept: Vec<_> =
            older.iter().map(|name| fs::read(directory.join(name)).unwrap()).collect();
        write(&open(&directory).unwrap().backing, sighting(2)).unwrap();
        let opened = open(&directory).unwrap();
        write(&opened.backing, sighting(3)).unwrap();
        // Killed: what was written last stands in the log alone.
        let newest: Vec<_> =
            ["journal", "log"].map(|name| (name, fs::read(directory.join(name)).unwrap())).into();
        drop(opened);
        for (name, bytes) in newest {
            fs::write(directory.join(name), bytes).unwrap();
        }
        for (name, bytes) in older.iter().zip(kept) {
            fs::write(directory.join(name), bytes).unwrap();
        }
        let problem = open(&directory).unwrap_err();
        assert!(matches!(problem, OpenProblem::Corrupt { .. }), "{older:?}: {problem}");
        let says_why = match older {
            ["journal"] => "a commit amidst others is damaged",
            _ => "commit 3 was acknowledged",
        };
        assert!(problem.to_string().contains(says_why), "{older:?}: {problem}");
    }
}

/// As a release with format 2 left it when it was killed: its log before the tables in the journal's file, some commits in
/// both and some in the log alone.
fn left_by_format_2(directory: &Path, commits: std::ops::RangeInclusive<i64>) {
    let opened = open(directory).unwrap();
    for at in commits {
        write(&opened.backing, smallvec![Op::Seen(SubjectKey(1), Wall(at))]).unwrap();
    }
    // Frames are as they were; nothing of it has come to the tables.
    let log = fs::read(directory.join("log")).unwrap();
    let mut journal = fs::read(directory.join("journal")).unwrap();
    drop(opened);
    journal[..1 << 20].copy_from_slice(&log[..1 << 20]);
    fs::write(directory.join("journal"), journal).unwrap();
    fs::remove_file(directory.join("log")).unwrap();
    fs::write(directory.join("format"), "tollgate state, format 2\n").unwrap();
}

#[test]
fn a_directory_of_the_format_before_is_read_and_becomes_one_of_this() {
    let (_outer, directory) = state_directory();
    left_by_format_2(&directory, 1..=3);
    let opened = open(&directory).unwrap();
    assert_eq!(opened.restored.seen, [(SubjectKey(1), Wall(3))]);
    assert_eq!(fs::read_to_string(directory.join("format")).unwrap(), "tollgate state, format 3\n");
    write(&opened.backing, smallvec![Op::Seen(SubjectKey(2), Wall(5))]).unwrap();
    drop(opened);
    let both = [(SubjectKey(1), Wall(3)), (SubjectKey(2), Wall(5))];
    assert_eq!(open(&directory).unwrap().restored.seen, both);
}

#[test]
fn a_directory_of_the_format_before_is_read_whatever_log_a_broken_off_start_left() {
    for left in ["", "half", &"\u{1}".repeat(8 << 20)] {
        let (_outer, directory) = state_directory();
        left_by_format_2(&directory, 1..=3);
        fs::write(directory.join("log"), left).unwrap();
        let opened = open(&directory).unwrap();
        assert_eq!(opened.restored.seen, [(SubjectKey(1), Wall(3))]);
    }
}

#[test]
fn a_directory_of_the_format_before_without_its_last_commit_is_refused() {
    let (_outer, directory) = state_directory();
    left_by_format_2(&directory, 1..=3);
    let mut journal = fs::read(directory.join("journal")).unwrap();
    journal[1024 + 20] ^= 1;
    fs::write(directory.join("journal"), journal).unwrap();
    let problem = open(&directory).unwrap_err();
    assert!(problem.to_string().contains("commit 3 was acknowledged"), "{problem}");
    fs::remove_file(directory.join("journal")).unwrap();
    assert!(matches!(open(&directory).unwrap_err(), OpenProblem::Corrupt { .. }));
}

#[test]
fn a_start_that_died_half_way_is_finished_by_the_next() {
    let (_outer, directory) = state_directory();
    drop(open(&directory).unwrap());
    // As the steps are: the journal under another name, the journal, the mark, the format.
    let files = |name: &str| directory.join(name);
    fs::write(files("format"), "").unwrap();
    drop(open(&directory).unwrap());
    fs::write(files("format"), "").unwrap();
    fs::write(files("acknowledged"), "").unwrap();
    drop(open(&directory).unwrap());
    fs::write(files("format"), "").unwrap();
    fs::write(files("log"), "half").unwrap();
    drop(open(&directory).unwrap());
    fs::write(files("format"), "").unwrap();
    fs::remove_file(files("log")).unwrap();
    fs::remove_file(files("acknowledged")).unwrap();
    fs::rename(files("journal"), files("journal.new")).unwrap();
    fs::write(files("journal.new"), "half").unwrap();
    let opened = open(&directory).unwrap();
    write(&opened.backing, smallvec![Op::Seen(SubjectKey(1), Wall(5))]).unwrap();
    drop(opened);
    assert_eq!(open(&directory).unwrap().restored.seen.len(), 1);
}

#[test]
fn nobody_else_may_read_the_state() {
    let (_outer, directory) = state_directory();
    let opened = open(&directory).unwrap();
    assert_eq!(opened.opened_up, Vec::<std::path::PathBuf>::new());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let files = ["format", "journal", "log", "acknowledged"].map(|name| directory.join(name));
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    drop(opened);
    fs::set_permissions(&files[1], fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let opened = open(&directory).unwrap();
    assert_eq!(opened.opened_up, [directory.clone(), files[1].clone()]);
    assert_eq!((mode(&directory), mode(&files[1])), (0o700, 0o600));
}

#[test]
fn what_is_no_directory_is_said_to_be_unusable() {
    let (outer, _) = state_directory();
    let file = outer.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let problem = open(&path).unwrap_err();
        assert!(matches!(problem, OpenProblem::Unusable { .. }), "{problem}");
    }
}

const SECOND: u64 = 1_000_000_000;

/// 60 a minute.
fn ask(window: Window) -> Ask {
    Ask {
        limit: LimitIx(0),
        id: LimitId(7),
        subject: SubjectKey(1),
        crowded: None,
        ceiling: Ceiling { window, units: 60, period: 60 * SECOND, burst: 60 },
        weight: 1,
        mode: Mode::Enforce,
        period: Period::default(),
        on_store_failure: OnStoreFailure::Local,
    }
}

/// What is used of a rate of which 60 were used at `saved`, when another process starts at `now`.
fn used_after(window: Window, saved: Now, now: Now) -> Option<u64> {
    let (_outer, directory) = state_directory();
    let opened = open_at(&directory, saved).unwrap();
    let mut meter = Meter::empty(window);
    (0..60).for_each(|_| meter.take(&ask(window), saved));
    let meter_id = meter_of(LimitKind::Rate);
    let image = Op::Meter { meter: meter_id, image: Box::new(meter), now: saved };
    write(&opened.backing, smallvec![image]).unwrap();
    drop(opened);
    let restored = open_at(&directory, now).unwrap().restored;
    let (id, meter) = restored.meters.into_iter().next()?;
    assert_eq!(id, meter_id);
    Some(meter.read(&ask(window), now).used)
}

fn later(seconds: i64) -> Now {
    let steady = i64::try_from(NOW.steady.0).unwrap() + seconds * 1_000_000_000;
    Now { steady: Steady(steady.try_into().unwrap()), wall: Wall(NOW.wall.0 + seconds * 1000) }
}

#[test]
fn downtime_refills_a_rate_by_the_wall_clock_and_a_clock_that_went_back_refills_nothing() {
    let away = |window, seconds| used_after(window, NOW, later(seconds));
    assert_eq!(away(Window::Bucket, 0), Some(60));
    assert_eq!(away(Window::Bucket, 15), Some(45));
    assert_eq!(away(Window::Bucket, 61), None, "it says nothing any more");
    assert_eq!(away(Window::Bucket, -3_000), Some(60));
    assert_eq!(away(Window::Sliding, 59), Some(60));
    assert_eq!(away(Window::Sliding, 60), None);
    assert_eq!(away(Window::Sliding, -3_000), Some(60));
    assert_eq!(away(Window::Fixed, -3_000), Some(60));
}

#[test]
fn a_steady_clock_that_starts_anywhere_is_put_right_by_the_wall_clock() {
    // As where the wall clock was set forward by an hour while the first process ran.
    let saved = Now { steady: Steady(NOW.steady.0 - 3_600 * SECOND), ..NOW };
    assert_eq!(used_after(Window::Bucket, saved, later(15)), Some(45));
    // As where the steady clock of the next process starts near nothing.
    let now = Now { steady: Steady(100 * SECOND), ..later(15) };
    assert_eq!(used_after(Window::Bucket, NOW, now), Some(45));
}

#[test]
fn rows_that_say_nothing_any_more_leave_the_disk_in_an_idle_moment() {
    let (_outer, directory) = state_directory();
    let opened = open(&directory).unwrap();
    let ended = |id| Op::Record(RecordId(id), Box::new(record(Progress::NotReplayable)));
    write(&opened.backing, (1..=600).map(ended).collect()).unwrap();
    let spend = Block { period: MONTH, at: NOW.wall, to: 5 };
    write(&opened.backing, smallvec![Op::Block(meter_of(LimitKind::Quota), spend)]).unwrap();
    drop(opened);
    let years = open_at(&directory, later(2 * 366 * 24 * 3600)).unwrap();
    assert!(years.restored.meters.is_empty() && years.restored.records.is_empty());
    // One of them begins anew meanwhile, and stays.
    let mut anew = record(Progress::InFlight);
    anew.until = later(3 * 366 * 24 * 3600).wall;
    write(&years.backing, smallvec![Op::Record(RecordId(77), Box::new(anew.clone()))]).unwrap();
    for _ in 0..500 {
        if years.backing.figures().commits >= 3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(years);
    // A clock that is right again shows what is left.
    let restored = open(&directory).unwrap().restored;
    assert!(restored.meters.is_empty());
    assert_eq!(restored.records, [(RecordId(77), anew)]);
}
