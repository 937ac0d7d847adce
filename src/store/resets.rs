//! When meters were reset by hand: what was taken before that is not given back out of what others took after.

use std::collections::HashMap;

use arc_swap::ArcSwap;

use crate::clock::Steady;

use super::op::MeterId;

/// Resets that are remembered; the oldest are forgotten first. They matter to the requests that were under way then.
const MOST: usize = 4096;

/// The last reset of each meter. Reading it writes to nothing that workers share.
#[derive(Debug, Default)]
pub(super) struct Resets(ArcSwap<HashMap<MeterId, Steady>>);

impl Resets {
    /// The meter was reset now.
    pub(super) fn note(&self, meter: MeterId, now: Steady) {
        self.0.rcu(|before| {
            let mut resets = HashMap::clone(before);
            resets.insert(meter, now);
            if resets.len() > MOST {
                let oldest = resets.iter().min_by_key(|(_, at)| **at).map(|(meter, _)| *meter);
                oldest.and_then(|oldest| resets.remove(&oldest));
            }
            resets
        });
    }

    /// Whether a later reset has forgiven what was taken then.
    pub(super) fn forgave(&self, meter: &MeterId, taken: Steady) -> bool {
        self.0.load().get(meter).is_some_and(|reset| taken < *reset)
    }
}
