//! Values as a gate would make them.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;
use tollgate::clock::{Now, Steady, Wall};
use tollgate::policy::calendar::Period;
use tollgate::policy::idempotency::{BodyPrint, HeadPrint, RecordId};
use tollgate::policy::limit::{LimitId, LimitKind, SubjectKey};
use tollgate::policy::overlay::{Revoked, RevokedBy};
use tollgate::store::{
    Charge, KeptAnswer, MeterId, Party, PartyNames, Pending, Progress, Record, ReservationId,
};

/// The instant of everything.
pub(crate) const NOW: Now =
    Now { steady: Steady(1_700_000_000_000_000_000), wall: Wall(1_700_000_000_000) };

const DAY: i64 = 24 * 60 * 60 * 1000;

/// The period that everything is charged in.
pub(crate) const MONTH: Period =
    Period { from: Wall(NOW.wall.0 - 10 * DAY), until: Wall(NOW.wall.0 + 20 * DAY) };

/// A meter of one of the subjects.
pub(crate) fn meter(kind: LimitKind, subject: u128) -> MeterId {
    MeterId { limit: LimitId(7), kind, subject: SubjectKey(subject) }
}

/// A reservation of spend and credit, of the subject that its number says.
pub(crate) fn pending(id: u128, amount: u64) -> Pending {
    let charge = |kind| Charge { meter: meter(kind, id % 4), period: MONTH, at: NOW.wall, amount };
    Pending {
        id: ReservationId(id),
        at: NOW.wall,
        charges: smallvec![charge(LimitKind::Spend), charge(LimitKind::Credit)],
        record: Some(RecordId(id)),
        party: party(),
    }
}

/// Who asks.
pub(crate) fn party() -> Party {
    Party::of(PartyNames { tenant: "acme", key: "k-1", route: "sms-send", request: "0199" })
}

/// A record that is remembered for a day.
pub(crate) fn record(progress: Progress) -> Record {
    Record {
        tenant: SubjectKey(3),
        head: HeadPrint([9; 32]),
        at: NOW.wall,
        until: Wall(NOW.wall.0 + DAY),
        party: party(),
        progress,
    }
}

/// An answer with a body of so many bytes.
pub(crate) fn answer(bytes: usize) -> Progress {
    let answer = KeptAnswer {
        status: 202,
        fields: vec![("content-type".into(), Bytes::from_static(b"application/json"))],
        body: Bytes::from(vec![b'x'; bytes]),
    };
    Progress::Answered(Arc::new(answer), BodyPrint { bytes: 11, digest: [4; 32] })
}

/// A revocation by a rule.
pub(crate) fn revoked() -> Revoked {
    Revoked {
        key: "k-1".into(),
        at: NOW.wall,
        by: RevokedBy::Rule("idle".into()),
        why: "unused for 90 days".into(),
    }
}
