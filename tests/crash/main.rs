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

use tally::{Promise, Tally};
use world::{Death, survive};

/// Worlds at the same time.
const WORLDS: usize = 2;

#[test]
fn no_crash_breaks_a_promise() {
    assert!(
        has_kill_points(),
        "this gate has no kill points: cargo test --features kill-points --test crash"
    );
    let crashes = crashes();
    let points = KillPoint::ALL.iter().map(|point| Death::At(*point));
    let others = [Death::UnderWay, Death::AnyTime, Death::PowerCut];
    let deaths: Vec<Death> = points.chain(others).rev().collect();
    let worlds = deaths.len();
    let waiting = Mutex::new(deaths);
    let results: Mutex<Vec<(Death, Tally)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..WORLDS {
            scope.spawn(|| {
                while let Some(death) = next(&waiting) {
                    let tally = survive(death, crashes);
                    say(&tally.line(death.name()));
                    results
                        .lock()
                        .expect("no world fails while it holds this")
                        .push((death, tally));
                }
            });
        }
    });
    let mut all = Tally::default();
    for (_, tally) in results.into_inner().expect("no world fails while it holds this") {
        all.add(tally);
    }
    say(&all.line("all"));
    assert!(all.broken.is_empty(), "{}", all.complaint());
    assert_eq!(all.crashes, crashes * worlds);
    assert!(all.replays > 0 && all.unknown > 0, "the traffic asks for neither: {all:?}");
    assert_eq!(all.count(Promise::Once), 0);
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
