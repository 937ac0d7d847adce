//! A backend that fails, through the whole gate: the client gets the policy's words or a broken answer, never a forged whole
//! one; what the request held is given back; nothing is sent twice.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use support::streams::{head, raw};
use support::wire::Asked;
use support::{A_SECOND, Backend, Gate, Key, Policy, Request, eventually};

const POLICY: &str = "\
version: 1
upstream: { url: \"http://127.0.0.1:9\", response_timeout: 600ms, idle_timeout: 600ms, connect_timeout: 500ms }
state: memory
credentials: { accept: [bearer], keys: gate.keys.yaml }
routes:
  - { name: all, match: ANY /** }
limits: { parallel: { concurrent: 1 }, counted: { rate: 1000/hour, window: sliding } }
errors:
  content_type: application/json
  body: { ours: \"{code}\", status: \"{status}\" }
";

fn before(upstream: &str) -> Gate {
    Gate::before(Policy::with_keys(POLICY, &[Key::of("ka", "acme", "secret-a")]), upstream)
}

/// A backend whose every connection answers the first request by these bytes and closes, and how many requests it saw.
fn answering(bytes: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let address = raw(move |mut stream: TcpStream| {
        if head(&mut stream, &mut Vec::new()).is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream.write_all(bytes));
        }
    });
    (address, seen)
}

fn get() -> Request {
    Request::get("/x").bearer("secret-a")
}

#[test]
fn what_is_no_answer_becomes_the_gates_own_and_the_slot_is_free_again() {
    let broken: [&[u8]; 11] = [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 999999 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n X: folded\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"\x16\x03\x01\0\0",
    ];
    for bytes in broken {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        let (address, seen) = answering(bytes);
        let gate = before(&format!("http://{address}"));
        for n in 1..=2 {
            let post = Request::post("/x", "{}").bearer("secret-a");
            let answer = gate.send(&post);
            assert_eq!(answer.status, 502, "{shown:?}: {answer:?}");
            assert!(answer.json()["ours"].is_string(), "{shown:?}: {}", answer.text());
            assert_eq!(
                answer.number("x-ratelimit-remaining"),
                1000 - n,
                "{shown:?}: the rate is kept"
            );
            assert_eq!(
                seen.load(Ordering::SeqCst),
                usize::try_from(n).expect("it is small"),
                "{shown:?}"
            );
        }
        assert!(eventually(A_SECOND, || gate.records().len() == 2));
        assert!(gate.records().iter().all(|record| record["outcome"] == "failed"), "{shown:?}");
        assert_eq!(gate.metric("tollgate_panics_total"), Some(0.0), "{shown:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_never_ends_as_if_it_were_whole() {
    let broken: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", "length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", "chunked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n", "bad chunk"),
    ];
    for (bytes, kind) in broken {
        let (address, _) = answering(bytes);
        let gate = before(&format!("http://{address}"));
        let mut client = gate.connect();
        client.write(&get().bytes());
        let all = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(all.starts_with("HTTP/1.1 200"), "{kind}: {all}");
        assert!(!all.ends_with("0\r\n\r\n") && !all.contains("ours"), "{kind}: {all}");
        let record = gate.record(0);
        assert_eq!(
            (&record["end"], &record["outcome"]),
            (&json!("broke"), &json!("failed")),
            "{kind}"
        );
        let mut next = gate.connect();
        next.write(&get().bytes());
        let first = next.until("\r\n");
        assert!(first.starts_with("HTTP/1.1 200"), "{kind}: the slot is free: {first}");
    }
}

#[test]
fn nobody_there_and_nobody_answering_are_told_apart() {
    let gone = Backend::start().url();
    let silent = raw(|mut stream| {
        let mut room = [0; 1024];
        while matches!(stream.read(&mut room), Ok(1..)) {}
    });
    for (upstream, status, refusal) in
        [(gone, 502, "upstream_unreachable"), (format!("http://{silent}"), 504, "upstream_timeout")]
    {
        eventually(A_SECOND, || {
            status == 504 || TcpStream::connect(upstream.trim_start_matches("http://")).is_err()
        });
        let gate = before(&upstream);
        let answer = gate.send(&get());
        assert_eq!((answer.status, &answer.json()["ours"]), (status, &json!(refusal)));
        assert_eq!(gate.record(0)["refusal"], refusal);
        assert_eq!(gate.send(&get()).status, status, "the slot is free");
        let series =
            format!("tollgate_upstream_errors_total{{upstream=\"default\",reason=\"{refusal}\"}}");
        assert!(eventually(A_SECOND, || gate.metric(&series) == Some(2.0)));
    }
}

#[test]
fn what_a_client_may_not_say_it_cannot_say_in_trailers() {
    let (sender, seen) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let backend = raw(move |mut stream| {
        let (mut all, mut room) = (Vec::new(), [0; 1024]);
        while !(String::from_utf8_lossy(&all).contains("\r\n0\r\n") && all.ends_with(b"\r\n\r\n")) {
            match stream.read(&mut room) {
                Ok(read @ 1..) => all.extend_from_slice(&room[..read]),
                _ => return,
            }
        }
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        drop(sender.lock().unwrap().send(String::from_utf8_lossy(&all).into_owned()));
    });
    let policy = format!("{POLICY}identity: {{ tenant: X-Tenant-Id }}\n");
    let policy = Policy::with_keys(&policy, &[Key::of("ka", "acme", "secret-a")]);
    let gate = Gate::before(policy, &format!("http://{backend}"));
    let mut connection = gate.connect();
    connection.write(
        b"POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\nTransfer-Encoding: chunked\r\n\
          Trailer: X-Sum, X-Tenant-Id, X_Tenant_Id, X-Forwarded-For\r\n\r\n2\r\nhi\r\n0\r\n\
          X-Sum: 7\r\nX-Tenant-Id: evil\r\nX_Tenant_Id: evil\r\nX-Forwarded-For: evil\r\n\r\n",
    );
    assert_eq!(connection.answer(Asked::Other).status, 200);
    let request = seen.recv_timeout(A_SECOND).expect("it arrived").to_ascii_lowercase();
    assert!(request.contains("x-sum: 7") && request.contains("x-tenant-id: acme"), "{request}");
    assert!(!request.contains("evil"), "{request}");
}

#[test]
fn requests_that_wait_for_one_shared_connection_do_not_wait_for_one_anothers_attempts() {
    let silent = raw(|mut stream| {
        let mut room = [0; 1024];
        while matches!(stream.read(&mut room), Ok(1..)) {}
    });
    let upstream =
        format!("{{ url: \"https://{silent}\", protocol: http2, connect_timeout: 500ms }}");
    let policy = Policy::with_keys(
        &format!(
            "version: 1\nworkers: 1\nupstream: {upstream}\nstate: memory\n\
             credentials: {{ accept: [bearer], keys: gate.keys.yaml }}\n\
             routes:\n  - {{ name: all, match: ANY /** }}\n"
        ),
        &[Key::of("ka", "acme", "secret-a")],
    );
    let gate = Gate::run(policy, &["--listen", "127.0.0.1:0"]);
    let clock = tollgate::clock::Clock::system();
    let started = clock.steady();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(gate.send(&get()).status, 502));
        }
    });
    let took = Duration::from_nanos(clock.steady().since(started));
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[test]
fn silence_inside_an_answer_breaks_it() {
    let address = raw(|mut stream| {
        if head(&mut stream, &mut Vec::new()).is_some() {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"));
            std::thread::sleep(Duration::from_secs(5));
        }
    });
    let gate = before(&format!("http://{address}"));
    let mut client = gate.connect();
    client.write(&get().bytes());
    assert!(client.is_closed_within(Duration::from_secs(3)));
    assert_eq!(gate.record(0)["end"], "broke");
}

#[test]
fn bytes_behind_an_answer_are_nobodys_answer() {
    let address = raw(|mut stream| {
        let mut unread = Vec::new();
        while head(&mut stream, &mut unread).is_some() {
            let both = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            if stream.write_all(both.as_bytes()).is_err() {
                return;
            }
        }
    });
    let gate = before(&format!("http://{address}"));
    let mut client = gate.connect();
    for _ in 0..20 {
        let answer = client.send(&get());
        assert_eq!((answer.status, &*answer.text()), (200, "ab"));
    }
}

#[test]
fn interim_answers_do_not_confuse_the_final_one() {
    let many = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(20);
    let all = format!(
        "{many}HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    );
    let address = raw(move |mut stream| {
        let mut unread = Vec::new();
        while head(&mut stream, &mut unread).is_some() && stream.write_all(all.as_bytes()).is_ok() {
        }
    });
    let gate = before(&format!("http://{address}"));
    let mut client = gate.connect();
    for _ in 0..3 {
        let answer = client.send(&get());
        assert_eq!((answer.status, &*answer.text()), (200, "ok"));
    }
}

#[test]
fn what_belongs_to_the_backends_connection_stays_there() {
    let (address, _) = answering(
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
          Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Request-Id: theirs\r\nContent-Length: 2\r\n\r\nok",
    );
    let gate = before(&format!("http://{address}"));
    let mut client = gate.connect();
    for _ in 0..3 {
        let answer = client.send(&get());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection"), None, "the client's connection lives on");
        assert_eq!((answer.header("x-hop"), answer.header("keep-alive")), (None, None));
        let cookies =
            answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        assert_eq!(cookies.count(), 2);
        let ids =
            answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-request-id"));
        assert_eq!(ids.map(|(_, id)| id != "theirs").collect::<Vec<_>>(), [true], "one id, ours");
    }
}

#[test]
fn an_answer_before_the_upload_is_whole_reaches_the_client() {
    let (address, _) =
        answering(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge");
    let gate = before(&format!("http://{address}"));
    let mut client = gate.connect();
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\nContent-Length: 1000000\r\n\r\n";
    client.write(head.as_bytes());
    let answer = client.answer(Asked::Other);
    assert_eq!((answer.status, &*answer.text()), (413, "large"));
    assert!(client.is_closed_within(Duration::from_secs(3)), "the rest of the body is no request");
    assert_eq!(gate.send(&get()).status, 413);
}
