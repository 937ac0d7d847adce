//! Bytes that two parsers could read two ways, and clients who mean harm: each is refused in the policy's own words, the
//! connection closes where its framing is in doubt, and the backend sees nothing.

mod support;

use std::time::Duration;

use support::bait::{KEY, ours, start, unharmed};
use support::wire::Asked;
use support::{A_SECOND, Backend, Connection, Gate, Reply, Request, eventually};

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Closes,
    Either,
}

/// Sends `bytes`; the answer must have one of `statuses`, be ours, and nothing may have reached the backend.
#[track_caller]
fn refused(gate: &Gate, backend: &Backend, bytes: &[u8], statuses: &[u16], then: Then) {
    let reached = backend.count();
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let mut connection = gate.connect();
    connection.try_write(bytes);
    let answer = connection.answer(Asked::Other);
    assert!(statuses.contains(&answer.status), "{shown:?}: {answer:?} {}", answer.text());
    ours(&answer, &shown);
    if then == Then::Closes {
        assert!(connection.is_closed_within(A_SECOND), "{shown:?}: left open: {answer:?}");
    }
    assert_eq!(backend.count(), reached, "{shown:?} reached the backend");
}

#[test]
fn a_host_that_is_not_one_is_refused() {
    let backend = Backend::start();
    let gate = start(&backend);
    for hosts in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a@b\r\n",
        "Host: a/b\r\n",
        "Host: a,b\r\n",
        "Host: a b\r\n",
        "Host: \r\n",
        "Host: a?b\r\n",
        "Host: a:b:c\r\n",
    ] {
        let bytes = format!("GET /open/x HTTP/1.1\r\n{hosts}{KEY}\r\n");
        refused(&gate, &backend, bytes.as_bytes(), &[400], Then::Either);
    }
    unharmed(&gate, &backend);
}

#[test]
fn a_length_in_doubt_is_refused_and_closes() {
    let backend = Backend::start();
    let gate = start(&backend);
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -0\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5_0\r\n",
        "Content-Length: 5 0\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked\0\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "X: a\rTransfer-Encoding: chunked\r\n",
        "Content Length: 5\r\n",
        ": empty\r\n",
    ] {
        let bytes = format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{KEY}{framing}\r\n0\r\n\r\n");
        refused(&gate, &backend, bytes.as_bytes(), &[400, 501, 431], Then::Closes);
    }
    let old = format!(
        "POST /open/x HTTP/1.0\r\nHost: a\r\n{KEY}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    refused(&gate, &backend, old.as_bytes(), &[400], Then::Closes);
    unharmed(&gate, &backend);
}

#[test]
fn a_length_beside_chunks_is_refused_or_never_forwarded() {
    let backend = Backend::start();
    let gate = start(&backend);
    let smuggled = "GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for both in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let mut connection = gate.connect();
        let head = format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{KEY}{both}\r\n");
        connection.try_write(format!("{head}0\r\n\r\n{smuggled}").as_bytes());
        let answer = connection.answer(Asked::Other);
        if answer.status == 200 {
            let seen = backend.last();
            assert!(
                seen.all("content-length").is_empty() || seen.all("transfer-encoding").is_empty()
            );
            assert!(seen.body.is_empty());
        } else {
            assert_eq!(answer.status, 400, "{both}");
            ours(&answer, both);
        }
        assert!(connection.is_closed_within(A_SECOND), "{both}");
    }
    assert!(backend.seen().iter().all(|seen| seen.target == "/open/x"));
    unharmed(&gate, &backend);
}

#[test]
fn broken_chunks_never_make_a_whole_request() {
    let backend = Backend::start();
    let gate = start(&backend);
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(64 * 1024));
    for body in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        &long,
    ] {
        let mut connection = gate.connect();
        let head =
            format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{KEY}Transfer-Encoding: chunked\r\n\r\n");
        connection.try_write(
            format!("{head}{body}GET /open/y HTTP/1.1\r\nHost: a\r\n{KEY}\r\n").as_bytes(),
        );
        let all = String::from_utf8_lossy(&connection.rest()).into_owned();
        let shown = &body[..body.len().min(40)];
        assert!(!all.contains(" 200 "), "{shown:?}: {all}");
        assert_eq!(backend.count(), 0, "{shown:?}: {:?}", backend.seen());
    }
    unharmed(&gate, &backend);
}

#[test]
fn trailers_are_no_headers() {
    let backend = Backend::start();
    let gate = start(&backend);
    let head = format!(
        "POST /open/x HTTP/1.1\r\nHost: a\r\n{KEY}Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    );
    let trailers =
        "Authorization: Bearer other\r\nContent-Length: 9\r\nHost: evil\r\nX-Tenant-Id: evil\r\n";
    let mut connection = gate.connect();
    connection.write(format!("{head}2\r\nhi\r\n0\r\n{trailers}\r\n").as_bytes());
    assert_eq!(connection.answer(Asked::Other).status, 200);
    let seen = backend.last();
    assert_eq!(seen.body, b"hi");
    assert!(seen.all("content-length").is_empty() && seen.only("host") == "a");
    let without = format!(
        "POST /open/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{KEY}\r\n"
    );
    refused(&gate, &backend, without.as_bytes(), &[401], Then::Either);
    unharmed(&gate, &backend);
}

#[test]
fn a_request_line_that_is_none_is_refused_and_closes() {
    let backend = Backend::start();
    let gate = start(&backend);
    for line in [
        "GET /open/a b HTTP/1.1",
        "GET /open/x http/1.1",
        "GET /open/x HTTP/9.9",
        "GET  /open/x HTTP/1.1",
        "GET /open/x",
        "/open/x HTTP/1.1",
        "GET /open/\x01 HTTP/1.1",
        "GE(T /open/x HTTP/1.1",
        "GET /open/x HTTP/1.1 ",
    ] {
        let bytes = format!("{line}\r\nHost: a\r\n{KEY}\r\n");
        refused(&gate, &backend, bytes.as_bytes(), &[400, 505], Then::Closes);
    }
    refused(
        &gate,
        &backend,
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
        &[400],
        Then::Closes,
    );
    refused(
        &gate,
        &backend,
        b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n",
        &[400, 401, 404, 405],
        Then::Either,
    );
    let star = format!("GET * HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
    refused(&gate, &backend, star.as_bytes(), &[400], Then::Either);
    unharmed(&gate, &backend);
}

#[test]
fn what_a_gateway_answers_itself_never_goes_on() {
    let backend = Backend::start();
    let gate = start(&backend);
    for (line, statuses) in [
        ("OPTIONS * HTTP/1.1", &[200, 204][..]),
        ("CONNECT a:80 HTTP/1.1", &[400, 405]),
        ("TRACE /open/x HTTP/1.1", &[405]),
    ] {
        let bytes = format!("{line}\r\nHost: a:80\r\n{KEY}\r\n");
        refused(&gate, &backend, bytes.as_bytes(), statuses, Then::Either);
    }
    let hops = format!("OPTIONS /open/x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n{KEY}\r\n");
    refused(&gate, &backend, hops.as_bytes(), &[200, 204], Then::Either);
    unharmed(&gate, &backend);
}

#[test]
fn the_absolute_form_names_the_host_and_no_way_round() {
    let backend = Backend::start();
    let gate = start(&backend);
    let mut connection = gate.connect();
    connection.write(
        format!("GET http://real.example/open/x?q=1 HTTP/1.1\r\nHost: other\r\n{KEY}\r\n")
            .as_bytes(),
    );
    assert_eq!(connection.answer(Asked::Other).status, 200);
    let seen = backend.last();
    assert_eq!((seen.only("host"), &*seen.target), ("real.example", "/open/x?q=1"));
    let closed = format!("GET http://a/closed/x HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
    refused(&gate, &backend, closed.as_bytes(), &[403], Then::Either);
    let user = format!("GET http://u@a/open/x HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
    refused(&gate, &backend, user.as_bytes(), &[400], Then::Either);
    unharmed(&gate, &backend);
}

#[test]
fn no_spelling_of_a_denied_path_passes() {
    let backend = Backend::start();
    let gate = start(&backend);
    let mut connection = gate.connect();
    let denied = [
        "/closed/x",
        "/closed",
        "/closed/",
        "/./closed/x",
        "/open/../closed/x",
        "/open/%2e%2e/closed/x",
        "/open/%2E%2E/closed/x",
        "/open/.%2e/closed/x",
        "/open/..;/closed/x",
        "/open/..;a=b/closed/x",
        "//closed/x",
        "/open//../closed/x",
        "/open/..%2fclosed/x",
        "/open/..%2Fclosed/x",
        "/open%2f..%2fclosed",
        "/open/..%5cclosed",
        "/open/..\\closed",
        "\\closed\\x",
        "/%63losed/x",
        "/clos%65d/x",
        "/open/%00",
        "/open/%252e%252e/closed",
        "/open/%25%32%65",
        "/open/%c0%ae%c0%ae/closed",
        "/open/%e0%80%ae/x",
        "/open/%ff",
        "/open/%",
        "/open/%4",
        "/open/%zz",
        "/open/%u002e",
        "/closed;x/y",
        "/open;/../closed",
        "/open/\u{e9}",
        "/open/%0d%0aX:%20y",
        "/open/%7f",
        "/CLOSED/x",
        "/Closed/x",
        "/open/.",
        "/open/..",
        "/open/x/../..",
    ];
    for path in denied {
        for suffix in ["", "?q=/open/x", "#/open/x"] {
            let before = backend.count();
            let bytes = format!("GET {path}{suffix} HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
            connection.try_write(bytes.as_bytes());
            let answer = connection.answer(Asked::Other);
            assert!(matches!(answer.status, 400 | 403 | 404), "{path}{suffix}: {}", answer.status);
            ours(&answer, path);
            assert_eq!(backend.count(), before, "{path}{suffix}");
            if answer.header("connection") == Some("close") {
                connection = gate.connect();
            }
        }
    }
    for harmless in [
        "/open/a%20b",
        "/open/%C3%A9",
        "/open/a+b",
        "/open/a:b@c",
        "/open/...",
        "/open/.x",
        "/open/x?a=../closed",
    ] {
        let answer = gate.send(&Request::get(harmless).bearer("secret-a"));
        assert_eq!(answer.status, 200, "{harmless}");
        assert_eq!(backend.last().target, harmless, "to the byte");
    }
    unharmed(&gate, &backend);
}

#[test]
fn a_head_over_the_bounds_is_refused() {
    let backend = Backend::start();
    let gate = start(&backend);
    let head = format!("GET /open/x HTTP/1.1\r\nHost: a\r\n{KEY}");
    let long = format!("{head}X: {}\r\n\r\n", "y".repeat(100_000));
    refused(&gate, &backend, long.as_bytes(), &[431], Then::Closes);
    let many = format!("{head}{}\r\n", "X: y\r\n".repeat(10_001));
    refused(&gate, &backend, many.as_bytes(), &[431], Then::Closes);
    let some = format!("{head}{}\r\n", "X: y\r\n".repeat(101));
    refused(&gate, &backend, some.as_bytes(), &[431], Then::Either);
    let target = format!("GET /open/{} HTTP/1.1\r\nHost: a\r\n{KEY}\r\n", "y".repeat(9_000));
    refused(&gate, &backend, target.as_bytes(), &[414, 431], Then::Either);
    unharmed(&gate, &backend);
}

#[test]
fn the_body_of_a_denied_request_is_never_read_as_a_request() {
    let backend = Backend::start();
    let gate = start(&backend);
    let inner = format!("GET /open/smuggled HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
    let length = inner.len();
    for (line, status) in [
        ("POST /open/x HTTP/1.1\r\nHost: a\r\n", 401),
        ("GET /open/x HTTP/1.1\r\nHost: a\r\n", 401),
        ("POST /closed/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\n", 403),
        ("POST /nowhere HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\n", 404),
        ("POST /small HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\n", 413),
        ("POST /open//x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\n", 400),
    ] {
        let chunked =
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n");
        for framed in [format!("Content-Length: {length}\r\n\r\n{inner}"), chunked] {
            let mut connection = gate.connect();
            connection.try_write(format!("{line}{framed}").as_bytes());
            let answer = connection.answer(Asked::Other);
            assert_eq!(answer.status, status, "{line}");
            ours(&answer, line);
            // Either it closes, or the next answer is to the next request.
            if answer.header("connection") == Some("close") {
                assert!(connection.is_closed_within(A_SECOND), "{line}");
            } else {
                connection
                    .try_write(Request::get("/nowhere").bearer("secret-a").bytes().as_slice());
                let next = connection.answer(Asked::Other);
                assert_eq!(next.status, 404, "{line}: {}", next.text());
            }
        }
    }
    assert!(
        backend.seen().iter().all(|seen| !seen.target.contains("smuggled")),
        "{:?}",
        backend.seen()
    );
    unharmed(&gate, &backend);
}

#[test]
fn an_expectation_with_a_bad_key_is_answered_without_a_100() {
    let backend = Backend::start();
    let gate = start(&backend);
    let head = "POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
    let mut connection = gate.connect();
    connection.write(format!("{head}Authorization: Bearer wrong\r\n\r\n").as_bytes());
    let first = connection.until("\r\n");
    assert!(first.starts_with("HTTP/1.1 401"), "{first}");
    let mut connection = gate.connect();
    connection.write(format!("{head}{KEY}\r\n").as_bytes());
    let first = connection.until("\r\n\r\n");
    assert!(first.starts_with("HTTP/1.1 100"), "{first}");
    connection.write(b"hello");
    assert_eq!(connection.answer(Asked::Other).status, 200);
    assert_eq!(backend.last().body, b"hello");
    assert!(backend.last().all("expect").is_empty());
    unharmed(&gate, &backend);
}

#[test]
fn a_hundred_pipelined_requests_are_answered_in_order() {
    let backend = Backend::start();
    backend.scripted(|seen| {
        let slow = seen.target.ends_with('3');
        let reply = Reply::json("200 OK", &format!("\"{}\"", seen.target));
        if slow { reply.after(Duration::from_millis(5)) } else { reply }
    });
    let gate = start(&backend);
    let mut connection = gate.connect();
    let all: String = (0..100)
        .map(|n| match n % 10 {
            7 => format!("GET /closed/{n} HTTP/1.1\r\nHost: a\r\n{KEY}\r\n"),
            _ => format!("GET /open/{n} HTTP/1.1\r\nHost: a\r\n{KEY}\r\n"),
        })
        .collect();
    connection.write(all.as_bytes());
    for n in 0..100 {
        let answer = connection.answer(Asked::Other);
        match n % 10 {
            7 => assert_eq!(answer.status, 403, "{n}"),
            _ => assert_eq!(answer.text(), format!("\"/open/{n}\"")),
        }
    }
    assert_eq!(backend.count(), 90);
    assert!(eventually(A_SECOND, || gate.records().len() == 100), "each is recorded");
}

#[test]
fn fields_that_connection_names_stay_here() {
    let backend = Backend::start();
    let gate = start(&backend);
    let request = Request::get("/open/x")
        .bearer("secret-a")
        .header("Connection", "X-Hop, keep-alive")
        .header("X-Hop", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "close")
        .header("Proxy-Authorization", "Basic x")
        .header("TE", "gzip")
        .header("Upgrade", "h2c")
        .header("X-End", "to end");
    assert_eq!(gate.send(&request).status, 200);
    let seen = backend.last();
    for gone in ["x-hop", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"]
    {
        assert!(seen.all(gone).is_empty(), "{gone}: {}", seen.head);
    }
    assert_eq!(seen.only("x-end"), "to end");
}

#[test]
fn a_client_that_says_it_is_done_still_gets_its_answer_or_a_clean_end() {
    let backend = Backend::start();
    let gate = start(&backend);
    let mut connection = Connection::to(gate.traffic);
    connection.write(Request::get("/open/x").bytes().as_slice());
    connection.finish();
    let told = String::from_utf8_lossy(&connection.rest()).into_owned();
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 401"), "{told}");
    unharmed(&gate, &backend);
}

#[test]
fn a_trace_is_answered_with_what_the_path_allows_only_to_those_with_a_key() {
    let backend = Backend::start();
    let gate = start(&backend);
    let with_key = gate.send(&Request::new("TRACE", "/small").bearer("secret-a"));
    assert_eq!(with_key.status, 405);
    assert!(
        with_key.header("allow").is_some_and(|allow| !allow.contains("TRACE")),
        "RFC 9110, 15.5.6: {with_key:?}"
    );
    let without = gate.send(&Request::new("TRACE", "/small"));
    assert!(matches!(without.status, 401 | 405), "{}", without.status);
    assert_eq!(backend.count(), 0);
}
