//! The client's end of a connection, as its task and the body of its request share it: the socket, what was read and
//! belongs to nobody yet, and how far the request's body has come.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::super::chunked::{BadChunk, Piece};
use super::super::framing::BodyLength;
use super::super::inlet::Inlet;
use super::super::left::Left;
use super::super::stock::Stock;
use super::arriving::BrokenIn;
use crate::proxy::answer::Head;
use crate::proxy::io::Stream;
use crate::proxy::splice::{Outlet, Pipeful};

/// What a client that waits is told when its body is wanted (RFC 9110 §10.1.1).
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A body of at most so many bytes, which nobody wants, has very likely arrived with its head: it is read away, and the
/// connection goes on. What is larger ends the connection.
const DRAINED: u64 = 8 * 1024;

/// The most bytes of interim answers that wait for a client.
const MOST_AHEAD: usize = 64 * 1024;

/// What a client understands before its answer (RFC 9110 §15.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hears {
    /// Interim answers.
    Interims,
    /// Nothing: it speaks HTTP/1.0.
    Nothing,
}

/// How far the body of the newest request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is over, or there is none.
    Over,
    /// Nobody has asked for it yet.
    Unasked,
    /// Somebody reads it.
    Asked,
    /// Nobody has asked for it, and nobody will.
    Unwanted,
    /// It broke off, or whoever read it wants no more.
    GivenUp,
}

/// What is said before the body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interim {
    /// Nothing.
    Silent,
    /// What is left of [`CONTINUE`].
    Saying(&'static [u8]),
}

impl Interim {
    /// Whether it is said in part: then the rest is next on the connection.
    fn is_begun(self) -> bool {
        matches!(self, Interim::Saying(rest) if rest.len() < CONTINUE.len())
    }
}

/// What a connection's task and a request's body share.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) io: RefCell<Io>,
    /// How far the body of the newest request is.
    pub(super) reading: Cell<Reading>,
    /// The connection's task, while it waits for whoever reads the body.
    waiting: RefCell<Option<Waker>>,
    over: Cell<bool>,
    /// Who waits for the connection to leave HTTP.
    upgrading: RefCell<Option<Waker>>,
}

/// A connection's socket and what was read from it.
#[derive(Debug)]
pub(super) struct Io {
    /// `None`: it has left HTTP.
    stream: Option<Stream>,
    inlet: Inlet,
    /// Whether somebody looks at what is unread.
    lent: bool,
    /// What is left of the newest request's body.
    pub(super) left: Left,
    pub(super) interim: Interim,
    hears: Hears,
    /// Interim answers of the upstream that are to go out before the final one.
    ahead: Vec<u8>,
    /// Grows whenever a byte moves either way; two equal readings mean silence between them.
    pub(super) moved: u64,
    /// Whether bytes wait because the client does not read.
    pub(super) held_up: bool,
}

impl Client {
    /// A connection on which HTTP begins.
    pub(super) fn new(stream: Stream, stock: Rc<Stock>) -> Rc<Client> {
        let io = Io {
            stream: Some(stream),
            inlet: Inlet::new(stock),
            lent: false,
            left: Left::Nothing,
            interim: Interim::Silent,
            hears: Hears::Nothing,
            ahead: Vec::new(),
            moved: 0,
            held_up: false,
        };
        Rc::new(Client {
            io: RefCell::new(io),
            reading: Cell::new(Reading::Over),
            waiting: RefCell::default(),
            over: Cell::new(false),
            upgrading: RefCell::default(),
        })
    }

    /// A request with a body of this length begins. `interim` is to be said before the body is read.
    pub(super) fn begin_body(&self, length: BodyLength, interim: &'static [u8], hears: Hears) {
        let io = &mut *self.io.borrow_mut();
        io.hears = hears;
        io.left = Left::of(length);
        let over = matches!(io.left, Left::Nothing);
        self.reading.set(if over { Reading::Over } else { Reading::Unasked });
        let silent = over || interim.is_empty();
        io.interim = if silent { Interim::Silent } else { Interim::Saying(interim) };
    }

    /// How far the body is now, and wakes this task when that changes in another one.
    pub(super) fn reading(&self, cx: &Context<'_>) -> Reading {
        let reading = self.reading.get();
        if matches!(reading, Reading::Asked | Reading::Unasked) {
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waiting = Some(cx.waker().clone());
            }
        }
        reading
    }

    /// Has an interim answer sent before the final one.
    pub(super) fn say(&self, head: &Head) {
        let io = &mut *self.io.borrow_mut();
        let head = head.as_bytes();
        if io.hears == Hears::Interims && io.ahead.len() + head.len() <= MOST_AHEAD {
            io.ahead.extend_from_slice(head);
            io.ahead.extend_from_slice(b"\r\n");
        }
    }

    /// Whoever reads the body is done with it. `by`: the task that does, which needs no waking if it is the connection's.
    pub(super) fn done(&self, reading: Reading, by: Option<&Waker>) {
        self.reading.set(reading);
        if let Some(waker) = self.waiting.take()
            && !by.is_some_and(|by| waker.will_wake(by))
        {
            waker.wake();
        }
    }

    /// No HTTP is spoken on it any more: whoever waits for that may have what is left of it.
    pub(super) fn is_over(&self) {
        self.over.set(true);
        if let Some(waker) = self.upgrading.take() {
            waker.wake();
        }
    }

    /// What was a connection of HTTP, once it is over; `None` inside where somebody else has closed it.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<Option<(Stream, BytesMut)>> {
        if self.over.get() {
            return Poll::Ready(self.leave());
        }
        self.upgrading.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Takes the stream away, and what was read too far.
    pub(super) fn leave(&self) -> Option<(Stream, BytesMut)> {
        let io = &mut *self.io.borrow_mut();
        let stream = io.stream.take()?;
        Some((stream, std::mem::take(&mut io.inlet.unread)))
    }
}

impl Io {
    /// Reads once behind what is unread, at most about `room` bytes; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(0)) };
        if self.lent {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = self.inlet.poll_read(stream, cx, room);
        self.moved += u64::from(read.is_ready());
        read
    }

    /// Lends what is unread to whoever looks at the head in it. Nobody reads meanwhile.
    pub(super) fn lend(&mut self) -> BytesMut {
        self.lent = true;
        std::mem::take(&mut self.inlet.unread)
    }

    /// Takes back what was lent, without the first `read` bytes.
    pub(super) fn give_back(&mut self, mut unread: BytesMut, read: usize) {
        self.lent = false;
        if read >= unread.len() {
            unread.clear();
        } else {
            unread.advance(read);
        }
        self.inlet.unread = unread;
        if matches!(self.left, Left::Nothing) {
            self.inlet.rest();
        }
    }

    /// Whether something was read that belongs to nobody yet.
    pub(super) fn holds_bytes(&self) -> bool {
        !self.inlet.unread.is_empty()
    }

    /// Whether what is left of the body is little, and on its way unasked.
    pub(super) fn rest_is_small(&self) -> bool {
        let little = self.left.bytes().is_some_and(|left| left <= DRAINED);
        little && self.interim == Interim::Silent
    }

    /// What was read and belongs to nobody yet.
    pub(super) fn unread(&mut self) -> &mut BytesMut {
        &mut self.inlet.unread
    }

    /// The next frame of the request's body; `None` at its end.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenIn>>> {
        loop {
            match self.left.next(&mut self.inlet.unread) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::Hungry) => {}
                Err(BadChunk(how)) => return Poll::Ready(Some(Err(BrokenIn::Framing(how)))),
            }
            if let Err(error) = ready!(self.poll_interim(cx)) {
                return Poll::Ready(Some(Err(BrokenIn::Io(error))));
            }
            let room = self.inlet.room_for(self.left.bytes());
            let broken = match ready!(self.poll_read(cx, room)) {
                Ok(1..) => continue,
                Ok(0) => BrokenIn::Early,
                Err(error) => BrokenIn::Io(error),
            };
            return Poll::Ready(Some(Err(broken)));
        }
    }

    /// The next bytes of the request's body, in a pipe; `None` where they have to be asked for as a frame.
    pub(super) fn poll_pipeful(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Pipeful>, BrokenIn>> {
        if !self.inlet.unread.is_empty() {
            return Poll::Ready(Ok(None));
        }
        if let Err(error) = ready!(self.poll_interim(cx)) {
            return Poll::Ready(Err(BrokenIn::Io(error)));
        }
        let (Left::Bytes(left), Some(stream), false) = (&mut self.left, &self.stream, self.lent)
        else {
            return Poll::Ready(Ok(None));
        };
        let came = ready!(self.inlet.poll_pipeful(stream, cx, *left));
        Poll::Ready(match came {
            Ok(None) => Ok(None),
            Ok(Some(pipeful)) if pipeful.bytes() > 0 => {
                self.moved += 1;
                *left = left.saturating_sub(pipeful.bytes());
                Ok(Some(pipeful))
            }
            Ok(Some(_)) => Err(BrokenIn::Early),
            Err(error) => Err(BrokenIn::Io(error)),
        })
    }

    /// Whether the next frame of the request's body was read already.
    pub(super) fn is_at_hand(&self) -> bool {
        self.left.is_at_hand(&self.inlet.unread)
    }

    /// The body was read to its end.
    pub(super) fn is_read(&mut self) {
        self.left = Left::Nothing;
        self.inlet.rest();
    }

    /// Whether the body is over although nobody has asked for its end yet.
    pub(super) fn ends_here(&mut self) -> bool {
        self.left.ends_here(&mut self.inlet.unread)
    }

    /// Sends what the upstream has said before its answer.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.ahead.is_empty()) else {
            return Poll::Ready(Ok(()));
        };
        // Whoever reads the body says the rest of a 100; then it is this one's turn.
        if self.interim.is_begun() {
            return Poll::Pending;
        }
        while !self.ahead.is_empty() {
            let wrote = Pin::new(&mut *stream).poll_write(cx, &self.ahead);
            self.held_up = wrote.is_pending();
            let wrote = ready!(wrote)?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.moved += 1;
            self.ahead.drain(..wrote);
        }
        // Rare: the next request needs no room for it.
        self.ahead = Vec::new();
        Pin::new(stream).poll_flush(cx)
    }

    /// Tells a client that waits for it that its body is wanted.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is said already in part comes to its end first.
        if !self.interim.is_begun() {
            ready!(self.poll_ahead(cx))?;
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        loop {
            match self.interim {
                Interim::Silent => return Poll::Ready(Ok(())),
                Interim::Saying(b"") => {
                    ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                    self.interim = Interim::Silent;
                }
                Interim::Saying(rest) => {
                    let wrote = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
                    if wrote == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    self.interim = Interim::Saying(&rest[wrote..]);
                }
            }
        }
    }

    /// The final answer begins: what has to be said before it. A 100 that has not begun is never said.
    pub(super) fn end_interim(&mut self) -> (&'static [u8], Vec<u8>) {
        let interim = std::mem::replace(&mut self.interim, Interim::Silent);
        let rest = match interim {
            Interim::Saying(rest) if interim.is_begun() => rest,
            Interim::Saying(_) | Interim::Silent => b"",
        };
        (rest, std::mem::take(&mut self.ahead))
    }

    /// Throws away what comes of a body that nobody wants.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Option<BrokenIn>> {
        loop {
            match ready!(self.poll_frame(cx)) {
                Some(Ok(_)) => {}
                Some(Err(broken)) => return Poll::Ready(Some(broken)),
                None => {
                    self.left = Left::Nothing;
                    return Poll::Ready(None);
                }
            }
        }
    }
}

/// Where answers are written: borrows the connection for each write alone, since who makes an answer's body may let go of
/// the request's.
pub(super) struct Writes<'a>(pub(super) &'a Client);

impl Writes<'_> {
    fn with(
        &self,
        attempt: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let io = &mut *self.0.io.borrow_mut();
        let Some(stream) = &mut io.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let wrote = attempt(Pin::new(stream));
        io.held_up = wrote.is_pending();
        io.moved += u64::from(wrote.is_ready());
        wrote
    }
}

impl AsyncWrite for Writes<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx).map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx).map_ok(|()| 0)).map_ok(|_| ())
    }
}

impl Outlet for Writes<'_> {
    fn takes_pipefuls(&self) -> bool {
        self.0.io.borrow().stream.as_ref().is_some_and(Outlet::takes_pipefuls)
    }

    fn poll_drain(
        &mut self,
        pipeful: &mut Pipeful,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.get_mut().poll_drain(pipeful, cx))
    }
}
