//! Overrides of plans, tenants and keys: who may set what, and the ceiling that comes of it.

use super::super::amount::{Amount, MOST_UNITS, Number};
use super::super::problem::{Span, did_you_mean};
use super::super::raw::{self, Or, Override};
use super::super::read;
use super::Desk;
use super::ceilings::{Wrong, never_fits, written};
use super::coverage::per_words;
use super::limits::{Limits, Named};
use crate::policy::limit::{Ceiling, LimitIx, LimitKind};

/// Who overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Plan,
    Tenant,
    Key,
}

/// A limit and what it is set to.
pub(super) type Set = (LimitIx, Option<Ceiling>);

impl Limits {
    /// What an override makes of a limit: its place and ceiling. `Ok(None)`: the limit is disabled.
    pub(super) fn overridden(
        &self,
        name: &str,
        value: &Amounts,
        holder: Holder,
    ) -> Result<Option<Set>, Wrong> {
        let ix = match self.named(name) {
            Some(Named::Active(ix)) => ix,
            Some(Named::Disabled) => return Ok(None),
            None => {
                return Err((
                    format!("there is no limit `{name}`"),
                    did_you_mean(name, self.names()),
                ));
            }
        };
        self.may_override(ix, holder)?;
        let limit = self.at(ix);
        let detail = self.detail(ix);
        match value.kind {
            Said::Nothing => {}
            Said::One(kind) if kind == limit.kind => {}
            Said::One(kind) => {
                let (is, said) = (limit.kind.name(), kind.name());
                return Err((format!("`{name}` is a `{is}` limit, not a `{said}`"), None));
            }
            Said::Several => return Err(("an override says one amount".to_owned(), None)),
        }
        let ceiling = detail
            .measure
            .ceiling(value.amount, value.burst, limit.ceiling)
            .map_err(|(message, remedy)| (format!("`{name}`: {message}"), remedy))?;
        if let Some((heaviest, _)) = detail.heaviest
            && never_fits(ceiling, limit.kind, heaviest)
        {
            let heaviest = written(heaviest, limit.kind);
            let does = if limit.kind.is_money() { "costs" } else { "weighs" };
            return Err((
                format!("a route {does} {heaviest}, so this would never admit it"),
                Some(format!("write at least {heaviest}, or `none`")),
            ));
        }
        if ceiling.is_some_and(|ceiling| !limit.kind.is_money() && ceiling.burst > MOST_UNITS) {
            return Err((format!("a limit can be at most {MOST_UNITS}"), None));
        }
        Ok(Some((ix, ceiling)))
    }

    /// An override stands on the counted subject or above it.
    fn may_override(&self, ix: LimitIx, holder: Holder) -> Result<(), Wrong> {
        let limit = self.at(ix);
        let per = limit.per;
        let (may, who) = match holder {
            Holder::Key => (per.key, "key"),
            Holder::Tenant => (per.key || per.tenant, "tenant"),
            Holder::Plan => (per.needs_caller(), "plan"),
        };
        if may {
            return Ok(());
        }
        Err((
            format!("a {who} cannot change `{}`, which counts per {}", limit.name, per_words(per)),
            Some(
                if per.tenant {
                    "set it on the tenant or a plan"
                } else if per.plan {
                    "set it on a plan"
                } else {
                    "its number is everybody's: change the limit itself"
                }
                .to_owned(),
            ),
        ))
    }
}

/// An override as written: in YAML or in a line of JSON.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::config) struct Amounts {
    pub(in crate::config) amount: Option<Amount>,
    pub(in crate::config) burst: Option<u64>,
    /// The kind of limit that it names, where it names one.
    pub(in crate::config) kind: Said,
}

/// The kinds of limit that an override names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::config) enum Said {
    #[default]
    Nothing,
    One(LimitKind),
    Several,
}

impl Amounts {
    /// An amount alone.
    pub(in crate::config) fn alone(amount: Amount) -> Amounts {
        Amounts { amount: Some(amount), ..Amounts::default() }
    }

    /// `{ quota: 5000/day }`
    pub(in crate::config) fn say(&mut self, kind: LimitKind, amount: Amount) {
        self.kind = match self.kind {
            Said::Nothing => Said::One(kind),
            Said::One(_) | Said::Several => Said::Several,
        };
        self.amount = Some(amount);
    }

    pub(in crate::config) fn of(value: &Override) -> Amounts {
        let raw::OverrideRule { at: _, rate, quota, spend, concurrent, burst } = match value {
            Or::One(amount) => return Amounts::alone(amount.value),
            Or::Map(map) => map,
        };
        let mut amounts =
            Amounts { burst: burst.as_ref().map(|burst| burst.value), ..Amounts::default() };
        let given = [(LimitKind::Rate, rate), (LimitKind::Quota, quota), (LimitKind::Spend, spend)];
        for (kind, amount) in given {
            if let Some(amount) = amount {
                amounts.say(kind, amount.value);
            }
        }
        if let Some(open) = concurrent {
            amounts.say(LimitKind::Concurrent, Amount::Alone(Number::Whole(open.value)));
        }
        amounts
    }
}

/// Overrides of a plan, tenant or YAML key, each checked.
pub(super) fn overrides(
    raw: Option<read::Named<Override>>,
    holder: Holder,
    limits: &Limits,
    desk: &mut Desk<'_>,
) -> Vec<(LimitIx, Option<Ceiling>, Span)> {
    let mut out = Vec::new();
    for (key, value) in raw.unwrap_or_default().entries {
        let at = match &value {
            Override::One(amount) => amount.at,
            Override::Map(map) => map.at,
        };
        match limits.overridden(&key.text, &Amounts::of(&value), holder) {
            Ok(Some((ix, ceiling))) => out.push((ix, ceiling, key.at)),
            Ok(None) => {}
            Err((message, remedy)) => {
                let names_it = limits.named(&key.text).is_none();
                desk.findings.error_with(if names_it { key.at } else { at }, message, remedy);
            }
        }
    }
    out
}
