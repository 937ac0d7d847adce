//! What the `sms-platform` contract says of `Idempotency-Key`, over real sockets, against the shipped policy: a retry never
//! sends twice and is charged once.

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use support::contract::{
    Death, counting, dying, is_replay_of, message_and_code, status_of, what_comes_of,
};
use support::inside::Inside;
use support::{A_SECOND, Answer, Asked, Backend, Connection, Gate, Policy, Reply, Request};
use support::{eventually, unix_now};

/// The published sends: with a body that a client would send.
const SENDS: [(&str, &str); 3] = [
    ("/sms/send", r#"{"to":"+31612345678","text":"Hello"}"#),
    ("/otp/send", r#"{"to":"+31612345678"}"#),
    ("/voice/send", r#"{"to":"+31612345678","say":"Hello"}"#),
];

const GRANTS: [&str; 10] = [
    "--scope", "sms:send", "--scope", "otp", "--scope", "voice", "--scope", "lookup", "--scope",
    "webhooks",
];

fn keyed(path: &str, body: &str, token: &str, key: &str) -> Request {
    Request::post(path, body).bearer(token).header("Idempotency-Key", key)
}

fn sms(token: &str, key: &str) -> Request {
    keyed("/sms/send", SENDS[0].1, token, key)
}

/// A gate with the shipped policy, and a token of `acme` that may send.
fn start(backend: &Backend) -> (Gate, String) {
    let policy = Policy::contract("sms-platform");
    let token = policy.key("acme", &GRANTS);
    (Gate::start(policy, backend), token)
}

/// The same in front of anybody, with time in the test's hand.
fn before(upstream: &str) -> (Inside, String) {
    let policy = Policy::contract("sms-platform");
    let token = policy.key("acme", &GRANTS);
    (Inside::before(policy, upstream), token)
}

#[test]
fn a_retry_of_each_send_gets_the_original_response_and_the_backend_is_not_called() {
    let backend = counting();
    let (gate, token) = start(&backend);
    for (sent, (path, body)) in (1..).zip(SENDS) {
        let request = keyed(path, body, &token, &format!("a-unique-key-{sent}"));
        let first = gate.send(&request);
        assert_eq!((first.status, first.header("idempotent-replayed")), (201, None));
        assert_eq!(first.text(), format!("{{ \"id\" : {sent} }}\n"));
        for _ in 0..3 {
            is_replay_of(&first, &gate.send(&request));
        }
        assert_eq!(backend.count(), sent);
    }
}

#[test]
fn headers_are_named_as_printed() {
    let backend = counting();
    let (gate, token) = start(&backend);
    let otp = || gate.send(&keyed("/otp/send", "{}", &token, "k"));
    otp();
    let replay = otp();
    let answers: Vec<_> = (0..9).map(|_| otp()).collect();
    let flood = answers.last().expect("there are nine");
    let has = |answer: &Answer, name: &str| {
        assert!(answer.headers.iter().any(|(n, _)| n == name), "{name}: {answer:?}");
    };
    has(&replay, "Idempotent-Replayed");
    assert_eq!(flood.status, 429);
    has(flood, "Retry-After");
    for name in ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"] {
        has(&replay, name);
        has(flood, name);
    }
}

#[test]
fn the_original_response_is_what_the_backend_said_whatever_it_said() {
    let backend = Backend::start();
    let (gate, token) = start(&backend);
    let body = "{ \"m\" : \"\u{20ac} \\u00e9\",\n\t\"a\":1,\"a\":2 }  \n";
    let large = format!("[{}]", vec!["\"x\""; 20_000].join(","));
    let said = [
        ("200 OK", body),
        ("201 Created", &large),
        ("202 Accepted", ""),
        ("400 Bad Request", body),
        ("422 Unprocessable Content", r#"{"message":"sender not approved","code":"x"}"#),
        ("500 Internal Server Error", "oops"),
    ];
    for (sent, (status, body)) in (1..).zip(said) {
        let reply = Reply::json(status, body)
            .header("X-Message-Id", "as it  is; \"quoted\"")
            .header("Location", "/messages/7")
            .header("Link", "<a>; rel=next")
            .header("Link", "<b>; rel=last");
        backend.answers(reply);
        let first = gate.send(&sms(&token, status));
        assert_eq!((first.status.to_string(), first.text()), (status[..3].into(), body.into()));
        backend.answers(Reply::json("200 OK", "another"));
        is_replay_of(&first, &gate.send(&sms(&token, status)));
        assert_eq!(backend.count(), sent, "{status}");
    }
}

#[test]
fn without_a_key_and_off_the_three_sends_every_request_is_its_own() {
    let backend = counting();
    let (gate, token) = start(&backend);
    for (path, body) in SENDS {
        let bare = Request::post(path, body).bearer(&token);
        assert_ne!(gate.send(&bare).body, gate.send(&bare).body, "{path}");
    }
    for path in ["/otp/verify", "/lookup", "/webhooks"] {
        let request = keyed(path, "{}", &token, "the-same");
        assert_ne!(gate.send(&request).body, gate.send(&request).body, "{path}");
    }
    assert_eq!(backend.count(), 12);
}

#[test]
fn while_the_first_is_under_way_a_duplicate_is_409_and_afterwards_a_replay() {
    let backend = Backend::start();
    let (gate, token) = start(&backend);
    backend.answers(Reply::json("202 Accepted", "{}").after(Duration::from_millis(700)));
    let mut first = gate.connect();
    first.write(&sms(&token, "slow").bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    for _ in 0..3 {
        message_and_code(&gate.send(&sms(&token, "slow")), 409, "idempotency_in_progress");
    }
    let first = first.answer(Asked::Other);
    is_replay_of(&first, &gate.send(&sms(&token, "slow")));
    assert_eq!(backend.count(), 1);
}

#[test]
fn of_fifty_concurrent_duplicates_one_reaches_the_backend() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", r#"{"id":1}"#).after(Duration::from_millis(300)));
    let (gate, token) = start(&backend);
    let start = Arc::new(Barrier::new(50));
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let (start, request) = (Arc::clone(&start), sms(&token, "dup"));
            let mut connection = gate.connect();
            thread::spawn(move || {
                start.wait();
                connection.send(&request)
            })
        })
        .collect();
    let answers = clients.into_iter().map(|client| client.join().expect("a client"));
    let (told, conflicts): (Vec<Answer>, Vec<Answer>) = answers.partition(|a| a.status == 200);
    assert!(!told.is_empty());
    for conflict in &conflicts {
        message_and_code(conflict, 409, "idempotency_in_progress");
    }
    let fresh = told.iter().filter(|answer| answer.header("idempotent-replayed").is_none());
    assert_eq!((fresh.count(), backend.count()), (1, 1));
}

#[test]
fn the_same_key_with_another_payload_or_on_another_route_is_422() {
    let backend = counting();
    let (gate, token) = start(&backend);
    let first = gate.send(&sms(&token, "k"));
    let others = [
        keyed("/sms/send", r#"{"to":"+31612345679","text":"Hello"}"#, &token, "k"),
        keyed("/sms/send", r#"{"to":"+31612345678","text":"Hello","more":1}"#, &token, "k"),
        keyed("/sms/send", "", &token, "k"),
        keyed("/sms/send?dry=1", SENDS[0].1, &token, "k"),
        keyed("/otp/send", SENDS[0].1, &token, "k"),
        keyed("/voice/send", SENDS[0].1, &token, "k"),
    ];
    for other in others {
        message_and_code(&gate.send(&other), 422, "idempotency_key_reused");
    }
    is_replay_of(&first, &gate.send(&sms(&token, "k")));
    assert_eq!(backend.count(), 1);
}

#[test]
fn what_is_no_key_is_400_and_reaches_nobody() {
    let backend = Backend::start();
    let (gate, token) = start(&backend);
    let long = "k".repeat(256);
    for key in ["", "a, b", &*long, "\"unclosed", "\"a\", \"b\""] {
        message_and_code(&gate.send(&sms(&token, key)), 400, "idempotency_key_invalid");
    }
    let twice = sms(&token, "a").header("Idempotency-Key", "b");
    message_and_code(&gate.send(&twice), 400, "idempotency_key_invalid");
    assert_eq!(backend.count(), 0);
    assert_eq!(gate.send(&sms(&token, &long[1..])).status, 200, "255 characters are a key");
}

#[test]
fn where_the_backend_dies_the_outcome_is_unknown_and_nothing_is_sent_again() {
    for how in [Death::BeforeItsAnswer, Death::AmidItsAnswer] {
        let (upstream, seen) = dying(how);
        let (gate, token) = before(&format!("http://{upstream}"));
        let told = status_of(&what_comes_of(gate.traffic, &sms(&token, "k")));
        match how {
            Death::BeforeItsAnswer => assert_eq!(told, Some(502)),
            Death::AmidItsAnswer => assert_eq!(told, Some(200), "its head had passed"),
        }
        for _ in 0..3 {
            let retry = gate.send(&sms(&token, "k"));
            message_and_code(&retry, 409, "idempotency_outcome_unknown");
        }
        let other = keyed("/sms/send", "{}", &token, "k");
        assert!([409, 422].contains(&gate.send(&other).status));
        assert_eq!(seen.load(Ordering::SeqCst), 1, "{how:?}");
    }
}

#[test]
fn a_backend_that_was_never_reached_leaves_the_key_free() {
    let backend = counting();
    let gone = Backend::start().url();
    let (gate, token) = before(&gone);
    assert!(eventually(A_SECOND, || gate.send(&sms(&token, "k")).status == 502));
    assert_eq!(gate.send(&sms(&token, "k")).status, 502, "and not 409");
    let gate = gate.restarted(&backend);
    assert_eq!(gate.send(&sms(&token, "k")).header("idempotent-replayed"), None);
    assert_eq!(backend.count(), 1);
}

#[test]
fn an_answer_too_large_to_be_kept_is_said_to_be_done_and_is_not_sent_again() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", &format!("\"{}\"", "x".repeat(300 * 1024))));
    let (gate, token) = start(&backend);
    assert_eq!(gate.send(&sms(&token, "k")).body.len(), 300 * 1024 + 2, "it passes all the same");
    message_and_code(&gate.send(&sms(&token, "k")), 409, "idempotency_not_replayable");
    assert_eq!(backend.count(), 1);
}

#[test]
fn records_belong_to_the_tenant_over_all_its_tokens() {
    let backend = counting();
    let policy = Policy::contract("sms-platform");
    let one = policy.key("acme", &GRANTS);
    let two = policy.key("acme", &GRANTS);
    let stranger = policy.key("globex", &GRANTS);
    let gate = Gate::start(policy, &backend);
    let first = gate.send(&sms(&one, "k"));
    is_replay_of(&first, &gate.send(&sms(&two, "k")));
    let other = gate.send(&sms(&stranger, "k"));
    assert_eq!((other.status, other.header("idempotent-replayed")), (201, None));
    assert_ne!(other.body, first.body, "another tenant's answers are out of reach");
    assert_eq!(backend.count(), 2);
}

#[test]
fn a_record_is_no_way_round_scope_allowlist_or_revocation() {
    let backend = counting();
    let policy = Policy::contract("sms-platform");
    let sender = policy.key("acme", &[&GRANTS[..], &["--id", "sender"]].concat());
    let reader = policy.key("acme", &["--scope", "balance"]);
    let gate = Gate::start(policy, &backend);
    let first = gate.send(&sms(&sender, "k"));
    assert_eq!(first.status, 201);
    message_and_code(&gate.send(&sms(&reader, "k")), 403, "scope_denied");

    gate.policy.replace("\ntenants: {}", "\ntenants: { acme: { allow: [203.0.113.0/24] } }");
    assert!(gate.soon(&sms(&sender, "k"), 403), "a changed allowlist is not in force");
    message_and_code(&gate.send(&sms(&sender, "k")), 403, "ip_not_allowed");
    gate.policy.replace("[203.0.113.0/24]", "[]");
    assert!(gate.soon(&sms(&sender, "k"), 201), "the list is empty again");
    is_replay_of(&first, &gate.send(&sms(&sender, "k")));

    gate.policy.revoke("sender");
    assert!(gate.soon(&sms(&sender, "k"), 401), "a revoked token works on");
    message_and_code(&gate.send(&sms(&sender, "k")), 401, "token_revoked");
    assert_eq!(backend.count(), 1);
}

#[test]
fn a_402_429_or_503_of_the_backend_is_not_remembered_and_other_errors_are() {
    let backend = Backend::start();
    let (gate, token) = start(&backend);
    for status in ["402 Payment Required", "429 Too Many Requests", "503 Service Unavailable"] {
        let body = r#"{"error":"not now"}"#;
        backend.answers(Reply::json(status, body));
        for _ in 0..2 {
            let refused = gate.send(&sms(&token, status));
            assert_eq!(
                (refused.status.to_string(), refused.text()),
                (status[..3].into(), body.into())
            );
            assert_eq!(refused.header("idempotent-replayed"), None);
        }
        backend.answers(Reply::json("200 OK", "{}"));
        let second = gate.send(&sms(&token, status));
        assert_eq!((second.status, second.header("idempotent-replayed")), (200, None), "{status}");
        is_replay_of(&second, &gate.send(&sms(&token, status)));
    }
    assert_eq!(backend.count(), 9);
    for status in ["400 Bad", "404 Not Found", "409 Conflict", "422 Nope", "500 Oops", "504 Late"] {
        backend.answers(Reply::json(status, r#"{"error":"no"}"#));
        let first = gate.send(&sms(&token, status));
        backend.answers(Reply::json("200 OK", "{}"));
        is_replay_of(&first, &gate.send(&sms(&token, status)));
    }
    assert_eq!(backend.count(), 15);
}

#[test]
fn a_record_lives_for_24_hours() {
    let backend = counting();
    let (gate, token) = before(&backend.url());
    let first = gate.send(&sms(&token, "k"));
    gate.pass(Duration::from_secs(24 * 3600 - 1));
    is_replay_of(&first, &gate.send(&sms(&token, "k")));
    gate.pass(Duration::from_secs(2));
    let second = gate.send(&sms(&token, "k"));
    assert_eq!((second.status, second.header("idempotent-replayed")), (201, None));
    assert_ne!(second.body, first.body);
    assert_eq!(backend.count(), 2);
}

#[test]
fn a_restart_of_the_shipped_gate_forgets_no_record() {
    let backend = counting();
    let (gate, token) = before(&backend.url());
    let firsts: Vec<_> = (0..5).map(|n| gate.send(&sms(&token, &format!("k{n}")))).collect();
    let gate = gate.restarted(&backend);
    for (n, first) in firsts.iter().enumerate() {
        is_replay_of(first, &gate.send(&sms(&token, &format!("k{n}"))));
    }
    let other = keyed("/sms/send", "{}", &token, "k0");
    message_and_code(&gate.send(&other), 422, "idempotency_key_reused");
    assert_eq!(backend.count(), 5);
}

#[test]
fn the_first_client_leaving_loses_nothing() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", r#"{"id":1}"#).after(Duration::from_millis(300)));
    let (gate, token) = start(&backend);
    let mut client = gate.connect();
    client.write(&sms(&token, "gone").bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    drop(client);
    let replayed = || gate.send(&sms(&token, "gone")).header("idempotent-replayed") == Some("true");
    assert!(eventually(2 * A_SECOND, replayed));
    assert_eq!(backend.count(), 1);
}

#[test]
fn x_ratelimit_is_the_tokens_on_replays_and_refusals_and_each_of_them_counts() {
    let backend = counting();
    let (gate, token) = before(&backend.url());
    let expect = |answer: &Answer, left: i64| {
        assert_eq!(answer.number("x-ratelimit-limit"), 120);
        assert_eq!(answer.number("x-ratelimit-remaining"), left, "{answer:?}");
        let wait = answer.number("x-ratelimit-reset") - gate.unix_millis().div_euclid(1000);
        assert!((0..=61).contains(&wait), "{wait}");
    };
    let first = gate.send(&keyed("/otp/send", SENDS[1].1, &token, "k"));
    expect(&first, 119);
    // Nine more of the ten that an address has: a replay is a request, too.
    for n in 1..10 {
        let replay = gate.send(&keyed("/otp/send", SENDS[1].1, &token, "k"));
        is_replay_of(&first, &replay);
        expect(&replay, 119 - n);
    }
    let flood = gate.send(&keyed("/otp/send", SENDS[1].1, &token, "k"));
    message_and_code(&flood, 429, "rate_limited");
    assert!((1..=60).contains(&flood.number("retry-after")));
    expect(&flood, 110);
    let reused = gate.send(&keyed("/sms/send", "{}", &token, "k"));
    message_and_code(&reused, 422, "idempotency_key_reused");
    expect(&reused, 109);
    assert_eq!(backend.count(), 1);
}

#[test]
fn a_request_that_a_limit_refused_leaves_its_key_free() {
    let backend = counting();
    let (gate, token) = before(&backend.url());
    for n in 0..10 {
        assert_eq!(gate.send(&keyed("/otp/send", "{}", &token, &n.to_string())).status, 201);
    }
    for _ in 0..3 {
        let refused = gate.send(&keyed("/otp/send", "{}", &token, "eleventh"));
        message_and_code(&refused, 429, "rate_limited");
    }
    gate.pass(Duration::from_secs(61));
    let sent = gate.send(&keyed("/otp/send", "{}", &token, "eleventh"));
    assert_eq!((sent.status, sent.header("idempotent-replayed")), (201, None));
    assert_eq!(backend.count(), 11);
}

#[test]
fn a_keyed_send_from_an_address_that_is_not_listed_leaves_nothing_behind() {
    let backend = counting();
    let policy = Policy::contract("sms-platform");
    let token = policy.key("acme", &[&GRANTS[..], &["--allow", "127.0.0.9/32"]].concat());
    let gate = Gate::start(policy, &backend);
    message_and_code(&gate.send(&sms(&token, "k")), 403, "ip_not_allowed");
    let mut listed = Connection::from([127, 0, 0, 9], gate.traffic);
    let sent = listed.send(&sms(&token, "k"));
    assert_eq!((sent.status, sent.header("idempotent-replayed")), (201, None));
    assert_eq!(backend.count(), 1);
}

#[test]
fn the_reset_of_a_real_gate_is_in_unix_seconds() {
    let backend = Backend::start();
    let (gate, token) = start(&backend);
    let wait = gate.send(&sms(&token, "k")).number("x-ratelimit-reset") - unix_now();
    assert!((0..=61).contains(&wait), "{wait}");
}
