//! Random orders, outcomes, clocks and acts on every backing, each held against the model.

use proptest::prelude::*;
use tollgate::clock::{Now, Steady, Wall};

use super::event::{Event, event};
use super::world::{START, World};
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
    #![proptest_config(config(6000))]

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
