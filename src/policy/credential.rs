//! Where a request carries its key, and what a key looks like.

use http::HeaderName;

use super::Name;

/// Where credentials are looked for, and how their digests are made.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The places, in the order of the policy.
    pub places: Vec<Place>,
    /// What secrets made here start with; a value with this prefix and a wrong checksum is a typo, not a stranger.
    pub prefixes: Vec<Box<str>>,
    /// Peppers for HMAC digests, the current first. Empty: plain SHA-256.
    pub peppers: Vec<Pepper>,
    /// The realm of `WWW-Authenticate`.
    pub realm: Box<str>,
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
