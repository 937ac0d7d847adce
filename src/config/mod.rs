//! Text → the compiled policy, or every problem at once, each with file, line, caret and remedy.
//!
//! Four steps, each in its own rooms: [`tree`] (YAML through serde into located nodes), [`raw`] (the shapes: which
//! words there are and what type each has, read by [`read`], [`scalar`] and [`amount`]), [`compile`] (raw taken apart by
//! name into the [`Snapshot`]), [`problem`] (what was found on the way). The tree is there because serde stops at its first
//! error, while an operator wants all of them; raw and compiled are two sets of types with one arrow between.
//!
//! Must never: read a clock, open a socket or a file by itself (the caller hands in how to read), touch tokio or hyper.

mod amount;
mod compile;
mod defaults;
mod json_keys;
mod origin;
mod problem;
mod raw;
mod read;
mod scalar;
mod schema;
mod show;
mod template;
mod tree;
mod words;
mod yaml_keys;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::Digest;

pub use compile::upstream_complaint;
pub use origin::{Origins, Place};
pub use problem::{Problem, Problems, Severity};
pub use schema::schema;
pub use show::{Show, show};

use crate::clock::Wall;
use crate::policy::snapshot::Snapshot;
use read::Read;

/// Opens a file, and says how many bytes it has.
pub type Open = dyn Fn(&Path) -> io::Result<(Box<dyn io::Read>, u64)>;

/// How the loader reaches the world.
pub struct Sources<'a> {
    /// Reads a whole file.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Opens a file that may be too large to be held whole; `None`: such files are read whole as well.
    pub open: Option<&'a Open>,
    /// Lists the files of a directory; the empty path is the current one.
    pub list: &'a dyn Fn(&Path) -> io::Result<Vec<PathBuf>>,
    /// A variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Called at least every half millisecond of work that grows with the number of keys. A loader that shares its cores with
    /// requests may rest there.
    pub breathe: &'a dyn Fn(),
}

impl Sources<'_> {
    fn opened(&self, path: &Path) -> io::Result<(Box<dyn io::Read>, u64)> {
        match self.open {
            Some(open) => open(path),
            None => (self.read)(path).map(|bytes| {
                let length = bytes.len() as u64;
                (Box::new(io::Cursor::new(bytes)) as Box<dyn io::Read>, length)
            }),
        }
    }
}

/// Flags of the command line, which win over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Moves the first listener and drops the others.
    pub listen: Option<SocketAddr>,
    /// The upstream's URL; its other settings stay.
    pub upstream: Option<String>,
    /// An address, or `none`.
    pub admin: Option<String>,
    /// `memory`, or a directory relative to where the command runs.
    pub state: Option<String>,
    /// Whether secrets and certificates must be there.
    pub secrets: Secrets,
}

/// Whether what `{ env: … }`, `{ file: … }` and certificate paths name must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// What is missing is an error: the policy is to be put in force.
    #[default]
    Required,
    /// What is missing is a warning, and empty: a policy is checked away from its host (`check --offline`).
    Optional,
}

/// A policy that can be put in force.
#[derive(Debug)]
pub struct Loaded {
    /// The compiled policy.
    pub snapshot: Snapshot,
    /// What somebody should look at.
    pub warnings: Problems,
    /// What `check` tells beside problems, such as what a bucket lets through in a first minute.
    pub notes: Vec<String>,
    /// Everything that was read: policy, key files, certificates, secrets. To be watched.
    pub files: Vec<PathBuf>,
    /// Where values were written, for `show`.
    pub origins: Origins,
    /// How new keys are made and where they go.
    pub issuing: Issuing,
}

/// How new keys are made (`credentials:`), for `keys new`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuing {
    /// The key files, in the order of the policy; new keys go to the first.
    pub key_files: Vec<PathBuf>,
    /// What a key may do that is made without a scope.
    pub scopes: NewKeyScopes,
    /// How long a new key lives; `None`: for ever.
    pub expires: Option<Duration>,
}

/// `new_keys: { scopes: … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewKeyScopes {
    /// Scopes must be given.
    Required,
    /// Without scopes it may do everything that its tenant and plan may.
    All,
    /// As `All`: the key follows what its tenant has, also later.
    Tenant,
    /// These.
    Listed(Vec<String>),
}

/// Loads the policy at `path` with everything it names. On failure *all* problems are told, warnings too, and nothing
/// else happens. `previous` lends its slots (so that metrics keep their places) and its upstream where that is equal.
pub fn load(
    path: &Path,
    overrides: &Overrides,
    sources: &Sources<'_>,
    now: Wall,
    previous: Option<&Snapshot>,
) -> Result<Loaded, Problems> {
    let mut desk = compile::Desk::new(path, sources, now, overrides.secrets);
    let compiled = read_policy(path, &mut desk)
        .and_then(|policy| compile::compile(policy, overrides, previous, &mut desk));
    let compile::Desk { findings, mut files, notes, origins, .. } = desk;
    let warnings = findings.finish()?;
    let Some(compile::Compiled { snapshot, issuing }) = compiled else {
        return Err(warnings);
    };
    files.sort();
    files.dedup();
    Ok(Loaded { snapshot, warnings, notes, files, origins, issuing })
}

fn read_policy(path: &Path, desk: &mut compile::Desk<'_>) -> Option<raw::Policy> {
    desk.files.push(path.to_owned());
    let bytes = match (desk.sources.read)(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            desk.findings.file_error(path, format!("the policy cannot be read: {error}"), None);
            return None;
        }
    };
    desk.digest.update(&bytes);
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            desk.findings.file_error(path, format!("this is no UTF-8: byte {at}"), None);
            return None;
        }
    };
    let Some(file) = desk.findings.source(path, text) else {
        desk.findings.file_error(path, "the file is too large", None);
        return None;
    };
    let node = tree::parse(file, &mut desk.findings)?;
    raw::Policy::read(&node, &mut desk.findings)
}

#[cfg(test)]
mod tests;
