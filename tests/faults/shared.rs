//! A directory that two gates want, and one that only a later gate could read.

use std::fs;
use std::time::{Duration, Instant};

use crate::bench::{Bench, promise};

#[test]
fn a_second_gate_on_the_same_directory_ends_at_once_and_the_first_goes_on() {
    let bench = Bench::new();
    let gate = bench.launch().start();
    let promised = promise(&gate);
    #[expect(clippy::disallowed_methods, reason = "how long a process takes is what is tested")]
    let start = Instant::now();
    let refused = bench.launch().refusal();
    assert!(start.elapsed() < Duration::from_secs(3), "it waited");
    assert_eq!(refused.code, Some(3), "{}", refused.said);
    let state = bench.state();
    assert!(refused.said.contains(state.to_str().expect("a plain name")), "{}", refused.said);
    promised.holds(&gate, &bench, false);
    assert_eq!(gate.stop(), Some(0));
    promised.holds(&bench.launch().start(), &bench, false);
}

#[test]
fn a_gate_takes_over_from_one_that_ends_in_order_and_from_one_that_was_killed() {
    let bench = Bench::new();
    let gate = bench.launch().start();
    let promised = promise(&gate);
    gate.kill();
    let gate = bench.launch().start();
    promised.holds(&gate, &bench, true);
    assert_eq!(gate.stop(), Some(0));
    promised.holds(&bench.launch().start(), &bench, true);
}

#[test]
fn a_directory_of_a_later_format_is_refused_and_left_as_it_is() {
    let bench = Bench::new();
    let gate = bench.launch().start();
    let promised = promise(&gate);
    assert_eq!(gate.stop(), Some(0));
    let format = bench.state().join("format");
    let text = fs::read_to_string(&format).expect("a state says its format");
    fs::write(&format, text.replace('3', "4")).expect("it is ours");
    let refused = bench.launch().refusal();
    assert_eq!(refused.code, Some(3), "{}", refused.said);
    assert!(refused.said.contains("format 4"), "{}", refused.said);
    fs::write(&format, text).expect("it is ours");
    promised.holds(&bench.launch().start(), &bench, false);
}
