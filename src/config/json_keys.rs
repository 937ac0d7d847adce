//! Key files of JSON lines: a key a line, appended by machines, the last line of an id wins. Built for a million: text is
//! borrowed from the file, nothing is kept but what the table holds. Must never: know what a plan or limit is.

use std::borrow::Cow;
use std::fmt;

use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::amount::{Amount, MOST_UNITS, Number};
use super::compile::{Again, Amounts, Collector, Entry};
use super::problem::{Span, did_you_mean};
use super::raw::KeyEntry;
use super::read::{FromText, clip};
use super::scalar::{moment, name_complaint, secret_digest};
use super::yaml_keys::{NO_PEPPER, NO_PEPPER_REMEDY};
use crate::policy::keys::KeyStatus;
use crate::policy::limit::LimitKind;

/// Reads file number `file` into the collector.
pub(super) fn read(file: u16, collector: &mut Collector<'_, '_>) {
    let text = collector.desk.findings.text(file);
    let mut start = 0;
    let mut expired = 0usize;
    for (number, line) in (1..).zip(text.split('\n')) {
        let at = Span {
            file,
            start: u32::try_from(start).unwrap_or(u32::MAX),
            end: u32::try_from(start + line.len()).unwrap_or(u32::MAX),
        };
        start += line.len() + 1;
        if line.trim().is_empty() {
            continue;
        }
        match parse(line, at) {
            Ok(entry) => {
                let past = entry.expires.is_some_and(|(wall, _)| wall <= collector.desk.now);
                expired += usize::from(past && entry.status == KeyStatus::Live);
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
    if expired > 0 {
        let path = collector.desk.findings.path(file).display().to_string();
        collector.desk.notes.push(format!("{path}: {expired} keys have expired"));
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
