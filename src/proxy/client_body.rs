//! A request's body as its client's connection gives it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::http1::{Arriving, BrokenIn, Interims, Upgrading};
use super::splice::{Carried, Pipeful};

/// What follows a request's head on its connection.
#[derive(Debug)]
pub struct ClientBody(Came);

#[derive(Debug)]
enum Came {
    Http1(Arriving),
    Http2(Incoming),
}

/// Why a request's body does not arrive whole.
#[derive(Debug)]
pub enum Torn {
    /// The client broke it off, or its framing is wrong (HTTP/1).
    Http1(BrokenIn),
    /// The client broke it off, or its framing is wrong (HTTP/2).
    Http2(hyper::Error),
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Torn::Http1(broken) => broken.fmt(f),
            Torn::Http2(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Torn {}

impl ClientBody {
    /// The body of a request on a connection of HTTP/1.
    pub(super) fn http1(body: Arriving) -> ClientBody {
        ClientBody(Came::Http1(body))
    }

    /// The body of a request on a stream of HTTP/2.
    pub(super) fn http2(body: Incoming) -> ClientBody {
        ClientBody(Came::Http2(body))
    }

    /// What the connection will be behind a 101; `None` where there can be none (RFC 9113 §8.6).
    pub fn upgrading(&self) -> Option<Upgrading> {
        match &self.0 {
            Came::Http1(body) => Some(body.upgrading()),
            Came::Http2(_) => None,
        }
    }

    /// Where interim answers to the request go; `None` where they end here: the HTTP/2 that clients are spoken to in sends
    /// none.
    pub fn interims(&self) -> Option<Interims> {
        match &self.0 {
            Came::Http1(body) => Some(body.interims()),
            Came::Http2(_) => None,
        }
    }

    /// Whether another task takes the body's framing off, so that what has arrived may not be here yet.
    pub(super) fn is_decoded_elsewhere(&self) -> bool {
        matches!(self.0, Came::Http2(_))
    }
}

impl Carried for ClientBody {
    fn is_at_hand(&self) -> bool {
        match &self.0 {
            Came::Http1(body) => body.is_at_hand(),
            Came::Http2(_) => false,
        }
    }

    fn poll_pipeful(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Pipeful>, Torn>> {
        match &mut self.0 {
            Came::Http1(body) => body.poll_pipeful(cx).map_err(Torn::Http1),
            Came::Http2(_) => Poll::Ready(Ok(None)),
        }
    }
}

impl http_body::Body for ClientBody {
    type Data = Bytes;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        match &mut self.0 {
            Came::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Torn::Http1),
            Came::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Torn::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Came::Http1(body) => body.is_end_stream(),
            Came::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Came::Http1(body) => body.size_hint(),
            Came::Http2(body) => body.size_hint(),
        }
    }
}
