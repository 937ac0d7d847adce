//! Many at once: whatever the order in which threads come, the sums are those of some order.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tollgate::clock::Wall;
use tollgate::policy::calendar::{CalendarIx, Period};
use tollgate::policy::charge::{ChargeRule, Stated, Verdict};
use tollgate::policy::limit::{LimitId, LimitKind, SubjectKey, Window};
use tollgate::policy::order::{Ask, Asks};
use tollgate::policy::outcome::Outcome;
use tollgate::store::{Act, Completion, Found, Ledger, MeterId, Opening};

use super::{answer, ask, at, body, claim, commit, grounds, open, waiting};

const DAY: Period = Period { from: Wall(0), until: Wall(86_400_000) };

fn quota(subject: u128, units: u64) -> Ask {
    Ask { period: DAY, ..ask(0, subject, Window::Quota(CalendarIx(0)), units) }
}

fn spend(subject: u128, units: u64, weight: u64) -> Ask {
    Ask { period: DAY, weight, ..ask(1, subject, Window::Spend(CalendarIx(0)), units) }
}

fn credit(subject: u128, weight: u64) -> Ask {
    Ask { weight, ..ask(2, subject, Window::Prepaid, 0) }
}

fn top_up(ledger: &Ledger, subject: u128, amount: u64) {
    let meter =
        MeterId { limit: LimitId(102), kind: LimitKind::Credit, subject: SubjectKey(subject) };
    let (reply, wait) = waiting();
    ledger.act(at(0), Act::TopUp { meter, amount }, None, reply).expect("credit can be topped up");
    wait();
}

/// Runs `one` on some threads, `times` in all.
fn together(times: usize, one: impl Fn() + Sync) {
    let left = AtomicUsize::new(times);
    let take = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while take().is_ok() {
                    one();
                }
            });
        }
    });
}

fn admits(ledger: &Ledger, all: &[Ask]) -> bool {
    match open(ledger, at(5), &Asks::from_slice(all), None) {
        Opening::Admitted(mut reservation, _) => {
            commit(ledger, &mut reservation);
            reservation.sending();
            let rule = ChargeRule::default();
            reservation.learned(ledger, Verdict::of_status(200), &rule, Stated::Unasked);
            reservation.close(ledger);
            true
        }
        Opening::Refused(_) => false,
        other => panic!("nothing was claimed: {other:?}"),
    }
}

#[test]
fn of_a_hundred_duplicates_one_is_admitted_and_all_later_ones_get_its_answer() {
    for ground in grounds(at(0)) {
        let ledger = &ground.ledger;
        let (admitted, in_flight) = (AtomicU64::new(0), AtomicU64::new(0));
        let all = Asks::from_slice(&[quota(1, 1_000), spend(1, 1_000, 5)]);
        together(100, || match open(ledger, at(5), &all, Some(&claim(1, 1))) {
            Opening::Admitted(mut reservation, _) => {
                admitted.fetch_add(1, Ordering::SeqCst);
                commit(ledger, &mut reservation);
                reservation.sending();
                let rule = ChargeRule::default();
                reservation.learned(ledger, Verdict::of_status(200), &rule, Stated::Unasked);
                reservation.complete(ledger, Completion::Answered(answer(10), body()));
                reservation.close(ledger);
            }
            Opening::Repeated(Found::InFlight, _) => {
                in_flight.fetch_add(1, Ordering::SeqCst);
            }
            Opening::Repeated(Found::Answered(kept, print), _) => {
                assert_eq!((kept.body.len(), print), (10, body()));
            }
            other => panic!("neither the first nor a repeat of it: {other:?}"),
        });
        assert_eq!(admitted.load(Ordering::SeqCst), 1);
        assert_eq!(ledger.peek(at(5), &all[0]).used, 1, "a repeat spends no quota");
        assert_eq!(ledger.peek(at(5), &all[1]).used, 5, "nor money");
    }
}

#[test]
fn with_one_left_one_of_a_thousand_is_admitted() {
    for ground in grounds(at(0)) {
        let ledger = &ground.ledger;
        top_up(ledger, 1, 20);
        for last in [vec![quota(1, 1)], vec![spend(1, 20, 20)], vec![credit(1, 20)]] {
            let admitted = AtomicU64::new(0);
            together(1_000, || {
                admitted.fetch_add(u64::from(admits(ledger, &last)), Ordering::SeqCst);
            });
            assert_eq!(admitted.load(Ordering::SeqCst), 1, "{:?}", last[0].ceiling.window);
        }
    }
}

#[test]
fn of_a_hundred_that_each_cost_most_of_what_is_left_one_is_admitted() {
    for ground in grounds(at(0)) {
        let ledger = &ground.ledger;
        top_up(ledger, 1, 1_000);
        let all = [spend(1, 1_000, 600), credit(1, 600)];
        let admitted = AtomicU64::new(0);
        together(100, || {
            admitted.fetch_add(u64::from(admits(ledger, &all)), Ordering::SeqCst);
        });
        assert_eq!(admitted.load(Ordering::SeqCst), 1);
        assert_eq!(ledger.peek(at(5), &all[1]).remaining, 400);
    }
}

#[test]
fn charges_refunds_and_top_ups_at_once_never_pass_a_ceiling_and_add_up() {
    for ground in grounds(at(0)) {
        let ledger = &ground.ledger;
        let (spent, granted, turn) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let all = Asks::from_slice(&[quota(1, 300), spend(1, 5_000, 7), credit(1, 7)]);
        together(2_000, || {
            let turn = turn.fetch_add(1, Ordering::SeqCst);
            if turn.is_multiple_of(10) {
                granted.fetch_add(30, Ordering::SeqCst);
                top_up(ledger, 1, 30);
                return;
            }
            let Opening::Admitted(mut reservation, readings) = open(ledger, at(5), &all, None)
            else {
                return;
            };
            assert!(readings.iter().all(|reading| reading.used <= reading.whole));
            commit(ledger, &mut reservation);
            reservation.sending();
            let verdict = match turn % 3 {
                0 => Verdict::without_head(Outcome::NotProcessed),
                1 => Verdict::of_status(404),
                _ => {
                    spent.fetch_add(7, Ordering::SeqCst);
                    Verdict::of_status(500)
                }
            };
            reservation.learned(ledger, verdict, &ChargeRule::default(), Stated::Unasked);
            reservation.close(ledger);
        });
        let (spent, granted) = (spent.load(Ordering::SeqCst), granted.load(Ordering::SeqCst));
        let credit = ledger.peek(at(5), &all[2]);
        assert!(spent <= 5_000 && spent <= granted);
        assert_eq!(ledger.peek(at(5), &all[1]).used, spent);
        assert_eq!((credit.used, credit.remaining), (spent, granted - spent));
        assert!(ledger.unresolved().is_empty());
    }
}

#[test]
fn records_that_threads_claim_and_free_are_counted_to_the_last() {
    for ground in grounds(at(0)) {
        let ledger = &ground.ledger;
        let turn = AtomicU64::new(0);
        let none = Asks::new();
        together(4_000, || {
            let turn = turn.fetch_add(1, Ordering::SeqCst);
            let claim = claim(u128::from(turn % 3), u128::from(turn % 50));
            let Opening::Admitted(mut reservation, _) = open(ledger, at(5), &none, Some(&claim))
            else {
                return;
            };
            commit(ledger, &mut reservation);
            if turn.is_multiple_of(2) {
                reservation.release(ledger);
                return;
            }
            reservation.sending();
            let status = if turn % 5 < 3 { 200 } else { 503 };
            let rule = ChargeRule { release: [503].into(), ..ChargeRule::default() };
            reservation.learned(ledger, Verdict::of_status(status), &rule, Stated::Unasked);
            if turn % 7 < 5 {
                reservation.complete(ledger, Completion::Answered(answer(10), body()));
            }
            reservation.close(ledger);
        });
        let full = ledger.records();
        assert_eq!((full.in_flight, full.unknown), (0, ledger.unknown_records().len()));
        ledger.sweep_records(at(1_000_000), 100_000);
        assert_eq!(ledger.records(), tollgate::store::RecordOccupancy::default());
    }
}
