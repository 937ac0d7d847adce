//! What limits say about themselves on answers: `X-RateLimit-*`, the IETF fields, `Retry-After`.

use super::limit::{LimitIx, LimitKind, Mode, Window};
use super::money::Money;
use super::order::Reading;
use super::snapshot::Snapshot;
use crate::clock::Wall;

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
    /// How the names of the gate's own fields are written on HTTP/1.
    pub spelling: Spelling,
}

/// How the names of the gate's own fields are written on HTTP/1; HTTP/2 knows lower case only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spelling {
    /// `x-ratelimit-limit`, which costs nothing.
    #[default]
    Lower,
    /// `X-RateLimit-Limit`, as documents print it.
    Printed,
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

const SECOND: u64 = 1_000_000_000;

/// `X-RateLimit-*` of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XFields {
    /// `X-RateLimit-Limit`: the most that can be used at once.
    pub limit: u64,
    /// `X-RateLimit-Remaining`.
    pub remaining: u64,
    /// `X-RateLimit-Reset`: after a refusal when to come back, else when more becomes available than remains now.
    pub reset: i64,
}

impl Report {
    /// The three numbers of `X-RateLimit-*`; `None` where no enforced `rate` limit covers the request, or none are sent.
    pub fn x_fields(&self, readings: &[Reading], now: Wall) -> Option<XFields> {
        let rates = readings.iter().filter(|reading| {
            reading.mode == Mode::Enforce && reading.ceiling.window.kind() == LimitKind::Rate
        });
        let shown = match self.of {
            Some(of) => readings.iter().find(|reading| reading.limit == of),
            None => rates.min_by(|a, b| share(a).cmp(&share(b))),
        }?;
        let nanos = until_reset(shown);
        let reset = match self.x_ratelimit {
            XRateLimit::Unix => now.plus_nanos(nanos).unix_seconds_up(),
            XRateLimit::Seconds => i64::try_from(nanos.div_ceil(SECOND)).unwrap_or(i64::MAX),
            XRateLimit::None => return None,
        };
        Some(XFields { limit: shown.ceiling.burst, remaining: shown.remaining, reset })
    }

    /// Values of `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10 §3, §4), which list every
    /// enforced limit; `None` where there is none, or they are not sent.
    pub fn ietf_fields(
        &self,
        snapshot: &Snapshot,
        readings: &[Reading],
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        if self.ratelimit == RateLimitFields::None {
            return None;
        }
        let (mut policy, mut state) = (List::of(readings.len()), List::of(readings.len()));
        for reading in readings.iter().filter(|reading| reading.mode == Mode::Enforce) {
            let limit = snapshot.limit(reading.limit);
            let name = &limit.name;
            // Whole units of money, rounded down: the fields know integers only (§3.1, §4.1).
            let whole = |units| if limit.kind.is_money() { units / Money::WHOLE } else { units };
            policy.member(name, b"\";q=", whole(reading.ceiling.whole()));
            if let Some(unit) = &limit.unit {
                policy.text(b";qu=\"", unit);
            }
            match reading.ceiling.window {
                Window::Concurrent => policy.0.extend_from_slice(b";qu=\"concurrent-requests\""),
                Window::Bucket | Window::Sliding | Window::Fixed => {
                    policy.parameter(b";w=", reading.ceiling.period.div_ceil(SECOND));
                }
                Window::Quota(_) | Window::Spend(_) => {
                    policy.parameter(b";w=", reading.period.length().div_ceil(SECOND));
                }
                Window::Prepaid => {}
            }
            state.member(name, b"\";r=", whole(reading.remaining));
            if let nanos @ 1.. = until_reset(reading) {
                state.parameter(b";t=", nanos.div_ceil(SECOND));
            }
        }
        (!policy.0.is_empty()).then_some((policy.0, state.0))
    }
}

/// A list of strings with parameters (RFC 9651 §3.1, §4.1.1), straight into its bytes: it stands on every answer. The
/// loader keeps limits' names to characters that need no escaping.
struct List(Vec<u8>);

impl List {
    fn of(members: usize) -> List {
        List(Vec::with_capacity(members * 48))
    }

    fn member(&mut self, name: &str, parameter: &[u8], value: u64) {
        self.0.extend_from_slice(if self.0.is_empty() { b"\"" } else { b", \"" });
        self.0.extend_from_slice(name.as_bytes());
        self.parameter(parameter, value);
    }

    /// A string parameter; the loader keeps units to characters that need no escaping.
    fn text(&mut self, parameter: &[u8], text: &str) {
        self.0.extend_from_slice(parameter);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }

    fn parameter(&mut self, parameter: &[u8], value: u64) {
        self.0.extend_from_slice(parameter);
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

/// Seconds of `Retry-After`: rounded up, never 0 (RFC 9110 §10.2.3).
pub fn retry_after_seconds(wait: u64) -> u64 {
    wait.div_ceil(SECOND).max(1)
}

/// What is left of the whole, in parts per billion.
fn share(reading: &Reading) -> u128 {
    u128::from(reading.remaining) * 1_000_000_000 / u128::from(reading.ceiling.burst.max(1))
}

fn until_reset(reading: &Reading) -> u64 {
    if reading.admits {
        reading.more_in.unwrap_or(0)
    } else {
        reading.wait.or(reading.more_in).unwrap_or(0)
    }
}
