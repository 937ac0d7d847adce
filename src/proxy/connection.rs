//! One client connection, from its first byte to its last: PROXY header, TLS, the choice between HTTP/1 and HTTP/2, and
//! then HTTP, under deadlines of its own.
//!
//! A connection has one timer: it is set anew only when a head arrives in pieces; otherwise it ticks, and a tick looks
//! whether anything has moved. Closing is done here as well: half-close, then read what the client still sends, for a
//! bounded time, so that a refusal reaches a client that is in the middle of its body. Never decides about a request.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::counters::{ConnectionCounters, up};
use super::drain::{DrainPhase, DrainSignal};
use super::http1::{Ended, Served, Terms};
use super::io::{Socket, Stream};
use super::peer::{ClientHttp, Handler, Peer, TlsFacts};
use super::proxy_protocol::{self, Announced};
use super::serving::Serving;
use super::upstream::{CONNECTION_WINDOW, OnThisWorker, PING_EVERY, PING_WITHIN, STREAM_WINDOW};
use super::watch::{Over, Watch};
use super::wire::{ClientIo, Wire};
use super::worker::Slot;
use crate::policy::snapshot::Bounds;

/// How much is read from a client, and for how long, after the last answer was sent.
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// See [`LINGER_BYTES`].
const LINGER: Duration = Duration::from_secs(2);
/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Streams that a client opened and reset before they were looked at, and resets that its own errors caused: beyond
/// these the connection is closed (rapid reset and its kin).
const PENDING_RESETS: usize = 20;
/// See [`PENDING_RESETS`].
const ERROR_RESETS: usize = 128;

/// A connection that was just accepted.
pub(crate) struct Arrival {
    pub(crate) tcp: TcpStream,
    pub(crate) peer: std::net::SocketAddr,
    pub(crate) listener: usize,
    pub(crate) slot: Slot,
    pub(crate) tls: bool,
    pub(crate) proxy_protocol: bool,
    pub(crate) drain: Rc<DrainSignal>,
    pub(crate) counters: Arc<ConnectionCounters>,
    pub(crate) terms: Terms,
}

/// Takes a connection to where HTTP begins, and starts the task that drives it to its end: what comes before HTTP needs
/// room for a moment that a connection would hold all its life.
pub(crate) async fn begin<H: Handler>(arrival: Arrival, handler: H) {
    if let Some((driver, stream, peer)) = arrive(arrival, handler).await {
        match peer.http {
            ClientHttp::Http1 => drop(tokio::task::spawn_local(driver.http1(stream, peer))),
            ClientHttp::Http2 => drop(tokio::task::spawn_local(driver.http2(stream, peer))),
        }
    }
}

/// `None` if a connection does not get to where HTTP begins.
async fn arrive<H: Handler>(arrival: Arrival, handler: H) -> Option<(Driver<H>, Stream, Rc<Peer>)> {
    let Arrival { tcp, peer: socket, listener, slot, tls, proxy_protocol, drain, counters, terms } =
        arrival;
    // Answers are written whole; waiting for more would only delay them. A failure costs no more than that.
    let _ = tcp.set_nodelay(true);
    let local = tcp.local_addr().ok()?;
    let bounds = handler.bounds();
    let driver = Driver { handler, drain, counters, bounds, terms };
    let mut stream = Socket::new(tcp);
    let mut announced = None;
    if proxy_protocol {
        let believed = driver.handler.trusts(socket.ip());
        match read_announced(&mut stream, believed).await {
            Some(Announced::Client(client)) => announced = Some(client.ip()),
            Some(Announced::Own) => {}
            None => {
                up(&driver.counters.handshake_failures);
                return None;
            }
        }
    }
    let (stream, tls, http) = if tls {
        let Some((stream, facts, http)) = driver.handshake(stream, listener).await else {
            up(&driver.counters.handshake_failures);
            return None;
        };
        (stream, Some(facts), http)
    } else {
        match driver.sniff(&mut stream).await {
            Sniffed::Http(http) => (Stream::Plain(stream), None, http),
            Sniffed::Nothing => return None,
            Sniffed::Unused => {
                close(Stream::Plain(stream), &[]).await;
                return None;
            }
            Sniffed::Slow => {
                driver.refuse(Stream::Plain(stream), 408).await;
                return None;
            }
        }
    };
    let slot = Some(slot);
    let refrain = RefCell::default();
    let peer = Peer { socket, announced, local, tls, listener, http, refrain, slot };
    Some((driver, stream, Rc::new(peer)))
}

async fn read_announced(stream: &mut Socket, believed: bool) -> Option<Announced> {
    if !believed {
        return None;
    }
    proxy_protocol::read(stream, proxy_protocol::HEADER_TIMEOUT).await.ok()
}

enum Sniffed {
    Http(ClientHttp),
    Slow,
    Nothing,
    /// The listeners closed before a first byte came.
    Unused,
}

struct Driver<H> {
    handler: H,
    drain: Rc<DrainSignal>,
    counters: Arc<ConnectionCounters>,
    bounds: Bounds,
    terms: Terms,
}

impl<H: Handler> Driver<H> {
    async fn handshake(
        &self,
        stream: Socket,
        listener: usize,
    ) -> Option<(Stream, TlsFacts, ClientHttp)> {
        let config = self.handler.tls(listener)?;
        let accepted = TlsAcceptor::from(config).accept(stream);
        let tls = timeout(self.bounds.handshake_timeout, accepted).await.ok()?.ok()?;
        let (_, session) = tls.get_ref();
        let http = match session.alpn_protocol() {
            Some(b"h2") => ClientHttp::Http2,
            _ => ClientHttp::Http1,
        };
        let facts = TlsFacts {
            protocol: match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            sni: session.server_name().map(Into::into),
            client_certificate: session
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(|leaf| leaf.as_ref().into()),
        };
        Some((Stream::Tls(Box::new(tls.into())), facts, http))
    }

    /// Reads until it is clear which HTTP a client speaks, and puts the bytes back. A client that says nothing is left
    /// without a word; one that stops inside the preface is slow.
    async fn sniff(&self, stream: &mut Socket) -> Sniffed {
        let mut read = Vec::with_capacity(1024);
        let told = timeout(self.bounds.head_timeout, async {
            while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
                let more = tokio::select! {
                    biased;
                    more = stream.read_buf(&mut read) => more,
                    () = self.closing(), if read.is_empty() => return Sniffed::Unused,
                };
                if more.unwrap_or(0) == 0 {
                    return Sniffed::Nothing;
                }
            }
            let http2 = read.starts_with(PREFACE);
            Sniffed::Http(if http2 { ClientHttp::Http2 } else { ClientHttp::Http1 })
        });
        let told = told.await;
        stream.put_back(&read);
        match told {
            Ok(told) => told,
            Err(_) if read.is_empty() => Sniffed::Nothing,
            Err(_) => Sniffed::Slow,
        }
    }

    async fn http1(self, stream: Stream, peer: Rc<Peer>) {
        let serving = self.serving(peer);
        let mut served = Served::new(serving, stream, &self.bounds, self.terms.clone());
        let ended = {
            let _listening = self.listen().await;
            let mut timer = std::pin::pin!(sleep(self.bounds.head_timeout));
            let mut watch = Watch::new(&self.bounds);
            std::future::poll_fn(|cx| {
                if let Poll::Ready(ended) = served.poll(cx) {
                    return Poll::Ready(Ok(ended));
                }
                loop {
                    match watch.poll(timer.as_mut(), served.sight(), cx) {
                        Poll::Ready(Some(over)) => return Poll::Ready(Err(over)),
                        Poll::Ready(None) => {}
                        Poll::Pending => return Poll::Pending,
                    }
                }
            })
            .await
        };
        if ended == Ok(Ended::Switched) {
            return;
        }
        let Some(stream) = served.into_stream() else { return };
        match ended {
            Ok(Ended::Gone | Ended::Switched) => {}
            Ok(Ended::BrokenOpen) | Err(Over::Stalled) => reset(&stream),
            Ok(Ended::Unreadable(status)) => Box::pin(self.refuse(stream, status)).await,
            Err(Over::SlowHead) => Box::pin(self.refuse(stream, 408)).await,
            // Boxed: room for a farewell is not held by those who stay.
            Ok(Ended::Done | Ended::Broken) | Err(Over::Idle) => Box::pin(close(stream, &[])).await,
        }
    }

    async fn http2(self, stream: Stream, peer: Rc<Peer>) {
        let wire = Rc::new(Wire::default());
        let mut builder = http2::Builder::new(OnThisWorker);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.bounds.h2_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(self.bounds.head).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(ERROR_RESETS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN);
        let io = TokioIo::new(ClientIo::new(stream, Rc::clone(&wire)));
        let (serving, owing) = (Rc::new(self.serving(peer)), Rc::clone(&wire));
        let service = service_fn(move |request| serving.answer(&owing, request));
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let _listening = self.listen().await;
        let mut timer = std::pin::pin!(sleep(self.bounds.head_timeout));
        let mut watch = Watch::new(&self.bounds);
        let mut leaving = false;
        std::future::poll_fn(|cx| {
            loop {
                let asked = match self.drain.phase() {
                    DrainPhase::Serving => false,
                    DrainPhase::Announcing => wire.was_used(),
                    DrainPhase::Closing => true,
                };
                if asked && !leaving {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                match watch.poll(timer.as_mut(), wire.sight(), cx) {
                    Poll::Ready(Some(Over::Idle)) if !leaving => {
                        leaving = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    Poll::Ready(Some(_)) => return Poll::Ready(()),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    /// Waits for the step of a drain in which unused connections close.
    async fn closing(&self) {
        let _listening = self.listen().await;
        std::future::poll_fn(|_| match self.drain.phase() {
            DrainPhase::Closing => Poll::Ready(()),
            DrainPhase::Serving | DrainPhase::Announcing => Poll::Pending,
        })
        .await;
    }

    async fn listen(&self) -> super::drain::Listening {
        let waker = std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        self.drain.listen(waker)
    }

    fn serving(&self, peer: Rc<Peer>) -> Serving<H> {
        Serving {
            handler: self.handler.clone(),
            peer,
            counters: Arc::clone(&self.counters),
            drain: Rc::clone(&self.drain),
        }
    }

    /// Answers a head that cannot be read, and closes.
    async fn refuse(&self, stream: Stream, status: u16) {
        up(&self.counters.unreadable_heads);
        close(stream, &self.handler.unreadable_head(status)).await;
    }
}

/// Sends the last bytes, if any, half-closes, and reads what the client still sends, within bounds. Without that, bytes
/// that lie unread make the kernel answer with a reset, which may overtake the answer.
async fn close(mut stream: Stream, last: &[u8]) {
    let farewell = async {
        stream.write_all(last).await?;
        stream.shutdown().await?;
        let mut room = vec![0; 8 * 1024];
        let mut left = LINGER_BYTES;
        loop {
            match stream.read(&mut room).await? {
                0 => return Ok(()),
                read => left = left.saturating_sub(read),
            }
            if left == 0 {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    // Whatever fails here, there is nobody left to tell.
    let _ = timeout(LINGER, farewell).await;
}

/// Has the connection closed with a reset: its end must not look like the end of an answer.
fn reset(stream: &Stream) {
    // If it fails the connection closes all the same, only more politely.
    let _ = socket2::SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
}
