//! Step 6: what the caller may do. Only here is a [`Permit`] made, and forwarding demands one.

use std::net::IpAddr;

use super::authenticate::{self, Caller};
use super::head::{Head, may_be_read_as, percent_decoded, readings};
use super::keys::SecretDigest;
use super::limit::Mode;
use super::overlay::Overlay;
use super::refusal::{Refusal, Refused};
use super::route::{ScopeDemand, ScopeRule};
use super::snapshot::{AddressRule, Grant, Route, RouteIx, Snapshot, TenantPlace, TenantRule};
use crate::clock::Wall;

/// The right to be forwarded on one route. It can be made by [`authorize`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "the private field keeps the making of it to this file"
)]
pub struct Permit {
    /// The route.
    pub route: RouteIx,
    /// Who asks; `None` on a public route.
    pub caller: Option<Caller>,
    /// What rules in `mode: shadow` would have refused.
    pub shadowed: Vec<Refusal>,
    _made_here: (),
}

/// Decides whether this caller, from this address, may do this.
pub fn authorize(
    snapshot: &Snapshot,
    route_ix: RouteIx,
    caller: Option<Caller>,
    client: IpAddr,
    head: &Head<'_>,
) -> Result<Permit, Refused> {
    let route = snapshot.route(route_ix);
    let mut asked = Asked { snapshot, shadowed: Vec::new() };
    asked.all(route, caller.as_ref(), client, head)?;
    Ok(Permit { route: route_ix, caller, shadowed: asked.shadowed, _made_here: () })
}

/// Whether an exchange that is open for long would still be admitted: its secret, key, tenant, route, scope and address;
/// not its limits, which it has taken, nor its head, which is gone. `route_slot` is its route's [`Route::slot`].
pub fn still_admitted(
    snapshot: &Snapshot,
    overlay: &Overlay,
    secret: &SecretDigest,
    route_slot: u32,
    client: IpAddr,
    now: Wall,
) -> Result<(), Refused> {
    let no_route = Refused::because(Refusal::RouteUnknown, "the route is no longer in the policy");
    let at = snapshot.routes.iter().position(|route| route.slot == route_slot).ok_or(no_route)?;
    let route = &snapshot.routes[at];
    let gone = Refused::because(Refusal::KeyRevoked, "the key is no longer in the policy");
    let caller = authenticate::by_digest(snapshot, overlay, secret, now)
        .ok_or(gone)?
        .map_err(|stranger| stranger.refused)?;
    let mut asked = Asked { snapshot, shadowed: Vec::new() };
    asked.standing(route, Some(&caller), client)?;
    Ok(())
}

impl Permit {
    /// This permit for another request with the same head from the same address, if it is for this route and the same
    /// secret of the same key asks, under the policy that it was made under: nothing else is read to make one.
    pub(super) fn again(&self, route: RouteIx, caller: Option<Caller>) -> Option<Permit> {
        let place = |caller: &Caller| caller.place;
        let same =
            self.route == route && self.caller.as_ref().map(place) == caller.as_ref().map(place);
        same.then(|| Permit { route, caller, shadowed: self.shadowed.clone(), _made_here: () })
    }
}

/// A rule that refuses. One byte, which is handed on in a register: what is said of it is put together once, at the end.
#[derive(Clone, Copy, Debug)]
enum Veto {
    Scope,
    Address,
    Tenant,
}

impl Veto {
    fn refusal(self) -> Refusal {
        match self {
            Veto::Scope => Refusal::ScopeDenied,
            Veto::Address => Refusal::AddressDenied,
            Veto::Tenant => Refusal::TenantDenied,
        }
    }
}

impl From<Veto> for Refused {
    fn from(veto: Veto) -> Refused {
        let detail = match veto {
            Veto::Scope => "the key's scopes, its tenant's and its plan's do not cover the route",
            Veto::Address => "the client's address is not on an allowlist that applies",
            Veto::Tenant => "the request names another tenant than the key's",
        };
        Refused::because(veto.refusal(), detail)
    }
}

/// The rules that a request was held against.
struct Asked<'a> {
    snapshot: &'a Snapshot,
    shadowed: Vec<Refusal>,
}

impl Asked<'_> {
    /// What does not end with the request's head: who asks, from where, for which route.
    fn standing(
        &mut self,
        route: &Route,
        caller: Option<&Caller>,
        client: IpAddr,
    ) -> Result<(), Veto> {
        if let Some(caller) = caller {
            self.scope(caller, route)?;
            self.addresses(caller, client)?;
        }
        self.address(route.allow, client)
    }

    fn all(
        &mut self,
        route: &Route,
        caller: Option<&Caller>,
        client: IpAddr,
        head: &Head<'_>,
    ) -> Result<(), Veto> {
        self.standing(route, caller, client)?;
        if let (Some(caller), Some(rule)) = (caller, &route.tenant) {
            let tenant = &self.snapshot.tenant(caller.tenant).name;
            self.rule(rule.mode, Veto::Tenant, || names_only(head, rule, tenant))?;
        }
        Ok(())
    }

    #[inline]
    fn rule(&mut self, mode: Mode, veto: Veto, agrees: impl FnOnce() -> bool) -> Result<(), Veto> {
        match (agrees(), mode) {
            (true, _) => Ok(()),
            (false, Mode::Enforce) => Err(veto),
            (false, Mode::Shadow) => {
                self.shadowed.push(veto.refusal());
                Ok(())
            }
        }
    }

    fn scope(&mut self, caller: &Caller, route: &Route) -> Result<(), Veto> {
        let Some(rule) = &route.scope else { return Ok(()) };
        let grant = self.snapshot.grant(caller.grant);
        self.rule(rule.mode, Veto::Scope, || grants(grant, rule))
    }

    /// The lists that bind a caller, which intersect.
    fn addresses(&mut self, caller: &Caller, client: IpAddr) -> Result<(), Veto> {
        let Asked { snapshot, .. } = *self;
        self.address(snapshot.allow, client)?;
        self.address(snapshot.tenant(caller.tenant).allow, client)?;
        self.address(snapshot.plan(caller.plan).allow, client)?;
        self.address(caller.allow, client)
    }

    // Most lists are not there: to find that out takes no call.
    #[inline]
    fn address(&mut self, rule: Option<AddressRule>, client: IpAddr) -> Result<(), Veto> {
        rule.map_or(Ok(()), |rule| self.listed(rule, client))
    }

    fn listed(&mut self, rule: AddressRule, client: IpAddr) -> Result<(), Veto> {
        let nets = self.snapshot.nets(rule.nets);
        self.rule(rule.mode, Veto::Address, || nets.contains(client))
    }
}

fn grants(grant: &Grant, rule: &ScopeRule) -> bool {
    let Grant::Only(held) = grant else { return true };
    let holds = |scope| held.binary_search(scope).is_ok();
    match &rule.demand {
        ScopeDemand::Any(scopes) => scopes.iter().any(holds),
        ScopeDemand::All(scopes) => scopes.iter().all(holds),
    }
}

fn names_only(head: &Head<'_>, rule: &TenantRule, tenant: &str) -> bool {
    match &rule.place {
        TenantPlace::Segment(at) => head
            .path
            .split('/')
            .nth(at + 1)
            .is_some_and(|segment| percent_decoded(segment.as_bytes()) == tenant.as_bytes()),
        // However a backend may read it: `Tenant_ID` as `tenant_id`, or what stands behind a semicolon.
        TenantPlace::Query(name) => head
            .query
            .unwrap_or("")
            .split('&')
            .flat_map(readings)
            .all(|(given, value)| !may_be_read_as(&given, name) || value == tenant.as_bytes()),
    }
}
