//! The keys, found by the digest of their secret. Built for a million: a request reads a byte of the directory, which is small
//! enough to stay near the processor, one line of the secrets and one of what the key entitles to; what keys share is
//! interned.

mod directory;

use std::collections::HashMap;
use std::fmt;

use foldhash::fast::FixedState;

use crate::clock::Wall;
use crate::fetch;

use self::directory::Directory;
use super::limit::SubjectKey;
use super::snapshot::{AddressRule, GrantIx, PlanIx, TenantIx, TermsIx};

/// Place of a key in [`Keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyIx(pub u32);

/// Place of a secret in [`Keys`]: known before the secret itself is read. Means nothing after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretIx(pub u32);

/// Where the secret with some digest is, before any secret is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    /// Some places before or behind it: known from what stays near the processor even of a million keys, whose places come
    /// from memory. The guess takes 80 instructions, and with a million keys a twentieth off a decision.
    About(SecretIx),
    /// Here, or one or two places before it.
    At(SecretIx),
}

/// SHA-256 of a secret, or HMAC-SHA-256 under a pepper. The secret itself is nowhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretDigest(pub [u8; 32]);

impl SecretDigest {
    /// Its first eight bytes, which order digests as far as those differ.
    fn first(&self) -> u64 {
        self.0.first_chunk().map_or(0, |eight| u64::from_be_bytes(*eight))
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretDigest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// One key, with everything that its requests are decided by.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Its public id.
    pub id: &'a str,
    /// A stable hash of the id, for limits `per: key`.
    pub subject: SubjectKey,
    /// What it is good for, and when.
    pub entitlement: &'a Entitlement,
}

/// Whether a key was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyStatus {
    /// It was not.
    Live,
    /// It was.
    Revoked,
}

/// What a key is good for and when. Keys that agree in all of it share one; a cache line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(align(64))]
pub struct Entitlement {
    /// Who pays.
    pub tenant: TenantIx,
    /// The key's plan, or its tenant's.
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

/// One secret of a key, with what a request needs of the key: a cache line. A key that is being rotated has two.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Secret {
    digest: SecretDigest,
    subject: SubjectKey,
    /// The last millisecond plus one of an old secret's overlap; `i64::MAX` for a current one.
    until: Wall,
    key: KeyIx,
    /// Place in [`Keys::entitlements`].
    entitlement: u32,
}

/// What only reports and records ask of a key.
#[derive(Clone, Copy, Debug)]
struct Row {
    subject: SubjectKey,
    /// Where its id begins in [`Keys::ids`]; it ends where the next row's begins.
    id_at: usize,
    entitlement: u32,
}

/// All keys.
#[derive(Debug, Default)]
pub struct Keys {
    rows: Vec<Row>,
    /// The ids, one behind the other.
    ids: String,
    entitlements: Vec<Entitlement>,
    /// Ascending by digest.
    secrets: Vec<Secret>,
    directory: Directory,
}

/// The most secrets whose places need not be guessed: what is kept by them, four bytes each, stays near the processor by
/// itself.
const FEW_NEAR: usize = 1 << 15;

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
    /// The secret's place.
    pub secret: SecretIx,
    /// The hash of its id.
    pub subject: SubjectKey,
    /// What it is good for.
    pub entitled: &'a Entitlement,
    /// When this secret of the key stops being one (rotation's overlap).
    pub until: Wall,
}

/// Keys as they are read, one by one.
#[derive(Debug, Default)]
pub struct KeysBuilder {
    keys: Keys,
    interned: HashMap<Entitlement, u32, FixedState>,
    /// Keys that were given anew, with the number of secrets that there were before: older ones of them are gone.
    renewed: HashMap<KeyIx, usize, FixedState>,
}

impl KeysBuilder {
    /// Number of keys so far.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Makes room for so many more keys with a secret each; it may be fewer or more that come.
    pub fn expect(&mut self, keys: usize) {
        self.keys.rows.reserve_exact(keys);
        self.keys.secrets.reserve_exact(keys);
    }

    /// The hash of the id of a key that was taken in.
    pub fn subject(&self, ix: KeyIx) -> Option<SubjectKey> {
        self.keys.rows.get(ix.0 as usize).map(|row| row.subject)
    }

    /// Takes a key in. `digests`: those of its secrets, with the end of each one's overlap (`None`: current).
    pub fn push(
        &mut self,
        key: &Key<'_>,
        digests: impl IntoIterator<Item = (SecretDigest, Option<Wall>)>,
    ) -> KeyIx {
        let ix = KeyIx(u32::try_from(self.len()).unwrap_or(u32::MAX));
        let entitlement = self.intern(key.entitlement);
        self.keys.rows.push(Row { subject: key.subject, id_at: self.keys.ids.len(), entitlement });
        self.make_room(key.id);
        self.keys.ids.push_str(key.id);
        self.add(ix, key.subject, entitlement, digests);
        ix
    }

    /// Room for this id and those of the keys that are expected, which are about as long: to copy millions of bytes into a
    /// larger piece of memory, again and again, would take milliseconds in which nobody else has this core.
    fn make_room(&mut self, id: &str) {
        let Keys { ids, rows, .. } = &mut self.keys;
        if ids.capacity() - ids.len() < id.len() {
            let each = (ids.len() / rows.len().max(1)).max(id.len());
            let coming = rows.capacity() - rows.len();
            ids.reserve_exact(each.saturating_mul(coming + 1));
        }
    }

    /// Puts a later entry of the same id in the place of an earlier one, whose secrets are gone.
    pub fn replace(
        &mut self,
        ix: KeyIx,
        key: &Key<'_>,
        digests: impl IntoIterator<Item = (SecretDigest, Option<Wall>)>,
    ) {
        let entitlement = self.intern(key.entitlement);
        if let Some(row) = self.keys.rows.get_mut(ix.0 as usize) {
            row.entitlement = entitlement;
            self.renewed.insert(ix, self.keys.secrets.len());
            self.add(ix, key.subject, entitlement, digests);
        }
    }

    fn add(
        &mut self,
        key: KeyIx,
        subject: SubjectKey,
        entitlement: u32,
        digests: impl IntoIterator<Item = (SecretDigest, Option<Wall>)>,
    ) {
        self.keys.secrets.extend(digests.into_iter().map(|(digest, until)| Secret {
            digest,
            subject,
            until: until.unwrap_or(Wall(i64::MAX)),
            key,
            entitlement,
        }));
    }

    fn intern(&mut self, one: &Entitlement) -> u32 {
        let entitlements = &mut self.keys.entitlements;
        *self.interned.entry(*one).or_insert_with(|| {
            entitlements.push(*one);
            // There are no more of them than keys.
            u32::try_from(entitlements.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// The table. `between` is called between pieces of the work, of which each takes some tenth of a millisecond.
    pub fn build(self, between: &dyn Fn()) -> Result<Keys, SharedSecret> {
        let KeysBuilder { mut keys, interned, renewed } = self;
        drop(interned);
        if !renewed.is_empty() {
            let mut at = 0;
            keys.secrets.retain(|secret| {
                at += 1;
                renewed.get(&secret.key).is_none_or(|from| at > *from)
            });
        }
        // In place: a second table of a million secrets would be the peak of a reload.
        sort(&mut keys.secrets, 0, between);
        if let Some(shared) = shared(&keys.secrets, between) {
            return Err(shared);
        }
        keys.rows.shrink_to_fit();
        keys.ids.shrink_to_fit();
        keys.entitlements.shrink_to_fit();
        keys.secrets.shrink_to_fit();
        keys.directory = Directory::of(&keys.secrets, between);
        Ok(keys)
    }
}

/// Secrets that are compared with one another, and digest bytes by which they are parted before.
const FEW: usize = 64;
const PARTED: usize = 4;
/// Secrets that are looked at or moved in one piece of work: where they are far apart, each is a wait for memory.
const PIECE: usize = 1024;

/// Sorts by digest, of which all have the same first `parted` bytes, then by key. Digests are uniform, so that a byte parts
/// them evenly: a million take a fifth of the instructions that comparing each with twenty others takes.
fn sort(secrets: &mut [Secret], parted: usize, between: &dyn Fn()) {
    if secrets.len() <= FEW || parted == PARTED {
        return secrets.sort_unstable_by(|a, b| a.digest.cmp(&b.digest).then(a.key.cmp(&b.key)));
    }
    let byte = |secret: &Secret| usize::from(secret.digest.0[parted]);
    let mut ends = [0; 256];
    for piece in secrets.chunks(PIECE) {
        for secret in piece {
            ends[byte(secret)] += 1;
        }
        between();
    }
    let (mut next, mut end) = ([0; 256], 0);
    for (next, length) in next.iter_mut().zip(&mut ends) {
        *next = end;
        end += *length;
        *length = end;
    }
    let mut steps = 0usize;
    for part in 0..ends.len() {
        while next[part] < ends[part] {
            let at = next[part];
            let to = byte(&secrets[at]);
            if to != part {
                secrets.swap(at, next[to]);
            }
            next[to] += 1;
            steps += 1;
            if steps.is_multiple_of(PIECE) {
                between();
            }
        }
    }
    let mut rest = secrets;
    let mut begin = 0;
    for end in ends {
        let (part, others) = rest.split_at_mut(end - begin);
        sort(part, parted + 1, between);
        (rest, begin) = (others, end);
    }
}

/// The first secret of two keys, of secrets in their order.
fn shared(secrets: &[Secret], between: &dyn Fn()) -> Option<SharedSecret> {
    let mut rest = secrets;
    while rest.len() > 1 {
        let piece = &rest[..rest.len().min(PIECE)];
        if let Some(pair) = piece.windows(2).find(|pair| pair[0].digest == pair[1].digest) {
            return Some(SharedSecret { first: pair[0].key, second: pair[1].key });
        }
        // The last of a piece is also the first of the next.
        rest = &rest[piece.len() - 1..];
        between();
    }
    None
}

impl Keys {
    /// Begins to bring the secret with this digest, if it is anybody's, and tells where it is: first what is known at once,
    /// then what must be read. Two that are told apart, because of one value of both the first part would wait for the second.
    pub fn near(&self, digest: &SecretDigest, tell: impl Fn(Near)) {
        if self.secrets.len() > FEW_NEAR
            && let Some(about) = self.directory.about(digest)
        {
            tell(Near::About(about));
        }
        if let Some(at) = self.directory.begin_of(digest).and_then(|at| u32::try_from(at).ok()) {
            self.approach(SecretIx(at), tell);
        }
    }

    /// Begins to bring the secret at this place, and tells of it.
    pub fn approach(&self, place: SecretIx, tell: impl Fn(Near)) {
        if let Some(secret) = self.secrets.get(place.0 as usize) {
            fetch::ahead(secret);
        }
        tell(Near::At(place));
    }

    /// Begins to bring what a record says of this key: its row.
    pub fn approach_row(&self, ix: KeyIx) {
        if let Some(row) = self.rows.get(ix.0 as usize) {
            fetch::ahead(row);
        }
    }

    /// Begins to bring the id of this key, whose row was asked for before.
    pub fn approach_id(&self, ix: KeyIx) {
        let row = self.rows.get(ix.0 as usize);
        if let Some(id) = row.and_then(|row| self.ids.as_bytes().get(row.id_at)) {
            fetch::ahead(id);
        }
    }

    /// The key with this secret, whatever its state.
    pub fn find(&self, digest: &SecretDigest) -> Option<Found<'_>> {
        let from = self.directory.begin_of(digest)?;
        let (at, secret) = (from..)
            .zip(self.secrets.get(from..)?)
            .take_while(|(_, secret)| secret.digest.first() <= digest.first())
            .find(|(_, secret)| secret.digest == *digest)?;
        Some(self.found(SecretIx(u32::try_from(at).unwrap_or(u32::MAX)), secret))
    }

    /// The key with this secret, if the secret is at this place.
    pub fn find_at(&self, place: SecretIx, digest: &SecretDigest) -> Option<Found<'_>> {
        let secret = self.secrets.get(place.0 as usize)?;
        (secret.digest == *digest).then(|| self.found(place, secret))
    }

    fn found(&self, place: SecretIx, secret: &Secret) -> Found<'_> {
        Found {
            ix: secret.key,
            secret: place,
            subject: secret.subject,
            entitled: &self.entitlements[secret.entitlement as usize],
            until: secret.until,
        }
    }

    /// The digest of the secret at a place of this table.
    pub fn digest(&self, place: SecretIx) -> SecretDigest {
        self.secrets[place.0 as usize].digest
    }

    /// The key at `ix`.
    pub fn at(&self, ix: KeyIx) -> Key<'_> {
        let at = ix.0 as usize;
        let row = &self.rows[at];
        let end = self.rows.get(at + 1).map_or(self.ids.len(), |next| next.id_at);
        Key {
            id: &self.ids[row.id_at..end],
            subject: row.subject,
            entitlement: &self.entitlements[row.entitlement as usize],
        }
    }

    /// All keys, in the order of their files.
    pub fn iter(&self) -> impl Iterator<Item = Key<'_>> {
        (0..).map(KeyIx).take(self.rows.len()).map(|ix| self.at(ix))
    }

    /// What each key is good for, in the order of their files.
    pub fn entitlements(&self) -> impl Iterator<Item = &Entitlement> {
        self.rows.iter().map(|row| &self.entitlements[row.entitlement as usize])
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const LIVE: Entitlement = Entitlement {
        tenant: TenantIx(0),
        plan: PlanIx(0),
        grant: GrantIx(0),
        terms: TermsIx(0),
        allow: None,
        not_before: None,
        expires: None,
        status: KeyStatus::Live,
    };

    fn key(id: &str) -> Key<'_> {
        Key { id, subject: SubjectKey(id.len() as u128), entitlement: &LIVE }
    }

    fn digest(n: u32) -> SecretDigest {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
        bytes[31] = 1;
        SecretDigest(bytes)
    }

    #[test]
    fn every_secret_leads_to_its_key_and_no_other_digest_leads_anywhere() {
        for many in [0u32, 1, 2, 3, 100, 1_000] {
            let mut builder = KeysBuilder::default();
            let ids: Vec<String> = (0..many).map(|n| format!("k{n}")).collect();
            for (n, id) in (0..).zip(&ids) {
                builder.push(&key(id), [(digest(n), None)]);
            }
            let keys = builder.build(&|| ()).unwrap();
            for n in 0..many {
                let found = keys.find(&digest(n)).unwrap();
                assert_eq!((found.ix, keys.at(found.ix).id), (KeyIx(n), &*ids[n as usize]));
            }
            assert!(keys.find(&digest(many)).is_none());
            let mut near = digest(0);
            near.0[31] = 2;
            assert!(keys.find(&near).is_none(), "all of a digest is compared");
            assert!(keys.iter().map(|key| key.id).eq(ids.iter().map(String::as_str)));
        }
    }

    #[test]
    fn digests_that_crowd_in_one_place_are_found_all_the_same() {
        let mut builder = KeysBuilder::default();
        let crowded = |n: u32| {
            let mut digest = digest(7);
            digest.0[28..].copy_from_slice(&n.to_be_bytes());
            digest
        };
        for n in 0..1_000 {
            builder.push(&key("k"), [(crowded(2 * n + 1), None), (digest(n), None)]);
        }
        let keys = builder.build(&|| ()).unwrap();
        for n in 0..1_000 {
            let found = |digest| keys.find(&digest).map(|found| found.ix);
            assert_eq!(found(crowded(2 * n + 1)), Some(KeyIx(n)));
            assert_eq!(found(crowded(2 * n)), None);
            assert_eq!(found(digest(n)), Some(KeyIx(n)));
        }
    }

    #[test]
    fn secrets_come_into_their_order_whatever_their_first_bytes_are() {
        // All apart, all alike, and alike but for a byte in the middle.
        let digests: [fn(u32) -> u32; 3] =
            [|n| n.wrapping_mul(0x9e37_79b9), |_| 5, |n| (n % 7) << 16];
        for first in digests {
            let mut secrets: Vec<Secret> = (0..5000u32)
                .map(|n| {
                    let mut bytes = [0; 32];
                    bytes[..4].copy_from_slice(&first(n).to_be_bytes());
                    bytes[4] = n.to_le_bytes()[0];
                    Secret {
                        digest: SecretDigest(bytes),
                        subject: SubjectKey(0),
                        until: Wall(0),
                        key: KeyIx(5000 - n),
                        entitlement: 0,
                    }
                })
                .collect();
            let place = |secret: &Secret| (secret.digest, secret.key);
            let mut expected: Vec<_> = secrets.iter().map(place).collect();
            expected.sort_unstable();
            sort(&mut secrets, 0, &|| ());
            assert!(secrets.iter().map(place).eq(expected));
        }
    }

    #[test]
    fn a_shared_secret_is_found_wherever_it_stands() {
        let secrets = |shared: Option<usize>| -> Vec<Secret> {
            let number = |n: usize| u32::try_from(n).unwrap();
            let digest = |n: usize| number(n - usize::from(shared.is_some_and(|at| n > at)));
            let secret = |n: usize| {
                let mut bytes = [0; 32];
                bytes[..4].copy_from_slice(&digest(n).to_be_bytes());
                let digest = SecretDigest(bytes);
                let (subject, until) = (SubjectKey(0), Wall(0));
                Secret { digest, subject, until, key: KeyIx(number(n)), entitlement: 0 }
            };
            (0..3 * PIECE).map(secret).collect()
        };
        for at in [0, PIECE - 2, PIECE - 1, PIECE, 2 * PIECE - 2, 3 * PIECE - 2] {
            let key = |n: usize| KeyIx(u32::try_from(n).unwrap());
            let told = SharedSecret { first: key(at), second: key(at + 1) };
            assert_eq!(shared(&secrets(Some(at)), &|| ()), Some(told));
        }
        assert_eq!(shared(&secrets(None), &|| ()), None);
        assert_eq!(shared(&[], &|| ()), None);
    }

    #[test]
    fn a_secret_of_two_keys_is_told_with_the_first_of_them_first() {
        let mut builder = KeysBuilder::default();
        builder.push(&key("a"), [(digest(1), None)]);
        builder.push(&key("b"), [(digest(2), None), (digest(1), None)]);
        let told = builder.build(&&|| ()).unwrap_err();
        assert_eq!(told, SharedSecret { first: KeyIx(0), second: KeyIx(1) });
    }

    #[test]
    fn a_key_that_is_given_anew_has_its_new_secrets_only() {
        let mut builder = KeysBuilder::default();
        let a = builder.push(&key("a"), [(digest(1), None), (digest(2), None)]);
        builder.push(&key("b"), [(digest(3), None)]);
        let over = Entitlement { status: KeyStatus::Revoked, ..LIVE };
        let revoked = Key { entitlement: &over, ..key("a") };
        builder.replace(a, &revoked, [(digest(2), Some(Wall(5)))]);
        let keys = builder.build(&|| ()).unwrap();
        assert!(keys.find(&digest(1)).is_none());
        let found = keys.find(&digest(2)).unwrap();
        assert_eq!((found.ix, found.until), (a, Wall(5)));
        assert_eq!(
            (found.entitled.status, keys.at(a).entitlement.status),
            (KeyStatus::Revoked, KeyStatus::Revoked)
        );
        assert!(keys.find(&digest(3)).is_some());
    }

    #[test]
    fn the_place_of_a_secret_is_guessed_to_within_a_few_where_there_are_many() {
        let mut builder = KeysBuilder::default();
        let digests = || (0..40_000u32).map(|n| SecretDigest::sha256(&n.to_be_bytes()));
        for digest in digests() {
            builder.push(&key("k"), [(digest, None)]);
        }
        let keys = builder.build(&|| ()).unwrap();
        let is_off = |digest: &SecretDigest| {
            let told = RefCell::new(Vec::new());
            keys.near(digest, |near| told.borrow_mut().push(near));
            let [Near::About(about), Near::At(at)] = told.into_inner()[..] else {
                panic!("first what is known at once, then what must be read");
            };
            about.0.abs_diff(at.0) > 7
        };
        assert!(digests().filter(is_off).count() < 2_000);
    }

    #[test]
    fn what_a_request_reads_of_a_key_is_a_cache_line_a_table() {
        assert_eq!(size_of::<Secret>(), 64);
        assert_eq!(size_of::<Entitlement>(), 64);
    }
}
