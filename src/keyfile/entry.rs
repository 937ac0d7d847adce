//! One key of a key file: how it is written, and what of it is listed. Scalars are written so that YAML 1.1 and 1.2
//! read the same text back.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::clock::Wall;

/// The fields of an entry, in the order of the text.
pub type Fields = Map<String, Value>;

/// How a digest is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestKind {
    /// SHA-256 of the secret.
    Sha256,
    /// HMAC-SHA-256 of the secret under the policy's pepper.
    Hmac,
}

/// The digest of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// How it is made.
    pub kind: DigestKind,
    /// 64 hex digits.
    pub hex: String,
    /// The last four characters of the secret, so that people can tell keys apart; empty where unknown.
    pub last4: String,
}

impl Digest {
    pub(super) fn json(&self, until: Option<Wall>) -> Value {
        let mut fields = Fields::new();
        let kind = match self.kind {
            DigestKind::Sha256 => "sha256",
            DigestKind::Hmac => "hmac",
        };
        fields.insert(kind.to_owned(), self.hex.clone().into());
        if let Some(until) = until {
            fields.insert("until".to_owned(), instant(until).into());
        }
        Value::Object(fields)
    }
}

/// A key to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Its public id.
    pub id: String,
    /// Who pays.
    pub tenant: String,
    /// The digest of its secret.
    pub digest: Digest,
    /// When it was made.
    pub created: Option<Wall>,
    /// What people call it.
    pub label: Option<String>,
    /// Its scopes; `None` writes none, which means all that its tenant and plan have.
    pub scopes: Option<Vec<String>>,
    /// Its own plan.
    pub plan: Option<String>,
    /// Valid from.
    pub not_before: Option<Wall>,
    /// Valid until, exclusive.
    pub expires: Option<Wall>,
    /// Networks it may be used from; empty: any.
    pub allow: Vec<String>,
    /// Its own ceilings, by the name of the limit.
    pub limits: Vec<(String, String)>,
}

impl NewEntry {
    pub(super) fn fields(&self) -> Fields {
        let mut fields = Fields::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("id", self.id.clone().into());
        put("tenant", self.tenant.clone().into());
        if let Some(label) = &self.label {
            put("label", label.clone().into());
        }
        put("digest", self.digest.json(None));
        put("last4", self.digest.last4.clone().into());
        if let Some(created) = self.created {
            put("created", instant(created).into());
        }
        if let Some(scopes) = &self.scopes {
            put("scopes", scopes.clone().into());
        }
        if let Some(plan) = &self.plan {
            put("plan", plan.clone().into());
        }
        if let Some(not_before) = self.not_before {
            put("not_before", instant(not_before).into());
        }
        if let Some(expires) = self.expires {
            put("expires", instant(expires).into());
        }
        if !self.allow.is_empty() {
            put("allow", self.allow.clone().into());
        }
        if !self.limits.is_empty() {
            let limits = self.limits.iter().map(|(name, value)| (name.clone(), value.clone()));
            put("limits", Value::Object(limits.map(|(n, v)| (n, v.into())).collect()));
        }
        fields
    }
}

/// A digest of a key that is there, and the end of its overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDigest {
    /// The digest.
    pub digest: Digest,
    /// Good until then; `None`: current.
    pub until: Option<Wall>,
}

/// What is told about a key that is there. The text's own words: the loader judges them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its public id.
    pub id: String,
    /// Who pays.
    pub tenant: Option<String>,
    /// Its own plan.
    pub plan: Option<String>,
    /// Its scopes; `None` where it names none.
    pub scopes: Option<Vec<String>>,
    /// What people call it.
    pub label: Option<String>,
    /// The last four characters of its secret.
    pub last4: Option<String>,
    /// Valid from.
    pub not_before: Option<Wall>,
    /// Valid until, exclusive.
    pub expires: Option<Wall>,
    /// When and why it was revoked, in one line; `None`: it was not.
    pub revoked: Option<String>,
    /// Its digests. Never printed.
    pub digests: Vec<ListedDigest>,
}

impl Listed {
    pub(super) fn of(fields: &Fields) -> Listed {
        let text = |name: &str| fields.get(name).and_then(scalar);
        let time = |name: &str| text(name).and_then(|text| read_instant(&text));
        let single = fields.get("digest").and_then(read_digest);
        let several = fields.get("digests").and_then(Value::as_array).into_iter().flatten();
        Listed {
            id: text("id").unwrap_or_default(),
            tenant: text("tenant"),
            plan: text("plan"),
            scopes: fields.get("scopes").filter(|value| !value.is_null()).map(texts),
            label: text("label"),
            last4: text("last4"),
            not_before: time("not_before"),
            expires: time("expires"),
            revoked: fields.get("revoked").and_then(revocation),
            digests: single.into_iter().chain(several.filter_map(read_digest)).collect(),
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(scalar).collect(),
        other => scalar(other).into_iter().collect(),
    }
}

/// `{ sha256: …, until: … }`, or in one word `sha256:…`.
fn read_digest(value: &Value) -> Option<ListedDigest> {
    let of = |kind, hex: String| Digest { kind, hex, last4: String::new() };
    match value {
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(scalar);
            let digest = match (text("sha256"), text("hmac")) {
                (Some(hex), _) => of(DigestKind::Sha256, hex),
                (None, Some(hex)) => of(DigestKind::Hmac, hex),
                (None, None) => return None,
            };
            Some(ListedDigest { digest, until: text("until").and_then(|at| read_instant(&at)) })
        }
        other => {
            let text = scalar(other)?;
            let digest = match text.split_once(':') {
                Some(("hmac", hex)) => of(DigestKind::Hmac, hex.to_owned()),
                Some((_, hex)) => of(DigestKind::Sha256, hex.to_owned()),
                None => of(DigestKind::Sha256, text),
            };
            Some(ListedDigest { digest, until: None })
        }
    }
}

fn revocation(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(scalar);
            let at = text("at").unwrap_or_else(|| "at an unknown time".to_owned());
            Some(match text("why") {
                Some(why) => format!("{at}, {why}"),
                None => at,
            })
        }
        other => scalar(other).filter(|text| text != "false"),
    }
}

/// An instant as files hold it: RFC 3339 in UTC, to the second where that is all there is.
pub fn instant(at: Wall) -> String {
    Timestamp::from_millisecond(at.0).unwrap_or(Timestamp::MAX).to_string()
}

/// An instant as files and people write it: RFC 3339, or a date, which begins at midnight in UTC.
pub fn read_instant(text: &str) -> Option<Wall> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(Wall(at.as_millisecond()));
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Wall(midnight.timestamp().as_millisecond()))
}

/// An entry as a block, its dash behind `indent`.
pub(super) fn block(fields: &Fields, indent: &str, newline: &str) -> String {
    let mut out = String::new();
    for (ordinal, (name, value)) in fields.iter().enumerate() {
        let lead = if ordinal == 0 { "- " } else { "  " };
        out.extend([indent, lead, name, ": ", &flow(value), newline]);
    }
    out
}

/// An entry as one line of JSON.
pub(super) fn line(fields: &Fields) -> String {
    Value::Object(fields.clone()).to_string() + "\n"
}

/// A value in YAML's flow style, on one line.
pub(super) fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let pairs =
                fields.iter().map(|(name, value)| format!("{}: {}", word(name), flow(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => word(text),
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A text as a YAML scalar: bare where every reader takes it for a text, quoted otherwise.
fn word(text: &str) -> String {
    let bare =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '@');
    let looks_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(bare)
        && !text.ends_with(':')
        && !is_keyword(text)
        && !looks_like_a_number(text);
    if looks_plain { text.to_owned() } else { quoted(text) }
}

fn is_keyword(text: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null"]
        .iter()
        .any(|keyword| text.eq_ignore_ascii_case(keyword))
}

/// Numbers of YAML 1.1 and 1.2: decimal, with underscores, hexadecimal, octal, binary, `12:30:45`, `.inf` and `.nan`.
fn looks_like_a_number(text: &str) -> bool {
    let bare = text.replace('_', "");
    let lower = bare.to_ascii_lowercase();
    bare.parse::<f64>().is_ok()
        || ["0x", "0o", "0b"].iter().any(|radix| lower.starts_with(radix))
        || bare.chars().all(|c| c.is_ascii_digit() || c == ':' || c == '.')
}

/// A double-quoted scalar: JSON's escapes are YAML's too; what YAML calls unprintable is escaped besides.
fn quoted(text: &str) -> String {
    let json = Value::from(text).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let escape = format!("\\u{:04x}", u32::from(c));
                out.push_str(&escape);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_could_take_for_something_else_is_quoted() {
        for text in
            ["no", "Yes", "null", "1e10", "0x1f", "12:30", "1_000", "", "-x", "a: b", "a #b", "inf"]
        {
            assert!(word(text).starts_with('"'), "{text}");
        }
        for text in
            ["sms:send", "2027-01-01T00:00:00Z", "10.0.0.0/8", "2001:db8::/32", "acme", "60/minute"]
        {
            assert_eq!(word(text), text);
        }
    }

    #[test]
    fn every_word_reads_back_as_itself() {
        for text in [
            "no",
            "a \"quoted\" \\ text",
            "ü – ☃",
            "line\nbreak",
            "\u{85}\u{7f}",
            "{id}",
            "~",
            "9e9",
            "a:",
        ] {
            let yaml = flow(&serde_json::json!([text]));
            let tree = crate::keyfile::tree::parse(&yaml).unwrap();
            assert_eq!(tree.root.unwrap().json(), serde_json::json!([text]), "{yaml}");
        }
    }

    #[test]
    fn a_date_is_midnight_in_utc_and_an_instant_is_itself() {
        assert_eq!(read_instant("1970-01-02"), Some(Wall(86_400_000)));
        assert_eq!(read_instant("1970-01-01T01:00:00+01:00"), Some(Wall(0)));
        assert_eq!(read_instant("soon"), None);
        assert_eq!(instant(Wall(86_400_000)), "1970-01-02T00:00:00Z");
    }
}
