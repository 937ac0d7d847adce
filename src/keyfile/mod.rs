//! The editing of key files: the text of a key file in, the new text out, with every comment and every line that is
//! not meant kept as it was. [`mod@write`] alone touches the file system: one writer at a time, all or nothing, durable.
//!
//! What a key may be is the loader's business (`config/`): whoever edits hands the new text to the loader before it is
//! written. This room must never read a policy, print, or keep a secret longer than it takes to make its digest.

pub mod entry;
mod jsonl;
pub mod secret;
mod tree;
pub mod write;
mod yaml;

use std::fmt;
use std::path::Path;

use serde_json::Value;

use crate::clock::Wall;

pub use entry::{Digest, DigestKind, Fields, Listed, NewEntry};

/// How a key file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A list, for people.
    Yaml,
    /// One entry a line, appended to; the last line of an id is the one that counts.
    JsonLines,
}

impl Format {
    /// By the file's name: `.jsonl` is JSON lines, everything else YAML.
    pub fn of(path: &Path) -> Format {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("jsonl") => Format::JsonLines,
            _ => Format::Yaml,
        }
    }
}

/// What becomes of the secret that a rotated key had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It stops at once.
    None,
    /// It is good until then, exclusive.
    Until(Wall),
}

/// A key as it stands in a file, looked up to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The new text.
    Now(String),
    /// It was revoked before, then as the file says; the text stays as it is.
    Before(String),
}

/// Why a text was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditProblem {
    /// It is no YAML.
    Yaml(String),
    /// A line is no JSON object.
    Json {
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// More than one YAML document.
    Documents {
        /// Where the second begins.
        line: usize,
    },
    /// The document is no list.
    NoList,
    /// An entry that is no map with an `id`.
    NoEntry {
        /// Where it stands.
        line: usize,
    },
    /// An entry that an anchor or alias shares with others.
    Shared {
        /// Where it stands.
        line: usize,
    },
    /// No key has this id.
    Unknown {
        /// All ids of the file.
        ids: Vec<String>,
    },
    /// A key with this id is there already.
    Taken,
    /// The key was revoked.
    IsRevoked,
    /// The key has no digest where one is expected.
    NoDigest,
    /// The edited text did not read back as it should: a fault of this program, and the file is left alone.
    Verify,
    /// The parser gave no places: a fault of this program.
    Places,
}

impl fmt::Display for EditProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EditProblem::Yaml(why) => write!(f, "the key file is not YAML: {why}"),
            EditProblem::Json { line, why } => {
                write!(f, "line {line} of the key file is not a JSON object: {why}")
            }
            EditProblem::Documents { line } => {
                write!(f, "a second YAML document begins in line {line}; a key file has one")
            }
            EditProblem::NoList => f.write_str("the key file is not a list of keys"),
            EditProblem::NoEntry { line } => {
                write!(f, "the entry in line {line} is not a map with an `id`")
            }
            EditProblem::Shared { line } => write!(
                f,
                "the entry in line {line} is shared through a YAML anchor; write it out, then try again"
            ),
            EditProblem::Unknown { .. } => f.write_str("there is no key with this id"),
            EditProblem::Taken => f.write_str("there is a key with this id already"),
            EditProblem::IsRevoked => {
                f.write_str("the key is revoked, and a new secret would be too; make a new key")
            }
            EditProblem::NoDigest => f.write_str("the key has neither `digest` nor `digests`"),
            EditProblem::Verify => f.write_str(
                "the edited text did not read back as expected, so nothing was written; \
                 please edit the entry by hand, and report this",
            ),
            EditProblem::Places => f.write_str("the YAML parser gave no places in the text"),
        }
    }
}

impl std::error::Error for EditProblem {}

/// The text with a new key at its end.
pub fn append(text: &str, format: Format, entry: &NewEntry) -> Result<String, EditProblem> {
    if list(text, format)?.iter().any(|key| key.id == entry.id) {
        return Err(EditProblem::Taken);
    }
    match format {
        Format::Yaml => yaml::append(text, &entry.fields()),
        Format::JsonLines => Ok(jsonl::append(text, &entry.fields())),
    }
}

/// The text with the key `id` revoked.
pub fn revoke(
    text: &str,
    format: Format,
    id: &str,
    at: Wall,
    why: Option<&str>,
) -> Result<Revoked, EditProblem> {
    let key = find(text, format, id)?;
    if let Some(before) = key.revoked {
        return Ok(Revoked::Before(before));
    }
    let mut value = Fields::new();
    value.insert("at".to_owned(), entry::instant(at).into());
    if let Some(why) = why {
        value.insert("why".to_owned(), why.into());
    }
    let change = Change { replaces: &["revoked"], name: "revoked", value: Value::Object(value) };
    edit(text, format, id, &[change]).map(Revoked::Now)
}

/// The text with another secret under the key `id`. Secrets whose overlap has ended at `now` are dropped.
pub fn rotate(
    text: &str,
    format: Format,
    id: &str,
    to: &Digest,
    overlap: Overlap,
    now: Wall,
) -> Result<String, EditProblem> {
    let key = find(text, format, id)?;
    if key.revoked.is_some() {
        return Err(EditProblem::IsRevoked);
    }
    if key.digests.is_empty() {
        return Err(EditProblem::NoDigest);
    }
    let mut digests = vec![to.json(None)];
    if let Overlap::Until(end) = overlap {
        digests.extend(key.digests.iter().filter_map(|old| {
            let until = old.until.map_or(end, |until| until.min(end));
            (until > now).then(|| old.digest.json(Some(until)))
        }));
    }
    let (name, value) = match digests.len() {
        1 => ("digest", digests.swap_remove(0)),
        _ => ("digests", Value::Array(digests)),
    };
    let mut changes = vec![Change { replaces: &["digest", "digests"], name, value }];
    if key.last4.is_some() {
        let last4 = to.last4.clone().into();
        changes.push(Change { replaces: &["last4"], name: "last4", value: last4 });
    }
    edit(text, format, id, &changes)
}

/// The keys of a text, in its order; of JSON lines, the last line of each id, in the order of first lines.
pub fn list(text: &str, format: Format) -> Result<Vec<Listed>, EditProblem> {
    match format {
        Format::Yaml => yaml::list(text),
        Format::JsonLines => {
            let entries = jsonl::read(text)?;
            Ok(entries.iter().map(|(_, fields)| Listed::of(fields)).collect())
        }
    }
}

/// A new key as a reader of the file would write it, for those who commit it by hand.
pub fn written(entry: &NewEntry, format: Format) -> String {
    match format {
        Format::Yaml => entry::block(&entry.fields(), "", "\n"),
        Format::JsonLines => entry::line(&entry.fields()),
    }
}

/// The lines of an entry that hold a digest.
pub fn digest_lines(digest: &Digest) -> String {
    let last4 = match digest.last4.as_str() {
        "" => String::new(),
        last4 => format!("last4: {}\n", entry::flow(&Value::from(last4))),
    };
    format!("digest: {}\n{last4}", entry::flow(&digest.json(None)))
}

/// One field of an entry that is set.
struct Change<'a> {
    /// The fields that it takes the place of.
    replaces: &'a [&'a str],
    name: &'a str,
    value: Value,
}

fn find(text: &str, format: Format, id: &str) -> Result<Listed, EditProblem> {
    let mut keys = list(text, format)?;
    match keys.iter().position(|key| key.id == id) {
        Some(at) => Ok(keys.swap_remove(at)),
        None => Err(EditProblem::Unknown { ids: keys.into_iter().map(|key| key.id).collect() }),
    }
}

fn edit(
    text: &str,
    format: Format,
    id: &str,
    changes: &[Change<'_>],
) -> Result<String, EditProblem> {
    match format {
        Format::Yaml => yaml::edit(text, id, changes),
        Format::JsonLines => jsonl::edit(text, id, changes),
    }
}

#[cfg(test)]
mod tests;
