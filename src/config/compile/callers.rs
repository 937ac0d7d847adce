//! `plans:` and `tenants:`: what callers share. Keys are put on top in `keys.rs`.

use std::collections::HashMap;

use super::super::origin::Origins;
use super::super::problem::{At, Span, did_you_mean};
use super::super::raw;
use super::super::read::{Many, Named};
use super::super::scalar::{GivenName, UnlistedWord, name_complaint};
use super::Desk;
use super::limits::Limits;
use super::overrides::{Holder, overrides as checked};
use crate::policy::Name;
use crate::policy::limit::{Ceiling, LimitIx, SubjectKey};
use crate::policy::snapshot::{Plan, PlanIx, ScopeIx, Standing, Tenant, TenantIx};
use crate::policy::subject::SubjectKind;

/// What a plan or tenant sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    /// Ceilings, by limit.
    pub(super) ceilings: Vec<(LimitIx, Option<Ceiling>)>,
    /// The most that its callers may do, ascending; `None`: no bound.
    pub(super) scopes: Option<Vec<ScopeIx>>,
    pub(super) scopes_at: Vec<(ScopeIx, Span)>,
}

pub(super) struct Callers {
    pub(super) plans: Vec<Plan>,
    pub(super) plan_sets: Vec<Sets>,
    pub(super) plan_spans: Vec<Option<Span>>,
    pub(super) plan_places: HashMap<String, PlanIx>,
    pub(super) tenants: Vec<Tenant>,
    pub(super) tenant_sets: Vec<Sets>,
    pub(super) tenant_places: HashMap<Name, TenantIx>,
    /// Standing of tenants that only keys name.
    pub(super) unlisted: Standing,
}

/// The plan of those that have none.
const DEFAULT: &str = "default";
pub(super) const DEFAULT_PLAN: PlanIx = PlanIx(0);

impl Callers {
    pub(super) fn plan(&self, name: &str) -> Option<PlanIx> {
        self.plan_places.get(name).copied()
    }

    pub(super) fn plan_names(&self) -> impl Iterator<Item = &str> {
        self.plan_places.keys().map(String::as_str)
    }

    /// The tenant with this name; one that is not listed comes to exist, with the default plan.
    pub(super) fn tenant(&mut self, name: &str) -> TenantIx {
        if let Some(ix) = self.tenant_places.get(name) {
            return *ix;
        }
        let standing = self.unlisted;
        self.push_tenant(name, standing, DEFAULT_PLAN, None, Sets::default())
    }

    fn push_tenant(
        &mut self,
        name: &str,
        standing: Standing,
        plan: PlanIx,
        allow: Option<crate::policy::snapshot::AddressRule>,
        sets: Sets,
    ) -> TenantIx {
        let ix = TenantIx(u32::try_from(self.tenants.len()).unwrap_or(u32::MAX));
        let name: Name = name.into();
        let subject = SubjectKey::of(SubjectKind::Tenant, &name);
        self.tenants.push(Tenant { name: name.clone(), subject, standing, plan, allow });
        self.tenant_sets.push(sets);
        self.tenant_places.insert(name, ix);
        ix
    }
}

pub(super) fn callers(
    plans: Option<Named<raw::Plan>>,
    tenants: Option<raw::Tenants>,
    limits: &Limits,
    desk: &mut Desk<'_>,
) -> Callers {
    let mut callers = Callers {
        plans: Vec::new(),
        plan_sets: Vec::new(),
        plan_spans: Vec::new(),
        plan_places: HashMap::new(),
        tenants: Vec::new(),
        tenant_sets: Vec::new(),
        tenant_places: HashMap::new(),
        unlisted: Standing::Active,
    };
    let mut listed = plans.unwrap_or_default().entries;
    // The default plan comes first, whether it is listed or not.
    let default = listed.iter().position(|(key, _)| key.text == DEFAULT);
    let (at, default) = match default.map(|place| listed.remove(place)) {
        Some((key, default)) => (Some(key.at), default),
        None => (None, raw::Plan::absent(Span { file: 0, start: 0, end: 0 })),
    };
    plan(DEFAULT, at, default, &mut callers, limits, desk);
    for (key, listed) in listed {
        if let Some(complaint) = name_complaint(&key.text) {
            desk.findings.error(key.at, complaint);
        }
        plan(&key.text, Some(key.at), listed, &mut callers, limits, desk);
    }
    let Some(raw::Tenants { unlisted, listed }) = tenants else { return callers };
    if unlisted.is_some_and(|word| word.value == UnlistedWord::Closed) {
        callers.unlisted = Standing::Inactive;
    }
    for (key, listed) in listed {
        if let Some(complaint) = name_complaint(&key.text) {
            desk.findings.error(key.at, complaint);
        }
        tenant(&key.text, key.at, listed, &mut callers, limits, desk);
    }
    callers
}

fn plan(
    name: &str,
    at: Option<Span>,
    raw: raw::Plan,
    callers: &mut Callers,
    limits: &Limits,
    desk: &mut Desk<'_>,
) {
    let raw::Plan { at: _, limits: overrides, scopes, allow } = raw;
    let ix = PlanIx(u32::try_from(callers.plans.len()).unwrap_or(u32::MAX));
    let overrides = checked(overrides, Holder::Plan, limits, desk);
    for (limit, ceiling, at) in &overrides {
        let place = Origins::place(&desk.findings, *at);
        desk.origins.plan_overrides.insert((ix, *limit), (*ceiling, place));
    }
    if let Some(at) = at {
        desk.origins.plans.insert(name.to_owned(), Origins::place(&desk.findings, at));
    }
    callers.plans.push(Plan {
        name: name.into(),
        subject: SubjectKey::of(SubjectKind::Plan, name),
        allow: desk.allow(allow),
    });
    let sets = sets(overrides, scopes, desk);
    if let Some(scopes) = &sets.scopes {
        desk.origins.plan_scopes.insert(ix, scopes.clone());
    }
    callers.plan_sets.push(sets);
    callers.plan_spans.push(at);
    callers.plan_places.insert(name.to_owned(), ix);
}

fn tenant(
    name: &str,
    at: Span,
    raw: raw::Tenant,
    callers: &mut Callers,
    limits: &Limits,
    desk: &mut Desk<'_>,
) {
    let raw::Tenant { at: _, plan, active, allow, scopes, limits: overrides } = raw;
    let plan = match plan {
        None => DEFAULT_PLAN,
        Some(At { value: GivenName(plan), at }) => callers.plan(&plan).unwrap_or_else(|| {
            desk.findings.error_with(
                at,
                format!("there is no plan `{plan}`"),
                did_you_mean(&plan, callers.plan_names()),
            );
            DEFAULT_PLAN
        }),
    };
    let ix = TenantIx(u32::try_from(callers.tenants.len()).unwrap_or(u32::MAX));
    let overrides = checked(overrides, Holder::Tenant, limits, desk);
    for (limit, ceiling, at) in &overrides {
        let place = Origins::place(&desk.findings, *at);
        desk.origins.tenant_overrides.insert((ix, *limit), (*ceiling, place));
    }
    desk.origins.tenants.insert(name.to_owned(), Origins::place(&desk.findings, at));
    let standing = if active.is_none_or(|active| active.value) {
        Standing::Active
    } else {
        Standing::Inactive
    };
    let allow = desk.allow(allow);
    let sets = sets(overrides, scopes, desk);
    if let Some(scopes) = &sets.scopes {
        desk.origins.tenant_scopes.insert(ix, scopes.clone());
    }
    callers.push_tenant(name, standing, plan, allow, sets);
}

fn sets(
    overrides: Vec<(LimitIx, Option<Ceiling>, Span)>,
    scopes: Option<Many<At<GivenName>>>,
    desk: &mut Desk<'_>,
) -> Sets {
    let scopes_at: Vec<(ScopeIx, Span)> = scopes
        .iter()
        .flat_map(|scopes| &scopes.items)
        .map(|name| (desk.scope(&name.value.0), name.at))
        .collect();
    let scopes = scopes.map(|_| {
        let mut places: Vec<ScopeIx> = scopes_at.iter().map(|(ix, _)| *ix).collect();
        places.sort_unstable();
        places.dedup();
        places
    });
    let ceilings = overrides.into_iter().map(|(ix, ceiling, _)| (ix, ceiling)).collect();
    Sets { ceilings, scopes, scopes_at }
}
