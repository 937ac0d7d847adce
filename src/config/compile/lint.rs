//! What is allowed and yet most likely a slip: nothing is silent.

use super::Desk;
use super::callers::DEFAULT_PLAN;
use super::keys::Compiled;
use super::limits::Limits;
use super::routes::Routes;
use crate::policy::limit::LimitIx;
use crate::policy::route::ScopeDemand;
use crate::policy::snapshot::{PlanIx, ScopeIx};

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
                "give it a rate, or take it out".to_owned(),
            );
        }
    }
}
