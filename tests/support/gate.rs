//! The gate as a process of its own, on ports from the system, with its state in memory.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::wire::{Answer, Connection, Request, send};
use super::{A_SECOND, Backend, Policy, START, eventually};

type Lines = Arc<Mutex<Vec<String>>>;

/// The running gate; it is killed when dropped.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) policy: Policy,
    pub(crate) traffic: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Gate {
    /// A gate with this policy before this backend.
    pub(crate) fn start(policy: Policy, backend: &Backend) -> Gate {
        Gate::before(policy, &backend.url())
    }

    /// A gate with this policy before whatever listens at `upstream`.
    pub(crate) fn before(policy: Policy, upstream: &str) -> Gate {
        Gate::run(policy, &["--listen", "127.0.0.1:0", "--upstream", upstream])
    }

    /// A gate whose standard output nobody reads: once the pipe is full, every write to it waits for ever.
    pub(crate) fn unread(policy: Policy, backend: &Backend) -> Gate {
        Gate::spawn(policy, &["--listen", "127.0.0.1:0", "--upstream", &backend.url()], false)
    }

    /// A gate with this policy and these flags.
    pub(crate) fn run(policy: Policy, flags: &[&str]) -> Gate {
        Gate::spawn(policy, flags, true)
    }

    fn spawn(policy: Policy, flags: &[&str], reads_stdout: bool) -> Gate {
        let file = policy.file().to_str().expect("temporary directories have plain names");
        let mut child = policy
            .command(&["run", "--config", file, "--admin", "127.0.0.1:0", "--state", "memory"])
            .args(flags)
            .args(["--log", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        // Unread, the pipe stays with the child's handle, open and full.
        let stdout = if reads_stdout {
            follow(child.stdout.take().expect("it is piped"))
        } else {
            Lines::default()
        };
        let stderr = follow(child.stderr.take().expect("it is piped"));
        let port = |listener: &str| {
            lines(&stderr).iter().find_map(|line| {
                let event: Value = serde_json::from_str(line).ok()?;
                let ours = event["event"] == "listening" && event["listener"] == listener;
                ours.then(|| event["address"].as_str()?.parse::<SocketAddr>().ok()).flatten()
            })
        };
        let up = || port("traffic").is_some() && port("admin").is_some();
        let ended = &mut child;
        let mut gone = false;
        eventually(START, || {
            gone = matches!(ended.try_wait(), Ok(Some(_)));
            gone || up()
        });
        let (Some(traffic), Some(admin)) = (port("traffic"), port("admin")) else {
            drop(child.kill());
            panic!("the gate did not start (ended: {gone}):\n{}", lines(&stderr).join("\n"));
        };
        Gate { policy, traffic, admin, child, stdout, stderr }
    }

    /// Sends a request on a connection of its own.
    pub(crate) fn send(&self, request: &Request) -> Answer {
        send(self.traffic, request)
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::to(self.traffic)
    }

    /// Whether `request` is answered with `status` within a second.
    pub(crate) fn soon(&self, request: &Request, status: u16) -> bool {
        eventually(A_SECOND, || self.send(request).status == status)
    }

    /// The access records so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        lines(&self.stdout).iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the `n`th record.
    pub(crate) fn record(&self, n: usize) -> Value {
        eventually(Duration::from_secs(5), || self.records().len() > n);
        let records = self.records();
        records.get(n).cloned().unwrap_or_else(|| panic!("only {} records", records.len()))
    }

    /// Everything that it wrote on both of its outputs.
    pub(crate) fn output(&self) -> String {
        format!("{}\n{}", lines(&self.stdout).join("\n"), lines(&self.stderr).join("\n"))
    }

    /// The admin listener's answer to a GET.
    pub(crate) fn ask_admin(&self, path: &str) -> Answer {
        send(self.admin, &Request::get(path).host("localhost").header("Connection", "close"))
    }

    /// The value of a series of `/metrics`, by its full name with labels.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let text = self.ask_admin("/metrics").text();
        let line = text
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a child has an id"), signal).expect("it is ours");
    }

    /// Its exit code, if it ends in time.
    pub(crate) fn exit_within(&mut self, time: Duration) -> Option<i32> {
        let mut status = None;
        eventually(time, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// The process's id, for signals.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory in bytes, as the kernel counts it.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let kib = status.ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmRSS:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        kib.expect("the process runs, and the kernel is Linux") * 1024
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill and the wait returns at once.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn follow(pipe: impl Read + Send + 'static) -> Lines {
    let kept = Lines::default();
    let inside = Arc::clone(&kept);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            inside.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    kept
}

fn lines(kept: &Lines) -> Vec<String> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
