//! Where idempotency records stand in their table: one after another as they come, and not by their names. Names are
//! hashes, so that each would go to a page of its own, and every commit would write a page a record; in the order of their
//! coming a commit's records share one, and what was claimed lately is completed there too.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::policy::idempotency::RecordId;

/// The place of each record.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_name: HashMap<RecordId, u64, RandomState>,
    next: u64,
}

impl Places {
    /// Takes up a record that stands in the table. `false`: its name stands there twice, so that the table is not what
    /// was written.
    pub(super) fn found(&mut self, id: RecordId, place: u64) -> bool {
        self.next = self.next.max(place.saturating_add(1));
        self.by_name.insert(id, place).is_none()
    }

    /// Where a record stands; a new one after all others.
    pub(super) fn of(&mut self, id: RecordId) -> u64 {
        let next = self.next;
        let place = *self.by_name.entry(id).or_insert(next);
        if place == next {
            self.next = next.saturating_add(1);
        }
        place
    }

    /// Where a record stands, if it does.
    pub(super) fn known(&self, id: RecordId) -> Option<u64> {
        self.by_name.get(&id).copied()
    }

    /// Where a record stood that is forgotten now.
    pub(super) fn leave(&mut self, id: RecordId) -> Option<u64> {
        self.by_name.remove(&id)
    }
}
