//! The answer to a claimed request is read to its end whether the client stays or not, and kept for repeats on the way.
//! The record closes before the client has the last byte: whoever has the whole answer and asks again gets it again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::sleep;

use super::body::{AnswerError, UpstreamBody};
use super::context::WorkerContext;
use super::peer::Peer;
use super::request_body::BodyWatch;
use crate::killpoint::{self, KillPoint};
use crate::store::{Completion, KeptAnswer, Reservation};

/// Pieces that may wait for a slow client.
const WAITING: usize = 4;
/// Pieces by which a client may be behind the one who reads an answer that is kept: of bytes it is what is kept at most.
const BEHIND: usize = 1_024;
/// An answer that takes longer than this streams for ever, as far as repeats go: it is done and not replayable.
const LONGEST: Duration = Duration::from_mins(1);

/// One piece of an answer on its way from who reads it to the client.
struct Piece {
    frame: Result<Frame<Bytes>, AnswerError>,
    then: Then,
}

/// What follows a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    More,
    End,
}

/// The client, as who reads its answer knows it.
struct Client {
    /// `None`: it has left.
    open: Option<mpsc::Sender<Piece>>,
    /// Pieces for which it has no room yet.
    waiting: VecDeque<Piece>,
}

impl Client {
    fn give(&mut self, piece: Piece) {
        let Some(open) = &self.open else { return };
        if !self.waiting.is_empty() {
            self.waiting.push_back(piece);
            return;
        }
        match open.try_send(piece) {
            Ok(()) => {}
            Err(TrySendError::Full(piece)) => self.waiting.push_back(piece),
            Err(TrySendError::Closed(_)) => self.open = None,
        }
    }

    /// Gives it the next of those that wait, once it has room or has left.
    async fn catch_up(&mut self) {
        if let Some(open) = &self.open
            && let Ok(room) = open.reserve().await
        {
            if let Some(piece) = self.waiting.pop_front() {
                room.send(piece);
            }
            return;
        }
        self.waiting.clear();
        self.open = None;
    }

    /// Whether the whole answer is on its way to it.
    fn has_all(&self, then: Then) -> bool {
        then == Then::End && self.waiting.is_empty()
    }
}

/// An answer's body as the client sees it while somebody else reads it, or has read it.
#[derive(Debug)]
pub(super) struct Piped {
    pieces: Pieces,
    then: Then,
    left: SizeHint,
}

/// Where the pieces of an answer come from.
#[derive(Debug)]
enum Pieces {
    /// From who reads it.
    Coming(mpsc::Receiver<Piece>),
    /// There is one, and it is here.
    Here(Option<Frame<Bytes>>),
}

/// What a look at an answer's body has found.
type Found = Poll<Option<Result<Frame<Bytes>, AnswerError>>>;

/// Who reads a claimed request's answer.
pub(super) struct Capture {
    at: Rc<WorkerContext>,
    /// Until the answer is over: what is open is open although nothing of it can be kept.
    reservation: Option<Reservation>,
    kept: Option<Kept>,
    watch: BodyWatch,
    /// The client's connection counts until its answer is read, so that a drain waits for it.
    _peer: Rc<Peer>,
}

/// What there is to keep so far.
struct Kept {
    answer: KeptAnswer,
    body: BytesMut,
    most: usize,
}

impl Capture {
    /// For an answer with this head, of whose body at most `most` bytes are kept.
    pub(super) fn new(
        at: Rc<WorkerContext>,
        peer: Rc<Peer>,
        reservation: Reservation,
        head: KeptAnswer,
        most: usize,
        watch: BodyWatch,
    ) -> Capture {
        let kept = Some(Kept { answer: head, body: BytesMut::new(), most });
        Capture { at, reservation: Some(reservation), kept, watch, _peer: peer }
    }

    /// The answer has no body.
    pub(super) fn without_body(mut self) {
        self.ended();
    }

    /// Nothing of the answer can be kept.
    fn give_up(&mut self) {
        self.kept = None;
        if let Some(reservation) = &mut self.reservation {
            reservation.complete(&self.at.ledger, Completion::NotReplayable);
        }
    }

    /// Reads: at once what is at hand, and the rest in a task of its own. What it returns is the client's body. Most answers
    /// that are kept are at hand whole, and need no task, channel and timer of their own.
    pub(super) fn read(mut self, mut body: UpstreamBody) -> Piped {
        let left = body.size_hint();
        // It wakes nobody: whoever reads on looks again.
        let mut nobody = Context::from_waker(Waker::noop());
        let pieces = match Pin::new(&mut body).poll_frame(&mut nobody) {
            Poll::Ready(Some(Ok(frame))) if body.is_end_stream() => {
                self.keep(&frame);
                self.ended();
                Pieces::Here(Some(frame))
            }
            first => {
                let (to_client, pieces) = mpsc::channel(WAITING);
                // Boxed: a task is moved several times before it runs.
                let rest = Box::pin(self.read_to_the_end(first, body, to_client));
                tokio::task::spawn_local(rest);
                Pieces::Coming(pieces)
            }
        };
        Piped { pieces, then: Then::More, left }
    }

    async fn read_to_the_end(
        mut self,
        mut first: Found,
        mut body: UpstreamBody,
        to_client: mpsc::Sender<Piece>,
    ) {
        let mut client = Client { open: Some(to_client), waiting: VecDeque::new() };
        let mut too_long = Box::pin(sleep(LONGEST));
        let mut then = Then::More;
        // Until nobody wants the rest: neither the client nor the record.
        while !(client.has_all(then) || client.open.is_none() && self.kept.is_none()) {
            // A client that does not read must not keep the record in flight.
            let room = if self.kept.is_some() { BEHIND } else { 1 };
            let reads = then == Then::More && client.waiting.len() < room;
            let next = poll_fn(|cx| match std::mem::replace(&mut first, Poll::Pending) {
                Poll::Ready(first) => Poll::Ready(first),
                Poll::Pending => Pin::new(&mut body).poll_frame(cx),
            });
            let frame = tokio::select! {
                frame = next, if reads => frame,
                () = client.catch_up(), if !client.waiting.is_empty() => continue,
                () = &mut too_long, if self.kept.is_some() => {
                    self.give_up();
                    continue;
                }
            };
            let frame = match frame {
                None => {
                    self.ended();
                    then = Then::End;
                    Ok(Frame::data(Bytes::new()))
                }
                Some(Ok(frame)) => {
                    self.keep(&frame);
                    if body.is_end_stream() {
                        self.ended();
                        then = Then::End;
                    }
                    Ok(frame)
                }
                Some(Err(error)) => {
                    self.kept = None;
                    self.over(Completion::Broken);
                    then = Then::End;
                    Err(error)
                }
            };
            client.give(Piece { frame, then });
        }
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        match frame.data_ref() {
            Some(data) if kept.body.len() + data.len() <= kept.most => {
                kept.body.extend_from_slice(data);
            }
            // Too large, or trailers, which a kept answer has no place for.
            Some(_) | None => self.give_up(),
        }
    }

    /// The body has ended as it should.
    fn ended(&mut self) {
        killpoint::pass(KillPoint::AfterBody);
        let completion = match (self.kept.take(), self.watch.print()) {
            (Some(kept), Some(print)) => {
                let answer = KeptAnswer { body: kept.body.freeze(), ..kept.answer };
                Completion::Answered(Arc::new(answer), print)
            }
            // The upstream answered before it had the whole request: no repeat could be compared with it.
            (None, _) | (_, None) => Completion::NotReplayable,
        };
        self.over(completion);
    }

    /// The answer is over. Of an answer that was given up on this changes nothing any more.
    fn over(&mut self, completion: Completion) {
        if let Some(mut reservation) = self.reservation.take() {
            reservation.complete(&self.at.ledger, completion);
            reservation.close(&self.at.ledger);
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // The worker ends in the middle of an answer.
        self.over(Completion::Broken);
    }
}

impl http_body::Body for Piped {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if self.then == Then::End {
            return Poll::Ready(None);
        }
        let piece = match &mut self.pieces {
            Pieces::Coming(pieces) => ready!(pieces.poll_recv(cx)),
            Pieces::Here(only) => {
                only.take().map(|frame| Piece { frame: Ok(frame), then: Then::End })
            }
        };
        let Some(Piece { frame, then }) = piece else {
            self.then = Then::End;
            return Poll::Ready(Some(Err(AnswerError::Broke)));
        };
        self.then = then;
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            if data.is_empty() && then == Then::End {
                return Poll::Ready(None);
            }
            if let Some(exact) = self.left.exact() {
                self.left = SizeHint::with_exact(exact.saturating_sub(data.len() as u64));
            }
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.then == Then::End
    }

    fn size_hint(&self) -> SizeHint {
        self.left
    }
}
