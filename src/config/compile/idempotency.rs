//! `idempotency:` of the policy and of its routes → the bounds of all records, and each route's rule.

use std::sync::Arc;
use std::time::Duration;

use super::super::defaults;
use super::super::problem::{At, Span};
use super::super::raw::{self, Or};
use super::super::read::Many;
use super::super::scalar::{DemandWord, IdempotencyWord, OnUnknownWord, Size};
use super::Desk;
use super::server::within;
use crate::policy::idempotency::{Demand, IdempotencyRule, OnUnknown, RecordBounds};

/// What a route takes where it says nothing itself.
pub(super) struct Defaults {
    keep: Duration,
    max_answer: usize,
    on_unknown: Waivable,
    release: Box<[u16]>,
    pub(super) bounds: RecordBounds,
}

/// `on_unknown`, and where it is waived.
#[derive(Clone, Copy)]
enum Waivable {
    Refuse,
    Forward(Span),
}

/// A route's rule, and the statuses that free its claims.
pub(super) type Rule = (Option<Arc<IdempotencyRule>>, Box<[u16]>);

pub(super) fn defaults(raw: Option<raw::Idempotency>, desk: &mut Desk<'_>) -> Defaults {
    let nothing = Span { file: 0, start: 0, end: 0 };
    let raw::Idempotency {
        at: _,
        keep,
        max_body,
        on_unknown,
        release,
        records,
        records_per_tenant,
        memory,
    } = raw.unwrap_or_else(|| raw::Idempotency::absent(nothing));
    let most = defaults::RECORDS;
    let records = within(records, "records", 1, 100_000_000, most.records, desk);
    let per_tenant = most.per_tenant.min(records);
    let word = "records_per_tenant";
    let size = |size: At<Size>| At { value: size.value.0, at: size.at };
    let memory = memory.map(size);
    let bounds = RecordBounds {
        records,
        per_tenant: within(records_per_tenant, word, 1, records, per_tenant, desk),
        bytes: within(memory, "memory", 1 << 20, 1 << 40, most.bytes, desk),
    };
    Defaults {
        keep: keep.map_or(defaults::KEEP, |keep| lasting(keep, desk)),
        max_answer: max_body
            .map_or(defaults::MAX_ANSWER.min(bounds.bytes), |size| answer(size, bounds, desk)),
        on_unknown: on_unknown.map_or(Waivable::Refuse, waivable),
        release: release.map_or_else(Box::default, |release| statuses(release, desk)),
        bounds,
    }
}

/// The rule of one route.
pub(super) fn rule(
    raw: Option<Or<IdempotencyWord, raw::RouteIdempotency>>,
    defaults: &Defaults,
    desk: &mut Desk<'_>,
) -> Rule {
    let own = match raw {
        None => return (None, Box::default()),
        Some(Or::Map(map)) => map,
        Some(Or::One(word)) => {
            let demand = match word.value {
                IdempotencyWord::None => return (None, Box::default()),
                IdempotencyWord::Accept => DemandWord::Accept,
                IdempotencyWord::Require => DemandWord::Require,
            };
            let demand = Some(At { value: demand, at: word.at });
            raw::RouteIdempotency { demand, ..raw::RouteIdempotency::absent(word.at) }
        }
    };
    let raw::RouteIdempotency { at, demand, keep, max_body, on_unknown, release } = own;
    let Some(demand) = demand else {
        desk.findings.missing(
            at,
            "this does not say whether a request may come without a key",
            "write `demand: accept` or `demand: require`",
        );
        return (None, Box::default());
    };
    let on_unknown = match on_unknown.map_or(defaults.on_unknown, waivable) {
        Waivable::Refuse => OnUnknown::Refuse,
        Waivable::Forward(at) => {
            desk.findings.warn(
                at,
                "a repeat of a request whose outcome nobody knows is forwarded again, so the backend may do it twice",
                "write `refuse` where that costs something; this waives at most once".to_owned(),
            );
            OnUnknown::Forward
        }
    };
    let keep = keep.map_or(defaults.keep, |keep| lasting(keep, desk));
    let rule = IdempotencyRule {
        demand: match demand.value {
            DemandWord::Accept => Demand::Accept,
            DemandWord::Require => Demand::Require,
        },
        keep: i64::try_from(keep.as_millis()).unwrap_or(i64::MAX),
        max_answer: max_body
            .map_or(defaults.max_answer, |size| answer(size, defaults.bounds, desk)),
        on_unknown,
    };
    let release = release.map(|release| statuses(release, desk));
    (Some(Arc::new(rule)), release.unwrap_or_else(|| defaults.release.clone()))
}

/// Where a route's rule is written, unless it says `none`.
pub(super) fn span(raw: Option<&Or<IdempotencyWord, raw::RouteIdempotency>>) -> Option<Span> {
    match raw? {
        Or::One(word) if word.value == IdempotencyWord::None => None,
        Or::One(word) => Some(word.at),
        Or::Map(map) => Some(map.at),
    }
}

fn waivable(word: At<OnUnknownWord>) -> Waivable {
    match word.value {
        OnUnknownWord::Refuse => Waivable::Refuse,
        OnUnknownWord::Forward => Waivable::Forward(word.at),
    }
}

fn lasting(keep: At<Duration>, desk: &mut Desk<'_>) -> Duration {
    if keep.value < Duration::from_secs(1) {
        desk.findings.error_with(
            keep.at,
            "a record that lives for less than a second stops no retry",
            "clients retry for hours: 24h".to_owned(),
        );
    }
    keep.value
}

/// Largest answer body that is kept.
fn answer(size: At<Size>, bounds: RecordBounds, desk: &mut Desk<'_>) -> usize {
    let bytes = usize::try_from(size.value.0).ok().filter(|bytes| *bytes <= bounds.bytes);
    bytes.unwrap_or_else(|| {
        desk.findings.error_with(
            size.at,
            "one answer may be larger than all kept answers together",
            "lower `max_body`, or raise `memory` under the policy's `idempotency`".to_owned(),
        );
        defaults::MAX_ANSWER
    })
}

/// Statuses that free a claim, ascending. Never a success: its repeat is what the key is there to stop.
fn statuses(release: Many<At<u64>>, desk: &mut Desk<'_>) -> Box<[u16]> {
    let mut statuses = Vec::new();
    for status in release.items {
        match u16::try_from(status.value).ok().filter(|status| (400..=599).contains(status)) {
            Some(status) => statuses.push(status),
            None => desk.findings.error_with(
                status.at,
                format!("{} cannot free a key", status.value),
                "from 400 to 599: what succeeded is never done again".to_owned(),
            ),
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses.into()
}
