//! HTTP/1 as clients speak it, well and badly: what two readers could read two ways, heads and bodies in any pieces, requests
//! behind one another, expectations, old clients, and clients that leave.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use tollgate::proxy::body::BodyEnd;

use crate::support::*;

/// A backend that answers each request with the body it had, taken out of its framing.
fn echo() -> std::net::SocketAddr {
    backend(|mut stream, _| {
        loop {
            let mut head = Vec::new();
            let mut one = [0];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut one) {
                    Ok(1..) => head.push(one[0]),
                    Ok(0) | Err(_) => return,
                }
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let body = if let Some(length) = length {
                let mut body = vec![0; length.parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                body
            } else if head.contains("chunked") {
                unchunked(&mut stream)
            } else {
                Vec::new()
            };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(answer.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
        }
    })
}

/// Reads a chunked body without trailers.
fn unchunked(stream: &mut TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = until(stream, "\r\n");
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

#[test]
fn what_two_readers_could_read_two_ways_is_refused_and_closes() {
    let (tell, told) = channel();
    let gate = Setup::before(backend(move |_, number| tell.send(number).unwrap())).start();
    for (line, fields) in [
        ("POST / HTTP/1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked, chunked\r\n"),
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked, identity\r\n"),
        ("POST / HTTP/1.1", "Transfer-Encoding: xchunked\r\n"),
        ("POST / HTTP/1.1", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("POST / HTTP/1.1", "Content-Length: 5, 5\r\n"),
        ("POST / HTTP/1.1", "Content-Length: 5\r\n , 6\r\n"),
        ("POST / HTTP/1.1", "Content-Length : 5\r\n"),
        ("POST / HTTP/1.1", "X: a\rContent-Length: 5\r\n"),
        ("POST / HTTP/1.1", "X: a\0\r\n"),
        ("POST / HTTP/1.1", "X\0: a\r\n"),
        ("POST / http/1.1", ""),
        ("POST / HTTP/1.10", ""),
        ("POST /\0 HTTP/1.1", ""),
        ("POST /a b HTTP/1.1", ""),
        ("POST /a#b HTTP/1.1", ""),
        ("POST a/b HTTP/1.1", ""),
        ("POST http:///b HTTP/1.1", ""),
        ("POST * HTTP/1.1", ""),
        ("POST a:80 HTTP/1.1", ""),
        ("CONNECT /a HTTP/1.1", ""),
    ] {
        let smuggled = "GET /worker HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = gate.ask(&format!("{line}\r\nHost: a\r\n{fields}\r\n0\r\n\r\n{smuggled}"));
        assert!(answer.starts_with("HTTP/1.1 400 Unreadable"), "{line:?} {fields:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{line:?} {fields:?}: {answer}");
    }
    assert!(told.try_recv().is_err(), "nothing reaches the upstream");
    let refused = &gate.workers.counters()[0].unreadable_heads;
    assert_eq!(refused.load(std::sync::atomic::Ordering::Relaxed), 24);
    gate.stop();
}

#[test]
fn heads_and_bodies_arrive_in_any_pieces() {
    let gate = Setup::before(echo()).start();
    let requests = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
        POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\ntwo\r\n0\r\n\r\n\
        GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for size in [1, 2, 7, 50] {
        let mut client = gate.client();
        client.set_nodelay(true).unwrap();
        for piece in requests.as_bytes().chunks(size) {
            client.write_all(piece).unwrap();
            if size < 50 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let answers = rest(&mut client);
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{size}: {answers}");
        let (one, two) = (answers.find("one").unwrap(), answers.find("two").unwrap());
        assert!(one < two, "{size}: {answers}");
    }
    gate.stop();
}

#[test]
fn requests_with_bodies_behind_one_another_are_answered_in_order() {
    let gate = Setup::before(echo()).start();
    let mut client = gate.client();
    let mut all = Vec::new();
    for number in 0..50 {
        let body = "x".repeat(number * 37) + &format!("[{number}]");
        all.push(if number % 2 == 0 {
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        } else {
            let size = body.len();
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size:X}\r\n{body}\r\n0\r\n\r\n"
            )
        });
    }
    client.write_all(all.concat().as_bytes()).unwrap();
    for number in 0..50 {
        let answer = until(&mut client, &format!("[{number}]"));
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{number}: {answer}");
    }
    gate.stop();
}

#[test]
fn a_chunked_body_is_whole_however_it_is_cut_and_what_follows_it_is_the_next_request() {
    let gate = Setup::before(echo()).start();
    let mut client = gate.client();
    let body = "0123456789".repeat(2_000) + "[whole]";
    for size in [1, 7, 4_096, body.len()] {
        let mut request =
            vec!["POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()];
        for (nth, chunk) in body.as_bytes().chunks(size).enumerate() {
            let extension = if nth == 0 { "; first=\"yes\"" } else { "" };
            let data = std::str::from_utf8(chunk).unwrap();
            request.push(format!("{:06X}{extension}\r\n{data}\r\n", data.len()));
        }
        request.push("0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n".to_owned());
        request.push("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n[next]".to_owned());
        client.write_all(request.concat().as_bytes()).unwrap();
        let first = until(&mut client, "[whole]");
        assert!(first.ends_with(&body), "{size}");
        let next = until(&mut client, "[next]");
        assert!(next.contains("ontent-length: 6\r\n"), "{size}: {next}");
    }
    gate.stop();
}

#[test]
fn extensions_and_trailers_over_their_bounds_end_the_request_and_its_connection() {
    const MOST: usize = 16 * 1024;
    let (address, _told) = listening();
    let gate = Setup::before(address).start();
    for body in [
        format!("1;{}", "e".repeat(MOST + 1)),
        format!("0\r\nX:{}", "y".repeat(MOST)),
        format!("0\r\n{}\r\n", "A: b\r\n".repeat(101)),
    ] {
        let mut client = gate.client();
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        client.write_all(request.as_bytes()).unwrap();
        let answer = rest(&mut client);
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(matches!(gate.event(), Event::Failed(..)));
    }
    gate.stop();
}

#[test]
fn a_small_body_that_nobody_wants_is_read_away_and_a_large_one_ends_the_connection() {
    let gate = Setup::before(answering(HELLO)).start();
    let mut client = gate.client();
    client
        .write_all(b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nGET /worker")
        .unwrap();
    assert!(!until(&mut client, "refused").contains("connection: close"));
    client.write_all(b" HTTP/1.1\r\nHost: a\r\n\r\n123456").unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let next = until(&mut client, "hello");
    assert!(next.starts_with("HTTP/1.1 200") && !next.contains("here"), "{next}");
    for large in [
        "Content-Length: 8193\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    ] {
        let answer = gate.ask(&format!("POST /refused HTTP/1.1\r\nHost: a\r\n{large}"));
        assert!(answer.starts_with("HTTP/1.1 401"), "{large}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{large}: {answer}");
    }
    gate.stop();
}

#[test]
fn an_expectation_of_a_client_that_does_not_wait_needs_no_100() {
    let gate = Setup::before(echo()).start();
    let mut client = gate.client();
    let eager =
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\neager";
    client.write_all(eager.as_bytes()).unwrap();
    assert!(head(&mut client).starts_with("HTTP/1.1 200"));
    until(&mut client, "eager");
    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(chunked.as_bytes()).unwrap();
    assert_eq!(head(&mut client), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"4\r\nlate\r\n0\r\n\r\n").unwrap();
    assert!(until(&mut client, "late").starts_with("HTTP/1.1 200"));
    gate.stop();
}

#[test]
fn old_clients_are_answered_in_their_version_and_keep_what_they_ask_to_keep() {
    let gate = Setup::before(answering(HELLO)).start();
    let answer = gate.ask("GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    let mut client = gate.client();
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let answer = until(&mut client, "hello");
        assert!(answer.contains("connection: keep-alive\r\n"), "{answer}");
        assert!(answer.contains("content-length: 5\r\n"), "{answer}");
    }
    gate.stop();

    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let gate = Setup::before(answering(chunked)).start();
    let answer = gate.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nhello"), "no chunks: {answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    gate.stop();
}

#[test]
fn a_head_is_answered_without_a_body_and_with_the_length_it_would_have() {
    let gate = Setup::before(answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")).start();
    let mut client = gate.client();
    for path in ["/", "/refused"] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let length = if path == "/" { 5 } else { "refused".len() };
        let answer = head(&mut client);
        assert!(answer.contains(&format!("content-length: {length}\r\n")), "{answer}");
    }
    gate.stop();
    for (status, length) in [("204 No Content", ""), ("304 Not Modified", "Content-Length: 7\r\n")]
    {
        let answer: &'static str = format!("HTTP/1.1 {status}\r\n{length}\r\n").leak();
        let gate = Setup::before(answering(answer)).start();
        let mut client = gate.client();
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let answer = head(&mut client);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
            assert_eq!(answer.contains("content-length"), !length.is_empty(), "{answer}");
        }
        gate.stop();
    }
}

#[test]
fn an_answer_is_dated_once() {
    for (own, dated) in [("", "date: "), ("Date: then\r\n", "date: then\r\n")] {
        let answer: &'static str =
            format!("HTTP/1.1 200 OK\r\n{own}Content-Length: 5\r\n\r\nhello").leak();
        let gate = Setup::before(answering(answer)).start();
        let answer = gate.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(answer.matches("date: ").count(), 1, "{answer}");
        assert!(answer.contains(dated), "{answer}");
        gate.stop();
    }
}

#[test]
fn trailers_go_to_those_who_take_them() {
    let answer = "HTTP/1.1 200 OK\r\nTrailer: sum\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n0\r\nsum: 7\r\nother: 8\r\n\r\n";
    let gate = Setup::before(answering(answer)).start();
    for (te, end) in [("TE: trailers\r\n", "0\r\nsum: 7\r\n\r\n"), ("", "hello\r\n0\r\n\r\n")] {
        let answer =
            gate.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{te}\r\n"));
        assert!(answer.ends_with(end), "{te:?}: {answer}");
    }
    gate.stop();
}

#[test]
fn a_client_that_ends_its_side_behind_a_request_has_its_answer() {
    let gate = Setup::before(answering(HELLO)).start();
    let mut client = gate.client();
    client.write_all(b"GET /refused HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&mut client).ends_with("refused"));
    gate.stop();
}

#[test]
fn a_client_that_leaves_while_it_is_answered_takes_its_request_with_it() {
    let (asked, was_asked) = channel();
    let (tell, told) = channel();
    let silent = backend(move |mut stream, _| {
        head(&mut stream);
        asked.send(()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        tell.send(()).unwrap();
    });
    let gate = Setup::before(silent).start();
    let mut client = gate.client();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    was_asked.recv_timeout(PATIENCE).unwrap();
    drop(client);
    told.recv_timeout(PATIENCE).expect("the upstream's connection closes");
    reads(&gate.workers.counters()[0].open, 0);
    gate.stop();
}

#[test]
fn a_body_that_breaks_off_is_no_request_and_its_connection_ends() {
    let (address, told) = listening();
    let gate = Setup::before(address).start();
    for body in [
        "Content-Length: 9\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n9\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10000000000000000\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX : y\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\n\r\n",
    ] {
        let mut client = gate.client();
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{body}");
        client.write_all(request.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        client.shutdown(Shutdown::Write).unwrap();
        let answer = rest(&mut client);
        assert!(answer.starts_with("HTTP/1.1 502"), "{body:?}: {answer}");
        assert!(matches!(gate.event(), Event::Failed(..)));
    }
    gate.stop();
    while let Ok(seen) = told.try_recv() {
        assert!(!seen.ends_with("0\r\n\r\n") && !seen.ends_with("abcabc"), "{seen}");
    }
}

#[test]
fn a_large_answer_is_whole_for_a_slow_reader_and_its_connection_goes_on() {
    const LARGE: usize = 8 * 1024 * 1024;
    let address = backend(|mut stream, _| {
        for _ in 0..2 {
            head(&mut stream);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").unwrap();
            let body: Vec<u8> = (0..=u8::MAX).cycle().take(LARGE).collect();
            stream.write_all(&body).unwrap();
        }
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    for _ in 0..2 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        head(&mut client);
        std::thread::sleep(Duration::from_millis(100));
        let mut body = vec![0; LARGE];
        client.read_exact(&mut body).unwrap();
        assert!(body.iter().zip((0..=u8::MAX).cycle()).all(|(here, sent)| *here == sent));
        assert!(
            matches!(gate.event(), Event::Ended(BodyEnd::Clean, bytes) if bytes == LARGE as u64)
        );
    }
    gate.stop();
}
