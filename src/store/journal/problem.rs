//! Why a state directory cannot be used: said before a listener is bound, never guessed around.

use std::fmt;
use std::path::PathBuf;

/// Why a state directory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenProblem {
    /// Another process uses it.
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// Another release wrote it, in a format that this one does not read.
    OtherFormat {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        found: u64,
        /// The format of this release.
        known: u64,
    },
    /// Something in it is not what was written there.
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system does not let it be used.
    Unusable {
        /// The file or the directory.
        path: PathBuf,
        /// What was tried, and what the system said.
        what: String,
    },
}

impl fmt::Display for OpenProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenProblem::Locked { directory } => write!(
                f,
                "the state directory {} is in use by another tollgate.\nTwo gates would spend the same money twice. \
                 Stop the other one, or give this one a directory of its own (`state:` in the policy, or --state).",
                directory.display()
            ),
            OpenProblem::OtherFormat { directory, found, known } => write!(
                f,
                "the state directory {} has format {found}; this release knows format {known}.\nStart the release that \
                 wrote it, or restore a backup that this release wrote, or give this one a directory of its own \
                 (`state:` in the policy, or --state).",
                directory.display()
            ),
            OpenProblem::Corrupt { file, what } => write!(
                f,
                "the state is damaged: {}: {what}.\nRestore the whole directory from a backup. Or move it away and \
                 start anew: then the use of quotas and spend, prepaid credit, keys revoked at run time and \
                 idempotency records are forgotten, and a repeated request may be forwarded a second time.",
                file.display()
            ),
            OpenProblem::Unusable { path, what } => write!(
                f,
                "the state cannot be kept: {}: {what}.\nThe directory must belong to the user that runs the gate and be \
                 writable; `state: memory` keeps nothing.",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenProblem {}
