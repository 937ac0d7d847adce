//! What a worker counts about connections. One writer each: the worker's own thread; telemetry sums them at scrape.
//! Never counts anything of a request.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters and gauges of one worker, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ConnectionCounters {
    /// Client connections open now.
    pub open: AtomicU64,
    /// Client connections this worker took over, since start.
    pub accepted: AtomicU64,
    /// Connections closed at once because the cap was reached.
    pub refused_over_cap: AtomicU64,
    /// Failures of `accept` itself (out of descriptors, for one).
    pub accept_errors: AtomicU64,
    /// Connections that ended before HTTP: a bad or late PROXY header, a bad or late TLS handshake.
    pub handshake_failures: AtomicU64,
    /// HTTP/1 heads that could not be parsed, were too large or too slow.
    pub unreadable_heads: AtomicU64,
    /// Connections to the upstream that were established.
    pub upstream_connects: AtomicU64,
    /// Attempts to connect to the upstream that failed.
    pub upstream_connect_failures: AtomicU64,
    /// Pooled connections that wait for a request now (HTTP/1).
    pub upstream_idle: AtomicU64,
    /// Exchanges under way with the upstream now.
    pub upstream_active: AtomicU64,
    /// Requests whose handling panicked.
    pub panics: AtomicU64,
    /// Client connections that were still open at a drain's deadline.
    pub cut: AtomicU64,
}

/// Adds one. Plain load and store: the caller's thread is the only writer.
pub(crate) fn up(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Takes one away. Plain load and store: the caller's thread is the only writer.
pub(crate) fn down(gauge: &AtomicU64) {
    gauge.store(gauge.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
}
