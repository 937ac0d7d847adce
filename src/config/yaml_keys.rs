//! Key files in YAML: for people. Each entry is checked by itself here; what it names is resolved by the collector.

use std::path::Path;

use super::compile::{Again, Amounts, Collector, Entry};
use super::problem::{At, Findings, Span};
use super::raw::{self, Or};
use super::read::{Read, clip};
use super::scalar::{GivenName, moment, secret_digest};
use super::tree::{self, Node, Value};
use crate::clock::Wall;
use crate::policy::keys::{KeyStatus, SecretDigest};

/// Most keys of a YAML file: a person's file stays readable, a reload stays within its second.
const MOST_YAML_KEYS: usize = 20_000;

/// What is told of an HMAC that nothing can be compared with.
pub(super) const NO_PEPPER: &str = "the policy has no pepper, so nobody can use this secret";
pub(super) const NO_PEPPER_REMEDY: &str = "add `pepper: { env: … }` under `credentials`";

/// Reads file number `file` into the collector.
pub(super) fn read(file: u16, path: &Path, collector: &mut Collector<'_, '_>) {
    let findings = &mut collector.desk.findings;
    let is_bare = |line: &str| line.trim_start().is_empty() || line.trim_start().starts_with('#');
    if findings.text(file).lines().all(is_bare) {
        return;
    }
    let Some(node) = tree::parse(file, findings) else { return };
    let items = match &node.value {
        Value::List(items) => items,
        Value::Null | Value::Scalar(_) | Value::Map(_) => {
            findings.error_with(
                node.at,
                format!("a key file is a list of keys, this is {}", node.kind()),
                "start each key with `- id: …`".to_owned(),
            );
            return;
        }
    };
    if items.len() > MOST_YAML_KEYS {
        findings.file_error(
            path,
            format!("{} keys are more than a YAML file may hold ({MOST_YAML_KEYS})", items.len()),
            "use JSON lines: one key a line, in a file that ends in .jsonl".to_owned(),
        );
        return;
    }
    for item in items {
        key(item, collector);
    }
}

fn key(node: &Node, collector: &mut Collector<'_, '_>) {
    let findings = &mut collector.desk.findings;
    let Some(raw) = raw::KeyEntry::read(node, findings) else { return };
    let raw::KeyEntry {
        at,
        id,
        tenant,
        digest,
        digests,
        last4: _,
        label: _,
        scopes,
        plan,
        not_before,
        expires,
        allow,
        limits,
        revoked,
        created: _,
    } = raw;
    let digests = digest.into_iter().chain(digests.map_or_else(Vec::new, |digests| digests.items));
    let has_pepper = collector.desk.has_pepper;
    let digests: Vec<(SecretDigest, Option<Wall>)> =
        digests.filter_map(|digest| self::digest(digest, has_pepper, findings)).collect();
    let not_before = not_before.and_then(|text| time(&text, findings));
    let expires = expires.and_then(|text| Some((time(&text, findings)?, text.at)));
    let status = match &revoked {
        None => KeyStatus::Live,
        Some(Or::One(revoked)) if !revoked.value => KeyStatus::Live,
        Some(Or::One(_) | Or::Map(_)) => KeyStatus::Revoked,
    };
    let (Some(id), Some(tenant)) = (&id, &tenant) else {
        let (word, remedy) = if id.is_none() {
            ("id", "add `id: …`: its public name, apart from its secret")
        } else {
            ("tenant", "add `tenant: …`: who pays")
        };
        findings.missing(at, format!("this key has no `{word}`"), remedy);
        return;
    };
    if digests.is_empty() {
        findings.missing(
            at,
            format!("the key `{}` has no digest, so nobody can use it", id.value.0),
            "`tollgate keys new` makes keys; a digest is { sha256: … }",
        );
    }
    let line = findings.line(at);
    let entry = Entry {
        at: id.at,
        id: &id.value.0,
        tenant: &tenant.value.0,
        digests,
        scopes: scopes.as_ref().map(|scopes| scopes.items.iter().map(named).collect()),
        plan: plan.as_ref().map(named),
        not_before,
        expires,
        allow: allow.iter().flat_map(|allow| &allow.items).map(|net| net.value).collect(),
        limits: limits
            .iter()
            .flat_map(|limits| &limits.entries)
            .map(|(name, value)| (name.text.as_str(), Amounts::of(value), name.at))
            .collect(),
        status,
    };
    collector.add(entry, line, Again::Clashes);
}

fn named(name: &At<GivenName>) -> (&str, Span) {
    (&name.value.0, name.at)
}

fn digest(
    digest: raw::KeyDigest,
    has_pepper: bool,
    findings: &mut Findings,
) -> Option<(SecretDigest, Option<Wall>)> {
    let raw::KeyDigest { at, sha256, hmac, until } = digest;
    let until = until.and_then(|text| time(&text, findings));
    if let (Some(hmac), false) = (&hmac, has_pepper) {
        findings.warn(hmac.at, NO_PEPPER, NO_PEPPER_REMEDY.to_owned());
    }
    let ((Some(text), None) | (None, Some(text))) = (sha256, hmac) else {
        findings.missing(at, "a digest is `sha256` or `hmac`", "write { sha256: 64 hex digits }");
        return None;
    };
    let digest = secret_digest(&text.value);
    if digest.is_none() {
        findings.error_with(
            text.at,
            "a digest is 64 hex digits",
            "`tollgate keys new` writes it".to_owned(),
        );
    }
    Some((digest?, until))
}

fn time(text: &At<String>, findings: &mut Findings) -> Option<Wall> {
    let wall = moment(&text.value);
    if wall.is_none() {
        findings.error_with(
            text.at,
            format!("`{}` is no time", clip(&text.value)),
            "write 2027-01-31 or 2027-01-31T12:00:00Z".to_owned(),
        );
    }
    wall
}
