//! Step 7's question: which limits cover a request, on whose meter, with which ceiling. The ledger answers it.

use std::net::IpAddr;

use super::authenticate::Caller;
use super::calendar::Period;
use super::limit::{LimitIx, LimitKind, Per, SubjectKey, Terms};
use super::order::{Ask, Asks};
use super::snapshot::{Route, RouteIx, Snapshot};
use crate::clock::Wall;

/// Everything that limits this caller on this route, in the calendar periods of `now`, into an empty list of the caller's: half
/// a kilobyte that is not handed on.
pub fn asks_into(
    asks: &mut Asks,
    snapshot: &Snapshot,
    route: RouteIx,
    caller: Option<&Caller>,
    client: IpAddr,
    now: Wall,
) {
    let of = snapshot.route(route);
    let about = About::new(snapshot, Some(of), caller, client, now);
    asks.reserve(of.limits.len());
    for ix in &of.limits {
        if let Some(ask) = about.ask(*ix) {
            asks.push(ask);
        }
    }
}

/// What these asks become for another caller and another client, of the same route and under the same terms, in the same
/// calendar periods: only whose meters they are is another. 900 instructions less than to ask anew with four limits.
pub fn reseat(
    asks: &mut [Ask],
    snapshot: &Snapshot,
    route: RouteIx,
    caller: Option<&Caller>,
    client: IpAddr,
) {
    let route = Some(snapshot.route(route));
    let counted = Counted { snapshot, route, caller, client };
    for ask in asks {
        (ask.subject, ask.crowded) = counted.on(snapshot.limit(ask.limit).per);
    }
}

/// Everything that limits failed authentications from this address.
pub fn guesses(snapshot: &Snapshot, client: IpAddr, now: Wall) -> Asks {
    let about = About::new(snapshot, None, None, client, now);
    snapshot.guessing.iter().filter_map(|ix| about.ask(*ix)).collect()
}

/// What the limits of one request are asked about, looked up once for all of them.
struct About<'a> {
    counted: Counted<'a>,
    /// The caller's.
    terms: Option<&'a Terms>,
    now: Wall,
}

/// By what a request is counted.
struct Counted<'a> {
    snapshot: &'a Snapshot,
    route: Option<&'a Route>,
    caller: Option<&'a Caller>,
    client: IpAddr,
}

impl<'a> About<'a> {
    fn new(
        snapshot: &'a Snapshot,
        route: Option<&'a Route>,
        caller: Option<&'a Caller>,
        client: IpAddr,
        now: Wall,
    ) -> About<'a> {
        let terms = caller.map(|caller| snapshot.terms(caller.terms));
        About { counted: Counted { snapshot, route, caller, client }, terms, now }
    }

    /// `None` where the limit does not bind this caller: overridden with `none`, or counted by facts it does not have.
    #[inline]
    fn ask(&self, ix: LimitIx) -> Option<Ask> {
        let Counted { snapshot, route, .. } = self.counted;
        let limit = snapshot.limit(ix);
        let ceiling = match self.terms {
            Some(terms) => terms.ceilings[usize::from(ix.0)].as_ref()?,
            None => limit.ceiling.as_ref()?,
        };
        let weight = match limit.kind {
            LimitKind::Rate | LimitKind::Quota => route.map_or(1, |route| route.weight),
            LimitKind::Concurrent => 1,
            LimitKind::Spend | LimitKind::Credit => route.map_or(0, |route| route.charge.reserve.0),
        };
        if !self.counted.has_facts(limit.per) {
            return None;
        }
        let (subject, crowded) = self.counted.on(limit.per);
        let calendar = ceiling.window.calendar();
        let period =
            calendar.map_or(Period::default(), |ix| snapshot.calendar(ix).period_at(self.now));
        Some(Ask {
            limit: ix,
            id: limit.id,
            subject,
            crowded,
            ceiling: *ceiling,
            period,
            weight,
            mode: limit.mode,
            on_store_failure: limit.on_store_failure,
        })
    }
}

impl Counted<'_> {
    /// On whose meter a limit counts the request that has the facts for it, and the subject to use when there is no room.
    #[inline]
    fn on(&self, per: Per) -> (SubjectKey, Option<SubjectKey>) {
        let named = self.named(per);
        if !per.address {
            return (named.unwrap_or(SubjectKey::EVERYONE), None);
        }
        let whole = SubjectKey::of_address(self.client, self.snapshot.client_address.v6_prefix);
        let crowd = SubjectKey::of_neighbourhood(self.client);
        let joined = |address: SubjectKey| named.map_or(address, |named| named.with(address));
        (joined(whole), Some(joined(crowd)))
    }

    /// Whether the request has all facts that a limit counts by.
    fn has_facts(&self, per: Per) -> bool {
        (self.caller.is_some() || !per.needs_caller()) && (self.route.is_some() || !per.route)
    }

    /// The subject as far as names make it, not the address; `None` where they make nothing of it.
    fn named(&self, per: Per) -> Option<SubjectKey> {
        let mut named: Option<SubjectKey> = None;
        let mut add =
            |part: SubjectKey| named = Some(named.map_or(part, |so_far| so_far.with(part)));
        if let Some(caller) = self.caller {
            if per.key {
                add(caller.subject);
            }
            if per.tenant {
                add(self.snapshot.tenant(caller.tenant).subject);
            }
            if per.plan {
                add(self.snapshot.plan(caller.plan).subject);
            }
        }
        if let Some(route) = self.route.filter(|_| per.route) {
            add(route.subject);
        }
        named
    }
}
