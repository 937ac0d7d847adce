//! The keys, found by the digest of their secret. Built for a million: a key is one small row, what keys share is interned.

mod draft;

use std::fmt;

pub use draft::KeysDraft;

use crate::clock::Wall;

use super::limit::SubjectKey;
use super::snapshot::{AddressRule, GrantIx, PlanIx, TenantIx, TermsIx};

/// Place of a key in [`Keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyIx(pub u32);

/// SHA-256 of a secret, or HMAC-SHA-256 under a pepper. The secret itself is nowhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretDigest(pub [u8; 32]);

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretDigest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// One key, with everything that its requests are decided by.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its public id.
    pub id: Box<str>,
    /// A stable hash of the id, for limits `per: key`.
    pub subject: SubjectKey,
    /// Who pays.
    pub tenant: TenantIx,
    /// Its own plan, or its tenant's.
    pub plan: PlanIx,
    /// What it may do, already cut down to what its tenant and plan may do.
    pub grant: GrantIx,
    /// Its ceilings.
    pub terms: TermsIx,
    /// Its own allowlist.
    pub allow: Option<AddressRule>,
    /// Valid from.
    pub not_before: Option<Wall>,
    /// Valid until, exclusive.
    pub expires: Option<Wall>,
    /// Whether it was revoked.
    pub status: KeyStatus,
}

/// Whether a key was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// It was not.
    Live,
    /// It was.
    Revoked,
}

/// One secret of a key. A key that is being rotated has two.
#[derive(Clone, Copy, Debug)]
struct Secret {
    digest: SecretDigest,
    key: KeyIx,
    /// The last millisecond plus one of an old secret's overlap; `i64::MAX` for a current one.
    until: Wall,
}

/// All keys.
#[derive(Debug, Default)]
pub struct Keys {
    rows: Vec<Key>,
    secrets: Vec<Secret>,
    /// Open addressing over `secrets`: 0 is empty, n is `secrets[n - 1]`. Digests are uniform, so their first bytes
    /// are the hash, and nobody can choose them without inverting SHA-256.
    slots: Box<[u32]>,
}

/// A key with its digests, each with the end of its overlap (`None`: current).
pub type Row = (Key, Vec<(SecretDigest, Option<Wall>)>);

/// A secret that two keys claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedSecret {
    /// The key that had it first.
    pub first: KeyIx,
    /// The key that claims it too.
    pub second: KeyIx,
}

/// What a digest leads to.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The key's place.
    pub ix: KeyIx,
    /// The key.
    pub key: &'a Key,
    /// When this secret of the key stops being one (rotation's overlap).
    pub until: Wall,
}

impl Keys {
    /// Builds the table. `secrets` of a row: its digests with the end of their overlap (`None`: current).
    pub fn build(rows: Vec<Row>) -> Result<Keys, SharedSecret> {
        let mut draft = KeysDraft::default();
        draft.expect(rows.len());
        for (key, digests) in rows {
            draft.add(key, &digests);
        }
        draft.finish()
    }

    /// The key with this secret, whatever its state.
    pub fn find(&self, digest: &SecretDigest) -> Option<Found<'_>> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = home(digest, self.slots.len());
        while self.slots[at] != 0 {
            let secret = &self.secrets[self.slots[at] as usize - 1];
            if secret.digest == *digest {
                let key = &self.rows[secret.key.0 as usize];
                return Some(Found { ix: secret.key, key, until: secret.until });
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }

    /// The key at `ix`.
    pub fn at(&self, ix: KeyIx) -> &Key {
        &self.rows[ix.0 as usize]
    }

    /// All keys, in the order of their files.
    pub fn iter(&self) -> std::slice::Iter<'_, Key> {
        self.rows.iter()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<'a> IntoIterator for &'a Keys {
    type Item = &'a Key;
    type IntoIter = std::slice::Iter<'a, Key>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn home(digest: &SecretDigest, size: usize) -> usize {
    let mut eight = [0; 8];
    eight.copy_from_slice(&digest.0[..8]);
    usize::try_from(u64::from_le_bytes(eight) & (size as u64 - 1)).unwrap_or(0)
}
