//! One connection to the upstream: name lookup, TCP, TLS; for HTTP/2 also the handshake, and the local task that
//! drives it from then on. Never decides whether a request is sent again: that is the pool's, and rests on proof.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::http1;
use super::io::{Socket, Stream};
use super::listen::keepalive;
use super::request_body::RequestBody;
use super::tls::{self, TlsProblem};
use super::worker::NAME_LOOKUPS;
use crate::policy::snapshot::{Scheme, Upstream, UpstreamProtocol};

/// Runs hyper's HTTP/2 tasks on the worker that made them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnThisWorker;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisWorker
where
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// As large as a piece of a body may get in memory, a connection and direction. Below 64 KiB the CPU a megabyte doubles; of
/// 64 KiB it takes a tenth more than of this.
pub(crate) const BUFFER: usize = 128 * 1024;
/// Flow-control windows of HTTP/2, both ways: 64 KiB a stream, 1 MiB a connection.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1024;
/// See [`STREAM_WINDOW`].
pub(crate) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest header list of an HTTP/2 message, unpacked.
pub(crate) const HEADER_LIST: u32 = 32 * 1024;
/// How often an HTTP/2 peer is asked whether it is still there, and how long it may take to answer.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(30);
/// See [`PING_EVERY`].
pub(crate) const PING_WITHIN: Duration = Duration::from_secs(10);

/// How the upstream is reached: everything that can be prepared once.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) upstream: Arc<Upstream>,
    literal: Option<IpAddr>,
    /// Look-ups of the name under way. A look-up cannot be called off: without a bound they would pile up behind a
    /// resolver that is silent, one for each request that has given up meanwhile.
    lookups: Arc<Semaphore>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Why no connection came about, in words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoConnection(pub(crate) &'static str);

const LATE: NoConnection = NoConnection("the upstream took too long to connect");

/// An HTTP/2 connection, shared by the exchanges on it.
#[derive(Debug)]
pub(crate) struct Http2 {
    pub(crate) send: http2::SendRequest<RequestBody>,
    /// Exchanges on it now.
    pub(crate) active: Cell<usize>,
    /// Streams the upstream allows at once.
    pub(crate) most: Rc<Cell<usize>>,
}

impl Target {
    /// Prepares the way to `upstream`.
    pub(crate) fn new(upstream: Arc<Upstream>) -> Result<Target, TlsProblem> {
        let tls = match upstream.scheme {
            Scheme::Http => None,
            Scheme::Https => Some((tls::client_config(&upstream)?, tls::server_name(&upstream)?)),
        };
        let lookups = Arc::new(Semaphore::new(NAME_LOOKUPS));
        Ok(Target { literal: upstream.host.parse().ok(), lookups, tls, upstream })
    }

    /// Opens an HTTP/1 connection.
    pub(crate) async fn http1(
        &self,
        stock: &Rc<http1::Stock>,
    ) -> Result<http1::Shared, NoConnection> {
        let stream = self.connect().await?;
        Ok(http1::Connection::new(stream, Rc::clone(stock)))
    }

    /// Opens an HTTP/2 connection.
    pub(crate) async fn http2(&self) -> Result<Http2, NoConnection> {
        let stream = self.connect().await?;
        let (send, mut connection) = http2::Builder::new(OnThisWorker)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .max_concurrent_reset_streams(64)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| NoConnection("the HTTP/2 connection failed at once"))?;
        let most = Rc::new(Cell::new(connection.current_max_send_streams()));
        let told = Rc::clone(&most);
        tokio::task::spawn_local(std::future::poll_fn(move |cx| {
            let ended = Pin::new(&mut connection).poll(cx).is_ready();
            told.set(connection.current_max_send_streams());
            if ended { Poll::Ready(()) } else { Poll::Pending }
        }));
        Ok(Http2 { send, active: Cell::new(0), most })
    }

    async fn connect(&self) -> Result<Stream, NoConnection> {
        timeout(self.upstream.connect_timeout, self.connect_untimed()).await.unwrap_or(Err(LATE))
    }

    async fn look_up(&self, port: u16) -> Result<SmallVec<[SocketAddr; 4]>, NoConnection> {
        const UNKNOWN: NoConnection = NoConnection("the upstream's name cannot be resolved");
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(|_| UNKNOWN)?;
        let host = self.upstream.host.clone();
        let looking = tokio::task::spawn_blocking(move || {
            // Given up when the look-up is over, not when nobody waits for it any more.
            let _permit = permit;
            (&*host, port).to_socket_addrs().map(Iterator::collect)
        });
        looking.await.map_err(|_| UNKNOWN)?.map_err(|_| UNKNOWN)
    }

    async fn connect_untimed(&self) -> Result<Stream, NoConnection> {
        let port = self.upstream.port;
        let addresses: SmallVec<[SocketAddr; 4]> = match self.literal {
            Some(literal) => smallvec::smallvec![SocketAddr::new(literal, port)],
            None => self.look_up(port).await?,
        };
        // An address that does not answer must leave time for the others.
        let share =
            self.upstream.connect_timeout / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        let mut failure = NoConnection("the upstream's name has no address");
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return self.secure(tcp).await,
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    failure = NoConnection("the upstream refused the connection");
                }
                Ok(Err(_)) => failure = NoConnection("the upstream cannot be reached"),
                Err(_) => failure = LATE,
            }
        }
        Err(failure)
    }

    async fn secure(&self, tcp: TcpStream) -> Result<Stream, NoConnection> {
        // Without it small requests wait for acknowledgements; a failure costs only that.
        let _ = tcp.set_nodelay(true);
        // A tunnel's backend that is gone without a word is found out by this alone.
        let _ = socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive());
        let socket = Socket::new(tcp);
        let Some((config, name)) = &self.tls else { return Ok(Stream::Plain(socket)) };
        let tls = TlsConnector::from(Arc::clone(config))
            .connect(name.clone(), socket)
            .await
            .map_err(|_| NoConnection("the TLS handshake with the upstream failed"))?;
        let agreed = tls.get_ref().1.alpn_protocol();
        if self.upstream.protocol == UpstreamProtocol::Http2 && agreed != Some(b"h2") {
            return Err(NoConnection("the upstream does not agree to HTTP/2"));
        }
        Ok(Stream::Tls(Box::new(tls.into())))
    }
}
