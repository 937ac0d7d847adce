//! A wall clock that jumps: time that is set back grants nothing twice, and no answer is forgotten early.
//!
//! Apart from the other faults, because these gates live in the test's own process: a process that another test starts at the
//! same moment would hold a copy of the state directory's lock for an instant.

mod support;

use std::time::Duration;

use support::inside::Inside;
use support::{Backend, Key, Policy, Request};

const POLICY: &str = "\
version: 1
upstream: http://127.0.0.1:9
state: STATE
credentials: { accept: [bearer], keys: gate.keys.yaml }
idempotency: { keep: 1h }
routes:
  - { name: send, match: POST /send, idempotency: accept }
  - { name: counted, match: POST /counted }
limits:
  daily: { quota: 3/day, per: tenant, routes: [counted] }
";

const DAY: Duration = Duration::from_hours(24);

fn start(backend: &Backend, state: &str) -> Inside {
    let text = POLICY.replace("STATE", state);
    Inside::start(Policy::with_keys(&text, &[Key::of("ka", "acme", "secret-a")]), backend)
}

fn admitted(gate: &Inside) -> usize {
    let ask = || gate.send(&Request::post("/counted", "{}").bearer("secret-a")).status;
    (0..5).filter(|_| ask() == 200).count()
}

#[test]
fn a_day_is_granted_once_however_the_clock_jumps() {
    for state in ["memory", "./state"] {
        let backend = Backend::start();
        let gate = start(&backend, state);
        assert_eq!(admitted(&gate), 3);
        gate.pass(DAY);
        assert_eq!(admitted(&gate), 3, "{state}: the next day");
        gate.set_clock_back(DAY);
        assert_eq!(admitted(&gate), 0, "{state}: back to the first");
        gate.set_clock_back(30 * DAY);
        assert_eq!(admitted(&gate), 0, "{state}: and long before it");
        gate.pass(31 * DAY);
        assert_eq!(admitted(&gate), 0, "{state}: forth to the second again");
        gate.pass(DAY);
        assert_eq!(admitted(&gate), 3, "{state}: a third");
    }
}

#[test]
fn a_restart_under_a_clock_that_went_back_grants_nothing() {
    let backend = Backend::start();
    let mut gate = start(&backend, "./state");
    assert_eq!(admitted(&gate), 3);
    gate.pass(DAY);
    assert_eq!(admitted(&gate), 3);
    for back in [DAY, 40 * DAY] {
        gate.set_clock_back(back);
        gate = gate.restarted(&backend);
        assert_eq!(admitted(&gate), 0, "{back:?}");
    }
    gate.pass(41 * DAY);
    gate = gate.restarted(&backend);
    assert_eq!(admitted(&gate), 0, "the day that was used");
    gate.pass(DAY);
    assert_eq!(admitted(&gate), 3);
}

#[test]
fn a_record_outlives_a_clock_that_went_back() {
    let backend = Backend::start();
    let gate = start(&backend, "./state");
    let send = Request::post("/send", "{}").bearer("secret-a").header("Idempotency-Key", "the-key");
    assert_eq!(gate.send(&send).status, 200);
    gate.set_clock_back(10 * DAY);
    let again = gate.send(&send);
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{again:?}");
    let gate = gate.restarted(&backend);
    let again = gate.send(&send);
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{again:?}");
    assert_eq!(backend.count(), 1);
}
