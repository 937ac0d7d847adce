//! Amounts → ceilings, kind by kind: the one place that decides what `120/minute` or `20.50/day` means to a limit, for
//! its own number and for every override of it.

use super::super::amount::{Amount, DAY, Length, MOST_UNITS, Number};
use super::Desk;
use crate::policy::calendar::{CalendarIx, Every};
use crate::policy::limit::{Ceiling, LimitKind, Window};
use crate::policy::money::Money;

/// What is wrong with an amount, and what to do about it.
pub(super) type Wrong = (String, Option<String>);

/// How a limit measures, whatever its number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// `rate:`
    Rate {
        window: Window,
        /// `burst:` as written, in force where an override gives another number too, in proportion.
        burst: Option<u64>,
    },
    /// `concurrent:`
    Concurrent,
    /// `quota:`
    Quota(Calendars),
    /// `spend:`
    Spend(Calendars),
    /// `credit:`
    Prepaid,
}

/// The days and months of a limit's time zone and anchor: an override may change one for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendars {
    pub(super) day: CalendarIx,
    pub(super) month: CalendarIx,
}

impl Measure {
    pub(super) fn kind(self) -> LimitKind {
        match self {
            Measure::Rate { .. } => LimitKind::Rate,
            Measure::Concurrent => LimitKind::Concurrent,
            Measure::Quota(_) => LimitKind::Quota,
            Measure::Spend(_) => LimitKind::Spend,
            Measure::Prepaid => LimitKind::Credit,
        }
    }

    /// What an amount makes of this limit; what the amount leaves out stays as in `own`. `Ok(None)`: no limit.
    pub(super) fn ceiling(
        self,
        amount: Option<Amount>,
        burst: Option<u64>,
        own: Option<Ceiling>,
    ) -> Result<Option<Ceiling>, Wrong> {
        if let Some(Amount::None) = amount {
            return Ok(None);
        }
        if burst.is_some() && !matches!(self, Measure::Rate { window: Window::Bucket, .. }) {
            return Err(("only a bucket has a burst".to_owned(), None));
        }
        match self {
            Measure::Rate { window, burst: stated } => {
                let (units, period) = rate(amount, own)?;
                // What the override does not say stays: a burst that the limit states, in proportion.
                let kept = stated.map(|burst| match own {
                    Some(own) => in_proportion(burst, units, own.units),
                    None => burst,
                });
                let burst = burst.or(kept).unwrap_or(units);
                if burst > MOST_UNITS {
                    return Err((format!("a limit can be at most {MOST_UNITS}"), None));
                }
                Ok(Some(Ceiling { window, units, period, burst }))
            }
            Measure::Concurrent => match amount {
                Some(Amount::Alone(Number::Whole(units))) => Ok(Some(concurrent(units))),
                _ => Err(("this counts open requests: write a whole number".to_owned(), None)),
            },
            Measure::Quota(calendars) => {
                let (number, calendar) = in_calendar("quota", amount, calendars, own)?;
                let units = match number {
                    Some(number) => whole(number)?,
                    None => own.map_or(0, |own| own.units),
                };
                Ok(Some(in_periods(Window::Quota(calendar), units)))
            }
            Measure::Spend(calendars) => {
                let (number, calendar) = in_calendar("spend cap", amount, calendars, own)?;
                let units = match number {
                    Some(number) => number.money().0,
                    None => own.map_or(0, |own| own.units),
                };
                Ok(Some(in_periods(Window::Spend(calendar), units)))
            }
            Measure::Prepaid => Err((
                "what is prepaid has no number: it holds what was topped up".to_owned(),
                Some("write `none` for those whom it does not bind".to_owned()),
            )),
        }
    }
}

pub(super) fn concurrent(units: u64) -> Ceiling {
    Ceiling { window: Window::Concurrent, units, period: 0, burst: units }
}

/// What was topped up is the meter's to know.
pub(super) fn prepaid() -> Ceiling {
    in_periods(Window::Prepaid, 0)
}

fn in_periods(window: Window, units: u64) -> Ceiling {
    Ceiling { window, units, period: 0, burst: units }
}

fn whole(number: Number) -> Result<u64, Wrong> {
    number.units().ok_or_else(|| (format!("{number} is no whole number of requests"), None))
}

/// Units, and the period in nanoseconds.
fn rate(amount: Option<Amount>, own: Option<Ceiling>) -> Result<(u64, u64), Wrong> {
    match (amount, own) {
        (Some(Amount::Per(number, Length::Elapsed(period))), _) => Ok((whole(number)?, period)),
        (Some(Amount::Per(number, Length::Day)), _) => Ok((whole(number)?, DAY)),
        (Some(Amount::Per(number, Length::Month)), _) => Err((
            "a rate has seconds, minutes, hours or days".to_owned(),
            Some(format!("a calendar month is a quota: `quota: {number}/month`")),
        )),
        (Some(Amount::Alone(number)), Some(own)) => Ok((whole(number)?, own.period)),
        (Some(Amount::Alone(number)), None) => Err((
            "a rate needs its period".to_owned(),
            Some(format!("write {number}/minute, or {number}/30s")),
        )),
        (Some(Amount::None) | None, Some(own)) => Ok((own.units, own.period)),
        (Some(Amount::None) | None, None) => Err(no_number("120/minute")),
    }
}

/// The number, where one is given, and the calendar whose periods it holds for.
fn in_calendar(
    what: &str,
    amount: Option<Amount>,
    calendars: Calendars,
    own: Option<Ceiling>,
) -> Result<(Option<Number>, CalendarIx), Wrong> {
    let kept = own.and_then(|own| own.window.calendar());
    match amount {
        Some(Amount::Per(number, Length::Day)) => Ok((Some(number), calendars.day)),
        Some(Amount::Per(number, Length::Month)) => Ok((Some(number), calendars.month)),
        Some(Amount::Per(..)) => Err((
            format!("a {what} counts by the day or the month of a calendar"),
            Some("a shorter period is a rate: `rate: 100/hour`".to_owned()),
        )),
        Some(Amount::Alone(number)) => match kept {
            Some(calendar) => Ok((Some(number), calendar)),
            None => Err((
                format!("a {what} needs its period"),
                Some(format!("write {number}/day or {number}/month")),
            )),
        },
        Some(Amount::None) | None => {
            kept.map(|calendar| (None, calendar)).ok_or_else(|| no_number("10000/month"))
        }
    }
}

fn no_number(example: &str) -> Wrong {
    ("this says no number".to_owned(), Some(format!("write one with its period: {example}")))
}

/// `burst` as it is to `own` units, for `units`; rounded up, so that it is 0 only where nothing is admitted.
fn in_proportion(burst: u64, units: u64, own: u64) -> u64 {
    let scaled = (u128::from(burst) * u128::from(units)).div_ceil(u128::from(own.max(1)));
    u64::try_from(scaled).unwrap_or(u64::MAX).min(MOST_UNITS)
}

/// Whether a request of this weight, or of this cost in millionths, can never be admitted.
pub(super) fn never_fits(ceiling: Option<Ceiling>, kind: LimitKind, heaviest: u64) -> bool {
    let bounded = match kind {
        LimitKind::Rate | LimitKind::Quota | LimitKind::Spend => true,
        // One slot is one slot; and what was topped up is not the policy's to know.
        LimitKind::Concurrent | LimitKind::Credit => false,
    };
    bounded && ceiling.is_some_and(|ceiling| ceiling.units > 0 && heaviest > ceiling.burst)
}

/// Units of a limit of this kind, as the policy writes them.
pub(super) fn written(units: u64, kind: LimitKind) -> String {
    if kind.is_money() { Money(units).to_string() } else { units.to_string() }
}

/// The calendars of a limit. Only months have an anchor, so that two limits' days are one calendar.
pub(super) fn calendars(
    zone: &jiff::tz::TimeZone,
    anchor: u8,
    desk: &mut Desk<'_>,
) -> Option<Calendars> {
    Some(Calendars {
        day: desk.calendar(Every::Day, zone, 1)?,
        month: desk.calendar(Every::Month, zone, anchor)?,
    })
}

/// What a bucket lets through in the first minute of a caller that was idle.
pub(super) fn first_minute(name: &str, ceiling: Ceiling) -> String {
    const MINUTE: u128 = 60_000_000_000;
    let refilled = (u128::from(ceiling.units) * MINUTE).div_ceil(u128::from(ceiling.period.max(1)));
    let most = (u128::from(ceiling.burst) + refilled).saturating_sub(u128::from(refilled > 0));
    format!(
        "limit `{name}`: a bucket of {}; a caller that was idle gets up to {most} through in its first minute \
         (`window: sliding` never passes more than its number)",
        ceiling.burst
    )
}
