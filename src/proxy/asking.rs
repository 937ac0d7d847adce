//! What a connection's requests ask of the limits: nearly always each the same as the one before.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use super::refrain::LimitRefrain;
use crate::clock::Wall;
use crate::policy::authenticate::Caller;
use crate::policy::calendar::Period;
use crate::policy::covering;
use crate::policy::keys::KeyIx;
use crate::policy::limit::{Mode, Window};
use crate::policy::order::{Ask, Asks, Reading};
use crate::policy::report::Report;
use crate::policy::snapshot::{RouteIx, Snapshot, TermsIx};
use crate::store::Refuser;

/// The limits that bind a request: what they are asked, and what is said of them whatever their answers are.
#[derive(Debug, Default)]
pub(super) struct Binding {
    asks: Rc<Asks>,
    /// Whether any of them is asked in shadow.
    shadows: bool,
    /// Whether any is asked of credit.
    credit: bool,
    refrain: RefCell<Option<Rc<LimitRefrain>>>,
}

/// The asks of the latest request, under one policy: they follow from its route, its key, its client and the periods of
/// its calendars, and are found anew where one of these is another. 600 instructions a request with four limits. Of another key
/// or client under the same terms only whose meters they are is found anew: a connection that many share carries many.
#[derive(Debug)]
pub(super) struct Asking {
    of: Option<Of>,
    /// While all its calendars are in the periods that it names.
    during: Period,
    all: Rc<Binding>,
    /// Those of them that an answer may show, once a request was refused before its limits were asked.
    shown: Option<Rc<Binding>>,
    /// Which of them refused the latest request, if one did: a flood is refused by one limit for as long as it lasts.
    refuser: Option<Refuser>,
}

/// Whose asks they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Of {
    route: RouteIx,
    key: Option<KeyIx>,
    terms: Option<TermsIx>,
    client: IpAddr,
}

impl Of {
    /// Whether these ask the same limits for as much.
    fn is_bound_as(self, other: Of) -> bool {
        (self.route, self.terms) == (other.route, other.terms)
    }
}

/// A period that never ends.
const ALWAYS: Period = Period { from: Wall(i64::MIN), until: Wall(i64::MAX) };

impl Default for Asking {
    fn default() -> Asking {
        let all = Rc::default();
        Asking { of: None, during: ALWAYS, all, shown: None, refuser: None }
    }
}

impl Binding {
    /// Asks what `find` puts into an empty list, and nothing else any more.
    fn ask(&mut self, find: impl FnOnce(&mut Asks)) {
        let asks = alone(&mut self.asks);
        asks.clear();
        find(asks);
        self.shadows = asks.iter().any(|ask| ask.mode == Mode::Shadow);
        self.credit = asks.iter().any(|ask| ask.ceiling.window == Window::Prepaid);
        *self.refrain.get_mut() = None;
    }

    /// Whether any limit is asked in shadow. Known beforehand, because nearly none is.
    pub(super) fn has_shadows(&self) -> bool {
        self.shadows
    }

    /// The asks, in the order of the policy.
    pub(super) fn asks(&self) -> &Rc<Asks> {
        &self.asks
    }

    /// The asks, if nobody else holds them.
    fn asks_mut(&mut self) -> Option<&mut Asks> {
        Rc::get_mut(&mut self.asks)
    }

    /// What is said of these limits, of which so much is left at most: what was `found` the last time, if that was as much.
    pub(super) fn refrain(
        &self,
        readings: &[Reading],
        found: impl FnOnce() -> Rc<LimitRefrain>,
    ) -> Rc<LimitRefrain> {
        let mut latest = self.refrain.borrow_mut();
        match &*latest {
            // The whole of credit alone changes under one ceiling.
            Some(refrain) if !self.credit || refrain.is_of_wholes(readings) => Rc::clone(refrain),
            _ => Rc::clone(latest.insert(found())),
        }
    }
}

impl Asking {
    /// Another policy has other limits.
    pub(super) fn forget(&mut self) {
        self.of = None;
    }

    /// What a request asks of all limits that cover it, in [`Asking::all`] from now on.
    pub(super) fn find(
        &mut self,
        policy: &Snapshot,
        route: RouteIx,
        caller: Option<&Caller>,
        client: IpAddr,
        now: Wall,
    ) {
        let (key, terms) = caller.map(|caller| (caller.key, caller.terms)).unzip();
        let of = Of { route, key, terms, client };
        let before =
            self.of.replace(of).filter(|_| self.during.from <= now && now < self.during.until);
        if before == Some(of) {
            return;
        }
        (self.shown, self.refuser) = (None, None);
        if before.is_some_and(|before| before.is_bound_as(of))
            && let Some(asks) = Rc::get_mut(&mut self.all).and_then(Binding::asks_mut)
        {
            return covering::reseat(asks, policy, route, caller, client);
        }
        alone(&mut self.all)
            .ask(|asks| covering::asks_into(asks, policy, route, caller, client, now));
        let periods = self.all.asks.iter().map(|ask| ask.period);
        let periods = periods.filter(|period| *period != Period::default());
        self.during = periods.fold(ALWAYS, |all, one| Period {
            from: all.from.max(one.from),
            until: all.until.min(one.until),
        });
    }

    /// What the latest request asks.
    pub(super) fn all(&self) -> Rc<Binding> {
        Rc::clone(&self.all)
    }

    /// What of it an answer may show.
    pub(super) fn shown(&mut self, report: &Report) -> Rc<Binding> {
        let all = &self.all;
        let shown = self.shown.get_or_insert_with(|| {
            let is_shown =
                |ask: &&Ask| report.shows(ask.limit, ask.mode, ask.ceiling.window.kind());
            let mut shown = Binding::default();
            shown.ask(|asks| asks.extend(all.asks.iter().filter(is_shown).copied()));
            Rc::new(shown)
        });
        Rc::clone(shown)
    }

    /// Which of them refused the request before.
    pub(super) fn refuser(&self) -> Option<&Refuser> {
        self.refuser.as_ref()
    }

    /// Notes which of them refused the latest request, if one did.
    pub(super) fn refused_by(&mut self, refuser: Option<Refuser>) {
        self.refuser = refuser;
    }
}

/// What nobody else holds: a new one where somebody does. Nearly always the request before is over, and what it held is
/// written over where it is.
fn alone<T: Default>(shared: &mut Rc<T>) -> &mut T {
    if Rc::get_mut(shared).is_none() {
        *shared = Rc::default();
    }
    Rc::get_mut(shared).expect("a new one is nobody else's")
}

#[cfg(test)]
mod tests {
    use super::super::wording::tests::policy;
    use super::*;

    #[test]
    fn what_is_asked_is_found_anew_for_another_client_another_period_and_another_policy() {
        let limits = |units: u8| {
            policy(&format!(
                "limits: {{ each: {{ rate: {units}/second, per: address, routes: [open] }}, all: {{ quota: 9/day, per: route, routes: [open] }} }}\n"
            ))
        };
        let (few, more) = (limits(5), limits(6));
        let (day, mut asking) = (86_400_000, Asking::default());
        for (policy, last, now) in [
            (&few, 1, 5),
            (&few, 1, day - 1),
            (&few, 2, day - 1),
            (&few, 2, day),
            (&few, 2, 5),
            (&more, 2, 5),
        ] {
            if std::ptr::eq(policy, &raw const more) {
                asking.forget();
            }
            let (client, now) = (IpAddr::from([10, 0, 0, last]), Wall(now));
            asking.find(policy, RouteIx(0), None, client, now);
            let (all, mut anew) = (asking.all(), Asks::new());
            covering::asks_into(&mut anew, policy, RouteIx(0), None, client, now);
            assert_eq!(**all.asks(), anew);
            assert_eq!(all.asks().len(), 2);
        }
    }
}
