//! What people and rules did to keys at run time, over what the files say. Refusing wins: a key that is revoked in either
//! is revoked.

use std::collections::HashMap;

use super::Name;
use super::limit::SubjectKey;
use crate::clock::Wall;

/// The keys that are revoked outside their files. Replaced as a whole whenever it changes; a request sees one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// By the hash of the key's id ([`super::keys::Key::subject`]).
    revoked: HashMap<SubjectKey, Revoked>,
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The key's public id.
    pub key: Name,
    /// When.
    pub at: Wall,
    /// Who or what did it.
    pub by: RevokedBy,
    /// Why, in words.
    pub why: Box<str>,
}

/// Who or what revoked a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokedBy {
    /// A person, over the admin listener.
    Person,
    /// The rule with this name (`auto_revoke:`).
    Rule(Name),
}

impl Overlay {
    /// Whether no key is revoked in it.
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// The revocation of a key, if there is one.
    pub fn revoked(&self, key: SubjectKey) -> Option<&Revoked> {
        // Nearly always empty, and asked by every request: no hash is made then.
        if self.revoked.is_empty() { None } else { self.revoked.get(&key) }
    }

    /// This overlay with one more revocation. The first one of a key stays.
    #[must_use]
    pub fn revoking(&self, subject: SubjectKey, revoked: Revoked) -> Overlay {
        let mut next = self.clone();
        next.revoked.entry(subject).or_insert(revoked);
        next
    }

    /// This overlay without the revocation of a key.
    #[must_use]
    pub fn restoring(&self, subject: SubjectKey) -> Overlay {
        let mut next = self.clone();
        next.revoked.remove(&subject);
        next
    }

    /// All of them, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Revoked> {
        self.revoked.values()
    }
}
