//! A table of keys in the making. Rows go where they stay, so that a million of them need no second place meanwhile.

use std::collections::HashMap;

use super::{Key, KeyIx, Keys, Secret, SecretDigest, SharedSecret, home};
use crate::clock::Wall;
use crate::policy::limit::SubjectKey;

/// A table of keys in the making.
#[derive(Debug, Default)]
pub struct KeysDraft {
    keys: Keys,
    /// Rows by their subjects, which are hashes: open addressing, 0 is empty, n is `rows[n - 1]`. A map would take eight
    /// times the memory, beside a table that is in force meanwhile.
    by_subject: Box<[u32]>,
    /// Rows that took another's place: their secrets begin here, and what stands before is the other's.
    replaced: HashMap<KeyIx, usize>,
}

impl KeysDraft {
    /// Makes room for so many more keys; it may be fewer or more that come.
    pub fn expect(&mut self, keys: usize) {
        self.keys.rows.reserve_exact(keys);
        self.keys.secrets.reserve_exact(keys);
    }

    /// The key that has this subject.
    pub fn with_subject(&self, subject: SubjectKey) -> Option<KeyIx> {
        let row = self.by_subject.get(self.place(subject)?)?.checked_sub(1)?;
        Some(KeyIx(row))
    }

    /// Takes a key in whose subject no other has, with its digests and the end of the overlap of each (`None`: current).
    pub fn add(&mut self, key: Key, digests: &[(SecretDigest, Option<Wall>)]) -> KeyIx {
        let rows = self.keys.rows.len();
        if (rows + 1) * 2 > self.by_subject.len() {
            self.spread();
        }
        let ix = KeyIx(u32::try_from(rows).unwrap_or(u32::MAX));
        if let Some(place) = self.place(key.subject) {
            self.by_subject[place] = ix.0.saturating_add(1);
        }
        self.keys.rows.push(key);
        self.add_secrets(ix, digests);
        ix
    }

    /// Puts a key in the place of the one that has the same subject, with its digests in the place of the other's.
    pub fn replace(&mut self, ix: KeyIx, key: Key, digests: &[(SecretDigest, Option<Wall>)]) {
        self.keys.rows[ix.0 as usize] = key;
        self.replaced.insert(ix, self.keys.secrets.len());
        self.add_secrets(ix, digests);
    }

    /// The table.
    pub fn finish(self) -> Result<Keys, SharedSecret> {
        let KeysDraft { mut keys, by_subject, replaced } = self;
        drop(by_subject);
        let mut at = 0..;
        keys.secrets.retain(|secret| {
            let from = replaced.get(&secret.key).copied().unwrap_or(0);
            at.next().is_some_and(|at| at >= from)
        });
        keys.rows.shrink_to_fit();
        keys.secrets.shrink_to_fit();
        let size = (keys.secrets.len() * 2).next_power_of_two();
        let mut slots = vec![0u32; size].into_boxed_slice();
        for (ordinal, secret) in (1u32..).zip(&keys.secrets) {
            let mut at = home(&secret.digest, size);
            while slots[at] != 0 {
                let taken = &keys.secrets[slots[at] as usize - 1];
                if taken.digest == secret.digest {
                    return Err(SharedSecret { first: taken.key, second: secret.key });
                }
                at = (at + 1) & (size - 1);
            }
            slots[at] = ordinal;
        }
        keys.slots = slots;
        Ok(keys)
    }

    fn add_secrets(&mut self, ix: KeyIx, digests: &[(SecretDigest, Option<Wall>)]) {
        self.keys.secrets.extend(digests.iter().map(|(digest, until)| Secret {
            digest: *digest,
            key: ix,
            until: until.unwrap_or(Wall(i64::MAX)),
        }));
    }

    /// Where a row with this subject is named, or would be; `None` while there is no room for one.
    fn place(&self, subject: SubjectKey) -> Option<usize> {
        let last = self.by_subject.len().checked_sub(1)?;
        let mut at = usize::try_from(subject.0 & last as u128).unwrap_or(0);
        while let Some(row) = self.by_subject[at].checked_sub(1)
            && self.keys.rows[row as usize].subject != subject
        {
            at = (at + 1) & last;
        }
        Some(at)
    }

    /// Makes room for as many rows again as there may be.
    fn spread(&mut self) {
        let rows = self.keys.rows.capacity().max(self.keys.rows.len() + 1);
        self.by_subject = vec![0; (rows * 2).next_power_of_two()].into_boxed_slice();
        for (ordinal, row) in (1u32..).zip(0..self.keys.rows.len()) {
            if let Some(place) = self.place(self.keys.rows[row].subject) {
                self.by_subject[place] = ordinal;
            }
        }
    }
}
