//! What a backing is told: the vocabulary of everything durable, as changes and not as states. Changes of one meter may
//! arrive in another order than they were made in; all of these come out the same whatever the order.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::clock::{Now, Wall};
use crate::policy::Name;
use crate::policy::calendar::Period;
use crate::policy::idempotency::{BodyPrint, HeadPrint, RecordId};
use crate::policy::limit::{LimitId, LimitKind, SubjectKey};
use crate::policy::meter::{Block, Meter};
use crate::policy::overlay::Revoked;

use super::acts::Adjustment;
use super::party::Party;

/// A meter's name on disk. The kind is part of it: a quota that becomes a rate starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeterId {
    /// The limit.
    pub limit: LimitId,
    /// What it counts.
    pub kind: LimitKind,
    /// Whose it is.
    pub subject: SubjectKey,
}

/// A reservation's name: when it was made, in milliseconds, and a number that no other of this process has. Printed as 32
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(pub u128);

/// What was taken from one `spend` or `credit` limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// From which meter.
    pub meter: MeterId,
    /// In which period (`spend`).
    pub period: Period,
    /// When: a refund goes to the period that was charged.
    pub at: Wall,
    /// Millionths.
    pub amount: u64,
}

/// The charges of one request. There is room for one in place, which is what most have: a [`Batch`] is as large as if each of
/// its changes were the largest, and is moved several times.
pub type Charges = SmallVec<[Charge; 1]>;

/// Money of a request whose outcome is not decided yet, or never will be by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its name.
    pub id: ReservationId,
    /// When it was made.
    pub at: Wall,
    /// What it holds.
    pub charges: Charges,
    /// The idempotency record that hangs on it.
    pub record: Option<RecordId>,
    /// Who asked.
    pub party: Party,
}

/// Why nobody knows what became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The gate died while it was under way.
    Crash,
    /// The backend did not answer in time, broke off, or was left alone after it had been sent to.
    NoAnswer,
}

/// An answer as it is kept: what a repeat gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The status.
    pub status: u16,
    /// The fields worth keeping, names in lower case, in their order.
    pub fields: Vec<(Box<str>, Bytes)>,
    /// The body, to the byte.
    pub body: Bytes,
}

/// How far the first request of an idempotency key has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Claimed, and perhaps forwarded. Read back after a crash it is [`Progress::Unknown`], never fresh.
    InFlight,
    /// Done, with its answer and its body's print.
    Answered(std::sync::Arc<KeptAnswer>, BodyPrint),
    /// Done, and its answer was not kept: too large, or it streamed for too long.
    NotReplayable,
    /// Nobody knows what became of it.
    Unknown(Doubt),
}

/// An idempotency record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub tenant: SubjectKey,
    /// What the first request's head was.
    pub head: HeadPrint,
    /// When it was claimed.
    pub at: Wall,
    /// The first millisecond of no longer being remembered.
    pub until: Wall,
    /// Who asked.
    pub party: Party,
    /// How far it has come.
    pub progress: Progress,
}

/// One durable change.
#[derive(Clone, Debug)]
pub enum Op {
    /// This much of a quota may be in use: a crash restores it.
    Block(MeterId, Block),
    /// Money is charged, and the reservation is open.
    Reserve(Box<Pending>),
    /// The charge is decided: `back` is given back of what was reserved, and the reservation is no longer open.
    Settle {
        /// Which.
        id: ReservationId,
        /// What goes back.
        back: Charges,
    },
    /// Nobody knows the outcome: it stays charged, and is listed until a person settles it.
    Doubt(ReservationId, Doubt),
    /// A record is new, or has come further.
    Record(RecordId, Box<Record>),
    /// A record is gone: proved not processed, released, or at the end of its life.
    Forget(RecordId),
    /// A meter as it stands: rates about every second, everything when the gate ends.
    Meter {
        /// Which.
        meter: MeterId,
        /// How it stands.
        image: Box<Meter>,
        /// When.
        now: Now,
    },
    /// A person counted or took back use.
    Adjust {
        /// Which.
        meter: MeterId,
        /// The period that is meant.
        period: Period,
        /// When.
        at: Wall,
        /// Which way, and how much.
        by: Adjustment,
    },
    /// A person topped credit up.
    TopUp {
        /// Which.
        meter: MeterId,
        /// Millionths.
        amount: u64,
    },
    /// A meter starts from nothing (credit keeps what was topped up).
    Reset(MeterId),
    /// A key is revoked.
    Revoke(SubjectKey, Box<Revoked>),
    /// A revocation is taken back.
    Restore(SubjectKey),
    /// A key was used last, or first seen, at this time.
    Seen(SubjectKey, Wall),
    /// An admin act was done, and this is its answer; a repeat with its id gets the same.
    Act {
        /// The act's name.
        id: Name,
        /// When.
        at: Wall,
        /// Its answer.
        answer: Box<str>,
    },
}

/// Several changes that become durable together or not at all.
pub type Batch = SmallVec<[Op; 3]>;
