//! What the upstream may answer in HTTP/1 and how: every framing, every way to get it wrong, and what becomes of the
//! connection. What is no whole answer never ends as one.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tollgate::proxy::body::BodyEnd;
use tollgate::proxy::pool::{Processed, Why};

use crate::support::*;

/// A backend that answers each request of each connection by these bytes, and how many connections it has seen.
fn counting(answer: impl Into<Vec<u8>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let (counted, answer) = (Arc::clone(&connections), answer.into());
    let address = backend(move |mut stream, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        let (mut seen, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut some) {
            seen.extend_from_slice(&some[..read]);
            while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                seen.drain(..end + 4);
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        }
    });
    (address, connections)
}

/// A backend that answers the first request by these bytes and closes.
fn closing(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    backend(move |mut stream, _| {
        head(&mut stream);
        let _ = stream.write_all(&answer);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// One exchange on a connection that the gate closes behind it.
fn ask(gate: &Gate, method: &str) -> String {
    gate.ask(&format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
}

#[test]
fn a_connection_serves_again_after_every_answer_that_ends_by_itself() {
    let answers: [(&str, &str, &str); 11] = [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
        ),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
            "hello",
        ),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
            "hello",
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ""),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ""),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
            "hello",
        ),
    ];
    for (method, answer, body) in answers {
        let (address, connections) = counting(answer);
        let gate = Setup::before(address).start();
        for _ in 0..3 {
            let seen = ask(&gate, method);
            assert!(seen.starts_with("HTTP/1.1 "), "{answer:?}: {seen}");
            assert!(!seen.starts_with("HTTP/1.1 502") && seen.contains(body), "{answer:?}: {seen}");
            let Event::Ended(BodyEnd::Clean, bytes) = gate.event() else { panic!("{answer:?}") };
            assert_eq!(bytes, body.len() as u64, "{answer:?}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{answer:?}");
        reads(&gate.workers.counters()[0].upstream_active, 0);
        reads(&gate.workers.counters()[0].upstream_idle, 1);
        gate.stop();
    }
}

#[test]
fn what_comes_before_an_answer_goes_to_those_who_know_it() {
    let (seen_it, is_seen) = std::sync::mpsc::channel::<()>();
    let is_seen = std::sync::Mutex::new(is_seen);
    let address = backend(move |mut stream, _| {
        head(&mut stream);
        let before = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: a\r\n\r\n";
        let _ = stream.write_all(before.as_bytes());
        // The client has it before there is an answer.
        let _ = is_seen.lock().unwrap().recv();
        let _ = stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n");
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    });
    let gate = Setup::before(address).start();
    for version in ["1.1", "1.0"] {
        let mut client = gate.client();
        let asked = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.write_all(asked.as_bytes()).unwrap();
        if version == "1.1" {
            let hints = head(&mut client).to_lowercase();
            assert_eq!(hints, "http/1.1 103 early hints\r\nlink: </x>\r\n\r\n");
        }
        seen_it.send(()).unwrap();
        let seen = rest(&mut client);
        let processing = seen.strip_prefix("HTTP/1.1 102 Processing\r\n\r\n");
        assert_eq!(processing.is_some(), version == "1.1", "{seen}");
        assert!(processing.unwrap_or(&seen).contains(" 204 No Content\r\n"), "{seen}");
        assert_eq!(seen.matches("HTTP/").count(), if version == "1.1" { 2 } else { 1 });
    }
    gate.stop();
}

#[test]
fn a_connection_ends_after_an_answer_that_says_so_or_is_framed_by_its_end() {
    let answers = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        // The coding overrides the length, and whoever sends both is not to be followed any further.
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        // Bytes behind the answer belong to nobody.
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n0",
    ];
    for answer in answers {
        let (address, connections) = counting(answer);
        let gate = Setup::before(address).start();
        for n in 1..=3 {
            let seen = ask(&gate, "GET");
            assert!(
                seen.starts_with("HTTP/1.1 200") && seen.contains("hello"),
                "{answer:?}: {seen}"
            );
            assert!(
                !seen.contains("content-length: 3") && !seen.contains('!'),
                "{answer:?}: {seen}"
            );
            assert!(matches!(gate.event(), Event::Ended(BodyEnd::Clean, 5)), "{answer:?}");
            assert_eq!(connections.load(Ordering::SeqCst), n, "{answer:?}");
        }
        reads(&gate.workers.counters()[0].upstream_active, 0);
        reads(&gate.workers.counters()[0].upstream_idle, 0);
        gate.stop();
    }
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\n\r\nhello",
    ] {
        let gate = Setup::before(closing(answer)).start();
        let seen = ask(&gate, "GET");
        assert!(seen.contains("hello"), "{answer:?}: {seen}");
        assert!(!seen.contains("content-length"), "{answer:?}: {seen}");
        assert!(matches!(gate.event(), Event::Ended(BodyEnd::Clean, 5)), "{answer:?}");
        reads(&gate.workers.counters()[0].upstream_idle, 0);
        gate.stop();
    }
}

#[test]
fn a_head_that_two_readers_could_read_two_ways_is_no_answer() {
    let many = |field: &str, times: usize| {
        format!("HTTP/1.1 200 OK\r\n{}\r\n", field.repeat(times)).into_bytes()
    };
    let mut heads: Vec<Vec<u8>> = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello",
        // Nobody asked for a coding, and without its label the client would take it for the body.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1 2000 High\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ]
    .into_iter()
    .map(|head| head.as_bytes().to_vec())
    .collect();
    heads.push(many("X: y\r\n", 101));
    heads.push(many(&format!("X: {}\r\n", "y".repeat(1000)), 70));
    heads.push([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'y'; 70_000]].concat());
    heads.push(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(100));
    for bytes in heads {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        let gate = Setup::before(closing(bytes)).start();
        let seen = ask(&gate, "GET");
        let seen = seen.trim_start_matches("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n");
        assert!(seen.starts_with("HTTP/1.1 502"), "{shown:?}: {seen}");
        let Event::Failed(failure, _) = gate.event() else { panic!("{shown:?}") };
        assert_eq!(
            (failure.why, failure.processed, failure.detail),
            (Why::Broken, Processed::MayHaveBeen, "the upstream's answer is not valid HTTP"),
            "{shown:?}"
        );
        reads(&gate.workers.counters()[0].upstream_active, 0);
        reads(&gate.workers.counters()[0].upstream_idle, 0);
        gate.stop();
    }
}

#[test]
fn a_head_up_to_the_bounds_passes() {
    let fields = format!("X-Long: {}\r\n", "y".repeat(1000)).repeat(60);
    let mut answer = format!("HTTP/1.1 200 OK\r\n{fields}");
    answer.push_str(&"A: b\r\n".repeat(39));
    answer.push_str("Content-Length: 5\r\n\r\nhello");
    let (address, connections) = counting(answer);
    let gate = Setup::before(address).start();
    for _ in 0..3 {
        let seen = ask(&gate, "GET");
        assert_eq!(seen.matches("x-long: yyy").count(), 60);
        assert!(seen.ends_with("hello"));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    gate.stop();
}

#[test]
fn an_end_before_the_head_is_whole_is_a_failure_and_one_in_the_body_a_broken_answer() {
    for before in [
        "",
        "H",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let gate = Setup::before(closing(before)).start();
        assert!(ask(&gate, "GET").starts_with("HTTP/1.1 502"), "{before:?}");
        let Event::Failed(failure, _) = gate.event() else { panic!("{before:?}") };
        assert_eq!((failure.why, failure.processed), (Why::Broken, Processed::MayHaveBeen));
        gate.stop();
    }
    let (length, chunked) = ("Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n");
    for (framing, body) in [
        (length, ""),
        (length, "hello"),
        (chunked, ""),
        (chunked, "5"),
        (chunked, "5\r\n"),
        (chunked, "5\r\nhel"),
        (chunked, "5\r\nhello"),
        (chunked, "5\r\nhello\r\n"),
        (chunked, "5\r\nhello\r\n0"),
        (chunked, "5\r\nhello\r\n0\r\n"),
        (chunked, "5\r\nhello\r\n0\r\nX-Sum: 1\r\n"),
        // And what is no chunk at all.
        (chunked, "5\r\nhello\r\nzz\r\n"),
        (chunked, "5\r\nhelloo\r\n0\r\n\r\n"),
        (chunked, "-1\r\n0\r\n\r\n"),
        (chunked, "ffffffffffffffffff\r\n"),
        (chunked, "5\r\nhello\r\n0\r\nX: folded\r\n here\r\n\r\n"),
    ] {
        let gate = Setup::before(closing(format!("HTTP/1.1 200 OK\r\n{framing}{body}"))).start();
        let seen = ask(&gate, "GET");
        assert!(seen.starts_with("HTTP/1.1 200"), "{body:?}: {seen}");
        assert!(!seen.ends_with("0\r\n\r\n"), "{body:?}: {seen}");
        assert!(matches!(gate.event(), Event::Ended(BodyEnd::Broke, _)), "{body:?}");
        reads(&gate.workers.counters()[0].upstream_active, 0);
        reads(&gate.workers.counters()[0].upstream_idle, 0);
        gate.stop();
    }
}

#[test]
fn an_answer_in_single_bytes_is_the_same_answer() {
    let answer = "HTTP/1.1 200 Fine\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
    let address = backend(move |mut stream, _| {
        while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
            for byte in answer.bytes() {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::yield_now();
            }
        }
    });
    let gate = Setup::before(address).start();
    for _ in 0..3 {
        let seen = ask(&gate, "GET");
        assert!(seen.starts_with("HTTP/1.1 200 Fine\r\n"), "the reason is passed on: {seen}");
        assert!(seen.contains('!') && seen.ends_with("0\r\n\r\n"), "{seen}");
        assert!(matches!(gate.event(), Event::Ended(BodyEnd::Clean, 6)));
    }
    reads(&gate.workers.counters()[0].upstream_connects, 1);
    gate.stop();
}

#[test]
fn what_is_about_the_upstreams_connection_stays_there() {
    let (address, _) = counting(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n\
         Upgrade: h2c\r\nTE: x\r\nX-End: 2\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n0\r\n\r\n",
    );
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    for _ in 0..2 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let seen = head(&mut client).to_ascii_lowercase();
        for gone in ["x-hop", "keep-alive", "proxy-connection", "upgrade", "\r\nte:", "connection"]
        {
            assert!(!seen.contains(gone), "{gone}: {seen}");
        }
        assert!(seen.contains("x-end: 2") && seen.matches("set-cookie").count() == 2, "{seen}");
        // An empty chunked body has no length of its own: hyper frames it again.
        until(&mut client, "0\r\n\r\n");
    }
    gate.stop();
}

#[test]
fn bytes_right_behind_a_101_are_the_tunnels() {
    let address = backend(|mut stream, _| {
        head(&mut stream);
        let both = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, x\r\nUpgrade: echo\r\nX: 1\r\n\r\nfirst";
        stream.write_all(both.as_bytes()).unwrap();
        let mut some = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut some) {
            stream.write_all(&some[..read]).unwrap();
        }
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .unwrap();
    let seen = head(&mut client).to_ascii_lowercase();
    assert!(seen.starts_with("http/1.1 101") && seen.contains("upgrade: echo"), "{seen}");
    assert!(seen.contains("connection: upgrade\r\n"), "{seen}");
    until(&mut client, "first");
    client.write_all(b"second").unwrap();
    until(&mut client, "second");
    reads(&gate.workers.counters()[0].upstream_active, 0);
    drop(client);
    assert!(matches!(gate.event(), Event::Tunnel(_)));
    gate.stop();
}
