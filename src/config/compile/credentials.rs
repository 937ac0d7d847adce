//! `credentials:`: where keys stand in a request, what they look like, and which files hold them.

use std::path::{Path, PathBuf};

use super::super::problem::{At, Span, did_you_mean, nearest};
use super::super::raw::{self, Or};
use super::super::read::Many;
use super::super::{Issuing, NewKeyScopes, defaults};
use super::Desk;
use super::identity::is_ours;
use crate::policy::challenge::Challenges;
use crate::policy::credential::{Credentials, Pepper, Place};

pub(super) struct Compiled {
    pub(super) credentials: Credentials,
    /// The key files, with the place that names each.
    pub(super) key_files: Vec<(PathBuf, Span)>,
    pub(super) issuing: Issuing,
}

pub(super) fn credentials(raw: Option<raw::Credentials>, desk: &mut Desk<'_>) -> Compiled {
    let nothing = Span { file: 0, start: 0, end: 0 };
    let raw::Credentials { at: _, accept, prefix, keys, pepper, realm, new_keys } =
        raw.unwrap_or_else(|| raw::Credentials::absent(nothing));
    let places = match accept {
        None => vec![Place::Bearer],
        Some(accept) => places(accept, desk),
    };
    let prefixes = prefix
        .map_or_else(Vec::new, |prefix| prefix.items)
        .into_iter()
        .filter_map(|prefix| self::prefix(prefix, desk))
        .collect::<Vec<_>>();
    // One that could not be read was told of already.
    desk.has_pepper = pepper.is_some();
    let peppers = pepper
        .map_or_else(Vec::new, |pepper| pepper.items)
        .into_iter()
        .filter_map(|pepper| self::pepper(&pepper, desk))
        .collect();
    let mut key_files = Vec::new();
    for pattern in keys.map_or_else(Vec::new, |keys| keys.items) {
        expand(&pattern, &mut key_files, desk);
    }
    let (scopes, expires) = match new_keys {
        Some(raw::NewKeys { at: _, scopes, expires }) => (scopes, expires),
        None => (None, None),
    };
    let issuing = Issuing {
        key_files: key_files.iter().map(|(path, _)| path.clone()).collect(),
        scopes: scopes.map_or(NewKeyScopes::All, |scopes| new_key_scopes(scopes, desk)),
        expires: expires.map(|expires| expires.value),
    };
    if let Some(realm) = &realm
        && (realm.value.contains(['"', '\\']) || !realm.value.is_ascii())
    {
        desk.findings.error(realm.at, "a realm is plain ASCII without quotes");
    }
    let realm = realm.as_ref().map_or(defaults::REALM, |realm| &realm.value);
    let challenges = Challenges::new(realm, &places);
    let credentials = Credentials { places, prefixes, peppers, challenges };
    Compiled { credentials, key_files, issuing }
}

fn new_key_scopes(scopes: Many<At<String>>, desk: &mut Desk<'_>) -> NewKeyScopes {
    const WORDS: [&str; 3] = ["required", "all", "tenant"];
    if let [one] = scopes.items.as_slice()
        && !WORDS.contains(&one.value.as_str())
        && let Some(meant) = nearest(&one.value, WORDS)
    {
        // As a list it would be a scope of that name, which nobody means who is so near a word.
        desk.findings.error_with(
            one.at,
            format!("`{}` is none of the words here", one.value),
            format!("did you mean `{meant}`?"),
        );
    }
    match scopes.items.as_slice() {
        [one] if one.value == "required" => NewKeyScopes::Required,
        [one] if one.value == "all" => NewKeyScopes::All,
        [one] if one.value == "tenant" => NewKeyScopes::Tenant,
        _ => NewKeyScopes::Listed(scopes.items.into_iter().map(|scope| scope.value).collect()),
    }
}

fn places(accept: Many<Or<String, raw::Place>>, desk: &mut Desk<'_>) -> Vec<Place> {
    const WORDS: [&str; 5] = ["bearer", "authorization", "basic", "header", "query"];
    let mut places: Vec<Place> = Vec::new();
    if accept.items.is_empty() && !desk.findings.has_errors() {
        desk.findings.error_with(
            accept.at,
            "a credential must be looked for somewhere",
            "write `accept: [bearer]`".to_owned(),
        );
    }
    for item in accept.items {
        let (place, at) = match item {
            Or::One(word) => {
                let place = match word.value.as_str() {
                    "bearer" => Place::Bearer,
                    "authorization" => Place::Authorization,
                    "basic" => Place::Basic,
                    "header" | "query" => {
                        desk.findings.error_with(
                            word.at,
                            format!("`{}` needs a name", word.value),
                            format!("write [{}: NAME]", word.value),
                        );
                        continue;
                    }
                    other => {
                        desk.findings.error_with(
                            word.at,
                            format!("`{other}` is no place for a credential"),
                            did_you_mean(other, WORDS),
                        );
                        continue;
                    }
                };
                (place, word.at)
            }
            Or::Map(raw::Place { at, header, query }) => match (header, query) {
                (Some(header), None) => {
                    if header.value == http::header::AUTHORIZATION {
                        desk.findings.error_with(
                            header.at,
                            "`Authorization` has words of its own",
                            "write `authorization` for its raw value, or `bearer`".to_owned(),
                        );
                    } else if is_ours(&header.value) {
                        desk.findings.error(
                            header.at,
                            format!("`{}` has a meaning of its own in HTTP", header.value),
                        );
                    }
                    (Place::Header(header.value), at)
                }
                (None, Some(query)) => {
                    desk.findings.warn(
                        query.at,
                        "keys in a query end up in logs and histories along the way",
                        "prefer a header where clients allow it".to_owned(),
                    );
                    (Place::Query(query.value.into()), at)
                }
                _ => {
                    desk.findings.missing(
                        at,
                        "this place has no name",
                        "write { header: NAME } or { query: name }",
                    );
                    continue;
                }
            },
        };
        if places.contains(&place) {
            desk.findings.error(at, "this place is named twice");
        } else {
            places.push(place);
        }
    }
    places
}

fn prefix(prefix: At<String>, desk: &mut Desk<'_>) -> Option<Box<str>> {
    let fine = !prefix.value.is_empty()
        && prefix.value.len() <= 32
        && prefix
            .value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if !fine {
        desk.findings.error_with(
            prefix.at,
            "a prefix is 1 to 32 letters, digits, `_` and `-`",
            "for example sp_live_".to_owned(),
        );
        return None;
    }
    Some(prefix.value.into())
}

fn pepper(pepper: &raw::Secret, desk: &mut Desk<'_>) -> Option<Pepper> {
    if let Or::One(text) = pepper {
        desk.findings.error_with(
            text.at,
            "a pepper in the policy is no secret",
            "write { env: NAME } or { file: path }".to_owned(),
        );
        return None;
    }
    let bytes = desk.secret(pepper)?;
    if bytes.len() < 16 && !(bytes.is_empty() && desk.is_offline()) {
        let at = match pepper {
            Or::Map(place) => place.at,
            Or::One(text) => text.at,
        };
        desk.findings.error_with(
            at,
            "a pepper is at least 16 bytes",
            "for example the output of `openssl rand -hex 32`".to_owned(),
        );
        return None;
    }
    Some(Pepper(bytes.into()))
}

/// Adds the files that a path or glob (`*` in its last part) names.
fn expand(pattern: &At<String>, out: &mut Vec<(PathBuf, Span)>, desk: &mut Desk<'_>) {
    let path = desk.beside(&pattern.value);
    let last = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let parent = path.parent().map_or_else(PathBuf::new, PathBuf::from);
    if parent.to_string_lossy().contains('*') {
        desk.findings
            .error(pattern.at, "a `*` stands only in the file's name, not in a directory's");
        return;
    }
    if !last.contains('*') {
        if last.is_empty() {
            desk.findings.error(pattern.at, "this is no file");
        } else if out.iter().any(|(known, _)| *known == path) {
            desk.findings.error(pattern.at, "this key file is named twice");
        } else {
            out.push((path, pattern.at));
        }
        return;
    }
    // Watched itself: a file that comes later may match.
    let watched = if parent.as_os_str().is_empty() { Path::new(".") } else { &parent };
    desk.files.push(watched.to_owned());
    let listed = match (desk.sources.list)(&parent) {
        Ok(listed) => listed,
        Err(error) => {
            desk.findings.error(
                pattern.at,
                format!("the directory {} cannot be listed: {error}", parent.display()),
            );
            return;
        }
    };
    let mut matching: Vec<PathBuf> = listed
        .into_iter()
        .filter(|file| {
            file.file_name().and_then(|name| name.to_str()).is_some_and(|name| glob(&last, name))
        })
        .collect();
    matching.sort();
    if matching.is_empty() {
        desk.findings.warn(
            pattern.at,
            "no key file has such a name, so there are no keys",
            "`tollgate keys new` needs a file that is named here without `*`".to_owned(),
        );
    }
    for file in matching {
        if !out.iter().any(|(known, _)| *known == file) {
            out.push((file, pattern.at));
        }
    }
}

/// `*` stands for any characters; a leading dot is matched only when written.
fn glob(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn a_glob_matches_whole_names_and_no_hidden_files() {
        assert!(glob("*.keys.yaml", "a.keys.yaml"));
        assert!(glob("keys-*.jsonl", "keys-1.jsonl"));
        assert!(glob("a*b*c", "a-b-b-c"));
        assert!(!glob("*.yaml", ".a.yaml.swp"));
        assert!(!glob("*.yaml", ".a.yaml"));
        assert!(!glob("*.yaml", "a.yaml.bak"));
        assert!(!glob("a*a", "a"));
    }
}
