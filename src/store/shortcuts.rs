//! Where a subject's cell was the last time, so that it need not be looked up by name. Hints only: whoever follows one
//! looks at the cell whose it is, and under its lock again.

use std::array;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::fetch;
use crate::policy::keys::SecretIx;
use crate::policy::limit::SubjectKey;

use super::shelves::Shelves;
use super::slab::CellIx;

/// Sets of two hints for subjects that are no key's: 32 KiB.
const SETS: usize = 4096;

/// How far before and behind the place that was guessed a key's hint is fetched: 16 of them are in a cache line, and of a
/// hundred guesses two are too far off.
const SPREAD: u32 = 4;

/// Where cells were found.
#[derive(Debug)]
pub(super) struct Shortcuts {
    /// Those of keys, by the place of the secret in whatever policy asked last: known as soon as the secret's digest is,
    /// so that a key's cell comes from memory together with the secret and not after it. That is a tenth of a decision
    /// with ten thousand keys, and a seventh with a million.
    keys: Shelves<AtomicU32, 1024>,
    /// Those of all others, by bits of the subject.
    others: Box<[[AtomicU32; 2]; SETS]>,
}

impl Shortcuts {
    pub(super) fn new() -> Shortcuts {
        let others = Box::new(array::from_fn(|_| Default::default()));
        Shortcuts { keys: Shelves::default(), others }
    }

    /// Begins to fetch from memory the hints of the keys about this place. The place itself may be on its way from memory
    /// as well, and the hint would be asked for only when it has come: 200 ns with a million keys.
    pub(super) fn approach(&self, about: SecretIx) {
        for place in [about.0.saturating_sub(SPREAD), about.0.saturating_add(SPREAD)] {
            if let Some(hint) = self.keys.get(place) {
                fetch::ahead(hint);
            }
        }
    }

    pub(super) fn of_key(&self, place: SecretIx) -> Option<CellIx> {
        CellIx::from_bits(self.keys.get(place.0)?.load(Ordering::Relaxed))
    }

    pub(super) fn of_other(&self, subject: SubjectKey) -> [Option<CellIx>; 2] {
        let [first, second] = &self.others[set_of(subject)];
        [first, second].map(|hint| CellIx::from_bits(hint.load(Ordering::Relaxed)))
    }

    pub(super) fn note_key(&self, place: SecretIx, ix: CellIx) {
        self.keys.at(place.0).store(ix.to_bits(), Ordering::Relaxed);
    }

    /// The older of the two that a set has goes.
    pub(super) fn note_other(&self, subject: SubjectKey, ix: CellIx) {
        let [first, second] = &self.others[set_of(subject)];
        second.store(first.load(Ordering::Relaxed), Ordering::Relaxed);
        first.store(ix.to_bits(), Ordering::Relaxed);
    }
}

/// Addresses differ in few bits, and strangers choose them: two that meet are looked up by name, as fast as ever.
#[expect(
    clippy::cast_possible_truncation,
    reason = "both halves are folded, and the product is cut to its top bits"
)]
fn set_of(subject: SubjectKey) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let folded = (subject.0 >> 64) as u64 ^ subject.0 as u64;
    (folded.wrapping_mul(ODD) >> 52) as usize % SETS
}
