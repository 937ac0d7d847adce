//! The policy holds for HTTP/2 as it does for HTTP/1: the same refusals in the same words, stream by stream.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use support::{A_SECOND, Backend, Gate, Key, Policy, Reply, eventually};

const POLICY: &str = "\
version: 1
upstream: http://127.0.0.1:9
state: memory
credentials: { accept: [bearer, { query: api_key }], keys: gate.keys.yaml }
identity: { tenant: X-Tenant-Id }
routes:
  - { name: open, match: ANY /open/** }
  - { name: small, match: POST /small, max_body: 16B }
  - { name: closed, match: ANY /closed/**, allow: [192.0.2.0/24] }
  - { name: rare, match: ANY /rare }
limits:
  rare: { rate: 2/hour, window: sliding, routes: [rare] }
  parallel: { concurrent: 3, routes: [open] }
bounds: { body_idle: 1s }
errors:
  content_type: application/json
  body: { ours: \"{code}\" }
";

fn start(backend: &Backend) -> Gate {
    Gate::start(Policy::with_keys(POLICY, &[Key::of("ka", "acme", "secret-a")]), backend)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("it ends in time");
    });
}

async fn connect(gate: &Gate) -> SendRequest<Bytes> {
    let tcp = tokio::net::TcpStream::connect(gate.traffic).await.unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

fn ask(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://api.example{path}"))
}

fn signed(method: Method, path: &str) -> http::request::Builder {
    ask(method, path).header("authorization", "Bearer secret-a")
}

/// Status, headers and body of the answer; `None` where the stream was reset.
async fn send(
    to: &SendRequest<Bytes>,
    request: http::request::Builder,
    body: Option<&'static [u8]>,
) -> Option<(StatusCode, http::HeaderMap, Vec<u8>)> {
    let mut to = to.clone().ready().await.ok()?;
    let request = request.body(()).unwrap();
    let (answer, mut stream) = to.send_request(request, body.is_none()).ok()?;
    if let Some(body) = body {
        // A refusal may come before the body is wanted; then its stream is gone, and that is fine.
        drop(stream.send_data(Bytes::from_static(body), true));
    }
    let (head, mut incoming) = answer.await.ok()?.into_parts();
    let mut all = Vec::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece.ok()?;
        drop(incoming.flow_control().release_capacity(piece.len()));
        all.extend_from_slice(&piece);
    }
    Some((head.status, head.headers, all))
}

#[test]
fn each_refusal_has_its_status_and_the_policys_envelope() {
    let backend = Backend::start();
    let gate = start(&backend);
    run(async {
        let to = connect(&gate).await;
        let get = Method::GET;
        let cases = [
            (ask(get.clone(), "/open/x"), None, 401, "key_missing"),
            (
                ask(get.clone(), "/open/x").header("authorization", "Bearer no"),
                None,
                401,
                "key_unknown",
            ),
            (
                signed(get.clone(), "/open/x").header("authorization", "Bearer secret-a"),
                None,
                400,
                "bad_request",
            ),
            (signed(get.clone(), "/open/x?api_key=other"), None, 401, "key_unknown"),
            (signed(get.clone(), "/closed/x"), None, 403, "address_denied"),
            (signed(get.clone(), "/nowhere"), None, 404, "route_unknown"),
            (signed(get.clone(), "/small"), None, 405, "method_unknown"),
            (signed(get.clone(), "/open//x"), None, 400, "bad_request"),
            (signed(get.clone(), "/open/%2e%2e/closed/x"), None, 400, "bad_request"),
            (signed(get.clone(), "/open/..;/closed/x"), None, 400, "bad_request"),
            (signed(get.clone(), "/open/x").header("host", "other"), None, 400, "bad_request"),
            (signed(Method::TRACE, "/open/x"), None, 405, "method_unknown"),
            (
                signed(Method::POST, "/small"),
                Some(&b"seventeen bytes!!"[..]),
                413,
                "body_too_large",
            ),
            (signed(Method::POST, "/nowhere"), Some(&b"a body"[..]), 404, "route_unknown"),
        ];
        for (request, body, status, code) in cases {
            let shown = format!("{request:?}");
            let (told, headers, text) = send(&to, request, body).await.expect("an answer");
            assert_eq!(told, status, "{shown}");
            let text: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(text["ours"], code, "{shown}");
            assert!(headers.contains_key("x-request-id"), "{shown}");
            assert!(!headers.contains_key("connection"), "{shown}");
        }
        assert_eq!(backend.count(), 0);
        let (status, ..) = send(&to, signed(Method::GET, "/open/x"), None).await.unwrap();
        assert_eq!(status, 200, "the connection outlives all of them");
    });
    assert_eq!(gate.metric("tollgate_panics_total"), Some(0.0));
}

#[test]
fn a_refused_head_request_has_the_length_of_a_body_and_none() {
    let backend = Backend::start();
    let gate = start(&backend);
    run(async {
        let to = connect(&gate).await;
        for (request, status) in [
            (ask(Method::HEAD, "/open/x"), 401),
            (signed(Method::HEAD, "/closed/x"), 403),
            (signed(Method::HEAD, "/nowhere"), 404),
        ] {
            let shown = format!("{request:?}");
            let (told, headers, text) = send(&to, request, None).await.expect("an answer");
            assert_eq!((told.as_u16(), text.len()), (status, 0), "{shown}");
            let length = headers[http::header::CONTENT_LENGTH].to_str().unwrap();
            assert!(length.parse::<usize>().is_ok_and(|length| length > 0), "{shown}: {length}");
        }
        assert_eq!(send(&to, signed(Method::HEAD, "/open/x"), None).await.unwrap().0, 200);
    });
}

#[test]
fn a_client_cannot_say_who_it_is_and_limits_count_streams() {
    let backend = Backend::start();
    let gate = start(&backend);
    run(async {
        let to = connect(&gate).await;
        let forged = signed(Method::GET, "/rare?q=1")
            .header("x-tenant-id", "evil")
            .header("x_tenant_id", "evil")
            .header("x-forwarded-for", "192.0.2.1")
            .header("forwarded", "for=192.0.2.1")
            .header("x-original-url", "/closed/x");
        let (status, headers, _) = send(&to, forged, None).await.unwrap();
        assert_eq!(
            (status.as_u16(), &headers["x-ratelimit-remaining"]),
            (200, &"1".parse().unwrap())
        );
        let seen = backend.last();
        assert!(!seen.head.contains("evil") && !seen.head.contains("192.0.2.1"), "{}", seen.head);
        assert!(!seen.head.contains("closed") && !seen.head.contains("secret-a"), "{}", seen.head);
        assert_eq!((seen.only("host"), seen.only("x-tenant-id")), ("api.example", "acme"));
        assert!(seen.only("via").starts_with("2 "), "{}", seen.head);
        let get = |path: &str| signed(Method::GET, path);
        assert_eq!(send(&to, get("/rare"), None).await.unwrap().0, 200);
        let (status, headers, _) = send(&to, get("/rare"), None).await.unwrap();
        assert_eq!(status, 429);
        assert!(headers.contains_key("retry-after"));
    });
}

#[test]
fn a_stream_that_is_reset_gives_its_slot_back() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(5)));
    let gate = start(&backend);
    run(async {
        let to = connect(&gate).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            let request = signed(Method::GET, "/open/slow").body(()).unwrap();
            open.push(to.clone().ready().await.unwrap().send_request(request, true).unwrap());
        }
        while backend.count() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (status, ..) = send(&to, signed(Method::GET, "/open/x"), None).await.unwrap();
        assert_eq!(status, 429, "three are open");
        for (_, stream) in &mut open {
            stream.send_reset(h2::Reason::CANCEL);
        }
        drop(open);
        backend.answers(Reply::json("200 OK", "{}"));
        let mut status = StatusCode::TOO_MANY_REQUESTS;
        for _ in 0..50 {
            status = send(&to, signed(Method::GET, "/open/x"), None).await.unwrap().0;
            if status == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(status, 200);
    });
    assert!(eventually(A_SECOND, || {
        gate.records().iter().filter(|record| record["status"] == 499).count() == 3
    }));
}

#[test]
fn a_length_that_does_not_match_never_makes_a_whole_request() {
    let backend = Backend::start();
    let gate = start(&backend);
    run(async {
        for (length, body) in [("10", &b"short"[..]), ("2", b"too long")] {
            let to = connect(&gate).await;
            let request = signed(Method::POST, "/open/x").header("content-length", length);
            let answer = send(&to, request, Some(body)).await;
            assert!(answer.is_none_or(|(status, ..)| status.as_u16() >= 400), "{length}");
        }
    });
    assert_eq!(backend.count(), 0, "{:?}", backend.seen());
}

#[test]
fn a_body_that_stops_is_told_so_and_its_neighbours_go_on() {
    let backend = Backend::start();
    let gate = start(&backend);
    run(async {
        let to = connect(&gate).await;
        let request = signed(Method::POST, "/open/x").body(()).unwrap();
        let (answer, mut stream) =
            to.clone().ready().await.unwrap().send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"he"), false).unwrap();
        let (status, ..) = send(&to, signed(Method::GET, "/open/y"), None).await.unwrap();
        assert_eq!(status, 200);
        assert_eq!(answer.await.unwrap().status(), 408);
        let (status, ..) = send(&to, signed(Method::GET, "/open/y"), None).await.unwrap();
        assert_eq!(status, 200);
    });
    assert!(backend.seen().iter().all(|seen| seen.target == "/open/y"));
}

#[test]
fn a_hundred_streams_at_once_are_each_answered_and_recorded_once() {
    let backend = Backend::start();
    backend.scripted(|seen| Reply::json("200 OK", &format!("\"{}\"", seen.target)));
    let text = POLICY.replace("concurrent: 3", "concurrent: 200");
    let gate =
        Gate::start(Policy::with_keys(&text, &[Key::of("ka", "acme", "secret-a")]), &backend);
    run(async {
        let to = connect(&gate).await;
        let asked: Vec<_> = (0..100)
            .map(|n| {
                let to = to.clone();
                tokio::spawn(async move {
                    let path = format!("/open/{n}");
                    let (status, _, body) =
                        send(&to, signed(Method::GET, &path), None).await.expect("an answer");
                    assert_eq!((status.as_u16(), body), (200, format!("\"{path}\"").into_bytes()));
                })
            })
            .collect();
        for asked in asked {
            asked.await.unwrap();
        }
    });
    assert_eq!(backend.count(), 100);
    assert!(eventually(A_SECOND, || gate.records().len() == 100));
    assert!(gate.records().iter().all(|record| record["protocol"] == "http/2"));
}
