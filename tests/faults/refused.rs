//! What is refused was never there, for those who look at the same moment too: nothing is taken and then given back.

use std::sync::Barrier;
use std::thread;

use tollgate::clock::{Now, Steady, Wall};
use tollgate::policy::calendar::Period;
use tollgate::policy::limit::{
    Ceiling, LimitId, LimitIx, Mode, OnStoreFailure, SubjectKey, Window,
};
use tollgate::policy::order::{Ask, Asks};
use tollgate::store::{Backing, Ledger, Opening, Order, Restored};

/// Races; each is lost by chance only.
const RACES: u128 = 3000;

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
    let (start, done) = (Barrier::new(2), Barrier::new(2));
    let lost = thread::scope(|scope| {
        scope.spawn(|| {
            for race in 0..RACES {
                // One unit of its own, and a limit that has none.
                let asks = Asks::from_slice(&[ask(0, race, 1), ask(1, race, 0)]);
                start.wait();
                for _ in 0..20 {
                    assert!(matches!(ledger.open(now, &Order::of(&asks)), Opening::Refused(_)));
                }
                done.wait();
            }
        });
        let race = |race: u128| {
            let asks = Asks::from_slice(&[ask(0, race, 1)]);
            start.wait();
            let opening = ledger.open(now, &Order::of(&asks));
            done.wait();
            matches!(opening, Opening::Refused(_))
        };
        (0..RACES).filter(|number| race(*number)).count()
    });
    assert_eq!(lost, 0, "of {RACES} units that nobody else could have had");
}
