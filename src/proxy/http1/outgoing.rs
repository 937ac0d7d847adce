//! A message on its way out, a request or an answer: the head, then the body as it comes, with back-pressure. Small pieces
//! are copied together and leave in one write, large ones go out beside their frame.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::Frame;

use super::framing::BodyLength;
use super::head_out::{Announced, chunk_size, last_chunk};
use super::text::Text;
use crate::proxy::io::COALESCED;
use crate::proxy::splice::{LARGE, Outlet, Pipeful, Spliced};

/// A message, and how far it is sent.
#[derive(Debug)]
pub(super) struct Outgoing<B> {
    /// The head, then whatever frames the body; what is written of it stays until all is.
    text: Text,
    written: usize,
    /// A large piece of the body behind the text, and what follows it.
    piece: Bytes,
    behind: &'static [u8],
    /// More of it behind all that, in a pipe.
    pipeful: Option<Pipeful>,
    size: Size,
    /// `None`: no more of it is wanted.
    body: Option<B>,
    length: BodyLength,
    announced: Announced,
    stage: Stage,
    accepted: Accepted,
    /// Whether bytes may wait in a TLS session.
    unflushed: bool,
}

/// How far a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The head waits one turn for the first bytes of the body.
    Held,
    /// Whatever there is of the body goes out as it comes.
    Open,
    /// All is at hand, and on its way.
    Last,
    /// It is gone.
    Sent,
}

/// Whether a body is worth a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// It is not, or nobody knows.
    Any,
    /// It is, by what its head says.
    Large,
}

/// Whether the system took any byte of a message: while it did not, nobody can have seen any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Not one byte: that is proved.
    Nothing,
    /// Some, perhaps all.
    Some,
}

/// When a head leaves whose body has not begun to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// At once.
    Leaves,
    /// A turn later: what has arrived behind it may not be decoded yet, and then both leave together.
    Waits,
}

/// Why a message cannot be sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The connection takes no more.
    Io,
    /// Its own body failed, or is not as long as its head says.
    Body,
}

impl<B> Outgoing<B> {
    /// Begins with another message, in place of one that is over. `text` is its whole head, which says that the body is of
    /// this `length`.
    pub(super) fn begin(
        &mut self,
        text: Text,
        body: B,
        length: BodyLength,
        announced: Announced,
        head: Head,
    ) {
        self.stage = match (length, head) {
            (BodyLength::Nothing | BodyLength::Exactly(0), _) => Stage::Last,
            (_, Head::Waits) => Stage::Held,
            (_, Head::Leaves) => Stage::Open,
        };
        self.size = match length {
            BodyLength::Exactly(LARGE..) => Size::Large,
            _ => Size::Any,
        };
        (self.text, self.written) = (text, 0);
        (self.piece, self.behind, self.pipeful) = (Bytes::new(), b"", None);
        self.body = None;
        if self.stage != Stage::Last {
            self.body = Some(body);
        }
        (self.length, self.announced) = (length, announced);
        (self.accepted, self.unflushed) = (Accepted::Nothing, false);
    }

    /// No message: it is as good as sent.
    pub(super) fn none() -> Outgoing<B> {
        Outgoing {
            text: Text::default(),
            written: 0,
            piece: Bytes::new(),
            behind: b"",
            pipeful: None,
            size: Size::Any,
            body: None,
            length: BodyLength::Nothing,
            announced: None,
            stage: Stage::Sent,
            accepted: Accepted::Nothing,
            unflushed: false,
        }
    }

    /// Whether all of it is gone.
    pub(super) fn is_sent(&self) -> bool {
        self.stage == Stage::Sent
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

    /// Lets the body go: nobody wants the rest.
    pub(super) fn drop_body(&mut self) {
        self.body = None;
    }

    /// Whether the body's next frame is wanted now: while what waits is little, and goes out with it. Nothing is taken up
    /// behind what the connection does not take.
    fn asks(&self) -> bool {
        matches!(self.stage, Stage::Held | Stage::Open)
            && self.written == 0
            && !self.unflushed
            && !self.large_waits()
            && self.text.len() <= COALESCED
    }

    fn all_written(&self) -> bool {
        self.written == self.text.len() && !self.large_waits()
    }

    fn large_waits(&self) -> bool {
        !self.piece.is_empty() || !self.behind.is_empty() || self.pipeful.is_some()
    }

    fn add_data(&mut self, data: Bytes) -> Result<(), Unsent> {
        let behind: &'static [u8] = match &mut self.length {
            BodyLength::Exactly(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Unsent::Body)?;
                b""
            }
            BodyLength::Chunked => {
                chunk_size(&mut self.text, &data);
                b"\r\n"
            }
            BodyLength::UntilClose => b"",
            // Said to have none: a byte more would be another message.
            BodyLength::Nothing => return Err(Unsent::Body),
        };
        if data.len() <= COALESCED {
            self.text.push(&data);
            self.text.push(behind);
        } else {
            (self.piece, self.behind) = (data, behind);
        }
        Ok(())
    }

    fn add_pipeful(&mut self, pipeful: Pipeful) -> Result<(), Unsent> {
        self.stage = Stage::Open;
        if let BodyLength::Exactly(left) = &mut self.length {
            *left = left.checked_sub(pipeful.bytes()).ok_or(Unsent::Body)?;
        }
        self.pipeful = Some(pipeful);
        Ok(())
    }

    /// The body is over.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Unsent> {
        match self.length {
            BodyLength::Exactly(left) if left > 0 => return Err(Unsent::Body),
            // The end is written behind the piece. Trailers come as a frame of their own, when nothing waits.
            BodyLength::Chunked if self.large_waits() => self.behind = b"\r\n0\r\n\r\n",
            BodyLength::Chunked => last_chunk(&mut self.text, trailers, &self.announced),
            BodyLength::Exactly(_) | BodyLength::Nothing | BodyLength::UntilClose => {}
        }
        self.stage = Stage::Last;
        Ok(())
    }

    /// Writes all that waits.
    pub(super) fn poll_out<W: Outlet>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.all_written() {
            let text_waits = self.written < self.text.len();
            match &mut self.pipeful {
                Some(pipeful) if !text_waits => {
                    if ready!(to.poll_drain(pipeful, cx))? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    (self.accepted, self.unflushed) = (Accepted::Some, true);
                    if pipeful.bytes() == 0 {
                        self.pipeful = None;
                    }
                }
                Some(_) | None => {
                    let wrote = ready!(self.poll_write(to, cx))?;
                    self.wrote(wrote);
                }
            }
        }
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.text.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: Outlet>(&self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let text = &self.text.as_bytes()[self.written..];
        let to = Pin::new(to);
        let wrote = if self.piece.is_empty() && self.behind.is_empty() {
            ready!(to.poll_write(cx, text))?
        } else if text.is_empty() && self.behind.is_empty() {
            ready!(to.poll_write(cx, &self.piece))?
        } else {
            let slices = [text, &self.piece, self.behind].map(IoSlice::new);
            ready!(to.poll_write_vectored(cx, &slices))?
        };
        Poll::Ready(if wrote == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(wrote) })
    }

    fn wrote(&mut self, bytes: usize) {
        (self.accepted, self.unflushed) = (Accepted::Some, true);
        let of_text = bytes.min(self.text.len() - self.written);
        self.written += of_text;
        let of_piece = (bytes - of_text).min(self.piece.len());
        self.piece.advance(of_piece);
        if self.piece.is_empty() {
            // Even an empty piece holds the memory that the next one is to be read into.
            self.piece = Bytes::new();
        }
        self.behind = &self.behind[bytes - of_text - of_piece..];
    }
}

impl<B: Spliced + Unpin> Outgoing<B> {
    /// Sends what can be sent. Ready when there is no more to do.
    pub(super) fn poll<W: Outlet>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            // What is at hand of the body goes out with what waits already.
            let mut more = true;
            while more && self.asks() {
                more = match self.size {
                    Size::Large if to.takes_pipefuls() => self.poll_large(cx)?,
                    Size::Large | Size::Any => self.poll_more(cx)?,
                };
            }
            if !more && self.stage == Stage::Held {
                self.stage = Stage::Open;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if ready!(self.poll_out(to, cx)).is_err() {
                return Poll::Ready(Err(Unsent::Io));
            }
            match self.stage {
                Stage::Held | Stage::Open if more => {}
                Stage::Held | Stage::Open => return Poll::Pending,
                // A connection may wait long for its next message: it holds nothing of the last one's body.
                Stage::Last => {
                    (self.stage, self.body) = (Stage::Sent, None);
                    return Poll::Ready(Ok(()));
                }
                Stage::Sent => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes up what is next of a large body. `false`: there is nothing yet.
    fn poll_large(&mut self, cx: &mut Context<'_>) -> Result<bool, Unsent> {
        let Some(body) = &mut self.body else { return self.poll_more(cx) };
        match body.poll_pipeful(cx) {
            Poll::Ready(Ok(Some(pipeful))) => {
                let over = body.is_end_stream();
                self.add_pipeful(pipeful)?;
                if over { self.end(None) } else { Ok(()) }.map(|()| true)
            }
            Poll::Ready(Ok(None)) => self.poll_more(cx),
            Poll::Ready(Err(_)) => Err(Unsent::Body),
            Poll::Pending => Ok(false),
        }
    }

    /// Takes up one more frame of the body. `false`: there is none yet.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Result<bool, Unsent> {
        let Some(body) = &mut self.body else { return self.end(None).map(|()| true) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => self.add(frame).map(|()| true),
            Poll::Ready(Some(Err(_))) => Err(Unsent::Body),
            Poll::Ready(None) => self.end(None).map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    fn add(&mut self, frame: Frame<Bytes>) -> Result<(), Unsent> {
        self.stage = Stage::Open;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.trailers_ref()),
        };
        if !data.is_empty() {
            self.add_data(data)?;
        }
        if self.body.as_ref().is_none_or(http_body::Body::is_end_stream) {
            self.end(None)
        } else {
            Ok(())
        }
    }
}
