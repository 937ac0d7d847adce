//! Every sentence of the `partner` contract, over real sockets, against the shipped policy: with the wallet held by the
//! backend, as shipped, and by the gate, as the file shows.

mod support;

use std::sync::atomic::Ordering;

use support::clerk::Clerk;
use support::contract::{Contract, Death, dying, what_comes_of};
use support::inside::Inside;
use support::{Answer, Backend, Gate, Policy, Reply, Request};

const PARTNER: Contract = Contract {
    name: "partner",
    grants: &[],
    ask: || Request::get("/api/v1/companies"),
    sign: Request::bearer,
};

const MISSING: &str = r#"{"error":"missing_bearer_token"}"#;
const INVALID: &str = r#"{"error":"invalid_token"}"#;

/// `{"error":"snake_case"}`.
fn envelope(answer: &Answer) {
    let error = answer.json()["error"].as_str().expect("error is text").to_owned();
    assert!(!error.is_empty() && error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    assert_eq!(answer.json().to_string(), serde_json::json!({ "error": error }).to_string());
}

/// A gate with a key of each kind that is no longer good, and one that is.
struct Cases {
    gate: Gate,
    good: String,
    invalid: Vec<(&'static str, String)>,
}

impl Cases {
    fn before(backend: &Backend) -> Cases {
        let policy = Policy::contract("partner");
        let good = policy.key("acme", &["--id", "first"]);
        let expired = policy.key("acme", &["--expires", "2020-01-01T00:00:00Z"]);
        let revoked = policy.key("acme", &["--id", "gone"]);
        policy.revoke("gone");
        let inactive = policy.key("globex", &[]);
        policy.append("tenants: { globex: { active: false } }");
        let mut typo = good.clone();
        typo.pop();
        let invalid = vec![
            ("unknown", "pk_live_xxxxxxxxxxxxxxxxxxxxxxxx".to_owned()),
            ("no key of ours", "something-else".to_owned()),
            ("malformed", typo),
            ("expired", expired),
            ("revoked", revoked),
            ("inactive partner", inactive),
        ];
        Cases { gate: Gate::start(policy, backend), good, invalid }
    }
}

#[test]
fn requests_carry_a_bearer_key_under_api_v1() {
    let backend = Backend::start();
    let (gate, key) = PARTNER.start(&backend);
    assert!(key.starts_with("pk_live_"), "published: it looks like pk_live_…");
    for path in ["/api/v1/companies", "/api/v1/wallet"] {
        let answer = gate.send(&Request::get(path).bearer(&key));
        assert_eq!((answer.status, &*answer.text()), (200, r#"{"ok":true}"#));
        assert_eq!(backend.last().target, path);
        assert!(backend.last().all("authorization").is_empty());
    }
}

#[test]
fn without_an_authorization_header_it_is_missing_bearer_token() {
    let backend = Backend::start();
    let (gate, _) = PARTNER.start(&backend);
    gate.send(&Request::get("/api/v1/companies")).is(401, MISSING);
    gate.send(&Request::get("/api/v1/wallet")).is(401, MISSING);
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_header_that_is_not_bearer_or_bearer_with_nothing_is_missing_too() {
    let backend = Backend::start();
    let (gate, key) = PARTNER.start(&backend);
    let values =
        ["", "Bearer", "Bearer ", "Basic YWNtZTpzZWNyZXQ=", &key, "Token abc", "Bearerx y"];
    for value in values {
        let answer = gate.send(&Request::get("/api/v1/companies").header("Authorization", value));
        assert_eq!(answer.status, 401, "{value:?}");
        assert_eq!(answer.text(), MISSING, "{value:?}");
    }
    let elsewhere = Request::get("/api/v1/companies").header("X-API-Key", &key);
    gate.send(&elsewhere).is(401, MISSING);
    assert_eq!(backend.count(), 0);
}

#[test]
fn unknown_revoked_expired_malformed_and_inactive_are_invalid_token() {
    let backend = Backend::start();
    let cases = Cases::before(&backend);
    for (case, key) in &cases.invalid {
        let answer = cases.gate.send(&Request::get("/api/v1/companies").bearer(key));
        assert_eq!(answer.status, 401, "{case}");
        answer.is(401, INVALID);
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn the_cases_of_invalid_token_differ_nowhere_towards_the_client() {
    let backend = Backend::start();
    let cases = Cases::before(&backend);
    let welcome = cases.gate.send(&Request::get("/api/v1/wallet").bearer(&cases.good));
    assert_eq!(welcome.status, 200, "the one good key among them");
    for request in [Request::get("/api/v1/wallet"), Request::post("/api/v1/none", "{}")] {
        let answers: Vec<_> = cases
            .invalid
            .iter()
            .map(|(case, key)| (case, cases.gate.send(&request.clone().bearer(key))))
            .collect();
        let first = answers[0].1.clone();
        let id_length = |answer: &Answer| answer.header("x-request-id").map(str::len);
        for (case, answer) in answers {
            assert_eq!(id_length(&answer), id_length(&first), "{case}");
            let first = first.clone().without_date_and_id();
            let answer = answer.without_date_and_id();
            assert_eq!(answer.headers, first.headers, "{case}");
            assert_eq!(answer.body, first.body, "{case}");
            assert_eq!(answer.status, first.status, "{case}");
        }
    }
}

#[test]
fn the_cases_are_told_apart_in_the_log() {
    let backend = Backend::start();
    let cases = Cases::before(&backend);
    for (_, key) in &cases.invalid {
        cases.gate.send(&Request::get("/api/v1/companies").bearer(key));
    }
    cases.gate.record(cases.invalid.len() - 1);
    let told: Vec<String> = cases.gate.records().iter().map(ToString::to_string).collect();
    for word in ["key_unknown", "key_malformed", "key_expired", "key_revoked", "tenant_inactive"] {
        assert!(told.iter().any(|record| record.contains(word)), "{word}: {told:#?}");
    }
}

#[test]
fn the_token_is_tested_before_scope_address_and_limits() {
    let backend = Backend::start();
    let policy = Policy::contract("partner");
    let inactive = policy.key("globex", &["--allow", "192.0.2.1/32"]);
    let active = policy.key("acme", &["--allow", "192.0.2.1/32"]);
    policy.append("tenants: { globex: { active: false } }");
    let gate = Gate::start(policy, &backend);
    let request = Request::get("/api/v1/companies");
    gate.send(&request.clone().bearer(&inactive)).is(401, INVALID);
    let answer = gate.send(&request.bearer(&active));
    assert_eq!(answer.status, 403);
    envelope(&answer);
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_partner_that_is_switched_off_is_out_within_a_second_and_back_as_soon() {
    let backend = Backend::start();
    let (gate, key) = PARTNER.start(&backend);
    let request = Request::get("/api/v1/companies").bearer(&key);
    assert_eq!(gate.send(&request).status, 200);
    gate.policy.append("tenants: { acme: { active: false } }");
    assert!(gate.soon(&request, 401));
    gate.send(&request).is(401, INVALID);
    gate.policy.replace("active: false", "active: true");
    assert!(gate.soon(&request, 200));
}

#[test]
fn the_credential_alone_says_whose_request_it_is() {
    PARTNER.identity_cannot_be_forged();
    let backend = Backend::start();
    let (gate, key) = PARTNER.start(&backend);
    let claims = Request::get("/api/v1/companies")
        .bearer(&key)
        .header("X-Partner-Id", "globex")
        .header("x_partner_id", "globex")
        .header("X-Account-Id", "globex");
    assert_eq!(gate.send(&claims).status, 200);
    let head = backend.last().head;
    assert!(!head.contains("globex"), "{head}");
    assert_eq!(backend.last().only("x-tenant-id"), "acme");
}

#[test]
fn every_other_refusal_is_one_snake_case_word() {
    PARTNER.the_gates_own_refusals_wear(envelope);
    let backend = Backend::start();
    let (gate, key) = PARTNER.start(&backend);
    gate.send(&Request::get("/api/v1/none").bearer(&key)).is(404, r#"{"error":"not_found"}"#);
    let post = gate.send(&Request::post("/api/v1/wallet", "{}").bearer(&key));
    post.is(405, r#"{"error":"method_not_allowed"}"#);
    assert!(post.header("allow").unwrap_or_default().contains("GET"), "{post:?}");
    assert_eq!(backend.count(), 0);
}

#[test]
fn strangers_learn_no_routes() {
    let backend = Backend::start();
    let (gate, _) = PARTNER.start(&backend);
    let known = gate.send(&Request::get("/api/v1/wallet")).without_date_and_id();
    for request in [Request::get("/api/v1/none"), Request::new("DELETE", "/api/v1/wallet")] {
        let answer = gate.send(&request).without_date_and_id();
        assert_eq!((&answer.headers, &answer.body), (&known.headers, &known.body));
    }
}

#[test]
fn more_endpoints_are_one_line_each() {
    let backend = Backend::start();
    let (gate, key) = PARTNER.start(&backend);
    let list = Request::get("/api/v1/templates").bearer(&key);
    assert_eq!(gate.send(&list).status, 404);
    // The lines that the file's comment shows, as they stand there.
    let shown = shown(&gate.policy);
    assert_eq!(shown.len(), 3, "{}", gate.policy.text());
    gate.policy.replace("\nroutes:", &format!("\nroutes:\n  {}", shown.join("\n  ")));
    assert!(gate.soon(&list, 200), "a line in the file is not in force");
    assert_eq!(gate.send(&Request::get("/api/v1/templates/7").bearer(&key)).status, 200);
}

#[test]
fn no_limit_is_set_and_none_is_reported() {
    let backend = Backend::start();
    let (gate, key) = PARTNER.start(&backend);
    for answer in PARTNER.many(&gate, &key, 300) {
        assert_eq!(answer.status, 200);
        let told = |(name, _): &(String, String)| name.to_ascii_lowercase().contains("ratelimit");
        assert!(!answer.headers.iter().any(told), "{answer:?}");
    }
}

#[test]
fn as_shipped_the_wallet_is_the_backends_to_tell() {
    let backend = Backend::start();
    let (gate, key) = PARTNER.start(&backend);
    let wallet = Request::get("/api/v1/wallet").bearer(&key);
    let published =
        r#"{"balance":8450,"currency":"XAF","creditUnitPrice":"25.0000","costPerMessage":1}"#;
    for (status, body) in
        [("200 OK", published), ("402 Payment Required", r#"{"error":"no_credits"}"#)]
    {
        backend.answers(Reply::json(status, body));
        let answer = gate.send(&wallet.clone().header("X-Wallet-Balance", "7"));
        assert_eq!((answer.status.to_string(), answer.text()), (status[..3].into(), body.into()));
        answer.is_json();
    }
}

/// The lines that the file shows for more endpoints.
fn shown(policy: &Policy) -> Vec<String> {
    let text = policy.text();
    text.lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|l| l.starts_with("- {"))
        .map(str::to_owned)
        .collect()
}

/// The policy with the wallet held by the gate, as its comments say: without `mode: disabled`, and with a route that costs.
fn with_the_gates_wallet() -> Policy {
    let policy = Policy::contract("partner");
    let lines = shown(&policy);
    let route = lines.iter().find(|line| line.contains("cost: 1")).expect("the file shows one");
    policy.replace("\nroutes:", &format!("\nroutes:\n  {route}"));
    policy.replace("per: tenant, mode: disabled }", "per: tenant }");
    policy
}

struct Shop {
    gate: Inside,
    key: String,
}

impl Shop {
    fn before(upstream: &str) -> Shop {
        let policy = with_the_gates_wallet();
        let key = policy.key("acme", &["--id", "first"]);
        Shop { gate: Inside::before(policy, upstream), key }
    }

    fn clerk(&self) -> Clerk {
        Clerk(self.gate.admin.expect("the policy has an admin listener"))
    }

    fn send(&self) -> Answer {
        self.gate.send(&Request::post("/api/v1/messages", r#"{"to":"+237"}"#).bearer(&self.key))
    }
}

const EMPTY: &str = r#"{"error":"insufficient_balance"}"#;

#[test]
fn held_by_the_gate_a_message_costs_a_credit_and_an_empty_wallet_is_402() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    shop.send().is(402, EMPTY);
    assert_eq!(shop.send().header("retry-after"), None, "time fills no wallet");
    assert_eq!(backend.count(), 0);
    shop.clerk().top_up("acme", "3");
    for _ in 0..3 {
        assert_eq!(shop.send().status, 200);
    }
    shop.send().is(402, EMPTY);
    for path in ["/api/v1/companies", "/api/v1/wallet"] {
        let free = shop.gate.send(&Request::get(path).bearer(&shop.key));
        assert_eq!(free.status, 200, "{path} costs nothing");
    }
    assert_eq!((shop.clerk().balance("acme"), backend.count()), ("0".to_owned(), 5));
    // What the backend refused is given back.
    shop.clerk().top_up("acme", "1");
    backend.answers(Reply::json("422 Nope", r#"{"error":"template_unknown"}"#));
    shop.send().is(422, r#"{"error":"template_unknown"}"#);
    assert_eq!(shop.clerk().balance("acme"), "1");
}

#[test]
fn held_by_the_gate_the_balance_is_shown_to_the_backend_and_cannot_be_forged() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    shop.clerk().top_up("acme", "8450");
    let wallet = |name: &str| {
        Request::get("/api/v1/wallet").bearer(&shop.key).header(name, "999999").header(name, "1")
    };
    for name in ["X-Wallet-Balance", "x-wallet-balance", "x_wallet_balance", "X-Wallet_Balance"] {
        assert_eq!(shop.gate.send(&wallet(name)).status, 200);
        assert_eq!(backend.last().only("x-wallet-balance"), "8450", "{name}");
        assert!(!backend.last().head.contains("999999"), "{name}: {}", backend.last().head);
    }
    assert_eq!(shop.send().status, 200);
    assert_eq!(backend.last().only("x-wallet-balance"), "8449", "after this message");
    let claims = Request::get("/api/v1/wallet").bearer(&shop.key).header("X-Partner-Id", "globex");
    assert_eq!(shop.gate.send(&claims).status, 200);
    assert!(backend.last().all("x-partner-id").is_empty(), "still removed");
}

#[test]
fn held_by_the_gate_the_wallet_can_be_told_by_the_gate_too() {
    let backend = Backend::start();
    let policy = with_the_gates_wallet();
    policy.replace(
        "match: GET /api/v1/wallet }",
        "match: GET /api/v1/wallet, answer: { balance: wallet } }",
    );
    let key = policy.key("acme", &[]);
    let gate = Gate::start(policy, &backend);
    Clerk(gate.admin).top_up("acme", "8450");
    let told = gate.send(&Request::get("/api/v1/wallet").bearer(&key));
    told.is(200, r#"{"balance":8450,"unit":"credits"}"#);
    assert_eq!(backend.count(), 0);
}

#[test]
fn held_by_the_gate_a_wallet_is_one_partners_and_outlives_a_restart() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    let second = shop.gate.policy.key("acme", &[]);
    let other = shop.gate.policy.key("globex", &[]);
    shop.clerk().top_up("acme", "2");
    assert_eq!(shop.send().status, 200);
    let shop = Shop { gate: shop.gate.restarted(&backend), ..shop };
    let send = |key: &str| {
        shop.gate.send(&Request::post("/api/v1/messages", r#"{"to":"+237"}"#).bearer(key))
    };
    send(&other).is(402, EMPTY);
    assert_eq!(send(&second).status, 200, "another key of the partner");
    send(&shop.key).is(402, EMPTY);
    assert_eq!(backend.count(), 2);
}

#[test]
fn held_by_the_gate_a_credit_of_unknown_outcome_stays_charged() {
    let (upstream, seen) = dying(Death::BeforeItsAnswer);
    let shop = Shop::before(&format!("http://{upstream}"));
    shop.clerk().top_up("acme", "1");
    let message = Request::post("/api/v1/messages", "{}").bearer(&shop.key);
    what_comes_of(shop.gate.traffic, &message);
    shop.send().is(402, EMPTY);
    assert_eq!((seen.load(Ordering::SeqCst), shop.clerk().balance("acme")), (1, "0".to_owned()));
}

#[test]
fn held_by_the_gate_an_invalid_token_is_told_before_an_empty_wallet() {
    let backend = Backend::start();
    let policy = with_the_gates_wallet();
    let poor = policy.key("acme", &[]);
    let inactive = policy.key("globex", &[]);
    policy.append("tenants: { globex: { active: false } }");
    let gate = Gate::start(policy, &backend);
    let message = |key: &str| Request::post("/api/v1/messages", "{}").bearer(key);
    gate.send(&message(&poor)).is(402, EMPTY);
    gate.send(&message(&inactive)).is(401, INVALID);
    gate.send(&message("pk_live_nobody")).is(401, INVALID);
    gate.send(&Request::post("/api/v1/messages", "{}")).is(401, MISSING);
}

#[test]
fn a_body_over_the_bound_is_told_in_the_same_way() {
    PARTNER.a_body_over_the_bound_is_413(Request::new("GET", "/api/v1/companies"), envelope);
}

#[test]
fn a_backends_own_answers_pass_byte_for_byte() {
    PARTNER.a_backends_own_answers_pass_byte_for_byte();
}

#[test]
fn any_host_is_accepted() {
    PARTNER.any_host_is_accepted();
}

#[test]
fn a_key_works_within_a_second_and_stops_as_soon_when_revoked() {
    PARTNER.a_key_works_and_stops_within_a_second();
}

#[test]
fn a_keys_value_is_shown_once() {
    PARTNER.the_secret_is_seen_once();
}
