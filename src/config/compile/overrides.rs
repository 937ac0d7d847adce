//! Overrides of plans, tenants and keys: who may set what, and the ceiling that comes of it.

use super::super::problem::{Span, did_you_mean};
use super::super::raw::{self, Or, Override};
use super::super::read;
use super::super::scalar::{Amount, MOST_UNITS};
use super::Desk;
use super::limits::{CALENDAR, Limits, Named, concurrent, per_words};
use crate::policy::limit::{Ceiling, LimitIx, LimitKind, Window};

/// Who overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Plan,
    Tenant,
    Key,
}

/// What is wrong with an override, and what to do about it.
pub(super) type Wrong = (String, Option<String>);

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
        let ceiling = match (limit.kind, value.amount) {
            (_, Some(Amount::None)) => None,
            (LimitKind::Concurrent, Some(Amount::Units(units))) => Some(concurrent(units)),
            (LimitKind::Concurrent, _) => {
                return Err((format!("`{name}` counts open requests: write a number"), None));
            }
            (LimitKind::Quota | LimitKind::Spend | LimitKind::Credit, _) => return Ok(None),
            (LimitKind::Rate, Some(Amount::Calendar)) => {
                return Err((format!("`{name}` is a rate: {CALENDAR}"), None));
            }
            (LimitKind::Rate, amount) => {
                let (units, period) = match (amount, limit.ceiling) {
                    (Some(Amount::Rate { units, period }), _) => (units, period),
                    (Some(Amount::Units(units)), Some(own)) => (units, own.period),
                    (None, Some(own)) => (own.units, own.period),
                    _ => {
                        return Err((
                            format!("`{name}` has no unit of its own to keep"),
                            Some("write the unit: 120/minute".to_owned()),
                        ));
                    }
                };
                // What the override does not say stays: a burst that the limit states, in proportion.
                let kept = detail.burst.map(|burst| match limit.ceiling {
                    Some(own) => in_proportion(burst, units, own.units),
                    None => burst,
                });
                let burst = value.burst.or(kept).unwrap_or(units);
                if value.burst.is_some() && detail.window != Window::Bucket {
                    return Err((format!("`{name}` is no bucket, so it has no burst"), None));
                }
                Some(Ceiling { window: detail.window, units, period, burst })
            }
        };
        if let (Some(ceiling), Some((weight, _))) = (ceiling, detail.heaviest)
            && limit.kind == LimitKind::Rate
            && ceiling.units > 0
            && weight > ceiling.burst
        {
            return Err((
                format!("a route weighs {weight}, so this would never admit it"),
                Some(format!("write at least {weight}, or `none`")),
            ));
        }
        if ceiling.is_some_and(|ceiling| ceiling.burst > MOST_UNITS) {
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
}

impl Amounts {
    pub(in crate::config) fn of(value: &Override) -> Amounts {
        match value {
            Or::One(amount) => Amounts { amount: Some(amount.value), burst: None },
            Or::Map(raw::OverrideRule { at: _, rate, concurrent, burst }) => Amounts {
                amount: match (rate, concurrent) {
                    (Some(rate), _) => Some(rate.value),
                    (None, Some(open)) => Some(Amount::Units(open.value)),
                    (None, None) => None,
                },
                burst: burst.as_ref().map(|burst| burst.value),
            },
        }
    }
}

/// `burst` as it is to `own` units, for `units`; rounded up, so that it is 0 only where nothing is admitted.
fn in_proportion(burst: u64, units: u64, own: u64) -> u64 {
    let scaled = (u128::from(burst) * u128::from(units)).div_ceil(u128::from(own.max(1)));
    u64::try_from(scaled).unwrap_or(u64::MAX).min(MOST_UNITS)
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
