//! `tollgate keys …`: key files edited through the policy that names them. What a command is about to write is given to
//! the loader first, under the file's lock, so that a running gate never meets a file that it must refuse.

mod digest;
mod list;
mod new;
mod revoke;
mod rotate;

use std::fs;
use std::path::{Path, PathBuf};

use super::args::{Keys, KeysCommand};
use super::failure::Failure;
use super::policy::{Draft, load_for_keys, same_file};
use super::suggest::nearest;
use super::{print, tell};
use crate::clock::{Clock, Wall};
use crate::config::{Loaded, Problems};
use crate::keyfile::secret::{NoRandomness, Secret};
use crate::keyfile::write::{Held, WriteProblem, write_private};
use crate::keyfile::{EditProblem, Format, Listed, list as list_keys};
use crate::policy::credential::Pepper;

/// Runs one of them.
pub(super) fn keys(keys: Keys) -> Result<(), Failure> {
    match keys.command {
        KeysCommand::New(arguments) => new::new(&arguments),
        KeysCommand::Revoke(arguments) => revoke::revoke(&arguments),
        KeysCommand::Restore(arguments) => super::remote::keys::restore(&arguments),
        KeysCommand::Rotate(arguments) => rotate::rotate(&arguments),
        KeysCommand::List(arguments) => list::list(&arguments),
        KeysCommand::Digest(arguments) => digest::digest(&arguments),
    }
}

/// A policy whose keys are worked on.
struct Policy<'a> {
    path: &'a Path,
    loaded: Loaded,
    now: Wall,
}

impl<'a> Policy<'a> {
    fn load(path: &'a Path) -> Result<Policy<'a>, Failure> {
        let now = Clock::system().now().wall;
        let loaded =
            load_for_keys(path, None, now).map_err(|problems| Failure::problems(&problems))?;
        Ok(Policy { path, loaded, now })
    }

    /// The policy as it would be with this text in this key file.
    fn with(&self, path: &Path, text: &str) -> Result<Loaded, Failure> {
        load_with(self.path, path, text, self.now).map_err(|problems| unchanged(&problems))
    }

    /// The prefix of a new secret: the one asked for, if the policy has it, or the first.
    fn prefix(&self, wanted: Option<&str>) -> Result<&str, Failure> {
        let prefixes = &self.loaded.snapshot.credentials.prefixes;
        match wanted {
            None => {
                let first = prefixes.first().map_or("", |prefix| prefix);
                if prefixes.len() > 1 {
                    tell(&format!("The secret starts with {first}; --prefix chooses another."));
                }
                Ok(first)
            }
            Some(wanted) => {
                prefixes.iter().map(|prefix| &**prefix).find(|p| *p == wanted).ok_or_else(|| {
                    let known: Vec<&str> = prefixes.iter().map(|prefix| &**prefix).collect();
                    Failure::problem(match known.as_slice() {
                        [] => format!(
                            "the policy has no prefix {wanted}; `credentials.prefix` names none"
                        ),
                        known => format!(
                            "the policy has no prefix {wanted}; it has {}",
                            known.join(", ")
                        ),
                    })
                })
            }
        }
    }

    /// The key file that holds `id`.
    fn file_of(&self, id: &str) -> Result<PathBuf, Failure> {
        let mut ids = Vec::new();
        for path in &self.loaded.issuing.key_files {
            let keys = keys_of(path)?;
            if keys.iter().any(|key| key.id == id) {
                return Ok(path.clone());
            }
            ids.extend(keys.into_iter().map(|key| key.id));
        }
        Err(unknown(id, &ids))
    }

    /// A secret for a key, with what is stored of it.
    fn secret(&self, prefix: Option<&str>) -> Result<(Secret, crate::keyfile::Digest), Failure> {
        let prefix = self.prefix(prefix)?;
        let secret = Secret::new(prefix).map_err(|NoRandomness(why)| {
            Failure::cannot(format!("the operating system gave no random numbers: {why}"))
        })?;
        let digest = secret.digest(self.pepper()?);
        Ok((secret, digest))
    }

    /// The pepper that digests are made with, which must be here if the policy has one.
    fn pepper(&self) -> Result<Option<&Pepper>, Failure> {
        match self.loaded.snapshot.credentials.peppers.first() {
            Some(Pepper(bytes)) if bytes.is_empty() => {
                let mut failure =
                    Failure::cannot("without the policy's pepper no digest can be made");
                failure.text = format!("{}\n{}", self.loaded.warnings, failure.text);
                Err(failure)
            }
            pepper => Ok(pepper),
        }
    }
}

fn load_with(policy: &Path, path: &Path, text: &str, now: Wall) -> Result<Loaded, Problems> {
    load_for_keys(policy, Some(Draft { path, text }), now)
}

/// The keys in a file; one that does not exist yet has none.
fn keys_of(path: &Path) -> Result<Vec<Listed>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => {
            list_keys(&text, Format::of(path)).map_err(|problem| edit_failed(path, &problem))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::cannot(format!("{}: {error}", path.display()))),
    }
}

fn unknown(id: &str, ids: &[String]) -> Failure {
    let near = nearest(id, ids.iter().map(String::as_str));
    let near = match near.as_slice() {
        [] => "; `tollgate keys list` shows them all".to_owned(),
        near => format!("; did you mean {}?", near.join(" or ")),
    };
    Failure::problem(format!("there is no key {id}{near}"))
}

fn edit_failed(path: &Path, problem: &EditProblem) -> Failure {
    Failure::problem(format!("{}: {problem}", path.display()))
}

fn unchanged(problems: &Problems) -> Failure {
    let mut failure =
        Failure::problem("with this key the policy would not load; nothing was changed");
    failure.text = format!("{problems}\n{}", failure.text);
    failure
}

fn hold(path: &Path) -> Result<Held, Failure> {
    Held::lock(path).map_err(|problem| match problem {
        WriteProblem::NoText(_) | WriteProblem::NoFile(_) => Failure::problem(problem),
        problem => Failure::cannot(problem),
    })
}

/// The two ways out where a key file cannot be written here.
fn ways_out(problem: &WriteProblem, commit: &str, admin: &str) -> Failure {
    Failure::cannot(format!(
        "{problem}; nothing was changed. Two ways out:\n\
         1. Commit this to where the file comes from:\n\n{commit}\n\
         2. Tell the running gate{admin}\n"
    ))
}

fn could_not_write(problem: &WriteProblem, commit: &str, admin: &str) -> Failure {
    if by_hand(problem) {
        ways_out(problem, commit, admin)
    } else {
        Failure::cannot(format!("{problem}; nothing was changed"))
    }
}

/// Whether somebody else could write what could not be written here.
fn by_hand(problem: &WriteProblem) -> bool {
    matches!(problem, WriteProblem::Symlink(_) | WriteProblem::ReadOnly(..))
}

/// Where a secret goes.
struct Delivery<'a> {
    json: bool,
    file: Option<&'a Path>,
}

impl Delivery<'_> {
    /// What can fail is done first: the secret's own file, if it gets one.
    fn prepare(&self, secret: &Secret) -> Result<(), Failure> {
        let Some(file) = self.file else { return Ok(()) };
        let text = format!("{}\n", secret.reveal());
        write_private(file, &text).map_err(|error| {
            Failure::cannot(format!("{}: {error}; nothing was changed", file.display()))
        })
    }

    /// The key file was not written. Where its entry can be committed by hand, the secret is good as soon as that is
    /// done, so it is shown all the same; otherwise nothing of it stays.
    fn not_written(
        &self,
        problem: &WriteProblem,
        secret: &Secret,
        about: serde_json::Value,
    ) -> Result<(), Failure> {
        if by_hand(problem) {
            return self.show(secret, about);
        }
        if let Some(file) = self.file {
            // The failure that led here is the one to tell.
            let _ = fs::remove_file(file);
        }
        Ok(())
    }

    /// Shows the secret, this once, and nothing else on standard output.
    fn show(&self, secret: &Secret, mut about: serde_json::Value) -> Result<(), Failure> {
        if let Some(file) = self.file {
            tell(&format!("Its secret is in {}.", file.display()));
        }
        if self.json {
            if self.file.is_none() {
                about["secret"] = secret.reveal().into();
            }
            return print(&format!("{about}\n"));
        }
        match self.file {
            Some(_) => Ok(()),
            None => print(&format!("{}\n", secret.reveal())).map_err(|mut failure| {
                failure.text += "; the secret was not shown, `tollgate keys rotate` makes another";
                failure
            }),
        }
    }
}

/// The key file that `--file` means: as the policy names it, if it does.
fn named_by_policy(files: &[PathBuf], wanted: &Path) -> PathBuf {
    files.iter().find(|file| same_file(file, wanted)).cloned().unwrap_or_else(|| wanted.to_owned())
}
