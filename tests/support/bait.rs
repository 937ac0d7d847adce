//! What suites of bad behaviour share: a policy whose own answers are recognised, and the question whether the gate is
//! unharmed.

use super::{Answer, Backend, Gate, Key, Policy, Request};

/// A policy whose own answers are known by their envelope.
pub(crate) const POLICY: &str = "\
version: 1
upstream: http://127.0.0.1:9
state: memory
credentials: { accept: [bearer], keys: gate.keys.yaml }
routes:
  - { name: open, match: ANY /open/** }
  - { name: small, match: POST /small, max_body: 16B }
  - { name: closed, match: ANY /closed/**, scope: none-has-it }
bounds: { head_timeout: 1s, body_idle: 1s }
errors:
  content_type: application/json
  body: { ours: \"{code}\", status: \"{status}\" }
";

/// The head's line with its key.
pub(crate) const KEY: &str = "Authorization: Bearer secret-a\r\n";

/// A gate with [`POLICY`] in front of `backend`.
pub(crate) fn start(backend: &Backend) -> Gate {
    let keys = [Key::of("ka", "acme", "secret-a").with("scopes: [open]")];
    Gate::start(Policy::with_keys(POLICY, &keys), backend)
}

/// The answer must be the gate's own, in the policy's envelope.
#[track_caller]
pub(crate) fn ours(answer: &Answer, what: &str) {
    if answer.body.is_empty() {
        return;
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| panic!("{what}: not the envelope: {answer:?} {}", answer.text()));
    assert!(body["ours"].is_string() && body["status"] == answer.status, "{what}: {body}");
}

/// Nothing panicked, and the next request is served.
#[track_caller]
pub(crate) fn unharmed(gate: &Gate, backend: &Backend) {
    assert_eq!(gate.metric("tollgate_panics_total"), Some(0.0));
    let reached = backend.count();
    assert_eq!(gate.send(&Request::get("/open/x").bearer("secret-a")).status, 200);
    assert_eq!(backend.count(), reached + 1);
}
