//! The reloader at work on the gate's own kind of policy: what metrics, readiness and the admin listener say of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tollgate::admin::{self, AdminHandle, AdminState, Turn};
use tollgate::clock::Clock;
use tollgate::policy::address::{AddressSource, ClientAddressRule, Nets};
use tollgate::policy::answer::Answers;
use tollgate::policy::challenge::Challenges;
use tollgate::policy::credential::Credentials;
use tollgate::policy::idempotency::RecordBounds;
use tollgate::policy::keys::Keys;
use tollgate::policy::report::{RateLimitFields, Report, Spelling, XRateLimit};
use tollgate::policy::route::Router;
use tollgate::policy::snapshot::{
    Bounds, Drain, HostRule, Identity, Listener, RecordRule, RecordSink, Scheme, Server, Snapshot,
    StateAt, Upstream, UpstreamProtocol, UpstreamTls,
};
use tollgate::reload::ReloadHandle;
use tollgate::reload::policy::{Parts, start};
use tollgate::store::{Backing, Ledger, Restored};
use tollgate::telemetry::events::Log;
use tollgate::telemetry::lifecycle::Lifecycle;
use tollgate::telemetry::metrics::{BuildInfo, Metrics};
use tollgate::upkeep::Wake;

/// A policy out of a file of words: its digest is the text, `listen=N` its port, `upstream=N` the upstream's, asked by
/// readiness.
fn policy(text: &str) -> Result<Snapshot, String> {
    let word = |name: &str| {
        text.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse::<u16>().ok())
    };
    if text.contains("bad") {
        return Err(format!("line 1: {text}"));
    }
    let second = Duration::from_secs(1);
    Ok(Snapshot {
        calendars: Vec::new(),
        records: RecordBounds { records: 0, per_tenant: 0, bytes: 0 },
        auto_revoke: Vec::new(),
        digest: text.into(),
        keys_digest: "keys".into(),
        router: Router::default(),
        routes: Vec::new(),
        scopes: Vec::new(),
        grants: Vec::new(),
        nets: Vec::new(),
        limits: Vec::new(),
        terms: Vec::new(),
        plans: Vec::new(),
        tenants: Vec::new(),
        keys: Keys::default(),
        credentials: Credentials {
            places: Vec::new(),
            prefixes: Vec::new(),
            peppers: Vec::new(),
            challenges: Challenges::new("api", &[]),
        },
        allow: None,
        client_address: ClientAddressRule {
            from: AddressSource::Peer,
            trusted: Nets::default(),
            v6_prefix: 64,
        },
        guessing: Box::default(),
        report: Report {
            x_ratelimit: XRateLimit::Unix,
            spelling: Spelling::Lower,
            of: None,
            retry_after: true,
            ratelimit: RateLimitFields::None,
        },
        identity: Identity::default(),
        answers: Answers { by_refusal: Box::default() },
        upstream: Arc::new(Upstream {
            scheme: Scheme::Http,
            host: "127.0.0.1".into(),
            port: word("upstream=").unwrap_or(9),
            base_path: "".into(),
            protocol: UpstreamProtocol::Http1,
            host_header: HostRule::Keep,
            tls: UpstreamTls::default(),
            set_headers: Vec::new(),
            remove_headers: Vec::new(),
            set_query: Vec::new(),
            remove_query: Vec::new(),
            connect_timeout: second,
            idle_timeout: second,
            pool_size: 1,
            pool_idle: second,
        }),
        bounds: Bounds {
            head: 65_536,
            fields: 100,
            target: 8000,
            body: None,
            head_timeout: second,
            handshake_timeout: second,
            body_idle: second,
            keep_alive: second,
            connections: 1234,
            in_flight: 100,
            subjects: 100,
            h2_streams: 100,
        },
        drain: Drain { delay: second, deadline: second },
        server: Server {
            listeners: vec![Listener {
                address: SocketAddr::from((
                    Ipv4Addr::LOCALHOST,
                    word("listen=").unwrap_or_default(),
                )),
                tls: None,
                proxy_protocol: false,
            }],
            admin: None,
            workers: None,
            state: StateAt::Memory,
        },
        record: RecordRule { to: RecordSink::Off, headers: Vec::new() },
        ready_asks_upstream: word("upstream=").is_some(),
        ready_asks_store: false,
        route_slots: Arc::from([text.into()]),
        limit_slots: Arc::from([]),
    })
}

type Loaded = (Snapshot, Vec<PathBuf>, String);

fn read(file: &Path) -> Result<Loaded, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    Ok((policy(&text)?, vec![file.to_owned()], String::new()))
}

struct Gate {
    _directory: tempfile::TempDir,
    file: PathBuf,
    current: Arc<ArcSwap<Snapshot>>,
    wakes: Arc<AtomicUsize>,
    lifecycle: Arc<Lifecycle>,
    admin: AdminHandle,
    _reloader: ReloadHandle,
}

fn gate(text: &str) -> Gate {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.yaml");
    fs::write(&file, text).unwrap();
    let clock = Clock::system();
    let since = clock.now().wall;
    let (first, files, warnings) = read(&file).unwrap();
    let current = Arc::new(ArcSwap::from_pointee(first));
    let build = BuildInfo { version: "0.1.0", revision: "unknown" };
    let metrics = Metrics::new(1, build, clock.clone());
    let lifecycle = Arc::new(Lifecycle::new());
    let log = Log::discard();
    let wakes = Arc::new(AtomicUsize::new(0));
    let parts = Parts {
        current: Arc::clone(&current),
        files,
        since,
        metrics: Arc::clone(&metrics),
        lifecycle: Arc::clone(&lifecycle),
        log: Arc::clone(&log),
        clock: clock.clone(),
    };
    let (path, woken) = (file.clone(), Arc::clone(&wakes));
    let wake = move || {
        woken.fetch_add(1, Ordering::SeqCst);
    };
    let reloader = start(parts, &warnings, move |_| read(&path), wake).unwrap();
    lifecycle.serving();
    let state = AdminState {
        metrics,
        lifecycle: Arc::clone(&lifecycle),
        snapshot: Some(Arc::clone(&current)),
        ledger: Ledger::new(100, Backing::None, Restored::default()),
        token: None,
        wake: Wake::default(),
        turn: Turn::default(),
        log,
        clock,
    };
    let admin = admin::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), state).unwrap();
    Gate { _directory: directory, file, current, wakes, lifecycle, admin, _reloader: reloader }
}

impl Gate {
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin.local_addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics");
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }
}

fn soon(condition: impl Fn() -> bool) -> bool {
    for _ in 0..500 {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    condition()
}

#[test]
fn a_commit_is_seen_live_by_its_digest_and_generation() {
    let gate = gate("one");
    assert_eq!(gate.metric("tollgate_policy_info{digest=\"one\",generation=\"1\"}"), Some(1.0));
    assert_eq!(gate.metric("tollgate_policy_last_load_ok"), Some(1.0));
    assert_eq!(gate.metric("tollgate_connections_limit{listener=\"traffic\"}"), Some(1234.0));
    fs::write(&gate.file, "two").unwrap();
    assert!(soon(|| gate.get("/v1/policy").contains("\"digest\":\"two\"")));
    assert_eq!(&*gate.current.load().digest, "two");
    assert_eq!(gate.wakes.load(Ordering::SeqCst), 1);
    assert_eq!(gate.metric("tollgate_policy_info{digest=\"two\",generation=\"2\"}"), Some(1.0));
}

#[test]
fn a_refused_file_shows_in_metric_and_status_until_it_is_good_again() {
    let gate = gate("one");
    fs::write(&gate.file, "bad").unwrap();
    assert!(soon(|| gate.metric("tollgate_policy_last_load_ok") == Some(0.0)));
    let status: serde_json::Value = serde_json::from_str(&gate.get("/v1/policy")).unwrap();
    assert_eq!(status["digest"], "one");
    assert_eq!(status["last_load_ok"], false);
    assert_eq!(status["last_error"]["problems"], "line 1: bad");
    fs::write(&gate.file, "one").unwrap();
    assert!(soon(|| gate.metric("tollgate_policy_last_load_ok") == Some(1.0)));
    assert_eq!(gate.metric("tollgate_policy_info{digest=\"one\",generation=\"1\"}"), Some(1.0));
    assert_eq!(gate.wakes.load(Ordering::SeqCst), 0);
}

#[test]
fn a_changed_listener_waits_for_a_restart_and_the_rest_is_in_force() {
    let gate = gate("one listen=1000");
    assert_eq!(gate.metric("tollgate_policy_restart_needed"), Some(0.0));
    fs::write(&gate.file, "two listen=2000").unwrap();
    assert!(soon(|| gate.metric("tollgate_policy_restart_needed") == Some(1.0)));
    assert_eq!(&*gate.current.load().digest, "two listen=2000");
    let status: serde_json::Value = serde_json::from_str(&gate.get("/v1/policy")).unwrap();
    assert_eq!(status["restart_needed"], serde_json::json!(["listen"]));
    // A further change of anything else does not forget that the listener still waits.
    fs::write(&gate.file, "three listen=2000").unwrap();
    assert!(soon(|| &*gate.current.load().digest == "three listen=2000"));
    assert_eq!(gate.metric("tollgate_policy_restart_needed"), Some(1.0));
    fs::write(&gate.file, "four listen=1000").unwrap();
    assert!(soon(|| gate.metric("tollgate_policy_restart_needed") == Some(0.0)));
}

#[test]
fn readiness_asks_the_upstream_where_the_policy_says_so() {
    let gate = gate("one");
    assert!(gate.lifecycle.ready().is_ok());
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = upstream.local_addr().unwrap().port();
    fs::write(&gate.file, format!("two upstream={port}")).unwrap();
    assert!(soon(|| &*gate.current.load().digest != "one"));
    assert!(soon(|| gate.get("/readyz").contains("\"ready\"")));
    drop(upstream);
    assert!(soon(|| gate.get("/readyz").contains("upstream_unreachable")));
    assert!(gate.get("/healthz").contains("ok"));
}
