//! Key files → the table of keys. What keys share (tenants, ceilings, grants, allowlists) is interned while reading, so
//! that a million lines cost one small row each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use sha2::Digest;

use super::super::problem::{Span, did_you_mean};
use super::super::read::clip;
use super::super::{json_keys, yaml_keys};
use super::Desk;
use super::by_id::ById;
use super::callers::{Callers, Sets};
use super::limits::Limits;
use super::overrides::{Amounts, Holder};
use crate::clock::Wall;
use crate::policy::address::Nets;
use crate::policy::keys::{
    Entitlement, Key, KeyIx, KeyStatus, Keys, KeysBuilder, SecretDigest, SharedSecret,
};
use crate::policy::limit::{Ceiling, LimitIx, Mode, SubjectKey, Terms};
use crate::policy::snapshot::{
    AddressRule, Grant, GrantIx, Plan, PlanIx, ScopeIx, Standing, Tenant, TenantIx, TermsIx,
};
use crate::policy::subject::SubjectKind;

pub(super) struct Compiled {
    pub(super) keys: Keys,
    pub(super) plans: Vec<Plan>,
    pub(super) tenants: Vec<Tenant>,
    pub(super) plan_spans: Vec<Option<Span>>,
    pub(super) plan_used: Vec<bool>,
    /// A scope that somebody is granted, and one place where.
    pub(super) granted: Vec<(ScopeIx, Span)>,
}

/// One key as read from either kind of file, nothing resolved.
pub(in crate::config) struct Entry<'a> {
    pub(in crate::config) at: Span,
    pub(in crate::config) id: &'a str,
    pub(in crate::config) tenant: &'a str,
    pub(in crate::config) digests: Vec<(SecretDigest, Option<Wall>)>,
    pub(in crate::config) scopes: Option<Vec<(&'a str, Span)>>,
    pub(in crate::config) plan: Option<(&'a str, Span)>,
    pub(in crate::config) not_before: Option<Wall>,
    pub(in crate::config) expires: Option<(Wall, Span)>,
    pub(in crate::config) allow: Vec<IpNet>,
    pub(in crate::config) limits: Vec<(&'a str, Amounts, Span)>,
    pub(in crate::config) status: KeyStatus,
}

/// Collects the keys of all files.
pub(in crate::config) struct Collector<'d, 'a> {
    pub(in crate::config) desk: &'d mut Desk<'a>,
    limits: &'d Limits,
    callers: Callers,
    rows: KeysBuilder,
    /// File and line of each row.
    places: Vec<(u16, u32)>,
    by_id: ById,
    /// Ceilings of callers without overrides of their own.
    shared_terms: HashMap<(Option<PlanIx>, PlanIx, Option<TenantIx>), TermsIx>,
    shared_grants: HashMap<(PlanIx, Option<TenantIx>), GrantIx>,
    plan_used: Vec<bool>,
    granted: HashMap<ScopeIx, Span>,
    /// Number of the file being read, among the key files.
    file: u16,
}

/// Keys for which room is made at once, however long a file says it is.
const MOST_EXPECTED: usize = 1 << 26;

/// What a second entry of an id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Again {
    /// It replaces the first: lines of JSON are appended.
    Replaces,
    /// It is a mistake: a file for people.
    Clashes,
}

pub(super) fn keys(
    files: &[(PathBuf, Span)],
    callers: Callers,
    limits: &Limits,
    desk: &mut Desk<'_>,
) -> Compiled {
    let plan_used = vec![false; callers.plans.len()];
    let mut granted = HashMap::new();
    for sets in callers.plan_sets.iter().chain(&callers.tenant_sets) {
        for (scope, at) in &sets.scopes_at {
            granted.entry(*scope).or_insert(*at);
        }
    }
    let mut collector = Collector {
        desk,
        limits,
        callers,
        rows: KeysBuilder::default(),
        places: Vec::new(),
        by_id: ById::default(),
        shared_terms: HashMap::new(),
        shared_grants: HashMap::new(),
        plan_used,
        granted,
        file: 0,
    };
    for (path, at) in files {
        collector.read(path, *at);
    }
    collector.finish()
}

impl Collector<'_, '_> {
    fn read(&mut self, path: &Path, named_at: Span) {
        self.desk.files.push(path.to_owned());
        self.file = u16::try_from(self.desk.origins.key_files.len()).unwrap_or(u16::MAX);
        self.desk.origins.key_files.push(path.to_owned());
        let read = if path.extension().is_some_and(|extension| extension == "jsonl") {
            self.desk
                .sources
                .opened(path)
                .and_then(|(source, bytes)| json_keys::read(path, source, bytes, self))
        } else {
            (self.desk.sources.read)(path).map(|bytes| self.read_yaml(path, bytes))
        };
        if let Err(error) = read {
            self.desk.findings.error_with(
                named_at,
                format!("the key file {} cannot be read: {error}", path.display()),
                "an empty one holds `[]`; `tollgate keys new` adds to it".to_owned(),
            );
        }
    }

    fn read_yaml(&mut self, path: &Path, bytes: Vec<u8>) {
        self.desk.keys_digest.update(&bytes);
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                self.desk.findings.file_error(path, format!("no UTF-8 at byte {at}"), None);
                return;
            }
        };
        let Some(file) = self.desk.findings.source(path, text) else {
            self.desk.findings.file_error(path, "too large, or too many files", None);
            return;
        };
        yaml_keys::read(file, path, self);
    }

    /// Makes room for the keys of a file of so many bytes, of which this is the beginning. What is not needed is never
    /// touched.
    pub(in crate::config) fn expect(&mut self, bytes: u64, beginning: &[u8]) {
        let lines = beginning.split(|byte| *byte == b'\n').skip(1).count().max(1) as u64;
        let keys = bytes.saturating_mul(lines) / (beginning.len() as u64).max(1);
        let keys = usize::try_from(keys + keys / 16).unwrap_or(0).min(MOST_EXPECTED);
        self.rows.expect(keys);
        self.by_id.expect(keys);
        self.places.reserve_exact(keys);
    }

    /// Takes a key in.
    pub(in crate::config) fn add(&mut self, entry: Entry<'_>, line: usize, again: Again) {
        let Entry {
            at,
            id,
            tenant,
            digests,
            scopes,
            plan,
            not_before,
            expires,
            allow,
            limits,
            status,
        } = entry;
        let (tenant_name, tenant) = (tenant, self.callers.tenant(tenant));
        let own_plan = plan.and_then(|(name, at)| {
            let found = self.callers.plan(name);
            if found.is_none() {
                self.desk.findings.error_with(
                    at,
                    format!("there is no plan `{}`", clip(name)),
                    did_you_mean(name, self.callers.plan_names()),
                );
            }
            found
        });
        let tenant_plan = self.callers.tenants[tenant.0 as usize].plan;
        let plan = own_plan.unwrap_or(tenant_plan);
        self.plan_used[plan.0 as usize] = true;
        self.plan_used[tenant_plan.0 as usize] = true;
        let grant = self.grant(scopes.as_deref(), plan, tenant);
        let terms = self.terms(&limits, own_plan, tenant);
        let allow = (!allow.is_empty())
            .then(|| AddressRule { nets: self.desk.nets(Nets::new(allow)), mode: Mode::Enforce });
        if let (Some((expires, at)), Again::Clashes, KeyStatus::Live) = (expires, again, status)
            && expires <= self.desk.now
        {
            self.desk.findings.warn(
                at,
                format!("the key `{id}` has expired"),
                "take it out, or `tollgate keys rotate` it".to_owned(),
            );
        }
        let shut_out = self.callers.unlisted == Standing::Inactive
            && !self.desk.origins.tenants.contains_key(tenant_name);
        if shut_out && again == Again::Clashes && status == KeyStatus::Live {
            let known = self.desk.origins.tenants.keys().map(String::as_str);
            let near = did_you_mean(tenant_name, known);
            self.desk.findings.warn(
                at,
                format!(
                    "the key `{id}` is refused: its tenant `{tenant_name}` is not listed, and the policy \
                     is closed to others"
                ),
                near.unwrap_or_else(|| "list the tenant".to_owned()),
            );
        }
        let subject = SubjectKey::of(SubjectKind::Key, id);
        let entitlement = Entitlement {
            tenant,
            plan,
            grant,
            terms,
            allow,
            not_before,
            expires: expires.map(|(wall, _)| wall),
            status,
        };
        let key = Key { id, subject, entitlement: &entitlement };
        let place = (self.file, u32::try_from(line).unwrap_or(u32::MAX));
        match self.by_id.find(subject, &self.rows) {
            None => {
                let ix = self.rows.push(&key, digests);
                self.by_id.insert(ix, &self.rows);
                self.places.push(place);
            }
            Some(first) => {
                let row = first.0 as usize;
                let (first_file, first_line) = self.places[row];
                if again == Again::Replaces && first_file == self.file {
                    self.rows.replace(first, &key, digests);
                    self.places[row] = place;
                } else {
                    let file = &self.desk.origins.key_files[usize::from(first_file)];
                    let first = format!("the first is {}:{first_line}", file.display());
                    self.desk.findings.error_with(
                        at,
                        format!("two keys have the id `{}`", clip(id)),
                        first,
                    );
                }
            }
        }
    }

    /// The key's own scopes, cut down to what its tenant and plan may do.
    fn grant(&mut self, own: Option<&[(&str, Span)]>, plan: PlanIx, tenant: TenantIx) -> GrantIx {
        let ceilings = [
            &self.callers.plan_sets[plan.0 as usize].scopes,
            &self.callers.tenant_sets[tenant.0 as usize].scopes,
        ];
        let share = (plan, ceilings[1].is_some().then_some(tenant));
        if own.is_none()
            && let Some(grant) = self.shared_grants.get(&share)
        {
            return *grant;
        }
        let mut scopes = own.map(|own| {
            let mut places: Vec<ScopeIx> = own
                .iter()
                .map(|(name, at)| {
                    let scope = self.desk.scope(name);
                    self.granted.entry(scope).or_insert(*at);
                    scope
                })
                .collect();
            places.sort_unstable();
            places.dedup();
            places
        });
        for ceiling in ceilings.into_iter().flatten() {
            match &mut scopes {
                None => scopes = Some(ceiling.clone()),
                Some(scopes) => scopes.retain(|scope| ceiling.binary_search(scope).is_ok()),
            }
        }
        let grant = match scopes {
            None => Grant::All,
            Some(scopes) => Grant::Only(scopes.into()),
        };
        let grant = self.desk.grant(grant);
        if own.is_none() {
            self.shared_grants.insert(share, grant);
        }
        grant
    }

    /// key > tenant > the key's plan > the tenant's plan > limit, for each limit as far as it counts below them.
    fn terms(
        &mut self,
        own: &[(&str, Amounts, Span)],
        own_plan: Option<PlanIx>,
        tenant: TenantIx,
    ) -> TermsIx {
        let tenant_plan = self.callers.tenants[tenant.0 as usize].plan;
        let tenant_sets = &self.callers.tenant_sets[tenant.0 as usize];
        let share = (own_plan, tenant_plan, (!tenant_sets.ceilings.is_empty()).then_some(tenant));
        if own.is_empty()
            && let Some(terms) = self.shared_terms.get(&share)
        {
            return *terms;
        }
        let tenant_plan_sets = &self.callers.plan_sets[tenant_plan.0 as usize];
        let own_plan_sets = own_plan.map(|plan| &self.callers.plan_sets[plan.0 as usize]);
        let mut ceilings: Vec<Option<Ceiling>> = (0..)
            .map(LimitIx)
            .zip(&self.limits.compiled)
            .map(|(ix, limit)| effective(ix, limit, tenant_sets, own_plan_sets, tenant_plan_sets))
            .collect();
        for (name, amounts, at) in own {
            match self.limits.overridden(name, amounts, Holder::Key) {
                Ok(Some((ix, ceiling))) => ceilings[usize::from(ix.0)] = ceiling,
                Ok(None) => {}
                Err((message, remedy)) => self.desk.findings.error_with(*at, message, remedy),
            }
        }
        let terms = self.desk.terms(Terms { ceilings: ceilings.into() });
        if own.is_empty() {
            self.shared_terms.insert(share, terms);
        }
        terms
    }

    fn finish(self) -> Compiled {
        let Collector { desk, callers, rows, places, by_id, mut plan_used, granted, .. } = self;
        drop(by_id);
        for tenant in &callers.tenants {
            plan_used[tenant.plan.0 as usize] = true;
        }
        let built = rows.build(desk.sources.breathe);
        let keys = built.unwrap_or_else(|SharedSecret { first, second }| {
            let place = |ix: KeyIx| places.get(ix.0 as usize).copied().unwrap_or_default();
            let ((file, line), (first_file, first_line)) = (place(second), place(first));
            let path = desk.origins.key_files[usize::from(file)].clone();
            let first_path = desk.origins.key_files[usize::from(first_file)].display().to_string();
            desk.findings.line_error(
                &path,
                line as usize,
                "this key has the same secret as another".to_owned(),
                format!("the other is {first_path}:{first_line}; give each its own"),
            );
            Keys::default()
        });
        desk.origins.keys = places;
        let mut granted: Vec<(ScopeIx, Span)> = granted.into_iter().collect();
        granted.sort_unstable_by_key(|(scope, _)| *scope);
        Compiled {
            keys,
            plans: callers.plans,
            tenants: callers.tenants,
            plan_spans: callers.plan_spans,
            plan_used,
            granted,
        }
    }
}

/// The ceiling of one limit for a caller without overrides of its own.
pub(super) fn effective(
    ix: LimitIx,
    limit: &crate::policy::limit::Limit,
    tenant: &Sets,
    own_plan: Option<&Sets>,
    tenant_plan: &Sets,
) -> Option<Ceiling> {
    let set = |sets: &Sets| sets.ceilings.iter().find(|(set, _)| *set == ix).map(|(_, to)| *to);
    // A key's own plan stands below the tenant: it cannot widen what all keys of the tenant share.
    let plan = if limit.per.key || limit.per.plan {
        own_plan.and_then(set).or_else(|| match own_plan {
            Some(_) if limit.per.plan && !limit.per.key => None,
            _ => set(tenant_plan),
        })
    } else {
        set(tenant_plan)
    };
    let tenant = if limit.per.key || limit.per.tenant { set(tenant) } else { None };
    tenant.or(plan).unwrap_or(limit.ceiling)
}
