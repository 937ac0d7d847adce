//! Money whose request nobody knows the outcome of. It stays charged, and is listed here until a person settles it.

use std::collections::BTreeMap;

use parking_lot::{Mutex, MutexGuard};

use super::op::{Doubt, Pending, ReservationId};

/// All of it, by reservation.
#[derive(Debug)]
pub(super) struct Unresolved(Mutex<ByReservation>);

pub(super) type ByReservation = BTreeMap<ReservationId, (Pending, Doubt)>;

impl Unresolved {
    /// What was open when a process died is in doubt from then on.
    pub(super) fn new(restored: Vec<(Pending, Option<Doubt>)>) -> Unresolved {
        let listed = |(pending, doubt): (Pending, Option<Doubt>)| {
            (pending.id, (pending, doubt.unwrap_or(Doubt::Crash)))
        };
        Unresolved(Mutex::new(restored.into_iter().map(listed).collect()))
    }

    pub(super) fn add(&self, pending: Pending, doubt: Doubt) {
        self.0.lock().insert(pending.id, (pending, doubt));
    }

    /// All of it, oldest first.
    pub(super) fn all(&self) -> Vec<(Pending, Doubt)> {
        let mut all: Vec<_> = self.0.lock().values().cloned().collect();
        all.sort_by_key(|(pending, _)| (pending.at, pending.id));
        all
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ByReservation> {
        self.0.lock()
    }
}
