//! Bodies that are large and of known length, which pass inside the kernel: they arrive byte for byte, and everything that
//! holds for small ones holds for them, above all what becomes of both connections and what is known of the end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use tollgate::proxy::body::BodyEnd;
use tollgate::proxy::request_body::BodyFate;

use crate::support::*;

/// From here on a body is large.
const LARGE: usize = 64 * 1024;
/// More than the sockets on the way hold while nobody reads.
const HUGE: usize = 24 * 1024 * 1024;

/// Bytes of which every place has its own, as far as two bytes can tell.
fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at >> 8) ^ (at * 7)).to_le_bytes()[0]).collect()
}

/// Asserts equality without printing megabytes.
fn assert_same(seen: &[u8], sent: &[u8]) {
    assert_eq!(seen.len(), sent.len());
    let differs = || seen.iter().zip(sent).position(|(seen, sent)| seen != sent);
    assert!(seen == sent, "of {} bytes the first that differs: {:?}", sent.len(), differs());
}

fn read_exactly(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).unwrap();
    read
}

fn length_in(head: &str) -> usize {
    let head = head.to_ascii_lowercase();
    let line = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    line.map_or(0, |length| length.parse().unwrap())
}

/// A backend that gives every request's body back, and how many connections it has seen.
fn giving_back() -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = backend(move |mut stream, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        while let Ok(1..) = stream.peek(&mut [0]) {
            let length = length_in(&head(&mut stream));
            let body = read_exactly(&mut stream, length);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    (address, connections)
}

/// Takes a request, and begins an answer of so many bytes.
fn begin_answer(stream: &mut TcpStream, bytes: usize) {
    head(stream);
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").unwrap();
}

/// A client that has asked, and was told how long its answer is.
fn asking(gate: &Gate) -> TcpStream {
    let mut client = gate.client();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    head(&mut client);
    client
}

fn post(bytes: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n")
}

#[test]
fn bodies_of_every_size_pass_both_ways_byte_for_byte_on_the_same_connections() {
    let (address, connections) = giving_back();
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    let around = [0, 1, 2, 4096, 60_000].into_iter().flat_map(|by| [LARGE - by, LARGE + by]);
    for size in around.chain([1, 1 << 20, (1 << 20) + 1, 5_000_000, 1]) {
        let sent = body(size);
        client.write_all(post(size).as_bytes()).unwrap();
        client.write_all(&sent).unwrap();
        assert_eq!(length_in(&head(&mut client)), size);
        assert_same(&read_exactly(&mut client, size), &sent);
        let Event::Ended(BodyEnd::Clean, bytes) = gate.event() else { panic!("{size}") };
        assert_eq!(bytes, size as u64);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    reads(&gate.workers.counters()[0].upstream_active, 0);
    reads(&gate.workers.counters()[0].upstream_idle, 1);
    gate.stop();
}

#[test]
fn a_head_and_the_beginning_of_its_body_may_come_in_one_piece() {
    let (address, _) = giving_back();
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    for size in [LARGE, 3 * LARGE + 17] {
        let sent = body(size);
        client.write_all(&[post(size).as_bytes(), &sent].concat()).unwrap();
        assert_eq!(length_in(&head(&mut client)), size);
        assert_same(&read_exactly(&mut client, size), &sent);
    }
    gate.stop();
}

#[test]
fn requests_that_follow_a_large_one_at_once_are_not_taken_for_its_body() {
    let (address, connections) = giving_back();
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    let sizes = [LARGE + 5, 3, 2 * LARGE, 1 << 20, 9];
    let asked: Vec<u8> =
        sizes.iter().flat_map(|size| [post(*size).into_bytes(), body(*size)].concat()).collect();
    let mut writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&asked).unwrap());
    for size in sizes {
        assert_eq!(length_in(&head(&mut client)), size);
        assert_same(&read_exactly(&mut client, size), &body(size));
    }
    writing.join().unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    gate.stop();
}

#[test]
fn a_client_that_reads_and_writes_slowly_gets_and_gives_every_byte() {
    let (address, _) = giving_back();
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    let sent = body(LARGE * 2);
    client.write_all(post(sent.len()).as_bytes()).unwrap();
    for piece in sent.chunks(50_000) {
        client.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(length_in(&head(&mut client)), sent.len());
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        let some = 30_000.min(sent.len() - seen.len());
        seen.extend(read_exactly(&mut client, some));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_same(&seen, &sent);
    gate.stop();
}

#[test]
fn an_answer_that_waits_for_its_client_goes_on_where_it_stopped() {
    let address = backend(|mut stream, _| {
        begin_answer(&mut stream, HUGE);
        stream.write_all(&body(HUGE)).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let gate = Setup::before(address).start();
    let mut client = asking(&gate);
    // Everything on the way is full by now.
    std::thread::sleep(Duration::from_millis(300));
    assert_same(&read_exactly(&mut client, HUGE), &body(HUGE));
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Clean, bytes) if bytes == HUGE as u64));
    gate.stop();
}

#[test]
fn a_large_answer_that_breaks_off_is_broken_for_the_client_too() {
    const CAME: usize = 2 * LARGE;
    let address = backend(|mut stream, _| {
        begin_answer(&mut stream, 3 * LARGE);
        stream.write_all(&body(CAME)).unwrap();
    });
    let gate = Setup::before(address).start();
    let mut client = asking(&gate);
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).unwrap();
    assert_same(&seen, &body(CAME));
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Broke, bytes) if bytes == CAME as u64));
    reads(&gate.workers.counters()[0].upstream_active, 0);
    reads(&gate.workers.counters()[0].upstream_idle, 0);
    gate.stop();
}

#[test]
fn an_upstream_that_falls_silent_in_a_large_answer_breaks_it() {
    const CAME: usize = LARGE + 100;
    let address = backend(|mut stream, _| {
        let part = body(CAME);
        begin_answer(&mut stream, 3 * LARGE);
        stream.write_all(&part).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let mut silent = upstream(address);
    silent.idle_timeout = Duration::from_millis(500);
    let gate = Setup::of(silent).start();
    let mut client = asking(&gate);
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).unwrap();
    assert_same(&seen, &body(CAME));
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Broke, bytes) if bytes == CAME as u64));
    gate.stop();
}

#[test]
fn a_client_that_leaves_in_a_large_answer_ends_it_and_the_upstreams_connection() {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| {
        begin_answer(&mut stream, HUGE);
        tell.send(stream.write_all(&body(HUGE)).is_err()).unwrap();
    });
    let gate = Setup::before(address).start();
    let mut client = asking(&gate);
    read_exactly(&mut client, LARGE);
    drop(client);
    let Event::Ended(BodyEnd::Dropped, bytes) = gate.event() else { panic!("another end") };
    assert!(bytes < HUGE as u64, "{bytes}");
    assert!(told.recv_timeout(PATIENCE).unwrap(), "the upstream's connection is closed");
    reads(&gate.workers.counters()[0].upstream_active, 0);
    reads(&gate.workers.counters()[0].upstream_idle, 0);
    gate.stop();
}

#[test]
fn a_client_that_does_not_read_a_large_answer_is_cut_off_in_time() {
    let address = backend(|mut stream, _| {
        begin_answer(&mut stream, HUGE);
        let _ = stream.write_all(&body(HUGE));
    });
    let mut setup = Setup::before(address);
    setup.bounds.body_idle = Duration::from_millis(200);
    let gate = setup.start();
    let _client = asking(&gate);
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Dropped, _)));
    gate.stop();
}

#[test]
fn a_large_answer_can_be_cut_from_outside() {
    let address = backend(|mut stream, _| {
        begin_answer(&mut stream, HUGE);
        stream.write_all(&body(LARGE)).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let gate = Setup::before(address).start();
    let mut client = asking(&gate);
    read_exactly(&mut client, LARGE);
    gate.ask("GET /cut HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).unwrap();
    assert_eq!(seen.len(), 0);
    let cut = |event| matches!(event, Event::Ended(BodyEnd::Cut, bytes) if bytes == LARGE as u64);
    assert!(cut(gate.event()) || cut(gate.event()));
    gate.stop();
}

/// A backend that tells how many bytes of a body it was sent on its first connection until that ended.
fn counting_what_comes() -> (SocketAddr, std::sync::mpsc::Receiver<usize>) {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| {
        head(&mut stream);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert_same(&all, &body(all.len()));
        tell.send(all.len()).unwrap();
    });
    (address, told)
}

#[test]
fn a_large_upload_that_breaks_off_or_falls_silent_is_told_apart_and_never_looks_whole() {
    for (leaves, fate) in [(true, BodyFate::ClientGone), (false, BodyFate::TooSlow)] {
        let (address, told) = counting_what_comes();
        let mut setup = Setup::before(address);
        setup.bounds.body_idle = Duration::from_secs(1);
        let gate = setup.start();
        let mut client = gate.client();
        let part = body(2 * LARGE);
        client.write_all(post(3 * LARGE).as_bytes()).unwrap();
        client.write_all(&part).unwrap();
        if leaves {
            client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        assert!(rest(&mut client).starts_with("HTTP/1.1 502"));
        let Event::Failed(_, seen) = gate.event() else { panic!("another event") };
        assert_eq!(seen, fate);
        assert!(told.recv_timeout(PATIENCE).unwrap() <= part.len());
        gate.stop();
    }
}

#[test]
fn a_large_upload_over_the_bound_stops_there() {
    let (address, told) = counting_what_comes();
    let mut setup = Setup::before(address);
    setup.max_body = Some(2 * LARGE as u64);
    let gate = setup.start();
    let mut client = gate.client();
    client.write_all(post(4 * LARGE).as_bytes()).unwrap();
    client.write_all(&body(4 * LARGE)).unwrap();
    assert!(rest(&mut client).starts_with("HTTP/1.1 502"));
    let Event::Failed(_, fate) = gate.event() else { panic!("another event") };
    assert_eq!(fate, BodyFate::TooLarge);
    assert!(told.recv_timeout(PATIENCE).unwrap() <= 2 * LARGE);
    gate.stop();
}

#[test]
fn an_answer_that_comes_in_the_middle_of_a_large_upload_arrives_and_the_upload_goes_on() {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| {
        let length = length_in(&head(&mut stream));
        let mut all = read_exactly(&mut stream, LARGE);
        stream.write_all(HELLO.as_bytes()).unwrap();
        all.extend(read_exactly(&mut stream, length - LARGE));
        tell.send(all).unwrap();
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    let sent = body(4 * LARGE);
    client.write_all(post(sent.len()).as_bytes()).unwrap();
    client.write_all(&sent[..2 * LARGE]).unwrap();
    until(&mut client, "hello");
    client.write_all(&sent[2 * LARGE..]).unwrap();
    assert_same(&told.recv_timeout(PATIENCE).unwrap(), &sent);
    // The next request is read where the body ends.
    client.write_all(b"GET /refused HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until(&mut client, "refused");
    gate.stop();
}

#[test]
fn more_clients_than_there_are_pipes_wait_at_once_and_all_get_their_bytes() {
    const CLIENTS: usize = 70;
    const EACH: usize = 8 * 1024 * 1024;
    let sent = Arc::new(body(EACH));
    let giving = Arc::clone(&sent);
    let address = backend(move |mut stream, _| {
        begin_answer(&mut stream, EACH);
        stream.write_all(&giving).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let mut setup = Setup::before(address);
    setup.bounds.body_idle = 6 * PATIENCE;
    let gate = setup.start();
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| asking(&gate)).collect();
    for client in &mut clients {
        assert_same(&read_exactly(client, EACH), &sent);
    }
    gate.stop();
}
