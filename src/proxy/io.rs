//! Sockets as HTTP sees them. Small vectored writes are coalesced into one buffer and one plain write, large ones stay
//! vectored (see [`COALESCED`]); bytes read too far by a sniffer are replayed. Never looks into HTTP: what depends on
//! the exchange's state is in `wire`.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use rustix::net::{self, SendFlags};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::splice::{Outlet, Pipeful};

/// Vectored writes up to this size are copied together. A copy of 4 KiB costs less than the kernel's walk over the
/// slices; beyond it the copy loses (measured: −7 % a small answer, +5 % to +30 % a megabyte without this bound).
pub(crate) const COALESCED: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(COALESCED));
}

/// A TCP connection, with the bytes that were read before it was known who reads them.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    replay: Bytes,
}

impl Socket {
    /// Wraps a connection of which nothing was read.
    pub(crate) fn new(tcp: TcpStream) -> Socket {
        Socket { tcp, replay: Bytes::new() }
    }

    /// Puts bytes back in front of everything that will be read.
    pub(crate) fn put_back(&mut self, read: &[u8]) {
        if !read.is_empty() {
            self.replay = [read, &self.replay].concat().into();
        }
    }

    /// The connection itself.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replay.is_empty() {
            return Pin::new(&mut self.tcp).poll_read(cx, into);
        }
        let some = self.replay.len().min(into.remaining());
        into.put_slice(&self.replay.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Readiness is waited for where the system takes nothing, not before every write: 80 instructions.
        loop {
            // By the system call itself: the C library's can be cancelled, and makes ready for that, 90 instructions each time.
            let send = || Ok(net::send(&self.tcp, bytes, SendFlags::NOSIGNAL)?);
            match self.tcp.try_io(Interest::WRITABLE, send) {
                Ok(wrote) if wrote < bytes.len() => {
                    exhausted(&self.tcp, Interest::WRITABLE);
                    return Poll::Ready(Ok(wrote));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                wrote => return Poll::Ready(wrote),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [only] => self.poll_write(cx, only),
            _ if slices.iter().map(|slice| slice.len()).sum::<usize>() > COALESCED => {
                Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
            }
            _ => SCRATCH.with_borrow_mut(|scratch| {
                scratch.clear();
                for slice in slices {
                    scratch.extend_from_slice(slice);
                }
                self.poll_write(cx, scratch)
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Has the system's next word on a socket awaited, without a system call that would be in vain: it has just given less than
/// there was room for, or taken less than there was.
fn exhausted(tcp: &TcpStream, what: Interest) {
    // What is forgotten here is that it was ready; that it was closed is not.
    let _ = tcp.try_io(what, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
}

/// A connection in either direction: plain, or under TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Plain TCP.
    Plain(Socket),
    /// TLS, as its server or its client. Boxed: the session's buffers would make every plain connection larger.
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// Whether a read may bring something; wakes when it may. Under TLS only a read itself can tell.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bare().map_or(Poll::Ready(Ok(())), |tcp| tcp.poll_read_ready(cx))
    }

    /// Reads once behind what is in `into`, whose room is not empty; 0 is the end. To be called when
    /// [`Stream::poll_readable`] is: readiness is not asked for again, and no layer stands between (200 instructions less
    /// than by way of `AsyncRead`).
    pub(crate) fn poll_read_behind(
        &mut self,
        into: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(tcp) = self.bare() else { return pin!(self.read_buf(into)).poll(cx) };
        let room = into.capacity() - into.len();
        loop {
            match tcp.try_read_buf(into) {
                Ok(read) => {
                    if (1..room).contains(&read) {
                        exhausted(tcp, Interest::READABLE);
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(tcp.poll_read_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// The TCP connection underneath.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket.tcp(),
            Stream::Tls(tls) => tls.get_ref().0.tcp(),
        }
    }

    /// The TCP connection, where the next bytes on it are ours as they are: no TLS, and nothing was read too far.
    pub(crate) fn bare(&self) -> Option<&TcpStream> {
        match self {
            Stream::Plain(socket) if socket.replay.is_empty() => Some(&socket.tcp),
            Stream::Plain(_) | Stream::Tls(_) => None,
        }
    }
}

impl Outlet for Stream {
    fn takes_pipefuls(&self) -> bool {
        matches!(self, Stream::Plain(_))
    }

    fn poll_drain(
        &mut self,
        pipeful: &mut Pipeful,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => pipeful.poll_drain(&socket.tcp, cx),
            // They would go out in clear.
            Stream::Tls(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
