//! Requests whose outcome nobody knows: money that stays charged, and idempotency keys that stay taken, until a person
//! has found out.

use serde_json::{Value, json};

use super::AdminState;
use super::acts::{Deed, Plan, Then};
use super::answers::Problem;
use super::given::Given;
use super::whose::units_text;
use crate::clock::Wall;
use crate::policy::idempotency::RecordId;
use crate::policy::snapshot::Snapshot;
use crate::store::{
    Act, Charges, Doubt, Party, PartyNames, Pending, Progress, Record, ReservationId, Resolution,
};
use crate::telemetry::rfc3339;

/// Most of each kind in one answer; what is settled makes room for the rest.
const MOST: usize = 1000;

/// What a person found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Confirm,
    Release,
}

impl Verb {
    fn resolution(self) -> Resolution {
        match self {
            Verb::Confirm => Resolution::Confirm,
            Verb::Release => Resolution::Release,
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Verb::Confirm => "confirmed",
            Verb::Release => "released",
        }
    }
}

/// `GET /v1/reservations`: oldest first.
pub(super) fn list(state: &AdminState, policy: &Snapshot, given: Given) -> Result<Value, Problem> {
    given.end()?;
    let now = state.clock.now().wall;
    let unresolved = state.ledger.oldest_unresolved(MOST);
    let unknown = state.ledger.oldest_unknown_records(MOST);
    let reservations: Vec<Value> =
        unresolved.iter().map(|(one, doubt)| reservation(policy, one, *doubt, now)).collect();
    let records: Vec<Value> = unknown.iter().map(|(id, one)| record(*id, one, now)).collect();
    Ok(json!({
        "reservations": reservations,
        "reservations_total": state.ledger.unresolved_count(),
        "records": records,
        "records_total": state.ledger.records().unknown,
    }))
}

fn reservation(policy: &Snapshot, pending: &Pending, doubt: Doubt, now: Wall) -> Value {
    let mut told = json!({
        "id": format!("{:032x}", pending.id.0),
        "at": rfc3339(pending.at),
        "age_seconds": age(pending.at, now),
        "doubt": doubt_word(doubt),
        "charges": charges(policy, &pending.charges),
        "record": pending.record.map(|id| format!("{:032x}", id.0)),
    });
    name_party(&mut told, &pending.party);
    told
}

fn record(id: RecordId, record: &Record, now: Wall) -> Value {
    let mut told = json!({
        "id": format!("{:032x}", id.0),
        "at": rfc3339(record.at),
        "age_seconds": age(record.at, now),
        "until": rfc3339(record.until),
        "doubt": match &record.progress {
            Progress::Unknown(doubt) => doubt_word(*doubt),
            Progress::InFlight | Progress::Answered(..) | Progress::NotReplayable => "",
        },
    });
    name_party(&mut told, &record.party);
    told
}

fn name_party(told: &mut Value, party: &Party) {
    let PartyNames { tenant, key, route, request } = party.names();
    for (name, text) in
        [("tenant", tenant), ("key", key), ("route", route), ("request_id", request)]
    {
        told[name] = text.into();
    }
}

fn charges(policy: &Snapshot, charges: &Charges) -> Vec<Value> {
    let one = |charge: &crate::store::Charge| {
        let limit = policy.limits.iter().find(|limit| limit.id == charge.meter.limit);
        json!({
            "limit": limit.map(|limit| &*limit.name),
            "unit": limit.and_then(|limit| limit.unit.as_deref()),
            "amount": units_text(charge.meter.kind, charge.amount),
        })
    };
    charges.iter().map(one).collect()
}

fn age(at: Wall, now: Wall) -> i64 {
    now.0.saturating_sub(at.0).max(0) / 1000
}

const fn doubt_word(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Crash => "crash",
        Doubt::NoAnswer => "no_answer",
    }
}

/// The 32 hexadecimal digits of a list.
fn number(id: &str) -> Option<u128> {
    let digits = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(id, 16).ok().filter(|_| digits)
}

/// `POST /v1/reservations/{id}/confirm` and `…/release`: the record that hangs on it is settled with it.
pub(super) fn settle_reservation(
    state: &AdminState,
    policy: &Snapshot,
    id: &str,
    verb: Verb,
    mut given: Given,
) -> Result<Plan, Problem> {
    let note = given.note("note")?;
    given.end()?;
    let found = number(id).and_then(|id| state.ledger.unresolved_one(ReservationId(id)));
    let Some(pending) = found else {
        let message = "No reservation of this id is unresolved; somebody may have settled it.";
        return Err(Problem::unknown("reservation_unknown", message));
    };
    Ok(Plan::Do(Box::new(Deed {
        act: Act::Resolve { id: pending.id, how: verb.resolution() },
        word: match verb {
            Verb::Confirm => "confirm_reservation",
            Verb::Release => "release_reservation",
        },
        to: format!("reservation {id} of tenant {}", pending.party.names().tenant),
        before: "unresolved".to_owned(),
        after: verb.done().to_owned(),
        note,
        answer: json!({
            "reservation": id,
            "state": verb.done(),
            "charges": charges(policy, &pending.charges),
            "record": pending.record.map(|id| format!("{:032x}", id.0)),
        }),
        then: Then::Nothing,
    })))
}

/// `POST /v1/records/{id}/confirm` and `…/release`: the charges that hang on it are settled with it.
pub(super) fn settle_record(
    state: &AdminState,
    id: &str,
    verb: Verb,
    mut given: Given,
) -> Result<Plan, Problem> {
    let note = given.note("note")?;
    given.end()?;
    let found = number(id).map(RecordId);
    let found = found.and_then(|id| Some((id, state.ledger.unknown_record(id)?)));
    let Some((found, record)) = found else {
        let message = "No record of this id is unknown; somebody may have settled it.";
        return Err(Problem::unknown("record_unknown", message));
    };
    Ok(Plan::Do(Box::new(Deed {
        act: Act::ResolveRecord { id: found, how: verb.resolution() },
        word: match verb {
            Verb::Confirm => "confirm_record",
            Verb::Release => "release_record",
        },
        to: format!("record {id} of tenant {}", record.party.names().tenant),
        before: "unknown".to_owned(),
        after: verb.done().to_owned(),
        note,
        answer: json!({ "record": id, "state": verb.done() }),
        then: Then::Nothing,
    })))
}
