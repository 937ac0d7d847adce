//! The bytes behind a 101: copied both ways until both ends are done, or until somebody cuts. The caller decided that
//! the upgrade is allowed and edited the heads; nothing flows before both sides have switched. No timeout: a WebSocket
//! may be silent for a day. Extended CONNECT (RFC 8441) is not spoken.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use super::cut::Cut;
use super::http1::{Switched, Upgrading};

/// Bytes held a direction. A tunnel lives long: it holds little.
const HELD: usize = 8 * 1024;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both ends were done.
    Clean,
    /// One end broke, or never switched.
    Broke,
    /// It was cut.
    Cut,
}

/// What went through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnelled {
    /// How it ended.
    pub end: TunnelEnd,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
}

/// Carries bytes between two connections that were both answered with 101. To be run as a local task that also holds
/// the client's `Rc<Peer>`, so that the connection still counts. The client's side switches behind its 101; the
/// upstream's has already.
pub async fn carry(client: Upgrading, mut upstream: Switched, cut: Cut) -> Tunnelled {
    let (up, down) = (Cell::new(0), Cell::new(0));
    let both = async {
        let mut client = Counted { stream: client.await?, read: &up, written: &down };
        copy_bidirectional_with_sizes(&mut client, &mut upstream, HELD, HELD).await
    };
    let mut both = std::pin::pin!(both);
    let end = std::future::poll_fn(|cx| {
        if cut.poll(cx).is_ready() {
            return Poll::Ready(TunnelEnd::Cut);
        }
        both.as_mut().poll(cx).map(|ended: io::Result<(u64, u64)>| match ended {
            Ok(_) => TunnelEnd::Clean,
            Err(_) => TunnelEnd::Broke,
        })
    })
    .await;
    Tunnelled { end, up: up.get(), down: down.get() }
}

/// The client's side, counting: the counts must survive a cut.
struct Counted<'a> {
    stream: Switched,
    read: &'a Cell<u64>,
    written: &'a Cell<u64>,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, into);
        self.read.set(self.read.get() + (into.filled().len() - before) as u64);
        result
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = result {
            self.written.set(self.written.get() + written as u64);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
