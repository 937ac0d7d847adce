//! What a backing remembered: the ledger's state at the start of a process.

use crate::clock::{Now, Wall};
use crate::policy::Name;
use crate::policy::idempotency::RecordId;
use crate::policy::limit::SubjectKey;
use crate::policy::meter::Meter;
use crate::policy::overlay::Revoked;

use super::op::{Doubt, MeterId, Pending, Record};

/// All that is known of the time before this process. Empty where nothing is remembered.
#[derive(Debug, Default)]
pub struct Restored {
    /// When it was read back.
    pub at: Now,
    /// Use as it stands now, downtime counted; all of a tally's use is durable.
    pub meters: Vec<(MeterId, Meter)>,
    /// Idempotency records. One in flight was held by a process that is gone: its outcome is unknown.
    pub records: Vec<(RecordId, Record)>,
    /// Reservations that were never settled. Without a doubt of its own, one was open when the process died.
    pub pending: Vec<(Pending, Option<Doubt>)>,
    /// Keys that are revoked outside their files.
    pub revoked: Vec<(SubjectKey, Revoked)>,
    /// When keys were last used, or first seen.
    pub seen: Vec<(SubjectKey, Wall)>,
    /// Named admin acts: when they were done, and their answers.
    pub acts: Vec<(Name, Wall, Box<str>)>,
}
