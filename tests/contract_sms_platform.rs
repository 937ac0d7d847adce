//! The sentences of the `sms-platform` contract that need no replay, over real sockets, against the shipped policy. It leaves
//! money to the backend.

mod support;

use support::contract::{Contract, has_message_and_code, message_and_code};
use support::{Backend, Gate, Policy, Reply, Request, unix_now};

const SMS: Contract = Contract {
    name: "sms-platform",
    grants: &["--scope", "balance"],
    ask: || Request::get("/balance"),
    sign: Request::bearer,
};

/// Each scope with what it opens, as published.
const OPENS: [(&str, &[(&str, &str)]); 8] = [
    ("sms:send", &[("POST", "/sms/send")]),
    ("otp", &[("POST", "/otp/send"), ("POST", "/otp/verify")]),
    ("voice", &[("POST", "/voice/send"), ("GET", "/voice/v7")]),
    ("lookup", &[("POST", "/lookup"), ("GET", "/lookups"), ("GET", "/lookup/l7")]),
    ("email:verify", &[("POST", "/email/verify")]),
    (
        "reports",
        &[
            ("GET", "/messages"),
            ("GET", "/messages/7"),
            ("GET", "/campaigns"),
            ("GET", "/campaigns/7/x"),
        ],
    ),
    ("balance", &[("GET", "/balance")]),
    (
        "webhooks",
        &[
            ("GET", "/webhooks"),
            ("POST", "/webhooks"),
            ("PATCH", "/webhooks/3"),
            ("DELETE", "/webhooks/3/x"),
        ],
    ),
];

#[test]
fn a_scope_opens_what_is_published_and_nothing_else() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let keys: Vec<_> =
        OPENS.iter().map(|(scope, _)| (*scope, policy.key("acme", &["--scope", scope]))).collect();
    let gate = Gate::start(policy, &backend);
    let mut connection = gate.connect();
    for (owner, paths) in OPENS {
        for (method, path) in paths {
            for (scope, key) in &keys {
                let reached = backend.count();
                let answer = connection.send(&Request::new(method, path).bearer(key));
                if *scope == owner {
                    assert_eq!(answer.status, 200, "{scope}: {method} {path}");
                } else {
                    message_and_code(&answer, 403, "scope_denied");
                    assert_eq!(backend.count(), reached, "{scope}: {method} {path}");
                }
            }
        }
    }
}

#[test]
fn a_token_may_have_several_scopes() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let key = policy.key("acme", &["--scope", "sms:send", "--scope", "balance"]);
    let gate = Gate::start(policy, &backend);
    assert_eq!(gate.send(&Request::post("/sms/send", "{}").bearer(&key)).status, 200);
    assert_eq!(gate.send(&Request::get("/balance").bearer(&key)).status, 200);
    assert_eq!(gate.send(&Request::post("/otp/send", "{}").bearer(&key)).status, 403);
}

#[test]
fn what_no_scope_grants_is_404_to_a_valid_token_and_401_to_a_stranger() {
    let backend = Backend::start();
    let (gate, key) = SMS.start(&backend);
    message_and_code(&gate.send(&Request::get("/admin").bearer(&key)), 404, "not_found");
    message_and_code(&gate.send(&Request::get("/voice/1/2").bearer(&key)), 404, "not_found");
    message_and_code(&gate.send(&Request::get("/admin")), 401, "token_missing");
    let wrong = gate.send(&Request::get("/sms/send").bearer(&key));
    message_and_code(&wrong, 405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("POST"));
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_token_without_scopes_cannot_be_made() {
    let policy = Policy::contract("sms-platform");
    let before = policy.keys_text();
    let output = policy.try_keys("new", &["--tenant", "acme"]);
    assert_eq!(output.status.code(), Some(2), "wrong usage");
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("scope"));
    assert_eq!(policy.keys_text(), before);
}

#[test]
fn missing_invalid_expired_revoked_and_inactive_have_codes_of_their_own() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let expired = policy.key("acme", &["--scope", "balance", "--expires", "2020-01-01T00:00:00Z"]);
    let revoked = policy.key("acme", &["--scope", "balance", "--id", "gone"]);
    policy.revoke("gone");
    let inactive = policy.key("globex", &["--scope", "balance"]);
    policy.replace("\ntenants: {}", "\ntenants: { globex: { active: false } }");
    let gate = Gate::start(policy, &backend);
    let ask = || Request::get("/balance");
    message_and_code(&gate.send(&ask()), 401, "token_missing");
    message_and_code(&gate.send(&ask().bearer("nobody")), 401, "token_invalid");
    message_and_code(&gate.send(&ask().bearer(&expired)), 401, "token_expired");
    message_and_code(&gate.send(&ask().bearer(&revoked)), 401, "token_revoked");
    let answer = gate.send(&ask().bearer(&inactive));
    assert_eq!(answer.json()["code"], "account_inactive");
    assert_eq!(backend.count(), 0);
}

#[test]
fn an_allowlist_is_the_tenants_over_all_its_tokens_and_changes_at_run_time() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let one = policy.key("acme", &["--scope", "balance"]);
    let two = policy.key("acme", &["--scope", "balance"]);
    let other = policy.key("globex", &["--scope", "balance"]);
    let gate = Gate::start(policy, &backend);
    let ask = |key: &str| Request::get("/balance").bearer(key);
    assert_eq!(gate.send(&ask(&one)).status, 200, "empty means open");

    gate.policy.replace("\ntenants: {}", "\ntenants: { acme: { allow: [203.0.113.0/24] } }");
    assert!(gate.soon(&ask(&one), 403), "a new entry is not in force");
    for key in [&one, &two] {
        let answer = gate.send(&ask(key));
        message_and_code(&answer, 403, "ip_not_allowed");
    }
    assert_eq!(gate.send(&ask(&other)).status, 200, "another tenant is not bound");
    // Nobody's word is taken for the address.
    let claimed = ask(&one).header("X-Forwarded-For", "203.0.113.7");
    assert_eq!(gate.send(&claimed).status, 403);

    gate.policy.replace("[203.0.113.0/24]", "[203.0.113.0/24, 127.0.0.1]");
    assert!(gate.soon(&ask(&one), 200), "the address is listed now");
    gate.policy.replace("[203.0.113.0/24, 127.0.0.1]", "[]");
    assert!(gate.soon(&ask(&two), 200), "an empty list is open");
}

#[test]
fn a_list_on_a_token_narrows_it_further() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let away = policy.key("acme", &["--scope", "balance", "--allow", "203.0.113.7/32"]);
    let here = policy.key("acme", &["--scope", "balance", "--allow", "127.0.0.0/8"]);
    let gate = Gate::start(policy, &backend);
    message_and_code(&gate.send(&Request::get("/balance").bearer(&away)), 403, "ip_not_allowed");
    assert_eq!(gate.send(&Request::get("/balance").bearer(&here)).status, 200);
}

#[test]
fn a_hundred_and_twenty_a_minute_pass_per_token() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let one = policy.key("acme", &["--scope", "balance"]);
    let two = policy.key("acme", &["--scope", "balance"]);
    let gate = Gate::start(policy, &backend);
    for (n, answer) in (1..).zip(SMS.many(&gate, &one, 120)) {
        assert_eq!((answer.status, answer.number("x-ratelimit-limit")), (200, 120));
        assert_eq!(answer.number("x-ratelimit-remaining"), 120 - n);
    }
    let answer = gate.send(&Request::get("/balance").bearer(&one));
    message_and_code(&answer, 429, "rate_limited");
    assert!((1..=60).contains(&answer.number("retry-after")));
    assert_eq!(answer.number("x-ratelimit-remaining"), 0);
    let wait = answer.number("x-ratelimit-reset") - unix_now();
    assert!((0..=61).contains(&wait), "{wait}");
    assert_eq!(gate.send(&Request::get("/balance").bearer(&two)).status, 200);
    assert_eq!(backend.count(), 121);
}

#[test]
fn otp_sends_are_limited_per_address_too_and_the_headers_stay_the_tokens() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let one = policy.key("acme", &["--scope", "otp"]);
    let two = policy.key("globex", &["--scope", "otp"]);
    let gate = Gate::start(policy, &backend);
    let otp = |key: &str| Request::post("/otp/send", "{}").bearer(key);
    for n in 0..10 {
        let answer = gate.send(&otp(if n % 2 == 0 { &one } else { &two }));
        assert_eq!((answer.status, answer.number("x-ratelimit-limit")), (200, 120));
    }
    for key in [&one, &two] {
        let answer = gate.send(&otp(key));
        message_and_code(&answer, 429, "rate_limited");
        assert!((1..=60).contains(&answer.number("retry-after")));
        assert_eq!(answer.number("x-ratelimit-limit"), 120);
        assert_eq!(answer.number("x-ratelimit-remaining"), 115, "a refused request spends nothing");
    }
    let verify = Request::post("/otp/verify", "{}").bearer(&one);
    assert_eq!(gate.send(&verify).status, 200, "only sends count per address");
    assert_eq!(backend.count(), 11);
}

#[test]
fn the_backends_402_and_422_pass_as_they_are() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let key = policy.key("acme", &["--scope", "sms:send"]);
    let gate = Gate::start(policy, &backend);
    for (status, body) in [
        ("402 Payment Required", r#"{"message":"Top up.","error":"insufficient_balance"}"#),
        ("422 Unprocessable Content", r#"{"message":"sender not approved"}"#),
    ] {
        backend.answers(Reply::json(status, body));
        let answer = gate.send(&Request::post("/sms/send", "{}").bearer(&key));
        assert_eq!((answer.status.to_string(), answer.text()), (status[..3].into(), body.into()));
    }
}

#[test]
fn the_shipped_policy_leaves_money_to_the_backend() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform");
    let key = policy.key("acme", &["--scope", "sms:send", "--scope", "balance"]);
    let gate = Gate::start(policy, &backend);
    // Nobody topped anything up, and nothing runs out.
    let send = Request::post("/sms/send", "{}").bearer(&key);
    for n in 0..40 {
        assert_eq!(gate.send(&send.clone().header("Idempotency-Key", &n.to_string())).status, 200);
    }
    assert!(
        !backend.last().head.to_ascii_lowercase().contains("balance"),
        "it is not ours to tell"
    );
    backend.answers(Reply::json("200 OK", r#"{"balance":"12.50"}"#));
    let balance = gate.send(&Request::get("/balance").bearer(&key));
    assert_eq!(balance.text(), r#"{"balance":"12.50"}"#, "GET /balance is the backend's");
}

#[test]
fn errors_are_a_message_and_a_machine_readable_code() {
    SMS.the_gates_own_refusals_wear(has_message_and_code);
}

#[test]
fn a_body_over_the_bound_is_told_in_the_same_way() {
    SMS.a_body_over_the_bound_is_413(Request::get("/balance"), has_message_and_code);
}

#[test]
fn the_tenant_cannot_be_forged() {
    SMS.identity_cannot_be_forged();
}

#[test]
fn a_backends_own_answers_pass_byte_for_byte() {
    SMS.a_backends_own_answers_pass_byte_for_byte();
}

#[test]
fn any_host_is_accepted() {
    SMS.any_host_is_accepted();
}

#[test]
fn a_token_works_within_a_second_and_stops_as_soon_when_revoked() {
    SMS.a_key_works_and_stops_within_a_second();
}

#[test]
fn a_tokens_value_is_shown_once() {
    SMS.the_secret_is_seen_once();
}
