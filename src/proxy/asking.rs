//! What a connection's requests ask of the limits: nearly always each the same as the one before.

use std::net::IpAddr;

use crate::clock::Wall;
use crate::policy::authenticate::Caller;
use crate::policy::calendar::Period;
use crate::policy::covering;
use crate::policy::keys::KeyIx;
use crate::policy::order::{Asks, Reading};
use crate::policy::snapshot::{RouteIx, Snapshot};

/// The asks of the latest request, under one policy: they follow from its route, its key, its client and the periods of
/// its calendars, and are found anew where one of these is another. 600 instructions a request with four limits.
#[derive(Debug)]
pub(super) struct Asking {
    of: Option<(RouteIx, Option<KeyIx>, IpAddr)>,
    /// While all its calendars are in the periods that it names.
    during: Period,
    asks: Asks,
    /// Which of them refused the latest request, if one did: a flood is refused by one limit for as long as it lasts.
    refuser: Option<usize>,
}

/// A period that never ends.
const ALWAYS: Period = Period { from: Wall(i64::MIN), until: Wall(i64::MAX) };

impl Default for Asking {
    fn default() -> Asking {
        Asking { of: None, during: ALWAYS, asks: Asks::new(), refuser: None }
    }
}

impl Asking {
    /// Another policy has other limits.
    pub(super) fn forget(&mut self) {
        self.of = None;
    }

    /// What a request asks of all limits that cover it, in [`Asking::asks`] from now on.
    pub(super) fn find(
        &mut self,
        policy: &Snapshot,
        route: RouteIx,
        caller: Option<Caller>,
        client: IpAddr,
        now: Wall,
    ) {
        let of = Some((route, caller.map(|caller| caller.key), client));
        if self.of != of || now < self.during.from || self.during.until <= now {
            self.asks.clear();
            covering::asks_into(&mut self.asks, policy, route, caller, client, now);
            let empty = |period: &Period| *period == Period::default();
            let periods = self.asks.iter().map(|ask| ask.period).filter(|period| !empty(period));
            self.during = periods.fold(ALWAYS, |all, one| Period {
                from: all.from.max(one.from),
                until: all.until.min(one.until),
            });
            self.of = of;
            self.refuser = None;
        }
    }

    /// What the latest request asks.
    pub(super) fn asks(&self) -> &Asks {
        &self.asks
    }

    /// The place among them of the one that refused the request before.
    pub(super) fn refuser(&self) -> Option<usize> {
        self.refuser
    }

    /// Notes what the limits said to the latest request.
    pub(super) fn heard(&mut self, readings: &[Reading]) {
        self.refuser = readings.iter().position(Reading::vetoes);
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
            let asks = asking.asks().clone();
            assert_eq!(asks, covering::asks(policy, RouteIx(0), None, client, now));
            assert_eq!(asks.len(), 2);
        }
    }
}
