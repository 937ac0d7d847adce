//! The order that a request places with the ledger, and what the limits said to it. Plain data and the two questions
//! that every answer asks of it: which limit refused, and how long to wait.

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::calendar::Period;
use super::limit::{Ceiling, LimitId, LimitIx, LimitKind, Mode, OnStoreFailure, SubjectKey};

/// One limit asked about for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The limit's place in the snapshot that the request sees.
    pub limit: LimitIx,
    /// The limit's identity, under which its meter lives.
    pub id: LimitId,
    /// Whose meter.
    pub subject: SubjectKey,
    /// The subject to use when the table of dynamic subjects is full (the address's /24 or /48, combined alike);
    /// `None` for subjects that always get room (key, tenant, plan, route).
    pub crowded: Option<SubjectKey>,
    /// What the subject may use, by its terms of this moment.
    pub ceiling: Ceiling,
    /// The period of the ceiling's calendar in which the request falls; empty where it has none.
    pub period: Period,
    /// Units that the request takes; 0 takes nothing and is refused only by a ceiling of 0. A concurrent limit takes
    /// one slot whatever the weight. For money: millionths, and 0 is never refused.
    pub weight: u64,
    /// Whether the answer counts.
    pub mode: Mode,
    /// What becomes of it while the store has failed.
    pub on_store_failure: OnStoreFailure,
}

/// All limits asked about for one request, in the order of the policy. At most one ask a limit.
pub type Asks = SmallVec<[Ask; 6]>;

/// What one limit said. `used` and `remaining` are after the take when the request was admitted, and as they stand
/// when nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The limit's place in the snapshot that the request sees.
    pub limit: LimitIx,
    /// Whether the answer counts.
    pub mode: Mode,
    /// The ceiling that it was decided against; for `Prepaid`, with what was topped up as its units.
    pub ceiling: Ceiling,
    /// The period of its calendar; empty where it has none.
    pub period: Period,
    /// Units in use, rounded up. More than the ceiling where that was lowered.
    pub used: u64,
    /// Units left, rounded down; 0 where the ceiling was lowered below the use.
    pub remaining: u64,
    /// Whether this limit by itself admits.
    pub admits: bool,
    /// Nanoseconds until the same ask would be admitted if nothing else is used meanwhile; `Some(0)` if it admits;
    /// `None` if time does not help (concurrent, a weight above the burst, a ceiling of 0).
    pub wait: Option<u64>,
    /// Nanoseconds until more becomes available than `remaining` says (sliding: the oldest group leaves; fixed: the
    /// window's end; bucket: one more unit); `None` when all is available, for concurrent, and for a ceiling of 0.
    pub more_in: Option<u64>,
}

impl Reading {
    /// Whether this reading vetoes the request.
    pub fn vetoes(&self) -> bool {
        self.mode == Mode::Enforce && !self.admits
    }
}

/// What all limits of one request said, in the order of its asks.
pub type Readings = SmallVec<[Reading; 6]>;

/// The enforced refusal to report: credit, spend, quota, then the others, because what is harder to come by says more
/// (and nearly always takes longer); among those of a kind the longest wait, where time that does not help counts as
/// longest; ties by declaration. `None` if nothing vetoes. How long to wait is another question: [`longest_wait`].
pub fn refusing(readings: &[Reading]) -> Option<&Reading> {
    // `min_by_key` keeps the first of equals; a wait of `None` is put before every `Some`.
    readings.iter().filter(|reading| reading.vetoes()).min_by_key(|reading| {
        let rank = rank(reading.ceiling.window.kind());
        (rank, reading.wait.is_some(), Reverse(reading.wait), reading.limit)
    })
}

/// What is harder to come by is told first.
fn rank(kind: LimitKind) -> u8 {
    match kind {
        LimitKind::Credit => 0,
        LimitKind::Spend => 1,
        LimitKind::Quota => 2,
        LimitKind::Rate | LimitKind::Concurrent => 3,
    }
}

/// What `Retry-After` is made of, in nanoseconds: the maximum wait over all enforced refusals. `None` if any of them
/// is not helped by time, or if nothing vetoes.
pub fn longest_wait(readings: &[Reading]) -> Option<u64> {
    let mut vetoes = readings.iter().filter(|reading| reading.vetoes());
    // A `None` among them makes the whole `None`.
    vetoes.try_fold(None, |longest, reading| Some(longest.max(Some(reading.wait?))))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::calendar::CalendarIx;
    use crate::policy::limit::Window;

    fn reading(limit: u16, mode: Mode, wait: Option<u64>) -> Reading {
        let ceiling = Ceiling { window: Window::Sliding, units: 1, period: 1, burst: 1 };
        Reading {
            limit: LimitIx(limit),
            mode,
            ceiling,
            period: Period::default(),
            used: 1,
            remaining: 0,
            admits: wait == Some(0),
            wait,
            more_in: None,
        }
    }

    #[test]
    fn the_longest_wait_is_reported_and_is_the_retry_after() {
        let all = [
            reading(0, Mode::Enforce, Some(0)),
            reading(1, Mode::Enforce, Some(5)),
            reading(2, Mode::Enforce, Some(9)),
            reading(3, Mode::Enforce, Some(7)),
        ];
        assert_eq!(refusing(&all).map(|r| r.limit), Some(LimitIx(2)));
        assert_eq!(longest_wait(&all), Some(9));
    }

    #[test]
    fn what_time_does_not_help_is_longest_and_leaves_no_retry_after() {
        let all = [reading(0, Mode::Enforce, Some(u64::MAX)), reading(1, Mode::Enforce, None)];
        assert_eq!(refusing(&all).map(|r| r.limit), Some(LimitIx(1)));
        assert_eq!(longest_wait(&all), None);
    }

    #[test]
    fn credit_is_told_before_spend_before_quota_before_rate_and_the_wait_is_the_longest_of_all() {
        let of = |limit: u16, window| {
            let one = reading(limit, Mode::Enforce, Some(100 - u64::from(limit)));
            Reading { ceiling: Ceiling { window, ..one.ceiling }, ..one }
        };
        let all = [
            of(0, Window::Sliding),
            of(1, Window::Quota(CalendarIx(0))),
            of(2, Window::Spend(CalendarIx(0))),
            of(3, Window::Prepaid),
        ];
        for most in (1..=4).rev() {
            let last = u16::try_from(most - 1).unwrap();
            assert_eq!(refusing(&all[..most]).map(|r| r.limit), Some(LimitIx(last)));
            assert_eq!(longest_wait(&all[..most]), Some(100));
        }
    }

    #[test]
    fn ties_go_to_the_limit_that_is_declared_first() {
        let all = [reading(2, Mode::Enforce, Some(5)), reading(1, Mode::Enforce, Some(5))];
        assert_eq!(refusing(&all).map(|r| r.limit), Some(LimitIx(1)));
        let never = [reading(4, Mode::Enforce, None), reading(3, Mode::Enforce, None)];
        assert_eq!(refusing(&never).map(|r| r.limit), Some(LimitIx(3)));
    }

    #[test]
    fn a_shadow_limit_is_never_reported_as_the_refusal() {
        let all = [reading(0, Mode::Shadow, None), reading(1, Mode::Enforce, Some(3))];
        assert_eq!(refusing(&all).map(|r| r.limit), Some(LimitIx(1)));
        assert_eq!(longest_wait(&all), Some(3));
        assert_eq!(refusing(&all[..1]), None);
        assert_eq!(longest_wait(&all[..1]), None);
    }
}
