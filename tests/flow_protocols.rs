//! Every protocol through the whole gate: a client's real library on one side, a backend's on the other.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, Version};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use support::streams::{head, raw};
use support::tls::Identity;
use support::wire::Asked;
use support::{A_SECOND, Backend, Gate, Key, Policy, Request, eventually};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const POLICY: &str = "\
version: 1
upstream: UPSTREAM
state: memory
credentials: { accept: [bearer], keys: gate.keys.yaml }
identity: { tenant: X-Tenant-Id }
routes:
  - { name: all, match: ANY /** }
  - { name: narrow, match: ANY /narrow.Service/**, allow: [192.0.2.0/24] }
  - { name: rare, match: ANY /rare.Service/** }
limits: { once: { rate: 1/hour, routes: [rare] } }
";

fn policy(upstream: &str, rest: &str) -> Policy {
    let text = format!("{}{rest}", POLICY.replace("UPSTREAM", upstream));
    Policy::with_keys(&text, &[Key::of("ka", "acme", "secret-a")])
}

fn start(policy: Policy) -> Gate {
    Gate::run(policy, &["--listen", "127.0.0.1:0"])
}

fn before(address: SocketAddr) -> Gate {
    start(policy(&format!("http://{address}"), ""))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A body without a length, with trailers behind it, as gRPC has it.
type Streamed = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<FrameOf>>>;
type FrameOf = Result<Frame<Bytes>, std::convert::Infallible>;

fn streamed(payload: &Bytes, trailer: (&'static str, &'static str)) -> Streamed {
    let mut trailers = HeaderMap::new();
    trailers.insert(trailer.0, HeaderValue::from_static(trailer.1));
    let frames = vec![Ok(Frame::data(payload.clone())), Ok(Frame::trailers(trailers))];
    StreamBody::new(futures_util::stream::iter(frames))
}

/// A backend of hyper's that echoes the body with `grpc-status: 0` behind it, and says what it saw in headers.
fn echo(version: Version, tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((tcp, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => echo_on(tcp, version).await,
                        Some(tls) => {
                            let acceptor = tokio_rustls::TlsAcceptor::from(tls);
                            if let Ok(secured) = acceptor.accept(tcp).await {
                                echo_on(secured, version).await;
                            }
                        }
                    }
                });
            }
        });
    });
    address
}

async fn echo_on(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, version: Version) {
    let service = service_fn(|request: http::Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let all = body.collect().await.map(|body| (body.trailers().cloned(), body.to_bytes()));
        let (trailers, payload) = all.unwrap_or_default();
        let mut answer = Response::new(streamed(&payload, ("grpc-status", "0")));
        let headers = answer.headers_mut();
        headers.insert("trailer", HeaderValue::from_static("grpc-status"));
        let seen = format!("{:?}", head.version);
        headers.insert("seen-version", HeaderValue::try_from(seen).unwrap());
        let copied = ["host", "cookie", "x-tenant-id", "authorization", "te", "content-type"];
        for name in copied {
            if let Some(value) = head.headers.get(name) {
                let seen = http::HeaderName::try_from(format!("seen-{name}")).unwrap();
                headers.insert(seen, value.clone());
            }
        }
        let sum = trailers.and_then(|trailers| trailers.get("sum").cloned());
        headers.insert("seen-sum", sum.unwrap_or(HeaderValue::from_static("none")));
        Ok::<_, std::convert::Infallible>(answer)
    });
    let io = TokioIo::new(io);
    // How a client leaves matters to no test.
    if version == Version::HTTP_2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(io, service).await);
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        drop(server.serve_connection(io, service).await);
    }
}

async fn http2<B>(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<B>
where
    B: http_body::Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    tokio::spawn(connection);
    send
}

async fn secured(
    gate: &Gate,
    identity: &Identity,
    alpn: &[u8],
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let tcp = tokio::net::TcpStream::connect(gate.traffic).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(identity.client(alpn)).connect(name, tcp).await.unwrap()
}

/// One call: a payload with a trailer, as gRPC makes it.
async fn call(
    send: &mut SendRequest<Streamed>,
    path: &str,
    key: Option<&str>,
) -> (Response<()>, Bytes, HeaderMap) {
    let mut request = http::Request::post(format!("http://api.example{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("trailer", "sum")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-tenant-id", "evil");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let body = streamed(&Bytes::from_static(b"payload"), ("sum", "42"));
    let answer = send.send_request(request.body(body).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (Response::from_parts(head, ()), body.to_bytes(), trailers)
}

#[track_caller]
fn is_the_echo(answer: &(Response<()>, Bytes, HeaderMap), upstream: &str) {
    let (head, body, trailers) = answer;
    assert_eq!((head.status().as_u16(), head.version()), (200, Version::HTTP_2), "{head:?}");
    assert_eq!(head.headers()["seen-version"], upstream);
    assert_eq!(head.headers()["seen-x-tenant-id"], "acme");
    assert_eq!(head.headers()["seen-cookie"], "a=1; b=2");
    assert_eq!(head.headers()["seen-sum"], "42");
    assert!(!head.headers().contains_key("seen-authorization"));
    assert_eq!(&body[..], b"payload");
    assert_eq!(trailers["grpc-status"], "0");
}

#[test]
fn http2_in_clear_text_and_under_tls_reaches_an_http1_backend() {
    let identity = Identity::new();
    let address = echo(Version::HTTP_11, None);
    let plain = before(address);
    let tls = "listen: { address: 127.0.0.1:0, tls: { certificate: chain.pem, key: key.pem } }\n";
    let policy = policy(&format!("http://{address}"), tls);
    identity.write(policy.directory());
    let under_tls = start(policy);
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(plain.traffic).await.unwrap();
        let mut send = http2(tcp).await;
        is_the_echo(&call(&mut send, "/any", Some("secret-a")).await, "HTTP/1.1");
        let mut send = http2(secured(&under_tls, &identity, b"h2").await).await;
        is_the_echo(&call(&mut send, "/any", Some("secret-a")).await, "HTTP/1.1");
    });
    let record = under_tls.record(0);
    assert_eq!((&record["protocol"], &record["status"]), (&"http/2".into(), &200.into()));
    let mut http1 = identity.connect(under_tls.traffic).unwrap();
    let get = "GET /any HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\n\r\n";
    let answer = http1.ask(get.as_bytes(), "\r\n\r\n").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_grpc_call_passes_with_its_trailers_and_a_refusal_is_a_grpc_status() {
    let address = echo(Version::HTTP_2, None);
    let gate = start(policy(&format!("{{ url: \"http://{address}\", protocol: http2 }}"), ""));
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.traffic).await.unwrap();
        let mut send = http2(tcp).await;
        for _ in 0..3 {
            is_the_echo(&call(&mut send, "/a.Service/Call", Some("secret-a")).await, "HTTP/2.0");
        }
        is_the_echo(&call(&mut send, "/rare.Service/Call", Some("secret-a")).await, "HTTP/2.0");
        for (path, key, status) in [
            ("/a.Service/Call", None, "16"),
            ("/a.Service/Call", Some("wrong"), "16"),
            ("/narrow.Service/Call", Some("secret-a"), "7"),
            ("/rare.Service/Call", Some("secret-a"), "8"),
        ] {
            let (head, body, trailers) = call(&mut send, path, key).await;
            let said = head.headers().get("grpc-status").or_else(|| trailers.get("grpc-status"));
            assert_eq!(
                said.map(HeaderValue::as_bytes),
                Some(status.as_bytes()),
                "{path}: {head:?}"
            );
            assert_eq!(head.status(), 200, "{path}");
            assert_eq!(head.headers()["content-type"], "application/grpc");
            assert!(body.is_empty() && head.headers().contains_key("grpc-message"), "{head:?}");
        }
        is_the_echo(&call(&mut send, "/a.Service/Call", Some("secret-a")).await, "HTTP/2.0");
    });
    assert_eq!(gate.metric("tollgate_panics_total"), Some(0.0));
}

#[test]
fn a_host_that_contradicts_the_authority_is_refused() {
    let gate = before(echo(Version::HTTP_11, None));
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.traffic).await.unwrap();
        let mut send = http2::<Full<Bytes>>(tcp).await;
        for (host, status) in [("other.example", 400), ("api.example", 200)] {
            let request = http::Request::get("http://api.example/any")
                .header("authorization", "Bearer secret-a")
                .header("host", host)
                .body(Full::default());
            let answer = send.send_request(request.unwrap()).await.unwrap();
            assert_eq!(answer.status(), status, "{host}");
            if status == 200 {
                assert_eq!(answer.headers()["seen-host"], "api.example");
            }
        }
    });
}

#[test]
fn a_websocket_carries_messages_both_ways_and_knows_its_tenant() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (tcp, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                let echoed = message.is_text() || message.is_binary();
                if echoed && socket.send(message).await.is_err() {
                    break;
                }
            }
        });
    });
    let gate = before(address);
    runtime().block_on(async {
        let url = format!("ws://{}/socket", gate.traffic);
        let stranger = tokio_tungstenite::connect_async(&url).await;
        assert!(stranger.is_err(), "no key, no tunnel");
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("authorization", "Bearer secret-a".parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        for text in ["one", "two", &"x".repeat(100_000)] {
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
        }
        socket.close(None).await.unwrap();
        // The closing handshake comes back through the tunnel.
        while let Some(Ok(_)) = socket.next().await {}
    });
    assert!(eventually(A_SECOND, || gate.records().len() == 2), "{:?}", gate.records());
    let records = gate.records();
    let tunnel = records.iter().find(|record| record["status"] == 101).unwrap();
    assert_eq!(tunnel["tenant"], "acme");
}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    let (received, acknowledged) = channel::<()>();
    let acknowledged: Mutex<Receiver<()>> = Mutex::new(acknowledged);
    let address = raw(move |mut stream| {
        let acknowledged = acknowledged.lock().unwrap();
        if head(&mut stream, &mut Vec::new()).is_none() {
            return;
        }
        let kind = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked";
        write!(stream, "HTTP/1.1 200 OK\r\n{kind}\r\n\r\n").unwrap();
        for n in 0..20 {
            let event = format!("data: {n}\n\n");
            write!(stream, "{:x}\r\n{event}\r\n", event.len()).unwrap();
            if acknowledged.recv_timeout(Duration::from_secs(10)).is_err() {
                return;
            }
        }
        write!(stream, "0\r\n\r\n").unwrap();
    });
    let gate = before(address);
    let mut client = gate.connect();
    client.write(&Request::get("/events").bearer("secret-a").bytes());
    for n in 0..20 {
        client.until(&format!("data: {n}\n\n"));
        received.send(()).unwrap();
    }
    client.until("0\r\n\r\n");
}

const HUNDRED_MB: usize = 100_000_000;

/// A backend that sends a hundred megabytes on GET, and counts what it is sent on POST.
fn bulk() -> SocketAddr {
    raw(|mut stream| {
        let mut unread = Vec::new();
        let block = vec![b'x'; 64 * 1024];
        while let Some(seen) = head(&mut stream, &mut unread) {
            if seen.starts_with("GET") {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {HUNDRED_MB}\r\n\r\n");
                let mut sent = stream.write_all(answer.as_bytes());
                let mut left = HUNDRED_MB;
                while left > 0 && sent.is_ok() {
                    let piece = left.min(block.len());
                    sent = stream.write_all(&block[..piece]);
                    left -= piece;
                }
                if sent.is_err() {
                    return;
                }
            } else {
                let mut read = unread.len();
                unread.clear();
                let mut room = vec![0; 64 * 1024];
                while read < HUNDRED_MB {
                    match stream.read(&mut room) {
                        Ok(more @ 1..) => read += more,
                        _ => return,
                    }
                }
                let text = read.to_string();
                let length = text.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    })
}

#[test]
fn a_hundred_megabytes_go_up_and_down_in_flat_memory() {
    let gate = before(bulk());
    assert_eq!(gate.send(&Request::get("/nowhere")).status, 401, "it is warm");
    let (start, mut most) = (gate.resident(), 0);

    let mut up = std::net::TcpStream::connect(gate.traffic).unwrap();
    up.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head =
        "POST /up HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\nConnection: close";
    write!(up, "{head}\r\nContent-Length: {HUNDRED_MB}\r\n\r\n").unwrap();
    let block = vec![b'x'; 1_000_000];
    for n in 0..100 {
        up.write_all(&block).unwrap();
        if n % 10 == 0 {
            most = most.max(gate.resident());
        }
    }
    let mut answer = String::new();
    up.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("100000000"), "{answer}");

    let mut down = std::net::TcpStream::connect(gate.traffic).unwrap();
    down.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head =
        "GET /down HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\nConnection: close";
    write!(down, "{head}\r\n\r\n").unwrap();
    let (mut read, mut room) = (0, vec![0; 1_000_000]);
    // A client that is slow at first: nothing may pile up meanwhile.
    std::thread::sleep(Duration::from_millis(300));
    most = most.max(gate.resident());
    loop {
        match down.read(&mut room).unwrap() {
            0 => break,
            more => read += more,
        }
    }
    most = most.max(gate.resident());
    assert!(read > HUNDRED_MB && read < HUNDRED_MB + 1000, "{read}");
    let grown = most.saturating_sub(start);
    assert!(grown < 12 << 20, "it grew by {grown} bytes");
    gate.record(2);
    let records = gate.records();
    let of = |path: &str| records.iter().find(|record| record["path"] == path).unwrap();
    assert_eq!(of("/up")["request_bytes"], HUNDRED_MB);
    assert_eq!(of("/down")["response_bytes"], HUNDRED_MB);
}

#[test]
fn an_https_backend_is_verified_by_the_policys_own_ca() {
    let (known, stranger) = (Identity::new(), Identity::new());
    let address = echo(Version::HTTP_11, Some(known.server(&[b"http/1.1"])));
    let upstream = format!("{{ url: \"https://localhost:{}\", ca: ca.pem }}", address.port());
    let trusting = policy(&upstream, "");
    known.write(trusting.directory());
    let gate = start(trusting);
    let answer = gate.send(&Request::post("/any", "payload").bearer("secret-a"));
    assert_eq!((answer.status, &*answer.text()), (200, "payload"));

    let doubting = policy(&upstream, "");
    stranger.write(doubting.directory());
    let gate = start(doubting);
    let answer = gate.send(&Request::post("/any", "payload").bearer("secret-a"));
    assert_eq!(answer.status, 502, "another CA does not vouch for it");

    let elsewhere = echo(Version::HTTP_2, Some(known.server(&[b"h2"])));
    let http2 = format!(
        "{{ url: \"https://127.0.0.1:{}\", ca: ca.pem, server_name: localhost, protocol: http2 }}",
        elsewhere.port()
    );
    let policy = policy(&http2, "");
    known.write(policy.directory());
    let gate = start(policy);
    let answer = gate.send(&Request::post("/any", "payload").bearer("secret-a"));
    assert_eq!((answer.status, answer.header("seen-version")), (200, Some("HTTP/2.0")));
}

#[test]
fn an_http_1_0_client_and_answers_without_a_body_are_served() {
    let backend = Backend::start();
    let gate = start(policy(&backend.url(), ""));
    let mut old = gate.connect();
    old.write(b"GET /any HTTP/1.0\r\nAuthorization: Bearer secret-a\r\n\r\n");
    let answer = String::from_utf8_lossy(&old.rest()).into_owned();
    assert!(answer.starts_with("HTTP/1.") && answer.ends_with("{\"ok\":true}"), "{answer}");
    let mut kept = gate.connect();
    let head = kept.send(&Request::new("HEAD", "/any").bearer("secret-a"));
    assert_eq!((head.status, head.header("content-length")), (200, Some("11")));
    backend.scripted(|seen| match &*seen.target {
        "/204" => support::Reply::json("204 No Content", ""),
        "/304" => support::Reply::json("304 Not Modified", "").header("ETag", "\"x\""),
        _ => support::Reply::json("200 OK", "{}"),
    });
    for (path, status) in [("/304", 304), ("/x", 200)] {
        kept.write(&Request::get(path).bearer("secret-a").bytes());
        assert_eq!(kept.answer(Asked::Other).status, status);
    }
}
