use super::*;
use crate::clock::Wall;
use crate::policy::calendar::Period;
use crate::policy::limit::{LimitId, LimitIx, Mode, OnStoreFailure, SubjectKey};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

fn at(nanos: u64) -> Now {
    Now { steady: Steady(nanos), wall: Wall(0) }
}

fn ask(window: Window, units: u64, period: u64) -> Ask {
    Ask {
        limit: LimitIx(0),
        id: LimitId(1),
        subject: SubjectKey(1),
        crowded: None,
        ceiling: Ceiling { window, units, period, burst: units },
        weight: 1,
        mode: Mode::Enforce,
        period: Period::default(),
        on_store_failure: OnStoreFailure::Local,
    }
}

fn weighing(ask: Ask, weight: u64) -> Ask {
    Ask { weight, ..ask }
}

/// Takes if it admits; says whether it did.
fn try_take(meter: &mut Meter, ask: &Ask, now: Now) -> bool {
    let admits = meter.read(ask, now).admits;
    if let Some(look) = meter.look(ask, now) {
        assert_eq!(admits, look.admits, "the short answer is the long one");
    }
    if admits {
        meter.take(ask, now);
    }
    admits
}

fn used_up(window: Window, ask: &Ask, now: Now) -> Meter {
    let mut meter = Meter::empty(window);
    let mut taken = 0;
    while try_take(&mut meter, ask, now) {
        taken += 1;
        assert!(taken <= 10_000);
    }
    meter
}

const RATES: [Window; 3] = [Window::Bucket, Window::Sliding, Window::Fixed];
const ALL: [Window; 4] = [Window::Bucket, Window::Sliding, Window::Fixed, Window::Concurrent];

#[test]
fn an_empty_meter_has_all_that_the_ceiling_allows() {
    for window in ALL {
        let ask = ask(window, 60, MINUTE);
        let reading = Meter::empty(window).read(&ask, at(5));
        assert_eq!((reading.used, reading.remaining), (0, 60), "{window:?}");
        assert_eq!((reading.admits, reading.wait, reading.more_in), (true, Some(0), None));
        assert_eq!(reading, Meter::unused(&ask, at(5)));
    }
}

#[test]
fn a_ceiling_of_zero_refuses_and_waiting_does_not_help() {
    for window in ALL {
        for weight in [0, 1, 7] {
            let ask = weighing(ask(window, 0, MINUTE), weight);
            let reading = Meter::empty(window).read(&ask, at(5));
            assert_eq!((reading.admits, reading.wait, reading.more_in), (false, None, None));
            let look = Meter::empty(window).look(&ask, at(5));
            assert!(look.is_some_and(|look| !look.admits), "{window:?} {weight}");
        }
    }
}

#[test]
fn a_weight_that_can_never_fit_has_no_wait() {
    for window in RATES {
        let ask = weighing(ask(window, 10, MINUTE), 11);
        let reading = Meter::empty(window).read(&ask, at(0));
        assert_eq!((reading.admits, reading.wait), (false, None), "{window:?}");
    }
}

#[test]
fn a_weight_of_zero_takes_nothing_and_passes_a_full_meter() {
    for window in RATES {
        let one = ask(window, 3, MINUTE);
        let mut meter = used_up(window, &one, at(0));
        assert!(try_take(&mut meter, &weighing(one, 0), at(1)), "{window:?}");
        assert_eq!(meter.read(&one, at(1)).used, 3);
    }
}

#[test]
fn a_bucket_of_sixty_a_minute_holds_sixty_and_refills_one_a_second() {
    let ask = ask(Window::Bucket, 60, MINUTE);
    let mut meter = used_up(Window::Bucket, &ask, at(0));
    let reading = meter.read(&ask, at(0));
    assert_eq!((reading.used, reading.remaining), (60, 0));
    assert_eq!((reading.wait, reading.more_in), (Some(SECOND), Some(SECOND)));
    assert!(!meter.read(&ask, at(SECOND - 1)).admits);
    let passed = (1..60).filter(|s| try_take(&mut meter, &ask, at(s * SECOND))).count();
    assert_eq!(60 + passed, 119, "what `check` prints for a first minute");
}

#[test]
fn a_bucket_says_when_one_more_unit_comes_not_when_it_is_full() {
    let ask = ask(Window::Bucket, 60, MINUTE);
    let mut meter = Meter::empty(Window::Bucket);
    for _ in 0..10 {
        meter.take(&ask, at(0));
    }
    let reading = meter.read(&ask, at(SECOND / 2));
    assert_eq!((reading.used, reading.remaining), (10, 50));
    assert_eq!(reading.more_in, Some(SECOND / 2));
    assert_eq!(meter.read(&ask, at(10 * SECOND)).more_in, None);
}

#[test]
fn a_burst_apart_from_the_rate_is_the_size_of_the_bucket() {
    let mut ask = ask(Window::Bucket, 60, MINUTE);
    ask.ceiling.burst = 5;
    let meter = used_up(Window::Bucket, &ask, at(0));
    assert_eq!(meter.read(&ask, at(0)).used, 5);
    assert_eq!(meter.read(&weighing(ask, 5), at(0)).wait, Some(5 * SECOND));
    assert_eq!(meter.read(&weighing(ask, 6), at(0)).wait, None);
}

#[test]
fn a_rate_that_does_not_divide_is_exact_over_a_day() {
    // 7 in 3 seconds: no whole number of nanoseconds apart.
    let mut ask = ask(Window::Bucket, 7, 3 * SECOND);
    ask.ceiling.burst = 1;
    let mut meter = Meter::empty(Window::Bucket);
    let (mut now, mut passed) = (0, 0u64);
    while now < 300 * SECOND {
        now += meter.read(&ask, at(now)).wait.unwrap();
        meter.take(&ask, at(now));
        passed += 1;
    }
    // Each wait is rounded up to the nanosecond and the fraction is not lost.
    assert!((700..=701).contains(&passed), "{passed}");
}

#[test]
fn a_sliding_window_admits_again_when_the_oldest_leaves() {
    let ask = ask(Window::Sliding, 3, MINUTE);
    let mut meter = Meter::empty(Window::Sliding);
    for second in [0, 10, 20] {
        assert!(try_take(&mut meter, &ask, at(second * SECOND)));
    }
    let reading = meter.read(&ask, at(30 * SECOND));
    assert_eq!((reading.used, reading.remaining), (3, 0));
    assert_eq!((reading.wait, reading.more_in), (Some(30 * SECOND), Some(30 * SECOND)));
    assert_eq!(meter.read(&weighing(ask, 2), at(30 * SECOND)).wait, Some(40 * SECOND));
    assert!(!try_take(&mut meter, &ask, at(MINUTE - 1)));
    assert!(try_take(&mut meter, &ask, at(MINUTE)));
    assert!(!try_take(&mut meter, &ask, at(MINUTE)));
}

#[test]
fn a_sliding_window_under_load_keeps_bounded_groups_and_frees_each_within_a_grain() {
    let ask = ask(Window::Sliding, 6_000, MINUTE);
    let mut meter = Meter::empty(Window::Sliding);
    // 100 a second, evenly: exactly the limit.
    let mut refused = 0u64;
    for i in 0..30_000u64 {
        refused += u64::from(!try_take(&mut meter, &ask, at(i * SECOND / 100)));
    }
    // A unit is held for at most a grain too long, a thirtieth of the period.
    assert!(refused <= 30_000 / 30, "{refused}");
}

#[test]
fn a_refused_client_of_a_sliding_window_waits_at_most_a_period() {
    let ask = ask(Window::Sliding, 500, MINUTE);
    let mut meter = Meter::empty(Window::Sliding);
    for i in 0..5_000 {
        let now = at(i * 37_000_003);
        if !try_take(&mut meter, &ask, now) {
            let whole = weighing(ask, 500);
            assert!(meter.read(&whole, now).wait.unwrap() <= MINUTE);
        }
    }
}

#[test]
fn a_fixed_window_starts_afresh_at_its_edge() {
    let ask = ask(Window::Fixed, 5, MINUTE);
    let mut meter = used_up(Window::Fixed, &ask, at(MINUTE - 1));
    let reading = meter.read(&ask, at(MINUTE - 1));
    assert_eq!((reading.used, reading.wait, reading.more_in), (5, Some(1), Some(1)));
    assert!(try_take(&mut meter, &ask, at(MINUTE)));
    assert_eq!(meter.read(&ask, at(MINUTE)).remaining, 4);
}

#[test]
fn a_concurrent_limit_counts_what_is_open_and_time_does_not_help() {
    let ask = weighing(ask(Window::Concurrent, 2, 0), 9);
    let mut meter = used_up(Window::Concurrent, &ask, at(0));
    let reading = meter.read(&ask, at(u64::MAX));
    assert_eq!((reading.used, reading.remaining, reading.wait), (2, 0, None));
    assert!(!meter.is_idle(at(u64::MAX)));
    meter.set_open(1);
    assert!(try_take(&mut meter, &ask, at(0)));
    meter.set_open(0);
    assert!(meter.is_idle(at(0)));
}

#[test]
fn a_lowered_limit_leaves_nothing_and_never_a_negative() {
    for window in ALL {
        let high = ask(window, 100, MINUTE);
        let meter = used_up(window, &high, at(MINUTE));
        let low = ask(window, 10, MINUTE);
        let reading = meter.read(&low, at(MINUTE));
        assert_eq!((reading.used, reading.remaining, reading.admits), (100, 0, false));
    }
}

#[test]
fn a_raised_limit_helps_on_the_next_reading() {
    for window in ALL {
        let low = ask(window, 10, MINUTE);
        let mut meter = used_up(window, &low, at(MINUTE));
        let high = ask(window, 15, MINUTE);
        let reading = meter.read(&high, at(MINUTE));
        assert_eq!((reading.used, reading.remaining), (10, 5), "{window:?}");
        let more = (0..10).filter(|_| try_take(&mut meter, &high, at(MINUTE))).count();
        assert_eq!(more, 5, "{window:?}");
    }
}

#[test]
fn a_changed_period_carries_the_use_over() {
    for window in RATES {
        let minute = ask(window, 10, MINUTE);
        let mut meter = used_up(window, &minute, at(MINUTE));
        for period in [1, SECOND, 24 * 60 * MINUTE, u64::MAX] {
            let other = ask(window, 10, period);
            assert_eq!(meter.read(&other, at(MINUTE)).used, 10, "{window:?} {period}");
            assert!(!try_take(&mut meter, &other, at(MINUTE)));
        }
    }
}

#[test]
fn a_changed_window_carries_the_use_over() {
    for from in RATES {
        for to in RATES {
            let meter = used_up(from, &ask(from, 10, MINUTE), at(MINUTE));
            let then = ask(to, 12, MINUTE);
            let reading = meter.read(&then, at(MINUTE));
            assert_eq!((reading.used, reading.remaining), (10, 2), "{from:?} to {to:?}");
            let mut fresh = Meter::empty(to);
            fresh.inherit(&meter, &then.ceiling, at(MINUTE));
            assert_eq!(fresh.read(&then, at(MINUTE)), reading);
            let mut taken = meter.clone();
            taken.take(&then, at(MINUTE));
            assert_eq!((taken.counts(to), taken.read(&then, at(MINUTE)).used), (true, 11));
            assert!(!fresh.is_idle(at(MINUTE)) && fresh.is_idle(at(3 * MINUTE)));
        }
    }
}

#[test]
fn what_is_open_and_what_was_used_are_never_mistaken_for_one_another() {
    for rate in RATES {
        let (a, b) = (ask(Window::Concurrent, 5, 0), ask(rate, 5, MINUTE));
        assert_eq!(used_up(Window::Concurrent, &a, at(0)).read(&b, at(0)).used, 0);
        assert_eq!(used_up(rate, &b, at(0)).read(&a, at(0)).used, 0);
    }
}

#[test]
fn a_clock_that_stands_still_or_was_read_earlier_refills_nothing() {
    for window in RATES {
        let ask = ask(window, 3, 1_000);
        let mut meter = used_up(window, &ask, at(10_000));
        for earlier in [10_000, 9_999, 5_000, 0] {
            assert!(!try_take(&mut meter, &ask, at(earlier)), "{window:?} {earlier}");
        }
        let wait = meter.read(&ask, at(9_000)).wait.unwrap();
        assert!(meter.read(&ask, at(9_000 + wait)).admits, "{window:?}");
        assert!(!meter.read(&ask, at(9_000 + wait - 1)).admits, "{window:?}");
    }
}

#[test]
fn the_largest_numbers_neither_overflow_nor_admit_too_much() {
    for window in RATES {
        for (units, period) in [(u64::MAX, u64::MAX), (u64::MAX, 1), (1, u64::MAX), (1, 1)] {
            for weight in [1, u64::MAX] {
                for now in [0, 1, u64::MAX - 1, u64::MAX] {
                    let ask = weighing(ask(window, units, period), weight);
                    let mut meter = Meter::empty(window);
                    for _ in 0..40 {
                        try_take(&mut meter, &ask, at(now));
                        meter.keep(&ask.ceiling, at(now));
                    }
                    let reading = meter.read(&ask, at(now));
                    assert!(reading.used <= units, "{window:?}");
                    for other in RATES {
                        let other =
                            Ask { ceiling: Ceiling { window: other, ..ask.ceiling }, ..ask };
                        meter.read(&other, at(now));
                    }
                    meter.give_back(&ask.ceiling, weight, at(now));
                }
            }
        }
    }
}

#[test]
fn groups_that_are_full_to_the_last_bit_are_merged_and_still_refuse() {
    let ask = weighing(ask(Window::Sliding, u64::MAX, MINUTE), 7);
    // Two of a grain each, which is two seconds.
    let groups = (0..32).map(|second| (Steady(second * SECOND), u64::MAX));
    let mut meter = Meter::Sliding(Sliding::from_groups(groups, Steady(0)).unwrap());
    for second in 32..40 {
        meter.take(&ask, at(second * SECOND));
        assert!(meter.look(&ask, at(second * SECOND)).is_some_and(|look| !look.admits));
    }
    meter.give_back(&ask.ceiling, u64::MAX, at(SECOND));
    meter.take(&ask, at(50 * SECOND));
    let later = meter.read(&ask, at(100 * SECOND));
    assert!(later.admits && later.used == 7, "{later:?}");
}

#[test]
fn what_is_said_at_a_charge_is_what_is_read_after_it() {
    for window in ALL {
        let ask = ask(window, 1_000, MINUTE);
        let mut meter = Meter::empty(window);
        // Another worker's clock may have been read a moment earlier.
        for nanos in [5, 5, 3, SECOND, SECOND - 1, 90 * SECOND, 40 * SECOND] {
            let look = meter.look(&ask, at(nanos)).expect("it counts as the ask's window does");
            let said = meter.charge(&ask, at(nanos), look);
            assert_eq!(said, meter.read(&ask, at(nanos)), "{window:?} at {nanos}");
        }
    }
}

#[test]
fn what_is_said_of_a_refusal_is_what_is_read_after_it() {
    for window in ALL {
        let ask = weighing(ask(window, 10, MINUTE), 7);
        let mut meter = used_up(window, &ask, at(MINUTE));
        for nanos in [MINUTE, MINUTE - 1, MINUTE + 20 * SECOND, 3 * MINUTE] {
            let look = meter.look(&ask, at(nanos)).expect("it counts as the ask's window does");
            let said = meter.decline(&ask, at(nanos), look);
            assert_eq!(said, meter.read(&ask, at(nanos)), "{window:?} at {nanos}");
            assert_eq!(said.admits, look.admits, "{window:?} at {nanos}");
        }
    }
}

#[test]
fn a_look_and_a_refusal_in_one_say_and_note_what_they_do_one_after_the_other() {
    let calendar = CalendarIx(0);
    let others = [Window::Quota(calendar), Window::Spend(calendar), Window::Prepaid];
    let all = [ALL.as_slice(), &others].concat();
    for &window in &all {
        for weight in [1, 3, 7, 11] {
            let ask = weighing(ask(window, 10, MINUTE), weight);
            let used = used_up(window, &weighing(ask, 2), at(MINUTE));
            // Noted is the ceiling of the latest look, which may remember longer.
            let slow = Ask { ceiling: Ceiling { period: 9 * MINUTE, ..ask.ceiling }, ..ask };
            for (ask, nanos) in [(ask, MINUTE), (ask, MINUTE + 20 * SECOND), (slow, 2 * MINUTE)] {
                let (mut one, mut both) = (used.clone(), used.clone());
                let look = both.look(&ask, at(nanos)).expect("it counts as the ask's window does");
                let said = both.decline(&ask, at(nanos), look);
                assert_eq!(one.look_and_decline(&ask, at(nanos)), Some(said), "{window:?}");
                let idle = |meter: &Meter| [1, 2, 4, 8, 16].map(|n| meter.is_idle(at(n * MINUTE)));
                assert_eq!(idle(&one), idle(&both), "{window:?} at {nanos}");
                assert_eq!(one.read(&ask, at(nanos)), said, "{window:?} at {nanos}");
            }
        }
        for &other in all.iter().filter(|other| **other != window) {
            let ask = self::ask(other, 10, MINUTE);
            assert_eq!(Meter::empty(window).look_and_decline(&ask, at(0)), None, "{window:?}");
        }
    }
}

#[test]
fn what_is_given_back_can_be_used_again_once() {
    for window in RATES {
        let ask = weighing(ask(window, 10, MINUTE), 4);
        let mut meter = used_up(window, &ask, at(MINUTE));
        assert_eq!(meter.read(&ask, at(MINUTE)).used, 8);
        meter.give_back(&ask.ceiling, 4, at(MINUTE));
        assert_eq!(meter.read(&ask, at(MINUTE)).used, 4, "{window:?}");
    }
}

#[test]
fn what_was_taken_before_a_reset_is_not_given_back_out_of_what_was_taken_after() {
    let ask = ask(Window::Sliding, 10, MINUTE);
    let mut meter = Meter::empty(Window::Sliding);
    meter.take(&ask, at(1));
    meter.reset();
    assert_eq!(meter.read(&ask, at(2)).used, 0);
    meter.take(&ask, at(2));
    meter.give_back(&ask.ceiling, 1, at(1));
    assert_eq!(meter.read(&ask, at(2)).used, 1);
    meter.give_back(&ask.ceiling, 1, at(2));
    assert_eq!(meter.read(&ask, at(2)).used, 0);
}

#[test]
fn what_time_has_given_back_is_not_given_back_twice() {
    for window in RATES {
        let ask = ask(window, 10, MINUTE);
        let mut meter = used_up(window, &ask, at(0));
        for _ in 0..10 {
            meter.take(&ask, at(2 * MINUTE));
        }
        meter.give_back(&ask.ceiling, 10, at(0));
        assert_eq!(meter.read(&ask, at(2 * MINUTE)).used, 10, "{window:?}");
    }
}

#[test]
fn an_idle_meter_says_what_an_absent_one_says_and_a_busy_one_is_not_idle() {
    for window in RATES {
        let ask = ask(window, 10, MINUTE);
        let mut meter = used_up(window, &ask, at(MINUTE + 1));
        let mut now = MINUTE + 1;
        while !meter.is_idle(at(now)) {
            now += SECOND;
            assert!(now < 4 * MINUTE);
        }
        assert_eq!(meter.read(&ask, at(now)), Meter::unused(&ask, at(now)), "{window:?}");
        // Asked about again under a slower ceiling, it is remembered for as long as that one remembers.
        meter = used_up(window, &ask, at(MINUTE + 1));
        let slow = self::ask(window, 10, 100 * MINUTE);
        meter.keep(&slow.ceiling, at(MINUTE + 2));
        assert!(!meter.is_idle(at(3 * MINUTE)), "{window:?}");
    }
}

#[test]
fn a_meter_is_small() {
    assert!(size_of::<Meter>() <= 56, "{}", size_of::<Meter>());
}
