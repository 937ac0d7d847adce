//! Where a request carries its key, and what a key looks like.

use std::borrow::Cow;

use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderName;
use sha2::{Digest, Sha256};

use super::Name;
use super::challenge::Challenges;
use super::fields::{Fields, Lines};
use super::head::query_parameters;
use super::keys::SecretDigest;
use super::plain::is_plain_word;
use super::refusal::{Refusal, Refused};

/// Where credentials are looked for, and how their digests are made.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The places, in the order of the policy.
    pub places: Vec<Place>,
    /// What secrets made here start with; a value with this prefix and a wrong checksum is a typo, not a stranger.
    pub prefixes: Vec<Box<str>>,
    /// Peppers for HMAC digests, the current first. Empty: plain SHA-256.
    pub peppers: Vec<Pepper>,
    /// `WWW-Authenticate`.
    pub challenges: Challenges,
}

/// One place where a credential may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer <key>` (RFC 6750 §2.1).
    Bearer,
    /// `Authorization: <key>`. Where `Bearer` or `Basic` is accepted too, a scheme is looked for first.
    Authorization,
    /// `Authorization: Basic …` (RFC 7617): the password is the key, or the user where the password is empty.
    Basic,
    /// A header of its own.
    Header(HeaderName),
    /// A query parameter, compared exactly after percent-decoding; removed before forwarding.
    Query(Name),
}

/// A secret that digests are keyed with. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Pepper(pub Box<[u8]>);

impl std::fmt::Debug for Pepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// A credential as a request presents it. Borrowed where it stands in the head.
#[derive(PartialEq, Eq)]
pub struct Presented<'a>(Cow<'a, [u8]>);

impl Presented<'_> {
    /// The secret.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Presented(…)")
    }
}

/// Why nothing is presented that can be a key. A byte, which fits beside what is presented: a whole [`Refused`] in its place is
/// handed on by way of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// None in any accepted place.
    Missing,
    /// More than one `Authorization` line.
    Lines,
    /// Two that differ.
    Two,
    /// Too long, or not one printable word.
    NoWord,
    /// `Basic` with something else than base64 of `user:password`.
    NoPair,
}

impl From<Unfit> for Refused {
    fn from(unfit: Unfit) -> Refused {
        let (why, detail) = match unfit {
            Unfit::Missing => (Refusal::KeyMissing, "no credential in any accepted place"),
            Unfit::Lines => (Refusal::BadRequest, "more than one Authorization"),
            Unfit::Two => (Refusal::KeyMalformed, "two credentials that differ"),
            Unfit::NoWord => {
                (Refusal::KeyMalformed, "a credential that is no single printable word")
            }
            Unfit::NoPair => {
                let detail = "Basic credentials that are not base64 of user:password";
                (Refusal::KeyMalformed, detail)
            }
        };
        Refused::because(why, detail)
    }
}

/// Longest credential that is looked at, in bytes: no key is longer, and a digest of 60 KiB is work for nothing.
const LONGEST: usize = 1024;

impl Credentials {
    /// The one credential of a request. None anywhere is `KeyMissing`; two that differ, or one that cannot be a key,
    /// is `KeyMalformed`; two `Authorization` lines are no request at all (RFC 6750 §3.1, `invalid_request`).
    pub fn present<'a>(
        &self,
        fields: Fields<'a>,
        authorization: Lines<'a>,
        query: Option<&str>,
    ) -> Result<Presented<'a>, Unfit> {
        let mut found: Option<Cow<'a, [u8]>> = None;
        let mut offer = |value: Cow<'a, [u8]>| match &found {
            Some(first) if *first != value => Err(Unfit::Two),
            _ => {
                found = Some(value);
                Ok(())
            }
        };
        if self.reads_authorization() {
            let line = match authorization {
                Lines::None => None,
                Lines::One(line) => Some(line),
                Lines::Several(_) => return Err(Unfit::Lines),
            };
            if let Some(value) = line.map_or(Ok(None), |line| self.authorization(line))? {
                offer(value)?;
            }
        }
        for place in &self.places {
            match place {
                Place::Bearer | Place::Authorization | Place::Basic => {}
                Place::Header(name) => {
                    for value in fields.all(name.as_str()).filter_map(own_line) {
                        offer(Cow::Borrowed(value))?;
                    }
                }
                Place::Query(name) => {
                    for (_, value) in query_parameters(query.unwrap_or(""))
                        .filter(|(given, value)| given == name.as_bytes() && !value.is_empty())
                    {
                        offer(Cow::Owned(value))?;
                    }
                }
            }
        }
        word(found)
    }

    /// As [`Credentials::present`], where this is the [`Credentials::only_line`].
    pub(super) fn present_in<'a>(&self, line: &'a [u8]) -> Result<Presented<'a>, Unfit> {
        match *self.places {
            [Place::Header(_)] => word(own_line(line).map(Cow::Borrowed)),
            _ => word(self.authorization(line)?),
        }
    }

    /// Whether the `Authorization` header is the gate's to read and to remove.
    pub fn reads_authorization(&self) -> bool {
        self.places
            .iter()
            .any(|place| matches!(place, Place::Bearer | Place::Authorization | Place::Basic))
    }

    /// The one line in which this request's credential can stand; `None` where there are more, or several places are looked
    /// at. What [`Credentials::present`] says then follows from it alone.
    pub fn only_line<'a>(&self, fields: Fields<'a>, authorization: Lines<'a>) -> Option<&'a [u8]> {
        let is_other = |place: &Place| matches!(place, Place::Header(_) | Place::Query(_));
        let lines = match &*self.places {
            [Place::Header(name)] => fields.lines(name.as_str()),
            places if places.iter().any(is_other) => Lines::None,
            _ => authorization,
        };
        match lines {
            Lines::One(line) => Some(line),
            Lines::None | Lines::Several(_) => None,
        }
    }

    /// What an `Authorization` line presents.
    #[expect(
        clippy::inline_always,
        reason = "three words are handed on through memory otherwise, and waited for"
    )]
    #[inline(always)]
    fn authorization<'a>(&self, line: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, Unfit> {
        let line = line.trim_ascii();
        let accepts = |is_it: fn(&Place) -> bool| self.places.iter().any(is_it);
        // A scheme is looked for first, so that `Bearer abc` is never taken for the raw key "Bearer abc".
        if accepts(|place| matches!(place, Place::Bearer))
            && let Some(token) = after_scheme(line, b"Bearer")
        {
            return Ok((!token.is_empty()).then_some(Cow::Borrowed(token)));
        }
        if accepts(|place| matches!(place, Place::Basic))
            && let Some(encoded) = after_scheme(line, b"Basic")
        {
            return basic_key(encoded).map(Some);
        }
        let raw = accepts(|place| matches!(place, Place::Authorization)) && !line.is_empty();
        Ok(raw.then_some(Cow::Borrowed(line)))
    }

    /// The digests under which this credential may be stored, the likeliest first.
    pub fn digests<'a>(
        &'a self,
        presented: &'a Presented<'_>,
    ) -> impl Iterator<Item = SecretDigest> + 'a {
        let peppered = self.peppers.iter().map(|pepper| SecretDigest::hmac(pepper, &presented.0));
        peppered.chain(std::iter::once_with(|| SecretDigest::sha256(&presented.0)))
    }

    /// Whether there is one way only to make a digest, [`SecretDigest::sha256`].
    pub fn are_plain(&self) -> bool {
        self.peppers.is_empty()
    }

    /// The word for a credential that no key has: a typo in one of ours, or a stranger's.
    pub fn unknown(&self, presented: &Presented<'_>) -> Refused {
        let ours = self
            .prefixes
            .iter()
            .any(|prefix| !prefix.is_empty() && presented.0.starts_with(prefix.as_bytes()));
        let text = std::str::from_utf8(&presented.0).unwrap_or("");
        if ours && !has_checksum(text) {
            Refused::because(
                Refusal::KeyMalformed,
                "the key's checksum is wrong: a typo or a cut-off copy",
            )
        } else {
            Refused::because(Refusal::KeyUnknown, "no key has this secret")
        }
    }
}

/// What was found, if it can be a key.
#[expect(
    clippy::inline_always,
    reason = "three words are handed on through memory otherwise, and waited for"
)]
#[inline(always)]
fn word(found: Option<Cow<'_, [u8]>>) -> Result<Presented<'_>, Unfit> {
    let value = found.ok_or(Unfit::Missing)?;
    if value.len() > LONGEST || !is_plain_word(&value) {
        return Err(Unfit::NoWord);
    }
    Ok(Presented(value))
}

/// What a line of a header of its own presents, if anything.
fn own_line(line: &[u8]) -> Option<&[u8]> {
    Some(line.trim_ascii()).filter(|value| !value.is_empty())
}

/// What follows `scheme`, in any case, and at least one space; an empty slice for the scheme alone.
fn after_scheme<'a, const N: usize>(line: &'a [u8], scheme: &[u8; N]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_first_chunk::<N>()?;
    // As nearly all write it: less than to fold each letter.
    if start != scheme && !start.eq_ignore_ascii_case(scheme) {
        return None;
    }
    match rest.first() {
        None => Some(rest),
        Some(b' ' | b'\t') => Some(rest.trim_ascii_start()),
        Some(_) => None,
    }
}

/// The key inside `user:password` (RFC 7617 §2): the password, or the user where that is empty.
fn basic_key<'a>(encoded: &[u8]) -> Result<Cow<'a, [u8]>, Unfit> {
    let decoded =
        base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|_| Unfit::NoPair)?;
    let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Unfit::NoPair)?;
    let (user, password) = (&decoded[..colon], &decoded[colon + 1..]);
    Ok(Cow::Owned(if password.is_empty() { user.to_vec() } else { password.to_vec() }))
}

impl SecretDigest {
    /// SHA-256 of a secret.
    pub fn sha256(secret: &[u8]) -> SecretDigest {
        SecretDigest(Sha256::digest(secret).into())
    }

    /// HMAC-SHA-256 of a secret under a pepper.
    pub fn hmac(pepper: &Pepper, secret: &[u8]) -> SecretDigest {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&pepper.0).expect("HMAC takes a key of any length");
        mac.update(secret);
        SecretDigest(mac.finalize().into_bytes().into())
    }
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The six base62 digits that end a secret: CRC-32 of everything before them, zero-padded.
pub fn checksum(text: &str) -> [u8; 6] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// Whether `text` ends in its own checksum.
pub fn has_checksum(text: &str) -> bool {
    text.len()
        .checked_sub(6)
        .and_then(|cut| text.split_at_checked(cut))
        .is_some_and(|(before, digits)| checksum(before) == digits.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::fields::Field;
    use super::*;

    fn accepting(places: &[Place]) -> Credentials {
        Credentials {
            places: places.to_vec(),
            prefixes: vec!["sp_".into()],
            peppers: vec![],
            challenges: Challenges::new("api", places),
        }
    }

    fn presented(
        places: &[Place],
        lines: &[(&'static str, &'static str)],
    ) -> Result<String, Refusal> {
        let field =
            |(name, value): &(&'static str, &'static str)| Field { name, value: value.as_bytes() };
        let lines: Vec<Field<'_>> = lines.iter().map(field).collect();
        let fields = Fields(&lines);
        let got = accepting(places).present(fields, fields.lines("authorization"), None);
        got.map(|p| String::from_utf8(p.0.to_vec()).unwrap())
            .map_err(|unfit| Refused::from(unfit).why)
    }

    #[test]
    fn bearer_wants_the_scheme_and_a_value() {
        let bearer = [Place::Bearer];
        assert_eq!(presented(&bearer, &[("authorization", "Bearer abc")]), Ok("abc".into()));
        assert_eq!(presented(&bearer, &[("authorization", "bEARER   abc ")]), Ok("abc".into()));
        for nothing in ["Bearer", "Bearer  ", "abc", "Basic YTpi", "Bearerabc", ""] {
            let lines: &[(&'static str, &'static str)] = &[("authorization", nothing)];
            assert_eq!(presented(&bearer, lines), Err(Refusal::KeyMissing), "{nothing:?}");
        }
        assert_eq!(
            presented(&bearer, &[("authorization", "Bearer a b")]),
            Err(Refusal::KeyMalformed)
        );
        assert_eq!(presented(&bearer, &[]), Err(Refusal::KeyMissing));
    }

    #[test]
    fn where_raw_and_bearer_are_accepted_a_scheme_is_looked_for_first() {
        let both = [Place::Authorization, Place::Bearer];
        assert_eq!(presented(&both, &[("authorization", "Bearer abc")]), Ok("abc".into()));
        assert_eq!(presented(&both, &[("authorization", "abc")]), Ok("abc".into()));
    }

    #[test]
    fn two_places_with_two_values_are_refused_and_with_one_value_are_one() {
        let places = [Place::Bearer, Place::Header(HeaderName::from_static("x-api-key"))];
        let lines = [("authorization", "Bearer a"), ("x-api-key", "b")];
        assert_eq!(presented(&places, &lines), Err(Refusal::KeyMalformed));
        assert_eq!(
            presented(&places, &[("authorization", "Bearer a"), ("x-api-key", "a")]),
            Ok("a".into())
        );
        assert_eq!(
            presented(&places, &[("x-api-key", "a"), ("x-api-key", "b")]),
            Err(Refusal::KeyMalformed)
        );
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer a")];
        assert_eq!(presented(&places, &twice), Err(Refusal::BadRequest));
    }

    #[test]
    fn basic_takes_the_password_or_else_the_user() {
        let basic = [Place::Basic];
        assert_eq!(presented(&basic, &[("authorization", "Basic dTpw")]), Ok("p".into()));
        assert_eq!(presented(&basic, &[("authorization", "Basic dTo=")]), Ok("u".into()));
        assert_eq!(presented(&basic, &[("authorization", "Basic %%")]), Err(Refusal::KeyMalformed));
    }

    #[test]
    fn a_query_credential_is_decoded_and_found_by_its_exact_name() {
        let fields = Fields::default();
        let credentials = accepting(&[Place::Query("api_key".into())]);
        let got = credentials.present(fields, Lines::None, Some("x=1&api%5fkey=a%2Bb"));
        assert_eq!(got.unwrap().0.as_ref(), b"a+b");
        assert_eq!(
            credentials.present(fields, Lines::None, Some("API_KEY=a")).unwrap_err(),
            Unfit::Missing
        );
    }

    #[test]
    fn the_checksum_only_chooses_the_word_after_a_miss() {
        let credentials = accepting(&[Place::Bearer]);
        let good = format!("sp_abc{}", std::str::from_utf8(&checksum("sp_abc")).unwrap());
        let why = |text: &str| credentials.unknown(&Presented(Cow::Borrowed(text.as_bytes()))).why;
        assert_eq!(why(&good), Refusal::KeyUnknown);
        assert_eq!(why("sp_abc000000"), Refusal::KeyMalformed);
        assert_eq!(why("imported-from-elsewhere"), Refusal::KeyUnknown);
    }
}
