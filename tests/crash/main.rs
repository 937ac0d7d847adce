//! The promise about crashes, tested: gates are killed under load at every place where it is worst, at any
//! other time, and with the power.
//! A checker compares what the backend saw, what clients were told, and what the limits allow.
//!
//! Needs a gate that can be told where to die: `cargo test --features kill-points --test crash`. Each place is tried 20
//! times, or as often as `TOLLGATE_CRASHES` says.

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod books;
mod carrier;
mod clients;
mod desk;
mod judge;
mod operator;
mod scene;
mod tally;
mod terms;
mod world;

use std::io::Write as _;
use std::sync::Mutex;
use std::thread;

use tollgate::killpoint::KillPoint;

use tally::Tally;
use world::{Death, survive};

/// Worlds at the same time.
const WORLDS: usize = 2;

#[test]
fn no_crash_breaks_a_promise() {
    assert!(
        has_kill_points(),
        "this gate has no kill points: cargo test --features kill-points --test crash"
    );
    let points = KillPoint::ALL.iter().map(|point| Death::At(*point));
    all_survive(points.chain([Death::UnderWay, Death::AnyTime]).collect());
}

#[test]
fn no_power_cut_breaks_a_promise() {
    all_survive(vec![Death::PowerCut]);
}

/// A world for each way to die, two at a time.
#[track_caller]
fn all_survive(mut deaths: Vec<Death>) {
    let crashes = crashes();
    let worlds = deaths.len();
    deaths.reverse();
    let waiting = Mutex::new(deaths);
    let sum = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..WORLDS.min(worlds) {
            scope.spawn(|| {
                while let Some(death) = next(&waiting) {
                    let tally = survive(death, crashes);
                    say(&tally.line(death.name()));
                    sum.lock().expect("no world fails while it holds this").add(tally);
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no world fails while it holds this");
    say(&sum.line("together"));
    assert!(sum.broken.is_empty(), "{}", sum.complaint());
    assert_eq!(sum.crashes, crashes * worlds);
    assert!(sum.replays > 0 && sum.unknown > 0, "the traffic asks for neither: {sum:?}");
    assert!(sum.acts > 0, "no admin act was acknowledged");
}

fn next(waiting: &Mutex<Vec<Death>>) -> Option<Death> {
    waiting.lock().expect("no world fails while it holds this").pop()
}

/// The binary under test is built with the features of this suite.
fn has_kill_points() -> bool {
    cfg!(feature = "kill-points")
}

/// How often each place is tried.
fn crashes() -> usize {
    #[expect(clippy::disallowed_methods, reason = "a longer run is asked for by a variable")]
    let asked = std::env::var("TOLLGATE_CRASHES");
    asked.ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// For people, also when all is well: libtest holds back what `println!` says.
fn say(line: &str) {
    // Nothing hangs on it.
    drop(writeln!(std::io::stderr(), "crash: {line}"));
}
