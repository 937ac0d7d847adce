//! Calendar periods: days and months of a named time zone, a month beginning on its anchor day. Days of 23 and 25 hours
//! are as long as they are, and a month without its anchor day begins on its last.

use std::fmt;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::clock::Wall;

/// Place of a calendar in [`super::snapshot::Snapshot::calendars`]; means nothing after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CalendarIx(pub u16);

/// How long a calendar period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Every {
    /// From midnight to midnight.
    Day,
    /// From the anchor day to the next month's.
    Month,
}

/// One period: from an instant, inclusive, to another, exclusive. Empty for limits that know no calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Period {
    /// Its first instant.
    pub from: Wall,
    /// The first instant of the next.
    pub until: Wall,
}

impl Period {
    /// Nanoseconds from `now` to its end; 0 once it is over.
    pub fn left(self, now: Wall) -> u64 {
        u64::try_from(self.until.0.saturating_sub(now.0)).unwrap_or(0).saturating_mul(1_000_000)
    }

    /// Its length in nanoseconds.
    pub fn length(self) -> u64 {
        self.left(self.from)
    }
}

/// One way to cut time into periods.
#[derive(Clone)]
pub struct Calendar {
    every: Every,
    zone: TimeZone,
    /// Day of the month on which a month begins, 1 to 31.
    anchor: i8,
    /// Beginnings of the periods around the time at which the policy was compiled, ascending: a request looks its
    /// period up here, and asks the time zone only where time has left them behind.
    edges: Box<[i64]>,
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name().unwrap_or("?");
        write!(f, "Calendar({:?} in {zone}, anchor {})", self.every, self.anchor)
    }
}

/// As the policy says it: `day in UTC`, `month in Europe/Amsterdam from day 15`.
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name().unwrap_or("UTC");
        match (self.every, self.anchor) {
            (Every::Day, _) => write!(f, "day in {zone}"),
            (Every::Month, 1) => write!(f, "month in {zone}"),
            (Every::Month, anchor) => write!(f, "month in {zone} from day {anchor}"),
        }
    }
}

/// Two calendars that cut time alike are one, whenever they were compiled.
impl PartialEq for Calendar {
    fn eq(&self, other: &Calendar) -> bool {
        (self.every, self.anchor) == (other.every, other.anchor) && self.zone == other.zone
    }
}

/// Periods looked up ahead of the one in which the policy was compiled.
const AHEAD: usize = 40;

impl Calendar {
    /// Days, or months from the `anchor` day (1 to 31, clamped into that), in a time zone. `around` is the time at which
    /// most look-ups will be.
    pub fn new(every: Every, zone: TimeZone, anchor: u8, around: Wall) -> Calendar {
        let anchor = i8::try_from(anchor.clamp(1, 31)).unwrap_or(1);
        let mut calendar = Calendar { every, zone, anchor, edges: Box::default() };
        let mut edges = Vec::with_capacity(AHEAD + 2);
        // One behind: the clock may be set back a little after the policy was compiled.
        let mut period = calendar.compute(around);
        edges.push(calendar.compute(Wall(period.from.0.saturating_sub(1))).from.0);
        edges.push(period.from.0);
        for _ in 0..AHEAD {
            period = calendar.compute(period.until);
            edges.push(period.from.0);
        }
        edges.dedup();
        calendar.edges = edges.into();
        calendar
    }

    /// How long its periods are.
    pub fn every(&self) -> Every {
        self.every
    }

    /// The period that `now` lies in.
    pub fn period_at(&self, now: Wall) -> Period {
        // Mostly it is the period in which the policy was compiled, which has its place: 60 instructions less.
        let next = match *self.edges {
            [_, from, until, ..] if from <= now.0 && now.0 < until => 2,
            _ => self.edges.partition_point(|edge| *edge <= now.0),
        };
        match (next.checked_sub(1).and_then(|at| self.edges.get(at)), self.edges.get(next)) {
            (Some(from), Some(until)) => Period { from: Wall(*from), until: Wall(*until) },
            _ => self.compute(now),
        }
    }

    fn compute(&self, now: Wall) -> Period {
        let instant = Timestamp::from_millisecond(now.0).unwrap_or(if now.0 < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        });
        let today = instant.to_zoned(self.zone.clone()).date();
        let first = self.begin(today);
        let next = self.after(first);
        Period {
            from: self.midnight(first).unwrap_or(Wall(i64::MIN)),
            until: self.midnight(next).unwrap_or(Wall(i64::MAX)),
        }
    }

    /// The day on which the period of `day` begins.
    fn begin(&self, day: Date) -> Date {
        match self.every {
            Every::Day => day,
            Every::Month => {
                let anchored = self.anchored(day);
                if anchored <= day {
                    anchored
                } else {
                    self.anchored(day.first_of_month().saturating_sub(Span::new().days(1)))
                }
            }
        }
    }

    /// The day on which the period after the one that begins on `first` begins.
    fn after(&self, first: Date) -> Date {
        match self.every {
            Every::Day => first.saturating_add(Span::new().days(1)),
            Every::Month => {
                self.anchored(first.last_of_month().saturating_add(Span::new().days(1)))
            }
        }
    }

    /// The anchor day in the month of `day`, or that month's last.
    fn anchored(&self, day: Date) -> Date {
        let anchor = self.anchor.min(day.days_in_month());
        Date::new(day.year(), day.month(), anchor).unwrap_or(day)
    }

    /// The first instant of a day: where a zone skips midnight, the instant after the gap.
    fn midnight(&self, day: Date) -> Option<Wall> {
        let zoned = self.zone.to_ambiguous_zoned(day.to_datetime(Time::midnight())).compatible();
        zoned.ok().map(|zoned| Wall(zoned.timestamp().as_millisecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(text: &str) -> Wall {
        Wall(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    fn calendar(every: Every, zone: &str, anchor: u8) -> Calendar {
        Calendar::new(every, TimeZone::get(zone).unwrap(), anchor, wall("2026-11-21T12:00:00Z"))
    }

    fn period(calendar: &Calendar, now: &str) -> (Wall, Wall) {
        let period = calendar.period_at(wall(now));
        (period.from, period.until)
    }

    #[test]
    fn a_day_is_as_long_as_its_zone_makes_it() {
        let days = calendar(Every::Day, "Europe/Amsterdam", 1);
        let hours = |now| days.period_at(wall(now)).length() / 3_600_000_000_000;
        assert_eq!(hours("2026-11-21T12:00:00Z"), 24);
        assert_eq!(hours("2027-03-28T12:00:00Z"), 23);
        assert_eq!(hours("2026-10-25T12:00:00Z"), 25);
        assert_eq!(
            period(&days, "2026-11-20T23:00:00Z"),
            (wall("2026-11-20T23:00:00Z"), wall("2026-11-21T23:00:00Z")),
            "midnight belongs to the day that it begins"
        );
    }

    #[test]
    fn a_zone_that_skips_midnight_begins_its_day_after_the_gap() {
        let days = calendar(Every::Day, "America/Santiago", 1);
        let (from, _) = period(&days, "2026-09-06T12:00:00Z");
        assert_eq!(from, wall("2026-09-06T04:00:00Z"), "01:00 -03, as 00:00 did not happen");
    }

    #[test]
    fn a_month_begins_on_its_anchor_or_on_the_last_day_that_it_has() {
        let months = calendar(Every::Month, "UTC", 31);
        assert_eq!(
            period(&months, "2027-02-10T00:00:00Z"),
            (wall("2027-01-31T00:00:00Z"), wall("2027-02-28T00:00:00Z"))
        );
        assert_eq!(
            period(&months, "2027-02-28T00:00:00Z"),
            (wall("2027-02-28T00:00:00Z"), wall("2027-03-31T00:00:00Z"))
        );
        let fifteenth = calendar(Every::Month, "UTC", 15);
        assert_eq!(
            period(&fifteenth, "2027-01-14T23:59:59Z"),
            (wall("2026-12-15T00:00:00Z"), wall("2027-01-15T00:00:00Z"))
        );
    }

    #[test]
    fn what_is_looked_up_is_what_the_zone_would_say_in_any_year() {
        for (every, zone, anchor) in [
            (Every::Day, "Europe/Amsterdam", 1),
            (Every::Month, "America/New_York", 29),
            (Every::Month, "Asia/Kathmandu", 1),
        ] {
            let calendar = calendar(every, zone, anchor);
            for hours in (0..24 * 365 * 4).step_by(7) {
                let now = Wall(wall("2025-01-01T00:30:00Z").0 + hours * 3_600_000);
                let period = calendar.period_at(now);
                assert_eq!(period, calendar.compute(now));
                assert!(period.from <= now && now < period.until, "{now:?} in {period:?}");
                assert_eq!(calendar.period_at(period.until).from, period.until, "without a gap");
            }
        }
    }

    #[test]
    fn no_instant_is_without_its_period() {
        let months = calendar(Every::Month, "Pacific/Kiritimati", 31);
        for now in [Wall(i64::MIN), Wall(i64::MAX), Wall(0), Wall(-1)] {
            let period = months.period_at(now);
            assert!(period.from <= period.until);
        }
    }
}
