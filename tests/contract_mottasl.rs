//! Every sentence of the `mottasl` contract, over real sockets, against the shipped policy.

mod support;

use support::contract::Contract;
use support::{Answer, Backend, Gate, Policy, Request};

const MOTTASL: Contract = Contract {
    name: "mottasl",
    grants: &[],
    ask: || Request::get("/agents/7"),
    sign: |request, key| request.header("Authorization", key),
};

const WRITES: [(&str, &str); 8] = [
    ("POST", "/agents"),
    ("PUT", "/agents/7"),
    ("POST", "/contacts"),
    ("POST", "/contacts/bulk"),
    ("POST", "/messages"),
    ("DELETE", "/messages/9"),
    ("DELETE", "/webhooks/3"),
    ("POST", "/app/sessions"),
];

const READS: [(&str, &str); 5] = [
    ("GET", "/agents/7"),
    ("GET", "/webhooks"),
    ("GET", "/webhooks/3"),
    ("HEAD", "/webhooks/3"),
    ("GET", "/"),
];

fn signed(what: (&str, &str), key: &str) -> Request {
    Request::new(what.0, what.1).header("Authorization", key)
}

/// `{"message":"…","code":"…"}`, in this order.
fn envelope(answer: &Answer) {
    let told = answer.json();
    let text = |name: &str| told[name].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let printed = serde_json::json!({
        "message": text("message").expect("a message"),
        "code": text("code").expect("a code"),
    });
    assert_eq!(told.to_string(), printed.to_string());
}

#[test]
fn the_key_stands_in_authorization_raw_or_after_bearer() {
    let backend = Backend::start();
    let (gate, key) = MOTTASL.start(&backend);
    for value in [key.clone(), format!("Bearer {key}"), format!("bearer {key}")] {
        let answer = gate.send(&Request::get("/agents/7").header("Authorization", &value));
        assert_eq!(answer.status, 200);
        let seen = backend.last();
        assert!(seen.all("authorization").is_empty(), "{}", seen.head);
        assert_eq!((seen.only("x-tenant-id"), seen.only("x-key-id")), ("acme", "first"));
    }
}

#[test]
fn missing_unknown_and_revoked_keys_are_401() {
    let backend = Backend::start();
    let policy = Policy::contract("mottasl");
    let revoked = policy.key("acme", &["--id", "gone"]);
    policy.revoke("gone");
    let gate = Gate::start(policy, &backend);
    let missing = r#"{"message":"API key is missing.","code":"api_key_missing"}"#;
    gate.send(&Request::get("/agents/7")).is(401, missing);
    let unknown = r#"{"message":"API key is invalid.","code":"api_key_invalid"}"#;
    gate.send(&signed(("GET", "/agents/7"), "nobody")).is(401, unknown);
    gate.send(&signed(("POST", "/agents"), "Bearer nobody")).is(401, unknown);
    let gone = r#"{"message":"API key has been revoked.","code":"api_key_revoked"}"#;
    gate.send(&signed(("GET", "/agents/7"), &revoked)).is(401, gone);
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_read_and_write_key_may_do_everything() {
    let backend = Backend::start();
    let policy = Policy::contract("mottasl");
    let whole = policy.key("acme", &[]);
    let both = policy.key("acme", &["--scope", "read", "--scope", "write"]);
    let gate = Gate::start(policy, &backend);
    for key in [&whole, &both] {
        for what in READS.iter().chain(&WRITES) {
            assert_eq!(gate.send(&signed(*what, key)).status, 200, "{what:?}");
            assert_eq!((&*backend.last().method, &*backend.last().target), *what);
        }
    }
}

#[test]
fn a_read_only_key_gets_403_for_everything_but_get_and_head() {
    let backend = Backend::start();
    let policy = Policy::contract("mottasl");
    let key = policy.key("acme", &["--scope", "read"]);
    let gate = Gate::start(policy, &backend);
    for what in READS {
        assert_eq!(gate.send(&signed(what, &key)).status, 200, "{what:?}");
    }
    let reached = backend.count();
    for what in WRITES {
        let answer = gate.send(&signed(what, &key));
        answer.is(403, r#"{"message":"The API key may not write.","code":"forbidden"}"#);
    }
    for method in ["PATCH", "OPTIONS", "PROPFIND"] {
        assert_eq!(gate.send(&signed((method, "/agents/7"), &key)).status, 403, "{method}");
    }
    assert_eq!(backend.count(), reached);
}

#[test]
fn what_the_account_loses_its_keys_lose_at_once() {
    let backend = Backend::start();
    let policy = Policy::contract("mottasl");
    let whole = policy.key("acme", &[]);
    let both = policy.key("acme", &["--scope", "read", "--scope", "write"]);
    let other = policy.key("globex", &[]);
    let gate = Gate::start(policy, &backend);
    let write = ("POST", "/messages");
    assert_eq!(gate.send(&signed(write, &whole)).status, 200);

    gate.policy.replace("\ntenants: {}", "\ntenants: { acme: { scopes: [read] } }");
    assert!(gate.soon(&signed(write, &whole), 403), "the account lacks it, the key has it");
    assert_eq!(gate.send(&signed(write, &both)).status, 403);
    assert_eq!(gate.send(&signed(("GET", "/agents/7"), &whole)).status, 200);
    assert_eq!(gate.send(&signed(write, &other)).status, 200, "another account's keys are theirs");

    gate.policy.replace("{ scopes: [read] } }", "{ scopes: [read, write] } }");
    assert!(gate.soon(&signed(write, &whole), 200), "the account has it again, the key lacks it");
}

#[test]
fn an_account_has_many_keys_and_each_is_revoked_alone() {
    let backend = Backend::start();
    let policy = Policy::contract("mottasl");
    let ids = ["one", "two", "three"];
    let keys = ids.map(|id| policy.key("acme", &["--id", id]));
    let gate = Gate::start(policy, &backend);
    for (key, id) in keys.iter().zip(ids) {
        assert_eq!(gate.send(&signed(("GET", "/webhooks"), key)).status, 200);
        assert_eq!(backend.last().only("x-key-id"), id);
    }
    gate.policy.revoke("two");
    assert!(gate.soon(&signed(("GET", "/webhooks"), &keys[1]), 401));
    for key in [&keys[0], &keys[2]] {
        assert_eq!(gate.send(&signed(("GET", "/webhooks"), key)).status, 200);
    }
}

#[test]
fn regenerating_gives_a_new_secret_under_the_same_name_and_the_old_one_dies_at_once() {
    let backend = Backend::start();
    let (gate, old) = MOTTASL.start(&backend);
    assert_eq!(gate.send(&signed(("GET", "/webhooks"), &old)).status, 200);
    let output = gate.policy.keys("rotate", &["first"]);
    let new = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_ne!(new, old);
    assert!(gate.soon(&signed(("GET", "/webhooks"), &new), 200));
    assert_eq!(backend.last().only("x-key-id"), "first");
    assert_eq!(gate.send(&signed(("GET", "/webhooks"), &old)).status, 401);
}

#[test]
fn the_old_secret_may_live_for_an_overlap() {
    let backend = Backend::start();
    let (gate, old) = MOTTASL.start(&backend);
    let output = gate.policy.keys("rotate", &["first", "--overlap", "3s"]);
    let new = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(gate.soon(&signed(("GET", "/webhooks"), &new), 200));
    assert_eq!(gate.send(&signed(("GET", "/webhooks"), &old)).status, 200, "within the overlap");
    let dead = support::eventually(support::A_SECOND * 4, || {
        gate.send(&signed(("GET", "/webhooks"), &old)).status == 401
    });
    assert!(dead, "the overlap never ended");
    assert_eq!(gate.send(&signed(("GET", "/webhooks"), &new)).status, 200);
}

#[test]
fn no_limit_is_set_and_none_is_reported() {
    let backend = Backend::start();
    let (gate, key) = MOTTASL.start(&backend);
    for answer in MOTTASL.many(&gate, &key, 300) {
        assert_eq!(answer.status, 200);
        let told = |(name, _): &(String, String)| name.to_ascii_lowercase().contains("ratelimit");
        assert!(!answer.headers.iter().any(told), "{answer:?}");
    }
}

#[test]
fn errors_are_a_message_and_a_code() {
    MOTTASL.the_gates_own_refusals_wear(envelope);
}

#[test]
fn a_body_over_the_bound_is_told_in_the_same_way() {
    MOTTASL.a_body_over_the_bound_is_413(Request::post("/messages", ""), envelope);
}

#[test]
fn the_tenant_cannot_be_forged() {
    MOTTASL.identity_cannot_be_forged();
}

#[test]
fn a_backends_own_answers_pass_byte_for_byte() {
    MOTTASL.a_backends_own_answers_pass_byte_for_byte();
}

#[test]
fn any_host_is_accepted() {
    MOTTASL.any_host_is_accepted();
}

#[test]
fn a_key_works_within_a_second_and_stops_as_soon_when_revoked() {
    MOTTASL.a_key_works_and_stops_within_a_second();
}

#[test]
fn a_keys_value_is_shown_once() {
    MOTTASL.the_secret_is_seen_once();
}
