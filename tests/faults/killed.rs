//! A gate that is killed between the send and the answer, or gets none: the money stays charged and is listed, the key is unknown and
//! never fresh, and a person ends the doubt.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::bench::{Bench, act, ask, code, post, promise, send, usage};
use crate::support::frail::attempt;
use crate::support::{Reply, eventually};

#[test]
fn a_holder_that_died_leaves_the_key_unknown_and_never_fresh() {
    let bench = Bench::new();
    let gate = bench.launch().start();
    bench.backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(3)));
    let address = gate.traffic;
    let (asked, lost) = channel();
    thread::spawn(move || asked.send(attempt(address, &send("in-flight")).is_err()));
    assert!(eventually(Duration::from_secs(5), || bench.backend.count() == 1));
    gate.kill();
    assert!(lost.recv().expect("the client ends"), "it was answered after all");
    let mut gate = bench.launch().start();
    for _ in 0..2 {
        let again = ask(&gate, &send("in-flight"));
        assert_eq!((again.status, &*code(&again)), (409, "idempotency_unknown"));
        gate.kill();
        gate = bench.launch().start();
    }
    assert_eq!(bench.backend.count(), 1, "a second forward");
    let listed = gate.ask_admin("/v1/reservations").json();
    assert_eq!(listed["records_total"], 1, "{listed}");
    assert_eq!(listed["records"][0]["doubt"], "crash");
}

#[test]
fn money_under_way_stays_charged_is_listed_and_is_settled_by_a_person_once() {
    let bench = Bench::new();
    let gate = bench.launch().start();
    promise(&gate);
    let used = usage(&gate, "wallet")["used"].clone();
    bench.backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(3)));
    let (address, reached) = (gate.traffic, bench.backend.count());
    for _ in 0..2 {
        thread::spawn(move || drop(attempt(address, &post("/pay"))));
    }
    assert!(eventually(Duration::from_secs(5), || bench.backend.count() == reached + 2));
    gate.kill();
    let gate = bench.launch().start();
    let charged = usage(&gate, "wallet")["used"].clone();
    assert_eq!((&used, &charged), (&json!("7.5"), &json!("10.5")));
    let listed = gate.ask_admin("/v1/reservations").json();
    let ids: Vec<&str> = (0..2).filter_map(|n| listed["reservations"][n]["id"].as_str()).collect();
    assert_eq!((listed["reservations_total"].as_u64(), ids.len()), (Some(2), 2), "{listed}");
    for (id, how) in [(ids[0], "confirm"), (ids[1], "release")] {
        let path = format!("/v1/reservations/{id}/{how}");
        for _ in 0..2 {
            let (status, said) = act(&gate, &path, &json!({}), how);
            assert_eq!(status, 200, "{said}");
        }
        let (status, _) = act(&gate, &path, &json!({}), "another person");
        assert_eq!(status, 404, "it was settled");
    }
    gate.kill();
    let gate = bench.launch().start();
    assert_eq!(usage(&gate, "wallet")["used"], "9");
    assert_eq!(gate.ask_admin("/v1/reservations").json()["reservations_total"], 0);
}

#[test]
fn an_unanswered_payment_stays_charged_and_is_listed() {
    let bench = Bench::new();
    let mut gate = bench.launch().start();
    promise(&gate);
    bench.backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(2)));
    let answer = ask(&gate, &post("/late"));
    assert_eq!((answer.status, &*code(&answer)), (504, "upstream_timeout"));
    for _ in 0..2 {
        assert_eq!(usage(&gate, "wallet")["used"], "9");
        let listed = gate.ask_admin("/v1/reservations").json();
        assert_eq!(listed["reservations_total"], 1, "{listed}");
        assert_eq!(listed["reservations"][0]["charges"][0]["amount"], "1.5");
        gate.kill();
        gate = bench.launch().start();
    }
}

#[test]
fn a_kill_gives_back_no_more_of_a_rate_than_the_last_moments() {
    let bench = Bench::new();
    let gate = bench.launch().start();
    for _ in 0..10 {
        assert_eq!(ask(&gate, &post("/slow")).status, 200);
    }
    // Rates are handed on about every second, and nobody is told when.
    thread::sleep(Duration::from_secs(3));
    for _ in 0..3 {
        assert_eq!(ask(&gate, &post("/slow")).status, 200);
    }
    gate.kill();
    let gate = bench.launch().start();
    let used = usage(&gate, "slow")["used"].as_u64();
    assert!((10..=13).contains(&used.unwrap_or_default()), "{used:?}");
}

#[test]
fn an_orderly_end_loses_nothing_of_a_rate_or_a_quota() {
    let bench = Bench::new();
    let gate = bench.launch().start();
    for _ in 0..10 {
        assert_eq!(ask(&gate, &post("/slow")).status, 200);
        assert_eq!(ask(&gate, &post("/counted")).status, 200);
    }
    assert_eq!(gate.stop(), Some(0));
    let gate = bench.launch().start();
    assert_eq!(
        (&usage(&gate, "slow")["used"], &usage(&gate, "monthly")["used"]),
        (&json!(10), &json!(10))
    );
}
