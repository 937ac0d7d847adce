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
use crate::policy::snapshot::{RouteIx, Snapshot};
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
/// its calendars, and are found anew where one of these is another. 600 instructions a request with four limits.
#[derive(Debug)]
pub(super) struct Asking {
    of: Option<(RouteIx, Option<KeyIx>, IpAddr)>,
    /// While all its calendars are in the periods that it names.
    during: Period,
    all: Rc<Binding>,
    /// Those of them that an answer may show, once a request was refused before its limits were asked.
    shown: Option<Rc<Binding>>,
    /// Which of them refused the latest request, if one did: a flood is refused by one limit for as long as it lasts.
    refuser: Option<Refuser>,
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
    fn of(asks: Asks) -> Binding {
        let shadows = asks.iter().any(|ask| ask.mode == Mode::Shadow);
        let credit = asks.iter().any(|ask| ask.ceiling.window == Window::Prepaid);
        Binding { asks: Rc::new(asks), shadows, credit, refrain: RefCell::default() }
    }

    /// Whether any limit is asked in shadow. Known beforehand, because nearly none is.
    pub(super) fn has_shadows(&self) -> bool {
        self.shadows
    }

    /// The asks, in the order of the policy.
    pub(super) fn asks(&self) -> &Rc<Asks> {
        &self.asks
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
        caller: Option<Caller>,
        client: IpAddr,
        now: Wall,
    ) {
        let of = Some((route, caller.map(|caller| caller.key), client));
        if self.of == of && self.during.from <= now && now < self.during.until {
            return;
        }
        let mut asks = Asks::new();
        covering::asks_into(&mut asks, policy, route, caller, client, now);
        self.all = Rc::new(Binding::of(asks));
        let periods = self.all.asks.iter().map(|ask| ask.period);
        let periods = periods.filter(|period| *period != Period::default());
        self.during = periods.fold(ALWAYS, |all, one| Period {
            from: all.from.max(one.from),
            until: all.until.min(one.until),
        });
        (self.of, self.shown, self.refuser) = (of, None, None);
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
            let asks: Asks = all.asks.iter().filter(is_shown).copied().collect();
            Rc::new(Binding::of(asks))
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
            let all = asking.all();
            assert_eq!(**all.asks(), covering::asks(policy, RouteIx(0), None, client, now));
            assert_eq!(all.asks().len(), 2);
        }
    }
}
