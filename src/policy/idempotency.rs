//! Idempotency keys: what a client's `Idempotency-Key` must look like, what makes two requests the same, and what a
//! record of the first one says to the second. Records live in the ledger; nothing here remembers.

use std::borrow::Cow;
use std::fmt;

use http::HeaderName;
use sha2::{Digest, Sha256};

use super::credential::{Credentials, Place};
use super::fields::{Lines, printable};
use super::head::{Head, query_parameters};
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

/// SHA-256 of no bytes.
const OF_NOTHING: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// Makes a [`BodyPrint`] of a body as it passes.
#[derive(Clone, Debug, Default)]
pub struct BodyPrinter {
    hasher: Sha256,
    bytes: u64,
}

/// The one text of an `Idempotency-Key`, 1 to 255 characters of printable ASCII, without the quotes around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyText(Box<str>);

/// The header is there and is not one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The longest key, in characters.
const LONGEST: usize = 255;

/// A structured-field Item that is a String (RFC 9651 §3.3.3), its escapes undone. The draft gives it no parameters.
fn quoted(line: &str) -> Result<String, Malformed> {
    let item: sfv::Item = sfv::Parser::new(line)
        .parse()
        .map_err(|_| Malformed("no single structured-field String"))?;
    if !item.params.is_empty() {
        return Err(Malformed("a key has no parameters"));
    }
    match item.bare_item {
        sfv::BareItem::String(text) => Ok(text.into()),
        _ => Err(Malformed("no structured-field String")),
    }
}

/// What most clients send: the text alone. A comma would be two keys that a proxy joined, a semicolon a parameter.
fn bare(line: &str) -> Result<String, Malformed> {
    if line.contains(',') {
        return Err(Malformed("a list of keys"));
    }
    if line.contains(';') {
        return Err(Malformed("a key has no parameters"));
    }
    if line.contains(['"', '\\']) {
        return Err(Malformed("a quote inside a key without quotes around it"));
    }
    Ok(line.to_owned())
}

impl KeyText {
    /// The key that the lines of the field say: a structured-field String, or, as most clients send it, the bare text.
    /// `None` without a line.
    pub fn of(lines: Lines<'_>) -> Result<Option<KeyText>, Malformed> {
        let line = match lines {
            Lines::None => return Ok(None),
            Lines::One(line) => line,
            Lines::Several(_) => return Err(Malformed("more than one Idempotency-Key")),
        };
        let line = printable(line).ok_or(Malformed("a character that is no printable ASCII"))?;
        KeyText::read(line.trim_matches([' ', '\t'])).map(Some)
    }

    fn read(line: &str) -> Result<KeyText, Malformed> {
        if line.contains('\t') {
            return Err(Malformed("a tab inside the key"));
        }
        let inner = if line.starts_with('"') { quoted(line)? } else { bare(line)? };
        if inner.is_empty() {
            return Err(Malformed("an empty key"));
        }
        if inner.len() > LONGEST {
            return Err(Malformed("a key of more than 255 characters"));
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
    /// Of the method, the path and query as the client sent them, the content type and the length. A query parameter
    /// that carries the credential is no part of it: a retry with the tenant's next secret is the same request.
    pub fn of(head: &Head<'_>, credentials: &Credentials) -> HeadPrint {
        let mut hasher = Sha256::new();
        // What ends a part stands in none of them, so that no two heads run into the same text. One byte each, so that
        // most heads are one block of the hash: 3 700 instructions less than two where it is not in hardware.
        hasher.update(head.method.as_str());
        hasher.update(b"\0");
        hasher.update(head.path);
        let query = head.query.map(|query| without_credential(query, credentials));
        if let Some(query) = query.flatten() {
            hasher.update(b"?");
            hasher.update(&*query);
        }
        for name in ["content-type", "content-length"] {
            hasher.update(b"\0");
            for line in head.fields.all(name) {
                hasher.update(line);
                hasher.update(b"\n");
            }
        }
        HeadPrint(hasher.finalize().into())
    }
}

/// A query without the parameters in which a credential is looked for; `None` where it had no other.
fn without_credential<'q>(query: &'q str, credentials: &Credentials) -> Option<Cow<'q, str>> {
    let carries = |name: &[u8]| {
        credentials
            .places
            .iter()
            .any(|place| matches!(place, Place::Query(wanted) if name == wanted.as_bytes()))
    };
    if !query_parameters(query).any(|(name, _)| carries(&name)) {
        return Some(query.into());
    }
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !query_parameters(pair).any(|(name, _)| carries(&name)))
        .collect();
    if kept.is_empty() { None } else { Some(kept.join("&").into()) }
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
        // Most repeats of a GET have none, and need no hash of it.
        let digest = if self.bytes == 0 { OF_NOTHING } else { self.hasher.finalize().into() };
        BodyPrint { bytes: self.bytes, digest }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::challenge::Challenges;
    use super::super::fields::{Field, Fields};
    use super::super::head::Seen;
    use super::*;

    fn read(lines: &[&str]) -> Result<Option<String>, Malformed> {
        let lines = lines.iter().map(|line| line.as_bytes()).collect();
        Ok(KeyText::of(lines)?.map(|key| key.as_str().to_owned()))
    }

    #[test]
    fn a_key_is_the_same_with_quotes_around_it_and_without() {
        for line in ["8e03978e-40d5-43dd-bc93-6894a57f9324", "order/17", "a b", ":YQ==:", "?1"] {
            assert_eq!(read(&[line]), Ok(Some(line.to_owned())));
            assert_eq!(read(&[&format!("\"{line}\"")]), Ok(Some(line.to_owned())));
        }
        assert_eq!(read(&[" \t\"abc\"  "]), Ok(Some("abc".to_owned())));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn a_quoted_key_may_hold_what_a_bare_one_may_not() {
        let line = r#""a,b;c=\"d\"\\e""#;
        assert_eq!(read(&[line]), Ok(Some(r#"a,b;c="d"\e"#.to_owned())));
        assert_eq!(read(&[r#"" a""#]), Ok(Some(" a".to_owned())), "inside the quotes it counts");
    }

    #[test]
    fn what_is_no_single_key_is_malformed() {
        let long = "x".repeat(256);
        for line in [
            "",
            "   ",
            "\"\"",
            "a,b",
            "a, b",
            "\"a\", \"b\"",
            "a;b=1",
            "\"a\";b=1",
            "\"a\";b",
            "\"a",
            "a\"",
            "\"a\"b",
            r#""\x""#,
            "a\tb",
            "\"a\tb\"",
            "schlüssel",
            "\"ü\"",
            &long,
            r"a\b",
        ] {
            assert!(read(&[line]).is_err(), "{line}");
        }
        assert!(read(&["a", "a"]).is_err(), "even the same twice");
        assert_eq!(read(&[&long[1..]]).map(|key| key.map(|key| key.len())), Ok(Some(255)));
    }

    fn print_of(method: &Method, target: &str, lines: &[Field<'_>], places: &[Place]) -> HeadPrint {
        let credentials = Credentials {
            places: places.to_vec(),
            prefixes: Vec::new(),
            peppers: Vec::new(),
            challenges: Challenges::new("", places),
        };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let fields = Fields(lines);
        let head = Head { method, path, query, fields, seen: &Seen::of(fields), mark: None };
        HeadPrint::of(&head, &credentials)
    }

    fn print(method: &Method, target: &str, length: &str, places: &[Place]) -> HeadPrint {
        let field = |name| Field { name, value: length.as_bytes() };
        print_of(method, target, &[field("content-length"), field("x-other")], places)
    }

    #[test]
    fn a_print_is_the_same_in_every_version_because_records_outlive_them() {
        let field = |name, value: &'static str| Field { name, value: value.as_bytes() };
        let lines = [field("content-length", "2"), field("content-type", "application/json")];
        for (print, known) in [
            (
                print_of(&Method::POST, "/send?to=1&text=a%20b", &lines, &[]),
                0xec4b_3278_a5d9_170a_5c73_4b23_e290_d24e_u128,
            ),
            (print_of(&Method::GET, "/send", &[], &[]), 0xea7f_4065_8681_96ad_8e56_6715_f2c0_ac2c),
        ] {
            assert_eq!(print.0[..16], known.to_be_bytes());
        }
    }

    #[test]
    fn a_print_is_of_method_target_and_length() {
        let of = |method, target, length| print(&method, target, length, &[]);
        let first = of(Method::POST, "/send?to=1", "2");
        assert_eq!(first, of(Method::POST, "/send?to=1", "2"));
        for other in [
            of(Method::PUT, "/send?to=1", "2"),
            of(Method::POST, "/send?to=2", "2"),
            of(Method::POST, "/send", "2"),
            of(Method::POST, "/Send?to=1", "2"),
            of(Method::POST, "/send?to=1", "3"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn the_credential_in_a_query_is_no_part_of_the_print() {
        let places = [Place::Bearer, Place::Query("api_key".into())];
        let of = |target| print(&Method::GET, target, "0", &places);
        let plain = of("/send?to=1&text=a%20b");
        for same in [
            "/send?api_key=old&to=1&text=a%20b",
            "/send?to=1&api_key=new&text=a%20b",
            "/send?to=1&text=a%20b&api%5Fkey=new",
        ] {
            assert_eq!(of(same), plain, "{same}");
        }
        assert_eq!(of("/send?api_key=x"), of("/send"));
        assert_ne!(of("/send?to=1&text=a+b"), plain, "as the client sent it");
        assert_ne!(of("/send?to=1&text=a%20b&key=x"), plain);
    }
}
