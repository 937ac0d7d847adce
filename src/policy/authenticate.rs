//! Step 5: whose request this is. The table of keys is asked first; a credential's form only chooses the word after a miss.

use super::head::{Head, Seen, Unchecked};
use super::keys::{Found, KeyIx, KeyStatus, Near, SecretDigest, SecretIx};
use super::limit::SubjectKey;
use super::overlay::Overlay;
use super::recall::{Recall, Recalled};
use super::refusal::{Refusal, Refused};
use super::snapshot::{AddressRule, GrantIx, PlanIx, Snapshot, Standing, TenantIx, TermsIx};
use crate::clock::Wall;

/// Who asks: a key that is good now, of a tenant that is active. Made here only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "the private field keeps the making of it to this file"
)]
pub struct Caller {
    /// The key.
    pub key: KeyIx,
    /// The place in this policy of the secret that was presented.
    pub place: SecretIx,
    /// Who pays.
    pub tenant: TenantIx,
    /// The key's plan, or its tenant's.
    pub plan: PlanIx,
    /// What it may do.
    pub grant: GrantIx,
    /// Its ceilings.
    pub terms: TermsIx,
    /// The hash of the key's id, for limits `per: key`.
    pub subject: SubjectKey,
    /// The key's own allowlist.
    pub allow: Option<AddressRule>,
    _made_here: (),
}

/// A failed authentication, with the key where there is one: known keys that are refused are an alert of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Why.
    pub refused: Refused,
    /// The key that was presented and is not good now.
    pub key: Option<KeyIx>,
}

/// Whether what is remembered of a connection is what its request presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// It is.
    This,
    /// It is not, or to find that out takes more than a look.
    NotKnown,
}

/// Begins to bring from memory what a request's secret leads to, before anything of the request is decided: it comes while the
/// head is read and the route is found. What is kept by the secret's place can be brought by whom it is told to. Decides nothing;
/// the digest that it may make stays in `recall`. Of a decision's wait for memory it hides some 40 ns with ten thousand keys and
/// 60 with a million.
pub fn approach(
    snapshot: &Snapshot,
    (head, seen): (&Unchecked<'_>, &Seen<'_>),
    recall: &mut Recall,
    tell: impl Fn(Near),
) -> Remembered {
    let Unchecked { fields, mark, .. } = *head;
    // In the same head stands the same credential: 250 instructions less than to compare it.
    if recall.of_head(mark).is_none() {
        let credentials = &snapshot.credentials;
        let Some(line) = credentials.only_line(fields, seen.authorization) else {
            return Remembered::NotKnown;
        };
        // Known again by its whole line, where nothing else says who asks: 400 instructions less than to take the line apart.
        if recall.of(line).is_none() {
            if !credentials.are_plain() || !Recall::has_room_for(line) {
                return Remembered::NotKnown;
            }
            let Ok(presented) = credentials.present_in(line) else { return Remembered::NotKnown };
            recall.keep(line, &SecretDigest::sha256(presented.as_bytes()));
        }
        recall.stands_in(mark);
    }
    match recall.latest() {
        Recalled { place: Some(place), .. } => snapshot.keys.approach(*place, tell),
        Recalled { place: None, digest, .. } => snapshot.keys.near(digest, tell),
    }
    Remembered::This
}

/// Finds the caller of a request. What its connection presented last under this same snapshot is in `recall`, and so is
/// what this one presents when it was looked for; whether they are the same was found by [`approach`].
pub fn authenticate(
    snapshot: &Snapshot,
    overlay: &Overlay,
    head: &Head<'_>,
    (recall, remembered): (&mut Recall, Remembered),
    now: Wall,
) -> Result<Caller, Stranger> {
    let told = match remembered {
        Remembered::This => again(snapshot, overlay, recall.latest(), now),
        Remembered::NotKnown => None,
    };
    let told = match told {
        Some(told) => told,
        None => anew(snapshot, overlay, head, recall, now),
    };
    if let Ok(caller) = &told {
        recall.is_at(caller.place);
    }
    told
}

/// What is said to the secret that is remembered; `None` where that is not known yet.
#[expect(
    clippy::inline_always,
    reason = "out of line it writes a result to memory that its caller reads at once in larger pieces, and waits for"
)]
#[inline(always)]
fn again(
    snapshot: &Snapshot,
    overlay: &Overlay,
    known: &Recalled,
    now: Wall,
) -> Option<Result<Caller, Stranger>> {
    let Recalled { digest, place, stranger } = known;
    let found = match place.and_then(|place| snapshot.keys.find_at(place, digest)) {
        // The digest was the first one that a key has, or the last one of those that none has.
        None => snapshot.keys.find(digest),
        found => found,
    };
    if let Some(found) = found {
        return Some(caller(snapshot, overlay, &found, now));
    }
    let refused = stranger.filter(|_| snapshot.credentials.are_plain())?;
    Some(Err(Stranger { refused, key: None }))
}

/// Finds the caller by what the head presents.
fn anew(
    snapshot: &Snapshot,
    overlay: &Overlay,
    head: &Head<'_>,
    recall: &mut Recall,
    now: Wall,
) -> Result<Caller, Stranger> {
    let credentials = &snapshot.credentials;
    let nobody = |refused| Stranger { refused, key: None };
    let line = credentials.only_line(head.fields, head.seen.authorization);
    let presented = match line {
        Some(line) => credentials.present_in(line),
        None => credentials.present(head.fields, head.seen.authorization, head.query),
    };
    let presented = presented.map_err(|unfit| nobody(unfit.into()))?;
    let text = line.unwrap_or(presented.as_bytes());
    let known = recall.of(text);
    let is_known = known.is_some();
    if let Some(told) = known.and_then(|known| again(snapshot, overlay, known, now)) {
        recall.stands_in(head.mark);
        return told;
    }
    // Where there is one way only to make a digest, one that is known was looked for just now.
    if !(is_known && credentials.are_plain()) {
        for digest in credentials.digests(&presented) {
            recall.keep(text, &digest);
            recall.stands_in(head.mark);
            if let Some(told) = by_digest(snapshot, overlay, &digest, now) {
                return told;
            }
        }
    }
    let refused = credentials.unknown(&presented);
    recall.is_strangers(refused);
    Err(nobody(refused))
}

/// The caller with this secret; `None` where no key has it. Also asked about exchanges that are open for long.
pub fn by_digest(
    snapshot: &Snapshot,
    overlay: &Overlay,
    secret: &SecretDigest,
    now: Wall,
) -> Option<Result<Caller, Stranger>> {
    let found = snapshot.keys.find(secret)?;
    Some(caller(snapshot, overlay, &found, now))
}

/// Who has this secret, which was found, if the key is good.
#[expect(
    clippy::inline_always,
    reason = "out of line it writes a result to memory that its caller reads at once in larger pieces, and waits for"
)]
#[inline(always)]
fn caller(
    snapshot: &Snapshot,
    overlay: &Overlay,
    found: &Found<'_>,
    now: Wall,
) -> Result<Caller, Stranger> {
    match standing(snapshot, overlay, found, now) {
        Some(refused) => Err(Stranger { refused, key: Some(found.ix) }),
        None => Ok(Caller {
            key: found.ix,
            place: found.secret,
            tenant: found.entitled.tenant,
            plan: found.entitled.plan,
            grant: found.entitled.grant,
            terms: found.entitled.terms,
            subject: found.subject,
            allow: found.entitled.allow,
            _made_here: (),
        }),
    }
}

/// Why this key is not good now, if it is not.
fn standing(
    snapshot: &Snapshot,
    overlay: &Overlay,
    found: &Found<'_>,
    now: Wall,
) -> Option<Refused> {
    let because = |why, detail| Some(Refused::because(why, detail));
    let key = found.entitled;
    if key.status == KeyStatus::Revoked {
        return because(Refusal::KeyRevoked, "the key was revoked");
    }
    if overlay.revoked(found.subject).is_some() {
        return because(Refusal::KeyRevoked, "the key was revoked at run time");
    }
    if found.until <= now {
        return because(
            Refusal::KeyRevoked,
            "the key was rotated and this secret's overlap has ended",
        );
    }
    if key.not_before.is_some_and(|from| now < from) {
        return because(Refusal::KeyNotYet, "the key is not valid yet");
    }
    if key.expires.is_some_and(|end| end <= now) {
        return because(Refusal::KeyExpired, "the key has expired");
    }
    if snapshot.tenant(key.tenant).standing == Standing::Inactive {
        return because(Refusal::TenantInactive, "the tenant is not active");
    }
    None
}
