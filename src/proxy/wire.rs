//! The client's side of a connection as the driver must know it: where the exchange stands, whether bytes move, and
//! which answer hyper wanted to give by itself.
//!
//! hyper answers a head that it cannot parse with an empty 400, 414 or 431 of its own. Every such answer is written
//! while nothing is owed to the client, and only then; so [`ClientIo`] keeps it from the wire, remembers its status, and
//! the driver sends the policy's instead. Closing is the driver's too, because a client that is still sending must be
//! able to read its refusal. Never decides anything about a request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::Stream;

/// Where the newest exchange of an HTTP/1 connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Nothing is owed and nothing of a head has arrived.
    Idle = 0,
    /// A part of a head has arrived.
    Head = 1,
    /// A request is with the service, or its answer is on the way.
    Owed = 2,
    /// The answer's body has ended; its last bytes may not be written yet.
    Said = 3,
}

/// What [`ClientIo`] and the driver tell each other. Atomics, because hyper's upgrades want `Send`: they never leave
/// their thread, so `Relaxed` plain loads and stores are all that is used.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    stage: AtomicU8,
    moved: AtomicU64,
    write_waits: AtomicBool,
    ended: AtomicBool,
    left: AtomicBool,
    old: AtomicBool,
    bodied: AtomicBool,
    requests: AtomicU64,
    open: AtomicU64,
    held_up: AtomicU64,
    frames: AtomicU64,
    kept_back: AtomicU16,
}

impl Wire {
    /// Where the newest exchange stands.
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Idle,
            1 => Stage::Head,
            2 => Stage::Owed,
            _ => Stage::Said,
        }
    }

    fn set(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Requests that were handed to the handler, ever.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether there was any.
    pub(crate) fn was_used(&self) -> bool {
        self.requests() > 0
    }

    /// Requests whose answer is not over.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether every open answer waits for the client to take what there is.
    pub(crate) fn all_held_up(&self) -> bool {
        self.open() > 0 && self.held_up.load(Ordering::Relaxed) == self.open()
    }

    /// Frames that answers gave, ever.
    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Whether hyper holds nothing about this connection that matters: all is said, and the last request had no body
    /// whose rest could be taken for a head by a new parser.
    pub(crate) fn may_be_left(&self) -> bool {
        self.stage() == Stage::Idle && self.open() == 0 && !self.bodied.load(Ordering::Relaxed)
    }

    /// Whether the client speaks HTTP/1.0, where the end of the connection may be the end of an answer.
    pub(crate) fn is_old(&self) -> bool {
        self.old.load(Ordering::Relaxed)
    }

    /// Grows whenever a byte moves either way; two equal readings mean silence between them.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    fn moves(&self) {
        add(&self.moved);
    }

    /// Whether bytes wait because the client does not read.
    pub(crate) fn write_waits(&self) -> bool {
        self.write_waits.load(Ordering::Relaxed)
    }

    /// Whether the client has ended its side, so that nothing can be lost by closing.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// From here on nothing is kept back, and closing is whoever's has the stream: for HTTP/2, and behind a 101.
    pub(crate) fn is_left_to_hyper(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// The status that hyper would have answered an unreadable head with.
    pub(crate) fn kept_back(&self) -> Option<u16> {
        Some(self.kept_back.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }
}

/// One request whose answer is not over. Dropped with the answer's body, or with the request.
#[derive(Debug)]
pub(crate) struct Owed {
    wire: Arc<Wire>,
    held_up: bool,
}

impl Owed {
    /// A request was handed to the handler.
    pub(crate) fn new(wire: &Arc<Wire>, old: bool, bodied: bool) -> Owed {
        wire.set(Stage::Owed);
        wire.bodied.store(bodied, Ordering::Relaxed);
        wire.old.store(old, Ordering::Relaxed);
        add(&wire.requests);
        add(&wire.open);
        Owed { wire: Arc::clone(wire), held_up: false }
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
        if self.wire.stage() == Stage::Owed {
            self.wire.set(Stage::Said);
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

fn take(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
}

/// The client's stream as hyper's HTTP/1 and HTTP/2 servers see it.
#[derive(Debug)]
pub(crate) struct ClientIo {
    stream: Stream,
    wire: Arc<Wire>,
    replay: Bytes,
}

impl ClientIo {
    /// Wraps a stream that is ready for HTTP; `replay` is what an earlier reader left.
    pub(crate) fn new(stream: Stream, wire: Arc<Wire>, replay: Bytes) -> ClientIo {
        ClientIo { stream, wire, replay }
    }

    /// The stream, to close it by hand.
    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Keeps hyper's own answer to an unreadable head from the wire: `true` if these bytes are one.
    fn keeps_back(&self, bytes: &[u8]) -> bool {
        if !matches!(self.wire.stage(), Stage::Idle | Stage::Head)
            || self.wire.left.load(Ordering::Relaxed)
        {
            return false;
        }
        let status = bytes
            .strip_prefix(b"HTTP/1.")
            .and_then(|rest| rest.get(2..5))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok());
        match status {
            Some(status) if (400..500).contains(&status) => {
                self.wire.kept_back.store(status, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.wire.write_waits.store(result.is_pending(), Ordering::Relaxed);
        if result.is_ready() {
            self.wire.moves();
        }
        result
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = if self.replay.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, into))
        } else {
            let some = self.replay.len().min(into.remaining());
            into.put_slice(&self.replay.split_to(some));
            Ok(())
        };
        self.wire.moves();
        if result.is_err() || into.filled().len() == before {
            self.wire.ended.store(true, Ordering::Relaxed);
        } else if self.wire.stage() == Stage::Idle {
            self.wire.set(Stage::Head);
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.keeps_back(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.first().is_some_and(|first| self.keeps_back(first)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        // hyper flushes the stream only when its own buffer is empty: what was said is written.
        if self.wire.stage() == Stage::Said {
            self.wire.set(Stage::Idle);
        }
        Poll::Ready(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wire.left.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        Poll::Ready(Ok(()))
    }
}
