//! Money whose request nobody knows the outcome of. It stays charged, and is listed here until a person settles it.
//!
//! The list is bounded. A backend that hangs for an hour would else fill memory with what nobody will look through: the
//! oldest leave the list then, as if they had been confirmed. They stay charged, and are counted.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::{Mutex, MutexGuard};

use super::op::{Doubt, MeterId, Pending, ReservationId};

/// How many are listed at most.
pub(super) const MOST: usize = 50_000;

/// All of it.
#[derive(Debug)]
pub(super) struct Unresolved(Mutex<Listed>);

/// What is listed, by reservation, which is the order of their coming.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pending: BTreeMap<ReservationId, (Pending, Doubt)>,
    /// Those of which nobody was told.
    news: BTreeSet<ReservationId>,
    pushed_out: u64,
}

impl Unresolved {
    /// What was open when a process died is in doubt from then on.
    pub(super) fn new(restored: Vec<(Pending, Option<Doubt>)>) -> Unresolved {
        let mut listed = Listed::default();
        for (pending, doubt) in restored {
            listed.add(pending, doubt.unwrap_or(Doubt::Crash));
        }
        Unresolved(Mutex::new(listed))
    }

    /// Lists one, and returns those that it pushes out.
    pub(super) fn add(&self, pending: Pending, doubt: Doubt) -> Vec<ReservationId> {
        let mut listed = self.0.lock();
        listed.add(pending, doubt);
        listed.push_out()
    }

    /// The oldest, at most so many of them, oldest first.
    pub(super) fn oldest(&self, most: usize) -> Vec<(Pending, Doubt)> {
        self.0.lock().pending.values().take(most).cloned().collect()
    }

    /// Those of which nobody was told, at most so many. They are told now.
    pub(super) fn news(&self, most: usize) -> Vec<(Pending, Doubt)> {
        let listed = &mut *self.0.lock();
        let ids: Vec<ReservationId> = listed.news.iter().take(most).copied().collect();
        for id in &ids {
            listed.news.remove(id);
        }
        ids.iter().filter_map(|id| listed.pending.get(id).cloned()).collect()
    }

    /// How many were pushed out since the start.
    pub(super) fn pushed_out(&self) -> u64 {
        self.0.lock().pushed_out
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Listed> {
        self.0.lock()
    }
}

impl Listed {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn get(&self, id: ReservationId) -> Option<&(Pending, Doubt)> {
        self.pending.get(&id)
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Pending> {
        self.pending.values().map(|(pending, _)| pending)
    }

    /// A meter was reset: what these charged to it is nobody's question any more.
    pub(super) fn forgive(&mut self, meter: &MeterId) {
        for (pending, _) in self.pending.values_mut() {
            pending.charges.retain(|charge| charge.meter != *meter);
        }
    }

    /// Takes one off the list.
    pub(super) fn remove(&mut self, id: ReservationId) -> Option<Pending> {
        self.news.remove(&id);
        self.pending.remove(&id).map(|(pending, _)| pending)
    }

    fn add(&mut self, pending: Pending, doubt: Doubt) {
        self.news.insert(pending.id);
        self.pending.insert(pending.id, (pending, doubt));
    }

    fn push_out(&mut self) -> Vec<ReservationId> {
        let mut out = Vec::new();
        while self.pending.len() > MOST
            && let Some((id, _)) = self.pending.pop_first()
        {
            self.news.remove(&id);
            self.pushed_out += 1;
            out.push(id);
        }
        out
    }
}
