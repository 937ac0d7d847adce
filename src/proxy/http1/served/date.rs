//! What time it is, as answers say it that the backend did not date (RFC 9110 §6.6.1): one text a worker, written once a
//! second.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::time::sleep;

use crate::clock::{Clock, Wall};

/// The length of an IMF-fixdate (RFC 9110 §5.6.7), in bytes.
const LENGTH: usize = 29;

/// The length of the field line that says it, with its end, in bytes.
pub(crate) const DATE_LINE: usize = LENGTH + 8;

/// The time of day in words.
#[derive(Debug)]
pub(crate) struct Today(Cell<[u8; DATE_LINE]>);

impl Today {
    /// Kept up to date by a local task as long as anybody holds it. To be called inside the worker's runtime.
    pub(crate) fn kept() -> Rc<Today> {
        let clock = Clock::system();
        let today = Rc::new(Today(Cell::new(line(clock.now().wall))));
        let kept = Rc::downgrade(&today);
        tokio::task::spawn_local(async move {
            loop {
                let into = clock.now().wall.0.rem_euclid(1000).unsigned_abs();
                sleep(Duration::from_millis(1000 - into)).await;
                let Some(today) = kept.upgrade() else { return };
                today.0.set(line(clock.now().wall));
            }
        });
        today
    }

    /// The field line that says the time, to the second: `date: ` and so on, with its end.
    pub(super) fn line(&self) -> [u8; DATE_LINE] {
        self.0.get()
    }
}

fn line(now: Wall) -> [u8; DATE_LINE] {
    let mut line = [b' '; DATE_LINE];
    let (name, value) = line.split_at_mut(6);
    name.copy_from_slice(b"date: ");
    let (value, end) = value.split_at_mut(LENGTH);
    value.copy_from_slice(&words(now));
    end.copy_from_slice(b"\r\n");
    line
}

fn words(now: Wall) -> [u8; LENGTH] {
    let mut words = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let printed = Timestamp::from_millisecond(now.0)
        .and_then(|now| DateTimePrinter::new().timestamp_to_rfc9110_string(&now));
    // A clock beyond the year 9999 says that it has none.
    if let Ok(printed) = printed
        && printed.len() == LENGTH
    {
        words.copy_from_slice(printed.as_bytes());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_an_imf_fixdate_and_never_none() {
        assert_eq!(&words(Wall(784_111_777_999)), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&words(Wall(i64::MAX)), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&line(Wall(784_111_777_999)), b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    }
}
