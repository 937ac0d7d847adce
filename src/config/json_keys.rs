//! Key files of JSON lines: a key a line, appended by machines, the last line of an id wins. Built for a million: the file is
//! read some lines at a time, text is borrowed from them, and nothing is kept but what the table holds. Must never: know what a plan or limit is.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use sha2::Digest as _;

use super::amount::{Amount, MOST_UNITS, Number};
use super::compile::{Again, Amounts, Collector, Entry};
use super::problem::{Span, did_you_mean};
use super::raw::KeyEntry;
use super::read::{FromText, clip};
use super::scalar::{moment, name_complaint, secret_digest};
use super::yaml_keys::{NO_PEPPER, NO_PEPPER_REMEDY};
use crate::policy::keys::KeyStatus;
use crate::policy::limit::LimitKind;

/// Bytes that are read at a time, and more where a line is longer: some fifty lines, between which the loader may breathe.
const PART: usize = 8 * 1024;

/// Reads a file of so many bytes into the collector, some lines at a time.
pub(super) fn read(
    path: &Path,
    mut source: impl Read,
    bytes: u64,
    collector: &mut Collector<'_, '_>,
) -> io::Result<()> {
    let Some(file) = collector.desk.findings.source(path, String::new()) else {
        collector.desk.findings.file_error(path, "too many files", None);
        return Ok(());
    };
    let mut lines = Lines { file, first: 1, expired: 0 };
    let mut rest = Vec::new();
    loop {
        (collector.desk.sources.breathe)();
        let mut part = rest;
        let whole = fill(&mut source, &mut part)?;
        rest = part.split_off(if whole.is_end { part.len() } else { whole.lines });
        collector.desk.keys_digest.update(&part);
        if lines.first == 1 {
            collector.expect(bytes, &part);
        }
        let end = part.is_empty();
        match String::from_utf8(part) {
            Ok(text) => lines.read(text, collector),
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = lines.first + valid.split(|byte| *byte == b'\n').skip(1).count();
                let message = format!("no UTF-8 in line {line}");
                collector.desk.findings.file_error(path, message, None);
                break;
            }
        }
        if end || whole.is_end {
            break;
        }
    }
    collector.desk.findings.forget(file);
    if lines.expired > 0 {
        let note = format!("{}: {} keys have expired", path.display(), lines.expired);
        collector.desk.notes.push(note);
    }
    Ok(())
}

/// How far a part reaches.
struct Whole {
    /// Bytes of whole lines.
    lines: usize,
    /// Whether the file ends with it.
    is_end: bool,
}

/// Reads on until there is a whole line at least, or the file ends.
fn fill(source: &mut impl Read, part: &mut Vec<u8>) -> io::Result<Whole> {
    loop {
        let before = part.len();
        part.reserve(PART);
        source.by_ref().take(PART as u64).read_to_end(part)?;
        if part.len() == before {
            return Ok(Whole { lines: before, is_end: true });
        }
        if let Some(last) = part[before..].iter().rposition(|byte| *byte == b'\n') {
            return Ok(Whole { lines: before + last + 1, is_end: false });
        }
    }
}

/// The lines of one file.
struct Lines {
    file: u16,
    /// Number of the next line.
    first: usize,
    /// Keys that have expired.
    expired: usize,
}

impl Lines {
    /// Reads the next lines.
    fn read(&mut self, text: String, collector: &mut Collector<'_, '_>) {
        let file = self.file;
        collector.desk.findings.next_part(file, text, self.first);
        let text = collector.desk.findings.text(file);
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let number = self.first;
            self.first += 1;
            let at = Span {
                file,
                start: u32::try_from(start).unwrap_or(u32::MAX),
                end: u32::try_from(start + line.trim_end_matches('\n').len()).unwrap_or(u32::MAX),
            };
            start += line.len();
            let line = line.trim_end_matches('\n');
            if line.trim().is_empty() {
                continue;
            }
            match parse(line, at) {
                Ok(entry) => {
                    let past = entry.expires.is_some_and(|(wall, _)| wall <= collector.desk.now);
                    self.expired += usize::from(past && entry.status == KeyStatus::Live);
                    if entry.is_hmac && !collector.desk.has_pepper {
                        collector.desk.findings.warn(at, NO_PEPPER, NO_PEPPER_REMEDY.to_owned());
                    }
                    collector.add(entry.borrow(), number, Again::Replaces);
                }
                Err(Wrong { message, at, remedy }) => {
                    collector.desk.findings.error_with(at, message, remedy);
                }
            }
        }
    }
}

struct Wrong {
    message: String,
    at: Span,
    remedy: Option<String>,
}

/// A line, resolved as far as it can be by itself.
struct Owned<'a> {
    line: Line<'a>,
    at: Span,
    digests: Vec<(crate::policy::keys::SecretDigest, Option<crate::clock::Wall>)>,
    not_before: Option<crate::clock::Wall>,
    expires: Option<(crate::clock::Wall, Span)>,
    allow: Vec<IpNet>,
    status: KeyStatus,
    /// Whether a digest is an HMAC.
    is_hmac: bool,
}

impl Owned<'_> {
    fn borrow(&self) -> Entry<'_> {
        let Line { id, tenant, scopes, plan, limits, .. } = &self.line;
        Entry {
            at: self.at,
            id: &id.0,
            tenant: &tenant.0,
            digests: self.digests.clone(),
            scopes: scopes
                .as_ref()
                .map(|scopes| scopes.iter().map(|scope| (&*scope.0, self.at)).collect()),
            plan: plan.as_ref().map(|plan| (&*plan.0, self.at)),
            not_before: self.not_before,
            expires: self.expires,
            allow: self.allow.clone(),
            limits: limits.0.iter().map(|(name, amounts)| (&*name.0, *amounts, self.at)).collect(),
            status: self.status,
        }
    }
}

fn parse(text: &str, at: Span) -> Result<Owned<'_>, Wrong> {
    let wrong = |message: String| Wrong { message, at, remedy: None };
    let line: Line<'_> = serde_json::from_str(text).map_err(|error| {
        let column = u32::try_from(error.column().saturating_sub(1)).unwrap_or(0);
        let point = at.start.saturating_add(column).min(at.end);
        let message = error.to_string();
        let message = message.split(" at line").next().unwrap_or(&message);
        let (message, remedy) = match unknown_field(message) {
            Some(field) => (
                format!("a key has no field `{field}`"),
                did_you_mean(field, KeyEntry::WORDS.iter().copied()),
            ),
            None => (message.to_owned(), None),
        };
        Wrong { message, at: Span { start: point, end: point, ..at }, remedy }
    })?;
    for name in [&line.id.0, &line.tenant.0] {
        if let Some(complaint) = name_complaint(name) {
            return Err(wrong(format!("`{}`: {complaint}", clip(name))));
        }
    }
    let time = |text: &Text<'_>| {
        moment(&text.0).ok_or_else(|| Wrong {
            message: format!("`{}` is no time", clip(&text.0)),
            at,
            remedy: Some("write 2027-01-31 or 2027-01-31T12:00:00Z".to_owned()),
        })
    };
    let mut digests = Vec::with_capacity(1);
    for digest in line.digest.iter().chain(line.digests.iter().flatten()) {
        let until = digest.until.as_ref().map(time).transpose()?;
        let ((Some(hex), None) | (None, Some(hex))) = (&digest.sha256, &digest.hmac) else {
            return Err(wrong("a digest is `sha256` or `hmac`".to_owned()));
        };
        let digest =
            secret_digest(&hex.0).ok_or_else(|| wrong("a digest is 64 hex digits".to_owned()))?;
        digests.push((digest, until));
    }
    if digests.is_empty() {
        return Err(wrong(format!("the key `{}` has no digest, so nobody can use it", line.id.0)));
    }
    let allow = line
        .allow
        .iter()
        .flatten()
        .map(|net| {
            IpNet::from_text(&net.0).map_err(|complaint| Wrong {
                message: complaint
                    .message
                    .unwrap_or_else(|| format!("`{}` is no network", clip(&net.0))),
                at,
                remedy: complaint.remedy,
            })
        })
        .collect::<Result<Vec<IpNet>, Wrong>>()?;
    Ok(Owned {
        at,
        digests,
        not_before: line.not_before.as_ref().map(time).transpose()?,
        expires: line.expires.as_ref().map(time).transpose()?.map(|wall| (wall, at)),
        allow,
        is_hmac: line.digest.iter().chain(line.digests.iter().flatten()).any(|d| d.hmac.is_some()),
        status: match line.revoked {
            Some(RevokedWord(true)) => KeyStatus::Revoked,
            Some(RevokedWord(false)) | None => KeyStatus::Live,
        },
        line,
    })
}

/// The field in serde's "unknown field `x`, expected one of …", whose list is too long to help.
fn unknown_field(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

/// One line as it stands.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    tenant: Text<'a>,
    #[serde(borrow, default)]
    digest: Option<Digest<'a>>,
    #[serde(borrow, default)]
    digests: Option<Vec<Digest<'a>>>,
    #[serde(default, rename = "last4")]
    _last4: IgnoredAny,
    #[serde(default, rename = "label")]
    _label: IgnoredAny,
    #[serde(default, rename = "created")]
    _created: IgnoredAny,
    #[serde(borrow, default)]
    scopes: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    plan: Option<Text<'a>>,
    #[serde(borrow, default)]
    not_before: Option<Text<'a>>,
    #[serde(borrow, default)]
    expires: Option<Text<'a>>,
    #[serde(borrow, default)]
    allow: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    limits: Limits<'a>,
    #[serde(default)]
    revoked: Option<RevokedWord>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Digest<'a> {
    #[serde(borrow, default)]
    sha256: Option<Text<'a>>,
    #[serde(borrow, default)]
    hmac: Option<Text<'a>>,
    #[serde(borrow, default)]
    until: Option<Text<'a>>,
}

/// Text that is borrowed wherever it has no escapes; serde's own `Cow` copies inside lists.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

/// `true`, `false` or `{ at, why }`.
struct RevokedWord(bool);

impl<'de> Deserialize<'de> for RevokedWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RevokedWord, D::Error> {
        struct Word;
        impl<'de> Visitor<'de> for Word {
            type Value = RevokedWord;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a map of `at` and `why`")
            }

            fn visit_bool<E>(self, revoked: bool) -> Result<RevokedWord, E> {
                Ok(RevokedWord(revoked))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RevokedWord, A::Error> {
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    if !matches!(&*key.0, "at" | "why") {
                        return Err(de::Error::unknown_field(&key.0, &["at", "why"]));
                    }
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(RevokedWord(true))
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// Overrides: `{ "throttle": "1200/minute" }`, a number, `"none"`, or `{ "rate": …, "burst": … }`.
#[derive(Default)]
struct Limits<'a>(Vec<(Text<'a>, Amounts)>);

impl<'de: 'a, 'a> Deserialize<'de> for Limits<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Limits<'a>, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Limits<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from limits to amounts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Limits<'de>, A::Error> {
                let mut entries = Vec::with_capacity(1);
                while let Some(name) = map.next_key::<Text<'de>>()? {
                    let AmountWord(amounts) = map.next_value()?;
                    entries.push((name, amounts));
                }
                Ok(Limits(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

struct AmountWord(Amounts);

impl<'de> Deserialize<'de> for AmountWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AmountWord, D::Error> {
        struct Word;
        impl<'de> Visitor<'de> for Word {
            type Value = AmountWord;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Amount::WHAT)
            }

            fn visit_u64<E: de::Error>(self, units: u64) -> Result<AmountWord, E> {
                if units > MOST_UNITS {
                    return Err(E::custom(format!("a limit can be at most {MOST_UNITS}")));
                }
                Ok(AmountWord(Amounts::alone(Amount::Alone(Number::Whole(units)))))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<AmountWord, E> {
                Err(E::custom(format!(
                    "an amount with decimal places is written as text: \"{number}\""
                )))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AmountWord, E> {
                let amount = Amount::from_text(text).map_err(|complaint| {
                    E::custom(complaint.message.unwrap_or_else(|| {
                        format!("expected {}, found `{}`", Amount::WHAT, clip(text))
                    }))
                })?;
                Ok(AmountWord(Amounts::alone(amount)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AmountWord, A::Error> {
                let mut amounts = Amounts::default();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    match &*key.0 {
                        "rate" | "quota" | "spend" | "concurrent" => {
                            let kind = match &*key.0 {
                                "quota" => LimitKind::Quota,
                                "spend" => LimitKind::Spend,
                                "concurrent" => LimitKind::Concurrent,
                                _ => LimitKind::Rate,
                            };
                            let AmountWord(Amounts { amount, .. }) = map.next_value()?;
                            amounts.say(kind, amount.unwrap_or(Amount::None));
                        }
                        "burst" => amounts.burst = Some(map.next_value()?),
                        other => {
                            return Err(de::Error::unknown_field(
                                other,
                                &["rate", "quota", "spend", "concurrent", "burst"],
                            ));
                        }
                    }
                }
                Ok(AmountWord(amounts))
            }
        }
        deserializer.deserialize_any(Word)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::{Loaded, Overrides, Problems, Sources, load};
    use super::*;
    use crate::clock::Wall;
    use crate::policy::keys::SecretDigest;

    const POLICY: &str = "
version: 1
upstream: http://127.0.0.1:9000
credentials: { keys: many.jsonl }
routes:
  - { name: api, match: GET /api/**, scope: read }
";

    fn line(id: usize, digest: usize) -> String {
        format!(
            "{{\"id\":\"key-{id}\",\"tenant\":\"acme\",\"digest\":{{\"sha256\":\"{digest:064x}\"}}}}\n"
        )
    }

    /// So many keys, in several parts.
    fn many(keys: usize) -> String {
        let text = (0..keys).map(|nth| line(nth, nth)).collect::<String>();
        assert!(text.len() > 2 * PART, "{} bytes", text.len());
        text
    }

    fn loaded(keys: &[u8]) -> Result<Loaded, Problems> {
        loaded_breathing(keys, &|| ())
    }

    fn loaded_breathing(keys: &[u8], breathe: &dyn Fn()) -> Result<Loaded, Problems> {
        let read = |path: &Path| {
            Ok(if path.ends_with("many.jsonl") { keys.to_vec() } else { POLICY.into() })
        };
        let list = |_: &Path| Ok(Vec::new());
        let sources = Sources { read: &read, open: None, list: &list, env: &|_| None, breathe };
        load(Path::new("policy.yaml"), &Overrides::default(), &sources, Wall(0), None)
    }

    fn digest(nth: usize) -> SecretDigest {
        let mut digest = [0; 32];
        digest[24..].copy_from_slice(&(nth as u64).to_be_bytes());
        SecretDigest(digest)
    }

    #[test]
    fn a_file_of_many_parts_is_one_table_and_a_later_line_replaces_one_of_a_part_before() {
        let text = many(9000) + &line(7, 100_007) + "\n" + line(9000, 9000).trim_end();
        let Loaded { snapshot, origins, .. } = loaded(text.as_bytes()).unwrap();
        assert_eq!(snapshot.keys.len(), 9001);
        let keys = &snapshot.keys;
        let id_of = |nth| keys.find(&digest(nth)).map(|found| keys.at(found.ix).id.to_owned());
        assert_eq!(id_of(8999).as_deref(), Some("key-8999"));
        assert_eq!(id_of(9000).as_deref(), Some("key-9000"));
        assert_eq!((id_of(7), id_of(100_007).as_deref()), (None, Some("key-7")));
        assert_eq!([7, 8, 9000].map(|row: usize| origins.keys[row].1), [9001, 9, 9003]);
    }

    #[test]
    fn a_load_breathes_in_each_part_of_a_file_and_while_it_builds_the_table() {
        let text = many(9000);
        let breaths = std::cell::Cell::new(0);
        loaded_breathing(text.as_bytes(), &|| breaths.set(breaths.get() + 1)).unwrap();
        let parts = text.len() / PART;
        // Counted, sorted, compared and listed, each by a thousand or so.
        assert!(breaths.get() > parts + 4 * 8, "{} in {parts} parts", breaths.get());
    }

    #[test]
    fn a_mistake_in_a_later_part_is_told_with_its_line() {
        let mut text = many(9000);
        write!(text, "{{\"id\":\"key-1\",\"tenant\":\"acme\"}}\n{}", line(1, 2)).unwrap();
        let problems = loaded(text.as_bytes()).unwrap_err().to_string();
        assert!(problems.contains("many.jsonl:9001:1"), "{problems}");
        assert!(problems.contains("{\"id\":\"key-1\",\"tenant\":\"acme\"}"), "{problems}");
        let mut bytes = many(9000).into_bytes();
        bytes.extend_from_slice(b"{\"id\":\"\xff");
        let problems = loaded(&bytes).unwrap_err().to_string();
        assert!(problems.contains("no UTF-8 in line 9001"), "{problems}");
    }

    #[test]
    fn a_line_longer_than_a_part_is_read_whole() {
        let label = "x".repeat(3 * PART);
        let long = line(1, 1).replace("}}\n", &format!("}},\"label\":\"{label}\"}}\n"));
        let text = line(0, 0) + &long + &line(2, 2);
        let Loaded { snapshot, .. } = loaded(text.as_bytes()).unwrap();
        assert_eq!(snapshot.keys.len(), 3);
    }
}
