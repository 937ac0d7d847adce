//! What limits and costs are written in: numbers in a period, decimal money, units, time zones. Always from the text as
//! it was written; never through a float. Must never: know what an amount means to a kind of limit.

use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::problem::did_you_mean;
use super::read::{Complaint, FromText};
use super::scalar::whole;
use crate::policy::money::Money;

/// The largest limit, burst or weight: far above what a gate passes, and far below where arithmetic in nanoseconds ends.
pub(super) const MOST_UNITS: u64 = 1_000_000_000_000;

/// A number as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// Without decimal places: a count, or money.
    Whole(u64),
    /// With decimal places: money alone has them.
    Decimal(Money),
}

impl Number {
    fn read(text: &str) -> Result<Number, Complaint> {
        match whole(text) {
            Some(units) if units <= MOST_UNITS => Ok(Number::Whole(units)),
            Some(_) => Err(Complaint::because(format!("a limit can be at most {MOST_UNITS}"))),
            None if text.contains('.') => Money::parse(text)
                .map(Number::Decimal)
                .map_err(|problem| Complaint::because(format!("`{text}`: {problem}"))),
            None => Err(Complaint::default()),
        }
    }

    /// As a number of requests.
    pub(super) fn units(self) -> Option<u64> {
        match self {
            Number::Whole(units) => Some(units),
            Number::Decimal(_) => None,
        }
    }

    /// As an amount of money. [`MOST_UNITS`] keeps whole ones in range.
    pub(super) fn money(self) -> Money {
        match self {
            Number::Whole(units) => Money(units.saturating_mul(Money::WHOLE)),
            Number::Decimal(money) => money,
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Whole(units) => units.fmt(f),
            Number::Decimal(money) => money.fmt(f),
        }
    }
}

/// What follows the slash of an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many nanoseconds.
    Elapsed(u64),
    /// `day`: 24 hours of a rate, a calendar day of a quota.
    Day,
    /// `month`: of a calendar.
    Month,
}

/// `120/minute`, `10/30s`, `20.50/day`, `none`, or a number alone (which keeps the period of what it overrides). What it
/// means is the limit's to say: a rate knows no months, a quota no minutes, and money alone has decimal places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    /// Nothing is limited.
    None,
    /// So much, in the period of what is overridden.
    Alone(Number),
    /// So much in each period.
    Per(Number, Length),
}

const SECOND: u64 = 1_000_000_000;
/// 24 hours in nanoseconds.
pub(super) const DAY: u64 = 86_400 * SECOND;

impl FromText for Amount {
    const WHAT: &'static str =
        "an amount such as 120/minute, 10/30s, 10000/month or 20.50/day, a number, or `none`";

    fn from_text(text: &str) -> Result<Amount, Complaint> {
        if text == "none" {
            return Ok(Amount::None);
        }
        let Some((number, unit)) = text.split_once('/') else {
            return Number::read(text).map(Amount::Alone);
        };
        let length = match unit.trim() {
            "second" | "s" => Length::Elapsed(SECOND),
            "minute" | "min" | "m" => Length::Elapsed(60 * SECOND),
            "hour" | "h" => Length::Elapsed(3_600 * SECOND),
            "day" | "d" => Length::Day,
            "month" => Length::Month,
            other @ ("week" | "year") => {
                return Err(Complaint {
                    message: Some(format!("no limit counts by the {other}")),
                    remedy: Some("write a day or a month of the calendar".to_owned()),
                });
            }
            other => match Duration::from_text(other) {
                Ok(period) if !period.is_zero() => {
                    Length::Elapsed(u64::try_from(period.as_nanos()).unwrap_or(u64::MAX))
                }
                Ok(_) => {
                    return Err(Complaint::because("a rate needs a period longer than nothing"));
                }
                Err(_) => {
                    let known = ["second", "minute", "hour", "day", "month"];
                    return Err(Complaint {
                        message: Some(format!("`{other}` is no period")),
                        remedy: did_you_mean(other, known),
                    });
                }
            },
        };
        Ok(Amount::Per(Number::read(number.trim())?, length))
    }
}

impl FromText for Money {
    const WHAT: &'static str = "an amount of money such as 5 or 0.05";

    fn from_text(text: &str) -> Result<Money, Complaint> {
        Money::parse(text).map_err(|problem| {
            let text = super::read::clip(text);
            Complaint::because(format!("`{text}` is no cost: {problem}"))
        })
    }
}

/// What money or a quota is counted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit(pub(super) String);

impl FromText for Unit {
    const WHAT: &'static str = "a unit such as EUR or credits: 1 to 32 visible ASCII characters without quotes and backslashes";

    fn from_text(text: &str) -> Result<Unit, Complaint> {
        // It stands in a quoted string of a header.
        let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
        if (1..=32).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Unit(text.to_owned()))
        } else {
            Err(Complaint::default())
        }
    }
}

/// A time zone, from the database that is part of the gate: every gate decides alike, whatever its host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Zone(pub(super) TimeZone);

impl FromText for Zone {
    const WHAT: &'static str = "an IANA time zone such as Europe/Amsterdam";

    fn from_text(text: &str) -> Result<Zone, Complaint> {
        let database = TimeZoneDatabase::bundled();
        if let Ok(zone) = database.get(text)
            && !zone.is_unknown()
        {
            return Ok(Zone(zone));
        }
        let known: Vec<String> = database.available().map(|name| name.to_string()).collect();
        Err(Complaint {
            message: None,
            remedy: did_you_mean(text, known.iter().map(String::as_str)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromText>(text: &str) -> Option<T> {
        T::from_text(text).ok()
    }

    #[test]
    fn an_amount_is_a_number_in_a_period() {
        let elapsed = |units, seconds: u64| {
            Some(Amount::Per(Number::Whole(units), Length::Elapsed(seconds * SECOND)))
        };
        assert_eq!(read("120/minute"), elapsed(120, 60));
        assert_eq!(read("10/30s"), elapsed(10, 30));
        assert_eq!(read("0/hour"), elapsed(0, 3600));
        assert_eq!(read("1_000/day"), Some(Amount::Per(Number::Whole(1000), Length::Day)));
        assert_eq!(read("500/month"), Some(Amount::Per(Number::Whole(500), Length::Month)));
        let money = Number::Decimal(Money(20_500_000));
        assert_eq!(read("20.50/day"), Some(Amount::Per(money, Length::Day)));
        assert_eq!(read("none"), Some(Amount::None));
        assert_eq!(read("7"), Some(Amount::Alone(Number::Whole(7))));
        for wrong in [
            "",
            "/",
            "-1/minute",
            "5/0s",
            "5/",
            "/minute",
            "1e3/minute",
            "5/week",
            "5/year",
            "0.0000001/day",
            "1.5.5/day",
            ".5/day",
            "-1.5",
        ] {
            assert_eq!(read::<Amount>(wrong), None, "{wrong}");
        }
        assert_eq!(read::<Amount>("18446744073709551615/second"), None);
    }

    #[test]
    fn a_unit_can_stand_in_a_header() {
        assert_eq!(read::<Unit>("EUR"), Some(Unit("EUR".to_owned())));
        for wrong in ["", "a b", "€", "\"", "\\", "'", &"x".repeat(33)] {
            assert_eq!(read::<Unit>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_zone_is_one_of_the_bundled_ones() {
        assert!(read::<Zone>("Europe/Amsterdam").is_some());
        assert!(read::<Zone>("UTC").is_some());
        for wrong in ["", "Amsterdam", "Etc/Unknown", "+02:00", "CET-1CEST"] {
            assert_eq!(read::<Zone>(wrong), None, "{wrong}");
        }
        let complaint = Zone::from_text("Europe/Amsterdm").unwrap_err();
        assert_eq!(complaint.remedy.as_deref(), Some("did you mean `Europe/Amsterdam`?"));
    }
}
