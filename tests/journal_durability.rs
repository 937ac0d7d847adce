//! What survives when the disk does its worst: after every power cut, failed sync and damaged byte, the state is that
//! after some number of whole batches, at least all that were acknowledged, or it is refused in words.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "journal/disk.rs"]
mod disk;
#[path = "journal/model.rs"]
mod model;
#[path = "journal/samples.rs"]
mod samples;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use disk::{Disk, Fault, Image, Name};
use model::{Dice, Hand, Model};
use samples::{NOW, answer, record};
use smallvec::smallvec;
use tempfile::TempDir;
use tollgate::clock::Wall;
use tollgate::policy::idempotency::RecordId;
use tollgate::policy::limit::SubjectKey;
use tollgate::store::{
    Backing, Batch, Health, JournalFigures, Op, OpenProblem, OpenedBacking, Reply, StoreFailed,
};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
/// The tables follow the log after so many changes: after some commits, so that every trial has both.
const DUE: usize = 20;
/// Bytes before the tables in their file.
const BEFORE_TABLES: usize = 1 << 20;
/// Bytes of one half of the log.
const HALF: usize = 4 << 20;

/// A journal on a disk that can be made to fail, and what should be in it.
struct Trial {
    directory: TempDir,
    disk: Disk,
    backing: Backing,
    failures: Arc<AtomicU64>,
    promises: Promises,
}

/// What was said to be durable.
#[derive(Clone, Default)]
struct Promises {
    /// The state after so many batches.
    after: Vec<Model>,
    /// Batches that were acknowledged.
    acknowledged: usize,
}

impl Promises {
    /// A state is kept if it is that after some number of batches, at least all that were acknowledged.
    fn are_kept_by(&self, found: &Model) -> Result<(), String> {
        if self.after[self.acknowledged..].contains(found) {
            return Ok(());
        }
        let earlier = self.after.iter().position(|state| state == found);
        let (acknowledged, made) = (self.acknowledged, self.after.len() - 1);
        Err(format!(
            "{acknowledged} of {made} were acknowledged; found the state after {earlier:?}"
        ))
    }
}

impl Trial {
    fn new() -> Trial {
        Trial::with_tables_after(DUE)
    }

    fn with_tables_after(due: usize) -> Trial {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let failures = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&failures);
        let count = Box::new(move |_: &str| _ = told.fetch_add(1, Ordering::SeqCst));
        let (log, tables) = (disk.file(Name::Log), disk.file(Name::Tables));
        let opened = Backing::open_on(directory.path(), log, tables, NOW, due, count).unwrap();
        assert_eq!(Model::of(&opened.restored), Model::default());
        let promises = Promises { after: vec![Model::default()], acknowledged: 0 };
        Trial { directory, disk, backing: opened.backing, failures, promises }
    }

    /// Hands batches on, some at a time, until all are or one is refused; keeps count of what was acknowledged.
    fn run(&mut self, seed: u64, batches: usize) {
        let (mut hand, mut dice) = (Hand::new(seed), Dice::new(seed ^ 0xabc));
        let mut left = batches;
        while left > 0 {
            let together = usize::try_from(1 + dice.below(4)).unwrap().min(left);
            left -= together;
            let heard: Vec<_> = (0..together).map(|_| self.submit(hand.batch())).collect();
            for reply in heard {
                match reply.and_then(|reply| reply.recv().unwrap()) {
                    Ok(()) => self.promises.acknowledged += 1,
                    Err(StoreFailed) => left = 0,
                }
            }
        }
        if self.backing.health() == Health::Failed {
            assert!(self.submit(hand.batch()).is_err(), "nothing is promised after a failure");
        }
    }

    fn submit(&mut self, batch: Batch) -> Result<Heard, StoreFailed> {
        let after = self.promises.after.last().unwrap().after(&batch);
        let (reply, heard) = reply();
        self.backing.submit(batch, Some(reply))?;
        self.promises.after.push(after);
        Ok(heard)
    }

    /// Waits until the store has failed and that was said, which is after it is in force.
    fn fails_and_says_so_once(&self) {
        eventually("the store fails", || self.backing.health() == Health::Failed);
        eventually("that is said", || self.failures.load(Ordering::SeqCst) > 0);
        assert_eq!(self.failures.load(Ordering::SeqCst), 1, "said once");
    }

    /// Ends the process.
    fn end(self) -> (TempDir, Disk, Promises) {
        self.backing.close();
        (self.directory, self.disk, self.promises)
    }
}

type Heard = Receiver<Result<(), StoreFailed>>;

fn reply() -> (Reply, Heard) {
    let (told, heard) = channel();
    (Box::new(move |result| told.send(result).unwrap_or_default()), heard)
}

fn open_on(directory: &Path, disk: &Disk) -> Result<OpenedBacking, OpenProblem> {
    let (log, tables) = (disk.file(Name::Log), disk.file(Name::Tables));
    Backing::open_on(directory, log, tables, NOW, DUE, Box::new(|_| {}))
}

/// The state that another process finds.
fn found_on(directory: &Path, image: Image) -> Result<Model, OpenProblem> {
    open_on(directory, &Disk::holding(image)).map(|opened| Model::of(&opened.restored))
}

/// Waits until it is so: for what the tables do in their own time.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not in ten seconds: {what}");
}

/// A trial that goes wrong at its nth operation, and is opened again after a power cut. Whether it went wrong.
fn trial(seed: u64, batches: usize, at: u64, fault: Fault) -> bool {
    let mut trial = Trial::new();
    trial.disk.fail_after(at, fault);
    trial.run(seed, batches);
    let came = trial.disk.has_failed();
    if came {
        // The tables may be those who met it.
        trial.fails_and_says_so_once();
    }
    if trial.backing.health() == Health::Up {
        assert_eq!(trial.promises.acknowledged, batches);
    }
    let mut dice = Dice::new(seed.wrapping_add(at));
    let image = trial.disk.after_power_cut(|| dice.roll());
    let (directory, _, promises) = trial.end();
    let found = found_on(directory.path(), image);
    let found = found.unwrap_or_else(|why| panic!("seed {seed}, {fault:?} at {at}: {why}"));
    promises
        .are_kept_by(&found)
        .unwrap_or_else(|why| panic!("seed {seed}, {fault:?} at {at}: {why}"));
    came
}

#[test]
fn a_power_cut_at_any_write_or_sync_leaves_whole_batches_and_all_that_were_acknowledged() {
    // How many operations there are is not the same every time: the tables' come in between the log's.
    let came = (0..60).filter(|at| trial(1, 20, *at, Fault::PowerCut)).count();
    assert!(came > 20, "{came} operations");
    let mut dice = Dice::new(7);
    for seed in 2..30 {
        trial(seed, 40, dice.below(60), Fault::PowerCut);
    }
}

#[test]
fn a_power_cut_during_a_recovery_loses_nothing_either() {
    for cut in 0..30 {
        let mut trial = Trial::new();
        trial.disk.fail_after(90 + cut, Fault::PowerCut);
        trial.run(cut, 30);
        let mut dice = Dice::new(cut);
        let image = trial.disk.after_power_cut(|| dice.roll());
        let (directory, _, promises) = trial.end();
        let disk = Disk::holding(image);
        disk.fail_after(cut, Fault::PowerCut);
        drop(open_on(directory.path(), &disk));
        let image = disk.after_power_cut(|| dice.roll());
        let found = found_on(directory.path(), image).unwrap();
        promises.are_kept_by(&found).unwrap_or_else(|why| panic!("cut {cut}: {why}"));
    }
}

#[test]
fn a_failed_write_or_sync_fails_the_store_and_nothing_is_falsely_acknowledged() {
    for (code, first) in [(EIO, 0), (ENOSPC, 1), (EROFS, 2)] {
        for at in (first..80).step_by(5) {
            trial(u64::try_from(code).unwrap(), 10, at, Fault::Error(code));
        }
    }
}

#[test]
fn a_panic_of_the_library_is_a_failure_and_leaves_the_thread_alone() {
    for at in [0, 3, 10, 15] {
        assert!(trial(3, 30, at, Fault::Panic));
    }
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let mut trial = Trial::new();
    trial.run(11, 30);
    let image = trial.disk.after_kill();
    let (directory, _, promises) = trial.end();
    let found = found_on(directory.path(), image).unwrap();
    assert_eq!(Some(&found), promises.after.last());
}

#[test]
fn a_flipped_bit_or_a_missing_end_is_harmless_or_refused_and_never_less() {
    for (seed, after_a_kill) in [(5, true), (6, false)] {
        let mut trial = Trial::new();
        trial.run(seed, 25);
        let killed = trial.disk.after_kill();
        let (directory, disk, promises) = trial.end();
        let image = if after_a_kill { killed } else { disk.after_kill() };
        let full = promises.after.last().unwrap();
        let mut dice = Dice::new(seed);
        let (mut harmless, mut refused) = (0, 0);
        for nth in 0..250 {
            let mut damaged = image.clone();
            let name = if nth % 2 == 0 { Name::Log } else { Name::Tables };
            let file = damaged.of(name);
            let place = usize::try_from(dice.below(file.len() as u64)).unwrap();
            // The heads of the halves of the log and of the tables, of which every bit means much.
            let head = match (name, nth % 4) {
                (Name::Log, 0) => HALF,
                (Name::Log, _) => 0,
                (Name::Tables, _) => BEFORE_TABLES,
            };
            match nth % 10 {
                0 | 1 => file.truncate(place),
                2 | 3 => file[head + place % 512] ^= 1 << dice.below(8),
                4 | 5 => file[head + place % 65_536] ^= 1 << dice.below(8),
                6 | 7 => file[place] ^= 1 << dice.below(8),
                _ => file[place..].iter_mut().take(4096).for_each(|byte| *byte = 0),
            }
            match found_on(directory.path(), damaged) {
                Ok(found) => {
                    assert_eq!(
                        &found, full,
                        "damage {nth} of {name:?} at {place}, kill: {after_a_kill}"
                    );
                    harmless += 1;
                }
                Err(OpenProblem::Corrupt { .. } | OpenProblem::Unusable { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(harmless > 20 && refused > 20, "{harmless} harmless, {refused} refused");
    }
}

/// The record of an answer of so many bytes.
fn answered(name: u128, bytes: usize) -> Batch {
    smallvec![Op::Record(RecordId(name), Box::new(record(answer(bytes))))]
}

#[test]
fn commits_do_not_wait_for_the_tables_and_lose_nothing_while_those_are_at_it() {
    for seed in 0..8 {
        let mut trial = Trial::new();
        trial.disk.hold(Name::Tables);
        trial.run(seed, 30);
        assert_eq!(trial.promises.acknowledged, 30, "somebody waits");
        let mut dice = Dice::new(seed);
        let images = [trial.disk.after_kill(), trial.disk.after_power_cut(|| dice.roll())];
        trial.disk.release();
        let (directory, _, promises) = trial.end();
        for image in images {
            let found = found_on(directory.path(), image).unwrap();
            assert_eq!(Some(&found), promises.after.last(), "seed {seed}");
        }
    }
}

#[test]
fn where_the_log_is_full_commits_wait_for_the_tables_and_lose_nothing() {
    let mut trial = Trial::new();
    trial.disk.hold(Name::Tables);
    // Three in each half.
    let heard: Vec<_> =
        (0..10).map(|name| trial.submit(answered(name, HALF / 4)).unwrap()).collect();
    for heard in &heard[..6] {
        assert_eq!(heard.recv(), Ok(Ok(())));
    }
    assert!(heard[6].recv_timeout(Duration::from_millis(200)).is_err(), "there is no room for it");
    assert_eq!(trial.backing.health(), Health::Up);
    let (killed, elsewhere) = (trial.disk.after_kill(), tempfile::tempdir().unwrap());
    copy_beside(trial.directory.path(), elsewhere.path());
    trial.disk.release();
    assert!(heard[6..].iter().all(|heard| heard.recv() == Ok(Ok(()))));
    let later = trial.disk.after_kill();
    let (directory, _, promises) = trial.end();
    let found = found_on(elsewhere.path(), killed).unwrap();
    assert!(promises.after[6..].contains(&found), "one of the six is lost");
    assert_eq!(Some(&found_on(directory.path(), later).unwrap()), promises.after.last());
}

#[test]
fn a_batch_that_no_half_holds_goes_into_the_tables_at_once() {
    for before in [0, 1, 3] {
        let mut trial = Trial::new();
        let sizes = (0..before).map(|_| 100).chain([HALF + 1, 100, HALF / 2, HALF, 7]);
        for (name, bytes) in (0..).zip(sizes) {
            let heard = trial.submit(answered(name, bytes)).unwrap();
            assert_eq!(heard.recv(), Ok(Ok(())));
            trial.promises.acknowledged += 1;
            let mut dice = Dice::new(before);
            for image in [trial.disk.after_kill(), trial.disk.after_power_cut(|| dice.roll())] {
                let elsewhere = tempfile::tempdir().unwrap();
                copy_beside(trial.directory.path(), elsewhere.path());
                let found = found_on(elsewhere.path(), image).unwrap();
                trial.promises.are_kept_by(&found).unwrap();
            }
        }
    }
}

/// Copies what stands in a directory beside the data.
fn copy_beside(from: &Path, to: &Path) {
    for name in ["format", "acknowledged"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn tables_that_fail_fail_the_store_until_it_is_opened_again_and_lose_nothing() {
    let mut trial = Trial::new();
    trial.disk.break_file(Name::Tables);
    trial.run(4, 100);
    trial.fails_and_says_so_once();
    assert!(trial.submit(sighting(1)).is_err(), "nothing is promised any more");
    assert!(trial.promises.acknowledged > 0, "the log works");
    let image = trial.disk.after_kill();
    let (directory, _, promises) = trial.end();
    promises.are_kept_by(&found_on(directory.path(), image).unwrap()).unwrap();
}

/// Keeps the journal's thread busy until the sender is dropped.
fn hold_up(backing: &Backing) -> std::sync::mpsc::Sender<()> {
    let (release, held) = channel::<()>();
    let (told, busy) = channel();
    let wait: Reply = Box::new(move |_| {
        told.send(()).unwrap();
        let _ = held.recv();
    });
    backing.submit(Batch::new(), Some(wait)).unwrap();
    busy.recv().unwrap();
    release
}

fn sighting(key: u128) -> Batch {
    smallvec![Op::Seen(SubjectKey(key), Wall(1))]
}

#[test]
fn all_that_waits_meanwhile_becomes_durable_with_one_sync() {
    let trial = Trial::with_tables_after(1000);
    let release = hold_up(&trial.backing);
    let (before, figures) = (trial.disk.syncs(), trial.backing.figures());
    let waiting: Vec<Heard> = (0..100)
        .map(|key| {
            let (reply, heard) = reply();
            trial.backing.submit(sighting(key), Some(reply)).unwrap();
            heard
        })
        .collect();
    drop(release);
    assert!(waiting.iter().all(|heard| heard.recv().unwrap().is_ok()));
    assert_eq!(trial.disk.syncs() - before, 1);
    let JournalFigures { commits, batches } = trial.backing.figures();
    assert_eq!((commits - figures.commits, batches - figures.batches), (1, 100));
}

#[test]
fn a_full_channel_refuses_a_batch_and_does_not_fail_the_store() {
    let trial = Trial::new();
    let release = hold_up(&trial.backing);
    let mut sent = 0;
    while trial.backing.submit(sighting(sent), None).is_ok() {
        sent += 1;
        assert!(sent < 100_000, "the channel is bounded");
    }
    assert_eq!(trial.backing.health(), Health::Up);
    drop(release);
    trial.backing.close();
    let (directory, disk, _) = trial.end();
    let seen = open_on(directory.path(), &disk).unwrap().restored.seen;
    assert_eq!(seen.len() as u128, sent);
}

#[test]
fn what_nobody_waits_for_becomes_durable_by_itself() {
    let trial = Trial::new();
    let before = trial.disk.syncs();
    trial.backing.submit(sighting(1), None).unwrap();
    // A second by what is promised; more on a machine that is busy.
    for _ in 0..500 {
        if trial.disk.syncs() > before {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not durable in five seconds");
}

#[test]
fn a_reply_may_be_the_last_to_hold_the_journal() {
    let Trial { directory, disk, backing, .. } = Trial::new();
    let (backing, (told, heard)) = (Arc::new(backing), channel());
    let (let_go, gone) = channel::<()>();
    let held = Arc::clone(&backing);
    let last: Reply = Box::new(move |_| {
        let _ = gone.recv();
        drop(held);
        told.send(()).unwrap();
    });
    backing.submit(sighting(1), Some(last)).unwrap();
    drop(backing);
    drop(let_go);
    heard.recv().unwrap();
    // The thread lets go of the directory in its own time.
    for _ in 0..500 {
        if let Ok(opened) = open_on(directory.path(), &disk) {
            assert_eq!(opened.restored.seen.len(), 1);
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the directory is still locked");
}

#[test]
fn no_backing_forgets_and_says_so() {
    let backing = Backing::None;
    assert!(!backing.remembers());
    let (reply, heard) = reply();
    backing.submit(sighting(1), Some(reply)).unwrap();
    assert_eq!(heard.try_recv(), Ok(Ok(())), "told at once");
    backing.close();
    assert_eq!((backing.health(), backing.figures()), (Health::Up, JournalFigures::default()));
}
