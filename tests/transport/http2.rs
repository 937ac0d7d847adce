//! What only HTTP/2 can do: refuse a stream with proof, say goodbye, share a connection, reset in a hurry.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tollgate::policy::snapshot::UpstreamProtocol;
use tollgate::proxy::body::BodyEnd;
use tollgate::proxy::pool::Processed;

use crate::passing::runtime;
use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[derive(Clone, Copy)]
enum Then {
    Answer,
    Refuse,
    AnswerAndLeave,
}

/// A backend of bare frames: `plan` says what becomes of the n-th stream it sees over all connections.
fn frames(plan: impl Fn(usize) -> Then + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let streams = Arc::new(AtomicUsize::new(0));
    let (counted, plan) = (Arc::clone(&streams), Arc::new(plan));
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (counted, plan) = (Arc::clone(&counted), Arc::clone(&plan));
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(tcp).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let then = plan(counted.fetch_add(1, Ordering::Relaxed));
                        if let Then::Refuse = then {
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                            continue;
                        }
                        let mut body = respond.send_response(Response::new(()), false).unwrap();
                        body.send_data(Bytes::from_static(b"hello"), true).unwrap();
                        if let Then::AnswerAndLeave = then {
                            connection.graceful_shutdown();
                        }
                    }
                });
            }
        });
    });
    (address, streams)
}

fn gate_before(address: SocketAddr) -> Gate {
    let mut upstream = upstream(address);
    upstream.protocol = UpstreamProtocol::Http2;
    Setup::of(upstream).start()
}

#[test]
fn a_refused_stream_is_sent_again_on_a_fresh_connection() {
    let (address, streams) = frames(|nth| if nth == 0 { Then::Refuse } else { Then::Answer });
    let gate = gate_before(address);
    let answer = gate.ask(GET);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello"), "{answer}");
    assert_eq!(streams.load(Ordering::Relaxed), 2);
    gate.stop();
}

#[test]
fn streams_that_are_always_refused_end_after_two_fresh_connections() {
    let (address, streams) = frames(|_| Then::Refuse);
    let gate = gate_before(address);
    assert!(gate.ask(GET).starts_with("HTTP/1.1 502"));
    let Event::Failed(failure, _) = gate.event() else { panic!("another event") };
    assert_eq!(failure.processed, Processed::NotProcessed);
    assert_eq!(streams.load(Ordering::Relaxed), 3);
    gate.stop();
}

#[test]
fn a_refused_post_is_proved_not_processed_but_not_sent_again() {
    let (address, streams) = frames(|_| Then::Refuse);
    let gate = gate_before(address);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let mut client = gate.client();
    std::io::Write::write_all(&mut client, post.as_bytes()).unwrap();
    assert!(head(&mut client).starts_with("HTTP/1.1 502"));
    let Event::Failed(failure, _) = gate.event() else { panic!("another event") };
    assert_eq!(failure.processed, Processed::NotProcessed);
    assert_eq!(streams.load(Ordering::Relaxed), 1);
    gate.stop();
}

#[test]
fn an_upstream_that_says_goodbye_after_each_answer_costs_no_request() {
    let (address, streams) = frames(|_| Then::AnswerAndLeave);
    let gate = gate_before(address);
    for _ in 0..20 {
        assert!(gate.ask(GET).starts_with("HTTP/1.1 200"));
    }
    assert_eq!(streams.load(Ordering::Relaxed), 20);
    gate.stop();
}

async fn ask(
    send: &mut hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
    path: &str,
) -> (u16, Bytes) {
    let request = Request::get(format!("http://gate{path}")).body(Empty::new()).unwrap();
    let answer = send.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

#[test]
fn a_panic_ends_its_stream_alone() {
    let gate = Setup::before(answering(HELLO)).start();
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.address).await.unwrap();
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
                .await
                .unwrap();
        tokio::spawn(connection);
        let mut other = send.clone();
        let (panicked, fine) = tokio::join!(ask(&mut send, "/panic"), ask(&mut other, "/slow"));
        assert_eq!(panicked.0, 500);
        assert_eq!(&fine.1[..], b"at last");
    });
    gate.stop();
}

#[test]
fn a_drain_says_goodbye_and_finishes_open_streams() {
    let gate = Setup::before(answering(HELLO)).start();
    let workers = &gate.workers;
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.address).await.unwrap();
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let asks = (0..10).map(|_| {
            let mut send = send.clone();
            tokio::spawn(async move { ask(&mut send, "/slow").await })
        });
        let asks: Vec<_> = asks.collect();
        assert_eq!(ask(&mut send, "/").await.0, 200);
        workers.drain(Duration::ZERO, PATIENCE);
        for asked in asks {
            assert_eq!(&asked.await.unwrap().1[..], b"at last");
        }
        drop(send);
        connection.await.unwrap().unwrap();
    });
    gate.workers.join().unwrap();
}

#[test]
fn a_client_that_resets_in_a_hurry_loses_its_connection() {
    let gate = Setup::before(answering(HELLO)).start();
    let ended = runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.address).await.unwrap();
        let (send, connection) = h2::client::handshake(tcp).await.unwrap();
        let connection = tokio::spawn(connection);
        let Ok(mut send) = send.ready().await else { panic!("not even the first stream") };
        for _ in 0..20_000 {
            let request = Request::get("http://gate/slow").body(()).unwrap();
            match send.send_request(request, true) {
                Ok((_, mut stream)) => stream.send_reset(h2::Reason::CANCEL),
                Err(_) => break,
            }
            match send.ready().await {
                Ok(again) => send = again,
                Err(_) => break,
            }
        }
        tokio::time::timeout(PATIENCE, connection).await
    });
    ended.expect("it ends in time").unwrap().expect_err("it does not end well");
    assert!(gate.ask(GET).starts_with("HTTP/1.1 200"), "others are served");
    gate.stop();
}

#[test]
fn a_client_that_opens_no_window_is_cut() {
    let address = backend(|mut stream, _| {
        head(&mut stream);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n";
        let _ = std::io::Write::write_all(&mut stream, head);
        let _ = std::io::Write::write_all(&mut stream, &vec![7; 10_485_760]);
    });
    let mut setup = Setup::before(address);
    setup.bounds.body_idle = Duration::from_millis(300);
    let gate = setup.start();
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.address).await.unwrap();
        let (send, connection) = h2::client::handshake(tcp).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let request = Request::get("http://gate/").body(()).unwrap();
        let (answer, _) = send.send_request(request, true).unwrap();
        let _answer = answer.await.unwrap();
        let _ = tokio::time::timeout(PATIENCE, connection).await.expect("it ends in time");
    });
    assert!(matches!(gate.event(), Event::Ended(BodyEnd::Dropped, 1..)));
    gate.stop();
}
