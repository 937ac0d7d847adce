//! What limits say about themselves on answers: `X-RateLimit-*`, the IETF fields, `Retry-After`.

use super::limit::LimitIx;

/// What limit headers are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Form of `X-RateLimit-Reset`, and whether the three are sent at all.
    pub x_ratelimit: XRateLimit,
    /// The limit that `X-RateLimit-*` always shows; `None`: the covering one with the smallest remaining share.
    pub of: Option<LimitIx>,
    /// Whether `Retry-After` is sent.
    pub retry_after: bool,
    /// The IETF fields.
    pub ratelimit: RateLimitFields,
}

/// Form of `X-RateLimit-Reset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XRateLimit {
    /// Unix seconds.
    Unix,
    /// Seconds from now.
    Seconds,
    /// The three headers are not sent.
    None,
}

/// The IETF fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitFields {
    /// `RateLimit-Policy` and `RateLimit` as in draft-ietf-httpapi-ratelimit-headers-10.
    Draft10,
    /// Not sent.
    None,
}
