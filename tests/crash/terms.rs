//! The policy under which gates are killed: who the tenants are, what the routes cost, and which limits cover them.

use tollgate::clock::Clock;

use crate::support::{Key, Policy};

/// Millionths.
pub(crate) const ONE: u64 = 1_000_000;
/// What a priced route reserves.
pub(crate) const RESERVE: u64 = 5 * ONE;
/// The ceiling of `cap`, per tenant.
pub(crate) const CAP: u64 = 60 * ONE;
/// The ceiling of `monthly`, per tenant.
pub(crate) const MONTHLY: u64 = 100;
/// The ceiling of `bulk`, per tenant.
pub(crate) const BULK: u64 = 100_000;
/// How long the gate waits for the backend.
pub(crate) const TIMEOUT_MS: u64 = 300;

/// A route, as the suite needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) path: &'static str,
    /// What a request reserves of money, in millionths.
    pub(crate) cost: u64,
    /// Whether its answers say what it did cost.
    pub(crate) priced: bool,
    /// The limits that cover it.
    pub(crate) limits: &'static [&'static str],
}

pub(crate) const ROUTES: &[Route] = &[
    Route { path: "/wallet/send", cost: ONE, priced: false, limits: &["wallet"] },
    Route { path: "/wallet/priced", cost: RESERVE, priced: true, limits: &["wallet"] },
    Route { path: "/cap/send", cost: ONE, priced: false, limits: &["cap"] },
    Route { path: "/cap/priced", cost: RESERVE, priced: true, limits: &["cap"] },
    Route { path: "/quota/send", cost: 0, priced: false, limits: &["monthly"] },
    Route { path: "/bulk/send", cost: 0, priced: false, limits: &["bulk"] },
    Route {
        path: "/all/priced",
        cost: RESERVE,
        priced: true,
        limits: &["wallet", "cap", "monthly"],
    },
];

impl Route {
    pub(crate) fn at(path: &str) -> Option<Route> {
        ROUTES.iter().find(|route| route.path == path).copied()
    }

    pub(crate) fn is_under(self, limit: &str) -> bool {
        self.limits.contains(&limit)
    }
}

/// The tenant of a round, with a key of its own. Each is new after two rounds, so that its limits are met while gates die.
pub(crate) fn tenant(number: usize) -> String {
    format!("t{number}")
}

/// The secret of a tenant's key.
pub(crate) fn secret(number: usize) -> String {
    format!("secret-of-t{number}")
}

/// A key that is revoked and restored all the time, and may do nothing else.
pub(crate) const VICTIM: (&str, &str) = ("victim", "secret-of-the-victim");

/// A policy for so many tenants.
pub(crate) fn policy(tenants: usize) -> Policy {
    let secrets: Vec<(String, String)> = (0..tenants).map(|n| (tenant(n), secret(n))).collect();
    let mut keys: Vec<Key<'_>> =
        secrets.iter().map(|(name, secret)| Key::of(name, name, secret)).collect();
    keys.push(Key::of(VICTIM.0, "other", VICTIM.1));
    Policy::with_keys(&text(), &keys)
}

fn text() -> String {
    let routes: Vec<String> = ROUTES.iter().map(route_line).collect();
    let covered = |limit: &str| {
        let names: Vec<String> =
            ROUTES.iter().filter(|route| route.is_under(limit)).map(|r| name(r.path)).collect();
        names.join(", ")
    };
    let (wallet, cap, monthly, bulk) =
        (covered("wallet"), covered("cap"), covered("monthly"), covered("bulk"));
    let (cap_units, anchor) = (CAP / ONE, anchor());
    format!(
        "\
version: 1
upstream: http://127.0.0.1:9
record: {{ to: none }}
drain: {{ delay: 0s, deadline: 2s }}
credentials: {{ accept: [bearer], keys: gate.keys.yaml }}
identity: {{ tenant: X-Tenant-Id }}
idempotency: {{ keep: 24h, max_body: 64KiB, on_unknown: refuse, release: [503] }}
routes:
{}
  - {{ name: closed, match: GET /closed, allow: [203.0.113.0/24] }}
limits:
  throttle: {{ rate: 1000000/second, per: key }}
  wallet: {{ credit: prepaid, unit: credits, per: tenant, routes: [{wallet}] }}
  cap: {{ spend: {cap_units}/month, unit: EUR, per: tenant, anchor: {anchor}, routes: [{cap}] }}
  monthly: {{ quota: {MONTHLY}/month, per: tenant, anchor: {anchor}, routes: [{monthly}] }}
  bulk: {{ quota: {BULK}/month, per: tenant, anchor: {anchor}, routes: [{bulk}] }}
errors:
  content_type: application/json
  body: {{ ours: \"{{code}}\" }}
",
        routes.join("\n")
    )
}

fn name(path: &str) -> String {
    path.trim_start_matches('/').replace('/', "-")
}

fn route_line(route: &Route) -> String {
    let cost = match (route.priced, route.cost / ONE) {
        (true, cost) => format!(", cost: {{ reserve: {cost}, actual: {{ header: X-Cost }} }}"),
        (false, 0) => String::new(),
        (false, cost) => format!(", cost: {cost}"),
    };
    let (name, path) = (name(route.path), route.path);
    format!(
        "  - {{ name: {name}, match: POST {path}, idempotency: accept, timeout: {TIMEOUT_MS}ms{cost} }}"
    )
}

/// A day of the month that is not near: no period may end while a suite runs.
fn anchor() -> i64 {
    let days = Clock::system().now().wall.0.div_euclid(86_400_000);
    // The average month is long enough for this: only "not today and not tomorrow" matters.
    if day_of_month(days) < 15 { 25 } else { 5 }
}

/// Of days since the epoch (Howard Hinnant's `civil_from_days`).
fn day_of_month(days: i64) -> i64 {
    let of_era = (days + 719_468).rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    of_year - (153 * month + 2) / 5 + 1
}
