//! The policy as it is in force, every override applied, with the line that each value comes from. Must never: compute a
//! ceiling itself; it prints what the snapshot holds and finds out which line said so.

use std::fmt::Write as _;

use super::origin::Place;
use super::problem::did_you_mean;
use super::words::{
    ceiling_words, charge_words, idempotency_words, mode_words, networks_of, revocation_words,
    size_words, standing_words, store_failure_words, wall_words,
};
use super::{Loaded, compile};
use crate::policy::idempotency::RecordBounds;
use crate::policy::keys::{Key, KeyIx, KeyStatus};
use crate::policy::limit::{Ceiling, Counts, LimitIx};
use crate::policy::route::ScopeDemand;
use crate::policy::snapshot::{
    Access, AddressRule, AdminListener, Grant, PlanIx, Route, RouteIx, ScopeIx, Snapshot, Standing,
    StateAt, Target, TenantIx, TenantPlace,
};

/// What to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// Routes, limits, plans and tenants.
    All,
    /// What holds for the key with this id.
    Key(String),
    /// What holds for the keys of this tenant that set nothing themselves.
    Tenant(String),
    /// What holds on this route.
    Route(String),
}

/// Effective values as YAML-like text, each with `# file:line`. `Err`: there is no such thing; a sentence that says so.
pub fn show(loaded: &Loaded, what: &Show) -> Result<String, String> {
    let mut page = Page { loaded, snapshot: &loaded.snapshot, out: String::new() };
    let unknown = |kind: &str, name: &str, near: Option<String>| {
        let near = near.map(|near| format!("; {near}")).unwrap_or_default();
        format!("there is no {kind} `{name}`{near}")
    };
    match what {
        Show::All => page.all(),
        Show::Key(id) => {
            let mut keys = (0..).map(KeyIx).zip(loaded.snapshot.keys.iter());
            let (ix, key) =
                keys.find(|(_, key)| *key.id == **id).ok_or_else(|| unknown("key", id, None))?;
            page.key(ix, &key);
        }
        Show::Tenant(name) => {
            let tenants = loaded.snapshot.tenants_by_name();
            let near = || did_you_mean(name, tenants.keys().copied());
            let ix = tenants.get(name.as_str()).ok_or_else(|| unknown("tenant", name, near()))?;
            page.tenant(*ix);
        }
        Show::Route(name) => {
            let routes = &loaded.snapshot.routes;
            let near = || did_you_mean(name, routes.iter().map(|route| &*route.name));
            let route = routes.iter().find(|route| *route.name == **name);
            page.route(route.ok_or_else(|| unknown("route", name, near()))?);
        }
    }
    Ok(page.out)
}

struct Page<'a> {
    loaded: &'a Loaded,
    snapshot: &'a Snapshot,
    out: String,
}

impl Page<'_> {
    fn line(&mut self, depth: usize, text: &str, from: Option<&Place>) {
        let indent = "  ".repeat(depth);
        // Writing to a String cannot fail.
        let _ = match from {
            Some(place) => writeln!(self.out, "{indent}{text}  # {place}"),
            None => writeln!(self.out, "{indent}{text}"),
        };
    }

    fn all(&mut self) {
        let snapshot = self.snapshot;
        self.line(0, &format!("digest: {}", snapshot.digest), None);
        let upstream = &snapshot.upstream;
        let scheme = match upstream.scheme {
            crate::policy::snapshot::Scheme::Http => "http",
            crate::policy::snapshot::Scheme::Https => "https",
        };
        let host = if upstream.host.contains(':') {
            format!("[{}]", upstream.host)
        } else {
            upstream.host.to_string()
        };
        let url = format!("upstream: {scheme}://{host}:{}{}", upstream.port, upstream.base_path);
        self.line(0, &url, None);
        for listener in &snapshot.server.listeners {
            let tls = if listener.tls.is_some() { " (TLS)" } else { "" };
            self.line(0, &format!("listen: {}{tls}", listener.address), None);
        }
        self.around();
        self.line(0, "routes:", None);
        for route in &snapshot.routes {
            self.route_at(1, route);
        }
        self.line(0, "limits:", None);
        for limit in &snapshot.limits {
            let place = self.loaded.origins.limits.get(&*limit.name);
            let ceiling = ceiling_words(snapshot, limit, limit.ceiling);
            let per = compile::per_words(limit.per);
            let counts = match limit.counts {
                Counts::Requests => "",
                Counts::FailedAuthentication => ", counts failed authentications",
            };
            let mode = mode_words(limit.mode);
            let failure = store_failure_words(limit);
            let text = format!("{}: {ceiling}, per {per}{counts}{failure}{mode}", limit.name);
            self.line(1, &text, place);
        }
        if !snapshot.auto_revoke.is_empty() {
            self.line(0, "auto_revoke:", None);
        }
        for rule in &snapshot.auto_revoke {
            self.line(1, &format!("{}: {}", rule.name, revocation_words(rule)), None);
        }
        self.line(0, "plans:", None);
        for (ix, plan) in (0..).map(PlanIx).zip(&snapshot.plans) {
            self.line(1, &format!("{}:", plan.name), self.loaded.origins.plans.get(&*plan.name));
            if let Some(scopes) = self.loaded.origins.plan_scopes.get(&ix) {
                self.line(2, &format!("scopes: [{}]", self.scope_names(scopes)), None);
            }
            for (limit_ix, limit) in (0..).map(LimitIx).zip(&snapshot.limits) {
                if let Some((ceiling, place)) =
                    self.loaded.origins.plan_overrides.get(&(ix, limit_ix))
                {
                    let text =
                        format!("{}: {}", limit.name, ceiling_words(snapshot, limit, *ceiling));
                    self.line(2, &text, Some(place));
                }
            }
        }
        self.line(0, "tenants:", None);
        for (ix, tenant) in (0..).map(TenantIx).zip(&snapshot.tenants) {
            let plan = &snapshot.plan(tenant.plan).name;
            let standing = standing_words(tenant.standing);
            let place = self.loaded.origins.tenants.get(&*tenant.name);
            let scopes = match self.loaded.origins.tenant_scopes.get(&ix) {
                Some(scopes) => format!(", scopes [{}]", self.scope_names(scopes)),
                None => String::new(),
            };
            self.line(1, &format!("{}: plan {plan}{scopes}{standing}", tenant.name), place);
        }
        self.line(0, &format!("keys: {}", snapshot.keys.len()), None);
    }

    /// Admin, state and what lives in it, and the balance that the backend is told.
    fn around(&mut self) {
        let snapshot = self.snapshot;
        match snapshot.server.admin {
            None => self.line(0, "admin: none", None),
            Some(AdminListener { address, token }) => {
                let token = if token.is_some() { " (with a token)" } else { "" };
                self.line(0, &format!("admin: {address}{token}"), None);
            }
        }
        let state = match &snapshot.server.state {
            StateAt::Memory => "memory".to_owned(),
            StateAt::Directory(directory) => directory.display().to_string(),
        };
        self.line(0, &format!("state: {state}"), None);
        if snapshot.routes.iter().any(|route| route.idempotency.is_some()) {
            let RecordBounds { records, per_tenant, bytes } = snapshot.records;
            let memory = size_words(bytes as u64);
            let text = format!(
                "idempotency: {records} records, {per_tenant} of one tenant, memory {memory}"
            );
            self.line(0, &text, None);
        }
        if let Some(balance) = &snapshot.identity.balance {
            let limit = &snapshot.limit(balance.of).name;
            self.line(0, &format!("balance: {} of {limit}", balance.name), None);
        }
    }

    fn route(&mut self, route: &Route) {
        self.route_at(0, route);
    }

    fn route_at(&mut self, depth: usize, route: &Route) {
        let place = self.loaded.origins.routes.get(&*route.name);
        self.line(depth, &format!("{}:", route.name), place);
        let matches = self.loaded.origins.matches.get(&*route.name);
        if let Some(matches) = matches {
            self.line(depth + 1, &format!("match: [{}]", matches.join(", ")), None);
        }
        match (route.access, route.target) {
            (Access::Public, Target::Upstream) => self.line(depth + 1, "public: true", None),
            (_, Target::Ready) => self.line(depth + 1, "answer: ready", None),
            (_, Target::Balance(ix)) => {
                let name = &self.loaded.snapshot.limit(ix).name;
                self.line(depth + 1, &format!("answer: {{ balance: {name} }}"), None);
            }
            (Access::Keyed, Target::Upstream) => {}
        }
        if let Some(rule) = &route.scope {
            let (word, scopes) = match &rule.demand {
                ScopeDemand::Any(scopes) => ("any", scopes),
                ScopeDemand::All(scopes) => ("all", scopes),
            };
            let (names, mode) = (self.scope_names(scopes), mode_words(rule.mode));
            self.line(depth + 1, &format!("scope: {word} of {names}{mode}"), None);
        }
        if let Some(rule) = &route.tenant {
            let place = match &rule.place {
                TenantPlace::Segment(segment) => format!("path segment {}", segment + 1),
                TenantPlace::Query(name) => format!("query {name}"),
            };
            self.line(depth + 1, &format!("tenant: {place}{}", mode_words(rule.mode)), None);
        }
        self.allow(depth + 1, "allow", route.allow, None);
        self.line(depth + 1, &format!("weight: {}", route.weight), None);
        if let Some(cost) = charge_words(&route.charge) {
            self.line(depth + 1, &format!("cost: {cost}"), None);
        }
        if let Some(rule) = &route.idempotency {
            let rule = idempotency_words(rule, &route.charge.release);
            self.line(depth + 1, &format!("idempotency: {rule}"), None);
        }
        let body = match route.max_body.or(self.snapshot.bounds.body) {
            Some(bytes) => size_words(bytes),
            None => "none".to_owned(),
        };
        self.line(depth + 1, &format!("max_body: {body}"), None);
        self.line(depth + 1, &format!("timeout: {:?}", route.response_timeout), None);
        for ix in &route.limits {
            let limit = self.snapshot.limit(*ix);
            let place = self.loaded.origins.limits.get(&*limit.name);
            let ceiling = ceiling_words(self.snapshot, limit, limit.ceiling);
            let mode = mode_words(limit.mode);
            self.line(depth + 1, &format!("limit {}: {ceiling}{mode}", limit.name), place);
        }
    }

    fn tenant(&mut self, ix: TenantIx) {
        let (snapshot, origins) = (self.snapshot, &self.loaded.origins);
        let tenant = snapshot.tenant(ix);
        let plan = snapshot.plan(tenant.plan);
        self.line(0, &format!("tenant: {}", tenant.name), origins.tenants.get(&*tenant.name));
        let active = tenant.standing == Standing::Active;
        self.line(0, &format!("active: {active}"), None);
        self.line(0, &format!("plan: {}", plan.name), origins.plans.get(&*plan.name));
        let plan_place = origins.plans.get(&*plan.name);
        self.bound("the plan", origins.plan_scopes.get(&tenant.plan), plan_place);
        let place = origins.tenants.get(&*tenant.name);
        self.bound("the tenant", origins.tenant_scopes.get(&ix), place);
        self.allow(0, "allow", snapshot.allow, None);
        self.allow(0, "allow of the plan", plan.allow, origins.plans.get(&*plan.name));
        self.allow(0, "allow of the tenant", tenant.allow, origins.tenants.get(&*tenant.name));
        self.line(0, "limits:", None);
        for (limit_ix, limit) in (0..).map(LimitIx).zip(&snapshot.limits) {
            let (ceiling, place) = self.below_key(limit_ix, ix, tenant.plan);
            let ceiling = ceiling_words(snapshot, limit, ceiling);
            let (per, mode) = (compile::per_words(limit.per), mode_words(limit.mode));
            self.line(1, &format!("{}: {ceiling}, per {per}{mode}", limit.name), place.as_ref());
        }
        let keys: Vec<&str> = snapshot
            .keys
            .iter()
            .filter(|key| key.entitlement.tenant == ix)
            .map(|key| key.id)
            .collect();
        self.line(0, &format!("keys: [{}]", keys.join(", ")), None);
    }

    fn key(&mut self, ix: KeyIx, key: &Key) {
        let (snapshot, origins) = (self.snapshot, &self.loaded.origins);
        let own = origins.keys.get(ix.0 as usize).and_then(|(file, line)| {
            let file = origins.key_files.get(usize::from(*file))?.clone();
            Some(Place { file, line: *line as usize })
        });
        let tenant = snapshot.tenant(key.entitlement.tenant);
        let plan = snapshot.plan(key.entitlement.plan);
        let tenant_place = origins.tenants.get(&*tenant.name);
        let plan_place = origins.plans.get(&*plan.name);
        self.line(0, &format!("id: {}", key.id), own.as_ref());
        let standing = standing_words(tenant.standing);
        self.line(0, &format!("tenant: {}{standing}", tenant.name), tenant_place);
        self.line(0, &format!("plan: {}", plan.name), plan_place);
        let revoked = key.entitlement.status == KeyStatus::Revoked;
        self.line(0, &format!("revoked: {revoked}"), None);
        for (word, wall) in
            [("not_before", key.entitlement.not_before), ("expires", key.entitlement.expires)]
        {
            if let Some(wall) = wall {
                self.line(0, &format!("{word}: {}", wall_words(wall)), own.as_ref());
            }
        }
        let scopes = match snapshot.grant(key.entitlement.grant) {
            Grant::All => "all".to_owned(),
            Grant::Only(scopes) => format!("[{}]", self.scope_names(scopes)),
        };
        self.line(0, &format!("scopes: {scopes}"), None);
        self.allow(0, "allow", snapshot.allow, None);
        self.allow(0, "allow of the tenant", tenant.allow, tenant_place);
        self.allow(0, "allow of the plan", plan.allow, plan_place);
        self.allow(0, "allow of the key", key.entitlement.allow, own.as_ref());
        self.line(0, "limits:", None);
        for (limit_ix, limit) in (0..).map(LimitIx).zip(&snapshot.limits) {
            let ceiling = snapshot.terms(key.entitlement.terms).ceilings[usize::from(limit_ix.0)];
            let (below, place) =
                self.below_key(limit_ix, key.entitlement.tenant, key.entitlement.plan);
            let place = if below == ceiling { place } else { own.clone() };
            let ceiling = ceiling_words(snapshot, limit, ceiling);
            let mode = mode_words(limit.mode);
            let per = compile::per_words(limit.per);
            self.line(1, &format!("{}: {ceiling}, per {per}{mode}", limit.name), place.as_ref());
        }
        let routes: Vec<String> = (0..)
            .map(RouteIx)
            .zip(&snapshot.routes)
            .filter(|(_, route)| self.reaches(route, key))
            .map(|(_, route)| route.name.to_string())
            .collect();
        self.line(0, &format!("routes: [{}]", routes.join(", ")), None);
    }

    fn scope_names(&self, scopes: &[ScopeIx]) -> String {
        let names: Vec<&str> =
            scopes.iter().map(|ix| &*self.snapshot.scopes[ix.0 as usize]).collect();
        names.join(", ")
    }

    /// The most that a key may do, whatever the key itself says.
    fn bound(&mut self, whose: &str, scopes: Option<&Vec<ScopeIx>>, from: Option<&Place>) {
        let Some(scopes) = scopes else { return };
        let names = self.scope_names(scopes);
        self.line(0, &format!("scopes of {whose}, at most: [{names}]"), from);
    }

    /// Whether the key's scopes open the route.
    fn reaches(&self, route: &Route, key: &Key) -> bool {
        let (Some(rule), Grant::Only(granted)) =
            (&route.scope, self.snapshot.grant(key.entitlement.grant))
        else {
            return true;
        };
        match &rule.demand {
            ScopeDemand::Any(scopes) => scopes.iter().any(|scope| granted.contains(scope)),
            ScopeDemand::All(scopes) => scopes.iter().all(|scope| granted.contains(scope)),
        }
    }

    /// The ceiling of a key that sets none itself, and which line says so.
    fn below_key(
        &self,
        limit: LimitIx,
        tenant: TenantIx,
        plan: PlanIx,
    ) -> (Option<Ceiling>, Option<Place>) {
        let (origins, rule) = (&self.loaded.origins, self.snapshot.limit(limit));
        let per = rule.per;
        let tenant_plan = self.snapshot.tenant(tenant).plan;
        let of_plan = |plan: PlanIx| origins.plan_overrides.get(&(plan, limit)).cloned();
        let of_tenant = origins.tenant_overrides.get(&(tenant, limit)).cloned();
        let found = of_tenant
            .filter(|_| per.key || per.tenant)
            .or_else(|| of_plan(plan).filter(|_| per.key || per.plan))
            .or_else(|| of_plan(tenant_plan).filter(|_| per.key || (per.tenant && !per.plan)));
        match found {
            Some((ceiling, place)) => (ceiling, Some(place)),
            None => (rule.ceiling, origins.limits.get(&*rule.name).cloned()),
        }
    }

    fn allow(&mut self, depth: usize, word: &str, rule: Option<AddressRule>, from: Option<&Place>) {
        let Some(rule) = rule else { return };
        let networks: Vec<String> =
            self.snapshot.nets(rule.nets).ranges().flat_map(networks_of).collect();
        let mode = mode_words(rule.mode);
        self.line(depth, &format!("{word}: [{}]{mode}", networks.join(", ")), from);
    }
}
