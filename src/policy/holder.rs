//! Whose meter is meant, by names: what a person asks about, where a request would have brought key, route and address
//! itself. The same subjects and ceilings as [`super::covering`] gives to requests.

use std::net::IpAddr;

use super::calendar::Period;
use super::keys::KeyIx;
use super::limit::{Counts, LimitIx, SubjectKey};
use super::order::Ask;
use super::snapshot::{PlanIx, RouteIx, Snapshot, TenantIx, TermsIx};
use crate::clock::Wall;

/// Whom a meter may count, as far as it is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The key.
    pub key: Option<KeyIx>,
    /// The tenant, the key's where a key is said.
    pub tenant: Option<TenantIx>,
    /// The plan, the key's or the tenant's where one is said.
    pub plan: Option<PlanIx>,
    /// The ceilings: those of the key, or of some key that is counted along.
    pub terms: Option<TermsIx>,
    /// The route.
    pub route: Option<RouteIx>,
    /// The client's address.
    pub address: Option<IpAddr>,
}

/// What a limit counts by and nobody has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsaid {
    /// Which key.
    Key,
    /// Which tenant.
    Tenant,
    /// Which plan.
    Plan,
    /// Which route.
    Route,
    /// Which address.
    Address,
}

impl Unsaid {
    /// The word of `per:`, which is also the name under which it is said.
    pub const fn name(self) -> &'static str {
        match self {
            Unsaid::Key => "key",
            Unsaid::Tenant => "tenant",
            Unsaid::Plan => "plan",
            Unsaid::Route => "route",
            Unsaid::Address => "address",
        }
    }
}

impl Holder {
    /// A key, with its tenant and its plan.
    pub fn of_key(snapshot: &Snapshot, ix: KeyIx) -> Holder {
        let key = snapshot.keys.at(ix);
        Holder {
            key: Some(ix),
            tenant: Some(key.entitlement.tenant),
            plan: Some(key.entitlement.plan),
            terms: Some(key.entitlement.terms),
            ..Holder::default()
        }
    }

    /// A tenant, with its plan. `terms` are those of its keys ([`tenant_terms`]).
    pub fn of_tenant(snapshot: &Snapshot, ix: TenantIx, terms: Option<TermsIx>) -> Holder {
        let plan = Some(snapshot.tenant(ix).plan);
        Holder { tenant: Some(ix), plan, terms, ..Holder::default() }
    }

    /// A plan.
    pub fn of_plan(snapshot: &Snapshot, ix: PlanIx) -> Holder {
        let of_it = snapshot.keys.iter().find(|key| key.entitlement.plan == ix);
        Holder {
            plan: Some(ix),
            terms: of_it.map(|key| key.entitlement.terms),
            ..Holder::default()
        }
    }

    /// The ask that reads this holder's meter of a limit, with a weight of 0. `None` where the limit does not bind it.
    pub fn ask(&self, snapshot: &Snapshot, ix: LimitIx, now: Wall) -> Result<Option<Ask>, Unsaid> {
        let limit = snapshot.limit(ix);
        let (subject, crowded) = self.subject(snapshot, ix)?;
        let own = match limit.counts {
            Counts::Requests => self.terms,
            // Those who fail to say who they are have no terms.
            Counts::FailedAuthentication => None,
        };
        let ceiling = match own {
            Some(terms) => snapshot.terms(terms).ceilings[usize::from(ix.0)],
            None => limit.ceiling,
        };
        Ok(ceiling.map(|ceiling| Ask {
            limit: ix,
            id: limit.id,
            subject,
            crowded,
            ceiling,
            period: ceiling
                .window
                .calendar()
                .map_or(Period::default(), |calendar| snapshot.calendar(calendar).period_at(now)),
            weight: 0,
            mode: limit.mode,
            on_store_failure: limit.on_store_failure,
        }))
    }

    fn subject(
        &self,
        snapshot: &Snapshot,
        ix: LimitIx,
    ) -> Result<(SubjectKey, Option<SubjectKey>), Unsaid> {
        let per = snapshot.limit(ix).per;
        let mut named: Option<SubjectKey> = None;
        let mut add = |part: SubjectKey| named = Some(named.map_or(part, |all| all.with(part)));
        if per.key {
            add(snapshot.keys.at(self.key.ok_or(Unsaid::Key)?).subject);
        }
        if per.tenant {
            add(snapshot.tenant(self.tenant.ok_or(Unsaid::Tenant)?).subject);
        }
        if per.plan {
            add(snapshot.plan(self.plan.ok_or(Unsaid::Plan)?).subject);
        }
        if per.route {
            add(snapshot.route(self.route.ok_or(Unsaid::Route)?).subject);
        }
        if !per.address {
            return Ok((named.unwrap_or(SubjectKey::EVERYONE), None));
        }
        let address = self.address.ok_or(Unsaid::Address)?;
        let joined = |part: SubjectKey| named.map_or(part, |all| all.with(part));
        let whole = SubjectKey::of_address(address, snapshot.client_address.v6_prefix);
        Ok((joined(whole), Some(joined(SubjectKey::of_neighbourhood(address)))))
    }
}

/// The ceilings of each tenant, by its place: those of a key of its own plan, or else of any of its keys. What is
/// counted per tenant has one ceiling for all of them.
pub fn tenant_terms(snapshot: &Snapshot) -> Vec<Option<TermsIx>> {
    let mut terms: Vec<Option<TermsIx>> = vec![None; snapshot.tenants.len()];
    for key in snapshot.keys.iter() {
        let Some(place) = terms.get_mut(key.entitlement.tenant.0 as usize) else { continue };
        if place.is_none() || snapshot.tenant(key.entitlement.tenant).plan == key.entitlement.plan {
            *place = Some(key.entitlement.terms);
        }
    }
    terms
}
