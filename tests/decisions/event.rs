//! What can happen, at random.

use proptest::prelude::*;

use super::model::RATE_PERIOD;
use super::world::HOUR;

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Open {
        tenant: u128,
        key: Option<(u128, u8)>,
        cost: u64,
        weight: u64,
        waiver: bool,
    },
    /// The next step of an exchange: sent, known, complete, closed.
    Go {
        which: usize,
        verdict: usize,
        stated: u64,
        ending: usize,
    },
    Close(usize),
    Release(usize),
    Tick(i64),
    SetClock(i64),
    TopUp(u128, u64),
    Adjust {
        limit: usize,
        tenant: u128,
        add: bool,
        amount: u64,
    },
    Reset {
        limit: usize,
        tenant: u128,
    },
    Resolve {
        which: usize,
        release: bool,
    },
    ResolveRecord {
        tenant: u128,
        key: u128,
        release: bool,
    },
    Ceiling {
        limit: usize,
        units: u64,
    },
    Mode {
        limit: usize,
        shadow: bool,
    },
    Sweep,
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    let tenant = 1u128..3;
    let limit = 0usize..5;
    let key = prop::option::weighted(0.6, (0u128..5, prop::sample::select(vec![1u8, 1, 1, 2])));
    prop_oneof![
        30 => (tenant.clone(), key, 0u64..4, 0u64..3, any::<bool>()).prop_map(
            |(tenant, key, cost, weight, waiver)| Event::Open { tenant, key, cost, weight, waiver }
        ),
        40 => (0usize..6, 0usize..7, 0u64..4, 0usize..4).prop_map(
            |(which, verdict, stated, ending)| Event::Go { which, verdict, stated, ending }
        ),
        5 => (0usize..6).prop_map(Event::Close),
        4 => (0usize..6).prop_map(Event::Release),
        8 => prop_oneof![Just(1), Just(999), Just(RATE_PERIOD), Just(HOUR), Just(26 * HOUR)]
            .prop_map(Event::Tick),
        3 => prop_oneof![Just(0), -23 * HOUR..0, 0..40 * 24 * HOUR].prop_map(Event::SetClock),
        5 => (tenant.clone(), 1u64..12).prop_map(|(tenant, amount)| Event::TopUp(tenant, amount)),
        3 => (limit.clone(), tenant.clone(), any::<bool>(), 0u64..5).prop_map(
            |(limit, tenant, add, amount)| Event::Adjust { limit, tenant, add, amount }
        ),
        1 => (limit.clone(), tenant.clone()).prop_map(|(limit, tenant)| Event::Reset { limit, tenant }),
        3 => (0usize..4, any::<bool>()).prop_map(|(which, release)| Event::Resolve { which, release }),
        3 => (tenant, 0u128..5, any::<bool>()).prop_map(
            |(tenant, key, release)| Event::ResolveRecord { tenant, key, release }
        ),
        3 => (limit.clone(), 0u64..14).prop_map(|(limit, units)| Event::Ceiling { limit, units }),
        2 => (limit, any::<bool>()).prop_map(|(limit, shadow)| Event::Mode { limit, shadow }),
        3 => Just(Event::Sweep),
    ]
}
