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

/// What one limit said to an ask: numbers alone, for what was asked stands in the [`Ask`]. `used` and `remaining` are after
/// the take when the request was admitted, and as they stand when nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What remains in units while nothing is used: the size of a bucket, of credit what was topped up, and the `units` of
    /// every other ceiling.
    pub whole: u64,
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

/// What all limits of one request said, in the order of its asks.
pub type Readings = SmallVec<[Reading; 6]>;

/// What limits were asked, and what they said: one reading an ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard<'a> {
    /// The asks.
    pub asks: &'a [Ask],
    /// In the same order.
    pub readings: &'a [Reading],
}

/// What one limit was asked, and what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The ask.
    pub ask: &'a Ask,
    /// The answer.
    pub reading: &'a Reading,
}

impl<'a> Heard<'a> {
    /// Line by line.
    pub fn lines(self) -> impl ExactSizeIterator<Item = Line<'a>> + Clone {
        self.asks.iter().zip(self.readings).map(|(ask, reading)| Line { ask, reading })
    }

    /// What this limit said, if it was asked.
    pub fn of(self, limit: LimitIx) -> Option<Line<'a>> {
        let at = self.asks.iter().position(|ask| ask.limit == limit)?;
        Some(Line { ask: &self.asks[at], reading: self.readings.get(at)? })
    }

    /// Whether no limit was asked.
    pub fn is_empty(self) -> bool {
        self.readings.is_empty()
    }

    /// The enforced refusal to report, and what `Retry-After` is made of; `None` if nothing vetoes.
    ///
    /// Reported is credit, spend, quota, then the others, because what is harder to come by says more (and nearly always takes
    /// longer); among those of a kind the longest wait, where time that does not help counts as longest; ties by declaration.
    /// How long to wait, in nanoseconds, is another question: the maximum wait over all enforced refusals, `None` if any of
    /// them is not helped by time.
    #[inline]
    pub fn refusal(self) -> Option<(Line<'a>, Option<u64>)> {
        let mut vetoes = self.lines().filter(Line::vetoes);
        let first = vetoes.next()?;
        // The first of equals stays. A `None` among the waits makes the whole `None`.
        Some(vetoes.fold((first, first.reading.wait), |(told, longest), line| {
            let told = if line.told_as() < told.told_as() { line } else { told };
            (told, longest.zip(line.reading.wait).map(|(one, other)| one.max(other)))
        }))
    }
}

impl Line<'_> {
    /// Whether it vetoes the request.
    pub fn vetoes(&self) -> bool {
        !self.reading.admits && self.ask.mode == Mode::Enforce
    }

    /// Of several that veto, the one with the least of these is told. A wait of `None` is less than any.
    fn told_as(&self) -> impl Ord + use<> {
        let Line { ask, reading } = self;
        let rank = rank(ask.ceiling.window.kind());
        (rank, reading.wait.is_some(), Reverse(reading.wait), ask.limit)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::calendar::CalendarIx;
    use crate::policy::limit::Window;

    fn ask(limit: u16, mode: Mode, window: Window) -> Ask {
        Ask {
            limit: LimitIx(limit),
            id: LimitId(u64::from(limit)),
            subject: SubjectKey(1),
            crowded: None,
            ceiling: Ceiling { window, units: 1, period: 1, burst: 1 },
            period: Period::default(),
            weight: 1,
            mode,
            on_store_failure: OnStoreFailure::Local,
        }
    }

    fn reading(wait: Option<u64>) -> Reading {
        let admits = wait == Some(0);
        Reading { whole: 1, used: 1, remaining: 0, admits, wait, more_in: None }
    }

    /// Which limit refuses, and for how long at most.
    fn told(all: &[(Ask, Reading)]) -> (Option<u16>, Option<u64>) {
        let (asks, readings): (Vec<Ask>, Vec<Reading>) = all.iter().copied().unzip();
        let heard = Heard { asks: &asks, readings: &readings };
        let refusal = heard.refusal();
        (refusal.map(|(line, _)| line.ask.limit.0), refusal.and_then(|(_, wait)| wait))
    }

    fn sliding(limit: u16, mode: Mode, wait: Option<u64>) -> (Ask, Reading) {
        (ask(limit, mode, Window::Sliding), reading(wait))
    }

    #[test]
    fn the_longest_wait_is_reported_and_is_the_retry_after() {
        let waits = [(0, Some(0)), (1, Some(5)), (2, Some(9)), (3, Some(7))];
        let all = waits.map(|(limit, wait)| sliding(limit, Mode::Enforce, wait));
        assert_eq!(told(&all), (Some(2), Some(9)));
    }

    #[test]
    fn what_time_does_not_help_is_longest_and_leaves_no_retry_after() {
        let all = [sliding(0, Mode::Enforce, Some(u64::MAX)), sliding(1, Mode::Enforce, None)];
        assert_eq!(told(&all), (Some(1), None));
    }

    #[test]
    fn credit_is_told_before_spend_before_quota_before_rate_and_the_wait_is_the_longest_of_all() {
        let of = |limit: u16, window| {
            (ask(limit, Mode::Enforce, window), reading(Some(100 - u64::from(limit))))
        };
        let all = [
            of(0, Window::Sliding),
            of(1, Window::Quota(CalendarIx(0))),
            of(2, Window::Spend(CalendarIx(0))),
            of(3, Window::Prepaid),
        ];
        for most in (1..=4).rev() {
            let last = u16::try_from(most - 1).unwrap();
            assert_eq!(told(&all[..most]), (Some(last), Some(100)));
        }
    }

    #[test]
    fn ties_go_to_the_limit_that_is_declared_first() {
        let all = [sliding(2, Mode::Enforce, Some(5)), sliding(1, Mode::Enforce, Some(5))];
        assert_eq!(told(&all).0, Some(1));
        let never = [sliding(4, Mode::Enforce, None), sliding(3, Mode::Enforce, None)];
        assert_eq!(told(&never).0, Some(3));
    }

    #[test]
    fn a_shadow_limit_is_never_reported_as_the_refusal() {
        let all = [sliding(0, Mode::Shadow, None), sliding(1, Mode::Enforce, Some(3))];
        assert_eq!(told(&all), (Some(1), Some(3)));
        assert_eq!(told(&all[..1]), (None, None));
    }
}
