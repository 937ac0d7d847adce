//! Since when the gate has been watching its keys. A key is unused only if the gate was there to see that: while it was
//! down, while no rule asked, or while the clock jumped, nobody can say that a key was not used.

use crate::clock::{Now, Wall};
use crate::policy::limit::SubjectKey;
use crate::store::Ledger;

/// A gap that is overlooked, in milliseconds: a day. Restarts are shorter.
const OVERLOOKED: i64 = 86_400_000;

/// Where the ledger remembers the latest look, as if it were a key's last use.
const LATEST: SubjectKey = SubjectKey(0x746f_6c6c_6761_7465_0000_0000_0000_0003);
/// Where it remembers the end of the last gap.
const SINCE: SubjectKey = SubjectKey(0x746f_6c6c_6761_7465_0000_0000_0000_0004);

/// The watch that is kept.
#[derive(Debug, Default)]
pub(super) struct Watch {
    latest: Option<Now>,
}

impl Watch {
    /// Looks now, and says since when nobody has looked away for longer than is overlooked. To the hour.
    pub(super) fn look(&mut self, ledger: &Ledger, now: Now) -> Wall {
        let gap = match (self.latest, ledger.last_seen(LATEST)) {
            // What the wall clock came further than the one that does not jump.
            (Some(latest), _) => {
                let passed = latest.wall.plus_nanos(now.steady.since(latest.steady));
                now.wall.0.saturating_sub(passed.0)
            }
            (None, Some(latest)) => now.wall.0.saturating_sub(latest.0),
            (None, None) => i64::MAX,
        };
        if gap > OVERLOOKED {
            ledger.saw(SINCE, now.wall);
        }
        ledger.saw(LATEST, now.wall);
        self.latest = Some(now);
        // A clock that jumped ahead and came back again leaves an end that is yet to come.
        ledger.last_seen(SINCE).map_or(now.wall, |since| since.min(now.wall))
    }

    /// Nobody looks for now.
    pub(super) fn pause(&mut self) {
        self.latest = None;
    }
}
