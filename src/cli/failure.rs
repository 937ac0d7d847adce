//! How a command fails: a text for standard error, and the exit code that scripts rely on.

/// Exit codes; they keep their meaning between releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    /// A problem in what the command was given: a policy, a key file, a name.
    Problem = 1,
    /// Wrong usage of the command line. clap uses it too.
    Usage = 2,
    /// It cannot be done here: a port is taken, a file is read-only, a right is missing.
    Cannot = 3,
    /// The admin listener of the running gate cannot be reached, or refused.
    Admin = 4,
}

/// Why a command did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The exit code.
    pub(super) code: Code,
    /// What to print; empty where everything was printed before.
    pub(super) text: String,
}

impl Failure {
    /// Code 1, with the loader's own account, which needs no heading.
    pub(super) fn problems(problems: &crate::config::Problems) -> Failure {
        Failure { code: Code::Problem, text: problems.to_string() }
    }

    /// Code 1.
    pub(super) fn problem(text: impl std::fmt::Display) -> Failure {
        Failure { code: Code::Problem, text: format!("error: {text}") }
    }

    /// Code 2.
    pub(super) fn usage(text: impl std::fmt::Display) -> Failure {
        Failure { code: Code::Usage, text: format!("error: {text}") }
    }

    /// Code 4.
    pub(super) fn admin(text: impl std::fmt::Display) -> Failure {
        Failure { code: Code::Admin, text: format!("error: {text}") }
    }

    /// Code 3.
    pub(super) fn cannot(text: impl std::fmt::Display) -> Failure {
        Failure { code: Code::Cannot, text: format!("error: {text}") }
    }
}
