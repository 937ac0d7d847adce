//! `limits:` → the limits, and what overrides need to know of them.

use std::collections::{HashMap, HashSet};

use super::super::amount::{Amount, MOST_UNITS, Zone};
use super::super::origin::Origins;
use super::super::problem::{At, Span};
use super::super::raw;
use super::super::read;
use super::super::scalar::{CountsWord, LimitMode, StoreFailureWord, WindowWord, name_complaint};
use super::Desk;
use super::ceilings::{
    Calendars, Measure, calendars, concurrent, first_minute, never_fits, prepaid, written,
};
use super::coverage::{covers, heaviest, per};
use super::routes::Routes;
use crate::policy::limit::{
    Ceiling, Counts, Limit, LimitId, LimitIx, LimitKind, Mode, OnStoreFailure, Window,
};
use crate::policy::snapshot::RouteIx;

/// What a limit's name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Named {
    /// A limit that is in force or in shadow.
    Active(LimitIx),
    /// One with `mode: disabled`: overrides may name it.
    Disabled,
}

#[derive(Default)]
pub(super) struct Limits {
    pub(super) compiled: Vec<Limit>,
    places: HashMap<String, Named>,
    details: Vec<Detail>,
    /// The routes that some money limit covers, be it disabled.
    pub(super) paid: HashSet<RouteIx>,
}

/// What overrides need to know of a limit.
pub(super) struct Detail {
    at: Span,
    pub(super) measure: Measure,
    /// The most that a request on a covered route takes, in the limit's own units, and where that is written.
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

/// Under these names the rules of `auto_revoke` count, so no limit may have one.
pub(super) const RESERVED: &str = "auto_revoke/";

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
        if key.text.starts_with(RESERVED) {
            desk.findings.error(key.at, format!("a limit's name cannot start with `{RESERVED}`"));
        }
        desk.origins.limits.insert(key.text.clone(), Origins::place(&desk.findings, key.at));
        let disabled = limit.mode.as_ref().is_some_and(|mode| mode.value == LimitMode::Disabled);
        let mut named = Named::Disabled;
        if let Some((limit, detail)) = self::limit(&key.text, key.at, limit, routes, desk) {
            if limit.kind.is_money() {
                out.paid.extend(&limit.routes);
            }
            if disabled {
                // It was looked at like any other, and counts for nothing.
            } else if let Ok(ix) = u16::try_from(out.compiled.len()) {
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

/// `None`: a problem was pushed.
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
        concurrent,
        window,
        burst,
        per,
        routes: names,
        counts,
        mode,
        unit,
        time_zone,
        anchor,
        on_store_failure,
    } = raw;
    let whole = Span { end: at.end.max(name_at.end), ..name_at };
    let given = [
        rate.map(|rate| (Kind::Rate(rate.value), rate.at)),
        quota.map(|quota| (Kind::Quota(quota.value), quota.at)),
        spend.map(|spend| (Kind::Spend(spend.value), spend.at)),
        credit.map(|credit| (Kind::Credit, credit.at)),
        concurrent.map(|open| (Kind::Concurrent(open.value), open.at)),
    ];
    let (given, given_at) = only(name, whole, &given, desk)?;
    let kind = given.kind();
    let of_rates =
        [("window", window.as_ref().map(|word| word.at)), ("burst", burst.map(|burst| burst.at))];
    let of_calendars = [
        ("time_zone", time_zone.as_ref().map(|zone| zone.at)),
        ("anchor", anchor.map(|anchor| anchor.at)),
    ];
    let of_units = [("unit", unit.as_ref().map(|unit| unit.at))];
    let of_stored = [("on_store_failure", on_store_failure.map(|word| word.at))];
    let without: &[&[Word]] = match kind {
        LimitKind::Rate => &[&of_calendars, &of_units],
        LimitKind::Concurrent => &[&of_rates, &of_calendars, &of_units, &of_stored],
        LimitKind::Quota | LimitKind::Spend => &[&of_rates],
        LimitKind::Credit => &[&of_rates, &of_calendars],
    };
    meaningless(without.concat(), given.word(), desk);
    let counts = match counts.map(|counts| counts.value) {
        None | Some(CountsWord::Requests) => Counts::Requests,
        Some(CountsWord::FailedAuthentication) => Counts::FailedAuthentication,
    };
    if counts == Counts::FailedAuthentication && kind != LimitKind::Rate {
        desk.findings.error(given_at, "failed authentications are counted by a `rate`");
    }
    let per = self::per(per, counts, kind, name_at, desk)?;
    let stated_burst = burst.map(|burst| burst.value);
    let measure = match given {
        Kind::Rate(_) => Measure::Rate { window: window_of(window), burst: stated_burst },
        Kind::Concurrent(_) => Measure::Concurrent,
        Kind::Quota(amount) => Measure::Quota(of_zone(amount, time_zone, anchor, desk)?),
        Kind::Spend(amount) => Measure::Spend(of_zone(amount, time_zone, anchor, desk)?),
        Kind::Credit => Measure::Prepaid,
    };
    let ceiling = ceiling(given, measure, At { value: (), at: given_at }, burst, desk)?;
    let covered = covers(names, counts, (kind, per), name_at, routes, desk);
    let heaviest = heaviest(&covered, kind, routes);
    if let (true, Some((weight, at)), Some(ceiling)) =
        (never_fits(ceiling, kind, heaviest.map_or(0, |(weight, _)| weight)), heaviest, ceiling)
    {
        tell_of_weight(name, kind, At { value: weight, at }, ceiling, desk);
    }
    if let Some(ceiling) = ceiling.filter(|ceiling| ceiling.window == Window::Bucket) {
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
            Some(LimitMode::Enforce | LimitMode::Disabled) | None => Mode::Enforce,
        },
        on_store_failure: match on_store_failure.map(|word| word.value) {
            Some(StoreFailureWord::Local) => OnStoreFailure::Local,
            Some(StoreFailureWord::Allow) => OnStoreFailure::Allow,
            Some(StoreFailureWord::Deny) => OnStoreFailure::Deny,
            None => on_store_failure_of(kind),
        },
        unit: unit.map(|unit| unit.value.0.into()),
        ceiling,
        routes: covered.into(),
        slot: 0,
    };
    Some((limit, Detail { at: name_at, measure, heaviest }))
}

/// A word and where it is written, if it is.
type Word = (&'static str, Option<Span>);

/// What a limit says it is.
#[derive(Clone, Copy)]
enum Kind {
    Rate(Amount),
    Quota(Amount),
    Spend(Amount),
    Credit,
    Concurrent(u64),
}

impl Kind {
    fn kind(self) -> LimitKind {
        match self {
            Kind::Rate(_) => LimitKind::Rate,
            Kind::Quota(_) => LimitKind::Quota,
            Kind::Spend(_) => LimitKind::Spend,
            Kind::Credit => LimitKind::Credit,
            Kind::Concurrent(_) => LimitKind::Concurrent,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Kind::Rate(_) => "rate",
            Kind::Quota(_) => "quota",
            Kind::Spend(_) => "spend",
            Kind::Credit => "credit",
            Kind::Concurrent(_) => "concurrent",
        }
    }
}

/// The one kind that is given; pushes the problem where there is none, or more than one.
fn only(
    name: &str,
    whole: Span,
    given: &[Option<(Kind, Span)>],
    desk: &mut Desk<'_>,
) -> Option<(Kind, Span)> {
    let mut given = given.iter().copied().flatten();
    let Some(first) = given.next() else {
        desk.findings.missing(
            whole,
            format!("`{name}` limits nothing"),
            "add one of rate, quota, spend, credit, concurrent",
        );
        return None;
    };
    if let Some((second, at)) = given.next() {
        desk.findings.error_with(
            at,
            format!("`{name}` has both `{}` and `{}`", first.0.word(), second.word()),
            "a limit is one thing: make two limits".to_owned(),
        );
        return None;
    }
    Some(first)
}

/// Tells of words that say nothing about what the limit is.
fn meaningless(words: Vec<Word>, of: &str, desk: &mut Desk<'_>) {
    for (word, at) in words {
        if let Some(at) = at {
            desk.findings.error(at, format!("`{word}` has no meaning for `{of}`"));
        }
    }
}

fn window_of(word: Option<At<WindowWord>>) -> Window {
    match word.map(|word| word.value) {
        None | Some(WindowWord::Bucket) => Window::Bucket,
        Some(WindowWord::Sliding) => Window::Sliding,
        Some(WindowWord::Fixed) => Window::Fixed,
    }
}

/// The calendars of a quota or a spend cap.
fn of_zone(
    amount: Amount,
    zone: Option<At<Zone>>,
    anchor: Option<At<u64>>,
    desk: &mut Desk<'_>,
) -> Option<Calendars> {
    use super::super::amount::Length;
    let day = anchor.map_or(1, |anchor| anchor.value);
    let fits = u8::try_from(day).ok().filter(|day| (1..=31).contains(day));
    if let Some(anchor) = anchor {
        if fits.is_none() {
            desk.findings.error_with(
                anchor.at,
                "an `anchor` is a day of the month from 1 to 31",
                "a month that is shorter begins on its last day".to_owned(),
            );
        } else if matches!(amount, Amount::Per(_, Length::Day)) {
            desk.findings.error_with(
                anchor.at,
                "a day has no `anchor`: it begins at midnight",
                "take it out, or count by the month".to_owned(),
            );
        }
    }
    let zone = zone.map_or(jiff::tz::TimeZone::UTC, |zone| zone.value.0);
    let made = calendars(&zone, fits.unwrap_or(1), desk);
    if made.is_none() {
        let message = "there are more than 65 536 ways to cut time into periods";
        desk.flag_error(message.to_owned());
    }
    made
}

/// `Some(None)` for `rate: none`.
#[expect(clippy::option_option, reason = "the outer one says whether a problem was pushed")]
fn ceiling(
    given: Kind,
    measure: Measure,
    At { at, .. }: At<()>,
    burst: Option<At<u64>>,
    desk: &mut Desk<'_>,
) -> Option<Option<Ceiling>> {
    let amount = match given {
        Kind::Rate(amount) | Kind::Quota(amount) | Kind::Spend(amount) => amount,
        Kind::Credit => return Some(Some(prepaid())),
        Kind::Concurrent(units) => {
            if units > MOST_UNITS {
                desk.findings.error(at, format!("a limit can be at most {MOST_UNITS}"));
            }
            return Some(Some(concurrent(units)));
        }
    };
    let ceiling = match measure.ceiling(Some(amount), None, None) {
        Ok(ceiling) => ceiling,
        Err((message, remedy)) => {
            desk.findings.error_with(at, message, remedy);
            return None;
        }
    };
    if let (Some(burst), Some(ceiling)) = (burst, ceiling)
        && measure.kind() == LimitKind::Rate
    {
        if ceiling.window != Window::Bucket {
            desk.findings.error_with(
                burst.at,
                "only a bucket has a burst",
                "take out `burst`, or write `window: bucket`".to_owned(),
            );
        } else if burst.value == 0 && ceiling.units > 0 || burst.value > MOST_UNITS {
            desk.findings.error(burst.at, format!("a burst is from 1 to {MOST_UNITS}"));
        }
    }
    Some(ceiling)
}

fn tell_of_weight(
    name: &str,
    kind: LimitKind,
    weight: At<u64>,
    ceiling: Ceiling,
    desk: &mut Desk<'_>,
) {
    let word = if kind.is_money() { "cost" } else { "weight" };
    let (taken, held) = (written(weight.value, kind), written(ceiling.burst, kind));
    desk.findings.error_with(
        weight.at,
        format!("a {word} of {taken} is more than `{name}` ever has, so nothing would be admitted"),
        format!("`{name}` holds {held}: lower the {word} or raise the limit"),
    );
}

fn on_store_failure_of(kind: LimitKind) -> OnStoreFailure {
    match kind {
        LimitKind::Rate | LimitKind::Concurrent => OnStoreFailure::Local,
        LimitKind::Quota | LimitKind::Spend | LimitKind::Credit => OnStoreFailure::Deny,
    }
}
