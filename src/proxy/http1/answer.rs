//! An answer's body, read from its connection frame by frame as it is asked for (RFC 9112 §6, §7), and what becomes of the
//! connection at its end.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

use super::chunked::{BadChunk, Piece};
use super::connection::Shared;
use super::framing::BodyLength;
use super::head_in::{After, AnswerHead};
use super::left::Left;
use crate::proxy::answer::Answer;
use crate::proxy::deadline::Silence;
use crate::proxy::io::{COALESCED, Stream};
use crate::proxy::pool::Active;
use crate::proxy::splice::{Carried, Pipeful};

/// Why an answer breaks off in the middle.
#[derive(Debug)]
pub enum BrokenOff {
    /// The connection ended before the answer did.
    Early,
    /// The connection failed.
    Io(io::Error),
    /// Its framing is wrong. Says how.
    Framing(&'static str),
    /// Its request broke off.
    Request,
    /// The upstream was silent for too long.
    Silent,
}

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokenOff::Early => f.write_str("the connection ended before the answer did"),
            BrokenOff::Io(error) => error.fmt(f),
            BrokenOff::Framing(how) => f.write_str(how),
            BrokenOff::Request => f.write_str("the request broke off"),
            BrokenOff::Silent => f.write_str("the upstream was silent"),
        }
    }
}

impl std::error::Error for BrokenOff {}

/// An answer's body, as it is when its head is there.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// It came with its head, as short ones do, and the exchange with the upstream is over: some 900 instructions less than to
    /// read it piece by piece from a connection that nothing more is to come from.
    Whole(Bytes),
    /// It is still to be read. Boxed: it goes from hand to hand.
    Coming(Box<AnswerBody>),
}

/// An answer's body, and the connection that it comes from. Dropped before its end, it closes the connection.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    left: Left,
    /// `None`: given back, or closed.
    connection: Option<Shared>,
    after: After,
    /// Counts the exchange, and knows where the connection goes back to. `None`: the exchange is over.
    active: Option<Active>,
    silence: Silence,
    /// Who sends the rest of the request.
    uploading: Option<AbortHandle>,
    /// Why the body breaks off, once that is known.
    broken: Option<BrokenOff>,
}

impl AnswerBody {
    /// The answer with this head on `connection`. What is not sent of the request yet goes on in a task of its own: a
    /// client may read its answer only after it has sent everything.
    pub(crate) fn answer(
        head: AnswerHead,
        connection: Shared,
        active: Active,
        idle: Duration,
    ) -> Answer<Arrived> {
        let AnswerHead { head, length, after } = head;
        // The bytes behind a 101 belong to whoever upgrades; that connection never comes back.
        let switching = head.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        let whole = at_hand(length, &connection).filter(|_| !switching);
        if let Some(whole) = whole {
            let fit = connection.borrow_mut().end();
            if fit && after == After::Reuse {
                active.park(connection);
            }
            return Answer { head, body: Arrived::Whole(whole) };
        }
        let left = Left::of(length);
        let uploading = (!connection.borrow().is_upload_over()).then(|| {
            let connection = Rc::clone(&connection);
            let rest = async move { poll_fn(|cx| connection.borrow_mut().poll_upload(cx)).await };
            tokio::task::spawn_local(rest).abort_handle()
        });
        let connection = Some(connection);
        let silence = Silence::new(idle);
        let active = Some(active).filter(|_| !switching);
        let mut body =
            AnswerBody { left, connection, after, active, silence, uploading, broken: None };
        if body.is_over() && !switching {
            body.end();
        }
        Answer { head, body: Arrived::Coming(Box::new(body)) }
    }

    /// What follows a 101. `None` where the connection is not the upstream's to switch: its request is not sent whole.
    pub(crate) fn switched(mut self) -> Option<Switched> {
        if let Some(uploading) = self.uploading.take() {
            uploading.abort();
            return None;
        }
        let connection = Rc::into_inner(self.connection.take()?)?.into_inner();
        let (stream, unread) = connection.leave_http()?;
        Some(Switched::new(stream, unread))
    }

    fn is_over(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    /// The body ended as it should: the connection may serve another request.
    fn end(&mut self) {
        self.left = Left::Nothing;
        let (Some(connection), Some(active)) = (self.connection.take(), self.active.take()) else {
            return;
        };
        let uploading = self.uploading.take().filter(|uploading| !uploading.is_finished());
        let fit = connection.borrow_mut().end();
        if let Some(uploading) = uploading {
            uploading.abort();
            if self.after == After::Reuse {
                // The upstream has answered and still takes the request: the client may be in the middle of sending it.
                let rest = poll_fn(move |cx| connection.borrow_mut().poll_rest_of_upload(cx));
                tokio::task::spawn_local(rest);
            }
        } else if fit && self.after == After::Reuse {
            active.park(connection);
        }
    }

    /// The body did not end as it should: nobody reads or writes on this connection any more.
    fn close(&mut self) {
        self.left = Left::Nothing;
        (self.connection, self.active) = (None, None);
        if let Some(uploading) = self.uploading.take() {
            uploading.abort();
        }
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let AnswerBody { left, connection: Some(connection), silence, .. } = self else {
            return Poll::Ready(None);
        };
        let connection = &mut *connection.borrow_mut();
        loop {
            match left.next(connection.unread()) {
                Ok(Piece::Data(data)) => {
                    silence.heard();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::Hungry) => {}
                Err(BadChunk(how)) => return Poll::Ready(Some(Err(BrokenOff::Framing(how)))),
            }
            let room = connection.room_for(left.bytes());
            let broken = match connection.poll_read(cx, room) {
                Poll::Ready(Ok(1..)) => continue,
                Poll::Ready(_) if !connection.is_sound() => BrokenOff::Request,
                Poll::Ready(Ok(0)) if matches!(left, Left::UntilClose) => {
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => BrokenOff::Early,
                Poll::Ready(Err(error)) => BrokenOff::Io(error),
                Poll::Pending => {
                    ready!(silence.poll(cx));
                    BrokenOff::Silent
                }
            };
            return Poll::Ready(Some(Err(broken)));
        }
    }

    /// Whether the body is over although nobody has asked for its end yet: then its last frame is known to be the last.
    fn ends_here(&mut self) -> bool {
        match &self.connection {
            Some(connection) => self.left.ends_here(connection.borrow_mut().unread()),
            None => true,
        }
    }
}

/// Takes a body of this length from what was read behind its head, if it is there whole, is short, and nothing of the request
/// is left to send.
fn at_hand(length: BodyLength, connection: &Shared) -> Option<Bytes> {
    let bytes = match length {
        BodyLength::Nothing => 0,
        BodyLength::Exactly(bytes) => {
            usize::try_from(bytes).ok().filter(|all| *all <= COALESCED)?
        }
        BodyLength::Chunked | BodyLength::UntilClose => return None,
    };
    let mut connection = connection.borrow_mut();
    let over = connection.is_upload_over();
    let unread = connection.unread();
    match bytes {
        _ if !over || bytes > unread.len() => None,
        0 => Some(Bytes::new()),
        _ => Some(unread.split_to(bytes).freeze()),
    }
}

impl Carried for AnswerBody {
    fn is_at_hand(&self) -> bool {
        let unread = |connection: &Shared| self.left.is_at_hand(connection.borrow_mut().unread());
        self.connection.as_ref().is_some_and(unread)
    }

    fn poll_pipeful(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Pipeful>, BrokenOff>> {
        let AnswerBody {
            left: Left::Bytes(left),
            connection: Some(connection),
            silence,
            broken: None,
            ..
        } = self
        else {
            return Poll::Ready(Ok(None));
        };
        let mut connection = connection.borrow_mut();
        let broken = match connection.poll_pipeful(cx, *left) {
            Poll::Ready(Ok(None)) => return Poll::Ready(Ok(None)),
            Poll::Ready(Ok(Some(pipeful))) if pipeful.bytes() > 0 => {
                silence.heard();
                *left = left.saturating_sub(pipeful.bytes());
                let over = *left == 0;
                drop(connection);
                if over {
                    self.end();
                }
                return Poll::Ready(Ok(Some(pipeful)));
            }
            Poll::Ready(_) if !connection.is_sound() => BrokenOff::Request,
            Poll::Ready(Ok(Some(_))) => BrokenOff::Early,
            Poll::Ready(Err(error)) => BrokenOff::Io(error),
            Poll::Pending => {
                ready!(silence.poll(cx));
                BrokenOff::Silent
            }
        };
        drop(connection);
        self.close();
        Poll::Ready(Err(broken))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(broken) = self.broken.take() {
            self.close();
            return Poll::Ready(Some(Err(broken)));
        }
        match ready!(self.poll_piece(cx)) {
            Some(Ok(frame)) => {
                if self.ends_here() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(broken)) => {
                // A turn later: hyper throws away what it has not written when a body breaks off.
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.bytes().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // After its end the connection is not ours any more, and the rest of the request goes on.
        if self.connection.is_some() {
            self.close();
        }
    }
}

/// A connection that has left HTTP, to the upstream or to a client.
#[derive(Debug)]
pub struct Switched {
    stream: Stream,
    /// What came behind the 101.
    unread: BytesMut,
}

impl Switched {
    /// A connection that has left HTTP, and what was read of it too far.
    pub(super) fn new(stream: Stream, unread: BytesMut) -> Switched {
        Switched { stream, unread }
    }
}

impl AsyncRead for Switched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let some = self.unread.len().min(into.remaining());
        into.put_slice(&self.unread.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
