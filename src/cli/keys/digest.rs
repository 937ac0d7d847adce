//! `tollgate keys digest`.

use std::io::{self, Read as _};

use super::super::args::Digest;
use super::super::failure::Failure;
use super::super::{print, tell};
use super::Policy;
use crate::keyfile::digest_lines;
use crate::keyfile::secret::Secret;

/// The longest secret that is read.
const MOST: u64 = 4096;

pub(super) fn digest(arguments: &Digest) -> Result<(), Failure> {
    let policy = arguments.config.as_deref().map(Policy::load).transpose()?;
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MOST + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::problem(format!("the secret on standard input: {error}")))?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() || secret.len() as u64 > MOST || secret.contains(char::is_control) {
        return Err(Failure::problem("expected one secret on standard input, on one line"));
    }
    if secret.len() < 20 {
        tell("warning: a secret this short may be guessed; a digest does not protect it");
    }
    let pepper = match &policy {
        Some(policy) => policy.pepper()?,
        None => None,
    };
    print(&digest_lines(&Secret::imported(secret.to_owned()).digest(pepper)))
}
