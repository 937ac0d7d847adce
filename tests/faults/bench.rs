//! What the faults have in common: one policy with a promise of every kind, and what was promised under it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::disk::Disk;
use crate::support::frail::attempt;
use crate::support::process::{Launch, Process};
use crate::support::{Answer, Backend, Key, Policy, Reply, Request};

const POLICY: &str = "\
version: 1
upstream: http://127.0.0.1:9
record: { to: none }
drain: { delay: 0s, deadline: 2s }
credentials: { accept: [bearer], keys: gate.keys.yaml }
ready: { store: true }
routes:
  - { name: send, match: POST /send, idempotency: accept }
  - { name: pay, match: POST /pay, cost: 1.5 }
  - { name: late, match: POST /late, cost: 1.5, timeout: 300ms }
  - { name: counted, match: POST /counted }
  - { name: local, match: POST /local }
  - { name: allowed, match: POST /allowed }
  - { name: slow, match: POST /slow }
  - { name: plain, match: POST /plain }
limits:
  slow: { rate: 60/hour, per: tenant, routes: [slow] }
  throttle: { rate: 100000/minute, per: key }
  wallet: { credit: prepaid, unit: credits, per: tenant, routes: [pay, late] }
  monthly: { quota: 1000/month, per: tenant, routes: [counted] }
  loose: { quota: 1000/month, per: tenant, routes: [local], on_store_failure: local }
  open: { quota: 1000/month, per: tenant, routes: [allowed], on_store_failure: allow }
errors:
  content_type: application/json
  body: { ours: \"{code}\" }
";

/// What is topped up at the start.
pub(crate) const CREDIT: &str = "100";

/// A policy, a state directory and a backend; gates come and go.
#[derive(Debug)]
pub(crate) struct Bench {
    policy: Policy,
    home: TempDir,
    pub(crate) backend: Backend,
}

/// What a gate promised before something went wrong.
#[derive(Clone, Debug)]
pub(crate) struct Promised {
    /// Keys and the answers that they got.
    sends: Vec<(String, Answer)>,
    /// Payments that were answered.
    paid: u64,
    /// Requests under the quota that were answered.
    counted: u64,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let backend = Backend::start();
        let count = std::sync::atomic::AtomicU64::new(0);
        backend.scripted(move |_| {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Reply::json("200 OK", &format!("{{\"number\":{number}}}"))
        });
        let policy = Policy::with_keys(POLICY, &[Key::of("ka", "acme", "secret-a")]);
        let home = TempDir::new().expect("there is room for a directory");
        std::fs::create_dir(home.path().join("state")).expect("a new directory can be written to");
        Bench { policy, home, backend }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    pub(crate) fn launch(&self) -> Launch<'_> {
        self.launch_on(&self.state())
    }

    pub(crate) fn launch_on(&self, state: &Path) -> Launch<'_> {
        Launch::new(&self.policy, &self.backend.url(), state)
    }

    /// A gate on a disk that can be made to fail.
    pub(crate) fn on_disk(&self) -> (Disk, Process) {
        let disk = Disk::under(&self.state());
        let gate = disk.carry(&self.launch()).start();
        (disk, gate)
    }
}

/// Lets the gate promise something of every kind.
#[track_caller]
pub(crate) fn promise(gate: &Process) -> Promised {
    let (status, said) = act(gate, "/v1/credit", &top_up(CREDIT), "top-up-1");
    assert_eq!(status, 200, "{said}");
    let mut sends = Vec::new();
    for n in 0..12 {
        let key = format!("key-{n}");
        let answer = ask(gate, &send(&key));
        assert_eq!(answer.status, 200, "{}", answer.text());
        sends.push((key, answer));
    }
    for path in ["/pay", "/counted", "/local", "/allowed", "/plain"] {
        for _ in 0..5 {
            let answer = ask(gate, &post(path));
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        }
    }
    Promised { sends, paid: 5, counted: 5 }
}

impl Promised {
    /// All of it is there: exactly, where the gate ended in order (`lost` is 0); otherwise a crash may have turned
    /// answers into "unknown", and cost a block of a quota.
    #[track_caller]
    pub(crate) fn holds(&self, gate: &Process, bench: &Bench, may_be_unknown: bool) {
        let credit = usage(gate, "wallet");
        assert_eq!(credit["ceiling"], "100", "{credit}");
        let used = millis(&credit["used"]);
        assert!(used >= self.paid * 1500, "{credit}");
        let monthly = usage(gate, "monthly");
        let counted = monthly["used"].as_u64().expect("units are whole");
        assert!((self.counted..=self.counted + 10).contains(&counted), "{monthly}");
        for (key, first) in &self.sends {
            let before = bench.backend.count();
            let again = ask(gate, &send(key));
            if may_be_unknown && code(&again) == "idempotency_unknown" {
                continue;
            }
            assert_eq!(
                again.header("idempotent-replayed"),
                Some("true"),
                "{key}: {}",
                again.text()
            );
            assert_eq!((again.status, &again.body), (first.status, &first.body));
            assert_eq!(bench.backend.count(), before, "{key} was forwarded again");
        }
    }
}

/// A keyed send.
pub(crate) fn send(key: &str) -> Request {
    post("/send").header("Idempotency-Key", key)
}

/// A request without a key of its own.
pub(crate) fn post(path: &str) -> Request {
    Request::post(path, "{}").bearer("secret-a")
}

#[track_caller]
pub(crate) fn ask(gate: &Process, request: &Request) -> Answer {
    attempt(gate.traffic, request).expect("the gate lives")
}

/// The gate's own word for a refusal; empty for a backend's answer.
pub(crate) fn code(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    body["ours"].as_str().unwrap_or_default().to_owned()
}

/// The body of an act that adds credit.
pub(crate) fn top_up(amount: &str) -> Value {
    json!({ "tenant": "acme", "limit": "wallet", "add": amount })
}

/// An admin act under a name; its status and what was said.
#[track_caller]
pub(crate) fn act(gate: &Process, path: &str, body: &Value, id: &str) -> (u16, String) {
    let request = act_request(path, body, id);
    let answer = attempt(gate.admin, &request).expect("the admin listener lives");
    (answer.status, answer.text())
}

pub(crate) fn act_request(path: &str, body: &Value, id: &str) -> Request {
    Request::post(path, &body.to_string()).host("localhost").header("Idempotency-Key", id)
}

/// A limit of the tenant, as the admin listener tells it.
#[track_caller]
pub(crate) fn usage(gate: &Process, limit: &str) -> Value {
    let answer = gate.ask_admin(&format!("/v1/usage?tenant=acme&limit={limit}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["usage"][0].clone()
}

/// Thousandths of a decimal text.
fn millis(value: &Value) -> u64 {
    let text = value.as_str().expect("money is text");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    whole.parse::<u64>().expect("a number") * 1000
        + format!("{part:0<3}")[..3].parse::<u64>().expect("three places")
}
