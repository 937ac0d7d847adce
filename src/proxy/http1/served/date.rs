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

/// The time of day in words.
#[derive(Debug)]
pub(crate) struct Today(Cell<[u8; LENGTH]>);

impl Today {
    /// Kept up to date by a local task as long as anybody holds it. To be called inside the worker's runtime.
    pub(crate) fn kept() -> Rc<Today> {
        let clock = Clock::system();
        let today = Rc::new(Today(Cell::new(words(clock.now().wall))));
        let kept = Rc::downgrade(&today);
        tokio::task::spawn_local(async move {
            loop {
                let into = clock.now().wall.0.rem_euclid(1000).unsigned_abs();
                sleep(Duration::from_millis(1000 - into)).await;
                let Some(today) = kept.upgrade() else { return };
                today.0.set(words(clock.now().wall));
            }
        });
        today
    }

    /// The time, to the second.
    pub(super) fn words(&self) -> [u8; LENGTH] {
        self.0.get()
    }
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
    }
}
