//! `auto_revoke:` → when keys are revoked without a person.

use std::time::Duration;

use super::super::amount::{Amount, DAY, Length};
use super::super::problem::{At, did_you_mean};
use super::super::raw;
use super::super::read::{Many, Named};
use super::super::scalar::{LimitMode, name_complaint};
use super::Desk;
use super::limits::RESERVED;
use crate::policy::limit::{Ceiling, LimitId, Mode, Window};
use crate::policy::refusal::Refusal;
use crate::policy::revocation::{RevocationRule, RevokeWhen};

/// Uses are kept to the hour, so nothing shorter could be told.
const SHORTEST: Duration = Duration::from_hours(1);

pub(super) fn auto_revoke(
    raw: Option<Named<raw::AutoRevoke>>,
    desk: &mut Desk<'_>,
) -> Vec<RevocationRule> {
    let mut out = Vec::new();
    for (key, rule) in raw.unwrap_or_default().entries {
        if let Some(complaint) = name_complaint(&key.text) {
            desk.findings.error(key.at, complaint);
        }
        let raw::AutoRevoke { at, unused, refused, reasons, mode } = rule;
        let when = match (unused, refused) {
            (Some(unused), None) => {
                if let Some(reasons) = &reasons {
                    desk.findings.error(reasons.at, "`for` names what `refused` counts");
                }
                self::unused(unused, desk)
            }
            (None, Some(refused)) => self::refused(refused, reasons, desk),
            (Some(_), Some(refused)) => {
                desk.findings.error_with(
                    refused.at,
                    format!("`{}` has both `unused` and `refused`", key.text),
                    "make two rules".to_owned(),
                );
                None
            }
            (None, None) => {
                desk.findings.missing(
                    at,
                    format!("`{}` does not say when to revoke", key.text),
                    "write { unused: 90d } or { refused: 50/hour, for: [scope_denied] }",
                );
                None
            }
        };
        // Only who writes `enforce` has keys taken away.
        let mode = match mode.map(|mode| mode.value) {
            Some(LimitMode::Enforce) => Mode::Enforce,
            Some(LimitMode::Shadow) | None => Mode::Shadow,
            Some(LimitMode::Disabled) => continue,
        };
        if let Some(when) = when {
            let id = LimitId::of(&format!("{RESERVED}{}", key.text));
            out.push(RevocationRule { name: key.text.into(), id, mode, when });
        }
    }
    out
}

fn unused(unused: At<Duration>, desk: &mut Desk<'_>) -> Option<RevokeWhen> {
    if unused.value < SHORTEST {
        desk.findings.error_with(
            unused.at,
            "the last use of a key is kept to the hour",
            "write at least 1h, or 90d".to_owned(),
        );
        return None;
    }
    i64::try_from(unused.value.as_millis()).ok().map(RevokeWhen::Unused)
}

fn refused(
    refused: At<Amount>,
    reasons: Option<Many<At<String>>>,
    desk: &mut Desk<'_>,
) -> Option<RevokeWhen> {
    let number_and_period = match refused.value {
        Amount::Per(number, Length::Elapsed(period)) => Some((number, period)),
        Amount::Per(number, Length::Day) => Some((number, DAY)),
        Amount::Per(_, Length::Month) | Amount::Alone(_) | Amount::None => None,
    };
    let units = number_and_period.and_then(|(number, period)| Some((number.units()?, period)));
    let Some((units @ 1.., period)) = units else {
        desk.findings.error_with(
            refused.at,
            "this does not say how many refusals in what time",
            "write 50/hour: the 50th within an hour revokes".to_owned(),
        );
        return None;
    };
    let Some(reasons) = reasons else {
        desk.findings.missing(
            refused.at,
            "this does not say which refusals count",
            "add `for: [scope_denied, address_denied]`",
        );
        return None;
    };
    if reasons.items.is_empty() {
        desk.findings.missing(reasons.at, "no refusal counts", "write [scope_denied]");
    }
    let mut counted = Vec::new();
    for reason in reasons.items {
        let named = Refusal::ALL.iter().copied().find(|known| known.name() == reason.value);
        match named {
            Some(refusal) if knows_a_key(refusal) => counted.push(refusal),
            Some(_) => desk.findings.error_with(
                reason.at,
                format!("`{}` is nothing that a known key does", reason.value),
                "name refusals of known keys, such as scope_denied, address_denied, rate"
                    .to_owned(),
            ),
            None => {
                let known = Refusal::ALL.iter().copied().filter(|known| knows_a_key(*known));
                desk.findings.error_with(
                    reason.at,
                    format!("there is no refusal `{}`", reason.value),
                    did_you_mean(&reason.value, known.map(Refusal::name)),
                );
            }
        }
    }
    let ceiling = Ceiling { window: Window::Sliding, units, period, burst: units };
    Some(RevokeWhen::Refused { ceiling, reasons: counted.into() })
}

/// Whether a refusal is the doing of a key that is known when it is said.
fn knows_a_key(refusal: Refusal) -> bool {
    match refusal {
        Refusal::KeyNotYet
        | Refusal::KeyExpired
        | Refusal::TenantInactive
        | Refusal::ScopeDenied
        | Refusal::AddressDenied
        | Refusal::TenantDenied
        | Refusal::RouteUnknown
        | Refusal::MethodUnknown
        | Refusal::Rate
        | Refusal::Quota
        | Refusal::Spend
        | Refusal::Credit
        | Refusal::Concurrent
        | Refusal::IdempotencyMalformed
        | Refusal::IdempotencyRequired
        | Refusal::IdempotencyInFlight
        | Refusal::IdempotencyMismatch
        | Refusal::IdempotencyUnknown
        | Refusal::IdempotencyNotReplayable
        | Refusal::BodyTooLarge => true,
        Refusal::KeyMissing
        | Refusal::KeyMalformed
        | Refusal::KeyUnknown
        | Refusal::KeyRevoked
        | Refusal::Guessing
        | Refusal::IdempotencyFull
        | Refusal::BadRequest
        | Refusal::HeadTooLarge
        | Refusal::SlowClient
        | Refusal::UpstreamUnreachable
        | Refusal::UpstreamTimeout
        | Refusal::UpstreamBroken
        | Refusal::Overloaded
        | Refusal::StoreUnavailable
        | Refusal::Draining
        | Refusal::Internal => false,
    }
}
