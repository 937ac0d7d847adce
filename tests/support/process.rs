//! The gate as a process that may die, or refuse to start, on a state directory that outlives it.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::frail::attempt;
use super::wire::{Answer, Request};
use super::{Policy, eventually};

/// What a start on a state of some size may take, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(20);

/// How a gate is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Launch<'a> {
    policy: &'a Policy,
    upstream: String,
    state: PathBuf,
    address: Ipv4Addr,
    environment: Vec<(&'static str, String)>,
}

/// A gate that serves. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) traffic: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
    said: Said,
}

/// A start that came to nothing.
#[derive(Clone, Debug)]
pub(crate) struct NotStarted {
    /// Its exit code; `None`: it was ended by a signal, or did not end.
    pub(crate) code: Option<i32>,
    /// All that it said on standard error.
    pub(crate) said: String,
}

type Said = Arc<Mutex<Vec<String>>>;

impl<'a> Launch<'a> {
    /// With this policy, before this upstream, on the state directory `state`.
    pub(crate) fn new(policy: &'a Policy, upstream: &str, state: &Path) -> Launch<'a> {
        Launch {
            policy,
            upstream: upstream.to_owned(),
            state: state.to_owned(),
            address: Ipv4Addr::LOCALHOST,
            environment: Vec::new(),
        }
    }

    /// On another address of this host. Who still asks a gate that has died must not find one of another test on its port.
    pub(crate) fn on(self, address: Ipv4Addr) -> Launch<'a> {
        Launch { address, ..self }
    }

    /// With a variable in its environment.
    pub(crate) fn with(&self, name: &'static str, value: &str) -> Launch<'a> {
        let mut launch = self.clone();
        launch.environment.push((name, value.to_owned()));
        launch
    }

    /// Starts it; returns once it serves, or once it has ended.
    pub(crate) fn try_start(&self) -> Result<Process, NotStarted> {
        let file = self.policy.file().to_str().expect("temporary directories have plain names");
        let state = self.state.to_str().expect("temporary directories have plain names");
        let any_port = format!("{}:0", self.address);
        let mut child = self
            .policy
            .command(&["run", "--config", file, "--state", state, "--upstream", &self.upstream])
            .args(["--listen", &any_port, "--admin", &any_port, "--log", "json"])
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let said = Said::default();
        let pipe = child.stderr.take().expect("it is piped");
        let kept = Arc::clone(&said);
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let mut ended = None;
        eventually(START, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || port(&said, "traffic").is_some() && port(&said, "admin").is_some()
        });
        match (ended, port(&said, "traffic"), port(&said, "admin")) {
            (None, Some(traffic), Some(admin)) => Ok(Process { traffic, admin, child, said }),
            (ended, ..) => {
                // It may have ended by itself; then there is nothing to kill.
                drop(child.kill());
                drop(child.wait());
                drop(reader.join());
                Err(NotStarted { code: ended.and_then(|status| status.code()), said: text(&said) })
            }
        }
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start(&self) -> Process {
        self.try_start()
            .unwrap_or_else(|not| panic!("it did not start: {:?}\n{}", not.code, not.said))
    }

    /// Starts it, which must fail.
    #[track_caller]
    pub(crate) fn refusal(&self) -> NotStarted {
        match self.try_start() {
            Ok(process) => panic!("it started:\n{}", process.said()),
            Err(not) => not,
        }
    }
}

impl Process {
    /// Everything that it said on standard error so far.
    pub(crate) fn said(&self) -> String {
        text(&self.said)
    }

    /// The admin listener's answer.
    #[track_caller]
    pub(crate) fn ask_admin(&self, path: &str) -> Answer {
        let request = Request::get(path).host("localhost");
        attempt(self.admin, &request).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// For signals.
    pub(crate) fn pid(&self) -> Pid {
        let raw = i32::try_from(self.child.id()).ok();
        raw.and_then(Pid::from_raw).expect("a child has an id")
    }

    /// As an operator, or a machine without memory, would end it. Returns once it is gone.
    pub(crate) fn kill(mut self) {
        // It may have died by itself a moment ago.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Ends it as a service manager would, and waits until it has; its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(self.pid(), Signal::TERM).expect("it is ours");
        self.wait_within(Duration::from_secs(20)).and_then(|status| status.code())
    }

    /// How it ended, if it does so by itself in time.
    pub(crate) fn wait_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let mut status = None;
        eventually(time, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status
    }

    /// Whether it has not ended.
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill, and the wait returns at once.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn text(said: &Said) -> String {
    said.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
}

fn port(said: &Said, listener: &str) -> Option<SocketAddr> {
    said.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        let ours = event["event"] == "listening" && event["listener"] == listener;
        ours.then(|| event["address"].as_str()?.parse().ok()).flatten()
    })
}
