//! The core against a naive sequential model: a log of every admitted unit, and sums over it.

use std::collections::HashMap;
use std::rc::Rc;

use proptest::prelude::*;
use tollgate::clock::{Now, Steady, Wall};
use tollgate::policy::calendar::Period;
use tollgate::policy::charge::{ChargeRule, Stated, Verdict};
use tollgate::policy::limit::{
    Ceiling, LimitId, LimitIx, Mode, OnStoreFailure, SubjectKey, Window,
};
use tollgate::policy::meter::Meter;
use tollgate::policy::order::{Ask, Asks, Heard, Line};
use tollgate::store::{Backing, Ledger, Opening, Order, Reservation, Restored};

fn at(nanos: u64) -> Now {
    Now { steady: Steady(nanos), wall: Wall(0) }
}

fn ceiling(window: Window, units: u64, period: u64, burst: u64) -> Ceiling {
    Ceiling { window, units, period, burst }
}

fn ask(ceiling: Ceiling, weight: u64) -> Ask {
    Ask {
        limit: LimitIx(0),
        id: LimitId(1),
        subject: SubjectKey(1),
        crowded: None,
        ceiling,
        weight,
        mode: Mode::Enforce,
        period: Period::default(),
        on_store_failure: OnStoreFailure::Local,
    }
}

/// Every unit that was admitted, with its instant.
#[derive(Clone, Debug, Default)]
struct Log(Vec<(u64, u64)>);

impl Log {
    fn add(&mut self, at: u64, units: u64) {
        self.0.push((at, units));
    }

    /// Units admitted in the `period` that ends with `at`.
    fn within(&self, at: u64, period: u64) -> u64 {
        let inside = |t: u64| t <= at && t.checked_add(period).is_none_or(|end| end > at);
        self.0.iter().filter(|(t, _)| inside(*t)).map(|(_, units)| units).sum()
    }

    fn instants_within(&self, at: u64, period: u64) -> usize {
        let mut instants: Vec<u64> =
            self.0.iter().map(|(t, _)| *t).filter(|t| *t + period > at).collect();
        instants.dedup();
        instants.len()
    }

    /// Units admitted in the window of the grid that holds `at`.
    fn in_window(&self, at: u64, period: u64) -> u64 {
        self.0.iter().filter(|(t, _)| t / period == at / period).map(|(_, units)| units).sum()
    }
}

/// A bucket that is stepped at every event, in whole units × period.
#[derive(Clone, Copy, Debug, Default)]
struct NaiveBucket {
    level: u128,
    at: u64,
}

impl NaiveBucket {
    fn drained(&mut self, c: &Ceiling, now: u64) -> u128 {
        self.level = self.level.saturating_sub(u128::from(c.units) * u128::from(now - self.at));
        self.at = now;
        self.level
    }

    fn fits(&mut self, c: &Ceiling, weight: u64, now: u64) -> bool {
        let period = u128::from(c.period);
        self.drained(c, now) + u128::from(weight) * period <= u128::from(c.burst) * period
    }
}

/// Steps between events: bursts at one instant, small steps (dense enough for merged groups), and few long ones.
fn step() -> impl Strategy<Value = u64> {
    prop_oneof![20 => Just(0u64), 60 => 1u64..40, 6 => 40u64..400, 1 => 400u64..4_000]
}

fn events(weights: std::ops::Range<u64>) -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((step(), weights), 1..250)
}

/// The short answer, of a meter that counts as the ask's window does.
fn admits(meter: &Meter, ask: &Ask, now: Now) -> bool {
    meter.look(ask, now).expect("it counts as the ask's window does").admits
}

fn rate_window() -> impl Strategy<Value = Window> {
    prop_oneof![Just(Window::Bucket), Just(Window::Sliding), Just(Window::Fixed)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sliding_never_admits_more_than_n_in_any_period(
        units in 1u64..150, period in 1u64..3_000, events in events(0..6),
    ) {
        let c = ceiling(Window::Sliding, units, period, units);
        let (mut meter, mut log, mut now) = (Meter::empty(Window::Sliding), Log::default(), 0);
        for (step, weight) in events {
            now += step;
            let ask = ask(c, weight);
            let reading = meter.read(&ask, at(now));
            prop_assert_eq!(reading.admits, admits(&meter, &ask, at(now)));
            let used = log.within(now, period);
            // It may err towards refusing, and while every arrival has a group of its own it does not err at all.
            prop_assert!(reading.used >= used);
            if log.instants_within(now, period) < 32 && log.0.len() < 32 {
                prop_assert_eq!(reading.used, used);
            }
            if reading.admits {
                meter.take(&ask, at(now));
                if weight > 0 {
                    log.add(now, weight);
                }
                prop_assert!(log.within(now, period) <= units);
            } else {
                prop_assert!(reading.wait.is_none_or(|wait| wait <= period));
            }
        }
    }

    #[test]
    fn sliding_holds_a_unit_for_at_most_a_thirtieth_of_the_period_too_long(
        units in 30u64..150, period in 60u64..3_000, events in events(1..4),
    ) {
        let c = ceiling(Window::Sliding, units, period, units);
        let (mut meter, mut log, mut now) = (Meter::empty(Window::Sliding), Log::default(), 0);
        for (step, weight) in events {
            now += step;
            let ask = ask(c, weight);
            let reading = meter.read(&ask, at(now));
            prop_assert!(reading.used <= log.within(now, period + period.div_ceil(30)));
            if reading.admits {
                meter.take(&ask, at(now));
                log.add(now, weight);
            }
        }
    }

    #[test]
    fn sliding_holds_when_ceilings_and_periods_are_lowered_on_the_way(
        ceilings in prop::collection::vec((1u64..120, 1u64..2_000), 1..5), events in events(0..6),
    ) {
        let (mut units, mut period) = (120, 2_000);
        let (mut meter, mut log, mut now) = (Meter::empty(Window::Sliding), Log::default(), 0);
        let turn = events.len().div_ceil(ceilings.len());
        for (i, (step, weight)) in events.into_iter().enumerate() {
            let (u, p) = ceilings[i / turn];
            (units, period) = (units.min(u), period.min(p));
            now += step;
            let ask = ask(ceiling(Window::Sliding, units, period, units), weight);
            let reading = meter.read(&ask, at(now));
            prop_assert!(reading.used >= log.within(now, period));
            prop_assert!(reading.remaining <= units);
            if reading.admits {
                meter.take(&ask, at(now));
                log.add(now, weight);
                prop_assert!(weight == 0 || log.within(now, period) <= units);
            }
        }
    }

    #[test]
    fn a_sliding_limit_that_is_raised_helps_at_once(
        units in 1u64..100, more in 1u64..50, period in 1u64..3_000, events in events(1..4),
    ) {
        let low = ceiling(Window::Sliding, units, period, units);
        let high = ceiling(Window::Sliding, units + more, period, units + more);
        let (mut meter, mut now) = (Meter::empty(Window::Sliding), 0);
        for (step, weight) in events {
            now += step;
            let ask_low = ask(low, weight);
            let (before, after) = (meter.read(&ask_low, at(now)), meter.read(&ask(high, weight), at(now)));
            prop_assert_eq!(after.used, before.used);
            prop_assert_eq!(after.remaining, before.remaining + more);
            if before.admits {
                meter.take(&ask_low, at(now));
            }
        }
    }

    #[test]
    fn a_bucket_is_the_naive_bucket_and_admits_burst_plus_rate_times_t_in_any_interval(
        units in 1u64..100, period in 1u64..3_000, burst in 1u64..100, events in events(0..6),
    ) {
        let c = ceiling(Window::Bucket, units, period, burst);
        let (mut meter, mut naive) = (Meter::empty(Window::Bucket), NaiveBucket::default());
        let (mut log, mut now) = (Log::default(), 0);
        for (step, weight) in events {
            now += step;
            let ask = ask(c, weight);
            let reading = meter.read(&ask, at(now));
            prop_assert_eq!(reading.admits, naive.fits(&c, weight, now));
            prop_assert_eq!(reading.admits, admits(&meter, &ask, at(now)));
            prop_assert_eq!(u128::from(reading.used), naive.level.div_ceil(u128::from(period)));
            if reading.admits {
                meter.take(&ask, at(now));
                naive.level += u128::from(weight) * u128::from(period);
                log.add(now, weight);
            }
        }
        for (i, (from, _)) in log.0.iter().enumerate() {
            let mut admitted = 0u128;
            for (to, weight) in &log.0[i..] {
                admitted += u128::from(*weight);
                let most = u128::from(burst * period) + u128::from(units * (to - from));
                prop_assert!(admitted * u128::from(period) <= most);
            }
        }
    }

    #[test]
    fn a_fixed_window_admits_n_in_each_and_at_most_2n_across_an_edge(
        units in 1u64..60, period in 1u64..3_000, events in events(0..6),
    ) {
        let c = ceiling(Window::Fixed, units, period, units);
        let (mut meter, mut log, mut now) = (Meter::empty(Window::Fixed), Log::default(), 0);
        for (step, weight) in events {
            now += step;
            let ask = ask(c, weight);
            let used = log.in_window(now, period);
            let reading = meter.read(&ask, at(now));
            prop_assert_eq!((reading.used, reading.remaining), (used, units - used));
            prop_assert_eq!(reading.admits, used + weight <= units);
            if reading.admits {
                meter.take(&ask, at(now));
                log.add(now, weight);
                prop_assert!(log.within(now, period) <= 2 * units);
            }
        }
    }

    #[test]
    fn waiting_exactly_as_long_as_was_said_admits_and_a_nanosecond_less_does_not(
        window in rate_window(), units in 1u64..60, period in 1u64..3_000, burst in 1u64..60,
        then in (0u64..80, 1u64..3_000, 0u64..80), events in events(1..8), last in 1u64..80,
    ) {
        let burst = if window == Window::Bucket { burst } else { units };
        let (mut meter, mut now) = (Meter::empty(window), 0);
        for (step, weight) in events {
            now += step;
            let ask = ask(ceiling(window, units, period, burst), weight);
            if admits(&meter, &ask, at(now)) {
                meter.take(&ask, at(now));
            }
        }
        let (lowered, period, lowered_burst) = then;
        let lowered_burst = if window == Window::Bucket { lowered_burst } else { lowered };
        for c in [
            ceiling(window, units, period, burst),
            ceiling(window, lowered, period, lowered_burst),
        ] {
            let ask = ask(c, last);
            // Also as seen by a worker whose clock was read a moment earlier.
            for now in [now, now.saturating_sub(3)] {
                let reading = meter.read(&ask, at(now));
                match reading.wait {
                    Some(0) => prop_assert!(reading.admits),
                    Some(wait) => {
                        prop_assert!(!reading.admits);
                        prop_assert!(admits(&meter, &ask, at(now + wait)));
                        prop_assert!(!admits(&meter, &ask, at(now + wait - 1)));
                    }
                    None => prop_assert!(c.units == 0 || last > c.burst),
                }
                if let Some(more) = reading.more_in {
                    prop_assert!(meter.read(&ask, at(now + more)).remaining > reading.remaining);
                    let just_before = meter.read(&ask, at(now + more - 1)).remaining;
                    prop_assert_eq!(just_before, reading.remaining);
                } else {
                    prop_assert!(c.units == 0 || reading.remaining == c.burst);
                }
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_never_admits_more_than_one_that_stands_still(
        window in rate_window(), units in 1u64..40, period in 1u64..2_000,
        events in prop::collection::vec((step(), 0u64..50, 1u64..4), 1..150),
    ) {
        let c = ceiling(window, units, period, units);
        let (mut meter, mut still) = (Meter::empty(window), Meter::empty(window));
        let (mut now, mut latest) = (0u64, 0u64);
        for (step, back, weight) in events {
            now += step;
            let seen = now.saturating_sub(back);
            let ask = ask(c, weight);
            // What is taken at an earlier reading counts as if it were taken at the latest take.
            if admits(&meter, &ask, at(seen)) {
                latest = latest.max(seen);
                prop_assert!(admits(&still, &ask, at(latest)));
                meter.take(&ask, at(seen));
                still.take(&ask, at(latest));
            }
        }
    }

    #[test]
    fn no_number_panics_or_leaves_more_than_the_ceiling(
        window in rate_window(), other in rate_window(),
        events in prop::collection::vec(
            (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()), 1..60,
        ),
    ) {
        let mut meter = Meter::empty(window);
        for (now, units, period, burst, weight, changed) in events {
            let window = if changed { other } else { window };
            let burst = if window == Window::Bucket { burst } else { units };
            let ask = ask(ceiling(window, units, period.max(1), burst), weight);
            let reading = meter.read(&ask, at(now));
            prop_assert!(reading.remaining <= burst);
            if let Some(look) = meter.look(&ask, at(now)) {
                prop_assert_eq!(reading.admits, look.admits);
            }
            meter.keep(&ask.ceiling, at(now));
            if reading.admits {
                meter.take(&ask, at(now));
            } else if changed {
                meter.give_back(&ask.ceiling, weight, at(now));
            }
            meter.is_idle(at(now));
        }
    }
}

// === The ledger against a model that looks at one limit after another ===

/// One request of the ledger's model: which limits of the table below, with which weight, after which step.
#[derive(Clone, Debug)]
struct Request {
    step: u64,
    limits: Vec<usize>,
    weight: u64,
    sweep: bool,
}

const PERIOD: u64 = 1_000;

/// The limits of the model: several on one subject, and several of each window.
fn limits() -> Vec<Ask> {
    let rows = [
        (1u128, Window::Sliding, 20, Mode::Enforce),
        (1, Window::Bucket, 15, Mode::Enforce),
        (2, Window::Fixed, 12, Mode::Enforce),
        (2, Window::Sliding, 6, Mode::Shadow),
        (3, Window::Bucket, 10, Mode::Shadow),
        (3, Window::Sliding, 9, Mode::Enforce),
        (4, Window::Fixed, 0, Mode::Shadow),
    ];
    let make = |(i, (subject, window, units, mode))| Ask {
        limit: LimitIx(i),
        id: LimitId(u64::from(i)),
        // Declared in another order than they are locked.
        subject: SubjectKey(10 - subject),
        mode,
        ..ask(ceiling(window, units, PERIOD, units), 1)
    };
    (0u16..).zip(rows).map(make).collect()
}

#[derive(Default)]
struct Model {
    logs: HashMap<u16, Log>,
    buckets: HashMap<u16, NaiveBucket>,
}

impl Model {
    fn fits(&mut self, ask: &Ask, now: u64) -> bool {
        let c = &ask.ceiling;
        let log = self.logs.entry(ask.limit.0).or_default();
        let used = match c.window {
            Window::Sliding => log.within(now, c.period),
            Window::Fixed => log.in_window(now, c.period),
            Window::Bucket => {
                let bucket = self.buckets.entry(ask.limit.0).or_default();
                return bucket.fits(c, ask.weight, now);
            }
            Window::Concurrent | Window::Quota(_) | Window::Spend(_) | Window::Prepaid => {
                unreachable!("the model has rates only")
            }
        };
        c.units > 0 && used + ask.weight <= c.units
    }

    fn take(&mut self, ask: &Ask, now: u64) {
        self.logs.entry(ask.limit.0).or_default().add(now, ask.weight);
        let bucket = self.buckets.entry(ask.limit.0).or_default();
        bucket.level += u128::from(ask.weight) * u128::from(ask.ceiling.period);
    }
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let limits = prop::collection::btree_set(0usize..limits().len(), 0..5);
    // At least a fiftieth of the period apart or at one instant, so that the sliding windows stay exact.
    let step = prop_oneof![4 => Just(0u64), 4 => 50u64..120, 1 => 120u64..2_500];
    let one = (step, limits, 1u64..4, any::<bool>()).prop_map(|(step, limits, weight, sweep)| {
        Request { step, limits: limits.into_iter().collect(), weight, sweep }
    });
    prop::collection::vec(one, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn several_limits_are_taken_together_or_not_at_all(requests in requests()) {
        let table = limits();
        let ledger = Ledger::new(0, Backing::None, Restored::default());
        let (mut model, mut now) = (Model::default(), 7);
        for request in requests {
            now += request.step;
            let wanted = request.limits.iter();
            let asks: Asks = wanted.map(|i| Ask { weight: request.weight, ..table[*i] }).collect();
            let asks = Rc::new(asks);
            let fits: Vec<bool> = asks.iter().map(|ask| model.fits(ask, now)).collect();
            let vetoed =
                asks.iter().zip(&fits).any(|(ask, fits)| ask.mode == Mode::Enforce && !fits);
            let readings = match ledger.open(at(now), &Order::of(&asks)) {
                Opening::Admitted(_, readings) => {
                    prop_assert!(!vetoed);
                    let heard = Heard { asks: &asks, readings: &readings };
                    prop_assert_eq!(heard.refusal(), None);
                    for (ask, _) in asks.iter().zip(&fits).filter(|(_, fits)| **fits) {
                        model.take(ask, now);
                    }
                    readings
                }
                Opening::Refused(readings) => {
                    prop_assert!(vetoed);
                    let heard = Heard { asks: &asks, readings: &readings };
                    let waits = heard.lines().filter(Line::vetoes).map(|l| l.reading.wait);
                    prop_assert_eq!(heard.refusal().and_then(|(_, wait)| wait), waits.max_by_key(|w| w.unwrap_or(u64::MAX)).flatten());
                    readings
                }
                other => panic!("nothing was claimed: {other:?}"),
            };
            prop_assert_eq!(readings.iter().map(|r| r.admits).collect::<Vec<_>>(), fits);
            for (ask, reading) in asks.iter().zip(&readings) {
                let used = match ask.ceiling.window {
                    Window::Sliding => model.logs[&ask.limit.0].within(now, PERIOD),
                    Window::Fixed => model.logs[&ask.limit.0].in_window(now, PERIOD),
                    _ => {
                        let level = model.buckets[&ask.limit.0].level;
                        u64::try_from(level.div_ceil(u128::from(PERIOD))).unwrap()
                    }
                };
                prop_assert_eq!(reading.used, used);
                prop_assert_eq!(reading.remaining, ask.ceiling.burst.saturating_sub(used));
            }
            if request.sweep {
                ledger.sweep(at(now), 3);
            }
        }
    }

    #[test]
    fn waiting_the_longest_wait_admits_the_same_request(requests in requests()) {
        let table = limits();
        let ledger = Ledger::new(0, Backing::None, Restored::default());
        let mut now = 7;
        for request in requests {
            now += request.step;
            let wanted = request.limits.iter();
            let asks: Asks = wanted.map(|i| Ask { weight: request.weight, ..table[*i] }).collect();
            let asks = Rc::new(asks);
            if let Opening::Refused(readings) = ledger.open(at(now), &Order::of(&asks)) {
                let heard = Heard { asks: &asks, readings: &readings };
                let wait = heard.refusal().and_then(|(_, wait)| wait).expect("every enforced ceiling is above the weights");
                let early = ledger.open(at(now + wait - 1), &Order::of(&asks));
                prop_assert!(matches!(early, Opening::Refused(_)));
                now += wait;
                let after = ledger.open(at(now), &Order::of(&asks));
                prop_assert!(matches!(after, Opening::Admitted(..)));
            }
        }
    }

    #[test]
    fn slots_are_neither_leaked_nor_freed_twice_however_requests_end(
        moves in prop::collection::vec((0u8..8, any::<prop::sample::Index>()), 1..200),
    ) {
        let slot = |limit: u16, subject: u128, units: u64| Ask {
            limit: LimitIx(limit),
            id: LimitId(u64::from(limit)),
            subject: SubjectKey(subject),
            ..ask(ceiling(Window::Concurrent, units, 0, units), 1)
        };
        // Two slots of one subject, one of another, and a rate beside them.
        let asks = Rc::new(Asks::from_slice(&[slot(0, 2, 6), slot(1, 2, 4), slot(2, 1, 9)]));
        let ledger = Ledger::new(0, Backing::None, Restored::default());
        let mut open: Vec<Reservation> = Vec::new();
        for (what, which) in moves {
            match what {
                0..=3 => match ledger.open(at(0), &Order::of(&asks)) {
                    Opening::Admitted(reservation, _) => {
                        prop_assert!(open.len() < 4);
                        open.push(reservation);
                    }
                    Opening::Refused(readings) => {
                        prop_assert_eq!(open.len(), 4);
                        let heard = Heard { asks: &asks, readings: &readings };
                        prop_assert_eq!(heard.refusal().and_then(|(_, wait)| wait), None);
                    }
                    other => panic!("nothing was claimed: {other:?}"),
                },
                _ if open.is_empty() => {}
                4 => open.swap_remove(which.index(open.len())).close(&ledger),
                5 => drop(open.swap_remove(which.index(open.len()))),
                6 => {
                    let mut one = open.swap_remove(which.index(open.len()));
                    one.sending();
                    let rule = ChargeRule::default();
                    let _ = one.learned(&ledger, Verdict::of_status(503), &rule, Stated::Unasked);
                    one.close(&ledger);
                }
                _ => open.swap_remove(which.index(open.len())).release(&ledger),
            }
            ledger.sweep(at(0), 2);
            for ask in asks.iter() {
                prop_assert_eq!(ledger.peek(at(0), ask).used, open.len() as u64);
            }
        }
        drop(open);
        ledger.sweep(at(0), 10);
        prop_assert_eq!(ledger.occupancy().cells, 0);
    }

    #[test]
    fn no_stranger_gets_more_than_its_limit_however_full_the_table_is(
        moves in prop::collection::vec(
            (0u64..60, 0u128..150, prop::option::weighted(0.05, 0usize..100), any::<bool>()), 1..400,
        ),
    ) {
        let c = ceiling(Window::Sliding, 2, PERIOD, 2);
        let ledger = Ledger::new(0, Backing::None, Restored::default());
        let mut logs: HashMap<u128, Log> = HashMap::new();
        let mut now = 0;
        // More networks than fit in the room kept for them, so that some strangers share with everyone.
        for (step, stranger, bound, sweep) in moves {
            now += step;
            if let Some(bound) = bound {
                ledger.set_subjects_bound(bound);
            }
            let network = SubjectKey(1_000 + stranger / 2);
            let ask = Ask { subject: SubjectKey(stranger), crowded: Some(network), ..ask(c, 1) };
            let peeked = ledger.peek(at(now), &ask);
            let asks = Rc::new(Asks::from_slice(&[ask]));
            let log = logs.entry(stranger).or_default();
            match ledger.open(at(now), &Order::of(&asks)) {
                Opening::Admitted(..) => {
                    prop_assert!(peeked.admits);
                    log.add(now, 1);
                    prop_assert!(log.within(now, PERIOD) <= 2);
                }
                Opening::Refused(readings) => prop_assert_eq!(peeked, readings[0]),
                other => panic!("nothing was claimed: {other:?}"),
            }
            if sweep {
                ledger.sweep(at(now), 20);
            }
            let full = ledger.occupancy();
            prop_assert!(full.dynamic <= 100 + 100 / 8 + 64);
            prop_assert!(full.cells == full.dynamic || full.cells == full.dynamic + 1);
        }
        ledger.sweep(at(now + PERIOD), 10_000);
        prop_assert_eq!(ledger.occupancy().cells, 0);
        prop_assert_eq!(ledger.occupancy().dynamic, 0);
    }
}
