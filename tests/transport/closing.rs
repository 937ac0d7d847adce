//! Heads that cannot be read, slow clients, refusals in mid-body, panics, the spread over workers, and the drain.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn an_unreadable_head_gets_the_handlers_answer_once_and_the_connection_closes() {
    let gate = Setup::before(answering(HELLO)).start();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), 400),
        ("GET /\0 HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("garbage\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000)), 431),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101)), 431),
    ] {
        let answer = gate.ask(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} Unreadable")), "{answer}");
        assert!(answer.ends_with("\r\n\r\nenvelope"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    gate.stop();
}

#[test]
fn garbage_behind_a_good_request_is_answered_after_it() {
    let gate = Setup::before(answering(HELLO)).start();
    let answer = gate.ask(&format!("{GET}garbage\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("helloHTTP/1.1 400 Unreadable"), "{answer}");
    assert!(answer.ends_with("envelope"), "{answer}");
    gate.stop();
}

#[test]
fn a_backends_own_400_passes_untouched() {
    let gate =
        Setup::before(answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).start();
    let answer = gate.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    gate.stop();
}

#[test]
fn a_slow_head_gets_408_and_a_silent_connection_nothing() {
    let mut setup = Setup::before(answering(HELLO));
    setup.bounds.head_timeout = Duration::from_millis(150);
    let gate = setup.start();
    let answer = gate.ask("GET / HTTP/1.1\r\nHo");
    assert!(answer.starts_with("HTTP/1.1 408 Unreadable"), "{answer}");
    assert!(gate.ask("PRI * HT").starts_with("HTTP/1.1 408"), "a part of the preface");
    assert_eq!(gate.ask(""), "");
    let mut second = gate.client();
    second.write_all(GET.as_bytes()).unwrap();
    until(&mut second, "hello");
    second.write_all(b"GET / HT").unwrap();
    assert!(rest(&mut second).starts_with("HTTP/1.1 408"), "the second head is timed as well");
    gate.stop();
}

#[test]
fn a_kept_connection_outlives_the_heads_deadline_and_ends_at_its_own() {
    let mut setup = Setup::before(answering(HELLO));
    setup.bounds.head_timeout = Duration::from_millis(100);
    setup.bounds.keep_alive = Duration::from_millis(400);
    let gate = setup.start();
    let mut client = gate.client();
    for _ in 0..2 {
        client.write_all(GET.as_bytes()).unwrap();
        until(&mut client, "hello");
        std::thread::sleep(Duration::from_millis(250));
    }
    let idle = Instant::now();
    assert_eq!(rest(&mut client), "");
    assert!(idle.elapsed() < Duration::from_secs(2));
    gate.stop();
}

#[test]
fn a_quiet_connection_is_put_aside_and_wakes_unharmed() {
    let mut setup = Setup::before(answering(HELLO));
    setup.bounds.keep_alive = Duration::from_secs(2);
    setup.bounds.body_idle = Duration::from_millis(100);
    setup.bounds.head_timeout = Duration::from_millis(300);
    let gate = setup.start();
    let mut client = gate.client();
    for _ in 0..3 {
        client.write_all(GET.as_bytes()).unwrap();
        until(&mut client, "hello");
        std::thread::sleep(Duration::from_millis(150));
    }
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    client.write_all(b"Host: a\r\n\r\nGET / HT").unwrap();
    until(&mut client, "hello");
    assert!(
        rest(&mut client).starts_with("HTTP/1.1 408"),
        "a head in pieces is timed after a pause too"
    );
    gate.stop();
}

#[test]
fn the_rest_of_a_body_is_never_read_as_a_head_after_a_quiet_time() {
    let mut setup = Setup::before(backend(|mut stream, _| {
        head(&mut stream);
        let _ = stream.write_all(HELLO.as_bytes());
        std::thread::sleep(PATIENCE);
    }));
    setup.bounds.body_idle = Duration::from_millis(100);
    setup.bounds.keep_alive = Duration::from_secs(1);
    let gate = setup.start();
    let mut client = gate.client();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab").unwrap();
    until(&mut client, "hello");
    std::thread::sleep(Duration::from_millis(300));
    let _ = client.write_all(b"GET /worker HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all);
    assert!(!String::from_utf8_lossy(&all).contains("here"));
    gate.stop();
}

#[test]
fn a_handshake_that_stalls_is_closed() {
    let mut setup = Setup::before(answering(HELLO));
    setup.bounds.handshake_timeout = Duration::from_millis(150);
    setup.tls = Some(crate::passing::identity().server);
    let gate = setup.start();
    let mut client = gate.client();
    client.write_all(&[0x16, 0x03]).unwrap();
    assert_eq!(rest(&mut client), "");
    reads(&gate.workers.counters()[0].handshake_failures, 1);
    gate.stop();
}

#[test]
fn a_client_in_the_middle_of_a_megabyte_can_read_its_refusal() {
    let gate = Setup::before(answering(HELLO)).start();
    for _ in 0..20 {
        let mut client = gate.client();
        let head = "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n";
        client.write_all(head.as_bytes()).unwrap();
        client.write_all(&vec![7; 1024 * 1024]).unwrap();
        let answer = rest(&mut client);
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.ends_with("refused"), "{answer}");
    }
    gate.stop();
}

#[test]
fn an_expectation_is_refused_without_a_100() {
    let gate = Setup::before(answering(HELLO)).start();
    let mut client = gate.client();
    let head =
        "POST /refused HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    assert!(rest(&mut client).starts_with("HTTP/1.1 401"));
    gate.stop();
}

#[test]
fn an_expectation_is_met_when_the_upstream_wants_the_body() {
    let address = backend(|mut stream, _| {
        let asked = until(&mut stream, "nine byte");
        assert!(!asked.to_lowercase().contains("expect"), "{asked}");
        stream.write_all(HELLO.as_bytes()).unwrap();
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    let head_only =
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    client.write_all(head_only.as_bytes()).unwrap();
    assert_eq!(head(&mut client), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"nine byte").unwrap();
    assert!(until(&mut client, "hello").starts_with("HTTP/1.1 200"));
    gate.stop();
}

#[test]
fn a_panic_is_a_500_for_its_request_alone() {
    let gate = Setup::before(answering(HELLO)).start();
    let mut client = gate.client();
    for path in ["/panic", "/late-panic"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let answer = until(&mut client, "panicked");
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    }
    client.write_all(GET.as_bytes()).unwrap();
    assert!(until(&mut client, "hello").starts_with("HTTP/1.1 200"));
    gate.stop();
}

#[test]
fn connections_spread_evenly_over_two_workers_at_once_and_one_after_another() {
    for (count, least) in [(4, 2), (64, 29)] {
        for at_once in [true, false] {
            let mut setup = Setup::before(answering(HELLO));
            setup.workers = 2;
            let gate = setup.start();
            let mut clients = Vec::new();
            let mut by_worker = [0; 2];
            for asking in 0..count {
                while clients.len() <= asking || (at_once && clients.len() < count) {
                    clients.push(gate.client());
                }
                clients[asking].write_all(b"GET /worker HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                until(&mut clients[asking], "here");
                let Event::Worker(index) = gate.event() else { panic!("another event") };
                by_worker[index] += 1;
            }
            assert!(by_worker.iter().all(|own| *own >= least), "{by_worker:?} of {count}");
            drop(clients);
            gate.stop();
        }
    }
}

#[test]
fn connections_over_the_cap_are_closed_at_once() {
    let mut setup = Setup::before(answering(HELLO));
    setup.bounds.connections = 2;
    let gate = setup.start();
    let mut kept: Vec<_> = (0..2).map(|_| gate.client()).collect();
    for client in &mut kept {
        client.write_all(GET.as_bytes()).unwrap();
        until(client, "hello");
    }
    let mut third = gate.client();
    let mut byte = [0];
    assert_eq!(third.read(&mut byte).unwrap_or(0), 0);
    reads(&gate.workers.counters()[0].refused_over_cap, 1);
    drop(kept);
    gate.stop();
}

#[test]
fn a_proxy_header_is_believed_only_of_a_trusted_peer() {
    let line = "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n";
    let request = "GET /peer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut setup = Setup::before(answering(HELLO));
    setup.proxy_protocol = Some(true);
    let gate = setup.start();
    assert!(gate.ask(&format!("{line}{request}")).starts_with("HTTP/1.1 200"));
    let Event::Peer(announced) = gate.event() else { panic!("another event") };
    assert_eq!(announced, Some("203.0.113.7".parse().unwrap()));
    let without = gate.client().write_all(request.as_bytes());
    assert!(without.is_ok());
    gate.stop();

    let mut setup = Setup::before(answering(HELLO));
    setup.proxy_protocol = Some(false);
    let gate = setup.start();
    let mut client = gate.client();
    let _ = client.write_all(format!("{line}{request}").as_bytes());
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all);
    assert!(all.is_empty(), "an untrusted peer is dropped without a word");
    gate.stop();
}

#[test]
fn a_drain_finishes_what_is_in_flight_and_closes_the_rest() {
    let mut setup = Setup::before(answering(HELLO));
    setup.workers = 2;
    let gate = setup.start();
    let mut idle = gate.client();
    idle.write_all(GET.as_bytes()).unwrap();
    until(&mut idle, "hello");
    let mut busy: Vec<_> = (0..8).map(|_| gate.client()).collect();
    for client in &mut busy {
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    gate.workers.drain(Duration::from_millis(50), PATIENCE);
    let mut late = gate.client();
    late.write_all(GET.as_bytes()).unwrap();
    let answer = rest(&mut late);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    for client in &mut busy {
        let answer = rest(client);
        assert!(answer.ends_with("at last") && answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(rest(&mut idle), "");
    for client in [&idle, &late].into_iter().chain(&busy) {
        let _ = client.shutdown(Shutdown::Both);
    }
    gate.workers.join().unwrap();
    assert!(std::net::TcpStream::connect(gate.address).is_err());
}

#[test]
fn no_answer_is_lost_while_a_drain_is_announced_under_load() {
    let mut setup = Setup::before(answering(HELLO));
    setup.workers = 2;
    let gate = setup.start();
    let address = gate.address;
    let clients: Vec<_> = (0..16)
        .map(|_| {
            std::thread::spawn(move || {
                let (mut answered, mut told) = (0, 0);
                'connections: loop {
                    let Ok(mut client) = std::net::TcpStream::connect(address) else { break };
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    loop {
                        client.write_all(GET.as_bytes()).unwrap();
                        let answer = until(&mut client, "hello");
                        answered += 1;
                        if answer.contains("connection: close") {
                            told += 1;
                            if told == 3 {
                                break 'connections;
                            }
                            break;
                        }
                    }
                }
                (answered, told)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    gate.workers.drain(Duration::from_millis(700), PATIENCE);
    for client in clients {
        let (answered, told) = client.join().unwrap();
        assert!(answered > told && told == 3, "{answered} {told}");
    }
    gate.workers.join().unwrap();
}

#[test]
fn a_drain_drops_at_its_deadline_what_does_not_end() {
    let silent = backend(|mut stream, _| {
        head(&mut stream);
        std::thread::sleep(PATIENCE);
    });
    let gate = Setup::before(silent).start();
    let mut client = gate.client();
    client.write_all(GET.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    gate.workers.drain(Duration::ZERO, Duration::from_millis(100));
    gate.workers.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
}
