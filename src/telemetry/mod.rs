//! What the gate says about itself: every metric's name, the access record of each request, the operational log, and
//! whether it is ready. Never: a caller's text in a label, a secret anywhere, a wait on the way of a request.

pub mod decision_id;
pub mod events;
mod json;
pub mod lifecycle;
pub mod metrics;
pub mod record;

use crate::clock::Wall;

/// A time as every record, event and answer writes it: RFC 3339, UTC, milliseconds.
pub fn rfc3339(time: Wall) -> String {
    str::from_utf8(&json::rfc3339(time)).unwrap_or_default().to_owned()
}
