//! A client's HTTP/2 connection as its driver must know it: how many answers are owed, and whether bytes move. hyper tells
//! nobody. Never decides anything about a request.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::Stream;
use super::watch::{Awaits, Sight};

/// What [`ClientIo`], the answers and the driver tell each other.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    moved: Cell<u64>,
    write_waits: Cell<bool>,
    requests: Cell<u64>,
    open: Cell<u64>,
    held_up: Cell<u64>,
    frames: Cell<u64>,
}

impl Wire {
    /// Whether any request was handed to the handler, ever.
    pub(crate) fn was_used(&self) -> bool {
        self.requests.get() > 0
    }

    /// What the connection's deadlines must know.
    pub(crate) fn sight(&self) -> Sight {
        let (open, requests) = (self.open.get(), self.requests.get());
        Sight {
            awaits: if requests == 0 { Awaits::FirstRequest } else { Awaits::Nothing },
            open: open > 0,
            requests,
            moved: self.moved.get(),
            write_waits: self.write_waits.get(),
            all_held_up: open > 0 && self.held_up.get() == open,
            frames: self.frames.get(),
        }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.write_waits.set(result.is_pending());
        if result.is_ready() {
            add(&self.moved);
        }
        result
    }
}

/// One request whose answer is not over. Dropped with the answer's body, or with the request.
#[derive(Debug)]
pub(crate) struct Owed {
    wire: Rc<Wire>,
    held_up: bool,
}

impl Owed {
    /// A request was handed to the handler.
    pub(crate) fn new(wire: &Rc<Wire>) -> Owed {
        add(&wire.requests);
        add(&wire.open);
        Owed { wire: Rc::clone(wire), held_up: false }
    }

    /// More is wanted of the answer: now it waits for us.
    pub(crate) fn asked(&mut self) {
        if std::mem::take(&mut self.held_up) {
            take(&self.wire.held_up);
        }
    }

    /// A frame was given: until more is wanted, it waits for the client.
    pub(crate) fn gave(&mut self) {
        add(&self.wire.frames);
        if !std::mem::replace(&mut self.held_up, true) {
            add(&self.wire.held_up);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.asked();
        take(&self.wire.open);
    }
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

fn take(counter: &Cell<u64>) {
    counter.set(counter.get().saturating_sub(1));
}

/// The client's stream as hyper's HTTP/2 server sees it.
#[derive(Debug)]
pub(crate) struct ClientIo {
    stream: Stream,
    wire: Rc<Wire>,
}

impl ClientIo {
    /// Wraps a stream that is ready for HTTP.
    pub(crate) fn new(stream: Stream, wire: Rc<Wire>) -> ClientIo {
        ClientIo { stream, wire }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if read.is_ready() {
            add(&self.wire.moved);
        }
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wire.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wire.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
