//! Bodies that break off, are too large or too slow, either way: what the other side sees, and what is known of it.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::time::Duration;

use tollgate::proxy::body::BodyEnd;
use tollgate::proxy::pool::{Processed, Why};
use tollgate::proxy::request_body::BodyFate;

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn breaking_off(answer: &'static str) -> std::net::SocketAddr {
    backend(move |mut stream, _| {
        head(&mut stream);
        stream.write_all(answer.as_bytes()).unwrap();
    })
}

#[test]
fn an_answer_that_breaks_off_is_broken_for_the_client_too() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let gate = Setup::before(breaking_off(chunked)).start();
    let answer = gate.ask(GET);
    assert!(answer.ends_with("5\r\nhello\r\n"), "no final chunk: {answer}");
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Broke, 5)));
    gate.stop();

    let counted = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let gate = Setup::before(breaking_off(counted)).start();
    let answer = gate.ask(GET);
    assert!(answer.contains("content-length: 10") && answer.ends_with("hello"), "{answer}");
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Broke, 5)));
    gate.stop();
}

#[test]
fn a_broken_answer_to_an_http_1_0_client_ends_with_a_reset() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let gate = Setup::before(breaking_off(chunked)).start();
    let mut client = gate.client();
    client.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    let mut all = Vec::new();
    let error =
        client.read_to_end(&mut all).expect_err("a clean end would look like the whole answer");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    gate.stop();
}

#[test]
fn an_upstream_that_falls_silent_in_its_answer_breaks_it() {
    let address = backend(|mut stream, _| {
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").unwrap();
        std::thread::sleep(PATIENCE);
    });
    let mut silent = upstream(address);
    silent.idle_timeout = Duration::from_millis(150);
    let gate = Setup::of(silent).start();
    assert!(gate.ask(GET).ends_with("hello"));
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Broke, 5)));
    gate.stop();
}

#[test]
fn a_client_that_leaves_drops_the_answer() {
    let address = backend(|mut stream, _| {
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").unwrap();
        std::thread::sleep(PATIENCE);
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    client.write_all(GET.as_bytes()).unwrap();
    until(&mut client, "hello");
    drop(client);
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Dropped, 5)));
    gate.stop();
}

#[test]
fn a_body_over_the_bound_is_told_apart_and_breaks_the_upstreams_request() {
    let (address, told) = listening();
    let mut setup = Setup::before(address);
    setup.max_body = Some(4);
    let gate = setup.start();
    let mut client = gate.client();
    let begins = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n";
    client.write_all(begins.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    client.write_all(b"4\r\nefgh\r\n0\r\n\r\n").unwrap();
    let answer = rest(&mut client);
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let Event::Failed(failure, fate) = gate.event() else { panic!("another event") };
    assert_eq!(fate, BodyFate::TooLarge);
    assert_eq!((failure.why, failure.processed), (Why::Broken, Processed::MayHaveBeen));
    let reached = told.recv_timeout(PATIENCE).unwrap();
    assert!(!reached.contains("efgh") && !reached.ends_with("0\r\n\r\n"), "{reached}");
    gate.stop();
}

#[test]
fn a_client_that_falls_silent_in_its_body_is_told_apart() {
    let address = backend(|mut stream, _| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut setup = Setup::before(address);
    setup.bounds.body_idle = Duration::from_millis(150);
    let gate = setup.start();
    let mut client = gate.client();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").unwrap();
    assert!(rest(&mut client).starts_with("HTTP/1.1 502"));
    let Event::Failed(_, fate) = gate.event() else { panic!("another event") };
    assert_eq!(fate, BodyFate::TooSlow);
    gate.stop();
}

#[test]
fn wrong_chunk_framing_aborts_the_upstreams_request() {
    let (address, told) = listening();
    let gate = Setup::before(address).start();
    let answer = gate.ask(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
    );
    assert!(answer.contains("connection: close"), "{answer}");
    let Event::Failed(_, fate) = gate.event() else { panic!("another event") };
    assert_eq!(fate, BodyFate::ClientGone);
    assert!(!told.recv_timeout(PATIENCE).unwrap().contains("abcd"));
    gate.stop();
}

#[test]
fn an_upstream_that_does_not_answer_is_a_timeout_and_one_that_is_not_there_unreachable() {
    let address = backend(|mut stream, _| {
        head(&mut stream);
        std::thread::sleep(PATIENCE);
    });
    let mut setup = Setup::before(address);
    setup.response_timeout = Duration::from_millis(100);
    let gate = setup.start();
    gate.ask(GET);
    let Event::Failed(failure, _) = gate.event() else { panic!("another event") };
    assert_eq!((failure.why, failure.processed), (Why::Timeout, Processed::MayHaveBeen));
    gate.stop();

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Setup::before(nobody).start();
    gate.ask(GET);
    let Event::Failed(failure, _) = gate.event() else { panic!("another event") };
    assert_eq!((failure.why, failure.processed), (Why::Unreachable, Processed::NotProcessed));
    assert_eq!(failure.detail, "the upstream refused the connection");
    gate.stop();
}

#[test]
fn the_time_for_an_answer_runs_from_the_last_byte_of_the_body_and_not_twice() {
    let address = backend(|mut stream, _| {
        until(&mut stream, "abcdef");
        std::thread::sleep(Duration::from_millis(1600));
        let _ = stream.write_all(HELLO.as_bytes());
    });
    let mut setup = Setup::before(address);
    setup.response_timeout = Duration::from_secs(1);
    let gate = setup.start();
    gate.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nConnection: close\r\n\r\nabcdef");
    let Event::Failed(failure, _) = gate.event() else { panic!("an answer after its time") };
    assert_eq!(failure.why, Why::Timeout);
    gate.stop();
}

#[test]
fn a_slow_upload_is_no_late_answer() {
    let address = backend(|mut stream, _| {
        until(&mut stream, "abcdef");
        stream.write_all(HELLO.as_bytes()).unwrap();
    });
    let mut setup = Setup::before(address);
    setup.response_timeout = Duration::from_millis(200);
    let gate = setup.start();
    let mut client = gate.client();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n").unwrap();
    for byte in b"abcdef" {
        std::thread::sleep(Duration::from_millis(80));
        client.write_all(&[*byte]).unwrap();
    }
    assert!(until(&mut client, "hello").starts_with("HTTP/1.1 200"));
    gate.stop();
}

#[test]
fn what_is_no_http_from_the_upstream_is_broken_and_never_reaches_the_client() {
    for nonsense in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\nA\0b: c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ] {
        let gate = Setup::before(breaking_off(nonsense)).start();
        let answer = gate.ask(GET);
        assert!(answer.starts_with("HTTP/1.1 502"), "{nonsense:?}: {answer}");
        gate.stop();
    }
}

#[test]
fn an_answer_can_be_cut_from_outside() {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| {
        head(&mut stream);
        let begins = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n";
        stream.write_all(begins.as_bytes()).unwrap();
        tell.send(rest(&mut stream)).unwrap();
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until(&mut client, "data: 1\n\n\r\n");
    gate.ask("GET /cut HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(rest(&mut client), "", "no final chunk");
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Cut, 9)));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "", "the upstream's connection closes too");
    gate.stop();
}
