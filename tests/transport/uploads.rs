//! Requests on their way to an HTTP/1 upstream: how they are framed, that they and their answers flow at the same time,
//! and what is known of one that did not arrive.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tollgate::proxy::body::BodyEnd;
use tollgate::proxy::pool::{Processed, Why};
use tollgate::proxy::request_body::BodyFate;

use crate::support::*;

/// More than all buffers on the way hold together.
const LARGE: usize = 24 * 1024 * 1024;

/// A backend that tells what its first read of each request gives, and answers when it has the whole.
fn first_read() -> (SocketAddr, Receiver<String>) {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| {
        let mut some = vec![0; 65_536];
        while let Ok(read @ 1..) = stream.read(&mut some) {
            let seen = String::from_utf8_lossy(&some[..read]).into_owned();
            if seen.contains("chunked") && !seen.ends_with("0\r\n\r\n") {
                until(&mut stream, "0\r\n\r\n");
            }
            let _ = tell.send(seen);
            if stream.write_all(HELLO.as_bytes()).is_err() {
                return;
            }
        }
    });
    (address, told)
}

#[test]
fn a_request_is_framed_as_the_client_framed_it_and_leaves_in_one_piece() {
    let (address, told) = first_read();
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    for (request, framing, body) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", ""),
        ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", "", ""),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "content-length: 0", ""),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "content-length: 5",
            "hello",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "transfer-encoding: chunked",
            "5\r\nhello\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "transfer-encoding: chunked",
            "1\r\nx\r\n",
        ),
    ] {
        client.write_all(request.as_bytes()).unwrap();
        until(&mut client, "hello");
        let seen = told.recv_timeout(PATIENCE).unwrap();
        let (head, _) = seen.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        let framings: Vec<&str> = head
            .lines()
            .filter(|line| line.starts_with("content-length") || line.starts_with("transfer-"))
            .collect();
        assert_eq!(framings.join("\n"), framing);
        assert!(seen.contains(&format!("\r\n\r\n{body}")), "head and body in one read: {seen}");
    }
    gate.stop();
}

#[test]
fn announced_trailers_are_passed_on_and_others_are_not() {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| {
        tell.send(until(&mut stream, "\r\n\r\n") + &until(&mut stream, "\r\n\r\n")).unwrap();
        stream.write_all(HELLO.as_bytes()).unwrap();
    });
    let gate = Setup::before(address).start();
    gate.ask(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Host\r\n\r\n\
         2\r\nhi\r\n0\r\nX-Sum: 7\r\nX-Other: 8\r\nHost: b\r\n\r\n",
    );
    let seen = told.recv_timeout(PATIENCE).unwrap().to_ascii_lowercase();
    assert!(seen.contains("trailer: x-sum, host"), "{seen}");
    assert!(seen.ends_with("2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n"), "{seen}");
    gate.stop();
}

/// Reads a body of this length to its end.
fn drain(stream: &mut TcpStream, mut left: usize) {
    let mut some = vec![0; 65_536];
    while left > 0 {
        let most = some.len().min(left);
        let read = stream.read(&mut some[..most]).unwrap();
        assert!(read > 0, "{left} bytes are missing");
        left -= read;
    }
}

#[test]
fn a_client_may_read_its_answer_after_it_has_sent_everything() {
    // The backend answers at once and at length, and takes the request at the same time.
    let address = backend(|mut stream, _| {
        head(&mut stream);
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            writer.write_all(head.as_bytes()).unwrap();
            writer.write_all(&vec![b'a'; LARGE]).unwrap();
        });
        drain(&mut stream, LARGE);
        writing.join().unwrap();
        let _ = stream.read(&mut [0; 16]);
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    let head_of = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
    client.write_all(head_of.as_bytes()).unwrap();
    client.write_all(&vec![b'q'; LARGE]).unwrap();
    assert!(head(&mut client).starts_with("HTTP/1.1 200"));
    drain(&mut client, LARGE);
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Clean, bytes) if bytes == LARGE as u64));
    let counters = &gate.workers.counters()[0];
    reads(&counters.upstream_active, 0);
    gate.stop();
}

#[test]
fn an_echo_larger_than_all_buffers_comes_back_byte_for_byte() {
    for chunked in [false, true] {
        let address = backend(move |mut stream, _| {
            let asked = head(&mut stream).to_ascii_lowercase();
            assert_eq!(asked.contains("chunked"), chunked, "{asked}");
            let framing = if chunked {
                "Transfer-Encoding: chunked".to_owned()
            } else {
                format!("Content-Length: {LARGE}")
            };
            write!(stream, "HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").unwrap();
            // The framing of the request is that of the answer: its bytes are echoed as they are.
            let mut some = vec![0; 100_000];
            while let Ok(read @ 1..) = stream.read(&mut some) {
                if stream.write_all(&some[..read]).is_err() {
                    return;
                }
            }
        });
        let gate = Setup::before(address).start();
        let mut client = gate.client();
        let mut reader = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let framing = if chunked {
                "Transfer-Encoding: chunked".to_owned()
            } else {
                format!("Content-Length: {LARGE}")
            };
            write!(client, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}\r\n\r\n")
                .unwrap();
            let piece: Vec<u8> = (0..=u8::MAX).cycle().take(64 * 1024).collect();
            for _ in 0..LARGE / piece.len() {
                if chunked {
                    write!(client, "{:x}\r\n", piece.len()).unwrap();
                }
                client.write_all(&piece).unwrap();
                if chunked {
                    client.write_all(b"\r\n").unwrap();
                }
            }
            if chunked {
                client.write_all(b"0\r\n\r\n").unwrap();
            }
        });
        // Late: everything on the way is full by now.
        std::thread::sleep(Duration::from_millis(300));
        head(&mut reader);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        sending.join().unwrap();
        assert!(all.len() >= LARGE && (chunked || all.len() == LARGE), "{}", all.len());
        if !chunked {
            assert!(all.iter().zip((0..=u8::MAX).cycle()).all(|(here, sent)| *here == sent));
        }
        assert!(
            matches!(gate.event(), Event::Ended(BodyEnd::Clean, bytes) if bytes == LARGE as u64)
        );
        reads(&gate.workers.counters()[0].upstream_active, 0);
        gate.stop();
    }
}

#[test]
fn under_tls_every_byte_goes_out_before_more_is_asked_for() {
    const HALF: usize = 8 * 1024 * 1024;
    let identity = crate::passing::identity();
    let server = identity.server;
    let (tell, told) = channel();
    let address = backend(move |stream, _| {
        let session = rustls::ServerConnection::new(std::sync::Arc::clone(&server)).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        let mut some = [0; 1];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut some).unwrap();
            head.push(some[0]);
        }
        // Everything on the way is full by now.
        std::thread::sleep(Duration::from_millis(200));
        std::io::copy(&mut (&mut stream).take(HALF as u64), &mut std::io::sink()).unwrap();
        stream.write_all(HELLO.as_bytes()).unwrap();
        std::io::copy(&mut (&mut stream).take(HALF as u64), &mut std::io::sink()).unwrap();
        tell.send(()).unwrap();
    });
    let mut secured = upstream(address);
    secured.scheme = tollgate::policy::snapshot::Scheme::Https;
    secured.tls.ca = Some(identity.ca.into());
    let gate = Setup::of(secured).start();
    let mut client = gate.client();
    let head_of = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 2 * HALF);
    client.write_all(head_of.as_bytes()).unwrap();
    client.write_all(&vec![b'1'; HALF]).unwrap();
    until(&mut client, "hello");
    client.write_all(&vec![b'2'; HALF]).unwrap();
    told.recv_timeout(PATIENCE).expect("the second half, under an answer that is over");
    gate.stop();
}

#[test]
fn an_answer_that_comes_before_a_refused_upload_still_arrives() {
    let address = backend(|mut stream, _| {
        head(&mut stream);
        let answer =
            "HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge";
        stream.write_all(answer.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\npart").unwrap();
    assert!(until(&mut client, "large").starts_with("HTTP/1.1 413"));
    reads(&gate.workers.counters()[0].upstream_active, 0);
    reads(&gate.workers.counters()[0].upstream_idle, 0);
    gate.stop();
}

#[test]
fn an_upload_that_breaks_off_under_its_answer_breaks_both() {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| {
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").unwrap();
        tell.send(rest(&mut stream)).unwrap();
    });
    let mut setup = Setup::before(address);
    setup.bounds.body_idle = Duration::from_millis(200);
    let gate = setup.start();
    let mut client = gate.client();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").unwrap();
    until(&mut client, "hello");
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Broke, 5)));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "abc", "not the whole of it");
    reads(&gate.workers.counters()[0].upstream_active, 0);
    gate.stop();
}

#[test]
fn a_client_that_leaves_closes_the_upstreams_connection_in_every_phase() {
    for (answer, request) in [
        ("", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/1.1 200", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
        ),
    ] {
        let (asked, was_asked) = channel();
        let (tell, told) = channel();
        let address = backend(move |mut stream, _| {
            head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
            asked.send(()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
            tell.send(()).unwrap();
        });
        let gate = Setup::before(address).start();
        let mut client = gate.client();
        client.write_all(request.as_bytes()).unwrap();
        was_asked.recv_timeout(PATIENCE).unwrap();
        if answer.ends_with("abc") {
            until(&mut client, "abc");
        }
        drop(client);
        told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{answer:?} {request:?}"));
        reads(&gate.workers.counters()[0].upstream_active, 0);
        reads(&gate.workers.counters()[0].upstream_idle, 0);
        gate.stop();
    }
}

#[test]
fn a_body_that_fails_before_a_byte_has_left_was_not_processed() {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| tell.send(rest(&mut stream)).unwrap());
    let mut setup = Setup::before(address);
    setup.max_body = Some(4);
    let gate = setup.start();
    let answer = gate.ask(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabcdefghi\r\n0\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let Event::Failed(failure, fate) = gate.event() else { panic!("another event") };
    assert_eq!(fate, BodyFate::TooLarge);
    assert_eq!((failure.why, failure.processed), (Why::Broken, Processed::NotProcessed));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "");
    gate.stop();
}

#[test]
fn idle_connections_that_the_upstream_resets_or_speaks_on_cost_no_request() {
    for goodbye in ["", "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"] {
        let (tell, told) = channel();
        let address = backend(move |mut stream, _| {
            head(&mut stream);
            stream.write_all(HELLO.as_bytes()).unwrap();
            stream.write_all(goodbye.as_bytes()).unwrap();
            if goodbye.is_empty() {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(stream);
            tell.send(()).unwrap();
        });
        let gate = Setup::before(address).start();
        let mut client = gate.client();
        for _ in 0..10 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            assert!(until(&mut client, "hello").starts_with("HTTP/1.1 200"));
            told.recv_timeout(PATIENCE).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        reads(&gate.workers.counters()[0].upstream_connects, 10);
        gate.stop();
    }
}
