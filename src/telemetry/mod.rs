//! What the gate says about itself: every metric's name, the access record of each request, the operational log, and
//! whether it is ready. Never: a caller's text in a label, a secret anywhere, a wait on the way of a request.

pub mod decision_id;
pub mod events;
mod json;
pub mod lifecycle;
pub mod metrics;
pub mod record;
