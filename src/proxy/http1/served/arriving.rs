//! The body of a request, read from its connection frame by frame as it is asked for. Nobody else reads there meanwhile.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::client::{Client, Reading};
use super::interims::Interims;
use super::upgrading::Upgrading;
use crate::proxy::splice::{Carried, Pipeful};

/// Why a request breaks off in the middle.
#[derive(Debug)]
pub enum BrokenIn {
    /// The client ended its side before the body's end.
    Early,
    /// The connection failed.
    Io(io::Error),
    /// Its framing is wrong. Says how.
    Framing(&'static str),
}

impl fmt::Display for BrokenIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokenIn::Early => f.write_str("the client ended before its body did"),
            BrokenIn::Io(error) => error.fmt(f),
            BrokenIn::Framing(how) => f.write_str(how),
        }
    }
}

impl std::error::Error for BrokenIn {}

/// A request's body on its way in. Dropped in its middle, it ends the connection behind the answer.
#[derive(Debug)]
pub struct Arriving {
    client: Rc<Client>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Some of it is to come.
    Open,
    /// It was read to its end, or broke: what comes on the connection is of another request.
    Over,
}

impl Arriving {
    /// The body of the request whose head was just read.
    pub(super) fn new(client: &Rc<Client>) -> Arriving {
        let state = match client.reading.get() {
            Reading::Over => State::Over,
            Reading::Unasked | Reading::Asked | Reading::Unwanted | Reading::GivenUp => State::Open,
        };
        Arriving { client: Rc::clone(client), state }
    }

    /// What the connection will be behind a 101.
    pub(in crate::proxy) fn upgrading(&self) -> Upgrading {
        Upgrading::new(&self.client)
    }

    /// Where interim answers to the request go.
    pub(in crate::proxy) fn interims(&self) -> Interims {
        Interims::new(&self.client)
    }

    fn ends(&mut self, reading: Reading, cx: &Context<'_>) {
        self.state = State::Over;
        self.client.done(reading, Some(cx.waker()));
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = BrokenIn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenIn>>> {
        if self.state == State::Over {
            return Poll::Ready(None);
        }
        self.client.reading.set(Reading::Asked);
        let mut io = self.client.io.borrow_mut();
        let frame = ready!(io.poll_frame(cx));
        let over = match &frame {
            Some(Ok(_)) => io.ends_here().then_some(Reading::Over),
            Some(Err(_)) => Some(Reading::GivenUp),
            None => Some(Reading::Over),
        };
        if over == Some(Reading::Over) {
            io.is_read();
        }
        drop(io);
        if let Some(reading) = over {
            self.ends(reading, cx);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Over
    }

    fn size_hint(&self) -> SizeHint {
        match self.state {
            State::Over => SizeHint::with_exact(0),
            State::Open => {
                let left = self.client.io.borrow().left.bytes();
                left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

impl Carried for Arriving {
    fn is_at_hand(&self) -> bool {
        self.state == State::Open && self.client.io.borrow().is_at_hand()
    }

    fn poll_pipeful(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Pipeful>, BrokenIn>> {
        if self.state == State::Over {
            return Poll::Ready(Ok(None));
        }
        self.client.reading.set(Reading::Asked);
        let mut io = self.client.io.borrow_mut();
        let came = ready!(io.poll_pipeful(cx));
        let over = match &came {
            Ok(Some(_)) => io.ends_here().then_some(Reading::Over),
            Ok(None) => None,
            Err(_) => Some(Reading::GivenUp),
        };
        if over == Some(Reading::Over) {
            io.is_read();
        }
        drop(io);
        if let Some(reading) = over {
            self.ends(reading, cx);
        }
        Poll::Ready(came)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.state == State::Open {
            let reading = match self.client.reading.get() {
                Reading::Unasked => Reading::Unwanted,
                Reading::Asked | Reading::Over | Reading::Unwanted | Reading::GivenUp => {
                    Reading::GivenUp
                }
            };
            self.client.done(reading, None);
        }
    }
}
