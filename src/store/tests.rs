mod peeking;

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use crate::clock::{Now, Steady, Wall};
use crate::policy::calendar::Period;
use crate::policy::charge::{ChargeRule, Stated, Verdict};
use crate::policy::limit::{Ceiling, LimitId, LimitIx, Mode, OnStoreFailure, SubjectKey, Window};
use crate::policy::order::{Ask, Asks, Readings};
use crate::policy::outcome::{Charge, Outcome, Settlement, Stage};

use super::cell::Cell;
use super::{Backing, Ledger, Opening, Order, Reservation, Restored};

const MINUTE: u64 = 60_000_000_000;

fn at(nanos: u64) -> Now {
    Now { steady: Steady(nanos), wall: Wall(0) }
}

fn ledger() -> Arc<Ledger> {
    Ledger::new(1_000, Backing::None, Restored::default())
}

fn ask(limit: u16, subject: u128, window: Window, units: u64) -> Ask {
    let period = if window == Window::Concurrent { 0 } else { MINUTE };
    Ask {
        limit: LimitIx(limit),
        id: LimitId(u64::from(limit) + 100),
        subject: SubjectKey(subject),
        crowded: None,
        ceiling: Ceiling { window, units, period, burst: units },
        weight: 1,
        mode: Mode::Enforce,
        period: Period::default(),
        on_store_failure: OnStoreFailure::Local,
    }
}

/// A stranger's subject: `network` is what it shares when there is no room.
fn stranger(subject: u128, network: u128, units: u64) -> Ask {
    let crowded = Some(SubjectKey(network));
    Ask { crowded, ..ask(0, subject, Window::Sliding, units) }
}

fn shadow(ask: Ask) -> Ask {
    Ask { mode: Mode::Shadow, ..ask }
}

fn learns(ledger: &Ledger, reservation: &mut Reservation, outcome: Outcome) -> Settlement {
    let verdict = Verdict::without_head(outcome);
    reservation.learned(ledger, verdict, &ChargeRule::default(), Stated::Unasked)
}

fn asks(all: &[Ask]) -> Rc<Asks> {
    Rc::new(Asks::from_slice(all))
}

fn admitted(opening: Opening) -> (Reservation, Readings) {
    match opening {
        Opening::Admitted(reservation, readings) => (reservation, readings),
        other => panic!("not admitted: {other:?}"),
    }
}

fn refused(opening: Opening) -> Readings {
    match opening {
        Opening::Refused(readings) => readings,
        other => panic!("not refused: {other:?}"),
    }
}

/// Opens at `now`, closes at once, and says whether it was admitted.
fn passes(ledger: &Ledger, now: Now, all: &[Ask]) -> bool {
    matches!(ledger.open(now, &Order::of(&asks(all))), Opening::Admitted(..))
}

#[test]
fn a_request_without_limits_is_admitted_and_leaves_no_trace() {
    let ledger = ledger();
    let (reservation, readings) = admitted(ledger.open(at(0), &Order::of(&asks(&[]))));
    assert!(readings.is_empty() && !reservation.needs_commit());
    assert_eq!(ledger.occupancy().cells, 0);
}

#[test]
fn readings_are_after_the_take_when_admitted_and_as_they_stand_when_refused() {
    let ledger = ledger();
    let one = ask(0, 1, Window::Bucket, 2);
    let (_, readings) = admitted(ledger.open(at(0), &Order::of(&asks(&[one]))));
    assert_eq!((readings[0].used, readings[0].remaining, readings[0].admits), (1, 1, true));
    let (_, readings) = admitted(ledger.open(at(0), &Order::of(&asks(&[one]))));
    assert_eq!((readings[0].used, readings[0].remaining), (2, 0));
    assert_eq!((readings[0].admits, readings[0].wait), (true, Some(0)));
    let readings = refused(ledger.open(at(0), &Order::of(&asks(&[one]))));
    assert_eq!((readings[0].used, readings[0].admits), (2, false));
    assert_eq!(readings[0].wait, Some(MINUTE / 2));
}

#[test]
fn a_refusal_by_one_limit_spends_none_of_the_others() {
    let ledger = ledger();
    let (wide, narrow) = (ask(0, 1, Window::Sliding, 10), ask(1, 2, Window::Fixed, 1));
    let same_cell = ask(2, 1, Window::Bucket, 10);
    let all = [wide, narrow, same_cell];
    assert!(passes(&ledger, at(0), &all));
    for _ in 0..5 {
        let readings = refused(ledger.open(at(1), &Order::of(&asks(&all))));
        assert_eq!(readings.iter().map(|r| r.used).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(readings.iter().map(|r| r.admits).collect::<Vec<_>>(), [true, false, true]);
    }
    assert_eq!(ledger.peek(at(1), &wide).used, 1);
}

#[test]
fn a_shadow_limit_never_vetoes_and_takes_only_if_it_would_have_admitted() {
    let ledger = ledger();
    let (wide, narrow) = (ask(0, 1, Window::Sliding, 3), shadow(ask(1, 2, Window::Sliding, 1)));
    let all = [wide, narrow];
    let (_, readings) = admitted(ledger.open(at(0), &Order::of(&asks(&all))));
    assert_eq!((readings[1].used, readings[1].admits), (1, true));
    for _ in 0..2 {
        let (_, readings) = admitted(ledger.open(at(0), &Order::of(&asks(&all))));
        assert_eq!((readings[1].used, readings[1].admits), (1, false));
    }
    let free = shadow(ask(3, 3, Window::Sliding, 5));
    let readings = refused(ledger.open(at(0), &Order::of(&asks(&[wide, free]))));
    assert_eq!(readings[1].used, 0, "a refused request spends nothing, in shadow either");
}

#[test]
fn a_slot_is_freed_once_whether_the_request_closes_or_is_dropped() {
    let ledger = ledger();
    let one = ask(0, 1, Window::Concurrent, 2);
    let open = || admitted(ledger.open(at(0), &Order::of(&asks(&[one])))).0;
    let (first, mut second) = (open(), open());
    assert_eq!(refused(ledger.open(at(0), &Order::of(&asks(&[one]))))[0].wait, None);
    drop(first);
    assert_eq!(ledger.peek(at(0), &one).used, 1);
    second.sending();
    let _ = learns(&ledger, &mut second, Outcome::Success);
    assert_eq!(ledger.peek(at(0), &one).used, 1, "open until the body has ended");
    second.close(&ledger);
    assert_eq!(ledger.peek(at(0), &one).used, 0);
    assert_eq!(ledger.sweep(at(0), 10).removed, 1);
}

#[test]
fn a_limit_that_changes_its_family_neither_leaks_a_slot_nor_frees_another_s() {
    let ledger = ledger();
    let (open, rate) = (ask(0, 1, Window::Concurrent, 5), ask(0, 1, Window::Bucket, 5));
    let early = admitted(ledger.open(at(0), &Order::of(&asks(&[open])))).0;
    assert!(passes(&ledger, at(0), &[rate]));
    let late = admitted(ledger.open(at(0), &Order::of(&asks(&[open])))).0;
    assert_eq!(ledger.peek(at(0), &open).used, 2);
    drop(early);
    assert_eq!(ledger.peek(at(0), &open).used, 1);
    drop(late);
    assert_eq!(ledger.peek(at(0), &open).used, 0);
    assert_eq!(ledger.peek(at(0), &rate).used, 1);
}

#[test]
fn a_rate_stays_taken_however_the_request_ends_unless_it_is_released() {
    let ledger = ledger();
    let one = ask(0, 1, Window::Sliding, 10);
    let open = || admitted(ledger.open(at(0), &Order::of(&asks(&[one])))).0;
    drop(open());
    let mut sent = open();
    sent.sending();
    assert_eq!(sent.stage(), Stage::Sending);
    drop(sent);
    let mut proved = open();
    proved.sending();
    let row = learns(&ledger, &mut proved, Outcome::NotProcessed);
    assert_eq!((row.rate, row.quota), (Charge::Kept, Charge::Back));
    proved.close(&ledger);
    assert_eq!(ledger.peek(at(0), &one).used, 3);
    open().release(&ledger);
    assert_eq!(ledger.peek(at(0), &one).used, 3, "released: as if it had never been there");
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "Learn(Success) in stage Held")]
fn an_outcome_of_what_was_never_sent_is_a_mistake_that_tests_see() {
    let ledger = ledger();
    let one = ask(0, 1, Window::Sliding, 10);
    let mut held = admitted(ledger.open(at(0), &Order::of(&asks(&[one])))).0;
    let _ = learns(&ledger, &mut held, Outcome::Success);
}

#[test]
fn a_changed_window_keeps_the_use() {
    let ledger = ledger();
    let windows = [Window::Bucket, Window::Sliding, Window::Fixed, Window::Bucket];
    for (used, window) in (1..).zip(windows) {
        let (_, readings) =
            admitted(ledger.open(at(5), &Order::of(&asks(&[ask(0, 1, window, 10)]))));
        assert_eq!(readings[0].used, used, "{window:?}");
    }
}

#[test]
fn a_cell_that_was_swept_and_given_to_another_counts_for_that_one_alone() {
    let ledger = ledger();
    let (one, other) = (ask(0, 1, Window::Sliding, 1), ask(0, 2, Window::Sliding, 1));
    assert!(passes(&ledger, at(0), &[one]));
    assert_eq!(ledger.sweep(at(MINUTE), 10).removed, 1);
    // It gets the only cell that is vacant, and the first one's way to it is still remembered.
    assert!(passes(&ledger, at(MINUTE), &[other]));
    assert!(passes(&ledger, at(MINUTE), &[one]) && !passes(&ledger, at(MINUTE), &[one]));
    assert!(!passes(&ledger, at(MINUTE), &[other]));
    assert_eq!(ledger.occupancy().cells, 2);
    assert!(passes(&ledger, at(2 * MINUTE), &[other, one]), "both together, in any order");
}

#[test]
fn peeking_makes_and_takes_nothing() {
    let ledger = ledger();
    let one = stranger(1, 9, 3);
    assert_eq!(ledger.peek(at(0), &one).remaining, 3);
    assert_eq!(ledger.occupancy().cells, 0);
}

#[test]
fn a_sweep_removes_what_is_idle_and_nothing_else_within_its_budget() {
    let ledger = ledger();
    for subject in 0..100 {
        assert!(passes(&ledger, at(0), &[stranger(subject, 1_000, 3)]));
    }
    let busy = stranger(7, 1_000, 3);
    assert!(passes(&ledger, at(MINUTE - 1), &[busy]));
    assert_eq!(ledger.occupancy().dynamic, 100);
    assert_eq!(ledger.sweep(at(MINUTE - 1), 1_000).removed, 0);
    let first = ledger.sweep(at(MINUTE), 40);
    assert_eq!((first.looked, first.removed), (40, 39));
    let rest = ledger.sweep(at(MINUTE), 1_000);
    assert_eq!((rest.looked, rest.removed), (61, 60));
    let left = ledger.occupancy();
    assert_eq!((left.cells, left.dynamic), (1, 1));
    assert_eq!(ledger.peek(at(MINUTE), &busy).used, 1, "its first unit is a period old");
}

#[test]
fn in_a_full_table_newcomers_share_and_the_old_keep_their_use() {
    let ledger = Ledger::new(2, Backing::None, Restored::default());
    let (old, other) = (stranger(1, 100, 3), stranger(2, 200, 3));
    assert!(passes(&ledger, at(0), &[old]) && passes(&ledger, at(0), &[other]));
    let newcomers = [stranger(3, 100, 3), stranger(4, 100, 3), stranger(5, 100, 3)];
    for newcomer in newcomers {
        assert!(passes(&ledger, at(0), &[newcomer]));
    }
    assert!(!passes(&ledger, at(0), &[stranger(6, 100, 3)]), "three were used by the network");
    assert!(passes(&ledger, at(0), &[stranger(7, 300, 3)]), "another network is another cell");
    assert_eq!(ledger.peek(at(0), &old).used, 1);
    assert!(passes(&ledger, at(0), &[old]) && passes(&ledger, at(0), &[old]));
    assert!(!passes(&ledger, at(0), &[old]));
    let full = ledger.occupancy();
    assert_eq!((full.dynamic, full.bound, full.crowded_total), (4, 2, 5));
    assert!(passes(&ledger, at(0), &[ask(0, 50, Window::Sliding, 1)]), "static: always room");
}

#[test]
fn memory_is_bounded_for_a_stranger_with_endless_networks() {
    let ledger = Ledger::new(16, Backing::None, Restored::default());
    for subject in 0..5_000u128 {
        passes(&ledger, at(0), &[stranger(subject + 1_000_000, subject + 10_000, 3)]);
    }
    let full = ledger.occupancy();
    assert_eq!(full.dynamic, 16 + 2 + 64);
    assert_eq!(full.cells, full.dynamic + 1, "and one for all who found no room at all");
}

#[test]
fn a_newcomer_that_gets_room_starts_from_what_its_crowd_used() {
    let ledger = Ledger::new(1, Backing::None, Restored::default());
    assert!(passes(&ledger, at(0), &[stranger(1, 100, 3)]));
    let newcomer = stranger(2, 200, 3);
    for _ in 0..3 {
        assert!(passes(&ledger, at(MINUTE - 1), &[newcomer]));
    }
    ledger.set_subjects_bound(10);
    assert!(!passes(&ledger, at(MINUTE), &[newcomer]), "its three units are still in use");
    assert_eq!(ledger.occupancy().dynamic, 3, "it has a cell of its own by now");
    assert!(passes(&ledger, at(2 * MINUTE - 1), &[newcomer]));
    assert_eq!(ledger.peek(at(2 * MINUTE - 1), &newcomer).used, 1);
}

#[test]
fn threads_together_never_take_more_than_the_ceilings_of_shared_and_own_subjects() {
    let ledger = ledger();
    let admitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u128 {
            let (ledger, admitted) = (&ledger, &admitted);
            scope.spawn(move || {
                // Neighbours share in pairs, in orders that would deadlock without one order for all.
                let (left, right) = (10 + thread % 4, 10 + (thread + 1) % 4);
                let all = [
                    ask(0, 1, Window::Sliding, 3_000),
                    ask(1, right, Window::Bucket, 1_000),
                    ask(2, left, Window::Fixed, 1_500),
                    ask(3, 100 + thread, Window::Sliding, 600),
                    ask(4, 1, Window::Concurrent, 6),
                ];
                let mut own = 0;
                for _ in 0..1_500 {
                    if passes(ledger, at(5), &all) {
                        own += 1;
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
                assert!(own <= 600);
            });
        }
    });
    let shared = ledger.peek(at(5), &ask(0, 1, Window::Sliding, 3_000));
    assert_eq!(shared.used, admitted.load(Ordering::Relaxed), "all or nothing, to the unit");
    assert!(shared.used <= 3_000);
    let buckets = (10..14).map(|s| ledger.peek(at(5), &ask(1, s, Window::Bucket, 1_000)).used);
    assert_eq!(buckets.sum::<u64>(), shared.used);
    assert_eq!(ledger.peek(at(5), &ask(4, 1, Window::Concurrent, 6)).used, 0);
}

#[test]
fn a_sweep_beside_opens_loses_no_charge() {
    let ledger = Ledger::new(64, Backing::None, Restored::default());
    let admitted = AtomicU64::new(0);
    let running = AtomicU64::new(6);
    std::thread::scope(|scope| {
        for thread in 0..6u128 {
            let (ledger, admitted, running) = (&ledger, &admitted, &running);
            scope.spawn(move || {
                for round in 0..2_000u128 {
                    // Cells that come and go, and one that must keep every unit although it was just idle.
                    let other = stranger(1_000 + (round * 7 + thread) % 90, 500, 0);
                    passes(ledger, at(5), &[other]);
                    let one = ask(1, 1 + round / 100, Window::Sliding, 100);
                    let shadowed = shadow(stranger(2_000 + round % 50, 500, 1));
                    if passes(ledger, at(5), &[one, shadowed]) {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let (ledger, running) = (&ledger, &running);
        scope.spawn(move || {
            while running.load(Ordering::Relaxed) > 0 {
                ledger.sweep(at(5), 50);
            }
        });
    });
    let used = (1..=20).map(|s| ledger.peek(at(5), &ask(1, s, Window::Sliding, 100)).used);
    assert_eq!(used.sum::<u64>(), admitted.load(Ordering::Relaxed));
    assert_eq!(admitted.load(Ordering::Relaxed), 20 * 100);
    ledger.sweep(at(10 * MINUTE), 10_000);
    let left = ledger.occupancy();
    assert_eq!((left.cells, left.dynamic), (0, 0), "every cell was counted once");
}

#[test]
fn a_stranger_racing_with_its_own_room_never_gets_more_than_its_ceiling() {
    for round in 0..50 {
        let ledger = Ledger::new(1, Backing::None, Restored::default());
        assert!(passes(&ledger, at(0), &[stranger(1, 100, 3)]));
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (ledger, admitted) = (&ledger, &admitted);
                scope.spawn(move || {
                    for turn in 0..30 {
                        if thread == 0 && turn == round % 30 {
                            ledger.set_subjects_bound(10);
                        }
                        if passes(ledger, at(0), &[stranger(2, 200, 40)]) {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.load(Ordering::Relaxed), 40);
    }
}

#[test]
fn a_cell_is_two_cache_lines_and_a_reservation_is_cheap_to_move() {
    assert_eq!((size_of::<Cell>(), align_of::<Cell>()), (128, 128));
    assert!(size_of::<Reservation>() <= 512, "{}", size_of::<Reservation>());
}

#[test]
fn a_cell_that_is_swept_while_it_is_looked_up_is_never_charged() {
    const THREADS: usize = 3;
    let ledger = ledger();
    let one = ask(0, 1, Window::Sliding, 1);
    let admitted = AtomicU64::new(0);
    let (start, end) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (ledger, admitted, start, end) = (&ledger, &admitted, &start, &end);
            scope.spawn(move || {
                for tick in 0..2_000 {
                    start.wait();
                    if passes(ledger, at(tick * MINUTE), &[one]) {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                    end.wait();
                }
            });
        }
        // At every tick the unit of the tick before has just left, so that the cell is idle until someone takes.
        for tick in 0..2_000 {
            start.wait();
            for _ in 0..10 {
                ledger.sweep(at(tick * MINUTE), 4);
            }
            end.wait();
        }
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 2_000, "one a period, to the unit");
}
