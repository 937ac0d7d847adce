//! What is allowed and yet most likely a slip: nothing is silent.

use super::super::problem::Span;
use super::super::raw::{self, Or};
use super::Desk;
use super::callers::DEFAULT_PLAN;
use super::keys::Compiled;
use super::limits::Limits;
use super::routes::Routes;
use crate::policy::limit::{LimitIx, LimitKind, Mode};
use crate::policy::money::Money;
use crate::policy::revocation::RevocationRule;
use crate::policy::route::ScopeDemand;
use crate::policy::snapshot::{PlanIx, RouteIx, ScopeIx, Server, StateAt};

pub(super) fn lint(routes: &Routes, limits: &Limits, keys: &Compiled, desk: &mut Desk<'_>) {
    let demanded: Vec<ScopeIx> = routes
        .compiled
        .iter()
        .filter_map(|route| route.scope.as_ref())
        .flat_map(|rule| match &rule.demand {
            ScopeDemand::Any(scopes) | ScopeDemand::All(scopes) => scopes.iter().copied(),
        })
        .collect();
    for (scope, at) in &keys.granted {
        if !demanded.contains(scope) {
            let name = desk.scope_name(*scope).to_owned();
            let known: Vec<String> =
                demanded.iter().map(|scope| desk.scope_name(*scope).to_owned()).collect();
            let remedy = super::super::problem::nearest(&name, known.iter().map(String::as_str))
                .map(|near| format!("did you mean `{near}`?"));
            desk.findings.warn(*at, format!("no route asks for the scope `{name}`"), remedy);
        }
    }
    for (ix, used) in (0..).map(PlanIx).zip(&keys.plan_used) {
        if let (false, Some(at), true) = (*used, keys.plan_spans[ix.0 as usize], ix != DEFAULT_PLAN)
        {
            let name = keys.plans[ix.0 as usize].name.clone();
            desk.findings.warn(at, format!("no tenant and no key has the plan `{name}`"), None);
        }
    }
    for (ix, limit) in (0..).map(LimitIx).zip(&limits.compiled) {
        let set_somewhere = limit.ceiling.is_some() || limit.per.needs_caller();
        if !set_somewhere {
            desk.findings.warn(
                limits.span(ix),
                format!("`{}` limits nothing, and no override can set it", limit.name),
                "give it a number, or take it out".to_owned(),
            );
        }
        if limit.kind.is_money() {
            money(ix, routes, limits, desk);
        }
    }
    for (ix, route) in (0..).map(RouteIx).zip(&routes.compiled) {
        if route.charge.reserve > Money::ZERO && !limits.paid.contains(&ix) {
            desk.findings.warn(
                routes.spans[ix.0 as usize].cost,
                format!(
                    "no `spend` or `credit` limit covers `{}`, so its cost is never charged",
                    route.name
                ),
                "add one (`mode: disabled` if the backend holds the money), or take out `cost`"
                    .to_owned(),
            );
        }
    }
    units(routes, limits, desk);
}

/// A route has one cost: it is taken from every limit that covers it, whatever that counts. Told of the first route.
fn units(routes: &Routes, limits: &Limits, desk: &mut Desk<'_>) {
    for (ix, route) in (0..).map(RouteIx).zip(&routes.compiled) {
        let mut covering = limits.compiled.iter().filter_map(|limit| {
            let takes = limit.kind.is_money() && limit.routes.binary_search(&ix).is_ok();
            Some((&limit.name, limit.unit.as_deref().filter(|_| takes)?))
        });
        let Some((name, unit)) = covering.next() else { continue };
        let other = covering.find(|(_, other)| *other != unit);
        if let (Some((other_name, other)), true) = (other, route.charge.reserve > Money::ZERO) {
            let cost = route.charge.reserve;
            desk.findings.warn(
                routes.spans[ix.0 as usize].cost,
                format!("{cost} {unit} of `{name}` and {cost} {other} of `{other_name}` are taken"),
                "a route has one cost: give these limits one `unit`, or routes of their own"
                    .to_owned(),
            );
            return;
        }
    }
}

/// Credit that nobody can add to: every priced request would be refused for ever.
pub(super) fn unreachable_credit(server: &Server, limits: &Limits, desk: &mut Desk<'_>) {
    let credit = (0..)
        .map(LimitIx)
        .zip(&limits.compiled)
        .find(|(_, limit)| limit.kind == LimitKind::Credit && limit.mode == Mode::Enforce);
    if let (None, Some((ix, limit))) = (server.admin, credit) {
        desk.findings.warn(
            limits.span(ix),
            format!("without an admin listener nobody can add credit to `{}`", limit.name),
            "write `admin: 127.0.0.1:9901`".to_owned(),
        );
    }
}

fn money(ix: LimitIx, routes: &Routes, limits: &Limits, desk: &mut Desk<'_>) {
    let limit = limits.at(ix);
    if limit.unit.is_none() && !desk.findings.has_errors() {
        desk.findings.warn(
            limits.span(ix),
            format!("`{}` does not say what it counts", limit.name),
            "add `unit: EUR` or `unit: credits`".to_owned(),
        );
    }
    if limit.routes.iter().all(|route| routes.at(*route).charge.reserve == Money::ZERO) {
        desk.findings.warn(
            limits.span(ix),
            format!("`{}` covers no route that costs anything", limit.name),
            "give routes a `cost`, or write `mode: disabled`".to_owned(),
        );
    }
}

/// Where `state: memory` is written.
pub(super) fn memory_at(state: Option<&Or<String, raw::State>>) -> Option<Span> {
    match state? {
        Or::One(text) if text.value == "memory" => Some(text.at),
        Or::One(_) | Or::Map(_) => None,
    }
}

/// Tells what a restart forgets of what was promised to last.
pub(super) fn forgetful(
    state: &StateAt,
    at: Option<Span>,
    (routes, limits, auto_revoke): (&Routes, &Limits, &[RevocationRule]),
    desk: &mut Desk<'_>,
) {
    if *state != StateAt::Memory {
        return;
    }
    let counts =
        |wanted: &[LimitKind]| limits.compiled.iter().any(|limit| wanted.contains(&limit.kind));
    let forgotten: Vec<&str> = [
        (routes.compiled.iter().any(|route| route.idempotency.is_some()), "idempotency keys"),
        (counts(&[LimitKind::Quota]), "quotas"),
        (counts(&[LimitKind::Spend, LimitKind::Credit]), "money"),
        (!auto_revoke.is_empty(), "revocations"),
    ]
    .into_iter()
    .filter_map(|(on, what)| on.then_some(what))
    .collect();
    if forgotten.is_empty() {
        return;
    }
    let message = format!("in memory, a restart forgets {}", forgotten.join(", "));
    match at {
        Some(at) => {
            desk.findings.warn(at, message, "name a directory: `state: ./state`".to_owned());
        }
        None => desk.notes.push(format!("state: {message}")),
    }
}
