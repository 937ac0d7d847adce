//! What lasts longer than a request: records, doubts, acts, last uses.

use std::rc::Rc;
use std::sync::Arc;

use crate::clock::{Now, Steady, Wall};
use crate::policy::Name;
use crate::policy::calendar::{CalendarIx, Period};
use crate::policy::charge::{ChargeRule, Stated, Verdict};
use crate::policy::idempotency::{HeadPrint, OnUnknown, RecordBounds, RecordId};
use crate::policy::limit::{
    Ceiling, LimitId, LimitIx, LimitKind, Mode, OnStoreFailure, SubjectKey, Window,
};
use crate::policy::order::{Ask, Asks};
use crate::policy::outcome::Outcome;

use super::office::MOST_ACTS;
use super::records::Records;
use super::unresolved::MOST;
use super::{
    Act, Backing, Claim, Found, Ledger, MeterId, Named, Opening, Order, Record, Reservation,
    Resolution, Restored, StoreFailed,
};

const HOUR: i64 = 3_600_000;
const BOUNDS: RecordBounds = RecordBounds { records: 5_000, per_tenant: 5_000, bytes: 1_000_000 };

fn ledger() -> Arc<Ledger> {
    Ledger::new(1_000, Backing::None, Restored::default())
}

/// An instant of two clocks that agree.
fn at(ms: i64) -> Now {
    Now { steady: Steady(u64::try_from(ms).unwrap() * 1_000_000), wall: Wall(ms) }
}

fn wallet() -> Ask {
    Ask {
        limit: LimitIx(0),
        id: LimitId(7),
        subject: SubjectKey(1),
        crowded: None,
        ceiling: Ceiling { window: Window::Prepaid, units: 0, period: 0, burst: 0 },
        weight: 5,
        mode: Mode::Enforce,
        period: Period::default(),
        on_store_failure: OnStoreFailure::Deny,
    }
}

fn meter() -> MeterId {
    MeterId { limit: LimitId(7), kind: LimitKind::Credit, subject: SubjectKey(1) }
}

fn act(ledger: &Ledger, act: Act) {
    ledger.act(at(1), act, None, Box::new(|_| {})).unwrap();
}

fn balance(ledger: &Ledger) -> u64 {
    ledger.peek(at(1), &wallet()).remaining
}

fn claim(id: u128) -> Claim {
    Claim {
        id: RecordId(id),
        tenant: SubjectKey(2),
        head: HeadPrint([0; 32]),
        keep: 24 * HOUR,
        on_unknown: OnUnknown::Refuse,
    }
}

fn open(ledger: &Ledger, now: Now, claim: Option<&Claim>, asks: &[Ask]) -> Opening {
    ledger.open(
        now,
        &Order { asks: &Rc::new(Asks::from_slice(asks)), claim, bounds: BOUNDS, caller: None },
    )
}

/// A request that was sent and never answered.
fn doubted(ledger: &Ledger, now: Now, claim: Option<&Claim>) {
    let Opening::Admitted(mut one, _) = open(ledger, now, claim, &[wallet()]) else {
        panic!("not admitted")
    };
    one.sending();
    let verdict = Verdict::without_head(Outcome::Unknown);
    one.learned(ledger, verdict, &ChargeRule::default(), Stated::Unasked);
    Reservation::close(one, ledger);
}

/// Uses two of it at one instant, five at each: how much was in use after each was given back, with a reset between them.
fn given_back_around_a_reset(window: Window) -> [u64; 3] {
    let ledger = ledger();
    let ceiling = Ceiling { window, units: 100, period: 60_000_000_000, burst: 100 };
    let ask = Ask { ceiling, period: Period { from: Wall(0), until: Wall(HOUR) }, ..wallet() };
    let meter = MeterId { kind: window.kind(), ..meter() };
    if window == Window::Prepaid {
        act(&ledger, Act::TopUp { meter, amount: 100 });
    }
    let take = |ms| match open(&ledger, at(ms), None, &[ask]) {
        Opening::Admitted(reservation, _) => reservation,
        other => panic!("{other:?}"),
    };
    let used = || ledger.peek(at(3), &ask).used;
    let before = take(1);
    ledger.act(at(2), Act::Reset { meter }, None, Box::new(|_| {})).unwrap();
    let after = take(3);
    let taken = used();
    before.release(&ledger);
    let first = used();
    after.release(&ledger);
    [taken, first, used()]
}

#[test]
fn what_was_taken_before_a_reset_is_not_given_back_out_of_what_was_taken_after() {
    let calendar = CalendarIx(0);
    for window in [
        Window::Bucket,
        Window::Sliding,
        Window::Fixed,
        Window::Quota(calendar),
        Window::Spend(calendar),
        Window::Prepaid,
    ] {
        assert_eq!(given_back_around_a_reset(window), [5, 5, 0], "{window:?}");
    }
}

#[test]
fn a_doubt_that_is_released_after_a_reset_gives_nothing_back() {
    for listed_first in [true, false] {
        let ledger = ledger();
        act(&ledger, Act::TopUp { meter: meter(), amount: 100 });
        let reset = || {
            ledger.act(at(2), Act::Reset { meter: meter() }, None, Box::new(|_| {})).unwrap();
        };
        let Opening::Admitted(mut old, _) = open(&ledger, at(1), None, &[wallet()]) else {
            panic!("not admitted")
        };
        old.sending();
        if listed_first {
            old.close(&ledger);
            reset();
        } else {
            reset();
            old.close(&ledger);
        }
        let Opening::Admitted(_new, _) = open(&ledger, at(3), None, &[wallet()]) else {
            panic!("not admitted")
        };
        let id = ledger.unresolved()[0].0.id;
        act(&ledger, Act::Resolve { id, how: Resolution::Release });
        assert_eq!((ledger.unresolved_count(), balance(&ledger)), (0, 95));
    }
}

#[test]
fn settling_an_old_reservation_leaves_the_record_of_a_later_request_alone() {
    let ledger = ledger();
    act(&ledger, Act::TopUp { meter: meter(), amount: 100 });
    doubted(&ledger, at(1), Some(&claim(9)));
    // Its record's life is over; the key is used for another request, and nobody knows what became of that one either.
    doubted(&ledger, at(25 * HOUR), Some(&claim(9)));
    assert_eq!((ledger.unresolved_count(), balance(&ledger)), (2, 90));
    let old = ledger.unresolved()[0].0.id;
    act(&ledger, Act::Resolve { id: old, how: Resolution::Release });
    assert_eq!((ledger.unresolved_count(), balance(&ledger)), (1, 95));
    let again = open(&ledger, at(25 * HOUR + 1), Some(&claim(9)), &[wallet()]);
    assert!(matches!(again, Opening::Repeated(Found::Unknown, _)), "{again:?}");
}

#[test]
fn settling_a_record_leaves_the_money_of_an_earlier_request_listed() {
    let ledger = ledger();
    act(&ledger, Act::TopUp { meter: meter(), amount: 100 });
    doubted(&ledger, at(1), Some(&claim(9)));
    doubted(&ledger, at(25 * HOUR), Some(&claim(9)));
    act(&ledger, Act::ResolveRecord { id: RecordId(9), how: Resolution::Release });
    assert_eq!((ledger.unresolved_count(), balance(&ledger)), (1, 95));
    assert_eq!(ledger.unresolved()[0].0.at, Wall(1), "the earlier one");
}

#[test]
fn a_wall_clock_that_jumps_ahead_makes_no_key_fresh() {
    let ledger = ledger();
    act(&ledger, Act::TopUp { meter: meter(), amount: 100 });
    doubted(&ledger, at(1), Some(&claim(9)));
    let jumped = Now { wall: Wall(1_000 * HOUR), ..at(2) };
    let repeat = |now| open(&ledger, now, Some(&claim(9)), &[]);
    assert!(matches!(repeat(jumped), Opening::Repeated(Found::Unknown, _)));
    ledger.sweep_records(jumped, 1_000);
    assert_eq!(ledger.records().records, 1);
    assert!(matches!(repeat(at(3)), Opening::Repeated(Found::Unknown, _)), "it came back");
    ledger.sweep_records(at(24 * HOUR + 1), 1_000);
    assert_eq!(ledger.records().records, 0, "a day has passed by either clock");
}

#[test]
fn a_record_read_back_under_a_wrong_clock_has_no_more_than_its_life_left() {
    let old = Record {
        tenant: SubjectKey(2),
        head: HeadPrint([0; 32]),
        at: Wall(500_000 * HOUR),
        until: Wall(500_024 * HOUR),
        party: super::Party::default(),
        progress: super::Progress::NotReplayable,
    };
    let records = Records::new(vec![(RecordId(9), old)], at(1));
    let put_right = |ms: i64| Now { wall: Wall(600_000 * HOUR + ms), ..at(ms) };
    assert_eq!(records.sweep(put_right(HOUR), 10, |_| Ok(())), 0);
    assert_eq!(records.sweep(put_right(24 * HOUR + 1), 10, |_| Ok(())), 1);
}

#[test]
fn a_sweep_tells_the_backing_in_few_batches_and_forgets_nothing_that_it_cannot_tell() {
    let records = Records::new(Vec::new(), at(0));
    for id in 0..2_000 {
        records.claim(at(0), &claim(id), BOUNDS, |_| Ok(()));
        records.end(RecordId(id), super::records::Ended::NotReplayable, drop);
    }
    let late = at(25 * HOUR);
    assert_eq!(records.sweep(late, 5_000, |_| Err(StoreFailed)), 0);
    assert_eq!(records.occupancy().records, 2_000);
    let (mut batches, mut ops) = (0, 0);
    let removed = records.sweep(late, 5_000, |batch| {
        batches += 1;
        ops += batch.len();
        Ok(())
    });
    assert_eq!((removed, ops, records.occupancy().records), (2_000, 2_000, 0));
    assert!(batches <= 64, "{batches}");
}

#[test]
fn a_full_list_of_doubts_lets_the_oldest_go_and_leaves_them_charged() {
    let ledger = ledger();
    let most = u64::try_from(MOST).unwrap();
    act(&ledger, Act::TopUp { meter: meter(), amount: 5 * (most + 10) });
    for ms in 0..i64::try_from(MOST).unwrap() + 3 {
        doubted(&ledger, at(ms), None);
    }
    assert_eq!((ledger.unresolved_count(), ledger.unlisted_total()), (MOST, 3));
    assert_eq!(ledger.oldest_unresolved(1)[0].0.at, Wall(3));
    assert_eq!(balance(&ledger), 5 * 7, "all of them stay charged");
}

#[test]
fn each_doubt_is_news_once_and_none_that_was_settled_first() {
    let ledger = ledger();
    act(&ledger, Act::TopUp { meter: meter(), amount: 100 });
    (1..=3).for_each(|ms| doubted(&ledger, at(ms), None));
    let first = ledger.unresolved()[0].0.id;
    act(&ledger, Act::Resolve { id: first, how: Resolution::Confirm });
    let news = |most| ledger.newly_unresolved(most).iter().map(|one| one.0.at).collect::<Vec<_>>();
    assert_eq!((news(1), news(9), news(9)), (vec![Wall(2)], vec![Wall(3)], vec![]));
}

#[test]
fn acts_are_remembered_up_to_their_number_and_a_clock_that_jumps_repeats_none() {
    let ledger = ledger();
    let name = |n: usize| Name::from(format!("act-{n}"));
    let top_up = |now, n: usize| {
        let named = Named { id: name(n), answer: "done".into() };
        let act = Act::TopUp { meter: meter(), amount: 1 };
        ledger.act(now, act, Some(named), Box::new(|_| {})).unwrap();
    };
    top_up(at(1), 0);
    let jumped = Now { wall: Wall(10_000 * HOUR), ..at(2) };
    ledger.sweep_records(jumped, 10);
    top_up(jumped, 0);
    assert_eq!(balance(&ledger), 1, "the same act");
    (1..=MOST_ACTS).for_each(|n| top_up(at(2), n));
    assert!(ledger.acted(&name(0)).is_none() && ledger.acted(&name(1)).is_some());
}
