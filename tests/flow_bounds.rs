//! Clients who are slow, leave, or are too many: each bound ends what is over it, in the policy's own words, and nobody else
//! notices.

mod support;

use std::io::Write as _;
use std::time::Duration;

use support::bait::{KEY, POLICY, ours, start, unharmed};
use support::wire::Asked;
use support::{
    A_SECOND, Backend, Connection, Gate, Key, Policy, Reply, Request, eventually, streams,
};

#[test]
fn slow_heads_and_slow_bodies_end() {
    let backend = Backend::start();
    let gate = start(&backend);
    let mut head = gate.connect();
    head.write(b"GET /open/x HTTP/1.1\r\nHost: a\r\n");
    let mut body = gate.connect();
    body.write(
        format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{KEY}Content-Length: 5\r\n\r\nhe").as_bytes(),
    );
    let mut garbage = gate.connect();
    garbage.write(b"\0\0\0\0");
    assert!(head.is_closed_within(Duration::from_secs(5)));
    let answer = body.answer(Asked::Other);
    assert_eq!(answer.status, 408, "{answer:?}");
    ours(&answer, "a slow body");
    assert!(body.is_closed_within(A_SECOND));
    assert!(garbage.is_closed_within(Duration::from_secs(5)));
    assert_eq!(backend.count(), 0, "a body cut short is no request");
    unharmed(&gate, &backend);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_is_no_request() {
    let backend = Backend::start();
    let gate = start(&backend);
    for _ in 0..5 {
        let mut connection = gate.connect();
        connection.write(
            format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{KEY}Content-Length: 5\r\n\r\nhe")
                .as_bytes(),
        );
        drop(connection);
    }
    assert!(eventually(A_SECOND, || gate.records().len() == 5));
    assert!(gate.records().iter().all(|record| record["status"] != 200), "{:?}", gate.records());
    assert_eq!(backend.count(), 0);
    assert_eq!(gate.metric("tollgate_requests_in_flight{listener=\"traffic\"}"), Some(0.0));
    unharmed(&gate, &backend);
}

#[test]
fn over_the_bounds_of_the_gate_itself_it_says_so_and_recovers() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_millis(700)));
    let text = POLICY.replace("bounds: {", "workers: 1\nbounds: { in_flight: 2,");
    let keys = [Key::of("ka", "acme", "secret-a").with("scopes: [open]")];
    let gate = Gate::start(Policy::with_keys(&text, &keys), &backend);
    let ask = Request::get("/open/x").bearer("secret-a");
    let mut busy: Vec<_> = (0..2).map(|_| gate.connect()).collect();
    for connection in &mut busy {
        connection.write(&ask.bytes());
    }
    assert!(eventually(A_SECOND, || backend.count() == 2));
    let refused = gate.send(&ask);
    assert_eq!(refused.status, 503, "{refused:?}");
    ours(&refused, "overloaded");
    assert_eq!(refused.json()["ours"], "overloaded");
    for connection in &mut busy {
        assert_eq!(connection.answer(Asked::Other).status, 200);
    }
    unharmed(&gate, &backend);
}

#[test]
fn idle_connections_over_the_cap_are_closed_and_those_within_it_are_served() {
    let backend = Backend::start();
    let text = POLICY.replace("head_timeout: 1s", "connections: 20, head_timeout: 30s");
    let keys = [Key::of("ka", "acme", "secret-a").with("scopes: [open]")];
    let gate = Gate::start(Policy::with_keys(&text, &keys), &backend);
    let ask = Request::get("/open/x").bearer("secret-a");
    let mut first = gate.connect();
    assert_eq!(first.send(&ask).status, 200);
    let mut crowd: Vec<_> = (0..40).map(|_| gate.connect()).collect();
    let closed =
        |connection: &mut Connection| connection.is_closed_within(Duration::from_millis(50));
    let refused = crowd.iter_mut().map(closed).filter(|closed| *closed).count();
    assert!(refused >= 20, "only {refused} of 41 were refused by a cap of 20");
    assert_eq!(first.send(&ask).status, 200, "who is inside is served");
    drop(crowd);
    assert!(eventually(A_SECOND, || {
        let mut again = gate.connect();
        again.try_write(&ask.bytes()) && !again.is_closed_within(Duration::from_millis(300))
    }));
    assert_eq!(gate.ask_admin("/healthz").status, 200);
}

#[test]
fn a_body_that_outgrows_its_bound_on_the_way_is_told_so_and_is_no_request() {
    let backend = Backend::start();
    let text = POLICY.replace(", max_body: 16B", ", max_body: 100000B");
    let keys = [Key::of("ka", "acme", "secret-a")];
    let gate = Gate::start(Policy::with_keys(&text, &keys), &backend);
    let head =
        format!("POST /small HTTP/1.1\r\nHost: a\r\n{KEY}Transfer-Encoding: chunked\r\n\r\n");
    let mut connection = gate.connect();
    connection.write(head.as_bytes());
    let piece = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    connection.write(piece.as_bytes());
    std::thread::sleep(Duration::from_millis(50));
    connection.try_write(piece.as_bytes());
    let answer = connection.answer(Asked::Other);
    assert_eq!(answer.status, 413, "{answer:?}");
    ours(&answer, "an outgrown body");
    assert!(connection.is_closed_within(A_SECOND));
    let declared = format!(
        "POST /small HTTP/1.1\r\nHost: a\r\n{KEY}Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n"
    );
    let mut polite = gate.connect();
    polite.write(declared.as_bytes());
    let first = polite.until("\r\n");
    assert!(first.starts_with("HTTP/1.1 413"), "no 100 for what is too large: {first}");
    assert_eq!(backend.count(), 0);
    let exact = Request::post("/small", &"x".repeat(100_000)).bearer("secret-a");
    assert_eq!(gate.send(&exact).status, 200);
    unharmed(&gate, &backend);
}

#[test]
fn a_client_that_does_not_read_gives_its_slot_back() {
    let endless = streams::raw(|mut stream| {
        if streams::head(&mut stream, &mut Vec::new()).is_some() {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            let mut sent = stream.write_all(head.as_bytes());
            while sent.is_ok() {
                sent = stream.write_all(&[b'x'; 16384]);
            }
        }
    });
    let text = format!("{POLICY}limits: {{ l: {{ concurrent: 1 }} }}\n");
    let keys = [Key::of("ka", "acme", "secret-a")];
    let gate = Gate::before(Policy::with_keys(&text, &keys), &format!("http://{endless}"));
    let ask = Request::get("/open/x").bearer("secret-a");
    let mut idle = gate.connect();
    idle.write(&ask.bytes());
    // The slot is its own before another asks for it.
    assert!(idle.until("\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!(gate.send(&ask.clone()).status, 429);
    let before = gate.resident();
    assert!(
        eventually(Duration::from_secs(8), || {
            gate.records().iter().any(|record| record["status"] == 200)
        }),
        "the bound on silence ends it"
    );
    assert!(gate.resident() < before + (8 << 20), "nothing piles up meanwhile");
    let ended = gate.records().into_iter().find(|record| record["status"] == 200);
    assert_ne!(ended.unwrap_or_default()["end"], "clean");
    let mut next = gate.connect();
    next.write(&ask.bytes());
    let first = next.until("\r\n");
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
}

#[test]
fn a_tunnel_and_a_stream_hold_their_slots_until_they_are_over() {
    let text = format!("{POLICY}limits: {{ l: {{ concurrent: 2 }} }}\n");
    let keys = [Key::of("ka", "acme", "secret-a")];
    let upstream = format!("http://{}", streams::streaming());
    let text = text.replace("ANY /open/**", "[ANY /open/**, ANY /tunnel, ANY /events/**]");
    let gate = Gate::before(Policy::with_keys(&text, &keys), &upstream);
    let ask = Request::get("/open/x").bearer("secret-a");
    let mut tunnel = gate.connect();
    let upgrade = Request::get("/tunnel")
        .bearer("secret-a")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket");
    assert_eq!(tunnel.send(&upgrade).status, 101);
    assert_eq!(gate.send(&ask).status, 200, "one of two");
    let mut events = gate.connect();
    events.write(&Request::get("/events/20").bearer("secret-a").bytes());
    events.until("data: 0\n");
    assert_eq!(gate.send(&ask).status, 429, "two of two");
    events.until("0\r\n\r\n");
    assert!(gate.soon(&ask, 200), "the stream is over");
    let mut again = gate.connect();
    again.write(&Request::get("/events/100").bearer("secret-a").bytes());
    again.until("data: 0\n");
    assert_eq!(gate.send(&ask).status, 429);
    drop(tunnel);
    assert!(gate.soon(&ask, 200), "the tunnel is over");
    drop(again);
    let records = || gate.records().iter().filter(|record| record["status"] == 101).count();
    assert!(eventually(A_SECOND, || records() == 1), "one record of the tunnel");
}
