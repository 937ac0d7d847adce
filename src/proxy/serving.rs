//! The handler, held to account: a panic in it becomes an answer. And what hyper calls for a request of HTTP/2, which
//! notices the end of its body. Never decides anything itself.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use smallvec::SmallVec;

use super::answer;
use super::body::{AnswerError, Body, OnEnd};
use super::client_body::ClientBody;
use super::counters::{ConnectionCounters, up};
use super::drain::DrainSignal;
use super::peer::{AtHand, Coming, Handler, Peer};
use super::wire::{Owed, Wire};
use crate::policy::fields::{Field, Fields};
use crate::policy::head::{Target, Unchecked};

/// What the requests of one connection have in common.
pub(super) struct Serving<H> {
    pub(super) handler: H,
    pub(super) peer: Rc<Peer>,
    pub(super) counters: Arc<ConnectionCounters>,
    pub(super) drain: Rc<DrainSignal>,
}

impl<H: Handler> Serving<H> {
    /// Hands a request to the handler. The answer is `at_hand` then, unless it comes later.
    pub(super) fn handle(
        &self,
        head: &Unchecked<'_>,
        body: ClientBody,
        at_hand: &mut AtHand<H::End>,
    ) -> Option<Coming<H::End>> {
        // What a panicking request leaves behind is its own: shared cells are never borrowed across an await.
        let handled = catch_unwind(AssertUnwindSafe(|| {
            self.handler.handle(Rc::clone(&self.peer), head, body, at_hand)
        }));
        handled.unwrap_or_else(|_| {
            *at_hand = AtHand::Answer(self.panicked());
            None
        })
    }

    /// The answer where the handling of a request has panicked.
    pub(super) fn panicked(&self) -> answer::Answer<Body<H::End>> {
        up(&self.counters.panics);
        self.handler.panicked()
    }

    /// Hands a request of HTTP/2 to the handler.
    pub(super) fn answer(
        self: &Rc<Self>,
        wire: &Rc<Wire>,
        request: Request<Incoming>,
    ) -> Answering<H> {
        let head_only = request.method() == Method::HEAD;
        let owed = Owed::new(wire);
        let (parts, body) = request.into_parts();
        let lines: SmallVec<[Field<'_>; 24]> = parts
            .headers
            .iter()
            .map(|(name, value)| Field { name: name.as_str(), value: value.as_bytes() })
            .collect();
        let head = Unchecked {
            method: &parts.method,
            target: Target {
                authority: parts.uri.authority().map(http::uri::Authority::as_str),
                path: parts.uri.path(),
                query: parts.uri.query(),
            },
            version: parts.version,
            fields: Fields(&lines),
            mark: None,
        };
        let mut now = AtHand::Nothing;
        let later = self.handle(&head, ClientBody::http2(body), &mut now);
        Answering { serving: Rc::clone(self), owed: Some(owed), head_only, now: now.take(), later }
    }
}

/// An answer of HTTP/2 on its way. Written by hand instead of `async`, because hyper keeps one with every connection and moves it
/// in and out: 300 bytes instead of 2 400.
pub(super) struct Answering<H: Handler> {
    serving: Rc<Serving<H>>,
    owed: Option<Owed>,
    head_only: bool,
    now: Option<answer::Answer<Body<H::End>>>,
    later: Option<Coming<H::End>>,
}

impl<H: Handler> Future for Answering<H> {
    type Output = Result<Response<Answer<H::End>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Answering { serving, now, later, .. } = &mut *self;
        if let (None, Some(coming)) = (&now, later) {
            // Into its place from within: on the way out of the closure it would be moved twice.
            let polled = catch_unwind(AssertUnwindSafe(|| {
                coming.as_mut().poll(cx).map(|answer| *now = Some(answer))
            }));
            match polled {
                Ok(polled) => ready!(polled),
                Err(_) => *now = Some(serving.panicked()),
            }
        }
        let this = &mut *self;
        // Both are there until the answer is given, and nobody asks for it twice.
        let (Some(answer), Some(owed)) = (this.now.take(), this.owed.take()) else {
            return Poll::Pending;
        };
        let answer::Answer { mut head, mut body } = answer;
        if this.head_only {
            // hyper leaves the body of an answer to HEAD out for HTTP/1 only (RFC 9110 §9.3.2).
            let unsent = body.take_full();
            if !unsent.is_empty() {
                head.fields_mut().remove("content-length");
                head.fields_mut().add_number("content-length", unsent.len() as u64);
            }
        }
        Poll::Ready(Ok(Response::from_parts(head.into_parts(), Answer { body, owed })))
    }
}

/// An answer's body as hyper has it: when it is dropped, nothing is owed any more.
pub(super) struct Answer<E: OnEnd> {
    body: Body<E>,
    owed: Owed,
}

impl<E: OnEnd> http_body::Body for Answer<E> {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        self.owed.asked();
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.owed.gave();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
