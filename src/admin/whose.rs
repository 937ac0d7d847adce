//! Names into what the policy in force calls by them: which limit, and whose meter of it.

use super::answers::Problem;
use super::given::Given;
use crate::policy::address::canonical;
use crate::policy::holder::{Holder, Unsaid, tenant_terms};
use crate::policy::keys::KeyIx;
use crate::policy::limit::{LimitIx, LimitKind, Per};
use crate::policy::money::Money;
use crate::policy::order::Ask;
use crate::policy::snapshot::{PlanIx, RouteIx, Snapshot};
use crate::store::MeterId;

use crate::clock::Wall;

/// The limit of this name.
pub(super) fn limit(policy: &Snapshot, name: &str) -> Result<LimitIx, Problem> {
    let found = (0..).map(LimitIx).zip(&policy.limits).find(|(_, limit)| &*limit.name == name);
    found.map(|(ix, _)| ix).ok_or_else(|| {
        let known: Vec<&str> = policy.limits.iter().map(|limit| &*limit.name).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message =
            format!("The policy has no limit of this name that is in force; it has: {known}.");
        Problem::unknown("limit_unknown", message)
    })
}

/// The key with this id. Walks the keys: few ask.
pub(super) fn key(policy: &Snapshot, id: &str) -> Result<KeyIx, Problem> {
    let found = (0..).map(KeyIx).zip(policy.keys.iter()).find(|(_, key)| key.id == id);
    found
        .map(|(ix, _)| ix)
        .ok_or_else(|| Problem::unknown("key_unknown", "No key file has a key with this id."))
}

/// Whoever the parameters or fields `key`, `tenant`, `plan`, `route` and `address` name; nobody if none is given.
pub(super) fn holder(policy: &Snapshot, given: &mut Given) -> Result<Holder, Problem> {
    let (key_id, tenant, plan) = (given.text("key")?, given.text("tenant")?, given.text("plan")?);
    let mut holder = match (key_id, tenant, plan) {
        (None, None, None) => Holder::default(),
        (Some(id), None, None) => Holder::of_key(policy, key(policy, &id)?),
        (None, Some(name), None) => {
            let by_name = policy.tenants_by_name();
            let ix = by_name.get(&*name).copied().ok_or_else(|| {
                let message = "Neither the policy nor a key names this tenant.";
                Problem::unknown("tenant_unknown", message)
            })?;
            Holder::of_tenant(policy, ix, tenant_terms(policy)[ix.0 as usize])
        }
        (None, None, Some(name)) => {
            let plans = (0..).map(PlanIx).zip(&policy.plans);
            let found = plans.into_iter().find(|(_, plan)| *plan.name == *name);
            let (ix, _) = found.ok_or_else(|| {
                Problem::unknown("plan_unknown", "The policy has no plan of this name.")
            })?;
            Holder::of_plan(policy, ix)
        }
        _ => return Err(Problem::bad("Say one of `key`, `tenant` and `plan`.")),
    };
    if let Some(name) = given.text("route")? {
        let found = (0..).map(RouteIx).zip(&policy.routes).find(|(_, route)| *route.name == *name);
        let (ix, _) = found.ok_or_else(|| {
            Problem::unknown("route_unknown", "The policy has no route of this name.")
        })?;
        holder.route = Some(ix);
    }
    if let Some(text) = given.text("address")? {
        let address = text
            .parse()
            .map_err(|_| Problem::bad("`address` is an IPv4 or IPv6 address without a port."))?;
        holder.address = Some(canonical(address));
    }
    Ok(holder)
}

/// The ask that reads the holder's meter of a limit.
pub(super) fn ask(
    policy: &Snapshot,
    ix: LimitIx,
    holder: &Holder,
    now: Wall,
) -> Result<Ask, Problem> {
    let limit = policy.limit(ix);
    let bound = holder.ask(policy, ix, now).map_err(|unsaid: Unsaid| {
        let (name, per) = (&limit.name, per_text(limit.per));
        Problem::unfit(
            "subject_missing",
            format!("The limit {name} counts per {per}; say which `{}`.", unsaid.name()),
        )
    })?;
    bound.ok_or_else(|| {
        let message = format!("The limit {} does not bind this subject.", limit.name);
        Problem::unfit("limit_unbound", message)
    })
}

/// The meter behind an ask.
pub(super) fn meter(policy: &Snapshot, ask: &Ask) -> MeterId {
    MeterId { limit: ask.id, kind: policy.limit(ask.limit).kind, subject: ask.subject }
}

/// `key+route`; `everyone` where nobody is told apart.
pub(super) fn per_text(per: Per) -> String {
    let words = [
        (per.key, "key"),
        (per.tenant, "tenant"),
        (per.plan, "plan"),
        (per.address, "address"),
        (per.route, "route"),
    ];
    let named: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    if named.is_empty() { "everyone".to_owned() } else { named.join("+") }
}

/// The names behind a meter of a limit, in the order of [`per_text`].
pub(super) fn subject_text(policy: &Snapshot, per: Per, holder: &Holder) -> String {
    let key = holder.key.filter(|_| per.key).map(|ix| policy.keys.at(ix).id.to_string());
    let tenant = holder.tenant.filter(|_| per.tenant);
    let plan = holder.plan.filter(|_| per.plan);
    let route = holder.route.filter(|_| per.route);
    let parts = [
        key,
        tenant.map(|ix| policy.tenant(ix).name.to_string()),
        plan.map(|ix| policy.plan(ix).name.to_string()),
        holder.address.filter(|_| per.address).map(|address| address.to_string()),
        route.map(|ix| policy.route(ix).name.to_string()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "everyone".to_owned() } else { parts.join("+") }
}

/// Units as people read them: money as a decimal, everything else as a number.
pub(super) fn units_text(kind: LimitKind, units: u64) -> String {
    if kind.is_money() { Money(units).to_string() } else { units.to_string() }
}

/// The same in JSON: money is a string there, so that no reader makes a float of it.
pub(super) fn units_json(kind: LimitKind, units: u64) -> serde_json::Value {
    if kind.is_money() { Money(units).to_string().into() } else { units.into() }
}

/// Units out of a text: a decimal for money, a whole number otherwise; more than 0.
pub(super) fn units(kind: LimitKind, name: &str, text: &str) -> Result<u64, Problem> {
    let units = if kind.is_money() {
        Money::parse(text).map(|money| money.0).map_err(|problem| problem.to_string())
    } else {
        text.parse().map_err(|_| "this limit counts whole units".to_owned())
    };
    match units {
        Ok(0) => Err(Problem::unfit("amount_invalid", format!("`{name}` must be more than 0."))),
        Ok(units) => Ok(units),
        Err(why) => Err(Problem::unfit("amount_invalid", format!("`{name}`: {why}."))),
    }
}
