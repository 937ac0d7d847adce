//! How an exchange with the upstream fails before its answer's head, and what that proves.

use super::http1::{Failure, Seen, Wrong};
use super::upstream::NoConnection;

/// Why an exchange with the upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// In which of the three ways.
    pub why: Why,
    /// Whether the upstream may have acted on the request.
    pub processed: Processed,
    /// For the log; never for the client.
    pub detail: &'static str,
}

/// The ways in which an exchange fails before its answer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No connection, or none in time: 502 or 503.
    Unreachable,
    /// No answer in time: 504.
    Timeout,
    /// The connection broke, or what came was no HTTP: 502. Also when the request's body failed; ask its `BodyWatch`.
    Broken,
}

/// Whether the upstream may have acted on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// It is proved that it did not.
    NotProcessed,
    /// Nobody knows.
    MayHaveBeen,
}

impl SendFailure {
    /// There was no connection to send on.
    pub(super) fn unreachable(failure: NoConnection) -> SendFailure {
        let NoConnection(detail) = failure;
        SendFailure { why: Why::Unreachable, processed: Processed::NotProcessed, detail }
    }
}

impl From<Failure> for SendFailure {
    fn from(failure: Failure) -> SendFailure {
        let (why, detail) = match failure.why {
            Wrong::Broke => (Why::Broken, "the connection to the upstream broke before an answer"),
            Wrong::NoAnswer => (Why::Broken, "the upstream's answer is not valid HTTP"),
            Wrong::Body => (Why::Broken, "the request's body could not be sent to its end"),
            Wrong::Late => (Why::Timeout, LATE.detail),
        };
        let processed = match failure.seen {
            Seen::Nothing => Processed::NotProcessed,
            Seen::Perhaps => Processed::MayHaveBeen,
        };
        SendFailure { why, processed, detail }
    }
}

/// No answer within `response_timeout`.
pub(super) const LATE: SendFailure = SendFailure {
    why: Why::Timeout,
    processed: Processed::MayHaveBeen,
    detail: "the upstream did not answer in time",
};

/// Nobody opened a connection in time.
pub(super) const NO_TURN: SendFailure = SendFailure {
    why: Why::Unreachable,
    processed: Processed::NotProcessed,
    detail: "the upstream took too long to connect",
};

/// Even fresh connections did not take it.
pub(super) const GAVE_UP: SendFailure = SendFailure {
    why: Why::Broken,
    processed: Processed::NotProcessed,
    detail: "the upstream closed every connection before it took the request",
};

/// A failure of an HTTP/2 exchange.
pub(super) fn broken(error: &hyper::Error) -> SendFailure {
    let detail = if error.is_parse() {
        "the upstream's answer is not valid HTTP"
    } else if error.is_user() {
        "the request's body could not be sent to its end"
    } else {
        "the connection to the upstream broke before an answer"
    };
    SendFailure { why: Why::Broken, processed: Processed::MayHaveBeen, detail }
}

/// Whether an HTTP/2 error is the upstream's own word that it did not look at the request (RFC 9113 §8.7). A GOAWAY
/// other than the graceful one ends streams below its last id too, so that it proves nothing.
pub(super) fn proves_unprocessed(error: &hyper::Error) -> bool {
    let cause =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.filter(|cause| cause.is_remote()).is_some_and(|cause| {
        let reason = cause.reason();
        (cause.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
            || (cause.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}
