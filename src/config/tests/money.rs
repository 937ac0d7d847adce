//! Quotas, money, idempotency and revocation as the policy says them, compiled.

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderName;

use super::*;
use crate::policy::authenticate::by_digest;
use crate::policy::charge::ChargeClass;
use crate::policy::covering;
use crate::policy::idempotency::{Demand, OnUnknown};
use crate::policy::keys::SecretDigest;
use crate::policy::limit::{Limit, LimitId, LimitIx, LimitKind, Mode, OnStoreFailure, Window};
use crate::policy::money::Money;
use crate::policy::order::Asks;
use crate::policy::overlay::Overlay;
use crate::policy::revocation::RevokeWhen;
use crate::policy::snapshot::{Route, RouteIx, Target};

const PAID: &str = "
version: 1
upstream: http://127.0.0.1:9000
credentials: { keys: [keys.yaml, more.jsonl] }
idempotency: { keep: 2h, max_body: 1KiB, release: [503, 429, 503], records: 500, memory: 2MiB }
routes:
  - { name: send, match: POST /send, cost: 0.05, idempotency: accept }
  - { name: bulk, match: POST /bulk, weight: 10, cost: { reserve: 5, actual: { header: X-Cost } },
      charge_on: [unknown, 2xx],
      idempotency: { demand: require, keep: 1h, max_body: 2KiB, on_unknown: forward, release: [] } }
  - { name: read, match: GET /read, idempotency: none }
  - { name: wallet, match: GET /wallet, answer: { balance: wallet } }
limits:
  off: { quota: 5000/day, mode: disabled }
  monthly: { quota: 90000/month, per: tenant, time_zone: Europe/Amsterdam, anchor: 15, on_store_failure: allow }
  daily: { quota: 500/day, unit: messages }
  chosen: { quota: none, time_zone: Europe/Amsterdam, anchor: 15 }
  cap: { spend: 20.50/day, unit: EUR, per: tenant, routes: [send, bulk] }
  wallet: { credit: prepaid, unit: credits, mode: shadow }
  rate: { rate: 10/second }
plans:
  day: { limits: { monthly: 5000/day, cap: 0 } }
tenants:
  acme: { plan: day, limits: { cap: 700.25/month } }
  globex: { limits: { monthly: 70, daily: none, wallet: none } }
report: { of: daily }
identity: { tenant: X-Tenant-Id, balance: { header: X-Balance, of: wallet } }
auto_revoke:
  off: { unused: 1d, mode: disabled }
  idle: { unused: 90d }
  abuse: { refused: 50/hour, for: [scope_denied, address_denied], mode: enforce }
ready: { store: true }
";

fn paid(yaml: &str, jsonl: &str) -> Snapshot {
    loaded(PAID, yaml, jsonl).snapshot
}

fn limit<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Limit {
    snapshot.limits.iter().find(|limit| &*limit.name == name).unwrap()
}

fn route<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Route {
    snapshot.routes.iter().find(|route| &*route.name == name).unwrap()
}

/// The number, in its own units, and the calendar that it is for.
fn per(snapshot: &Snapshot, ceiling: Option<Ceiling>) -> String {
    let ceiling = ceiling.unwrap();
    assert_eq!((ceiling.burst, ceiling.period), (ceiling.units, 0));
    let number = match ceiling.window {
        Window::Quota(_) => ceiling.units.to_string(),
        _ => Money(ceiling.units).to_string(),
    };
    format!("{number}/{}", snapshot.calendar(ceiling.window.calendar().unwrap()))
}

#[test]
fn quotas_and_spend_count_by_the_calendar_of_their_zone() {
    let snapshot = paid("[]", "");
    let own = |name| per(&snapshot, limit(&snapshot, name).ceiling);
    assert_eq!(own("monthly"), "90000/month in Europe/Amsterdam from day 15");
    assert_eq!(own("daily"), "500/day in UTC");
    assert_eq!(own("cap"), "20.5/day in UTC");
    assert_eq!(limit(&snapshot, "chosen").ceiling, None);
    let of = |name| limit(&snapshot, name).ceiling.unwrap().window.calendar();
    assert_eq!(of("daily"), of("cap"), "one day of UTC, kept once");
    let cap = limit(&snapshot, "cap");
    assert_eq!((cap.kind, cap.unit.as_deref()), (LimitKind::Spend, Some("EUR")));
    let wallet = limit(&snapshot, "wallet");
    assert_eq!((wallet.kind, wallet.mode), (LimitKind::Credit, Mode::Shadow));
    assert_eq!(wallet.ceiling.map(|c| (c.window, c.units)), Some((Window::Prepaid, 0)));
    assert_eq!(snapshot.report.of, Some(LimitIx(1)));
}

#[test]
fn what_a_failed_store_does_depends_on_the_kind_unless_it_is_said() {
    let snapshot = paid("[]", "");
    let does = |name| limit(&snapshot, name).on_store_failure;
    assert_eq!(does("rate"), OnStoreFailure::Local);
    assert_eq!(does("monthly"), OnStoreFailure::Allow);
    for name in ["daily", "chosen", "cap", "wallet"] {
        assert_eq!(does(name), OnStoreFailure::Deny, "{name}");
    }
}

#[test]
fn an_override_may_change_days_for_months_and_stays_in_its_zone() {
    let keys = key("of-tenant", "acme", "") + &key("other", "globex", "");
    let snapshot = paid(&keys, "");
    let own = |id, name| per(&snapshot, ceiling(&snapshot, id, name));
    assert_eq!(own("of-tenant", "monthly"), "5000/day in Europe/Amsterdam");
    assert_eq!(own("of-tenant", "cap"), "700.25/month in UTC");
    assert_eq!(own("other", "monthly"), "70/month in Europe/Amsterdam from day 15");
    assert_eq!(ceiling(&snapshot, "other", "daily"), None);
    assert_eq!(ceiling(&snapshot, "other", "wallet"), None, "not bound by the wallet");
}

#[test]
fn each_key_chooses_its_period_in_either_kind_of_file() {
    let yaml = key("day", "acme", ", limits: { chosen: 1000/day }") + &key("none", "acme", "");
    let jsonl = line("month", "acme", 1, ",\"limits\":{\"chosen\":\"1000000/month\"}")
        + &line("map", "acme", 2, ",\"limits\":{\"chosen\":{\"quota\":\"70/day\"},\"daily\":20}");
    let snapshot = paid(&yaml, &jsonl);
    let own = |id, name| per(&snapshot, ceiling(&snapshot, id, name));
    assert_eq!(own("day", "chosen"), "1000/day in Europe/Amsterdam");
    assert_eq!(own("month", "chosen"), "1000000/month in Europe/Amsterdam from day 15");
    assert_eq!(own("map", "chosen"), "70/day in Europe/Amsterdam");
    assert_eq!(own("map", "daily"), "20/day in UTC");
    assert_eq!(ceiling(&snapshot, "none", "chosen"), None);
}

#[test]
fn a_route_costs_what_it_says_and_charges_for_what_it_names() {
    let snapshot = paid("[]", "");
    let send = &route(&snapshot, "send").charge;
    assert_eq!((send.reserve, &send.actual, &send.charge_on), (Money(50_000), &None, &None));
    assert_eq!(*send.release, [429, 503], "as the policy says, ascending and once");
    let bulk = &route(&snapshot, "bulk").charge;
    assert_eq!(bulk.reserve, Money(5_000_000));
    assert_eq!(bulk.actual, Some(HeaderName::from_static("x-cost")));
    let classes = [ChargeClass::Success, ChargeClass::Unknown];
    assert_eq!(bulk.charge_on.as_deref(), Some(classes.as_slice()));
    assert!(bulk.release.is_empty(), "its own word wins");
    assert_eq!(route(&snapshot, "read").charge.reserve, Money::ZERO);
    assert!(route(&snapshot, "read").charge.release.is_empty());
}

#[test]
fn a_route_takes_from_the_policy_what_it_does_not_say_of_its_keys() {
    let snapshot = paid("[]", "");
    let send = route(&snapshot, "send").idempotency.clone().unwrap();
    assert_eq!((send.demand, send.on_unknown), (Demand::Accept, OnUnknown::Refuse));
    assert_eq!((send.keep, send.max_answer), (7_200_000, 1024));
    let bulk = route(&snapshot, "bulk").idempotency.clone().unwrap();
    assert_eq!((bulk.demand, bulk.on_unknown), (Demand::Require, OnUnknown::Forward));
    assert_eq!((bulk.keep, bulk.max_answer), (3_600_000, 2048));
    assert_eq!(route(&snapshot, "read").idempotency, None);
    let bounds = snapshot.records;
    assert_eq!((bounds.records, bounds.per_tenant, bounds.bytes), (500, 500, 2 << 20));
}

#[test]
fn a_balance_is_told_to_the_backend_and_by_a_route() {
    let snapshot = paid("[]", "");
    let wallet = snapshot.limits.iter().position(|limit| &*limit.name == "wallet");
    let wallet = LimitIx(u16::try_from(wallet.unwrap()).unwrap());
    assert_eq!(route(&snapshot, "wallet").target, Target::Balance(wallet));
    let balance = snapshot.identity.balance.as_ref().unwrap();
    assert_eq!((balance.name.as_str(), balance.of), ("x-balance", wallet));
    for spelling in ["x-balance", "x_balance"] {
        assert!(snapshot.identity.forbidden.forbids(spelling), "clients may not say {spelling}");
    }
    assert!(snapshot.ready_asks_store && !snapshot.ready_asks_upstream);
}

#[test]
fn a_request_is_asked_of_what_binds_its_key_in_the_periods_of_its_own_terms() {
    let policy = PAID.replace(
        "  rate: {",
        "  by-address: { rate: 10/second, per: [key, address] }\n  by-route: { quota: 10/day, per: [key, route] }\n  \
         guessing: { rate: 1/second, per: address, counts: failed_authentication }\n  rate: {",
    );
    let keys = line("of-tenant", "acme", 1, ",\"limits\":{\"chosen\":\"1000/day\"}")
        + &line("b", "globex", 2, "");
    let snapshot = loaded(&policy, "[]", &keys).snapshot;
    let send = snapshot.routes.iter().position(|route| &*route.name == "send").unwrap();
    let asked = |digest: u8| {
        let mut bytes = [0; 32];
        bytes[31] = digest;
        let caller = by_digest(&snapshot, &Overlay::default(), &SecretDigest(bytes), NOW);
        let caller = caller.unwrap().unwrap();
        let (mut asks, client) = (Asks::new(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let route = RouteIx(u32::try_from(send).unwrap());
        covering::asks_into(&mut asks, &snapshot, route, Some(&caller), client, NOW);
        asks
    };
    let names = |digest: u8| -> Vec<String> {
        asked(digest).iter().map(|ask| snapshot.limit(ask.limit).name.to_string()).collect()
    };
    assert_eq!(
        names(1),
        ["monthly", "daily", "chosen", "cap", "wallet", "by-address", "by-route", "rate"]
    );
    assert_eq!(
        names(2),
        ["monthly", "cap", "by-address", "by-route", "rate"],
        "without what it is not bound by"
    );
    let asks = asked(1);
    let tenant = snapshot.tenant(found(&snapshot, "of-tenant").entitlement.tenant).subject;
    assert_eq!((asks[0].subject, asks[0].weight), (tenant, 1));
    assert_eq!(asks[0].period.length(), DAY, "in the period of its own terms");
    assert_eq!(asks[1].subject, found(&snapshot, "of-tenant").subject);
    assert_eq!(asks[3].weight, 50_000, "what the route reserves");
}

#[test]
fn revocation_by_rule_is_in_shadow_unless_it_is_switched_on() {
    let snapshot = paid("[]", "");
    let [idle, abuse] = snapshot.auto_revoke.as_slice() else { panic!("two rules") };
    assert_eq!((idle.mode, abuse.mode), (Mode::Shadow, Mode::Enforce));
    assert_eq!(idle.id, LimitId::of("auto_revoke/idle"));
    assert_eq!(idle.when, RevokeWhen::Unused(90 * 86_400_000));
    let RevokeWhen::Refused { ceiling, reasons } = &abuse.when else { panic!("refused") };
    assert_eq!((ceiling.window, ceiling.units), (Window::Sliding, 50), "the 50th strikes");
    assert_eq!((ceiling.period, ceiling.burst), (60 * MINUTE, 50));
    assert_eq!(**reasons, [Refusal::ScopeDenied, Refusal::AddressDenied]);
}

#[test]
fn the_admin_listener_keeps_its_token_wherever_the_flag_moves_it() {
    let policy = "version: 1\nupstream: http://127.0.0.1:1\n\
                  admin: { listen: 127.0.0.1:7, token: { env: TOKEN } }\n";
    let files = [("policy.yaml", policy.replace("TOKEN", "ADMIN").into_bytes())];
    let missing = load_files(&[("policy.yaml", &files[0].1)], &Overrides::default(), None);
    assert!(missing.unwrap_err().to_string().contains("the environment has no `ADMIN`"));

    let spaced = load_files(&[("policy.yaml", policy.as_bytes())], &Overrides::default(), None);
    assert!(spaced.unwrap_err().to_string().contains("a token is one word"));

    let policy = policy.replace("{ env: TOKEN }", "{ file: token }");
    let files = [("policy.yaml", policy.as_bytes()), ("token", b"0123456789abcdef\n".as_slice())];
    let digest = Some(SecretDigest::sha256(b"0123456789abcdef"));
    let admin = load_files(&files, &Overrides::default(), None).unwrap().snapshot.server.admin;
    assert_eq!(admin.map(|admin| (admin.address.port(), admin.token)), Some((7, digest)));
    let overrides = Overrides { admin: Some("0.0.0.0:8".to_owned()), ..Overrides::default() };
    let moved = load_files(&files, &overrides, None).unwrap();
    assert!(moved.warnings.is_empty(), "{}", moved.warnings);
    let admin = moved.snapshot.server.admin;
    assert_eq!(admin.map(|admin| (admin.address.port(), admin.token)), Some((8, digest)));
}

#[test]
fn what_memory_forgets_is_told_also_when_a_flag_chose_it() {
    let files = [("policy.yaml", PAID.as_bytes()), ("keys.yaml", b"[]"), ("more.jsonl", b"")];
    let overrides = Overrides { state: Some("memory".to_owned()), ..Overrides::default() };
    let notes = load_files(&files, &overrides, None).unwrap().notes.join("\n");
    assert!(notes.contains("forgets idempotency keys, quotas, money, revocations"), "{notes}");
    let notes = load_files(&files, &Overrides::default(), None).unwrap().notes.join("\n");
    assert!(!notes.contains("forgets"), "{notes}");
}

#[test]
fn what_is_in_force_is_shown_with_its_money_and_keys() {
    let shown = show(&loaded(PAID, "[]", ""), &Show::All).unwrap();
    for words in [
        "monthly: 90000/month in Europe/Amsterdam from day 15, per tenant, on_store_failure allow",
        "daily: 500 messages/day in UTC, per key, on_store_failure deny",
        "cap: 20.5 EUR/day in UTC",
        "wallet: prepaid credits",
        "cost: reserve 5, actual from x-cost, charged on [2xx, unknown]",
        "idempotency: require, keep 1h, max_body 2KiB, on_unknown forward, release []",
        "idempotency: accept, keep 2h, max_body 1KiB, on_unknown refuse, release [429, 503]",
        "answer: { balance: wallet }",
        "balance: x-balance of wallet",
        "idle: unused for 90d (shadow)",
        "abuse: refused 50/hour for [scope_denied, address_denied]",
    ] {
        assert!(shown.contains(words), "{words}\n{shown}");
    }
}
