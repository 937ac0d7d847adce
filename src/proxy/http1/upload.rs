//! A request on its way to the upstream: the head, then the body as it comes, with back-pressure. Small pieces are
//! copied together and leave in one write, large ones go out beside their frame.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use super::framing::BodyLength;
use super::head_out::{Announced, RequestHead, chunk_size, last_chunk};
use super::text::Text;
use crate::proxy::io::{COALESCED, Stream};
use crate::proxy::request_body::RequestBody;

/// A request, and how far it is sent.
#[derive(Debug)]
pub(super) struct Upload {
    /// The head, then whatever frames the body; what is written of it stays until all is.
    text: Text,
    written: usize,
    /// A large piece of the body behind the text, and what follows it.
    piece: Bytes,
    behind: &'static [u8],
    body: RequestBody,
    length: BodyLength,
    announced: Announced,
    stage: Stage,
    accepted: Accepted,
    /// Whether bytes may wait in a TLS session.
    unflushed: bool,
}

/// How far a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The head waits for the first bytes of the body.
    Held,
    /// It waits one turn more, and then no longer.
    HeldOnce,
    /// The head is on its way or gone. More of the body is asked for when all before it is written.
    Asking,
    /// All is at hand, and on its way.
    Last,
    /// The upstream has it all.
    Sent,
    /// The upstream takes no more of it. It may still answer.
    Declined,
}

/// Whether the system took any byte of a request: while it did not, nobody can have seen any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Not one byte: that is proved.
    Nothing,
    /// Some, perhaps all.
    Some,
}

/// Why a request cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadFailure {
    /// The connection took not one byte. Another one may.
    NothingAccepted,
    /// Its own body failed, or is not as long as its head says.
    Body,
}

impl Upload {
    /// A request of which nothing is sent.
    pub(super) fn new(head: RequestHead, body: RequestBody) -> Upload {
        let (text, length, announced) = head.end(&body);
        let stage = match length {
            BodyLength::Nothing => Stage::Last,
            _ if body.is_end_stream() && length == BodyLength::Exactly(0) => Stage::Last,
            _ => Stage::Held,
        };
        Upload {
            text,
            written: 0,
            piece: Bytes::new(),
            behind: b"",
            body,
            length,
            announced,
            stage,
            accepted: Accepted::Nothing,
            unflushed: false,
        }
    }

    /// No request.
    pub(super) fn none() -> Upload {
        Upload {
            text: Text::default(),
            written: 0,
            piece: Bytes::new(),
            behind: b"",
            body: RequestBody::empty(),
            length: BodyLength::Nothing,
            announced: None,
            stage: Stage::Sent,
            accepted: Accepted::Nothing,
            unflushed: false,
        }
    }

    /// Whether the upstream has the whole request.
    pub(super) fn is_sent(&self) -> bool {
        self.stage == Stage::Sent
    }

    /// Whether there is no more to do.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Sent | Stage::Declined)
    }

    /// Whether anybody can have seen a byte of it.
    pub(super) fn accepted(&self) -> Accepted {
        self.accepted
    }

    /// The memory of the head, when it is not needed any more.
    pub(super) fn take_text(&mut self) -> Text {
        self.written = 0;
        std::mem::take(&mut self.text)
    }

    /// Sends what can be sent. Ready when there is no more to do.
    pub(super) fn poll(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadFailure>> {
        loop {
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            if self.asks() {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.add(frame)?,
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(UploadFailure::Body)),
                    Poll::Ready(None) => self.end(None)?,
                    // What has arrived behind the client's head is decoded on its connection's next turn; then head and
                    // body leave together.
                    Poll::Pending if self.stage == Stage::Held => {
                        self.stage = Stage::HeldOnce;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Pending if self.stage == Stage::HeldOnce => self.stage = Stage::Asking,
                    Poll::Pending => return Poll::Pending,
                }
            }
            if ready!(self.poll_out(stream, cx)).is_err() {
                match self.accepted {
                    Accepted::Nothing => return Poll::Ready(Err(UploadFailure::NothingAccepted)),
                    Accepted::Some => self.ends_as(Stage::Declined),
                }
            } else if self.stage == Stage::Last {
                self.ends_as(Stage::Sent);
            }
        }
    }

    /// No more of it is sent. A connection may wait long for its next request: it holds nothing of the last one's body.
    fn ends_as(&mut self, over: Stage) {
        self.stage = over;
        self.body = RequestBody::empty();
    }

    /// Whether the body's next frame is wanted now. Nothing is taken up while something else waits to be written, but
    /// for what may leave together with the head.
    fn asks(&self) -> bool {
        match self.stage {
            Stage::Held | Stage::HeldOnce => true,
            Stage::Asking => self.nothing_waits(),
            Stage::Last | Stage::Sent | Stage::Declined => false,
        }
    }

    fn nothing_waits(&self) -> bool {
        self.all_written() && !self.unflushed
    }

    fn all_written(&self) -> bool {
        self.written == self.text.len() && !self.large_waits()
    }

    fn large_waits(&self) -> bool {
        !self.piece.is_empty() || !self.behind.is_empty()
    }

    /// Takes up one more frame of the body.
    fn add(&mut self, frame: Frame<Bytes>) -> Result<(), UploadFailure> {
        self.stage = Stage::Asking;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.trailers_ref()),
        };
        if !data.is_empty() {
            self.add_data(data)?;
        }
        if self.body.is_end_stream() { self.end(None) } else { Ok(()) }
    }

    fn add_data(&mut self, data: Bytes) -> Result<(), UploadFailure> {
        let behind: &'static [u8] = match &mut self.length {
            BodyLength::Exactly(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(UploadFailure::Body)?;
                b""
            }
            BodyLength::Chunked => {
                chunk_size(&mut self.text, &data);
                b"\r\n"
            }
            // Said to have none: a byte more would be another request.
            BodyLength::Nothing | BodyLength::UntilClose => return Err(UploadFailure::Body),
        };
        if data.len() <= COALESCED {
            self.text.push(&data);
            self.text.push(behind);
        } else {
            (self.piece, self.behind) = (data, behind);
        }
        Ok(())
    }

    /// The body is over.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), UploadFailure> {
        match self.length {
            BodyLength::Exactly(left) if left > 0 => return Err(UploadFailure::Body),
            // The end is written behind the piece. Trailers come as a frame of their own, when nothing waits.
            BodyLength::Chunked if self.large_waits() => self.behind = b"\r\n0\r\n\r\n",
            BodyLength::Chunked => {
                last_chunk(&mut self.text, trailers, &self.announced);
            }
            BodyLength::Exactly(_) | BodyLength::Nothing | BodyLength::UntilClose => {}
        }
        self.stage = Stage::Last;
        Ok(())
    }

    /// Writes all that waits.
    fn poll_out(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.all_written() {
            let wrote = ready!(self.poll_write(stream, cx))?;
            self.wrote(wrote);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.text.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let text = &self.text.as_bytes()[self.written..];
        let stream = Pin::new(stream);
        let wrote = if self.large_waits() {
            let slices = [text, &self.piece, self.behind].map(IoSlice::new);
            ready!(stream.poll_write_vectored(cx, &slices))?
        } else {
            ready!(stream.poll_write(cx, text))?
        };
        Poll::Ready(if wrote == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(wrote) })
    }

    fn wrote(&mut self, bytes: usize) {
        (self.accepted, self.unflushed) = (Accepted::Some, true);
        let of_text = bytes.min(self.text.len() - self.written);
        self.written += of_text;
        let of_piece = (bytes - of_text).min(self.piece.len());
        self.piece.advance(of_piece);
        self.behind = &self.behind[bytes - of_text - of_piece..];
    }
}
