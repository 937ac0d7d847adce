//! Random orders, outcomes, clocks and acts on every backing, each held against the model.

use proptest::prelude::*;
use tollgate::clock::{Now, Steady, Wall};

use super::event::{Event, event};
use super::world::{HOUR, START, World};
use super::{Ground, in_directory, in_memory};

const NOW: Now = Now { steady: Steady(0), wall: Wall(START) };

fn follows(ground: Ground, events: Vec<Event>) {
    let mut world = World::new(ground);
    for event in events {
        world.apply(event);
    }
    world.end_all();
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(384))]

    #[test]
    fn in_memory_the_ledger_decides_as_the_model_does(
        events in prop::collection::vec(event(), 1..160),
    ) {
        follows(in_memory(), events);
    }
}

proptest! {
    // Every commit is synced to a disk.
    #![proptest_config(config(32))]

    #[test]
    fn with_a_directory_the_ledger_decides_as_the_model_does(
        events in prop::collection::vec(event(), 1..160),
    ) {
        follows(in_directory(NOW), events);
    }
}

/// Records that the wall clock keeps alive beyond their time are looked at again a second later: a clock that is put
/// right makes room by then, and not at once.
#[test]
fn records_that_a_slow_clock_kept_alive_make_room_a_second_after_it_is_put_right() {
    let claim =
        |key| Event::Open { tenant: 1, key: Some((key, 1)), cost: 0, weight: 0, waiver: false };
    let go = Event::Go { which: 0, verdict: 0, stated: 0, ending: 0 };
    let mut events = Vec::new();
    for key in 0..5 {
        events.extend([claim(key), go, go, go]);
    }
    events.extend([Event::Tick(7 * HOUR), Event::SetClock(-23 * HOUR), claim(5)]);
    events.extend([Event::SetClock(0), claim(5), Event::Tick(999), claim(5)]);
    let mut world = World::new(in_memory());
    for event in events {
        world.apply(event);
    }
    assert_eq!(world.ground.ledger.records().records, 5, "there was no room yet");
    world.apply(Event::Tick(1));
    world.apply(claim(5));
    assert_eq!(world.ground.ledger.records().records, 1);
    world.end_all();
}

/// What the list has is forgiven by the order of events: no clock need move between a doubt, its reset and what others take.
#[test]
fn a_doubt_that_a_reset_forgave_gives_nothing_back_even_at_the_same_instant() {
    let open = Event::Open { tenant: 1, key: None, cost: 1, weight: 0, waiver: false };
    let go = Event::Go { which: 0, verdict: 5, stated: 0, ending: 0 };
    let mut world = World::new(in_memory());
    for event in [Event::TopUp(1, 5), open, go, go, Event::Reset { limit: 3, tenant: 1 }, open] {
        world.apply(event);
    }
    assert_eq!(world.listed.len(), 1);
    world.apply(Event::Resolve { which: 0, release: true });
    assert_eq!(world.listed.len(), 0);
    let (_, ask) = world.meter(3, 1);
    assert_eq!(world.ground.ledger.peek(world.now(), &ask).used, 1, "the later take stays");
    world.end_all();
}
