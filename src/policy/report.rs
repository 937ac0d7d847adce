//! What limits say about themselves on answers: `X-RateLimit-*`, the IETF fields, `Retry-After`.

use std::cmp::Ordering;

use super::decimal::{Numeral, write_count};
use super::limit::{Ceiling, Limit, LimitIx, LimitKind, Mode, Window};
use super::money::Money;
use super::order::{Ask, Heard, Line, Reading};
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
    /// The place of the reading that they show. `X-RateLimit-Limit` is the most of it that can be used at once, the
    /// `burst` of its ceiling.
    pub shown: usize,
    /// `X-RateLimit-Remaining`.
    pub remaining: u64,
    /// `X-RateLimit-Reset`: after a refusal when to come back, else when more becomes available than remains now.
    pub reset: i64,
}

impl Report {
    /// The three numbers of `X-RateLimit-*`; `None` where no enforced `rate` limit covers the request, or none are sent.
    pub fn x_fields(&self, heard: Heard<'_>, now: Wall) -> Option<XFields> {
        if self.x_ratelimit == XRateLimit::None {
            return None;
        }
        let mut all = heard.lines().enumerate();
        let (shown, Line { reading, .. }) = match self.of {
            Some(of) => all.find(|(_, line)| line.ask.limit == of),
            None => all
                .filter(|(_, Line { ask, .. })| {
                    ask.mode == Mode::Enforce && ask.ceiling.window.kind() == LimitKind::Rate
                })
                .min_by(|(_, a), (_, b)| by_share(a, b)),
        }?;
        self.x_fields_at(shown, reading, now)
    }

    /// The same, where it is known which of the readings is shown.
    pub fn x_fields_of(&self, shown: usize, heard: Heard<'_>, now: Wall) -> Option<XFields> {
        self.x_fields_at(shown, heard.readings.get(shown)?, now)
    }

    fn x_fields_at(&self, shown: usize, reading: &Reading, now: Wall) -> Option<XFields> {
        let nanos = until_reset(reading);
        let reset = match self.x_ratelimit {
            XRateLimit::Unix => now.plus_nanos(nanos).unix_seconds_up(),
            XRateLimit::Seconds => i64::try_from(nanos.div_ceil(SECOND)).unwrap_or(i64::MAX),
            XRateLimit::None => return None,
        };
        Some(XFields { shown, remaining: reading.remaining, reset })
    }

    /// Whether an answer may show what this limit says.
    pub fn shows(&self, limit: LimitIx, mode: Mode, kind: LimitKind) -> bool {
        let of_all = match self.of {
            Some(of) => limit == of,
            None => mode == Mode::Enforce && kind == LimitKind::Rate,
        };
        self.sends_ratelimit() || (of_all && self.x_ratelimit != XRateLimit::None)
    }

    /// Whether the IETF fields are sent.
    pub fn sends_ratelimit(&self) -> bool {
        match self.ratelimit {
            RateLimitFields::Draft10 => true,
            RateLimitFields::None => false,
        }
    }
}

/// Appends one limit's member of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10 §3), a list of strings with
/// parameters (RFC 9651 §3.1, §4.1.1). The same for every request of the same ceiling. The loader keeps names and units to
/// characters that need no escaping.
pub fn policy_member(out: &mut Vec<u8>, limit: &Limit, Line { ask, reading }: Line<'_>) {
    let Ask { ceiling, period, .. } = ask;
    begin_member(out, &limit.name, b"\";q=");
    write_count(out, whole(ceiling, reading.whole));
    if let Some(unit) = &limit.unit {
        out.extend_from_slice(b";qu=\"");
        out.extend_from_slice(unit.as_bytes());
        out.push(b'"');
    }
    let seconds = match ceiling.window {
        Window::Concurrent => {
            out.extend_from_slice(b";qu=\"concurrent-requests\"");
            return;
        }
        Window::Bucket | Window::Sliding | Window::Fixed => ceiling.period.div_ceil(SECOND),
        Window::Quota(_) | Window::Spend(_) => period.length().div_ceil(SECOND),
        Window::Prepaid => return,
    };
    out.extend_from_slice(b";w=");
    write_count(out, seconds);
}

/// The beginning of one limit's member of `RateLimit` (§4) behind another one, up to what remains: [`state_member`] has the
/// rest.
pub fn state_beginning(limit: &Limit) -> Vec<u8> {
    [b", \"", limit.name.as_bytes(), b"\";r="].concat()
}

/// What [`state_member`] says of one limit: what remains, in what it counts, and the whole seconds until more does; 0 where
/// nothing is said of them.
pub fn state_of(Line { ask, reading }: Line<'_>) -> (u64, u64) {
    (whole(&ask.ceiling, reading.remaining), until_reset(reading).div_ceil(SECOND))
}

/// Appends one limit's member of `RateLimit` (§4): its beginning, what remains, and when more does, if that is said. Returns
/// where its numbers stand.
pub fn state_member(
    out: &mut Vec<u8>,
    beginning: &[u8],
    (remaining, seconds): (u64, u64),
) -> (Numeral, Option<Numeral>) {
    // The first member stands behind none.
    let separator = if out.is_empty() { 2 } else { 0 };
    out.extend_from_slice(beginning.get(separator..).unwrap_or(beginning));
    let remaining = Numeral::append(out, remaining);
    let seconds = (seconds > 0).then(|| {
        out.extend_from_slice(b";t=");
        Numeral::append(out, seconds)
    });
    (remaining, seconds)
}

fn begin_member(out: &mut Vec<u8>, name: &str, parameter: &[u8]) {
    out.extend_from_slice(if out.is_empty() { b"\"".as_slice() } else { b", \"" });
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(parameter);
}

/// Whole units of money, rounded down: the fields know integers only (§3.1, §4.1).
fn whole(ceiling: &Ceiling, units: u64) -> u64 {
    if ceiling.window.kind().is_money() { units / Money::WHOLE } else { units }
}

/// Seconds of `Retry-After`: rounded up, never 0 (RFC 9110 §10.2.3).
pub fn retry_after_seconds(wait: u64) -> u64 {
    wait.div_ceil(SECOND).max(1)
}

/// Orders by what is left of the whole. Multiplied crosswise: exact, and no division of 128 bits for each.
fn by_share(a: &Line<'_>, b: &Line<'_>) -> Ordering {
    let left = |one: &Line<'_>, other: &Line<'_>| {
        u128::from(one.reading.remaining) * u128::from(other.ask.ceiling.burst.max(1))
    };
    left(a, b).cmp(&left(b, a))
}

fn until_reset(reading: &Reading) -> u64 {
    if reading.admits {
        reading.more_in.unwrap_or(0)
    } else {
        reading.wait.or(reading.more_in).unwrap_or(0)
    }
}
