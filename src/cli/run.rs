//! `tollgate run`: the process around a gate. Signals, systemd, descriptors; what a gate is stands in `gate.rs`.

use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::oneshot;

use super::args::{LogFormat, Run};
use super::failure::{Code, Failure};
use super::signals::{Signals, Wish};
use super::{environment, notify, tell};
use crate::clock::Clock;
use crate::config::{Overrides, Secrets};
use crate::gate::{Gate, Options, StartProblem};
use crate::telemetry::events::{Format, Level, Log};

/// The exit code of a process that a signal ended at once: 128 and the number of SIGTERM.
const CUT_SHORT: i32 = 143;

pub(super) fn run(arguments: &Run) -> Result<(), Failure> {
    raise_descriptor_limit();
    // Before the gate starts: a SIGTERM that comes early must not be lost, nor end the process halfway.
    let mut signals = Signals::listen()?;
    let format = match arguments.log {
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
    };
    let gate = start(Options {
        config: arguments.config.clone(),
        overrides: Overrides {
            listen: arguments.listen,
            upstream: arguments.upstream.clone(),
            admin: arguments.admin.clone(),
            state: arguments.state.clone(),
            secrets: Secrets::Required,
        },
        clock: Clock::system(),
        env: environment,
        log: log(format, Level::Info)?,
        records: None,
        handed: ListenFd::from_env(),
    })?;
    let status = format!("listening on {}", addresses(&gate.traffic));
    notify::ready(&status);
    let heartbeat = notify::heartbeat();
    loop {
        match signals.wait(heartbeat) {
            // Withheld when a worker is stuck, so that the service manager starts the gate anew.
            Wish::Timeout if gate.is_alive() => notify::alive(),
            Wish::Timeout => {}
            Wish::Reload => {
                notify::reloading();
                gate.reload();
                notify::ready(&status);
            }
            Wish::Stop => break,
        }
    }
    notify::stopping();
    drain(gate, &mut signals);
    Ok(())
}

/// Starts a gate, with the exit code of what keeps it from starting.
pub(super) fn start(options: Options) -> Result<Gate, Failure> {
    Gate::start(options).map_err(|problem| match problem {
        StartProblem::Policy(problems) => Failure { code: Code::Problem, text: problems },
        StartProblem::Here(why) => Failure::cannot(why),
    })
}

/// The gate's own log, on standard error. Panics of this process are events of it from now on.
pub(super) fn log(format: Format, least: Level) -> Result<Arc<Log>, Failure> {
    let log = Log::start(format, least)
        .map_err(|error| Failure::cannot(format!("the log cannot be started: {error}")))?;
    log.take_panics(Clock::system());
    Ok(log)
}

/// Drains on a thread of its own, so that a second SIGTERM can still end the process at once.
pub(super) fn drain(gate: Gate, signals: &mut Signals) {
    let (done, drained) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name("drain".to_owned()).spawn(move || {
        gate.drain();
        drop(done);
    });
    let beat = notify::heartbeat().unwrap_or(Duration::from_hours(1));
    match thread {
        Ok(_) if signals.until(drained, beat, notify::alive).is_none() => {
            tell("told to stop again: ending at once");
            process::exit(CUT_SHORT);
        }
        Ok(thread) => {
            if thread.join().is_err() {
                tell("error: the drain itself failed");
            }
        }
        Err(error) => tell(&format!("error: no thread to drain on: {error}")),
    }
}

/// Addresses, as a list for people.
pub(super) fn addresses(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A proxy needs two descriptors a request: the soft limit, 1024 by tradition, is raised to the hard one.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tell(&format!("warning: the limit of open files stays at {current:?}: {error}"));
    }
}
