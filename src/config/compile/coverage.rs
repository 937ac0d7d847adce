//! Whom a limit counts, and which routes it covers.

use super::super::problem::{At, Span, did_you_mean};
use super::super::read::{Many, not_yet};
use super::super::scalar::{GivenName, PerWord};
use super::Desk;
use super::limits::Limits;
use super::routes::Routes;
use crate::policy::limit::{Counts, LimitIx, LimitKind, Per};
use crate::policy::snapshot::{Access, RouteIx};

pub(super) fn per(
    words: Option<Many<At<PerWord>>>,
    counts: Counts,
    kind: LimitKind,
    name_at: Span,
    desk: &mut Desk<'_>,
) -> Option<Per> {
    let mut per = Per::default();
    let Some(words) = words else {
        return Some(match counts {
            Counts::Requests => Per { key: true, ..per },
            Counts::FailedAuthentication => Per { address: true, ..per },
        });
    };
    if words.items.is_empty() {
        desk.findings.missing(words.at, "this does not say whom to count", "write `per: key`");
        return None;
    }
    let alone = words.items.len() == 1;
    for word in words.items {
        let seen = match word.value {
            PerWord::Key => std::mem::replace(&mut per.key, true),
            PerWord::Tenant => std::mem::replace(&mut per.tenant, true),
            PerWord::Plan => std::mem::replace(&mut per.plan, true),
            PerWord::Address => std::mem::replace(&mut per.address, true),
            PerWord::Route => std::mem::replace(&mut per.route, true),
            PerWord::Everyone => !alone,
            PerWord::Recipient => {
                desk.findings.error_with(
                    word.at,
                    not_yet("limits per recipient"),
                    "count per key, tenant, plan, address or route".to_owned(),
                );
                false
            }
        };
        if seen {
            desk.findings.error(word.at, "this adds nothing to the other words of `per`");
        }
    }
    if counts == Counts::FailedAuthentication && (per.needs_caller() || per.route) {
        desk.findings.error_with(
            words_at(name_at, words.at),
            "who failed to authenticate has no key, tenant, plan or route",
            "write `per: address`".to_owned(),
        );
    }
    if per.address && is_remembered(kind) {
        desk.findings.error_with(
            words_at(name_at, words.at),
            "every stranger's address would have to be remembered for ever",
            "count it per key or tenant, or use a `rate`".to_owned(),
        );
    }
    Some(per)
}

/// Whether use is kept until its period ends, or for ever: a flood of addresses would have to be, too.
fn is_remembered(kind: LimitKind) -> bool {
    match kind {
        LimitKind::Quota | LimitKind::Spend | LimitKind::Credit => true,
        LimitKind::Rate | LimitKind::Concurrent => false,
    }
}

fn words_at(name: Span, words: Span) -> Span {
    if words.end > words.start { words } else { name }
}

pub(super) fn covers(
    names: Option<Many<At<GivenName>>>,
    counts: Counts,
    (kind, per): (LimitKind, Per),
    name_at: Span,
    routes: &Routes,
    desk: &mut Desk<'_>,
) -> Vec<RouteIx> {
    let keyed = || {
        (0..)
            .map(RouteIx)
            .zip(&routes.compiled)
            .filter(|(_, route)| route.access == Access::Keyed)
            .map(|(ix, _)| ix)
    };
    let Some(names) = names else {
        return match counts {
            Counts::FailedAuthentication => Vec::new(),
            Counts::Requests => {
                let covered: Vec<RouteIx> = keyed().collect();
                if covered.is_empty() {
                    desk.findings.warn(
                        name_at,
                        "this limit covers no route",
                        "it covers the routes that need a key, and there are none".to_owned(),
                    );
                }
                covered
            }
        };
    };
    if counts == Counts::FailedAuthentication {
        desk.findings.error_with(
            names.at,
            "failed authentications are counted on every route",
            "take out `routes`".to_owned(),
        );
        return Vec::new();
    }
    if names.items.is_empty() {
        desk.findings.missing(
            names.at,
            "this limit covers no route",
            "leave `routes` out for all that need a key",
        );
    }
    let mut covered = Vec::new();
    for name in names.items {
        let Some(ix) = routes.named(&name.value.0) else {
            desk.findings.error_with(
                name.at,
                format!("there is no route `{}`", name.value.0),
                did_you_mean(&name.value.0, routes.names()),
            );
            continue;
        };
        let public = routes.at(ix).access == Access::Public;
        if public && kind.is_money() {
            desk.findings.error_with(
                name.at,
                format!("`{}` is public, so nobody there pays", name.value.0),
                "take it out of `routes`".to_owned(),
            );
        } else if public && per.needs_caller() {
            desk.findings.error_with(
                name.at,
                format!("`{}` is public, so nobody there has a key to count", name.value.0),
                "count it `per: address` in a limit of its own".to_owned(),
            );
        }
        if covered.contains(&ix) {
            desk.findings.error(name.at, format!("`{}` is named twice", name.value.0));
        } else {
            covered.push(ix);
        }
    }
    covered.sort_unstable();
    covered
}

/// The most that a request on one of these routes takes, in the limit's own units, and where that is written.
pub(super) fn heaviest(
    covered: &[RouteIx],
    kind: LimitKind,
    routes: &Routes,
) -> Option<(u64, Span)> {
    covered
        .iter()
        .map(|ix| {
            let (route, spans) = (routes.at(*ix), &routes.spans[ix.0 as usize]);
            match kind {
                LimitKind::Rate | LimitKind::Quota => (route.weight, spans.weight),
                LimitKind::Spend | LimitKind::Credit => (route.charge.reserve.0, spans.cost),
                LimitKind::Concurrent => (1, spans.name),
            }
        })
        .max_by_key(|(weight, _)| *weight)
}

/// Gives every route the limits that cover it.
pub(super) fn cover(routes: &mut Routes, limits: &Limits) {
    for (ix, route) in (0..).map(RouteIx).zip(&mut routes.compiled) {
        route.limits = (0..)
            .map(LimitIx)
            .zip(&limits.compiled)
            .filter(|(_, limit)| limit.routes.binary_search(&ix).is_ok())
            .map(|(ix, _)| ix)
            .collect();
    }
}

/// `key`, `tenant and address`, `everyone`.
pub(in crate::config) fn per_words(per: Per) -> String {
    let words: Vec<&str> = [
        (per.key, "key"),
        (per.tenant, "tenant"),
        (per.plan, "plan"),
        (per.address, "address"),
        (per.route, "route"),
    ]
    .into_iter()
    .filter_map(|(on, word)| on.then_some(word))
    .collect();
    if words.is_empty() { "everyone".to_owned() } else { words.join(" and ") }
}
