//! What the suites of decisions share: ledgers on every backing, and requests that go their way.

mod event;
mod exchange;
mod failing;
mod model;
mod random;
mod restarted;
mod threads;
mod world;

use std::rc::Rc;
use std::sync::{Arc, mpsc};

use tollgate::clock::{Now, Steady, Wall};
use tollgate::policy::calendar::Period;
use tollgate::policy::idempotency::{BodyPrint, HeadPrint, OnUnknown, RecordBounds, RecordId};
use tollgate::policy::limit::{
    Ceiling, LimitId, LimitIx, Mode, OnStoreFailure, SubjectKey, Window,
};
use tollgate::policy::order::{Ask, Asks};
use tollgate::store::{
    Backing, Claim, KeptAnswer, Ledger, Opening, Order, Party, PartyNames, Reply, Reservation,
    Restored,
};

/// A ledger, and what must live as long as it does.
pub(crate) struct Ground {
    pub(crate) ledger: Arc<Ledger>,
    _directory: Option<tempfile::TempDir>,
}

/// An empty ledger on each backing, all opened at `now`.
pub(crate) fn grounds(now: Now) -> [Ground; 2] {
    [in_memory(), in_directory(now)]
}

pub(crate) fn in_memory() -> Ground {
    let ledger = Ledger::new(1_000, Backing::None, Restored::default());
    Ground { ledger, _directory: None }
}

/// Every reply is one synced commit.
pub(crate) fn in_directory(now: Now) -> Ground {
    let directory = tempfile::tempdir().expect("a directory");
    let on_failure = Box::new(|why: &str| panic!("{why}"));
    let opened = Backing::open(directory.path(), now, on_failure).expect("it can be opened");
    let ledger = Ledger::new(1_000, opened.backing, opened.restored);
    Ground { ledger, _directory: Some(directory) }
}

pub(crate) const BOUNDS: RecordBounds =
    RecordBounds { records: 100_000, per_tenant: 100_000, bytes: 1 << 20 };

pub(crate) fn at(ms: i64) -> Now {
    Now { steady: Steady(u64::try_from(ms).expect("after 1970") * 1_000_000), wall: Wall(ms) }
}

/// A party, a body and an answer: their contents never matter to a decision.
pub(crate) fn party() -> Party {
    Party::of(PartyNames { tenant: "t", key: "k", route: "r", request: "q" })
}

pub(crate) fn body() -> BodyPrint {
    BodyPrint { bytes: 3, digest: [7; 32] }
}

pub(crate) fn answer(bytes: usize) -> Arc<KeptAnswer> {
    Arc::new(KeptAnswer { status: 200, fields: Vec::new(), body: vec![b'x'; bytes].into() })
}

/// Something to wait for, and what it waits with.
pub(crate) fn waiting() -> (Reply, impl FnOnce()) {
    let (told, wait) = mpsc::channel();
    let reply: Reply = Box::new(move |result| told.send(result).expect("somebody waits"));
    (reply, move || wait.recv().expect("it is told once").expect("the store is up"))
}

/// Makes durable what must be.
pub(crate) fn commit(ledger: &Ledger, reservation: &mut Reservation) {
    if reservation.needs_commit() || reservation.holds_promise() {
        let (reply, wait) = waiting();
        reservation.commit(ledger, party(), reply).expect("the store is up");
        wait();
        reservation.committed(ledger);
    }
}

pub(crate) fn ask(limit: u16, subject: u128, window: Window, units: u64) -> Ask {
    Ask {
        limit: LimitIx(limit),
        id: LimitId(u64::from(limit) + 100),
        subject: SubjectKey(subject),
        crowded: None,
        ceiling: Ceiling { window, units, period: 0, burst: units },
        weight: 1,
        mode: Mode::Enforce,
        period: Period::default(),
        on_store_failure: OnStoreFailure::Deny,
    }
}

pub(crate) fn claim(tenant: u128, key: u128) -> Claim {
    Claim {
        id: RecordId(tenant * 1_000 + key),
        tenant: SubjectKey(tenant),
        head: HeadPrint([1; 32]),
        keep: 60_000,
        on_unknown: OnUnknown::Refuse,
    }
}

pub(crate) fn open(ledger: &Ledger, now: Now, asks: &Asks, claim: Option<&Claim>) -> Opening {
    let asks = &Rc::new(asks.clone());
    ledger.open(now, &Order { asks, claim, bounds: BOUNDS, caller: None })
}
