//! Decisions beside a store that fails: nothing is promised that nobody will remember, and nothing is spent on it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use tollgate::clock::Wall;
use tollgate::policy::calendar::{CalendarIx, Period};
use tollgate::policy::charge::{ChargeRule, Stated, Verdict};
use tollgate::policy::limit::{
    Ceiling, LimitId, LimitKind, Mode, OnStoreFailure, SubjectKey, Window,
};
use tollgate::policy::order::{Ask, Asks};
use tollgate::store::{
    Act, ActProblem, Backing, Batch, Completion, Found, Health, Ledger, MeterId, Named, Opening,
    RecordOccupancy, Restored,
};

use super::{Ground, ask, at, claim, commit, in_directory, open, party, waiting};

/// A disk that stops working when it is told to.
#[derive(Debug)]
struct Frail {
    disk: InMemoryBackend,
    is_broken: Arc<AtomicBool>,
}

impl StorageBackend for Frail {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(offset, data)
    }
}

const PERIOD: Period = Period { from: Wall(0), until: Wall(86_400_000) };

fn rate() -> Ask {
    let rate = ask(0, 1, Window::Sliding, 10);
    let ceiling = Ceiling { period: 1_000_000_000, ..rate.ceiling };
    Ask { ceiling, on_store_failure: OnStoreFailure::Local, ..rate }
}

fn quota(on_store_failure: OnStoreFailure) -> Ask {
    let quota = ask(1, 1, Window::Quota(CalendarIx(0)), 1_000);
    Ask { period: PERIOD, on_store_failure, ..quota }
}

fn spend(weight: u64) -> Ask {
    Ask { period: PERIOD, weight, ..ask(2, 1, Window::Spend(CalendarIx(0)), 1_000) }
}

/// A ledger whose store fails when the switch is thrown, and something tries to be durable.
fn frail() -> (Arc<Ledger>, Arc<AtomicBool>, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let is_broken = Arc::new(AtomicBool::new(false));
    let file = || Frail { disk: InMemoryBackend::new(), is_broken: Arc::clone(&is_broken) };
    let opened = Backing::open_on(directory.path(), file(), file(), at(0), 1, Box::new(|_| {}));
    let opened = opened.expect("it works as yet");
    (Ledger::new(100, opened.backing, opened.restored), is_broken, directory)
}

/// Takes money while the disk breaks, and gives it back as a worker would.
fn fail(ledger: &Ledger, is_broken: &AtomicBool) {
    is_broken.store(true, Ordering::SeqCst);
    let all = Asks::from_slice(&[spend(7), quota(OnStoreFailure::Deny), rate()]);
    let Opening::Admitted(mut reservation, _) = open(ledger, at(1), &all, Some(&claim(1, 1)))
    else {
        panic!("nobody knows yet");
    };
    assert!(reservation.needs_commit());
    let (told, wait) = std::sync::mpsc::channel();
    let reply = Box::new(move |result| told.send(result).expect("somebody waits"));
    reservation.commit(ledger, party(), reply).expect("it is on its way");
    assert!(wait.recv().expect("it is told").is_err());
    reservation.release(ledger);
    assert_eq!(ledger.backing().health(), Health::Failed);
}

#[test]
fn a_commit_that_fails_leaves_nothing_taken_and_no_record() {
    let (ledger, is_broken, _directory) = frail();
    fail(&ledger, &is_broken);
    for ask in [spend(7), quota(OnStoreFailure::Deny), rate()] {
        assert_eq!(ledger.peek(at(1), &ask).used, 0, "{:?}", ask.ceiling.window);
    }
    assert_eq!(ledger.records(), RecordOccupancy::default());
    assert!(ledger.unresolved().is_empty());
}

#[test]
fn after_a_failure_each_limit_does_as_it_says() {
    let (ledger, is_broken, _directory) = frail();
    fail(&ledger, &is_broken);
    let one = |all: &[Ask]| open(&ledger, at(1), &Asks::from_slice(all), None);
    assert!(matches!(one(&[rate(), quota(OnStoreFailure::Deny)]), Opening::StoreFailed(_)));
    assert!(matches!(one(&[spend(1)]), Opening::StoreFailed(_)));
    assert_eq!(ledger.peek(at(1), &rate()).used, 0, "nothing is taken beside a refusal");

    let Opening::Admitted(local, readings) = one(&[rate(), quota(OnStoreFailure::Local)]) else {
        panic!("it decides in memory");
    };
    assert!(!local.needs_commit(), "there is nothing to wait for");
    assert_eq!((readings[0].used, readings[1].used), (1, 1));
    local.close(&ledger);

    let spent = Ask { weight: 5_000, ..quota(OnStoreFailure::Allow) };
    let Opening::Admitted(allowed, readings) = one(&[spent, rate()]) else {
        panic!("it is not asked");
    };
    assert_eq!((readings[0].used, readings[0].admits, readings[1].used), (0, true, 2));
    allowed.close(&ledger);

    let shadow = Ask { mode: Mode::Shadow, ..spend(1) };
    assert!(matches!(one(&[shadow]), Opening::Admitted(..)), "a shadow never refuses");
    assert!(matches!(one(&[spend(0)]), Opening::Admitted(..)), "nothing is charged");
}

#[test]
fn after_a_failure_no_claim_and_no_act_is_accepted() {
    let (ledger, is_broken, _directory) = frail();
    fail(&ledger, &is_broken);
    let opening = open(&ledger, at(1), &Asks::from_slice(&[rate()]), Some(&claim(1, 2)));
    assert!(matches!(opening, Opening::StoreFailed(_)), "{opening:?}");
    assert_eq!(ledger.records(), RecordOccupancy::default());
    let meter = MeterId { limit: LimitId(9), kind: LimitKind::Credit, subject: SubjectKey(1) };
    let named = Some(Named { id: "one".into(), answer: "{}".into() });
    let (reply, _) = waiting();
    let done = ledger.act(at(1), Act::TopUp { meter, amount: 5 }, named, reply);
    assert_eq!((done, ledger.acted("one")), (Err(ActProblem::StoreFailed), None));
}

#[test]
fn after_a_failure_what_is_known_of_earlier_requests_is_told_as_before() {
    let (ledger, is_broken, _directory) = frail();
    let asks = Asks::from_slice(&[rate()]);
    let early = claim(1, 2);
    let Opening::Admitted(mut first, _) = open(&ledger, at(1), &asks, Some(&early)) else {
        panic!("it is the first");
    };
    let (reply, wait) = waiting();
    first.commit(&ledger, party(), reply).expect("it is on its way");
    wait();
    first.committed(&ledger);
    first.sending();
    let rule = ChargeRule::default();
    let _ = first.learned(&ledger, Verdict::of_status(200), &rule, Stated::Unasked);
    first.complete(&ledger, Completion::NotReplayable);
    first.close(&ledger);

    fail(&ledger, &is_broken);
    let again = open(&ledger, at(1), &asks, Some(&early));
    assert!(matches!(again, Opening::Repeated(Found::NotReplayable, _)), "{again:?}");
}

#[test]
fn an_act_of_one_name_is_done_once() {
    for Ground { ledger, .. } in &super::grounds(at(0)) {
        let meter =
            MeterId { limit: LimitId(102), kind: LimitKind::Credit, subject: SubjectKey(1) };
        for _ in 0..3 {
            let (reply, wait) = waiting();
            let named = Some(Named { id: "one".into(), answer: "done".into() });
            let act = Act::TopUp { meter, amount: 5 };
            assert_eq!(ledger.act(at(1), act, named, reply), Ok(()));
            wait();
            assert_eq!(ledger.acted("one").as_deref(), Some("done"));
        }
        assert_eq!(ledger.peek(at(1), &ask(2, 1, Window::Prepaid, 0)).remaining, 5);
    }
}

#[test]
fn few_requests_wait_for_a_block_and_none_passes_before_its_block_is_durable() {
    let Ground { ledger, .. } = &in_directory(at(0));
    let all = Asks::from_slice(&[quota(OnStoreFailure::Deny)]);
    let mut waited = 0;
    for _ in 0..1_000 {
        let Opening::Admitted(mut reservation, _) = open(ledger, at(1), &all, None) else {
            panic!("it is within its quota");
        };
        waited += u64::from(reservation.needs_commit());
        commit(ledger, &mut reservation);
        reservation.sending();
        reservation.close(ledger);
    }
    assert!((100..400).contains(&waited), "{waited} of 1000 waited");
    let late = open(ledger, at(1), &all, None);
    assert!(matches!(late, Opening::Refused(_)));

    let other = Asks::from_slice(&[Ask { subject: SubjectKey(2), ..all[0] }]);
    let take = || match open(ledger, at(1), &other, None) {
        Opening::Admitted(reservation, _) => reservation,
        refused => panic!("{refused:?}"),
    };
    let (first, second) = (take(), take());
    assert!(first.needs_commit() && second.needs_commit(), "a block on its way is not durable");
    first.release(ledger);
    second.release(ledger);
}

#[test]
fn a_claim_on_a_fresh_ledger_is_free_again_once_it_is_released() {
    let ledger = Ledger::new(100, Backing::None, Restored::default());
    for _ in 0..3 {
        let none = Asks::new();
        let Opening::Admitted(reservation, _) = open(&ledger, at(1), &none, Some(&claim(1, 1)))
        else {
            panic!("it is fresh");
        };
        assert_eq!(ledger.records().in_flight, 1);
        reservation.release(&ledger);
        assert_eq!(ledger.records(), RecordOccupancy::default());
    }
}

#[test]
fn what_a_full_channel_kept_from_the_store_is_handed_on_another_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let start = |now| {
        let opened = Backing::open(directory.path(), now, Box::new(|why| panic!("{why}")));
        let opened = opened.expect("it can be opened");
        Ledger::new(100, opened.backing, opened.restored)
    };
    let ledger = start(at(0));
    let opening = open(&ledger, at(1), &Asks::from_slice(&[rate()]), None);
    assert!(matches!(opening, Opening::Admitted(..)));
    ledger.saw(SubjectKey(77), Wall(1));
    // The store's thread hangs in a reply, until the gate opens.
    let (gate, hangs) = std::sync::mpsc::channel::<()>();
    let (told, wait) = std::sync::mpsc::channel();
    let reply = Box::new(move |_| {
        told.send(()).expect("somebody waits");
        let _ = hangs.recv();
    });
    ledger.backing().submit(Batch::new(), Some(reply)).expect("there is room");
    wait.recv().expect("it hangs now");
    while ledger.backing().submit(Batch::new(), None).is_ok() {}
    ledger.flush(at(2));
    drop(gate);
    let (told, wait) = std::sync::mpsc::channel();
    let mut sent = false;
    while !sent {
        let told = told.clone();
        let reply = Box::new(move |result| told.send(result).expect("somebody waits"));
        sent = ledger.backing().submit(Batch::new(), Some(reply)).is_ok();
    }
    assert!(wait.recv().expect("it is told").is_ok());
    ledger.flush(at(3));
    ledger.backing().close();
    let again = start(at(4));
    assert_eq!(again.peek(at(4), &rate()).used, 1);
    assert!(again.last_seen(SubjectKey(77)).is_some());
}
