//! `routes:` → the routes and the router.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::amount::MOST_UNITS;
use super::super::defaults;
use super::super::origin::Origins;
use super::super::problem::{At, Span};
use super::super::raw::{self, Match, Or};
use super::super::read::{Items, Many, clip};
use super::super::scalar::{AnswerWord, GivenName, OnRevokeWord};
use super::limits::Limits;
use super::{Desk, charges, idempotency, identity, mode_of};
use crate::policy::Name;
use crate::policy::limit::{LimitIx, SubjectKey};
use crate::policy::route::{MethodMatch, Pattern, PatternProblem, Router, ScopeDemand, ScopeRule};
use crate::policy::snapshot::{
    Access, OnRevoke, Route, RouteIx, ScopeIx, Target, TenantPlace, TenantRule,
};
use crate::policy::subject::SubjectKind;

pub(super) struct Routes {
    pub(super) compiled: Vec<Route>,
    pub(super) router: Router,
    places: HashMap<String, RouteIx>,
    /// Where each route is written.
    pub(super) spans: Vec<Spans>,
    /// The routes that answer with a balance, and of which limit: limits are compiled later.
    pub(super) balances: Vec<(RouteIx, At<GivenName>)>,
}

/// Where a route's words are written; its name's place stands in for those that are not.
#[derive(Clone, Copy)]
pub(super) struct Spans {
    pub(super) name: Span,
    pub(super) weight: Span,
    pub(super) cost: Span,
}

impl Routes {
    pub(super) fn named(&self, name: &str) -> Option<RouteIx> {
        self.places.get(name).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.compiled.iter().map(|route| &*route.name)
    }

    pub(super) fn at(&self, ix: RouteIx) -> &Route {
        &self.compiled[ix.0 as usize]
    }
}

type Claim = (MethodMatch, Pattern, RouteIx, Span);

pub(super) fn routes(
    raw: Option<Items<raw::Route>>,
    timeout: Duration,
    idempotency: &idempotency::Defaults,
    desk: &mut Desk<'_>,
) -> Routes {
    let mut out = Routes {
        compiled: Vec::new(),
        router: Router::default(),
        places: HashMap::new(),
        spans: Vec::new(),
        balances: Vec::new(),
    };
    let mut claims = Vec::new();
    let mut first_lines: HashMap<String, Span> = HashMap::new();
    let raw = raw.map_or_else(Vec::new, |routes| routes.items);
    for (ix, route) in (0..).map(RouteIx).zip(raw) {
        let name_at = route.name.as_ref().map_or(route.at, |name| name.at);
        let spans = Spans {
            name: name_at,
            weight: route.weight.as_ref().map_or(name_at, |weight| weight.at),
            cost: charges::span(route.cost.as_ref()).unwrap_or(name_at),
        };
        if let Some(Or::Map(raw::AnswerRule { balance: Some(of), .. })) = &route.answer {
            out.balances.push((ix, of.clone()));
        }
        let compiled = self::route(route, ix, (timeout, idempotency), &mut claims, desk);
        let name = compiled.name.to_string();
        if !name.is_empty() {
            if let Some(first) = first_lines.get(&name) {
                let line = desk.findings.line(*first);
                desk.findings.error_with(
                    name_at,
                    format!("two routes have the name `{name}`"),
                    format!("the first is on line {line}; metrics and limits need one name each"),
                );
            } else {
                first_lines.insert(name.clone(), name_at);
                out.places.insert(name.clone(), ix);
            }
            desk.origins.routes.insert(name, Origins::place(&desk.findings, name_at));
        }
        out.compiled.push(compiled);
        out.spans.push(spans);
    }
    out.router = router(claims, &out.compiled, desk);
    out
}

fn route(
    raw: raw::Route,
    ix: RouteIx,
    (default_timeout, idempotency_defaults): (Duration, &idempotency::Defaults),
    claims: &mut Vec<Claim>,
    desk: &mut Desk<'_>,
) -> Route {
    let raw::Route {
        at,
        name,
        matches,
        scope,
        public,
        allow,
        tenant,
        weight,
        cost,
        charge_on,
        idempotency,
        max_body,
        timeout,
        on_revoke,
        answer,
    } = raw;
    if name.is_none() {
        desk.findings.missing(at, "this route has no usable `name`", "add `name: …`");
    }
    let name: Name = name.map_or_else(|| "".into(), |name| name.value.0.into());
    let before = claims.len();
    let written = matches.iter().flat_map(|matches| &matches.items);
    let written = written.map(|Match(text)| text.value.clone()).collect();
    desk.origins.matches.insert(name.to_string(), written);
    patterns(matches, at, ix, claims, desk);
    let public = public.is_some_and(|public| public.value);
    let scope_at = scope.as_ref().map(|scope| scope.0.at);
    let scope = scope.and_then(|scope| self::scope(scope, desk));
    if public && let Some(at) = scope_at {
        desk.findings.error_with(
            at,
            "a public route knows no key, so no scope can be asked for",
            "take out `scope` or `public`".to_owned(),
        );
    }
    let tenant_at = tenant.as_ref().map(|tenant| tenant.at);
    let tenant = tenant.and_then(|tenant| self::tenant(tenant, &claims[before..], desk));
    if public && let Some(at) = tenant_at {
        desk.findings.error_with(
            at,
            "a public route knows no tenant",
            "take out `tenant` or `public`".to_owned(),
        );
    }
    let target = target(answer, public, desk);
    let own = [charges::span(cost.as_ref()), idempotency::span(idempotency.as_ref())];
    unpaid(public, target, own, desk);
    let (idempotency, release) = idempotency::rule(idempotency, idempotency_defaults, desk);
    let charge = charges::charge(cost, charge_on, release, desk);
    let weight = match weight {
        None => defaults::WEIGHT,
        Some(weight) if weight.value <= MOST_UNITS => weight.value,
        Some(weight) => {
            desk.findings.error(weight.at, format!("a weight is at most {MOST_UNITS}"));
            defaults::WEIGHT
        }
    };
    Route {
        charge: Arc::new(charge),
        idempotency,
        subject: SubjectKey::of(SubjectKind::Route, &name),
        name,
        slot: 0,
        access: if public { Access::Public } else { Access::Keyed },
        scope,
        allow: desk.allow(allow),
        tenant,
        limits: Box::default(),
        weight,
        max_body: max_body.and_then(|size| size.value.0),
        response_timeout: super::server::lasting(timeout, default_timeout, desk),
        on_revoke: match on_revoke.map(|word| word.value) {
            None => OnRevoke::CutUpgrades,
            Some(OnRevokeWord::Cut) => OnRevoke::Cut,
            Some(OnRevokeWord::Finish) => OnRevoke::Finish,
        },
        target,
    }
}

fn patterns(
    matches: Option<Many<Match>>,
    at: Span,
    ix: RouteIx,
    claims: &mut Vec<Claim>,
    desk: &mut Desk<'_>,
) {
    let Some(matches) = matches else {
        desk.findings.missing(at, "this route matches nothing", "add `match: GET /path`");
        return;
    };
    if matches.items.is_empty() {
        desk.findings.missing(matches.at, "this route matches nothing", "add `match: GET /path`");
    }
    for Match(text) in matches.items {
        match Pattern::parse(&text.value) {
            Ok((method, pattern)) => claims.push((method, pattern, ix, text.at)),
            Err(PatternProblem(problem)) => desk.findings.error_with(
                text.at,
                format!("`{}` matches nothing", clip(&text.value)),
                problem,
            ),
        }
    }
}

/// What answers. A balance's limit is put in once there are limits.
fn target(
    answer: Option<Or<AnswerWord, raw::AnswerRule>>,
    public: bool,
    desk: &mut Desk<'_>,
) -> Target {
    match answer {
        None => Target::Upstream,
        Some(Or::One(At { value: AnswerWord::Ready, .. })) => Target::Ready,
        Some(Or::Map(raw::AnswerRule { at, balance })) => {
            if balance.is_none() {
                desk.findings.missing(at, "this answers nothing", "write { balance: wallet }");
            }
            if public {
                desk.findings.error_with(
                    at,
                    "a public route knows no caller, so no balance",
                    "take out `public`".to_owned(),
                );
            }
            Target::Balance(LimitIx(0))
        }
    }
}

/// Costs and idempotency keys belong to a tenant, and to what the upstream does.
fn unpaid(public: bool, target: Target, [cost, keys]: [Option<Span>; 2], desk: &mut Desk<'_>) {
    let (why, remedy) = match target {
        Target::Upstream if !public => return,
        Target::Upstream => ("a public route knows no tenant", "`public`"),
        Target::Ready | Target::Balance(_) => ("the gate answers this route itself", "`answer`"),
    };
    if let Some(at) = cost {
        desk.findings.error_with(
            at,
            format!("{why}, so nobody pays for it"),
            format!("take out `cost` or {remedy}"),
        );
    }
    if let Some(at) = keys {
        desk.findings.error_with(
            at,
            format!("{why}, so no idempotency key is kept for it"),
            format!("take out `idempotency` or {remedy}"),
        );
    }
}

/// Gives the routes that answer with a balance their limits. A limit is read where it covers the route, and for its
/// subject there: one that leaves the route out, or counts each route apart, has nothing to show.
pub(super) fn balances(routes: &mut Routes, limits: &Limits, desk: &mut Desk<'_>) {
    for (ix, of) in std::mem::take(&mut routes.balances) {
        let Some(limit) = identity::money_limit(&of, limits, desk) else { continue };
        let route = &mut routes.compiled[ix.0 as usize];
        route.target = Target::Balance(limit);
        let (At { value: GivenName(name), at }, limit) = (of, limits.at(limit));
        if limit.per.route {
            let message = format!("`{name}` counts each route apart, so this one has no balance");
            desk.findings.error_with(at, message, "take `route` out of its `per`".to_owned());
        } else if route.access == Access::Keyed && limit.routes.binary_search(&ix).is_err() {
            let message =
                format!("`{name}` does not cover `{}`, so it is not read here", route.name);
            let remedy = format!("add `{}` to its `routes`: it costs nothing", route.name);
            desk.findings.error_with(at, message, remedy);
        }
    }
}

fn scope(scope: raw::Scope, desk: &mut Desk<'_>) -> Option<ScopeRule> {
    let raw::Scope(raw::ScopeRule { at, any, all, mode }) = scope;
    let mut places = |names: Many<At<GivenName>>| -> Box<[ScopeIx]> {
        let mut places: Vec<ScopeIx> =
            names.items.iter().map(|name| desk.scope(&name.value.0)).collect();
        places.sort_unstable();
        places.dedup();
        places.into()
    };
    let demand = match (any, all) {
        (Some(any), None) => ScopeDemand::Any(places(any)),
        (None, Some(all)) => ScopeDemand::All(places(all)),
        (Some(_), Some(_)) => {
            desk.findings.error(at, "a route asks for `any` or for `all`, not for both");
            return None;
        }
        (None, None) => {
            desk.findings.missing(at, "this names no scope", "write { any: […] } or { all: […] }");
            return None;
        }
    };
    let (ScopeDemand::Any(places) | ScopeDemand::All(places)) = &demand;
    if places.is_empty() {
        desk.findings.missing(at, "this names no scope", "leave `scope` out if any key may come");
        return None;
    }
    Some(ScopeRule { demand, mode: mode_of(mode.as_ref()) })
}

fn tenant(tenant: raw::TenantPlace, claims: &[Claim], desk: &mut Desk<'_>) -> Option<TenantRule> {
    let raw::TenantPlace { at, path, query, mode } = tenant;
    let place = match (path, query) {
        (Some(path), None) => {
            let mut found = None;
            for (_, pattern, _, match_at) in claims {
                match (pattern.param_segment(&path.value), found) {
                    (None, _) => {
                        desk.findings.error_with(
                            *match_at,
                            format!("this has no `{{{}}}`, which names the tenant", path.value),
                            "give it the parameter, or make it a route of its own".to_owned(),
                        );
                        return None;
                    }
                    (Some(segment), None) => found = Some(segment),
                    (Some(segment), Some(other)) if segment != other => {
                        desk.findings.error_with(
                            *match_at,
                            format!("`{{{}}}` stands at another place than above", path.value),
                            "make it a route of its own".to_owned(),
                        );
                        return None;
                    }
                    (Some(_), Some(_)) => {}
                }
            }
            TenantPlace::Segment(found?)
        }
        (None, Some(query)) => TenantPlace::Query(query.value.into()),
        _ => {
            desk.findings.missing(
                at,
                "this does not say where the tenant's name stands",
                "write { path: name } or { query: name }",
            );
            return None;
        }
    };
    Some(TenantRule { place, mode: mode_of(mode.as_ref()) })
}

fn router(claims: Vec<Claim>, routes: &[Route], desk: &mut Desk<'_>) -> Router {
    let spans: Vec<(RouteIx, Span, MethodMatch, Pattern)> = claims
        .iter()
        .map(|(method, pattern, ix, at)| (*ix, *at, method.clone(), shape(pattern)))
        .collect();
    let built =
        Router::build(claims.into_iter().map(|(method, pattern, ix, _)| (method, pattern, ix)));
    let conflicts = match built {
        Ok(built) => return built,
        Err(conflicts) => conflicts,
    };
    for (place, (second, at, method, pattern)) in spans.iter().enumerate() {
        let earlier =
            spans[..place].iter().find(|(_, _, other, shape)| other == method && shape == pattern);
        let Some((first, first_at, ..)) = earlier else { continue };
        if !conflicts.iter().any(|conflict| conflict.second == *second) {
            continue;
        }
        let line = desk.findings.line(*first_at);
        let name = routes.get(first.0 as usize).map_or("", |route| &route.name);
        desk.findings.error_with(
            *at,
            format!("the route `{name}` on line {line} matches exactly the same"),
            "requests must have one route: take out one of the two".to_owned(),
        );
    }
    if !desk.findings.has_errors()
        && let Some(conflict) = conflicts.first()
    {
        let at = spans.iter().find(|(ix, ..)| *ix == conflict.second).map(|(_, at, ..)| *at);
        let name = routes.get(conflict.first.0 as usize).map_or("", |route| &route.name);
        if let Some(at) = at {
            desk.findings.error(at, format!("the route `{name}` matches the same"));
        }
    }
    Router::default()
}

/// A pattern without its parameters' names: what two routes can both claim.
fn shape(pattern: &Pattern) -> Pattern {
    use crate::policy::route::Segment;
    let segments = pattern
        .segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(text) => Segment::Literal(text.clone()),
            Segment::Param(_) => Segment::Param("".into()),
        })
        .collect();
    Pattern { segments, rest: pattern.rest }
}
