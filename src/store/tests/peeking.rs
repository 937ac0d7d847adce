//! What a look that takes nothing says: as much as asking would, or nothing.

use crate::policy::order::{Heard, Reading};
use crate::store::Refuser;

use super::*;

/// The refuser, if the ask at this place said no and all others yes.
fn refuser(ledger: &Ledger, all: &[Ask], place: usize) -> Option<Refuser> {
    let said = |at| Reading {
        whole: 1,
        used: 1,
        remaining: 0,
        admits: at != place,
        wait: None,
        more_in: None,
    };
    let readings: Readings = (0..all.len()).map(said).collect();
    ledger.refuser(Heard { asks: all, readings: &readings })
}

/// Whether this refuser refuses them all again, with what all of them say then.
fn again(ledger: &Ledger, now: Now, all: &[Ask], refuser: &Refuser) -> Option<Readings> {
    let mut readings = Readings::new();
    let asks = asks(all);
    ledger.refuses_again(now, &Order::of(&asks), refuser, &mut readings).then_some(readings)
}

#[test]
fn a_look_at_the_limit_that_refused_says_what_asking_all_of_them_would() {
    let ledger = ledger();
    let all = [
        ask(0, 1, Window::Bucket, 10),
        ask(1, 2, Window::Sliding, 10),
        shadow(ask(2, 2, Window::Fixed, 1)),
        ask(3, 3, Window::Concurrent, 10),
        ask(4, 1, Window::Sliding, 2),
    ];
    assert!(refuser(&ledger, &all, 4).is_none(), "nobody was here yet");
    assert!(passes(&ledger, at(0), &all));
    let last = refuser(&ledger, &all, 4).expect("all have their cells");
    assert!(again(&ledger, at(1), &all, &last).is_none(), "it admits");
    assert!(passes(&ledger, at(1), &all));
    for now in [2, MINUTE / 2, MINUTE - 1] {
        let looked = again(&ledger, at(now), &all, &last).expect("refused");
        assert_eq!(looked, refused(ledger.open(at(now), &Order::of(&asks(&all)))));
        let first = refuser(&ledger, &all, 0).expect("it is said to have refused");
        assert!(again(&ledger, at(now), &all, &first).is_none(), "that one has never refused");
        assert!(again(&ledger, at(now), &all[..3], &last).is_none(), "it is not asked");
        assert!(again(&ledger, at(now), &[], &last).is_none(), "none is asked");
        assert!(refuser(&ledger, &all, 2).is_none(), "a shadow refuses nobody");
        assert!(refuser(&ledger, &all, 9).is_none(), "there is none");
    }
    assert!(again(&ledger, at(MINUTE), &all, &last).is_none(), "the first has left its window");
    assert!(passes(&ledger, at(MINUTE), &all));
}

#[test]
fn a_look_decides_nothing_where_a_cell_was_swept_or_counts_otherwise_or_for_a_crowd() {
    let ledger = ledger();
    let (busy, idle) = (ask(0, 1, Window::Sliding, 1), ask(1, 2, Window::Fixed, 9));
    assert!(passes(&ledger, at(0), &[idle]) && passes(&ledger, at(MINUTE), &[busy]));
    let first = refuser(&ledger, &[busy, idle], 0).expect("both have their cells");
    assert!(again(&ledger, at(MINUTE + 1), &[busy, idle], &first).is_some());
    let other = ask(1, 2, Window::Bucket, 9);
    assert!(again(&ledger, at(MINUTE + 1), &[busy, other], &first).is_none());
    ledger.sweep(at(MINUTE + 1), 10);
    assert!(again(&ledger, at(MINUTE + 1), &[busy, idle], &first).is_none());
    assert!(refuser(&ledger, &[busy, idle], 0).is_none());
    // Another subject has the cell now.
    assert!(passes(&ledger, at(MINUTE + 1), &[ask(1, 3, Window::Fixed, 9)]));
    assert!(again(&ledger, at(MINUTE + 1), &[busy, idle], &first).is_none());
    let crowded = Ledger::new(0, Backing::None, Restored::default());
    let strangers: Vec<Ask> = (1..200).map(|at| stranger(at, 1_000, 1)).collect();
    assert!(strangers.iter().any(|one| !passes(&crowded, at(0), &[*one])));
    let last = &strangers[198..];
    refused(crowded.open(at(0), &Order::of(&asks(last))));
    assert!(refuser(&crowded, last, 0).is_none());
}

#[test]
fn what_is_shown_is_what_each_limit_says_by_name() {
    let ledger = ledger();
    let all = [ask(0, 1, Window::Bucket, 10), ask(1, 2, Window::Sliding, 10)];
    for known in [false, true] {
        let mut shown = Readings::new();
        ledger.peek_each(at(1), &all, None, &mut shown);
        let named: Vec<_> = all.iter().map(|ask| ledger.peek(at(1), ask)).collect();
        assert_eq!(shown.as_slice(), named);
        assert_eq!(shown[0].used, u64::from(known));
        assert_eq!(passes(&ledger, at(0), &all), !known || shown[0].admits);
    }
}
