//! `tollgate keys rotate`.

use serde_json::json;

use super::super::args::Rotate;
use super::super::failure::Failure;
use super::super::tell;
use super::super::when::later;
use super::{Delivery, Policy, could_not_write, edit_failed, hold, unknown};
use crate::keyfile::entry::instant;
use crate::keyfile::{self, EditProblem, Format, Overlap};

pub(super) fn rotate(arguments: &Rotate) -> Result<(), Failure> {
    let policy = Policy::load(&arguments.config)?;
    let file = policy.file_of(&arguments.id)?;
    let format = Format::of(&file);
    let (secret, digest) = policy.secret(arguments.prefix.as_deref())?;
    let overlap = match arguments.overlap {
        Some(overlap) if !overlap.is_zero() => Overlap::Until(later(policy.now, overlap)),
        _ => Overlap::None,
    };

    let held = hold(&file)?;
    let text = keyfile::rotate(held.text(), format, &arguments.id, &digest, overlap, policy.now)
        .map_err(|problem| match problem {
            EditProblem::Unknown { ids } => unknown(&arguments.id, &ids),
            problem => edit_failed(&file, &problem),
        })?;
    policy.with(&file, &text)?;
    let delivery = Delivery { json: arguments.json, file: arguments.secret_file.as_deref() };
    delivery.prepare(&secret)?;
    let until = match overlap {
        Overlap::Until(until) => Some(instant(until)),
        Overlap::None => None,
    };
    let about = json!({
        "id": arguments.id,
        "file": file.display().to_string(),
        "old_secret_until": until,
    });
    let admin = format!(
        " (this comes with a later release):\n\n    tollgate keys rotate --admin http://127.0.0.1:9901 {}",
        arguments.id
    );
    let commit = format!(
        "# in the entry of {}, in place of its digest (for an overlap, beside it in `digests`):\n{}",
        arguments.id,
        keyfile::digest_lines(&digest)
    );
    if let Err(problem) = held.replace(&text) {
        delivery.not_written(&problem, &secret, about)?;
        return Err(could_not_write(&problem, &commit, &admin));
    }
    tell(&match until {
        Some(until) => {
            format!("Key {} has a new secret; the old one is good until {until}.", arguments.id)
        }
        None => {
            format!("Key {} has a new secret; the old one is refused from now on.", arguments.id)
        }
    });
    delivery.show(&secret, about)
}
