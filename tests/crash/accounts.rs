//! Compares what the limits say was used with what the backend saw.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::carrier::Forward;
use crate::desk::{Desk, Figures, Unresolved};
use crate::tally::{Promise, Tally};
use crate::terms::{BULK, CAP, MONTHLY, Route, tenant};

/// What was known at the last look.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// Use and forwards of each tenant.
    quotas: BTreeMap<(String, &'static str), (u64, u64)>,
    /// Requests of which a person has said that they were processed: charged at their reserves for good.
    confirmed: HashSet<String>,
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    /// Deaths.
    pub(crate) crashes: u64,
    /// Requests that may have been under way at each.
    pub(crate) under_way: u64,
}

impl Accounts {
    /// Looks at all limits of the first `tenants` tenants. Nothing may be under way.
    pub(crate) fn audit(
        &mut self,
        desk: &Desk,
        tenants: usize,
        forwards: &[Forward],
        since: Since,
        tally: &mut Tally,
    ) {
        let open = desk.unresolved();
        let named: HashMap<&str, &Unresolved> =
            open.iter().map(|entry| (&*entry.request, entry)).collect();
        for forward in forwards.iter().filter(|forward| forward.route.cost > 0) {
            // A doubt stays until a person ends it.
            let listed = named.contains_key(&*forward.request);
            if !forward.has_head() && !listed && !self.confirmed.contains(&forward.request) {
                let what = format!("{} is in doubt and not listed", forward.request);
                tally.breach(Promise::Honest, what);
            }
        }
        for name in (0..tenants).map(tenant) {
            let own: Vec<&Forward> = forwards.iter().filter(|f| f.tenant == name).collect();
            for (limit, ceiling) in [("wallet", None), ("cap", Some(CAP))] {
                let figures = desk.usage(&name, limit);
                self.money(&name, limit, ceiling, figures, &own, &named, &open, tally);
            }
            for (limit, ceiling) in [("monthly", MONTHLY), ("bulk", BULK)] {
                let figures = desk.usage(&name, limit);
                self.quota(&name, limit, ceiling, figures, &own, since, tally);
            }
        }
    }

    /// Never below what was forwarded, never above it by more than a block and what was under way at each death.
    #[expect(clippy::too_many_arguments, reason = "all of it is what one sentence speaks of")]
    fn quota(
        &mut self,
        name: &str,
        limit: &'static str,
        ceiling: u64,
        figures: Figures,
        own: &[&Forward],
        since: Since,
        tally: &mut Tally,
    ) {
        let seen = count(own.iter().filter(|forward| forward.route.is_under(limit)).count());
        let used = figures.used;
        if seen > ceiling {
            tally.breach(Promise::Limits, format!("{name} {limit}: {seen} forwards of {ceiling}"));
        }
        if used < seen {
            let what = format!("{name} {limit}: {used} used, {seen} were forwarded");
            tally.breach(Promise::Limits, what);
        }
        let last = self.quotas.entry((name.to_owned(), limit)).or_default();
        let block = (ceiling / 100).max(1);
        let most =
            (last.0 + (seen - last.1) + since.crashes * (block + since.under_way)).min(ceiling);
        if used > most {
            let what = format!(
                "{name} {limit}: a crash cost more than a block of {block}: {used} used, {} before, {} forwarded since",
                last.0,
                seen - last.1
            );
            tally.breach(Promise::Honest, what);
        }
        *last = (used, seen);
    }

    /// Exactly what the forwards did cost, and the reserves of what is listed as undecided; never more than there is.
    #[expect(clippy::too_many_arguments, reason = "all of it is what one sentence speaks of")]
    fn money(
        &self,
        name: &str,
        limit: &str,
        ceiling: Option<u64>,
        figures: Figures,
        own: &[&Forward],
        named: &HashMap<&str, &Unresolved>,
        open: &[Unresolved],
        tally: &mut Tally,
    ) {
        let covered = |forward: &&&Forward| forward.route.is_under(limit);
        let decided = |forward: &&&Forward| !named.contains_key(&*forward.request);
        let settled: u64 =
            own.iter().filter(covered).filter(decided).map(|forward| self.due(forward)).sum();
        let least: u64 = own.iter().filter(covered).map(|forward| self.due(forward)).sum();
        let held = |entry: &Unresolved| {
            let route = Route::at(&format!("/{}", entry.route.replace('-', "/")));
            route.filter(|route| route.is_under(limit)).map_or(0, |route| route.cost)
        };
        let held: u64 = open.iter().filter(|entry| entry.tenant == name).map(held).sum();
        let ceiling = ceiling.unwrap_or(figures.ceiling);
        if least > ceiling {
            let what = format!("{name} {limit}: the backend did work for {least} of {ceiling}");
            tally.breach(Promise::Limits, what);
        }
        if figures.used > ceiling {
            tally.breach(Promise::Limits, format!("{name} {limit}: {figures:?} is over {ceiling}"));
        }
        if figures.used != settled + held {
            let promise =
                if figures.used < settled + held { Promise::Limits } else { Promise::Honest };
            let what = format!(
                "{name} {limit}: used {}, but {settled} were charged and {held} are held",
                figures.used
            );
            tally.breach(promise, what);
        }
    }

    /// What a forward costs for good.
    fn due(&self, forward: &Forward) -> u64 {
        if self.confirmed.contains(&forward.request) {
            forward.route.cost
        } else {
            forward.charge()
        }
    }

    /// A person settles every doubt by what the backend saw.
    pub(crate) fn settle(&mut self, desk: &Desk, forwards: &[Forward], tally: &mut Tally) {
        for entry in desk.unresolved() {
            let seen = forwards.iter().any(|forward| forward.request == entry.request);
            assert!(desk.resolve(&entry, seen), "the gate lives");
            if seen {
                self.confirmed.insert(entry.request);
            }
        }
        if !desk.unresolved().is_empty() {
            tally.breach(Promise::Honest, "a settled doubt is still listed".to_owned());
        }
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}
