//! Times and durations as people write them on a command line.

use std::time::Duration;

use crate::clock::Wall;
use crate::keyfile::entry::read_instant;

/// A point in time, said outright or as a distance from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// A date (midnight, UTC) or an instant.
    At(Wall),
    /// A distance from now.
    In(Duration),
    /// `never`.
    Never,
}

impl When {
    /// The point in time; `None` for never.
    pub(super) fn from(self, now: Wall) -> Option<Wall> {
        match self {
            When::At(at) => Some(at),
            When::In(distance) => Some(later(now, distance)),
            When::Never => None,
        }
    }
}

/// `now` plus `distance`; sub-second parts of `now` are dropped, because files hold seconds.
pub(super) fn later(now: Wall, distance: Duration) -> Wall {
    let millis = i64::try_from(distance.as_millis()).unwrap_or(i64::MAX);
    Wall(whole_second(now).0.saturating_add(millis))
}

/// The second that `now` is in.
pub(super) fn whole_second(now: Wall) -> Wall {
    Wall(now.0 - now.0.rem_euclid(1000))
}

/// Reads `2027-01-01`, `2027-01-01T12:00:00Z`, `30d`, `12h`, or `never`.
pub(super) fn when(text: &str) -> Result<When, String> {
    if text == "never" {
        return Ok(When::Never);
    }
    if let Some(at) = read_instant(text) {
        return Ok(When::At(at));
    }
    duration(text).map(When::In).map_err(|_| {
        "expected a date (2027-01-01), an instant (2027-01-01T12:00:00Z), a duration (30d, 12h) or `never`".to_owned()
    })
}

/// Reads `30d`, `12h`, `90m`, `45s`, `500ms` or `2w`, up to a hundred years.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const CENTURY: u64 = 36_525 * 86_400_000;
    let wrong = || "expected a duration such as 45s, 90m, 12h, 30d or 2w".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..split].parse().map_err(|_| wrong())?;
    let unit = match &text[split..] {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit) {
        Some(millis) if millis <= CENTURY => Ok(Duration::from_millis(millis)),
        _ => Err("this is longer than a hundred years".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_instants_durations_and_never_are_told_apart() {
        assert_eq!(when("1970-01-02"), Ok(When::At(Wall(86_400_000))));
        assert_eq!(when("1970-01-01T00:00:01Z"), Ok(When::At(Wall(1000))));
        assert_eq!(when("12h").unwrap().from(Wall(1_999)), Some(Wall(43_201_000)));
        assert_eq!(when("never").unwrap().from(Wall(0)), None);
        for wrong in ["", "d", "12", "soon", "-1d", "1.5h", "99999999999w", "2027-13-01"] {
            assert!(when(wrong).is_err(), "{wrong}");
        }
    }
}
