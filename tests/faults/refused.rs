//! What is refused was never there, for those who look at the same moment too: nothing is taken and then given back.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tollgate::clock::{Now, Steady, Wall};
use tollgate::policy::calendar::Period;
use tollgate::policy::limit::{
    Ceiling, LimitId, LimitIx, Mode, OnStoreFailure, SubjectKey, Window,
};
use tollgate::policy::order::{Ask, Asks};
use tollgate::store::{Backing, Ledger, Opening, Order, Restored};

/// Races; each is lost by chance only, and one that is lost ends them.
const RACES: u64 = 30_000;
/// Those who ask for what they are refused, all the time.
const RIVALS: usize = 3;

fn ask(limit: u16, subject: u128, units: u64) -> Ask {
    let period = 60_000_000_000;
    Ask {
        limit: LimitIx(limit),
        id: LimitId(u64::from(limit) + 1),
        subject: SubjectKey(subject),
        crowded: None,
        ceiling: Ceiling { window: Window::Sliding, units, period, burst: units },
        weight: 1,
        mode: Mode::Enforce,
        period: Period::default(),
        on_store_failure: OnStoreFailure::Local,
    }
}

#[test]
fn a_request_that_one_limit_refuses_takes_no_others_last_unit_for_a_moment() {
    let ledger = Ledger::new(1_000_000, Backing::None, Restored::default());
    let now = Now { steady: Steady(1), wall: Wall(1) };
    let (race, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let lost = thread::scope(|scope| {
        for _ in 0..RIVALS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // One unit of the subject of the moment, and a limit that has none.
                    let subject = u128::from(race.load(Ordering::Relaxed));
                    let asks = Rc::new(Asks::from_slice(&[ask(0, subject, 1), ask(1, subject, 0)]));
                    assert!(matches!(ledger.open(now, &Order::of(&asks)), Opening::Refused(_)));
                }
            });
        }
        let lost = (1..=RACES).find(|number| {
            race.store(*number, Ordering::Relaxed);
            // The rivals need a moment to see whose turn it is.
            thread::yield_now();
            let asks = Rc::new(Asks::from_slice(&[ask(0, u128::from(*number), 1)]));
            matches!(ledger.open(now, &Order::of(&asks)), Opening::Refused(_))
        });
        over.store(true, Ordering::Relaxed);
        lost
    });
    assert_eq!(lost, None, "a unit that nobody else could have had");
}
