//! A running gate: its parts put together, and taken apart in order. Never handles a request.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use listenfd::ListenFd;

use crate::admin::{self, AdminHandle, AdminState, Turn};
use crate::clock::Clock;
use crate::config::{self, Loaded, Overrides, Sources};
use crate::policy::snapshot::{AdminListener, Drain, RecordSink, Scheme, Snapshot, StateAt};
use crate::proxy;
use crate::proxy::context::{Common, Pulse};
use crate::proxy::counters::ConnectionCounters;
use crate::proxy::listen::Listeners;
use crate::proxy::served_tls::ServedTls;
use crate::proxy::tls::TlsProblem;
use crate::proxy::worker::Workers;
use crate::reload::breath::Breath;
use crate::reload::{self, ReloadHandle};
use crate::store::{Backing, Ledger, OpenedBacking, Restored};
use crate::telemetry::decision_id::BootId;
use crate::telemetry::events::{Event, Log};
use crate::telemetry::lifecycle::Lifecycle;
use crate::telemetry::metrics::{BuildInfo, ConnectionFigures, Metrics};
use crate::telemetry::record::RecordWriter;
use crate::upkeep::{self, Upkeep, Wake};

/// How long a worker may keep no house before it counts as stuck; it does ten times a second.
const STUCK: Duration = Duration::from_secs(5);
/// How long the last records and log lines may take to be written at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a gate is started with.
pub struct Options {
    /// The policy file.
    pub config: PathBuf,
    /// Flags that win over it.
    pub overrides: Overrides,
    /// The time.
    pub clock: Clock,
    /// A variable of the environment.
    pub env: fn(&str) -> Option<String>,
    /// Where the gate speaks of itself.
    pub log: Arc<Log>,
    /// Where access records go, whatever the policy says; `None`: as it says.
    pub records: Option<RecordSink>,
    /// Sockets that the service manager handed over.
    pub handed: ListenFd,
}

/// Why a gate cannot start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartProblem {
    /// The policy is none; every problem, for people.
    Policy(String),
    /// This machine or this user does not let it run: what, and the remedy.
    Here(String),
}

impl fmt::Display for StartProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (StartProblem::Policy(text) | StartProblem::Here(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for StartProblem {}

/// A gate that runs. Dropped, it ends at once.
#[derive(Debug)]
pub struct Gate {
    /// The addresses that clients connect to, with real ports.
    pub traffic: Vec<SocketAddr>,
    /// The admin listener's address.
    pub admin: Option<SocketAddr>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    common: Common,
    workers: Arc<Workers>,
    reload: ReloadHandle,
    upkeep: Upkeep,
    admin: Option<AdminHandle>,
    log: Arc<Log>,
}

impl Gate {
    /// Loads the policy, binds the listeners and serves. Returns when requests are answered.
    pub fn start(options: Options) -> Result<Gate, StartProblem> {
        let Options { config, overrides, clock, env, log, records, handed } = options;
        let since = clock.now().wall;
        let loaded =
            load(&config, &overrides, env, &clock, None, &|| ()).map_err(StartProblem::Policy)?;
        let Loaded { snapshot, warnings, files, .. } = loaded;
        let server = snapshot.server.clone();
        let workers = server.workers.unwrap_or_else(cores);

        let tls = ServedTls::new(&server.listeners)
            .map_err(|problem| StartProblem::Policy(problem.to_string()))?;
        // Before any address is taken: a gate that cannot remember must not be seen by anybody.
        let ledger = open_state(&server.state, snapshot.bounds.subjects, &clock, &log)?;
        let mut handed = Listeners::inherited(handed);
        let bound =
            Listeners::bind(&server.listeners, &mut handed).map_err(|problem| here(&problem))?;
        let traffic: Vec<SocketAddr> = bound.iter().map(proxy::listen::Bound::local_addr).collect();

        let sink = records.unwrap_or_else(|| snapshot.record.to.clone());
        let records =
            RecordWriter::start(&sink, Arc::clone(&log), clock.clone()).map_err(|error| {
                StartProblem::Here(format!("access records cannot be written: {error}"))
            })?;
        let started = clock.steady();
        let boot = BootId::draw().map_err(|error| here(&error))?;
        let metrics = Metrics::new(workers, build_info(), clock.clone());
        metrics.watch_dropped("records", records.dropped());
        let log_dropped = Arc::clone(&log);
        metrics.watch_dropped("log", move || log_dropped.dropped());
        metrics.make_room(&snapshot);

        let common = Common {
            ledger,
            policy: Arc::new(ArcSwap::from_pointee(snapshot)),
            lifecycle: Arc::new(Lifecycle::new()),
            records: Arc::new(records),
            tls: Arc::new(tls),
            metrics,
            clock,
            boot,
            workers,
            log: Arc::clone(&log),
            strikes: Arc::default(),
            pulses: (0..workers).map(|_| Pulse::starting(started)).collect(),
        };
        let workers = Arc::new(proxy::start(common.clone(), &bound).map_err(|error| here(&error))?);
        for counters in workers.counters() {
            let counters = Arc::clone(counters);
            common.metrics.watch_connections("traffic", move || figures(&counters));
        }
        let wake = Wake::new(workers.waker());
        let upkeep =
            start_upkeep(&common, &server.state, &wake, &log).map_err(|error| here(&error))?;
        // Set here only, so that there is nothing to fail.
        let _ = common.strikes.set(upkeep.strikes());
        let admin =
            server.admin.map(|admin| start_admin(admin, &common, wake, &log)).transpose()?;
        let reload = start_reload(
            config,
            overrides,
            env,
            &common,
            &workers,
            &log,
            Followed { files, since, warnings: warnings.to_string() },
        )
        .map_err(|error| here(&error))?;
        let now = common.clock.now().wall;
        for address in &traffic {
            log.say(now, &Event::Listening { listener: "traffic", address: *address });
        }
        common.lifecycle.serving();
        Ok(Gate {
            traffic,
            admin: admin.as_ref().map(|admin| admin.local_addr),
            running: Some(Running { common, workers, reload, upkeep, admin, log }),
        })
    }

    /// Looks at the files now, and opens the access log anew (SIGHUP). Returns at once.
    pub fn reload(&self) {
        if let Some(running) = &self.running {
            // A queue that is full of records takes no request; the next SIGHUP asks again.
            let _ = running.common.records.reopen();
            running.reload.request();
        }
    }

    /// Whether requests are served: the first policy is in force and no drain has begun.
    pub fn is_ready(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.common.lifecycle.ready().is_ok())
    }

    /// Whether every worker moves: a watchdog that is told so by anything less proves nothing.
    pub fn is_alive(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let now = running.common.clock.steady();
            let moves = |pulse: &Pulse| u128::from(now.since(pulse.last())) < STUCK.as_nanos();
            running.common.pulses.iter().all(moves)
        })
    }

    /// Ends as the policy's `drain` says: readiness fails, accepting goes on for the delay, then what is open has until
    /// the deadline. Returns when everything is over.
    pub fn drain(mut self) {
        let drain = self.running.as_ref().map(|running| running.common.policy.load().drain);
        if let (Some(running), Some(drain)) = (self.running.take(), drain) {
            running.end(drain);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end(Drain { delay: Duration::ZERO, deadline: Duration::ZERO });
        }
    }
}

impl Running {
    fn end(self, drain: Drain) {
        let Running { common, workers, reload, upkeep, admin, log } = self;
        common.lifecycle.draining();
        let counters = workers.counters().to_vec();
        let sum = |of: fn(&ConnectionCounters) -> &AtomicU64| {
            counters.iter().map(|counters| of(counters).load(Ordering::Relaxed)).sum()
        };
        log.say(common.clock.now().wall, &Event::Draining { open: sum(|counters| &counters.open) });
        workers.drain(drain.delay, drain.deadline);
        reload.stop();
        // The reload's hand on the workers is gone with its thread; this one is the last.
        let workers_end = Arc::try_unwrap(workers).map(Workers::join);
        if !matches!(workers_end, Ok(Ok(()))) {
            let event = Event::TaskFailed { task: "worker", why: "its thread ended by a panic" };
            log.say(common.clock.now().wall, &event);
        }
        drop(upkeep);
        close_state(&common);
        common.records.finish(LAST_WORDS);
        log.say(common.clock.now().wall, &Event::Drained { cut: sum(|counters| &counters.cut) });
        drop(admin);
        log.flush(LAST_WORDS);
    }
}

/// The ledger with what stands behind it, and what that remembers.
fn open_state(
    state: &StateAt,
    subjects_bound: usize,
    clock: &Clock,
    log: &Arc<Log>,
) -> Result<Arc<Ledger>, StartProblem> {
    let now = clock.now();
    let directory = match state {
        StateAt::Memory => {
            log.say(now.wall, &Event::StateForgets);
            return Ok(Ledger::new(subjects_bound, Backing::None, Restored::default()));
        }
        StateAt::Directory(directory) => directory,
    };
    let (said, time) = (Arc::clone(log), clock.clone());
    let on_failure = move |why: &str| {
        let why = format!(
            "{why}. Find out why (disk full, read-only, broken), then restart the gate: until then nothing more is \
             promised"
        );
        said.say(time.now().wall, &Event::StateFailed { why: &why });
    };
    let opened = Backing::open(directory, now, Box::new(on_failure));
    let OpenedBacking { backing, restored, opened_up } = opened.map_err(|error| here(&error))?;
    for path in opened_up {
        log.say(now.wall, &Event::StateClosedToOthers { path: &path.to_string_lossy() });
    }
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let event = Event::StateOpened {
        directory: &directory.to_string_lossy(),
        meters: count(restored.meters.len()),
        records: count(restored.records.len()),
        unresolved: count(restored.pending.len()),
    };
    log.say(now.wall, &event);
    Ok(Ledger::new(subjects_bound, backing, restored))
}

/// Makes the last uses durable, and lets a successor have the directory. A store that failed before was said to have.
fn close_state(common: &Common) {
    let ledger = &common.ledger;
    // What is handed on here is durable when `close` returns.
    let _ = ledger.finish(common.clock.now(), Box::new(|_| {}));
    ledger.backing().close();
}

/// What the reload follows from the first load on.
struct Followed {
    files: Vec<PathBuf>,
    since: crate::clock::Wall,
    warnings: String,
}

fn start_reload(
    config: PathBuf,
    overrides: Overrides,
    env: fn(&str) -> Option<String>,
    common: &Common,
    workers: &Arc<Workers>,
    log: &Arc<Log>,
    followed: Followed,
) -> std::io::Result<ReloadHandle> {
    let parts = reload::policy::Parts {
        current: Arc::clone(&common.policy),
        files: followed.files,
        since: followed.since,
        metrics: Arc::clone(&common.metrics),
        lifecycle: Arc::clone(&common.lifecycle),
        log: Arc::clone(log),
        clock: common.clock.clone(),
    };
    let clock = common.clock.clone();
    let load_again = move |current: Option<&Snapshot>| {
        let breath = Breath::new(&clock);
        let loaded = load(&config, &overrides, env, &clock, current, &|| breath.draw())?;
        Ok((loaded.snapshot, loaded.files, loaded.warnings.to_string()))
    };
    let (wakes, in_force) = (Arc::clone(workers), common.clone());
    let wake = move || {
        let policy = in_force.policy.load();
        in_force.tls.refresh(&policy.server.listeners);
        in_force.ledger.set_subjects_bound(policy.bounds.subjects);
        wakes.refresh();
    };
    reload::policy::start(parts, &followed.warnings, load_again, wake)
}

fn start_upkeep(
    common: &Common,
    state: &StateAt,
    wake: &Wake,
    log: &Arc<Log>,
) -> std::io::Result<Upkeep> {
    Upkeep::start(upkeep::Parts {
        ledger: Arc::clone(&common.ledger),
        policy: Arc::clone(&common.policy),
        metrics: Arc::clone(&common.metrics),
        lifecycle: Arc::clone(&common.lifecycle),
        log: Arc::clone(log),
        clock: common.clock.clone(),
        wake: wake.clone(),
        directory: match state {
            StateAt::Memory => None,
            StateAt::Directory(directory) => Some(directory.clone()),
        },
    })
}

fn start_admin(
    listener: AdminListener,
    common: &Common,
    wake: Wake,
    log: &Arc<Log>,
) -> Result<AdminHandle, StartProblem> {
    let AdminListener { address, token } = listener;
    let state = AdminState {
        metrics: Arc::clone(&common.metrics),
        lifecycle: Arc::clone(&common.lifecycle),
        snapshot: Some(Arc::clone(&common.policy)),
        ledger: Arc::clone(&common.ledger),
        token,
        wake,
        turn: Turn::default(),
        log: Arc::clone(log),
        clock: common.clock.clone(),
    };
    admin::start(address, state).map_err(|error| {
        StartProblem::Here(proxy::listen::BindProblem { address, error }.to_string())
    })
}

/// The loader with the file system behind it, and with what only the shell can check: whether TLS material fits.
pub fn load(
    config: &Path,
    overrides: &Overrides,
    env: fn(&str) -> Option<String>,
    clock: &Clock,
    previous: Option<&Snapshot>,
    breathe: &dyn Fn(),
) -> Result<Loaded, String> {
    let sources = Sources {
        read: &|path| std::fs::read(path),
        open: Some(&open_file),
        list: &list_directory,
        env: &env,
        breathe,
    };
    let loaded = config::load(config, overrides, &sources, clock.now().wall, previous)
        .map_err(|problems| problems.to_string())?;
    check_tls(&loaded.snapshot).map_err(|problem| format!("error: {problem}"))?;
    Ok(loaded)
}

/// Whether keys fit their certificates and authorities can be read: what the loader, which knows no TLS, leaves open.
pub fn check_tls(snapshot: &Snapshot) -> Result<(), TlsProblem> {
    ServedTls::check(&snapshot.server.listeners)?;
    match snapshot.upstream.scheme {
        Scheme::Http => Ok(()),
        Scheme::Https => proxy::tls::client_config(&snapshot.upstream).map(drop),
    }
}

fn open_file(path: &Path) -> std::io::Result<(Box<dyn std::io::Read>, u64)> {
    let file = std::fs::File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((Box::new(file), bytes))
}

/// The files of a directory; the empty path is the current one.
pub fn list_directory(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn figures(counters: &ConnectionCounters) -> ConnectionFigures {
    ConnectionFigures {
        open: counters.open.load(Ordering::Relaxed),
        accepted: counters.accepted.load(Ordering::Relaxed),
        refused: counters.refused_over_cap.load(Ordering::Relaxed),
        upstream_active: counters.upstream_active.load(Ordering::Relaxed),
        upstream_idle: counters.upstream_idle.load(Ordering::Relaxed),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn build_info() -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION"),
        revision: option_env!("TOLLGATE_REVISION").unwrap_or("unknown"),
    }
}

fn here(problem: &dyn fmt::Display) -> StartProblem {
    StartProblem::Here(problem.to_string())
}
