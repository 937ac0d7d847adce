//! `identity:` → the headers that vouch for the caller, and what clients may therefore not send.

use http::HeaderName;

use super::super::problem::{At, Span, did_you_mean};
use super::super::raw;
use super::super::scalar::GivenName;
use super::Desk;
use super::limits::{Limits, Named};
use crate::policy::forbidden::ForbiddenFields;
use crate::policy::limit::LimitIx;
use crate::policy::snapshot::{BalanceHeader, Identity, Upstream};

pub(super) fn identity(
    identity: Option<raw::Identity>,
    upstream: &Upstream,
    limits: &Limits,
    desk: &mut Desk<'_>,
) -> Identity {
    let nothing = Span { file: 0, start: 0, end: 0 };
    let raw::Identity { at: _, tenant, key, plan, scopes, address, strip, balance } =
        identity.unwrap_or_else(|| raw::Identity::absent(nothing));
    // A header that the gate sets may not reach the backend from a client, in whatever spelling.
    let mut forbidden: Vec<HeaderName> =
        upstream.set_headers.iter().map(|(name, _)| name.clone()).collect();
    let set_by_upstream = forbidden.len();
    let mut name = |given: Option<At<HeaderName>>, desk: &mut Desk<'_>| -> Option<HeaderName> {
        let At { value, at } = given?;
        if is_ours(&value) {
            desk.findings.error(at, format!("`{value}` has a meaning of its own in HTTP"));
        } else if let Some(other) = forbidden.iter().position(|known| *known == value) {
            let other = if other < set_by_upstream { "`set_headers`" } else { "`identity`" };
            desk.findings.error(at, format!("`{value}` is set in {other} already"));
        }
        forbidden.push(value.clone());
        Some(value)
    };
    let (tenant, key, plan) = (name(tenant, desk), name(key, desk), name(plan, desk));
    let (scopes, address) = (name(scopes, desk), name(address, desk));
    let balance = balance.and_then(|raw::BalanceHeader { at, header, of }| {
        let header = name(header, desk);
        let (Some(header), Some(of)) = (header, of) else {
            desk.findings.missing(
                at,
                "a balance has a header and a limit",
                "write { header: X-Wallet-Balance, of: wallet }",
            );
            return None;
        };
        // A wallet that is switched off has nothing to tell; the header stays forbidden to clients.
        if let Some(Named::Disabled) = limits.named(&of.value.0) {
            return None;
        }
        Some(BalanceHeader { name: header, of: money_limit(&of, limits, desk)? })
    });
    for At { value, at } in strip.map_or_else(Vec::new, |strip| strip.items) {
        if is_ours(&value) {
            desk.findings.error(at, format!("`{value}` has a meaning of its own in HTTP"));
        }
        forbidden.push(value);
    }
    Identity {
        tenant,
        key,
        plan,
        scopes,
        address,
        balance,
        forbidden: ForbiddenFields::new(&forbidden),
    }
}

/// The `credit` or `spend` limit of this name.
pub(super) fn money_limit(
    of: &At<GivenName>,
    limits: &Limits,
    desk: &mut Desk<'_>,
) -> Option<LimitIx> {
    let At { value: GivenName(name), at } = of;
    match limits.named(name) {
        Some(Named::Active(ix)) if limits.at(ix).kind.is_money() => return Some(ix),
        Some(Named::Active(_)) => {
            desk.findings.error_with(
                *at,
                format!("`{name}` counts no money"),
                "name a `credit` or `spend` limit".to_owned(),
            );
        }
        Some(Named::Disabled) => {
            desk.findings.error(*at, format!("the limit `{name}` is disabled"));
        }
        None => desk.findings.error_with(
            *at,
            format!("there is no limit `{name}`"),
            did_you_mean(name, limits.names()),
        ),
    }
    None
}

/// Fields that decide how a message is read or where it goes; setting them would break every request.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "content-length"
            | "transfer-encoding"
            | "connection"
            | "te"
            | "trailer"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "expect"
            | "via"
    )
}
