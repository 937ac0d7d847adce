//! Idempotency keys through HTTP: what a retry gets, what reaches the backend, and what is said where nobody knows.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use support::inside::Inside;
use support::{A_SECOND, Answer, Asked, Backend, Key, Policy, Reply, Request, eventually, streams};

const HEAD: &str = "\
version: 1
upstream: http://127.0.0.1:9
credentials: { accept: [bearer], keys: gate.keys.yaml }
upstream_timeouts: {}
";

const KEYS: [Key<'static>; 3] = [
    Key::of("ka", "acme", "secret-a"),
    Key::of("kb", "acme", "secret-b"),
    Key::of("kc", "globex", "secret-c"),
];

const SEND: &str = "\
routes:
  - { name: send, match: POST /send, idempotency: accept, timeout: 1s }
  - { name: must, match: POST /must, idempotency: require }
  - { name: get, match: GET /send, idempotency: accept }
  - { name: other, match: POST /other, idempotency: accept }
  - { name: plain, match: ANY /** }
";

fn policy(rest: &str) -> Policy {
    let head = HEAD.replace("upstream_timeouts: {}\n", "");
    Policy::with_keys(&format!("{head}{SEND}{rest}"), &KEYS)
}

/// A gate for each place where records can live.
fn gates(rest: &str, backend: &Backend) -> [Inside; 2] {
    ["state: memory\n", "state: ./state\n"]
        .map(|state| Inside::start(policy(&format!("{state}{rest}")), backend))
}

fn send(key: &str, body: &str) -> Request {
    Request::post("/send", body).bearer("secret-a").header("Idempotency-Key", key)
}

#[track_caller]
fn is_replay(answer: &Answer, first: &Answer) {
    assert_eq!(answer.header("idempotent-replayed"), Some("true"), "{answer:?}");
    assert_eq!((answer.status, &answer.body), (first.status, &first.body));
    assert_eq!(answer.header("content-type"), first.header("content-type"));
    assert_eq!(first.header("idempotent-replayed"), None);
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["code"], code);
}

/// A backend that gives every request another answer.
fn counting() -> Backend {
    let backend = Backend::start();
    let sent = AtomicUsize::new(0);
    backend.scripted(move |_| {
        let n = sent.fetch_add(1, Ordering::SeqCst) + 1;
        Reply::json("201 Created", &format!(r#"{{"id":{n}}}"#))
            .header("Location", &format!("/m/{n}"))
    });
    backend
}

#[test]
fn a_retry_gets_the_first_answer_to_the_byte_and_the_backend_is_called_once() {
    let backend = counting();
    for (sent, gate) in (1..).zip(gates("", &backend)) {
        let first = gate.send(&send("k-1", "hello"));
        assert_eq!(first.status, 201);
        for _ in 0..3 {
            let again = gate.send(&send("k-1", "hello"));
            is_replay(&again, &first);
            assert_eq!(again.header("location"), first.header("location"));
            assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
        }
        assert_eq!(backend.count(), sent);
    }
}

#[test]
fn a_quoted_key_is_the_same_key_as_a_bare_one() {
    let backend = counting();
    for gate in gates("", &backend) {
        let first = gate.send(&send("8e03978e-40d5", "x"));
        is_replay(&gate.send(&send("\"8e03978e-40d5\"", "x")), &first);
    }
}

#[test]
fn requests_without_a_key_are_forwarded_each_time() {
    let backend = counting();
    let [gate, _] = gates("", &backend);
    for n in 1..=3 {
        let answer = gate.send(&Request::post("/send", "x").bearer("secret-a"));
        assert_eq!(answer.json()["id"], n);
    }
}

#[test]
fn another_body_query_route_or_content_type_under_one_key_is_422_and_not_forwarded() {
    let backend = counting();
    for gate in gates("", &backend) {
        let first = gate.send(&send("k", "hello"));
        let before = backend.count();
        let key = |request: Request| request.bearer("secret-a").header("Idempotency-Key", "k");
        for other in [
            send("k", "world"),
            send("k", "longer than before"),
            send("k", ""),
            key(Request::post("/send?x=1", "hello")),
            key(Request::post("/other", "hello")),
            send("k", "hello").header("Content-Type", "text/plain"),
        ] {
            refused(&gate.send(&other), 422, "idempotency_mismatch");
        }
        is_replay(&gate.send(&send("k", "hello")), &first);
        assert_eq!(backend.count(), before);
    }
}

#[test]
fn one_of_a_hundred_concurrent_duplicates_reaches_the_backend() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", r#"{"ok":1}"#).after(Duration::from_millis(300)));
    for (sent, gate) in (1..).zip(gates("", &backend)) {
        let (gate, start) = (Arc::new(gate), Arc::new(Barrier::new(100)));
        let threads: Vec<_> = (0..100)
            .map(|_| {
                let (gate, start) = (Arc::clone(&gate), Arc::clone(&start));
                std::thread::spawn(move || {
                    let mut connection = gate.connect();
                    start.wait();
                    connection.send(&send("dup", "x"))
                })
            })
            .collect();
        let answers: Vec<Answer> =
            threads.into_iter().map(|thread| thread.join().expect("a client")).collect();
        let ok = answers.iter().filter(|a| a.status == 200).count();
        let conflicts = answers.iter().filter(|a| a.status == 409).count();
        assert_eq!((ok >= 1, ok + conflicts), (true, 100));
        assert_eq!(backend.count(), sent);
        let replays = answers.iter().filter(|a| a.header("idempotent-replayed").is_some());
        assert_eq!(replays.count(), ok - 1);
    }
}

#[test]
fn one_in_flight_is_409_without_its_body_being_read() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(1)));
    let [gate, _] = gates("", &backend);
    let mut first = gate.connect();
    first.write(&send("slow", "x").bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    let mut second = gate.connect();
    // Of its body not a byte is sent.
    let bytes = send("slow", "x").bytes();
    second.write(&bytes[..bytes.len() - 1]);
    let answer = second.answer(Asked::Other);
    refused(&answer, 409, "idempotency_in_flight");
    assert_eq!(first.answer(Asked::Other).status, 200);
}

#[test]
fn a_client_that_leaves_loses_nothing() {
    let backend = counting();
    for (sent, gate) in (1..).zip(gates("", &backend)) {
        let script = |_: &support::Seen| {
            Reply::json("200 OK", r#"{"late":true}"#).after(Duration::from_millis(300))
        };
        backend.scripted(script);
        let mut client = gate.connect();
        client.write(&send("gone", "x").bytes());
        assert!(eventually(A_SECOND, || backend.count() == sent));
        drop(client);
        let replayed = || gate.send(&send("gone", "x")).header("idempotent-replayed").is_some();
        assert!(eventually(3 * A_SECOND, replayed));
        assert_eq!(backend.count(), sent);
    }
}

#[test]
fn a_client_that_does_not_read_keeps_no_record_in_flight() {
    // More than the sockets on the way hold.
    const MANY: usize = 12 << 20;
    let backend = Backend::start();
    backend.scripted(|_| Reply::json("200 OK", &"x".repeat(MANY)));
    for (sent, gate) in (1..).zip(gates("idempotency: { max_body: 16MiB }\n", &backend)) {
        let mut deaf = gate.connect();
        deaf.write(&send("deaf", "x").bytes());
        assert!(eventually(A_SECOND, || backend.count() == sent));
        let replayed = || gate.send(&send("deaf", "x")).header("idempotent-replayed").is_some();
        assert!(eventually(3 * A_SECOND, replayed));
        assert_eq!(backend.count(), sent);
        // And it gets all of it when it reads at last.
        assert_eq!(deaf.answer(Asked::Other).body.len(), MANY);
    }
}

#[test]
fn a_key_that_is_none_is_400_and_so_is_none_where_one_is_required() {
    let backend = Backend::start();
    let [gate, _] = gates("", &backend);
    let long = "k".repeat(256);
    for key in ["", "a, b", "\"a\", \"b\"", &*long, "\"unclosed", "caf\u{e9}"] {
        refused(&gate.send(&send(key, "x")), 400, "idempotency_malformed");
    }
    let twice = send("a", "x").header("Idempotency-Key", "b");
    refused(&gate.send(&twice), 400, "idempotency_malformed");
    let without = Request::post("/must", "x").bearer("secret-a");
    refused(&gate.send(&without), 400, "idempotency_required");
    assert_eq!(backend.count(), 0);
    assert_eq!(gate.send(&without.header("Idempotency-Key", "k")).status, 200);
}

#[test]
fn records_belong_to_the_tenant_and_not_to_the_key_that_made_them() {
    let backend = counting();
    for gate in gates("", &backend) {
        let by = |key: &str| Request::post("/send", "x").bearer(key).header("Idempotency-Key", "k");
        let first = gate.send(&by("secret-a"));
        is_replay(&gate.send(&by("secret-b")), &first);
        let stranger = gate.send(&by("secret-c"));
        assert_eq!(stranger.header("idempotent-replayed"), None);
        assert_ne!(stranger.json()["id"], first.json()["id"]);
    }
}

#[test]
fn a_replay_spends_rate_and_nothing_else() {
    let backend = counting();
    let limits = "\
report: { x-ratelimit: seconds, of: throttle }
limits:
  throttle: { rate: 4/hour, window: sliding }
  month: { quota: 1/month, per: tenant }
";
    for gate in gates(limits, &backend) {
        let first = gate.send(&send("k", "x"));
        assert_eq!(first.number("x-ratelimit-remaining"), 3);
        for left in [2, 1, 0] {
            let again = gate.send(&send("k", "x"));
            is_replay(&again, &first);
            assert_eq!(again.number("x-ratelimit-remaining"), left);
        }
        refused(&gate.send(&send("k", "x")), 429, "rate");
        gate.pass(Duration::from_hours(1));
        refused(&gate.send(&send("another", "x")), 429, "quota");
        is_replay(&gate.send(&send("k", "x")), &first);
    }
}

#[test]
fn an_error_of_the_backend_is_an_answer_and_a_released_status_is_none() {
    let backend = Backend::start();
    let rest = "idempotency: { release: [402, 429, 503] }\n";
    for gate in gates(rest, &backend) {
        for (key, status) in [("a", "400 Bad Request"), ("b", "500 Oops"), ("c", "404 Not Found")] {
            backend.answers(Reply::json(status, r#"{"no":1}"#));
            let first = gate.send(&send(key, "x"));
            backend.answers(Reply::json("200 OK", "{}"));
            is_replay(&gate.send(&send(key, "x")), &first);
        }
        for (key, status) in [("d", "402 Pay"), ("e", "429 Slow"), ("f", "503 Later")] {
            backend.answers(Reply::json(status, r#"{"no":1}"#));
            assert_ne!(gate.send(&send(key, "x")).status, 200);
            backend.answers(Reply::json("200 OK", "{}"));
            let second = gate.send(&send(key, "x"));
            assert_eq!((second.status, second.header("idempotent-replayed")), (200, None));
        }
    }
}

#[test]
fn an_answer_over_the_bound_is_done_and_not_replayable() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", &"x".repeat(3000)));
    for (sent, gate) in (1..).zip(gates("idempotency: { max_body: 2KiB }\n", &backend)) {
        assert_eq!(gate.send(&send("big", "x")).body.len(), 3000);
        let again = gate.send(&send("big", "x"));
        refused(&again, 409, "idempotency_not_replayable");
        assert_eq!(backend.count(), sent);
    }
}

#[test]
fn an_answer_that_breaks_off_or_never_comes_is_unknown_and_never_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let upstream = streams::raw(move |mut stream: TcpStream| {
        let mut unread = Vec::new();
        if let Some(head) = streams::head(&mut stream, &mut unread) {
            counted.fetch_add(1, Ordering::SeqCst);
            if head.contains("Idempotency-Key: mute") || head.contains("idempotency-key: mute") {
                // Neither an answer nor an end, until the gate gives up.
                let _ = stream.read(&mut [0; 64]);
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
    });
    for state in ["state: memory\n", "state: ./state\n"] {
        let gate = Inside::before(policy(state), &format!("http://{upstream}"));
        let before = seen.load(Ordering::SeqCst);
        let bare = |key: &str| {
            Request::post("/send", "").bearer("secret-a").header("Idempotency-Key", key)
        };
        let mut client = gate.connect();
        client.write(&bare("broken").bytes());
        let _ = client.rest();
        assert_eq!(gate.send(&bare("mute")).status, 504);
        for key in ["broken", "mute"] {
            refused(&gate.send(&bare(key)), 409, "idempotency_unknown");
        }
        assert_eq!(seen.load(Ordering::SeqCst) - before, 2);
    }
}

#[test]
fn a_backend_that_was_never_reached_leaves_the_key_free() {
    let backend = counting();
    for state in ["state: memory\n", "state: ./state\n"] {
        let gate = Inside::before(policy(state), "http://127.0.0.1:9");
        for _ in 0..3 {
            refused(&gate.send(&send("k", "x")), 502, "upstream_unreachable");
        }
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_body_in_chunks_is_compared_like_any_other() {
    let backend = counting();
    for gate in gates("", &backend) {
        let chunked = |body: &str| {
            let mut connection = gate.connect();
            let head = "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-a\r\nIdempotency-Key: c\r\nTransfer-Encoding: chunked\r\n\r\n";
            connection.write(head.as_bytes());
            for piece in body.as_bytes().chunks(3) {
                connection.write(format!("{:x}\r\n", piece.len()).as_bytes());
                connection.write(piece);
                connection.write(b"\r\n");
            }
            connection.write(b"0\r\n\r\n");
            connection.answer(Asked::Other)
        };
        let first = chunked("hello world");
        assert_eq!(first.status, 201);
        is_replay(&chunked("hello world"), &first);
        refused(&chunked("hello worlt"), 422, "idempotency_mismatch");
        refused(&chunked("hello world and more"), 422, "idempotency_mismatch");
        refused(&chunked("hello"), 422, "idempotency_mismatch");
    }
}

#[test]
fn a_get_can_be_keyed_too_because_some_backends_send_by_get() {
    let backend = counting();
    for gate in gates("", &backend) {
        let get =
            |target: &str| Request::get(target).bearer("secret-a").header("Idempotency-Key", "g");
        let first = gate.send(&get("/send?to=1&text=hi"));
        is_replay(&gate.send(&get("/send?to=1&text=hi")), &first);
        refused(&gate.send(&get("/send?to=2&text=hi")), 422, "idempotency_mismatch");
    }
}

#[test]
fn a_record_lives_as_long_as_the_policy_says_and_a_clock_set_back_makes_it_no_fresher() {
    let backend = counting();
    for gate in gates("idempotency: { keep: 1h }\n", &backend) {
        let first = gate.send(&send("k", "x"));
        gate.pass(Duration::from_secs(3599));
        is_replay(&gate.send(&send("k", "x")), &first);
        gate.pass(Duration::from_secs(2));
        let second = gate.send(&send("k", "x"));
        assert_eq!(second.header("idempotent-replayed"), None);
        gate.set_clock_back(Duration::from_hours(24));
        is_replay(&gate.send(&send("k", "x")), &second);
    }
}

#[test]
fn an_unknown_outcome_is_forwarded_again_only_where_the_operator_says_so() {
    let upstream = streams::raw(move |mut stream: TcpStream| {
        let mut unread = Vec::new();
        let _ = streams::head(&mut stream, &mut unread);
    });
    let rest = "state: memory\nidempotency: { on_unknown: forward }\n";
    let gate = Inside::before(policy(rest), &format!("http://{upstream}"));
    let bare = Request::post("/send", "").bearer("secret-a").header("Idempotency-Key", "k");
    for _ in 0..2 {
        refused(&gate.send(&bare), 502, "upstream_broken");
    }
}

#[test]
fn a_full_store_refuses_newcomers_and_forgets_nobody() {
    let backend = counting();
    let rest = "idempotency: { records: 5, records_per_tenant: 3 }\n";
    for gate in gates(rest, &backend) {
        let firsts: Vec<Answer> = (0..3).map(|n| gate.send(&send(&format!("k{n}"), "x"))).collect();
        let before = backend.count();
        refused(&gate.send(&send("k3", "x")), 503, "idempotency_full");
        assert_eq!(backend.count(), before);
        for (n, first) in firsts.iter().enumerate() {
            is_replay(&gate.send(&send(&format!("k{n}"), "x")), first);
        }
        let other = |n| Request::post("/send", "x").bearer("secret-c").header("Idempotency-Key", n);
        assert_eq!(gate.send(&other("1")).status, 201);
        assert_eq!(gate.send(&other("2")).status, 201);
        refused(&gate.send(&other("3")), 503, "idempotency_full");
    }
}

#[test]
fn an_answer_without_a_body_is_replayed_without_one() {
    let backend = Backend::start();
    backend.answers(Reply::json("204 No Content", ""));
    let [gate, _] = gates("", &backend);
    let first = gate.send(&send("k", "x"));
    is_replay(&gate.send(&send("k", "x")), &first);
    assert_eq!(backend.count(), 1);
}

#[test]
fn a_restart_keeps_every_answer_and_memory_alone_forgets() {
    let backend = counting();
    let [memory, kept] = ["state: memory\n", "state: ./state\n"].map(policy);
    for (policy, survives) in [(memory, false), (kept, true)] {
        let gate = Inside::start(policy, &backend);
        let first = gate.send(&send("k", "x"));
        let gate = gate.restarted(&backend);
        let again = gate.send(&send("k", "x"));
        if survives {
            is_replay(&again, &first);
        } else {
            assert_eq!(again.header("idempotent-replayed"), None);
        }
    }
}
