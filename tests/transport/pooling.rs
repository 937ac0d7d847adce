//! Connections to the upstream: kept, aged, replaced, and never trusted further than their proof goes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use tollgate::proxy::pool::{Processed, Why};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn a_backend_that_closes_after_each_answer_sees_each_post_once() {
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&posts);
    let (closed, is_closed) = channel();
    let address = backend(move |mut stream, _| {
        until(&mut stream, "\r\n\r\nbody");
        counted.fetch_add(1, Ordering::Relaxed);
        // No Connection: close: the gate cannot know before the end arrives.
        let _ = stream.write_all(HELLO.as_bytes());
        drop(stream);
        let _ = closed.send(());
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    for _ in 0..30 {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        client.write_all(post.as_bytes()).unwrap();
        assert!(until(&mut client, "hello").starts_with("HTTP/1.1 200"));
        is_closed.recv_timeout(PATIENCE).unwrap();
    }
    assert_eq!(posts.load(Ordering::Relaxed), 30);
    gate.stop();
}

#[test]
fn a_pooled_connection_that_dies_under_a_request_is_not_retried() {
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&posts);
    let address = backend(move |mut stream, _| {
        head(&mut stream);
        let _ = stream.write_all(HELLO.as_bytes());
        head(&mut stream);
        // The second request was read; then the backend dies without an answer.
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let gate = Setup::before(address).start();
    assert!(gate.ask(GET).starts_with("HTTP/1.1 200"));
    gate.event();
    assert!(gate.ask(GET).starts_with("HTTP/1.1 502"));
    let Event::Failed(failure, _) = gate.event() else { panic!("another event") };
    assert_eq!((failure.why, failure.processed), (Why::Broken, Processed::MayHaveBeen));
    assert_eq!(posts.load(Ordering::Relaxed), 1);
    gate.stop();
}

#[test]
fn bytes_behind_an_answer_never_become_another() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = backend(move |mut stream, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        head(&mut stream);
        let both = format!("{HELLO}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        let _ = stream.write_all(both.as_bytes());
        std::thread::sleep(Duration::from_millis(500));
    });
    let gate = Setup::before(address).start();
    for _ in 0..3 {
        assert!(gate.ask(GET).ends_with("hello"));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 3, "such a connection is not used again");
    gate.stop();
}

#[test]
fn a_body_frees_its_connection_whether_it_comes_with_its_head_or_behind_it() {
    // What is taken up with its head has a bound: 4 KiB.
    const LENGTHS: [usize; 6] = [0, 1, 4095, 4096, 4097, 20_000];
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = backend(move |mut stream, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        for length in LENGTHS {
            let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let body = "x".repeat(length);
            head(&mut stream);
            let _ = stream.write_all(format!("{said}{body}").as_bytes());
            head(&mut stream);
            let _ = stream.write_all(said.as_bytes());
            let (some, rest) = body.split_at(length / 2);
            let _ = stream.write_all(some.as_bytes());
            let _ = stream.write_all(rest.as_bytes());
        }
    });
    let gate = Setup::before(address).start();
    for length in LENGTHS {
        for _ in 0..2 {
            let answer = gate.ask(GET);
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(body.len(), length);
        }
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    gate.stop();
}

#[test]
fn an_answer_before_the_request_is_whole_does_not_free_the_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = backend(move |mut stream, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        head(&mut stream);
        let _ = stream.write_all(HELLO.as_bytes());
        std::thread::sleep(Duration::from_millis(500));
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npart").unwrap();
    until(&mut client, "hello");
    assert!(gate.ask(GET).ends_with("hello"));
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    gate.stop();
}

#[test]
fn idle_connections_close_at_their_age_and_over_the_pools_size() {
    let mut aging = upstream(answering(HELLO));
    aging.pool_idle = Duration::from_millis(100);
    aging.pool_size = 2;
    let gate = Setup::of(aging).start();
    let counters = Arc::clone(&gate.workers.counters()[0]);
    let mut clients: Vec<_> = (0..6).map(|_| gate.client()).collect();
    for _ in 0..5 {
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        for client in &mut clients {
            until(client, "hello");
        }
        assert!(counters.upstream_idle.load(Ordering::Relaxed) <= 2);
    }
    std::thread::sleep(Duration::from_millis(400));
    reads(&counters.upstream_idle, 0);
    gate.stop();
}

#[test]
fn an_idle_connection_that_its_upstream_closes_is_let_go_long_before_its_age() {
    let (close, closes) = channel::<()>();
    let closes = std::sync::Mutex::new(closes);
    let address = backend(move |mut stream, _| {
        head(&mut stream);
        let _ = stream.write_all(HELLO.as_bytes());
        let _ = closes.lock().unwrap().recv();
    });
    // Kept for half a minute, which this test does not wait.
    let gate = Setup::before(address).start();
    assert!(gate.ask(GET).ends_with("hello"));
    let idle = &gate.workers.counters()[0].upstream_idle;
    reads(idle, 1);
    close.send(()).unwrap();
    reads(idle, 0);
    gate.stop();
}

#[test]
fn a_head_request_and_a_304_free_their_connection() {
    let address = answering("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n");
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    for method in ["HEAD", "GET", "HEAD", "GET"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        assert!(head(&mut client).starts_with("HTTP/1.1 304"));
    }
    reads(&gate.workers.counters()[0].upstream_connects, 1);
    gate.stop();
}

#[test]
fn another_upstream_closes_the_formers_idle_connections() {
    let (tell, told) = std::sync::mpsc::channel();
    let former = backend(move |mut stream, _| {
        head(&mut stream);
        stream.write_all(HELLO.as_bytes()).unwrap();
        tell.send(rest(&mut stream)).unwrap();
    });
    let mut setup = Setup::before(former);
    setup.other = Some(Arc::new(upstream(answering(HELLO))));
    let gate = setup.start();
    assert!(gate.ask(GET).ends_with("hello"));
    assert!(told.try_recv().is_err(), "it is kept as long as its upstream is in force");
    assert!(gate.ask(&GET.replace(" / ", " /other ")).ends_with("hello"));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "");
    reads(&gate.workers.counters()[0].upstream_idle, 1);
    gate.stop();
}
