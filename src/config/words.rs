//! Values → the words in which the policy would say them. Must never: decide what is shown.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::{Ipv4Subnets, Ipv6Subnets};

use crate::clock::Wall;
use crate::policy::charge::{ChargeClass, ChargeRule};
use crate::policy::idempotency::{Demand, IdempotencyRule, OnUnknown};
use crate::policy::limit::{Ceiling, Limit, LimitKind, Mode, OnStoreFailure, Window};
use crate::policy::money::Money;
use crate::policy::refusal::Refusal;
use crate::policy::revocation::{RevocationRule, RevokeWhen};
use crate::policy::snapshot::{Snapshot, Standing};

/// A range as networks.
pub(super) fn networks_of((first, last): (IpAddr, IpAddr)) -> Vec<String> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Ipv4Subnets::new(first, last, 0).map(|net| net.to_string()).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Ipv6Subnets::new(first, last, 0).map(|net| net.to_string()).collect()
        }
        (first, last) => vec![format!("{first}-{last}")],
    }
}

pub(super) fn mode_words(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "",
        Mode::Shadow => " (shadow)",
    }
}

pub(super) fn standing_words(standing: Standing) -> &'static str {
    match standing {
        Standing::Active => "",
        Standing::Inactive => " (inactive)",
    }
}

pub(super) fn wall_words(wall: Wall) -> String {
    jiff::Timestamp::from_millisecond(wall.0)
        .map_or_else(|_| wall.0.to_string(), |timestamp| timestamp.to_string())
}

/// `64KiB`, as the policy writes it.
pub(super) fn size_words(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{bytes}B"), |(unit, word)| format!("{}{word}", bytes / unit))
}

/// `24h`, as the policy writes it.
pub(super) fn duration_words(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units.iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{millis}ms"), |(unit, word)| format!("{}{word}", millis / unit))
}

/// The same of milliseconds.
fn millis_words(millis: i64) -> String {
    duration_words(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}

fn period_words(nanos: u64) -> String {
    match nanos {
        1_000_000_000 => "second".to_owned(),
        60_000_000_000 => "minute".to_owned(),
        3_600_000_000_000 => "hour".to_owned(),
        86_400_000_000_000 => "day".to_owned(),
        other => duration_words(Duration::from_nanos(other)),
    }
}

/// `120/minute, sliding` or `500 EUR/month in UTC`, as the policy writes it.
pub(super) fn ceiling_words(
    snapshot: &Snapshot,
    limit: &Limit,
    ceiling: Option<Ceiling>,
) -> String {
    let Some(Ceiling { window, units, period, burst }) = ceiling else {
        return "none".to_owned();
    };
    let period = period_words(period);
    let unit = limit.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
    match window {
        Window::Bucket if burst != units => format!("{units}/{period}, burst {burst}"),
        Window::Bucket => format!("{units}/{period}"),
        Window::Sliding => format!("{units}/{period}, sliding"),
        Window::Fixed => format!("{units}/{period}, fixed"),
        Window::Concurrent => format!("{units} open at once"),
        Window::Quota(calendar) => format!("{units}{unit}/{}", snapshot.calendar(calendar)),
        Window::Spend(calendar) => {
            format!("{}{unit}/{}", Money(units), snapshot.calendar(calendar))
        }
        Window::Prepaid => format!("prepaid{unit}"),
    }
}

/// What a limit does while the store has failed, where that is not what a rate does anyway; nothing for those that are
/// never stored.
pub(super) fn store_failure_words(limit: &Limit) -> &'static str {
    match (limit.kind, limit.on_store_failure) {
        (LimitKind::Concurrent, _) | (LimitKind::Rate, OnStoreFailure::Local) => "",
        (_, OnStoreFailure::Local) => ", on_store_failure local",
        (_, OnStoreFailure::Allow) => ", on_store_failure allow",
        (_, OnStoreFailure::Deny) => ", on_store_failure deny",
    }
}

/// `reserve 5, actual from x-cost, charged on [2xx, unknown]`; `None` where nothing is charged.
pub(super) fn charge_words(rule: &ChargeRule) -> Option<String> {
    if rule.reserve == Money::ZERO {
        return None;
    }
    let mut words = rule.reserve.to_string();
    if let Some(header) = &rule.actual {
        words = format!("reserve {words}, actual from {header}");
    }
    if let Some(classes) = &rule.charge_on {
        let classes: Vec<&str> = classes
            .iter()
            .map(|class| match class {
                ChargeClass::Success => "2xx",
                ChargeClass::Redirection => "3xx",
                ChargeClass::ClientError => "4xx",
                ChargeClass::ServerError => "5xx",
                ChargeClass::Unknown => "unknown",
            })
            .collect();
        words = format!("{words}, charged on [{}]", classes.join(", "));
    }
    Some(words)
}

/// `accept, keep 24h, max_body 256KiB, on_unknown refuse, release [429, 503]`
pub(super) fn idempotency_words(rule: &IdempotencyRule, release: &[u16]) -> String {
    let IdempotencyRule { demand, keep, max_answer, on_unknown } = rule;
    let demand = match demand {
        Demand::Accept => "accept",
        Demand::Require => "require",
    };
    let on_unknown = match on_unknown {
        OnUnknown::Refuse => "refuse",
        OnUnknown::Forward => "forward",
    };
    let release: Vec<String> = release.iter().map(ToString::to_string).collect();
    format!(
        "{demand}, keep {}, max_body {}, on_unknown {on_unknown}, release [{}]",
        millis_words(*keep),
        size_words(*max_answer as u64),
        release.join(", ")
    )
}

/// `unused for 90d (shadow)`
pub(super) fn revocation_words(rule: &RevocationRule) -> String {
    let when = match &rule.when {
        RevokeWhen::Unused(millis) => format!("unused for {}", millis_words(*millis)),
        RevokeWhen::Refused { ceiling, reasons } => {
            let reasons: Vec<&str> = reasons.iter().copied().map(Refusal::name).collect();
            let period = period_words(ceiling.period);
            format!("refused {}/{period} for [{}]", ceiling.units, reasons.join(", "))
        }
    };
    format!("{when}{}", mode_words(rule.mode))
}
