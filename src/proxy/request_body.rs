//! A request's body on its way to the upstream: it streams with back-pressure, frame by frame, trailers included, bounded
//! in size and silence, and never buffered whole. What became of it is known exactly once, to whoever asked for it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::client_body::{ClientBody, Torn};
use super::context::WorkerContext;
use super::deadline::Silence;
use super::forward::request_trailers;
use super::splice::{Carried, Pipeful};
use crate::policy::idempotency::{BodyPrint, BodyPrinter};

/// How far a request's body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFate {
    /// It is still on its way, or was never asked for.
    Reading,
    /// It was passed on to its end.
    Complete,
    /// It is larger than the route allows.
    TooLarge,
    /// The client was silent for too long in the middle of it.
    TooSlow,
    /// The client broke it off, or its framing is wrong.
    ClientGone,
}

#[derive(Debug)]
struct Progress {
    fate: Cell<BodyFate>,
    bytes: Cell<u64>,
    /// Made of what passes, where somebody will ask for it.
    print: RefCell<Option<BodyPrinter>>,
}

/// Tells what became of a request's body, while and after it streams. Cheap to clone; of one worker.
#[derive(Clone, Debug, Default)]
pub struct BodyWatch(Option<Rc<Progress>>);

impl BodyWatch {
    /// How far the body has come. Without a body: complete.
    pub fn fate(&self) -> BodyFate {
        self.0.as_ref().map_or(BodyFate::Complete, |progress| progress.fate.get())
    }

    /// Bytes of it that were passed on.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |progress| progress.bytes.get())
    }

    /// The print of the whole body; `None` where it was not passed on to its end, or nobody asked for a print.
    pub(super) fn print(&self) -> Option<BodyPrint> {
        let Some(progress) = &self.0 else { return Some(BodyPrinter::default().finish()) };
        let printer = progress.print.borrow().clone();
        printer.filter(|_| progress.fate.get() == BodyFate::Complete).map(BodyPrinter::finish)
    }
}

/// Why a request's body could not be passed on: the error that the upstream's connection sees.
#[derive(Debug)]
pub enum BodyError {
    /// Larger than the route allows.
    TooLarge,
    /// The client was silent for too long.
    TooSlow,
    /// The client broke it off, or its framing is wrong.
    Client(Torn),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyError::TooLarge => "the request's body is larger than the route allows",
            BodyError::TooSlow => "the client was silent in the middle of the request's body",
            BodyError::Client(_) => "the client broke the request's body off",
        })
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BodyError::Client(error) => Some(error),
            BodyError::TooLarge | BodyError::TooSlow => None,
        }
    }
}

/// A request's body on its way to the upstream.
#[derive(Debug, Default)]
pub struct RequestBody(Option<Streaming>);

#[derive(Debug)]
struct Streaming {
    incoming: ClientBody,
    most: u64,
    silence: Silence,
    progress: Rc<Progress>,
    trailers: Option<TrailerRule>,
}

/// The worker whose policy says what a client may not say behind its body either.
struct TrailerRule(Rc<WorkerContext>);

impl fmt::Debug for TrailerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrailerRule")
    }
}

impl RequestBody {
    /// No body.
    pub fn empty() -> RequestBody {
        RequestBody(None)
    }

    /// Passes the client's body on: at most `max` bytes, with at most `idle` of silence in the middle of it.
    pub fn new(incoming: ClientBody, max: Option<u64>, idle: Duration) -> RequestBody {
        if http_body::Body::is_end_stream(&incoming) {
            return RequestBody(None);
        }
        let progress = Rc::new(Progress {
            fate: Cell::new(BodyFate::Reading),
            bytes: Cell::new(0),
            print: RefCell::default(),
        });
        RequestBody(Some(Streaming {
            incoming,
            most: max.unwrap_or(u64::MAX),
            silence: Silence::new(idle),
            progress,
            trailers: None,
        }))
    }

    /// Has its trailers held to the policy that is in force when they come: some backends take them for headers.
    #[must_use]
    pub(super) fn held_to(mut self, at: &Rc<WorkerContext>) -> RequestBody {
        if let Some(body) = &mut self.0 {
            body.trailers = Some(TrailerRule(Rc::clone(at)));
        }
        self
    }

    /// Has a print made of it while it streams, so that a repeat can be told from another request.
    #[must_use]
    pub(super) fn printed(self) -> RequestBody {
        if let Some(body) = &self.0 {
            body.progress.print.replace(Some(BodyPrinter::default()));
        }
        self
    }

    /// Whether what has arrived of it may need another task's turn before it is here.
    pub(super) fn is_decoded_elsewhere(&self) -> bool {
        self.0.as_ref().is_some_and(|body| body.incoming.is_decoded_elsewhere())
    }

    /// What will tell about this body once it is on its way.
    pub fn watch(&self) -> BodyWatch {
        BodyWatch(self.0.as_ref().map(|streaming| Rc::clone(&streaming.progress)))
    }
}

impl Streaming {
    /// More of it came, in bytes.
    fn came(&mut self, more: u64) -> Result<(), BodyError> {
        self.silence.heard();
        let bytes = self.progress.bytes.get() + more;
        if bytes > self.most {
            self.progress.fate.set(BodyFate::TooLarge);
            return Err(BodyError::TooLarge);
        }
        self.progress.bytes.set(bytes);
        Ok(())
    }

    fn torn(&self, torn: Torn) -> BodyError {
        self.progress.fate.set(BodyFate::ClientGone);
        BodyError::Client(torn)
    }

    /// To be polled while nothing comes; ready when that was too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        ready!(self.silence.poll(cx));
        self.progress.fate.set(BodyFate::TooSlow);
        Poll::Ready(BodyError::TooSlow)
    }
}

impl Carried for RequestBody {
    fn is_at_hand(&self) -> bool {
        self.0.as_ref().is_some_and(|body| body.incoming.is_at_hand())
    }

    fn poll_pipeful(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Pipeful>, BodyError>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(Ok(None)) };
        // A print is made of bytes that are here.
        if body.progress.print.borrow().is_some() {
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(match body.incoming.poll_pipeful(cx) {
            Poll::Ready(Ok(Some(pipeful))) => body.came(pipeful.bytes()).map(|()| {
                if http_body::Body::is_end_stream(&body.incoming) {
                    body.progress.fate.set(BodyFate::Complete);
                }
                Some(pipeful)
            }),
            Poll::Ready(Ok(None)) => Ok(None),
            Poll::Ready(Err(torn)) => Err(body.torn(torn)),
            Poll::Pending => Err(ready!(body.poll_silence(cx))),
        })
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        match Pin::new(&mut body.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let more = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Err(error) = body.came(more) {
                    return Poll::Ready(Some(Err(error)));
                }
                if let (Some(data), Some(printer)) =
                    (frame.data_ref(), &mut *body.progress.print.borrow_mut())
                {
                    printer.update(data);
                }
                if frame.is_trailers() || http_body::Body::is_end_stream(&body.incoming) {
                    body.progress.fate.set(BodyFate::Complete);
                }
                Poll::Ready(Some(Ok(match (frame.into_trailers(), &body.trailers) {
                    (Ok(mut trailers), Some(TrailerRule(at))) => {
                        request_trailers(&mut trailers, &at.policy.load());
                        Frame::trailers(trailers)
                    }
                    (Ok(trailers), None) => Frame::trailers(trailers),
                    (Err(frame), _) => frame,
                })))
            }
            Poll::Ready(None) => {
                body.progress.fate.set(BodyFate::Complete);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(torn))) => Poll::Ready(Some(Err(body.torn(torn)))),
            Poll::Pending => body.poll_silence(cx).map(|error| Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| http_body::Body::is_end_stream(&body.incoming))
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or(SizeHint::with_exact(0), |body| http_body::Body::size_hint(&body.incoming))
    }
}
