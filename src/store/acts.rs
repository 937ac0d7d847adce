//! What a person, or a rule, does to the state: applied in memory once it is on its way, acknowledged once it is durable.

use crate::clock::Wall;
use crate::policy::Name;
use crate::policy::calendar::Period;
use crate::policy::idempotency::RecordId;
use crate::policy::limit::SubjectKey;
use crate::policy::overlay::Revoked;

use super::op::{MeterId, ReservationId};

/// One act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Adds credit to a `credit` limit.
    TopUp {
        /// Whose.
        meter: MeterId,
        /// Millionths.
        amount: u64,
    },
    /// Counts use that the gate did not see, or takes use back.
    Adjust {
        /// Whose.
        meter: MeterId,
        /// The period that is meant; empty where the limit has none.
        period: Period,
        /// Which way.
        by: Adjustment,
    },
    /// Starts a meter from nothing; credit keeps what was topped up.
    Reset {
        /// Whose.
        meter: MeterId,
    },
    /// Revokes a key over its file.
    Revoke {
        /// The hash of its id.
        key: SubjectKey,
        /// When, who and why.
        revoked: Revoked,
    },
    /// Takes that back, and counts the key as used now. A key that its file revokes stays revoked.
    Restore {
        /// The hash of its id.
        key: SubjectKey,
    },
    /// Settles a reservation whose outcome nobody knows.
    Resolve {
        /// Which.
        id: ReservationId,
        /// How.
        how: Resolution,
    },
    /// Settles an idempotency record whose outcome nobody knows.
    ResolveRecord {
        /// Which.
        id: RecordId,
        /// How.
        how: Resolution,
    },
}

/// Which way use is adjusted, in units or millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// More was used.
    Add(u64),
    /// Less was used.
    Remove(u64),
}

/// What a person found out about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It was processed: the charge stands, and a record says done and not replayable.
    Confirm,
    /// It was not: the charge goes back to the period that was charged, and a record is removed, so that the next request
    /// with its key is a fresh one.
    Release,
}

/// An act with the name under which a repeat of it gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name (the `Idempotency-Key` of the admin request).
    pub id: Name,
    /// The answer to keep.
    pub answer: Box<str>,
}

/// Why an act is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActProblem {
    /// The store has failed.
    StoreFailed,
    /// There is no such reservation, record or revocation.
    NotFound,
    /// What is to be settled is still under way.
    UnderWay,
}

/// A key that was used or first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The hash of its id.
    pub key: SubjectKey,
    /// When.
    pub at: Wall,
}
