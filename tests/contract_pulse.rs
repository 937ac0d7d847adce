//! Every sentence of the `pulse` contract, over real sockets, against the shipped policy.

mod support;

use std::thread;

use support::contract::Contract;
use support::{A_SECOND, Answer, Backend, Gate, Policy, Reply, Request, eventually, unix_now};

const PULSE: Contract = Contract {
    name: "pulse",
    grants: &[],
    ask: || Request::get("/api/v3/me"),
    sign: Request::bearer,
};

fn sms() -> Request {
    Request::post("/api/v3/sms/send", r#"{"to":"+255700000000","text":"hello"}"#)
}

fn whatsapp() -> Request {
    Request::post("/api/v3/whatsapp/send", r#"{"to":"+255700000000","text":"hello"}"#)
}

fn campaign() -> Request {
    Request::post("/api/v3/campaigns", r#"{"name":"spring"}"#)
}

/// `{"status":"error","message":"…","errors":{}}`, in this order.
fn envelope(answer: &Answer) {
    let message = answer.json()["message"].as_str().expect("message is text").to_owned();
    assert!(!message.is_empty());
    let printed = serde_json::json!({ "status": "error", "message": message, "errors": {} });
    assert_eq!(answer.json().to_string(), printed.to_string());
}

fn limit_headers(answer: &Answer) -> Option<(i64, i64)> {
    answer.header("x-ratelimit-limit")?;
    Some((answer.number("x-ratelimit-limit"), answer.number("x-ratelimit-remaining")))
}

#[test]
fn every_request_under_api_v3_needs_a_token() {
    let backend = Backend::start();
    let (gate, _) = PULSE.start(&backend);
    let paths = ["/api/v3/me", "/api/v3/sms/send", "/api/v3/campaigns/7", "/api/v3", "/api/v3/x/y"];
    for path in paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = gate.send(&Request::new(method, path));
            answer.is(401, r#"{"status":"error","message":"Token is missing.","errors":{}}"#);
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Bearer"), "{challenge:?}");
        }
    }
    assert_eq!(gate.send(&Request::new("HEAD", "/api/v3/me")).status, 401);
    assert_eq!(backend.count(), 0);
}

#[test]
fn the_gate_vouches_for_the_tenant_in_a_header_that_a_client_cannot_forge() {
    PULSE.identity_cannot_be_forged();
}

#[test]
fn me_is_a_read_that_reaches_the_backend_with_tenant_and_key_id() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let answer = gate.send(&Request::get("/api/v3/me?verbose=1").bearer(&key));
    assert_eq!((answer.status, &*answer.text()), (200, r#"{"ok":true}"#));
    assert_eq!(limit_headers(&answer), Some((120, 119)));
    let seen = backend.last();
    assert_eq!((&*seen.method, &*seen.target), ("GET", "/api/v3/me?verbose=1"));
    assert_eq!((seen.only("x-tenant-id"), seen.only("x-key-id")), ("acme", "first"));
    assert!(seen.all("authorization").is_empty(), "the token is the gate's business");
}

#[test]
fn another_tenants_id_in_a_path_or_query_is_refused_where_the_policy_binds_it() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let own = [
        "/api/v3/tenants/acme",
        "/api/v3/tenants/acme/messages",
        "/api/v3/messages?tenant_id=acme",
        "/api/v3/messages?page=2&tenant_id=%61cme",
        "/api/v3/messages/9f8e7d",
    ];
    for target in own {
        assert_eq!(gate.send(&Request::get(target).bearer(&key)).status, 200, "{target}");
    }
    let reached = backend.count();
    let others = [
        "/api/v3/tenants/globex",
        "/api/v3/tenants/globex/messages",
        "/api/v3/tenants/ACME",
        "/api/v3/messages?tenant_id=globex",
        "/api/v3/messages?tenant_id=%67lobex",
        "/api/v3/messages?tenant%5Fid=globex",
        "/api/v3/messages?tenant_id=acme&tenant_id=globex",
        "/api/v3/messages?tenant_id=",
    ];
    for target in others {
        let answer = gate.send(&Request::get(target).bearer(&key));
        assert_eq!(answer.status, 403, "{target}");
        answer.is(
            403,
            r#"{"status":"error","message":"This belongs to another account.","errors":{}}"#,
        );
    }
    let post = Request::post("/api/v3/sms/send?tenant_id=globex", "{}").bearer(&key);
    assert_eq!(gate.send(&post).status, 403);
    assert_eq!(backend.count(), reached);
}

#[test]
fn a_token_may_expire_and_is_refused_from_then_on() {
    let backend = Backend::start();
    let policy = Policy::contract("pulse");
    let short = policy.key("acme", &["--id", "short", "--expires", "2s"]);
    let past = policy.key("acme", &["--id", "past", "--expires", "2020-01-01T00:00:00Z"]);
    let gate = Gate::start(policy, &backend);
    let expired = r#"{"status":"error","message":"Token has expired.","errors":{}}"#;
    gate.send(&Request::get("/api/v3/me").bearer(&past)).is(401, expired);
    assert_eq!(backend.count(), 0);
    let ended = eventually(A_SECOND * 3, || {
        gate.send(&Request::get("/api/v3/me").bearer(&short)).status == 401
    });
    assert!(ended);
    gate.send(&Request::get("/api/v3/me").bearer(&short)).is(401, expired);
}

#[test]
fn a_token_without_scopes_may_do_everything() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let requests = [
        sms(),
        whatsapp(),
        campaign(),
        Request::get("/api/v3/me"),
        Request::get("/api/v3/campaigns"),
        Request::get("/api/v3/sms/send"),
        Request::new("HEAD", "/api/v3/contacts/7"),
        Request::new("DELETE", "/api/v3/contacts/7"),
        Request::get("/api/v3/campaigns/7"),
        Request::get("/api/v3/campaigns/7/report"),
        Request::new("DELETE", "/api/v3/campaigns"),
        Request::new("PATCH", "/api/v3/campaigns/7"),
        Request::post("/api/v3/contacts", "{}"),
        Request::get("/api/v3/tenants/acme"),
    ];
    for request in requests {
        assert_eq!(gate.send(&request.clone().bearer(&key)).status, 200, "{request:?}");
    }
}

#[test]
fn a_token_that_is_given_scopes_may_do_no_more() {
    let backend = Backend::start();
    let policy = Policy::contract("pulse");
    let sender = policy.key("acme", &["--scope", "sms:send"]);
    let reader = policy.key("acme", &["--scope", "read"]);
    let gate = Gate::start(policy, &backend);
    assert_eq!(gate.send(&sms().bearer(&sender)).status, 200);
    assert_eq!(gate.send(&Request::get("/api/v3/me").bearer(&reader)).status, 200);
    let refused = [
        (whatsapp(), &sender),
        (campaign(), &sender),
        (Request::get("/api/v3/me"), &sender),
        (sms(), &reader),
        (Request::new("DELETE", "/api/v3/contacts/7"), &reader),
    ];
    for (request, key) in refused {
        let answer = gate.send(&request.bearer(key));
        assert_eq!(answer.status, 403);
        envelope(&answer);
    }
    assert_eq!(backend.count(), 2);
}

#[test]
fn sixty_sends_pass_and_the_next_is_429_until_the_reset() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let mut connection = gate.connect();
    for n in 1..=60 {
        let answer = connection.send(&sms().bearer(&key));
        assert_eq!(answer.status, 200, "send {n}");
        assert_eq!(limit_headers(&answer), Some((60, 60 - n)), "send {n}");
    }
    for _ in 0..5 {
        let answer = connection.send(&sms().bearer(&key));
        assert_eq!(answer.status, 429);
        envelope(&answer);
        assert_eq!(limit_headers(&answer), Some((60, 0)));
        let (wait, reset) = (answer.number("retry-after"), answer.number("x-ratelimit-reset"));
        assert!((1..=60).contains(&wait), "Retry-After: {wait}");
        let drift = reset - (unix_now() + wait);
        assert!((-1..=1).contains(&drift), "Reset {reset} is not now + {wait}");
    }
    assert_eq!(backend.count(), 60);
}

#[test]
fn sixty_of_many_at_once_pass_and_not_one_more() {
    let backend = Backend::start();
    let policy = Policy::contract("pulse");
    let keys = ["one", "two"].map(|id| policy.key("acme", &["--id", id]));
    let gate = Gate::start(policy, &backend);
    thread::scope(|scope| {
        for client in 0..8 {
            let (gate, key) = (&gate, &keys[client % 2]);
            scope.spawn(move || {
                let mut connection = gate.connect();
                for n in 0..25 {
                    let request = if n % 2 == 0 { sms() } else { whatsapp() };
                    let answer = connection.send(&request.bearer(key));
                    assert!([200, 429].contains(&answer.status), "{answer:?}");
                }
            });
        }
    });
    assert_eq!(backend.count(), 60);
}

#[test]
fn nothing_but_time_refills_the_budget() {
    let backend = Backend::start();
    let policy = Policy::contract("pulse");
    let key = policy.key("acme", &["--id", "first"]);
    let gate = Gate::start(policy, &backend);
    let mut connection = gate.connect();
    for _ in 0..40 {
        assert_eq!(connection.send(&sms().bearer(&key)).status, 200);
    }
    // A new secret, another key, another policy: what was used stays used.
    let rotated = gate.policy.keys("rotate", &["first"]);
    let key = String::from_utf8_lossy(&rotated.stdout).trim().to_owned();
    assert!(gate.soon(&Request::get("/api/v3/me").bearer(&key), 200));
    assert_eq!(limit_headers(&gate.send(&sms().bearer(&key))), Some((60, 19)));
    let other = gate.policy.key("acme", &["--id", "second"]);
    assert!(gate.soon(&Request::get("/api/v3/me").bearer(&other), 200));
    assert_eq!(limit_headers(&gate.send(&sms().bearer(&other))), Some((60, 18)));

    // A lowered limit leaves nothing and never a negative; a raised one is in force as soon.
    gate.policy.replace("send: { rate: 60/minute", "send: { rate: 30/minute");
    assert!(gate.soon(&sms().bearer(&key), 429), "a lowered limit is not in force");
    let answer = gate.send(&sms().bearer(&key));
    assert_eq!((answer.status, limit_headers(&answer)), (429, Some((30, 0))));
    gate.policy.replace("send: { rate: 30/minute", "send: { rate: 100/minute");
    assert!(gate.soon(&sms().bearer(&other), 200), "a raised limit is not in force");
    let (limit, left) = limit_headers(&gate.send(&sms().bearer(&key))).expect("limit headers");
    assert_eq!(limit, 100);
    assert_eq!(left, 100 - i64::try_from(sends(&backend)).expect("few"));
}

fn sends(backend: &Backend) -> usize {
    backend.seen().iter().filter(|seen| seen.target == "/api/v3/sms/send").count()
}

#[test]
fn a_broken_policy_changes_nothing_and_the_next_good_one_is_in_force() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let me = Request::get("/api/v3/me").bearer(&key);
    gate.policy.replace("routes:", "rutes:");
    assert!(eventually(A_SECOND, || gate.output().contains("policy_rejected")));
    assert_eq!(gate.send(&me).status, 200, "the last good policy stays in force");
    gate.policy.replace("rutes:", "routes:");
    gate.policy.append("tenants: { acme: { active: false } }");
    assert!(gate.soon(&me, 403), "a good policy after a bad one is not in force");
}

#[test]
fn two_tokens_of_a_tenant_and_both_channels_share_the_send_budget() {
    let backend = Backend::start();
    let policy = Policy::contract("pulse");
    let one = policy.key("acme", &["--id", "one"]);
    let two = policy.key("acme", &["--id", "two"]);
    let other = policy.key("globex", &["--id", "other"]);
    let gate = Gate::start(policy, &backend);
    let mut connection = gate.connect();
    for n in 0..60 {
        let request = if n % 3 == 0 { whatsapp() } else { sms() };
        let key = if n % 2 == 0 { &one } else { &two };
        assert_eq!(connection.send(&request.bearer(key)).status, 200);
    }
    for (request, key) in [(sms(), &one), (whatsapp(), &one), (sms(), &two), (whatsapp(), &two)] {
        assert_eq!(connection.send(&request.bearer(key)).status, 429);
    }
    let answer = connection.send(&sms().bearer(&other));
    assert_eq!((answer.status, limit_headers(&answer)), (200, Some((60, 59))));
}

#[test]
fn a_hundred_and_twenty_reads_pass_and_the_next_is_429() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let mut connection = gate.connect();
    for n in 1..=120 {
        let path = if n % 2 == 0 { "/api/v3/me" } else { "/api/v3/campaigns" };
        let answer = connection.send(&Request::get(path).bearer(&key));
        assert_eq!((answer.status, limit_headers(&answer)), (200, Some((120, 120 - n))));
    }
    assert_eq!(connection.send(&Request::get("/api/v3/me").bearer(&key)).status, 429);
    assert_eq!(connection.send(&Request::new("HEAD", "/api/v3/me").bearer(&key)).status, 429);
    assert_eq!(
        connection.send(&sms().bearer(&key)).status,
        200,
        "sends have a budget of their own"
    );
}

#[test]
fn ten_campaigns_pass_and_the_next_is_429() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let mut connection = gate.connect();
    for n in 1..=10 {
        let answer = connection.send(&campaign().bearer(&key));
        assert_eq!((answer.status, limit_headers(&answer)), (200, Some((10, 10 - n))));
    }
    let answer = connection.send(&campaign().bearer(&key));
    assert_eq!((answer.status, limit_headers(&answer)), (429, Some((10, 0))));
    envelope(&answer);
    assert_eq!(connection.send(&Request::get("/api/v3/campaigns").bearer(&key)).status, 200);
    assert_eq!(backend.count(), 11);
}

#[test]
fn another_spelling_of_a_send_is_no_way_round_its_limit() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let spelled = |path: &str| gate.send(&Request::post(path, "{}").bearer(&key));
    for (path, limit) in [
        ("/api/v3/sms/send/", 60),
        ("/api/v3/sms/send?x=1", 60),
        ("/api/v3/whatsapp/send/", 60),
        ("/api/v3/campaigns/", 10),
    ] {
        let answer = spelled(path);
        assert_eq!(limit_headers(&answer).map(|(limit, _)| limit), Some(limit), "{path}");
    }
    let reached = backend.count();
    for path in
        ["/api/v3//sms/send", "/api/v3/./sms/send", "/api/v3/sms%2Fsend", "/api/v3/%73ms/send"]
    {
        assert_eq!(spelled(path).status, 400, "{path}");
    }
    // Many backends do not mind the case of a method.
    for method in ["post", "Post", "pOST", "get"] {
        let request = Request::new(method, "/api/v3/sms/send").bearer(&key);
        assert_eq!(gate.send(&request).status, 400, "{method}");
    }
    assert_eq!(backend.count(), reached);
    let launch = spelled("/api/v3/campaigns/7/launch");
    assert_eq!((launch.status, limit_headers(&launch)), (200, None), "an existing campaign");
}

#[test]
fn other_writes_carry_no_limit_and_no_limit_header() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let mut connection = gate.connect();
    for _ in 0..150 {
        let answer = connection.send(&Request::post("/api/v3/contacts", "{}").bearer(&key));
        assert_eq!((answer.status, limit_headers(&answer)), (200, None));
        assert_eq!(answer.header("x-ratelimit-reset"), None);
    }
}

#[test]
fn every_authenticated_answer_of_a_limited_route_carries_the_three_headers() {
    let backend = Backend::start();
    let policy = Policy::contract("pulse");
    let key = policy.key("acme", &[]);
    let reader = policy.key("acme", &["--scope", "read"]);
    let gate = Gate::start(policy, &backend);
    for (left, status) in [(59, "200 OK"), (58, "422 Unprocessable"), (57, "500 Oops")] {
        backend.answers(Reply::json(status, "{}"));
        let answer = gate.send(&sms().bearer(&key));
        assert_eq!(limit_headers(&answer), Some((60, left)), "{status}");
        let reset = answer.number("x-ratelimit-reset");
        assert!((0..=61).contains(&(reset - unix_now())), "{status}: {reset}");
    }
    let denied = gate.send(&sms().bearer(&reader));
    assert_eq!((denied.status, limit_headers(&denied)), (403, Some((60, 57))));
    let stranger = gate.send(&sms().bearer("pulse_nobody"));
    assert_eq!((stranger.status, limit_headers(&stranger)), (401, None));
    drop(gate);

    let (gate, key) = PULSE.start_before_nobody();
    let answer = gate.send(&sms().bearer(&key));
    assert_eq!((answer.status, limit_headers(&answer)), (502, Some((60, 59))));
}

#[test]
fn header_names_are_spelled_as_printed() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let has = |answer: &Answer, name: &str| answer.headers.iter().any(|(n, _)| n == name);
    let mut connection = gate.connect();
    for n in 0..11 {
        let answer = connection.send(&campaign().bearer(&key));
        for name in ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"] {
            assert!(has(&answer, name), "{n}: {name}: {:?}", answer.headers);
        }
        assert!(n < 10 || has(&answer, "Retry-After"), "{:?}", answer.headers);
    }
}

#[test]
fn missing_unknown_expired_and_revoked_are_401_with_messages_of_their_own() {
    let backend = Backend::start();
    let policy = Policy::contract("pulse");
    let expired = policy.key("acme", &["--expires", "2020-01-01T00:00:00Z"]);
    let revoked = policy.key("acme", &["--id", "gone"]);
    policy.revoke("gone");
    let gate = Gate::start(policy, &backend);
    let mut typo = revoked.clone();
    typo.pop();
    let cases = [
        (Request::get("/api/v3/me"), "Token is missing."),
        (Request::get("/api/v3/me").bearer("someone-elses-token"), "Token is invalid."),
        (Request::get("/api/v3/me").bearer(&typo), "Token is invalid."),
        (Request::get("/api/v3/me").bearer(&expired), "Token has expired."),
        (Request::get("/api/v3/me").bearer(&revoked), "Token has been revoked."),
    ];
    for (request, message) in cases {
        let printed = serde_json::json!({ "status": "error", "message": message, "errors": {} });
        gate.send(&request).is(401, &printed.to_string());
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn all_errors_wear_the_envelope() {
    PULSE.the_gates_own_refusals_wear(envelope);
}

#[test]
fn a_body_over_the_bound_wears_it_too() {
    PULSE.a_body_over_the_bound_is_413(Request::post("/api/v3/contacts", ""), envelope);
}

#[test]
fn a_422_with_errors_by_field_is_the_backends_and_passes_as_it_is() {
    let backend = Backend::start();
    let (gate, key) = PULSE.start(&backend);
    let body = r#"{ "status":"error", "message":"Invalid.", "errors":{"to":["is required"]} }"#;
    backend.answers(Reply::json("422 Unprocessable Content", body));
    let answer = gate.send(&sms().bearer(&key));
    assert_eq!((answer.status, &*answer.text()), (422, body));
    let sent = r#"{"to":"+255700000000","text":"hello"}"#;
    assert_eq!(backend.last().body, sent.as_bytes(), "the body arrives to the byte");
}

#[test]
fn a_backends_own_answers_pass_byte_for_byte() {
    PULSE.a_backends_own_answers_pass_byte_for_byte();
}

#[test]
fn any_host_is_accepted() {
    PULSE.any_host_is_accepted();
}

#[test]
fn a_token_works_within_a_second_and_stops_as_soon_when_revoked() {
    PULSE.a_key_works_and_stops_within_a_second();
}

#[test]
fn a_tokens_value_is_shown_once() {
    PULSE.the_secret_is_seen_once();
}
