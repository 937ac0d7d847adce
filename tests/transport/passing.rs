//! Every pair of protocols, trailers, large and endless bodies, upgrades.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_tungstenite::tungstenite::Message;
use tollgate::policy::snapshot::{ListenerTls, Scheme, UpstreamProtocol, UpstreamTls};
use tollgate::proxy::body::BodyEnd;
use tollgate::proxy::tls;
use tollgate::proxy::tunnel::TunnelEnd;

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

pub struct Identity {
    pub ca: Vec<u8>,
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
    pub server: Arc<ServerConfig>,
}

impl Identity {
    fn listener(&self, client_ca: Option<&[u8]>) -> ListenerTls {
        ListenerTls {
            chain: self.chain.clone().into(),
            key: self.key.clone().into(),
            client_ca: client_ca.map(Into::into),
        }
    }
}

/// A CA and a certificate for `localhost` and 127.0.0.1, good for both ends.
pub fn identity() -> Identity {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let (ca, chain) = (ca_certificate.pem().into_bytes(), leaf.pem().into_bytes());
    let key = key.serialize_pem().into_bytes();
    let listener =
        ListenerTls { chain: chain.clone().into(), key: key.clone().into(), client_ca: None };
    let server = tls::server_config(&listener).unwrap();
    Identity { ca, chain, key, server }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A backend of hyper's, HTTP/2 or HTTP/1, perhaps under TLS, that echoes the body with its trailers.
fn echo(http2: bool, tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => echo_on(TokioIo::new(tcp), http2).await,
                        Some(tls) => {
                            let acceptor = tokio_rustls::TlsAcceptor::from(tls);
                            if let Ok(tls) = acceptor.accept(tcp).await {
                                echo_on(TokioIo::new(tls), http2).await;
                            }
                        }
                    }
                });
            }
        });
    });
    address
}

async fn echo_on<S>(io: TokioIo<S>, http2: bool)
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| async move {
        let version = format!("{:?}", request.version());
        let mut answer = Response::new(request.into_body());
        answer.headers_mut().insert("seen", version.parse().unwrap());
        answer.headers_mut().insert("trailer", HeaderValue::from_static("sum"));
        Ok::<_, std::convert::Infallible>(answer)
    });
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}

/// Without a length, as gRPC sends it: with one there is no place for trailers in HTTP/1.
fn with_trailers() -> impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Unpin
{
    let mut trailers = HeaderMap::new();
    trailers.insert("sum", HeaderValue::from_static("42"));
    let frames = [Frame::data(Bytes::from_static(b"payload")), Frame::trailers(trailers)];
    StreamBody::new(futures_util::stream::iter(frames.map(Ok)))
}

async fn over_http2<S>(io: S) -> (Version, HeaderMap, Bytes, Option<HeaderMap>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://gate/echo")
        .header("te", "trailers")
        .header("trailer", "sum")
        .body(with_trailers());
    let answer = send.send_request(request.unwrap()).await.unwrap();
    let (version, headers) = (answer.version(), answer.headers().clone());
    let body = answer.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (version, headers, body.to_bytes(), trailers)
}

fn check_http2(address: SocketAddr, tls: Option<&Identity>, seen: &str) {
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let (version, headers, body, trailers) = match tls {
            None => over_http2(tcp).await,
            Some(identity) => over_http2(tls_client(tcp, identity, b"h2").await).await,
        };
        assert_eq!(version, Version::HTTP_2);
        assert_eq!(headers["seen"], seen);
        assert_eq!(&body[..], b"payload");
        assert_eq!(trailers.expect("trailers come through")["sum"], "42");
    });
}

async fn tls_client(
    tcp: tokio::net::TcpStream,
    identity: &Identity,
    alpn: &[u8],
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&identity.ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

#[test]
fn http1_passes_to_http1_and_keeps_both_connections() {
    let gate = Setup::before(answering(HELLO)).start();
    let mut client = gate.client();
    for _ in 0..50 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(until(&mut client, "hello").starts_with("HTTP/1.1 200"));
        assert!(matches!(gate.event(), Event::Ended(BodyEnd::Clean, 5)));
    }
    let counters = &gate.workers.counters()[0];
    reads(&counters.upstream_connects, 1);
    reads(&counters.accepted, 1);
    reads(&counters.upstream_active, 0);
    reads(&counters.upstream_idle, 1);
    gate.stop();
}

#[test]
fn trailers_pass_between_http1_and_http1() {
    let gate = Setup::before(echo(false, None)).start();
    let answer = gate.ask(
        "POST /echo HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: sum\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nsum: 42\r\n\r\n",
    );
    assert!(answer.contains("3\r\nabc\r\n0\r\nsum: 42\r\n\r\n"), "{answer}");
    gate.stop();
}

#[test]
fn http2_in_clear_text_passes_to_http1_with_trailers_both_ways() {
    let gate = Setup::before(echo(false, None)).start();
    check_http2(gate.address, None, "HTTP/1.1");
    gate.stop();
}

#[test]
fn http2_passes_to_http2_with_trailers_both_ways() {
    let mut upstream = upstream(echo(true, None));
    upstream.protocol = UpstreamProtocol::Http2;
    let gate = Setup::of(upstream).start();
    check_http2(gate.address, None, "HTTP/2.0");
    gate.stop();
}

#[test]
fn tls_with_alpn_speaks_http2() {
    let identity = identity();
    let mut setup = Setup::before(echo(false, None));
    setup.tls = Some(Arc::clone(&identity.server));
    let gate = setup.start();
    check_http2(gate.address, Some(&identity), "HTTP/1.1");
    gate.stop();
}

#[test]
fn tls_without_http2_speaks_http1() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let identity = identity();
    let mut setup = Setup::before(answering(HELLO));
    setup.tls = Some(Arc::clone(&identity.server));
    let gate = setup.start();
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.address).await.unwrap();
        let mut tls = tls_client(tcp, &identity, b"http/1.1").await;
        tls.write_all(GET.as_bytes()).await.unwrap();
        let mut all = String::new();
        tls.read_to_string(&mut all).await.expect("the end is a proper one, with close_notify");
        assert!(all.starts_with("HTTP/1.1 200") && all.ends_with("hello"), "{all}");
    });
    gate.stop();
}

#[test]
fn http1_passes_to_http2() {
    let mut upstream = upstream(echo(true, None));
    upstream.protocol = UpstreamProtocol::Http2;
    let gate = Setup::of(upstream).start();
    for _ in 0..3 {
        let answer = gate.ask(
            "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        );
        assert!(answer.contains("seen: HTTP/2.0") && answer.contains("abc"), "{answer}");
    }
    let connects = &gate.workers.counters()[0].upstream_connects;
    assert_eq!(connects.load(Ordering::Relaxed), 1, "one connection is shared");
    gate.stop();
}

#[test]
fn an_upstream_under_tls_is_verified_by_its_ca_and_sees_the_gates_certificate() {
    let identity = identity();
    let wants_client = tls::server_config(&identity.listener(Some(&identity.ca))).unwrap();
    let address = echo(false, Some(wants_client));
    let mut with_tls = upstream(address);
    with_tls.scheme = Scheme::Https;
    with_tls.tls = UpstreamTls {
        ca: Some(identity.ca.clone().into()),
        client: Some((identity.chain.clone().into(), identity.key.clone().into())),
        server_name: Some("localhost".into()),
    };
    let gate = Setup::of(with_tls.clone()).start();
    let answer = gate.ask(GET);
    assert!(answer.contains("seen: HTTP/1.1"), "{answer}");
    gate.stop();

    with_tls.tls.ca = Some(crate::passing::identity().ca.into());
    let gate = Setup::of(with_tls).start();
    assert!(gate.ask(GET).starts_with("HTTP/1.1 502"), "another CA does not vouch for it");
    gate.stop();
}

#[test]
fn tls_problems_say_what_to_do() {
    let identity = identity();
    let mut listener = identity.listener(None);
    listener.key = Arc::from(&b"nonsense"[..]);
    let problem = tls::server_config(&listener).unwrap_err().to_string();
    assert!(problem.contains("the listener's private key") && problem.contains("PEM"), "{problem}");
    let mut listener = identity.listener(None);
    listener.chain = Arc::from(&b""[..]);
    let problem = tls::server_config(&listener).unwrap_err().to_string();
    assert!(problem.contains("holds no certificate"), "{problem}");
    let mut listener = identity.listener(None);
    listener.key = crate::passing::identity().key.into();
    let problem = tls::server_config(&listener).unwrap_err().to_string();
    assert!(problem.contains("cannot be used together"), "{problem}");
}

struct Endless(u64);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        static CHUNK: [u8; 64 * 1024] = [7; 64 * 1024];
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_hundred_megabytes_stream_in_flat_memory() {
    const CHUNKS: u64 = 1600;
    let gate = Setup::before(echo(false, None)).start();
    let before = resident();
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.address).await.unwrap();
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("/echo").header("host", "a").body(Endless(CHUNKS)).unwrap();
        let mut body = send.send_request(request).await.unwrap().into_body();
        let mut total = 0;
        while let Some(frame) = body.frame().await {
            total += frame.unwrap().into_data().unwrap().len() as u64;
        }
        assert_eq!(total, CHUNKS * 64 * 1024);
    });
    let grown = resident().saturating_sub(before);
    assert!(grown < 60 * 1024 * 1024, "{grown} bytes more");
    gate.stop();
}

#[test]
fn a_client_that_does_not_read_holds_the_upstream_back() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let address = backend(move |mut stream, _| {
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n");
        let chunk = vec![7; 64 * 1024];
        while stream.write_all(&chunk).is_ok() {
            counted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    let mut setup = Setup::before(address);
    setup.bounds.body_idle = Duration::from_millis(800);
    let gate = setup.start();
    let mut client = gate.client();
    client.write_all(GET.as_bytes()).unwrap();
    head(&mut client);
    std::thread::sleep(Duration::from_millis(300));
    let held = sent.load(Ordering::Relaxed);
    assert!(held < 40 * 1024 * 1024, "{held} bytes were taken from the upstream");
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Dropped, _)), "a stalled client is cut");
    gate.stop();
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let address = backend(move |mut stream, _| {
        head(&mut stream);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for event in 0..5 {
            wait.lock().unwrap().recv().unwrap();
            stream.write_all(format!("data: {event}\n\n").as_bytes()).unwrap();
        }
    });
    let gate = Setup::before(address).start();
    let mut client = gate.client();
    client.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(head(&mut client).contains("transfer-encoding: chunked"));
    for event in 0..5 {
        go.send(()).unwrap();
        until(&mut client, &format!("data: {event}\n\n\r\n"));
    }
    assert_eq!(until(&mut client, "0\r\n\r\n"), "0\r\n\r\n");
    gate.stop();
}

/// A backend that switches, then echoes.
fn switching() -> SocketAddr {
    backend(|mut stream, _| {
        let asked = head(&mut stream);
        assert!(asked.to_lowercase().contains("upgrade: echo"), "{asked}");
        let switched =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(switched.as_bytes()).unwrap();
        let mut some = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut some) {
            stream.write_all(&some[..read]).unwrap();
        }
    })
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

#[test]
fn an_upgrade_carries_bytes_both_ways_until_both_are_done() {
    let gate = Setup::before(switching()).start();
    let mut client = gate.client();
    client.write_all(UPGRADE.as_bytes()).unwrap();
    assert!(head(&mut client).starts_with("HTTP/1.1 101"));
    client.write_all(b"HTTP/1.1 400 no head").unwrap();
    until(&mut client, "HTTP/1.1 400 no head");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "");
    loop {
        if let Event::Tunnel(carried) = gate.event() {
            assert_eq!((carried.end, carried.up, carried.down), (TunnelEnd::Clean, 20, 20));
            break;
        }
    }
    gate.stop();
}

#[test]
fn a_tunnel_can_be_cut_from_outside_and_keeps_its_slot_until_then() {
    let gate = Setup::before(switching()).start();
    let mut client = gate.client();
    client.write_all(UPGRADE.as_bytes()).unwrap();
    head(&mut client);
    client.write_all(b"ping").unwrap();
    until(&mut client, "ping");
    reads(&gate.workers.counters()[0].open, 1);
    gate.ask("GET /cut HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut byte = [0];
    assert_eq!(client.read(&mut byte).unwrap_or(0), 0);
    loop {
        if let Event::Tunnel(carried) = gate.event() {
            assert_eq!((carried.end, carried.up, carried.down), (TunnelEnd::Cut, 4, 4));
            break;
        }
    }
    gate.stop();
}

#[test]
fn an_upgrade_that_the_upstream_declines_is_a_plain_answer() {
    let gate = Setup::before(answering(HELLO)).start();
    let mut client = gate.client();
    client.write_all(UPGRADE.as_bytes()).unwrap();
    assert!(until(&mut client, "hello").starts_with("HTTP/1.1 200"));
    gate.stop();
}

#[test]
fn a_websocket_works_through_the_gate() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (tcp, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() && socket.send(message).await.is_err() {
                    break;
                }
            }
        });
    });
    let gate = Setup::before(address).start();
    runtime().block_on(async {
        let url = format!("ws://{}/", gate.address);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        for text in ["one", "two"] {
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
        }
        socket.close(None).await.unwrap();
    });
    gate.stop();
}
