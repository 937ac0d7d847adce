//! Step 5: whose request this is. The table of keys is asked first; a credential's form only chooses the word after a miss.

use super::head::Head;
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
    /// Digest of the secret that was presented, by which an open exchange is looked up again after a reload.
    pub secret: SecretDigest,
    /// That secret's place in this policy.
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

/// Finds the caller of a request. What its connection presented last under this same snapshot is in `recall`, and so is
/// what this one presents when it was looked for. Where its secret is, or nearly, is told to `approach` before the secret is
/// read, so that what is kept by its place can be on its way from memory meanwhile.
pub fn authenticate(
    snapshot: &Snapshot,
    overlay: &Overlay,
    head: &Head<'_>,
    recall: &mut Recall,
    now: Wall,
    approach: impl Fn(Near),
) -> Result<Caller, Stranger> {
    let credentials = &snapshot.credentials;
    let nobody = |refused| Stranger { refused, key: None };
    let look_up = |digest: &SecretDigest| {
        snapshot.keys.near(digest, &approach);
        by_digest(snapshot, overlay, digest, now)
    };
    let again = |known: &Recalled| {
        let Recalled { digest, place, stranger } = known;
        if let Some(place) = *place {
            approach(Near::At(place));
            if let Some(found) = snapshot.keys.find_at(place, digest) {
                return Some(caller(snapshot, overlay, digest, &found, now));
            }
        }
        // The digest was the first one that a key has, or the last one of those that none has.
        let told = look_up(digest);
        told.or_else(|| stranger.filter(|_| credentials.are_plain()).map(|why| Err(nobody(why))))
    };
    // In the same head stands the same credential: 250 instructions less than to compare it.
    if let Some(told) = recall.of_head(head.mark).and_then(again) {
        return told;
    }
    // Known again by its whole line, where nothing else says who asks: 400 instructions less than to take the line apart.
    let line = credentials.only_line(head.seen.authorization);
    if let Some(told) = line.and_then(|line| recall.of(line)).and_then(again) {
        recall.stands_in(head.mark);
        return told;
    }
    let presented = match line {
        Some(line) => credentials.present_in(line),
        None => credentials.present(head.fields, head.seen.authorization, head.query),
    };
    let presented = presented.map_err(nobody)?;
    let text = line.unwrap_or(presented.as_bytes());
    if line.is_none()
        && let Some(told) = recall.of(text).and_then(again)
    {
        recall.stands_in(head.mark);
        return told;
    }
    for digest in credentials.digests(&presented) {
        recall.keep(text, &digest);
        recall.stands_in(head.mark);
        if let Some(told) = look_up(&digest) {
            if let Ok(caller) = &told {
                recall.is_at(caller.place);
            }
            return told;
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
    Some(caller(snapshot, overlay, secret, &found, now))
}

/// Who has this secret, which was found, if the key is good.
fn caller(
    snapshot: &Snapshot,
    overlay: &Overlay,
    secret: &SecretDigest,
    found: &Found<'_>,
    now: Wall,
) -> Result<Caller, Stranger> {
    match standing(snapshot, overlay, found, now) {
        Some(refused) => Err(Stranger { refused, key: Some(found.ix) }),
        None => Ok(Caller {
            key: found.ix,
            secret: *secret,
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
