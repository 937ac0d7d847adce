//! The admin listener over real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tollgate::admin::{self, AdminHandle, AdminState, Turn};
use tollgate::clock::Clock;
use tollgate::store::{Backing, Ledger, Restored};
use tollgate::telemetry::events::Log;
use tollgate::telemetry::lifecycle::Lifecycle;
use tollgate::telemetry::metrics::{BuildInfo, Metrics, StoreFigures};
use tollgate::upkeep::Wake;

struct Admin {
    state: AdminState,
    handle: AdminHandle,
}

fn admin() -> Admin {
    let clock = Clock::system();
    let build = BuildInfo { version: "0.1.0", revision: "unknown" };
    let state = AdminState {
        metrics: Metrics::new(1, build, clock.clone()),
        lifecycle: Arc::new(Lifecycle::new()),
        snapshot: None,
        ledger: Ledger::new(100, Backing::None, Restored::default()),
        token: None,
        wake: Wake::default(),
        turn: Turn::default(),
        log: Log::discard(),
        clock,
    };
    let handle = admin::start("127.0.0.1:0".parse().unwrap(), state.clone()).unwrap();
    Admin { state, handle }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = connect(address);
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head[9..12].parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn json(answer: &Answer) -> serde_json::Value {
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn health_says_that_the_process_turns_whatever_else_is_wrong() {
    let admin = admin();
    let failed = || StoreFigures { up: false, ..StoreFigures::default() };
    admin.state.metrics.watch_store(failed);
    admin.state.lifecycle.draining();
    let answer = ask(admin.handle.local_addr, "GET", "/healthz");
    assert_eq!(answer.status, 200);
    assert_eq!(json(&answer)["status"], "ok");
}

#[test]
fn readiness_follows_the_life_of_the_gate_and_says_why_not() {
    let admin = admin();
    let address = admin.handle.local_addr;
    let life = &admin.state.lifecycle;
    let is = |status: u16, reason: Option<&str>| {
        let answer = ask(address, "GET", "/readyz");
        assert_eq!(answer.status, status);
        assert_eq!(json(&answer)["reason"].as_str(), reason);
    };
    is(503, Some("starting"));
    life.serving();
    is(200, None);
    life.ask_upstream(true);
    is(200, None);
    life.upstream_reachable(false);
    is(503, Some("upstream_unreachable"));
    life.upstream_reachable(true);
    is(200, None);
    life.draining();
    is(503, Some("draining"));
}

#[test]
fn metrics_are_text_with_their_type_and_count_the_admin_s_own_connections() {
    let admin = admin();
    let answer = ask(admin.handle.local_addr, "GET", "/metrics?x=y");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.body.contains("\ntollgate_panics_total 0\n"), "{}", answer.body);
    assert!(answer.body.contains("\ntollgate_connections{listener=\"admin\"} 1\n"));
    assert!(answer.body.contains("\nprocess_resident_memory_bytes "));
}

#[test]
fn head_has_the_length_of_the_answer_and_no_body() {
    let admin = admin();
    let answer = ask(admin.handle.local_addr, "HEAD", "/healthz");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-length: 16"), "{}", answer.head);
    assert!(answer.body.is_empty());
}

#[test]
fn the_policy_s_state_is_told_over_loopback() {
    let admin = admin();
    let address = admin.handle.local_addr;
    let before = json(&ask(address, "GET", "/v1/policy"));
    assert_eq!(before["generation"], 0);
    assert_eq!(before["last_load_ok"], false);
    assert!(before["loaded_at"].is_null());
    let now = admin.state.clock.now();
    admin.state.metrics.load_failed("line 3: no such plan", now);
    admin.state.metrics.restart_needed(["listen"]);
    let after = json(&ask(address, "GET", "/v1/policy"));
    assert_eq!(after["last_error"]["problems"], "line 3: no such plan");
    assert!(after["last_error"]["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(after["restart_needed"], serde_json::json!(["listen"]));
}

#[test]
fn an_unknown_path_is_404_and_another_method_405_with_allow() {
    let admin = admin();
    let address = admin.handle.local_addr;
    let unknown = ask(address, "GET", "/metrics/");
    assert_eq!(unknown.status, 404);
    assert_eq!(json(&unknown)["code"], "route_unknown");
    let method = ask(address, "DELETE", "/v1/policy");
    assert_eq!(method.status, 405);
    assert!(method.head.contains("allow: get, head"), "{}", method.head);
    assert_eq!(json(&method)["code"], "method_unknown");
}

#[test]
fn slow_clients_cannot_starve_a_probe() {
    let admin = admin();
    let address = admin.handle.local_addr;
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect(address);
            stream.write_all(b"GET /heal").unwrap();
            stream
        })
        .collect();
    assert_eq!(ask(address, "GET", "/healthz").status, 200);
    let text = ask(address, "GET", "/metrics").body;
    let refused = "tollgate_connections_refused_total{listener=\"admin\"} ";
    let line = text.lines().find_map(|line| line.strip_prefix(refused)).unwrap();
    assert!(line.parse::<f64>().unwrap() >= 130.0, "{line}");
    drop(slow);
}

#[test]
fn nonsense_is_a_400_and_leaves_the_listener_standing() {
    let admin = admin();
    let address = admin.handle.local_addr;
    let mut stream = connect(address);
    stream.write_all(b"\x16\x03\x01 nonsense\r\n\r\n").unwrap();
    let mut text = Vec::new();
    // A reset is as good as an answer here.
    let _ = stream.read_to_end(&mut text);
    assert_eq!(ask(address, "GET", "/healthz").status, 200);
}

#[test]
fn a_taken_port_is_an_error_and_a_dropped_handle_frees_it() {
    let admin = admin();
    let address = admin.handle.local_addr;
    assert!(admin::start(address, admin.state.clone()).is_err());
    let state = admin.state.clone();
    drop(admin.handle);
    assert!(admin::start(address, state).is_ok());
}
