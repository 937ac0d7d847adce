//! A request's body as its client's connection gives it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

/// What follows a request's head on its connection.
#[derive(Debug)]
pub struct ClientBody {
    incoming: Incoming,
    upgrade: OnUpgrade,
}

impl ClientBody {
    /// The body of a request that hyper read, and what becomes of its connection after a 101.
    pub(super) fn new(incoming: Incoming, upgrade: OnUpgrade) -> ClientBody {
        ClientBody { incoming, upgrade }
    }

    /// The body, and the connection's bytes behind a 101.
    pub fn into_parts(self) -> (Incoming, OnUpgrade) {
        (self.incoming, self.upgrade)
    }
}

impl http_body::Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
