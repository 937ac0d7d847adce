//! An answer's body on its way to the client: it streams with back-pressure, frame by frame, trailers included, and what
//! hangs on its end is told exactly once.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::capture::Piped;
use super::cut::Cut;
use super::deadline::Silence;
use super::http1::{Arrived, BrokenOff, Switched, Text};
use super::pool::SharedStream;
use super::splice::{Carried, Pipeful};

/// How an answer's body ended, as far as the gate saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// The whole of it was handed to the client's connection.
    Clean,
    /// The upstream broke it off, or fell silent; the client's message breaks too.
    Broke,
    /// It was cut from outside ([`Cut`]); the client's message breaks.
    Cut,
    /// Nobody wants the rest: the client has left, or the worker ends.
    Dropped,
}

/// What hangs on the end of an answer: settlement, the record. Told exactly once.
pub trait OnEnd: 'static {
    /// The body ended; `bytes` of it were handed on.
    fn ended(self, how: BodyEnd, bytes: u64);
}

/// For answers on whose end nothing hangs.
impl OnEnd for () {
    fn ended(self, _: BodyEnd, _: u64) {}
}

/// Why an answer's body breaks off.
#[derive(Debug)]
pub enum AnswerError {
    /// The upstream broke it off (HTTP/1).
    Http1(BrokenOff),
    /// The upstream broke it off (HTTP/2).
    Http2(hyper::Error),
    /// The upstream was silent for too long.
    Silent,
    /// It was cut from outside.
    Cut,
    /// Who read it for the client found it broken.
    Broke,
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AnswerError::Http1(_) | AnswerError::Http2(_) => "the upstream broke its answer off",
            AnswerError::Silent => "the upstream was silent in the middle of its answer",
            AnswerError::Cut => "the exchange is no longer admitted",
            AnswerError::Broke => "the upstream's answer broke off",
        })
    }
}

impl std::error::Error for AnswerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AnswerError::Http1(error) => Some(error),
            AnswerError::Http2(error) => Some(error),
            AnswerError::Silent | AnswerError::Cut | AnswerError::Broke => None,
        }
    }
}

/// The upstream's body, holding on to the connection that it comes from.
#[derive(Debug)]
pub struct UpstreamBody(Came);

#[derive(Debug)]
enum Came {
    Http1(Arrived),
    /// Boxed, because it is rarer and larger.
    Http2(Box<Streamed>),
}

/// A body on a stream of a shared connection.
#[derive(Debug)]
struct Streamed {
    incoming: Incoming,
    stream: Option<SharedStream>,
    silence: Silence,
}

impl UpstreamBody {
    /// A body from a connection of its own.
    pub(super) fn http1(body: Arrived) -> UpstreamBody {
        UpstreamBody(Came::Http1(body))
    }

    /// A body on a stream of a shared connection, which is given up with its end.
    pub(super) fn http2(incoming: Incoming, stream: SharedStream, idle: Duration) -> UpstreamBody {
        let stream = Some(stream).filter(|_| !http_body::Body::is_end_stream(&incoming));
        let silence = Silence::new(idle);
        UpstreamBody(Came::Http2(Box::new(Streamed { incoming, stream, silence })))
    }

    /// All of it, if it is at hand.
    fn whole(&self) -> Option<&Bytes> {
        match &self.0 {
            Came::Http1(Arrived::Whole(bytes)) => Some(bytes),
            Came::Http1(Arrived::Coming(_)) | Came::Http2(_) => None,
        }
    }

    /// What follows a 101; `None` where nothing can.
    pub fn switched(self) -> Option<Switched> {
        match self.0 {
            Came::Http1(Arrived::Coming(body)) => body.switched(),
            // A 101 has no body, and HTTP/2 knows none (RFC 9113 §8.6).
            Came::Http1(Arrived::Whole(_)) | Came::Http2(_) => None,
        }
    }
}

impl From<BrokenOff> for AnswerError {
    fn from(broken: BrokenOff) -> AnswerError {
        match broken {
            BrokenOff::Silent => AnswerError::Silent,
            broken => AnswerError::Http1(broken),
        }
    }
}

impl Carried for UpstreamBody {
    fn is_at_hand(&self) -> bool {
        match &self.0 {
            Came::Http1(Arrived::Coming(body)) => body.is_at_hand(),
            Came::Http1(Arrived::Whole(_)) | Came::Http2(_) => false,
        }
    }

    fn poll_pipeful(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Pipeful>, AnswerError>> {
        match &mut self.0 {
            Came::Http1(Arrived::Coming(body)) => body.poll_pipeful(cx).map_err(AnswerError::from),
            Came::Http1(Arrived::Whole(_)) | Came::Http2(_) => Poll::Ready(Ok(None)),
        }
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let (incoming, stream, silence) = match &mut self.0 {
            Came::Http1(Arrived::Whole(bytes)) if bytes.is_empty() => return Poll::Ready(None),
            Came::Http1(Arrived::Whole(bytes)) => {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
            }
            Came::Http1(Arrived::Coming(body)) => {
                return Pin::new(&mut **body).poll_frame(cx).map_err(AnswerError::from);
            }
            Came::Http2(body) => (&mut body.incoming, &mut body.stream, &mut body.silence),
        };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                silence.heard();
                if http_body::Body::is_end_stream(incoming) {
                    *stream = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                *stream = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                *stream = None;
                Poll::Ready(Some(Err(AnswerError::Http2(error))))
            }
            Poll::Pending => {
                ready!(silence.poll(cx));
                *stream = None;
                Poll::Ready(Some(Err(AnswerError::Silent)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Came::Http1(Arrived::Whole(bytes)) => bytes.is_empty(),
            Came::Http1(Arrived::Coming(body)) => http_body::Body::is_end_stream(&**body),
            Came::Http2(body) => http_body::Body::is_end_stream(&body.incoming),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Came::Http1(Arrived::Whole(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Came::Http1(Arrived::Coming(body)) => http_body::Body::size_hint(&**body),
            Came::Http2(body) => http_body::Body::size_hint(&body.incoming),
        }
    }
}

#[derive(Debug)]
enum Source {
    Empty,
    Full(Bytes),
    Upstream(UpstreamBody),
    /// Boxed, because it is rarer and larger.
    Piped(Box<Piped>),
}

/// An answer's body on its way to the client, with what hangs on its end.
#[derive(Debug)]
pub struct Body<E: OnEnd = ()> {
    source: Source,
    on_end: Option<E>,
    cut: Option<Cut>,
    bytes: u64,
}

impl<E: OnEnd> Body<E> {
    /// No body.
    pub fn empty() -> Body<E> {
        Body { source: Source::Empty, on_end: None, cut: None, bytes: 0 }
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Body<E> {
        let bytes = bytes.into();
        let source = if bytes.is_empty() { Source::Empty } else { Source::Full(bytes) };
        Body { source, on_end: None, cut: None, bytes: 0 }
    }

    /// The upstream's body, as it arrives.
    pub fn upstream(body: UpstreamBody) -> Body<E> {
        Body { source: Source::Upstream(body), on_end: None, cut: None, bytes: 0 }
    }

    /// The upstream's body, by way of somebody who reads it to its end whether the client does or not.
    pub(super) fn piped(body: Piped) -> Body<E> {
        Body { source: Source::Piped(Box::new(body)), on_end: None, cut: None, bytes: 0 }
    }

    /// Hangs something on the end of the body. It is told when the last frame was handed to the client's connection, or
    /// when the body is dropped: a body that is empty, or of which only the head is wanted (HEAD, 304), counts as clean.
    #[must_use]
    pub fn on_end(mut self, guard: E) -> Body<E> {
        self.hang(guard);
        self
    }

    /// As [`Body::on_end`], in its place.
    pub(super) fn hang(&mut self, guard: E) {
        self.on_end = Some(guard);
    }

    /// The bytes of a body that is at hand whole; empty for any other.
    pub(crate) fn take_full(&mut self) -> Bytes {
        match std::mem::replace(&mut self.source, Source::Empty) {
            Source::Full(bytes) => bytes,
            Source::Empty | Source::Upstream(_) | Source::Piped(_) => Bytes::new(),
        }
    }

    /// Hands the whole body on at once, behind this text, if it is at hand and short enough: then it is over.
    pub(super) fn hand_on(&mut self, most: usize, to: &mut Text) -> Option<()> {
        let whole = match &self.source {
            Source::Full(whole) => whole,
            Source::Upstream(body) => body.whole()?,
            Source::Empty | Source::Piped(_) => return None,
        };
        let length = whole.len();
        if length > most || self.cut.is_some() {
            return None;
        }
        to.push(whole);
        self.source = Source::Empty;
        self.bytes += length as u64;
        self.end(BodyEnd::Clean);
        Some(())
    }

    /// Lets `cut` break the body off while it streams.
    #[must_use]
    pub fn cut_by(mut self, cut: Cut) -> Body<E> {
        self.cut = Some(cut);
        self
    }

    fn end(&mut self, how: BodyEnd) {
        if let Some(guard) = self.on_end.take() {
            guard.ended(how, self.bytes);
        }
    }

    fn is_over(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Full(_) => false,
            Source::Upstream(body) => http_body::Body::is_end_stream(body),
            Source::Piped(body) => http_body::Body::is_end_stream(&**body),
        }
    }
}

/// Nothing in it is ever pinned.
impl<E: OnEnd> Unpin for Body<E> {}

impl<E: OnEnd> Carried for Body<E> {
    fn is_at_hand(&self) -> bool {
        match &self.source {
            Source::Upstream(body) => body.is_at_hand(),
            Source::Empty | Source::Full(_) | Source::Piped(_) => false,
        }
    }

    fn poll_pipeful(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Pipeful>, AnswerError>> {
        // One that is cut breaks off when its next frame is asked for.
        let is_cut = self.cut.as_ref().is_some_and(|cut| cut.poll(cx).is_ready());
        let Source::Upstream(upstream) = &mut self.source else { return Poll::Ready(Ok(None)) };
        if is_cut {
            return Poll::Ready(Ok(None));
        }
        let came = ready!(upstream.poll_pipeful(cx));
        match &came {
            Ok(Some(pipeful)) => {
                self.bytes += pipeful.bytes();
                if self.is_over() {
                    self.end(BodyEnd::Clean);
                }
            }
            Ok(None) => {}
            Err(_) => self.end(BodyEnd::Broke),
        }
        Poll::Ready(came)
    }
}

impl<E: OnEnd> http_body::Body for Body<E> {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let body = &mut *self;
        if body.cut.as_ref().is_some_and(|cut| cut.poll(cx).is_ready()) {
            // With the source goes the lease: the upstream's connection closes as well.
            body.source = Source::Empty;
            body.end(BodyEnd::Cut);
            return Poll::Ready(Some(Err(AnswerError::Cut)));
        }
        let frame = match &mut body.source {
            Source::Empty => None,
            Source::Full(_) => Some(Ok(Frame::data(body.take_full()))),
            Source::Upstream(upstream) => ready!(Pin::new(upstream).poll_frame(cx)),
            Source::Piped(piped) => ready!(Pin::new(&mut **piped).poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => {
                body.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if body.is_over() {
                    body.end(BodyEnd::Clean);
                }
            }
            Some(Err(_)) => body.end(BodyEnd::Broke),
            None => body.end(BodyEnd::Clean),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(body) => http_body::Body::size_hint(body),
            Source::Piped(body) => http_body::Body::size_hint(&**body),
        }
    }
}

impl<E: OnEnd> Drop for Body<E> {
    fn drop(&mut self) {
        // The gate's own bytes are there in full, whether the client wanted them (HEAD) or not.
        let how = match &self.source {
            Source::Upstream(body) if !http_body::Body::is_end_stream(body) => BodyEnd::Dropped,
            Source::Piped(body) if !http_body::Body::is_end_stream(&**body) => BodyEnd::Dropped,
            _ => BodyEnd::Clean,
        };
        self.end(how);
    }
}
