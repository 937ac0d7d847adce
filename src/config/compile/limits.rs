//! `limits:` → the limits, what they cover, and what overrides may make of them.

use std::collections::HashMap;

use super::super::origin::Origins;
use super::super::problem::{At, Span, did_you_mean};
use super::super::raw;
use super::super::read::{self, Many, not_yet};
use super::super::scalar::{
    Amount, CountsWord, GivenName, LimitMode, MOST_UNITS, PerWord, WindowWord, name_complaint,
};
use super::Desk;
use super::routes::Routes;
use crate::policy::limit::{
    Ceiling, Counts, Limit, LimitId, LimitIx, LimitKind, Mode, OnStoreFailure, Per, Window,
};
use crate::policy::snapshot::{Access, RouteIx};

/// What a limit's name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Named {
    /// A limit that is in force or in shadow.
    Active(LimitIx),
    /// One with `mode: disabled`: overrides and reports may name it.
    Disabled,
}

#[derive(Default)]
pub(super) struct Limits {
    pub(super) compiled: Vec<Limit>,
    places: HashMap<String, Named>,
    details: Vec<Detail>,
}

/// What overrides need to know of a limit.
pub(super) struct Detail {
    at: Span,
    pub(super) window: Window,
    /// `burst:` as written, in force where an override gives another number too, in proportion.
    pub(super) burst: Option<u64>,
    /// The largest weight of the routes it covers, and where that is written.
    pub(super) heaviest: Option<(u64, Span)>,
}

impl Limits {
    pub(super) fn named(&self, name: &str) -> Option<Named> {
        self.places.get(name).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    pub(super) fn at(&self, ix: LimitIx) -> &Limit {
        &self.compiled[usize::from(ix.0)]
    }

    pub(super) fn detail(&self, ix: LimitIx) -> &Detail {
        &self.details[usize::from(ix.0)]
    }

    pub(super) fn span(&self, ix: LimitIx) -> Span {
        self.details[usize::from(ix.0)].at
    }

    pub(super) fn guessing(&self) -> Box<[LimitIx]> {
        (0..)
            .map(LimitIx)
            .zip(&self.compiled)
            .filter(|(_, limit)| limit.counts == Counts::FailedAuthentication)
            .map(|(ix, _)| ix)
            .collect()
    }
}

pub(super) const CALENDAR: &str =
    "calendar periods belong to quotas, which come with a later release";

pub(super) fn concurrent(units: u64) -> Ceiling {
    Ceiling { window: Window::Concurrent, units, period: 0, burst: units }
}

pub(super) fn limits(
    raw: Option<read::Named<raw::Limit>>,
    routes: &Routes,
    desk: &mut Desk<'_>,
) -> Limits {
    let mut out = Limits::default();
    for (key, limit) in raw.unwrap_or_default().entries {
        if let Some(complaint) = name_complaint(&key.text) {
            desk.findings.error(key.at, complaint);
        }
        desk.origins.limits.insert(key.text.clone(), Origins::place(&desk.findings, key.at));
        let mut named = Named::Disabled;
        if let Some((limit, detail)) = self::limit(&key.text, key.at, limit, routes, desk) {
            if let Ok(ix) = u16::try_from(out.compiled.len()) {
                out.compiled.push(limit);
                out.details.push(detail);
                named = Named::Active(LimitIx(ix));
            } else {
                desk.findings.error(key.at, "there are more than 65 536 limits");
            }
        }
        out.places.insert(key.text, named);
    }
    out
}

/// `None`: the limit is disabled, or a problem was pushed.
fn limit(
    name: &str,
    name_at: Span,
    raw: raw::Limit,
    routes: &Routes,
    desk: &mut Desk<'_>,
) -> Option<(Limit, Detail)> {
    let raw::Limit {
        at,
        rate,
        quota,
        spend,
        credit,
        concurrent: open,
        window,
        burst,
        per,
        routes: names,
        counts,
        mode,
        unit,
        time_zone,
        anchor,
    } = raw;
    let disabled = mode.as_ref().is_some_and(|mode| mode.value == LimitMode::Disabled);
    let kinds = [
        ("rate", rate.as_ref().map(|rate| rate.at)),
        ("concurrent", open.as_ref().map(|open| open.at)),
        ("quota", quota.map(|quota| quota.at)),
        ("spend", spend.map(|spend| spend.at)),
        ("credit", credit.map(|credit| credit.at)),
    ];
    let whole = Span { end: at.end.max(name_at.end), ..name_at };
    if !is_of_this_release(name, whole, &kinds, disabled, desk) {
        return None;
    }
    let later = [
        ("unit", unit.map(|unit| unit.at)),
        ("time_zone", time_zone.map(|zone| zone.at)),
        ("anchor", anchor.map(|anchor| anchor.at)),
    ];
    meaningless(&later, "a limit of this kind", desk);
    let counts = match counts.map(|counts| counts.value) {
        None | Some(CountsWord::Requests) => Counts::Requests,
        Some(CountsWord::FailedAuthentication) => Counts::FailedAuthentication,
    };
    let per = self::per(per, counts, name_at, desk)?;
    let (kind, ceiling, window) = if let Some(open) = open {
        let of_rates =
            [("window", window.map(|window| window.at)), ("burst", burst.map(|burst| burst.at))];
        meaningless(&of_rates, "`concurrent`", desk);
        if open.value > MOST_UNITS {
            desk.findings.error(open.at, format!("a limit can be at most {MOST_UNITS}"));
        }
        if counts == Counts::FailedAuthentication {
            desk.findings.error(open.at, "failed authentications are counted by a `rate`");
        }
        (LimitKind::Concurrent, Some(concurrent(open.value)), Window::Concurrent)
    } else {
        let window = match window.map(|window| window.value) {
            None | Some(WindowWord::Bucket) => Window::Bucket,
            Some(WindowWord::Sliding) => Window::Sliding,
            Some(WindowWord::Fixed) => Window::Fixed,
        };
        (LimitKind::Rate, rate_ceiling(rate?, window, burst, desk)?, window)
    };
    let covered = covers(names, counts, per, name_at, routes, desk);
    let heaviest = heaviest(&covered, routes);
    if let (LimitKind::Rate, Some(ceiling), Some((weight, at))) = (kind, ceiling, heaviest)
        && ceiling.units > 0
        && weight > ceiling.burst
    {
        desk.findings.error_with(
            at,
            format!(
                "a weight of {weight} is more than `{name}` ever has, so nothing would be admitted"
            ),
            format!("`{name}` holds {}: lower the weight or raise the limit", ceiling.burst),
        );
    }
    if let Some(ceiling) = ceiling.filter(|_| window == Window::Bucket) {
        desk.notes.push(first_minute(name, ceiling));
    }
    let limit = Limit {
        name: name.into(),
        id: LimitId::of(name),
        kind,
        per,
        counts,
        mode: match mode.map(|mode| mode.value) {
            Some(LimitMode::Shadow) => Mode::Shadow,
            _ if disabled => return None,
            _ => Mode::Enforce,
        },
        on_store_failure: OnStoreFailure::Local,
        unit: None,
        ceiling,
        routes: covered.into(),
        slot: 0,
    };
    let burst = burst.map(|burst| burst.value);
    Some((limit, Detail { at: name_at, window, burst, heaviest }))
}

/// Whether exactly one kind is given, and one that this release has; pushes the problem where not.
fn is_of_this_release(
    name: &str,
    whole: Span,
    kinds: &[(&str, Option<Span>)],
    disabled: bool,
    desk: &mut Desk<'_>,
) -> bool {
    let given: Vec<(&str, Span)> =
        kinds.iter().filter_map(|(word, at)| at.map(|at| (*word, at))).collect();
    match given.as_slice() {
        [] => desk.findings.missing(
            whole,
            format!("`{name}` limits nothing"),
            "add one of rate, concurrent (quota, spend and credit come later)",
        ),
        [("rate" | "concurrent", _)] => return true,
        [_] if disabled => {}
        [(word, at)] => desk.findings.error_with(
            *at,
            format!("`{word}` limits are not in this release; they come with a later one"),
            "take it out, or add `mode: disabled`".to_owned(),
        ),
        [(first, _), (second, second_at), ..] => desk.findings.error_with(
            *second_at,
            format!("`{name}` has both `{first}` and `{second}`"),
            "a limit is one thing: make two limits".to_owned(),
        ),
    }
    false
}

/// Tells of words that say nothing about what the limit is.
fn meaningless(words: &[(&str, Option<Span>)], of: &str, desk: &mut Desk<'_>) {
    for (word, at) in words {
        if let Some(at) = at {
            desk.findings.error(*at, format!("`{word}` has no meaning for {of}"));
        }
    }
}

/// `Some(None)` for `rate: none`.
#[expect(clippy::option_option, reason = "the outer one says whether a problem was pushed")]
fn rate_ceiling(
    rate: At<Amount>,
    window: Window,
    burst: Option<At<u64>>,
    desk: &mut Desk<'_>,
) -> Option<Option<Ceiling>> {
    let (units, period) = match rate.value {
        Amount::Rate { units, period } => (units, period),
        Amount::None => return Some(None),
        Amount::Units(units) => {
            desk.findings.error_with(
                rate.at,
                "a rate needs its period",
                format!("write {units}/minute, or {units}/30s"),
            );
            return None;
        }
        Amount::Calendar => {
            desk.findings.error_with(
                rate.at,
                CALENDAR,
                "a rate has seconds, minutes, hours or days".to_owned(),
            );
            return None;
        }
    };
    let burst = match burst {
        None => units,
        Some(burst) if window != Window::Bucket => {
            desk.findings.error_with(
                burst.at,
                "only a bucket has a burst",
                "take out `burst`, or write `window: bucket`".to_owned(),
            );
            units
        }
        Some(burst) if burst.value == 0 && units > 0 || burst.value > MOST_UNITS => {
            desk.findings.error(burst.at, format!("a burst is from 1 to {MOST_UNITS}"));
            units
        }
        Some(burst) => burst.value,
    };
    Some(Some(Ceiling { window, units, period, burst }))
}

fn per(
    words: Option<Many<At<PerWord>>>,
    counts: Counts,
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
    Some(per)
}

fn words_at(name: Span, words: Span) -> Span {
    if words.end > words.start { words } else { name }
}

fn covers(
    names: Option<Many<At<GivenName>>>,
    counts: Counts,
    per: Per,
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
        if routes.at(ix).access == Access::Public && per.needs_caller() {
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

fn heaviest(covered: &[RouteIx], routes: &Routes) -> Option<(u64, Span)> {
    covered
        .iter()
        .map(|ix| (routes.at(*ix).weight, routes.spans[ix.0 as usize].1))
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

/// What a bucket lets through in the first minute of a caller that was idle.
fn first_minute(name: &str, ceiling: Ceiling) -> String {
    const MINUTE: u128 = 60_000_000_000;
    let refilled = (u128::from(ceiling.units) * MINUTE).div_ceil(u128::from(ceiling.period.max(1)));
    let most = (u128::from(ceiling.burst) + refilled).saturating_sub(u128::from(refilled > 0));
    format!(
        "limit `{name}`: a bucket of {}; a caller that was idle gets up to {most} through in its first minute \
         (`window: sliding` never passes more than its number)",
        ceiling.burst
    )
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
