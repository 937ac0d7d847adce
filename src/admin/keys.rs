//! How a key stands, and what is done about it: revoked over its file, and restored.

use serde_json::{Value, json};

use super::AdminState;
use super::acts::{Deed, Plan, Then, object};
use super::answers::Problem;
use super::given::Given;
use super::whose;
use crate::clock::{Now, Wall};
use crate::policy::Name;
use crate::policy::keys::{Key, KeyStatus};
use crate::policy::limit::{LimitKind, SubjectKey};
use crate::policy::overlay::{Revoked, RevokedBy};
use crate::policy::revocation::RevocationRule;
use crate::policy::snapshot::{Snapshot, Standing};
use crate::policy::subject::SubjectKind;
use crate::store::{Act, MeterId};
use crate::telemetry::rfc3339;
use crate::upkeep::revocation::ask;

/// Revocations in one answer.
const PAGE: usize = 100;

/// `GET /v1/keys/{id}`
pub(super) fn standing(state: &AdminState, policy: &Snapshot, id: &str) -> Result<Value, Problem> {
    let key = policy.keys.at(whose::key(policy, id)?);
    let overlay = state.ledger.overlay();
    let over = overlay.revoked(key.subject);
    let now = state.clock.now().wall;
    let mut told = json!({
        "id": key.id,
        "tenant": &*policy.tenant(key.entitlement.tenant).name,
        "plan": &*policy.plan(key.entitlement.plan).name,
        "state": word(policy, &key, over, now),
        "revoked": match (over, key.entitlement.status) {
            (Some(revoked), _) => revocation(revoked),
            (None, KeyStatus::Revoked) => json!({ "by": "file" }),
            (None, KeyStatus::Live) => Value::Null,
        },
        "not_before": key.entitlement.not_before.map(rfc3339),
        "expires": key.entitlement.expires.map(rfc3339),
    });
    // Without a rule about disuse nobody writes down when a key was used, and `null` would say that it never was.
    if policy.auto_revoke.iter().any(RevocationRule::is_about_disuse) {
        told["last_seen"] = json!(state.ledger.last_seen(key.subject).map(rfc3339));
    }
    Ok(told)
}

/// One word for what becomes of a request with this key, in the order in which the gate asks.
fn word(policy: &Snapshot, key: &Key, over: Option<&Revoked>, now: Wall) -> &'static str {
    if over.is_some() || key.entitlement.status == KeyStatus::Revoked {
        "revoked"
    } else if key.entitlement.not_before.is_some_and(|from| now < from) {
        "not_yet"
    } else if key.entitlement.expires.is_some_and(|end| end <= now) {
        "expired"
    } else if policy.tenant(key.entitlement.tenant).standing == Standing::Inactive {
        "tenant_inactive"
    } else {
        "live"
    }
}

fn revocation(revoked: &Revoked) -> Value {
    let (by, rule) = match &revoked.by {
        RevokedBy::Person => ("person", None),
        RevokedBy::Rule(rule) => ("rule", Some(&**rule)),
    };
    let mut told = json!({ "by": by, "at": rfc3339(revoked.at), "why": revoked.why });
    if let Some(rule) = rule {
        told["rule"] = rule.into();
    }
    told
}

/// `GET /v1/revocations`: those outside the key files, by id.
pub(super) fn revocations(state: &AdminState, mut given: Given) -> Result<Value, Problem> {
    let after = given.text("after")?.unwrap_or_default();
    given.end()?;
    let overlay = state.ledger.overlay();
    let mut all: Vec<&Revoked> = overlay.all().filter(|one| *one.key > *after).collect();
    all.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    let next = (all.len() > PAGE).then(|| all[PAGE - 1].key.to_string());
    all.truncate(PAGE);
    let told = all.iter().map(|one| {
        let mut told = revocation(one);
        told["key"] = one.key.as_ref().into();
        told
    });
    Ok(json!({ "revocations": told.collect::<Vec<_>>(), "next": next }))
}

/// `POST /v1/keys/{id}/revoke`
pub(super) fn revoke(
    state: &AdminState,
    policy: &Snapshot,
    id: &str,
    mut given: Given,
    now: Now,
) -> Result<Plan, Problem> {
    let why = given.note("why")?;
    given.end()?;
    let key = policy.keys.at(whose::key(policy, id)?);
    let overlay = state.ledger.overlay();
    if let Some(revoked) = overlay.revoked(key.subject) {
        return Ok(Plan::Already(json!({
            "key": id, "state": "revoked", "changed": false, "revoked": revocation(revoked),
        })));
    }
    let revoked = Revoked {
        key: Name::from(id),
        at: now.wall,
        by: RevokedBy::Person,
        why: why.as_str().into(),
    };
    Ok(Plan::Do(Box::new(Deed {
        word: "revoke",
        to: format!("key {id}"),
        before: word(policy, &key, None, now.wall).to_owned(),
        after: "revoked".to_owned(),
        note: why,
        answer: json!({
            "key": id, "state": "revoked", "changed": true, "revoked": revocation(&revoked),
        }),
        act: Act::Revoke { key: key.subject, revoked },
        then: Then::Wake,
    })))
}

/// `POST /v1/keys/{id}/restore`: takes back what a person or a rule did. A key that its file revokes stays revoked, and
/// a revocation is taken back though no file has the key any more.
pub(super) fn restore(
    state: &AdminState,
    policy: &Snapshot,
    id: &str,
    mut given: Given,
    now: Now,
) -> Result<Plan, Problem> {
    let note = given.note("note")?;
    given.end()?;
    let subject = SubjectKey::of(SubjectKind::Key, id);
    let key = whose::key(policy, id).map(|ix| policy.keys.at(ix));
    let in_file = key.as_ref().ok().map(|key| word(policy, key, None, now.wall));
    let mut answer = object();
    answer["key"] = id.into();
    answer["state"] = in_file.unwrap_or("not_in_a_file").into();
    if state.ledger.overlay().revoked(subject).is_none() {
        if key?.entitlement.status == KeyStatus::Revoked {
            return Err(Problem::new(
                http::StatusCode::CONFLICT,
                "revoked_by_file",
                "The key's file revokes it; only a change of that file restores it.",
            ));
        }
        answer["changed"] = false.into();
        return Ok(Plan::Already(answer));
    }
    answer["changed"] = true.into();
    // A rule that has counted to its end would strike again at the next refusal.
    let counts = policy.auto_revoke.iter().filter_map(|rule| {
        let limit = ask(rule, subject)?.id;
        Some(Act::Reset { meter: MeterId { limit, kind: LimitKind::Rate, subject } })
    });
    Ok(Plan::Do(Box::new(Deed {
        act: Act::Restore { key: subject },
        word: "restore",
        to: format!("key {id}"),
        before: "revoked".to_owned(),
        after: in_file.unwrap_or("not_in_a_file").to_owned(),
        note,
        answer,
        then: Then::Also(counts.collect()),
    })))
}
