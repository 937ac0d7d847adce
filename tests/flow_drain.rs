//! SIGTERM under load: who was promised an answer gets it, and the process ends when it said it would.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use support::wire::{Asked, find};
use support::{A_SECOND, Backend, Gate, Key, Policy, Reply, Request, eventually};

fn start(drain: &str, backend: &Backend) -> Gate {
    let text = format!(
        "\
version: 1
upstream: http://127.0.0.1:9
state: memory
credentials: {{ accept: [bearer], keys: gate.keys.yaml }}
routes:
  - {{ name: all, match: ANY /** }}
  - {{ name: ready, match: GET /-/ready, public: true, answer: ready }}
drain: {{ {drain} }}
"
    );
    Gate::start(Policy::with_keys(&text, &[Key::of("ka", "acme", "secret-a")]), backend)
}

fn ask() -> Request {
    Request::get("/x").bearer("secret-a")
}

#[test]
fn readiness_fails_first_and_traffic_goes_on_with_a_goodbye_on_each_answer() {
    let backend = Backend::start();
    let mut gate = start("delay: 1s, deadline: 5s", &backend);
    let mut kept = gate.connect();
    assert_eq!(kept.send(&ask()).header("connection"), None);
    assert_eq!(gate.ask_admin("/readyz").status, 200);
    gate.signal(Signal::TERM);
    assert!(eventually(A_SECOND, || gate.ask_admin("/readyz").status == 503));
    assert_eq!(gate.ask_admin("/healthz").status, 200, "the process turns");
    assert_eq!(gate.send(&Request::get("/-/ready")).status, 503);
    let old = kept.send(&ask());
    assert_eq!((old.status, old.header("connection")), (200, Some("close")));
    assert!(kept.is_closed_within(A_SECOND));
    let new = gate.send(&ask());
    assert_eq!((new.status, new.header("connection")), (200, Some("close")));
    assert_eq!(
        gate.exit_within(Duration::from_secs(4)),
        Some(0),
        "nothing is open: it need not wait"
    );
    assert!(TcpStream::connect(gate.traffic).is_err());
}

/// What a client in a loop met.
#[derive(Debug, Default)]
struct Met {
    answered: AtomicUsize,
    told_to_leave: AtomicUsize,
    failed: AtomicUsize,
}

/// Asks on kept connections until `stop` says so; opens new ones only while `ready` says so, as a balancer does.
fn client(to: SocketAddr, met: &Met, ready: &AtomicBool, stop: &AtomicBool) {
    let request = ask().bytes();
    while ready.load(Ordering::SeqCst) && !stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(to) else {
            met.failed.fetch_add(1, Ordering::SeqCst);
            continue;
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        loop {
            let answer = stream.write_all(&request).and_then(|()| read_answer(&mut stream));
            match answer {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
                    met.answered.fetch_add(1, Ordering::SeqCst);
                    if answer.contains("connection: close") {
                        met.told_to_leave.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                }
                _ => {
                    met.failed.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
            if stop.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// A head and the eleven bytes of the backend's body.
fn read_answer(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if find(&all, b"\r\n\r\n").is_some_and(|at| all.len() >= at + 4 + 11) {
            return Ok(String::from_utf8_lossy(&all).into_owned());
        }
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => all.extend_from_slice(&buffer[..read]),
        }
    }
}

#[test]
fn no_request_fails_while_a_gate_under_load_drains() {
    let backend = Backend::start();
    backend.scripted(|seen| {
        let reply = Reply::json("200 OK", r#"{"ok":true}"#);
        if seen.target.len() % 2 == 0 { reply.after(Duration::from_millis(20)) } else { reply }
    });
    let mut gate = start("delay: 1s, deadline: 5s", &backend);
    let (met, ready, stop) = (
        Arc::new(Met::default()),
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicBool::new(false)),
    );
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (met, ready, stop) = (Arc::clone(&met), Arc::clone(&ready), Arc::clone(&stop));
            let to = gate.traffic;
            thread::spawn(move || client(to, &met, &ready, &stop))
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    gate.signal(Signal::TERM);
    // A balancer asks every so often; until it has noticed, it opens new connections.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(gate.ask_admin("/readyz").status, 503);
    ready.store(false, Ordering::SeqCst);
    let exit = gate.exit_within(Duration::from_secs(7));
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(exit, Some(0));
    assert_eq!(met.failed.load(Ordering::SeqCst), 0, "{met:?}");
    assert!(met.answered.load(Ordering::SeqCst) > 100, "{met:?}");
    assert!(met.told_to_leave.load(Ordering::SeqCst) >= 8, "{met:?}");
    assert_eq!(backend.count(), met.answered.load(Ordering::SeqCst), "none was sent twice");
}

/// How many connections the log says that the deadline cut.
#[track_caller]
fn drained(gate: &Gate) -> u64 {
    let mut cut = None;
    eventually(A_SECOND, || {
        let output = gate.output();
        let events = output.lines().filter_map(|line| serde_json::from_str(line).ok());
        cut = events
            .filter(|event: &serde_json::Value| event["event"] == "drained")
            .find_map(|event| event["cut"].as_u64());
        cut.is_some()
    });
    cut.unwrap_or_else(|| panic!("no drained in {}", gate.output()))
}

#[test]
fn a_slow_answer_is_waited_for_and_no_longer() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_millis(1200)));
    let mut gate = start("delay: 100ms, deadline: 10s", &backend);
    let mut slow = gate.connect();
    slow.write(&ask().bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    let mut idle = gate.connect();
    gate.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    assert!(TcpStream::connect(gate.traffic).is_err(), "the listener is closed after the delay");
    assert!(idle.is_closed_within(A_SECOND), "an idle connection ends");
    let answer = slow.answer(Asked::Other);
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(gate.exit_within(Duration::from_secs(3)), Some(0), "well before the deadline");
    assert_eq!(gate.record(0)["status"], 200, "the last record is written");
    assert_eq!(drained(&gate), 0);
}

#[test]
fn the_deadline_ends_what_does_not_end() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(30)));
    let mut gate = start("delay: 100ms, deadline: 400ms", &backend);
    let mut stuck = gate.connect();
    stuck.write(&ask().bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    gate.signal(Signal::TERM);
    assert_eq!(gate.exit_within(Duration::from_secs(3)), Some(0));
    assert!(stuck.is_closed_within(A_SECOND));
    assert_eq!(drained(&gate), 1, "the log says how many it cut");
    assert_eq!(gate.records().len(), 1, "what was cut is recorded, too");
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(30)));
    let mut gate = start("delay: 60s, deadline: 60s", &backend);
    let mut stuck = gate.connect();
    stuck.write(&ask().bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    gate.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(gate.exit_within(Duration::ZERO), None);
    gate.signal(Signal::TERM);
    assert_eq!(gate.exit_within(A_SECOND), Some(143));
}

#[test]
fn http2_says_goaway_and_finishes_its_streams() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_millis(700)));
    let mut gate = start("delay: 200ms, deadline: 10s", &backend);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.traffic).await.unwrap();
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let asked: Vec<_> = (0..5)
            .map(|_| {
                let request = http::Request::get(format!("http://{}/x", gate.traffic))
                    .header("authorization", "Bearer secret-a")
                    .body(Empty::<Bytes>::new());
                tokio::spawn(send.send_request(request.unwrap()))
            })
            .collect();
        while backend.count() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        gate.signal(Signal::TERM);
        for asked in asked {
            let answer = asked.await.unwrap().unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "{}");
        }
        let ended = tokio::time::timeout(Duration::from_secs(2), connection).await;
        ended.expect("GOAWAY ends the connection").unwrap().expect("and ends it well");
        assert!(send.ready().await.is_err());
    });
    assert_eq!(gate.exit_within(Duration::from_secs(3)), Some(0));
}
