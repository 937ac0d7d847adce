//! A request on its way to the upstream, and what is known of it: whether the upstream can have seen any byte, and whether
//! it has all.

use std::task::{Context, Poll, ready};

use super::head_out::RequestHead;
use super::outgoing::{Accepted, Head, Outgoing, Unsent};
use super::text::Text;
use crate::proxy::io::Stream;
use crate::proxy::request_body::RequestBody;

/// A request, and how far it is sent.
#[derive(Debug)]
pub(super) struct Upload {
    out: Outgoing<RequestBody>,
    taken: Taken,
}

/// Whether the upstream takes more of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// As far as is known.
    More,
    /// No. It may still answer.
    Declined,
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
    /// Begins with another request, in place of one that is over.
    pub(super) fn begin(&mut self, head: RequestHead, body: RequestBody) {
        let (text, length, announced) = head.end(&body);
        let leaves = if body.is_decoded_elsewhere() { Head::Waits } else { Head::Leaves };
        self.out.begin(text, body, length, announced, leaves);
        self.taken = Taken::More;
    }

    /// No request.
    pub(super) fn none() -> Upload {
        Upload { out: Outgoing::none(), taken: Taken::More }
    }

    /// Whether the upstream has the whole request.
    pub(super) fn is_sent(&self) -> bool {
        self.out.is_sent()
    }

    /// Whether there is no more to do.
    pub(super) fn is_over(&self) -> bool {
        self.is_sent() || self.taken == Taken::Declined
    }

    /// Whether anybody can have seen a byte of it.
    pub(super) fn accepted(&self) -> Accepted {
        self.out.accepted()
    }

    /// The memory of the head, when it is not needed any more.
    pub(super) fn take_text(&mut self) -> Text {
        self.out.take_text()
    }

    /// Sends what can be sent. Ready when there is no more to do.
    pub(super) fn poll(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadFailure>> {
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(match (ready!(self.out.poll(stream, cx)), self.out.accepted()) {
            (Ok(()), _) => Ok(()),
            (Err(Unsent::Body), _) => Err(UploadFailure::Body),
            (Err(Unsent::Io), Accepted::Nothing) => Err(UploadFailure::NothingAccepted),
            (Err(Unsent::Io), Accepted::Some) => {
                self.taken = Taken::Declined;
                self.out.drop_body();
                Ok(())
            }
        })
    }
}
