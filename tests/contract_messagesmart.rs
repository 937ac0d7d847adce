//! The sentences of the `messagesmart` contract that need no waiting, over real sockets, against the shipped policy.

mod support;

use support::contract::{SMART, success_false as printed};
use support::{Answer, Backend, Gate, Policy, Request};

const DAY: i64 = 24 * 60 * 60;

/// `{"success":false,"error":{"code":C,"message":M,"httpStatus":S}}`, S a number.
fn envelope(answer: &Answer) {
    let told = answer.json();
    let text = |name: &str| told["error"][name].as_str().filter(|s| !s.is_empty());
    let (code, message) = (text("code").expect("a code"), text("message").expect("a message"));
    assert_eq!(told.to_string(), printed(answer.status, code, message));
}

#[test]
fn the_key_stands_in_x_api_key_in_any_case_and_nowhere_else() {
    let backend = Backend::start();
    let (gate, key) = SMART.start(&backend);
    for name in ["X-API-Key", "x-api-key", "X-Api-Key"] {
        assert_eq!(gate.send(&(SMART.ask)().header(name, &key)).status, 200);
        assert!(backend.last().all("x-api-key").is_empty(), "the key is the gate's business");
        assert_eq!(backend.last().only("x-tenant-id"), "acme");
    }
    let missing = printed(401, "api_key_missing", "API key is missing.");
    gate.send(&(SMART.ask)().bearer(&key)).is(401, &missing);
    gate.send(&(SMART.ask)().header("X-API-Key", "")).is(401, &missing);
    assert_eq!(backend.count(), 3);
}

#[test]
fn the_four_ways_in_which_a_key_is_wrong_are_told_as_published() {
    let backend = Backend::start();
    let policy = Policy::contract("messagesmart");
    let expired = policy.key("acme", &["--expires", "2020-01-01T00:00:00Z"]);
    let revoked = policy.key("acme", &["--id", "gone"]);
    policy.revoke("gone");
    let gate = Gate::start(policy, &backend);
    let cases = [
        ((SMART.ask)(), "api_key_missing", "API key is missing."),
        (SMART.signed("ms_live_1a2b3c4d5e6f7g8h9i0j"), "api_key_invalid", "API key is invalid."),
        (SMART.signed(&expired), "api_key_expired", "API key has expired."),
        (SMART.signed(&revoked), "api_key_revoked", "API key has been revoked."),
    ];
    for (request, code, message) in cases {
        gate.send(&request).is(401, &printed(401, code, message));
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_key_lives_365_days_unless_it_is_made_with_another_lifetime() {
    let policy = Policy::contract("messagesmart");
    policy.key("acme", &["--id", "usual"]);
    policy.key("acme", &["--id", "brief", "--expires", "30d"]);
    let listed = policy.keys("list", &["--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let rows = listed.as_array().cloned().unwrap_or_default();
    for (id, days) in [("usual", 365), ("brief", 30)] {
        let row = rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{listed}"));
        let expires: jiff::Timestamp =
            row["expires"].as_str().and_then(|t| t.parse().ok()).expect("a time");
        let off = expires.as_second() - (support::unix_now() + days * DAY);
        assert!(off.abs() < 120, "{id}: {row}");
    }
}

#[test]
fn sixty_a_minute_pass_per_key_and_the_next_is_told_as_published() {
    let backend = Backend::start();
    let policy = Policy::contract("messagesmart");
    let one = policy.key("acme", &[]);
    let two = policy.key("acme", &[]);
    let gate = Gate::start(policy, &backend);
    for answer in SMART.many(&gate, &one, 60) {
        assert_eq!(answer.status, 200);
    }
    let answer = gate.send(&SMART.signed(&one));
    let message = "Too many requests. Please try again later.";
    answer.is(429, &printed(429, "rate_limit_exceeded", message));
    assert!((1..=60).contains(&answer.number("retry-after")));
    assert_eq!(gate.send(&SMART.signed(&two)).status, 200);
    assert_eq!(backend.count(), 61);
}

#[test]
fn a_key_may_have_a_rate_of_its_own() {
    let backend = Backend::start();
    let policy = Policy::contract("messagesmart");
    let slow = policy.key("acme", &["--limit", "rate=2/minute"]);
    let fast = policy.key("acme", &["--limit", "rate=100/minute"]);
    let gate = Gate::start(policy, &backend);
    let passed = |key: &str, n| {
        SMART.many(&gate, key, n).iter().filter(|answer| answer.status == 200).count()
    };
    assert_eq!(passed(&slow, 5), 2);
    assert_eq!(passed(&fast, 105), 100);
}

#[test]
fn a_plan_is_a_label_that_groups_keys_and_may_have_limits() {
    let backend = Backend::start();
    let policy = Policy::contract("messagesmart");
    let key = policy.key("acme", &["--plan", "pro"]);
    let gate = Gate::start(policy, &backend);
    for answer in SMART.many(&gate, &key, 80) {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(backend.last().only("x-plan"), "pro");
}

#[test]
fn everything_else_wears_the_same_envelope() {
    SMART.the_gates_own_refusals_wear(envelope);
    let backend = Backend::start();
    let policy = Policy::contract("messagesmart");
    let away = policy.key("acme", &["--allow", "203.0.113.7/32"]);
    let here = policy.key("acme", &[]);
    let gate = Gate::start(policy, &backend);
    let answer = gate.send(&SMART.signed(&away));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &"forbidden".into()));
    envelope(&answer);
    let answer = gate.send(&Request::get("/nope").header("X-API-Key", &here));
    answer.is(404, &printed(404, "not_found", "Not found."));
}

#[test]
fn a_body_over_the_bound_is_told_in_the_same_way() {
    SMART.a_body_over_the_bound_is_413((SMART.ask)(), envelope);
}

#[test]
fn a_new_key_starts_with_ms_live_and_one_for_development_with_ms_test() {
    let backend = Backend::start();
    let policy = Policy::contract("messagesmart");
    let live = policy.key("acme", &[]);
    let test = policy.key("acme", &["--prefix", "ms_test_", "--limit", "quota=2/day"]);
    assert!(live.starts_with("ms_live_"), "published");
    assert!(test.starts_with("ms_test_"), "for development");
    let gate = Gate::start(policy, &backend);
    assert_eq!(gate.send(&SMART.signed(&live)).status, 200);
    for status in [200, 200, 429] {
        assert_eq!(gate.send(&SMART.signed(&test)).status, status);
    }
    let mut other = test.clone();
    other.replace_range(..8, "ms_live_");
    let answer = gate.send(&SMART.signed(&other));
    answer.is(401, &printed(401, "api_key_invalid", "API key is invalid."));
    let foreign = gate.policy.try_keys("new", &["--tenant", "acme", "--prefix", "sk_"]);
    assert!(!foreign.status.success() && foreign.stdout.is_empty(), "a third kind is a mistake");
}

#[test]
fn the_tenant_cannot_be_forged() {
    SMART.identity_cannot_be_forged();
}

#[test]
fn a_backends_own_answers_pass_byte_for_byte() {
    SMART.a_backends_own_answers_pass_byte_for_byte();
}

#[test]
fn any_host_is_accepted() {
    SMART.any_host_is_accepted();
}

#[test]
fn a_key_works_within_a_second_and_stops_as_soon_when_revoked() {
    SMART.a_key_works_and_stops_within_a_second();
}

#[test]
fn a_keys_value_is_shown_once() {
    SMART.the_secret_is_seen_once();
}
