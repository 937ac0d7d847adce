//! The transport over real sockets: clients and upstreams of every kind around a handler that only passes on.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail, and takes time"
)]
#![allow(unreachable_pub, reason = "the modules are this test's own")]

mod answers;
mod breaking;
mod closing;
mod http2;
mod large;
mod passing;
mod pooling;
mod served;
mod support;
mod uploads;
