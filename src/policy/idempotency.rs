//! Idempotency keys: what a client's `Idempotency-Key` must look like, what makes two requests the same, and what a
//! record of the first one says to the second. Records live in the ledger; nothing here remembers.

use std::fmt;

use http::{HeaderMap, HeaderName, Method};
use sha2::{Digest, Sha256};

use super::limit::SubjectKey;

/// The header's name (draft-ietf-httpapi-idempotency-key-header-07 §2).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// On every answer that was given before.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What a route does with idempotency keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRule {
    /// Whether a request may come without one.
    pub demand: Demand,
    /// How long a record lives, in milliseconds from its claim.
    pub keep: i64,
    /// Largest answer body that is kept, in bytes; a larger one is recorded as done and not replayable.
    pub max_answer: usize,
    /// What becomes of a repeat when nobody knows what became of the first.
    pub on_unknown: OnUnknown,
}

/// Whether a request may come without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// It may (`idempotency: accept`).
    Accept,
    /// It may not (`idempotency: require`).
    Require,
}

/// What becomes of a repeat of an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// 409 with a code of its own, until the record's life ends or somebody settles it (the default).
    Refuse,
    /// It is forwarded as a fresh one: the operator's written waiver of "at most once".
    Forward,
}

/// Bounds of all records together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBounds {
    /// Most records.
    pub records: usize,
    /// Most records of one tenant.
    pub per_tenant: usize,
    /// Most bytes of kept answers, heads and bodies together.
    pub bytes: usize,
}

/// A record's name: a hash over the tenant and the key, so that nobody reaches another tenant's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u128);

/// What two requests must share to be the same one, as far as their heads go: a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeadPrint(pub [u8; 32]);

impl fmt::Debug for HeadPrint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeadPrint({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// What two requests must share, as far as their bodies go. Made while a body streams.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BodyPrint {
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of it.
    pub digest: [u8; 32],
}

impl fmt::Debug for BodyPrint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyPrint({} bytes, {:02x}{:02x}…)", self.bytes, self.digest[0], self.digest[1])
    }
}

/// Makes a [`BodyPrint`] of a body as it passes.
#[derive(Clone, Debug, Default)]
pub struct BodyPrinter {
    hasher: Sha256,
    bytes: u64,
}

/// The one text of an `Idempotency-Key`, 1 to 255 visible characters, without quotes around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyText(Box<str>);

/// The header is there and is not one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl KeyText {
    /// The key of a request: a structured-field String, or, as most clients send it, the bare text. `None` without the
    /// header.
    pub fn of(headers: &HeaderMap) -> Result<Option<KeyText>, Malformed> {
        let mut lines = headers.get_all(&IDEMPOTENCY_KEY).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(Malformed("more than one Idempotency-Key"));
        }
        let text = line.to_str().map_err(|_| Malformed("no visible ASCII"))?;
        KeyText::read(text).map(Some)
    }

    fn read(text: &str) -> Result<KeyText, Malformed> {
        let inner = text.trim_matches([' ', '\t']);
        if inner.is_empty() || inner.len() > 255 {
            return Err(Malformed("a key has 1 to 255 characters"));
        }
        Ok(KeyText(inner.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RecordId {
    /// The record of this key of this tenant.
    pub fn of(tenant: SubjectKey, key: &KeyText) -> RecordId {
        let mut hasher = Sha256::new();
        hasher.update(b"idempotency\0");
        hasher.update(tenant.0.to_be_bytes());
        hasher.update(key.as_str().as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize()[..16]);
        RecordId(u128::from_be_bytes(half))
    }
}

impl HeadPrint {
    /// Of the method, the path and query as the client sent them, the content type and the length.
    pub fn of(method: &Method, path_and_query: &str, headers: &HeaderMap) -> HeadPrint {
        let mut hasher = Sha256::new();
        let mut part = |bytes: &[u8]| {
            // With their lengths, so that no two heads run into the same text.
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        part(method.as_str().as_bytes());
        part(path_and_query.as_bytes());
        for name in [http::header::CONTENT_TYPE, http::header::CONTENT_LENGTH] {
            part(headers.get(&name).map_or(&[], http::HeaderValue::as_bytes));
        }
        HeadPrint(hasher.finalize().into())
    }
}

impl BodyPrinter {
    /// Some more of the body.
    pub fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.bytes += data.len() as u64;
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The whole body has passed.
    pub fn finish(self) -> BodyPrint {
        BodyPrint { bytes: self.bytes, digest: self.hasher.finalize().into() }
    }
}
