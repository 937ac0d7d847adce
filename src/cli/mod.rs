//! The command line: one file a command. It reads arguments, environment and signals, calls the rooms below, prints,
//! and sets the exit code. It must never decide what a policy means or open the state directory.

mod args;
mod check;
mod demo;
mod failure;
mod keys;
mod notify;
mod policy;
mod remote;
mod run;
mod schema;
mod show;
mod signals;
mod suggest;
mod version;
mod when;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Command};
use failure::Failure;

/// Runs the command that the process was started with. Wrong usage ends the process with code 2, as clap tells it.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Show(arguments) => show::show(&arguments),
        Command::Schema => schema::schema(),
        Command::Version(arguments) => version::version(&arguments),
        Command::Keys(arguments) => keys::keys(arguments),
        Command::Usage(arguments) => remote::usage::usage(&arguments),
        Command::Credit(arguments) => remote::credit::credit(&arguments),
        Command::Reservations(arguments) => remote::reservations::reservations(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            if !text.is_empty() {
                tell(&text);
            }
            ExitCode::from(code as u8)
        }
    }
}

/// Prints to standard output. Output that nobody can read is a failure: it may have been a secret.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::cannot(format!("standard output cannot be written: {error}")))
}

/// Talks to the person at the terminal, on standard error.
fn tell(text: &str) {
    let gap = if text.ends_with('\n') { "" } else { "\n" };
    // There is nowhere left to complain to.
    let _ = io::stderr().lock().write_all(format!("{text}{gap}").as_bytes());
}

/// A variable of the environment, if it is there and is UTF-8.
fn environment(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the environment is read here, and handed down")]
    std::env::var(name).ok()
}
