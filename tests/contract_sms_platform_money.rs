//! The `sms-platform` contract with the gate holding the money, over real sockets, against the shipped
//! `sms-platform-money.yaml`: 402 for an empty wallet, 403 for a spend cap, and nothing charged twice.

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use support::clerk::Clerk;
use support::contract::{
    Contract, Death, counting, dying, has_message_and_code, is_replay_of, message_and_code,
    what_comes_of,
};
use support::frail::attempt;
use support::inside::Inside;
use support::process::Launch;
use support::{
    A_SECOND, Answer, Asked, Backend, Connection, Gate, Policy, Reply, Request, eventually,
};

const MONEY: Contract = Contract {
    name: "sms-platform-money",
    grants: &["--scope", "reports"],
    ask: || Request::get("/messages"),
    sign: Request::bearer,
};

const GRANTS: [&str; 10] = [
    "--scope", "sms:send", "--scope", "otp", "--scope", "voice", "--scope", "balance", "--scope",
    "reports",
];

/// The published sends.
const SENDS: [&str; 3] = ["/sms/send", "/otp/send", "/voice/send"];

fn sms(token: &str) -> Request {
    Request::post("/sms/send", r#"{"to":"+31612345678"}"#).bearer(token)
}

fn keyed(token: &str, key: &str) -> Request {
    sms(token).header("Idempotency-Key", key)
}

/// The gate, a token of `acme`, and somebody who minds the money.
struct Shop {
    gate: Inside,
    token: String,
}

impl Shop {
    fn before(upstream: &str) -> Shop {
        Shop::with(upstream, |_| {})
    }

    fn with(upstream: &str, edit: impl FnOnce(&Policy)) -> Shop {
        let policy = Policy::contract("sms-platform-money");
        edit(&policy);
        let token = policy.key("acme", &GRANTS);
        Shop { gate: Inside::before(policy, upstream), token }
    }

    fn clerk(&self) -> Clerk {
        Clerk(self.gate.admin.expect("the policy has an admin listener"))
    }

    fn send(&self) -> Answer {
        self.gate.send(&sms(&self.token))
    }

    fn used_of_the_cap(&self) -> String {
        self.clerk().figures("tenant", "acme", "spend-cap").used
    }
}

#[test]
fn an_empty_wallet_is_402_and_reads_go_on() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    for path in SENDS {
        let refused = shop.gate.send(&Request::post(path, "{}").bearer(&shop.token));
        message_and_code(&refused, 402, "insufficient_balance");
        assert_eq!(refused.header("retry-after"), None, "time does not help");
        assert_eq!(refused.number("x-ratelimit-limit"), 120);
    }
    assert_eq!(backend.count(), 0);
    for free in [Request::get("/messages"), Request::post("/otp/verify", "{}")] {
        assert_eq!(shop.gate.send(&free.bearer(&shop.token)).status, 200);
    }
}

#[test]
fn what_was_topped_up_is_spent_to_the_last_message_and_not_one_more() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    shop.clerk().top_up("acme", "5.4");
    for n in 1..=5 {
        assert_eq!(shop.send().status, 200, "{n}");
    }
    // 0.4 is no message.
    message_and_code(&shop.send(), 402, "insufficient_balance");
    assert_eq!((shop.clerk().balance("acme"), backend.count()), ("0.4".to_owned(), 5));
    shop.clerk().top_up("acme", "0.6");
    assert_eq!(shop.send().status, 200);
    message_and_code(&shop.send(), 402, "insufficient_balance");
    assert_eq!((shop.clerk().balance("acme"), backend.count()), ("0".to_owned(), 6));
}

#[test]
fn each_send_costs_one_of_wallet_and_cap_alike_and_nothing_else_does() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    shop.clerk().top_up("acme", "10");
    let bearer = |request: Request| shop.gate.send(&request.bearer(&shop.token)).status;
    for (path, (left, used)) in SENDS.into_iter().zip([("9", "1"), ("8", "2"), ("7", "3")]) {
        assert_eq!(bearer(Request::post(path, "{}")), 200);
        assert_eq!((&*shop.clerk().balance("acme"), &*shop.used_of_the_cap()), (left, used));
    }
    for free in [Request::get("/messages/1"), Request::get("/voice/1"), Request::get("/balance")] {
        assert_eq!(bearer(free), 200);
    }
    assert_eq!(bearer(Request::post("/otp/verify", "{}")), 200);
    assert_eq!((shop.clerk().balance("acme"), shop.used_of_the_cap()), ("7".into(), "3".into()));
}

#[test]
fn prices_are_exact_decimals() {
    let backend = Backend::start();
    let shop = Shop::with(&backend.url(), |policy| {
        for (route, price) in [("sms:send", "0.070001"), ("otp", "0.1"), ("voice", "0.2")] {
            let rule = format!("scope: {route}, idempotency: accept, cost: ");
            policy.replace(&format!("{rule}1"), &format!("{rule}{price}"));
        }
    });
    shop.clerk().top_up("acme", "0.370001");
    let send = |path: &str| shop.gate.send(&Request::post(path, "{}").bearer(&shop.token)).status;
    // 0.1 and 0.2 are 0.3 here.
    for (path, left) in SENDS.into_iter().zip(["0.3", "0.2", "0"]) {
        assert_eq!((send(path), &*shop.clerk().balance("acme")), (200, left), "{path}");
    }
    assert_eq!(SENDS.map(send), [402; 3]);
}

#[test]
fn a_retry_after_the_last_credit_gets_its_stored_answer_and_not_402() {
    let backend = counting();
    let shop = Shop::before(&backend.url());
    shop.clerk().top_up("acme", "1");
    let first = shop.gate.send(&keyed(&shop.token, "last"));
    assert_eq!(first.status, 201);
    message_and_code(&shop.gate.send(&keyed(&shop.token, "next")), 402, "insufficient_balance");
    message_and_code(&shop.send(), 402, "insufficient_balance");
    for _ in 0..3 {
        is_replay_of(&first, &shop.gate.send(&keyed(&shop.token, "last")));
    }
    assert_eq!((backend.count(), shop.used_of_the_cap()), (1, "1".to_owned()));

    // A key that was refused for money is as good as new once there is some.
    shop.clerk().top_up("acme", "1");
    assert_eq!(shop.gate.send(&keyed(&shop.token, "next")).status, 201);
    assert_eq!(backend.count(), 2);
}

#[test]
fn nothing_is_charged_twice_for_retries_conflicts_and_other_payloads() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_millis(400)));
    let shop = Shop::before(&backend.url());
    shop.clerk().top_up("acme", "10");
    let mut first = shop.gate.connect();
    first.write(&keyed(&shop.token, "k").bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    let conflict = shop.gate.send(&keyed(&shop.token, "k"));
    message_and_code(&conflict, 409, "idempotency_in_progress");
    let first = first.answer(Asked::Other);
    for _ in 0..5 {
        is_replay_of(&first, &shop.gate.send(&keyed(&shop.token, "k")));
    }
    let reused = Request::post("/voice/send", "{}").bearer(&shop.token);
    let reused = shop.gate.send(&reused.header("Idempotency-Key", "k"));
    message_and_code(&reused, 422, "idempotency_key_reused");
    let invalid = shop.gate.send(&keyed(&shop.token, ""));
    message_and_code(&invalid, 400, "idempotency_key_invalid");
    assert_eq!((shop.clerk().balance("acme"), backend.count()), ("9".to_owned(), 1));
}

#[test]
fn concurrent_duplicates_cost_one_message() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_millis(200)));
    let shop = Shop::before(&backend.url());
    // Enough for one: whoever comes second is told of the first, and never of the money.
    shop.clerk().top_up("acme", "1");
    let start = Arc::new(Barrier::new(20));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (mut connection, request) = (shop.gate.connect(), keyed(&shop.token, "dup"));
            let start = Arc::clone(&start);
            thread::spawn(move || {
                start.wait();
                connection.send(&request).status
            })
        })
        .collect();
    for client in clients {
        let status = client.join().expect("a client");
        assert!([200, 409].contains(&status), "{status}");
    }
    assert_eq!((backend.count(), shop.clerk().balance("acme")), (1, "0".to_owned()));
}

#[test]
fn what_the_backend_did_not_do_costs_nothing_and_what_it_may_have_done_is_kept() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    shop.clerk().top_up("acme", "9");
    for status in ["422 Nope", "400 Bad", "402 Payment Required", "429 Slow"] {
        backend.answers(Reply::json(status, r#"{"message":"as it is","error":"the backend's"}"#));
        let answer = shop.send();
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_eq!(answer.text(), r#"{"message":"as it is","error":"the backend's"}"#);
        assert_eq!(shop.clerk().balance("acme"), "9", "{status}");
    }
    for (status, left) in [("200 OK", "8"), ("302 Found", "7"), ("500 Oops", "6")] {
        backend.answers(Reply::json(status, "{}"));
        shop.send();
        assert_eq!(shop.clerk().balance("acme"), left, "{status}");
    }
    assert_eq!(shop.used_of_the_cap(), "3");

    let gone = Backend::start().url();
    let shop = Shop::before(&gone);
    shop.clerk().top_up("acme", "1");
    for _ in 0..3 {
        assert_eq!(shop.send().status, 502, "nobody was reached, so nothing was spent");
    }
    assert_eq!(shop.clerk().balance("acme"), "1");
}

#[test]
fn money_for_an_outcome_that_nobody_knows_stays_charged_until_a_person_says() {
    let (upstream, seen) = dying(Death::BeforeItsAnswer);
    let shop = Shop::before(&format!("http://{upstream}"));
    let clerk = shop.clerk();
    clerk.top_up("acme", "1");
    what_comes_of(shop.gate.traffic, &keyed(&shop.token, "k"));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    assert_eq!(clerk.balance("acme"), "0");
    message_and_code(&shop.gate.send(&keyed(&shop.token, "k")), 409, "idempotency_outcome_unknown");
    message_and_code(&shop.send(), 402, "insufficient_balance");
    let listed = clerk.unresolved();
    assert_eq!(listed.len(), 1);
    clerk.release(&listed[0]);
    assert_eq!((clerk.balance("acme"), clerk.unresolved().len()), ("1".to_owned(), 0));
}

#[test]
fn a_spend_cap_is_403_until_the_month_ends_and_a_tenant_may_have_its_own() {
    let backend = Backend::start();
    let shop = Shop::with(&backend.url(), |policy| {
        policy
            .replace("\ntenants: {}", "\ntenants: { acme: { limits: { spend-cap: 2.5/month } } }");
    });
    let other = shop.gate.policy.key("globex", &GRANTS);
    shop.clerk().top_up("acme", "100");
    for _ in 0..2 {
        assert_eq!(shop.send().status, 200);
    }
    let refused = shop.send();
    message_and_code(&refused, 403, "spend_cap_reached");
    assert_eq!(refused.number("x-ratelimit-limit"), 120);
    assert_eq!(backend.count(), 2);
    assert_eq!(shop.clerk().balance("acme"), "98", "a refused request spends nothing");
    let free = shop.gate.send(&Request::get("/messages").bearer(&shop.token));
    assert_eq!(free.status, 200, "what costs nothing is never refused for money");

    // The next month starts at midnight in UTC.
    let wait = refused.number("retry-after");
    let now = Timestamp::from_millisecond(shop.gate.unix_millis()).expect("a time");
    let first = now.to_zoned(TimeZone::UTC).first_of_month();
    let next =
        first.and_then(|first| first.checked_add(1.month())).and_then(|day| day.start_of_day());
    let until = next.expect("a date").timestamp().duration_since(now);
    assert!((SignedDuration::from_secs(wait) - until).abs() <= SignedDuration::from_secs(1));
    shop.gate.pass(Duration::from_secs(wait.unsigned_abs().saturating_sub(2)));
    message_and_code(&shop.send(), 403, "spend_cap_reached");
    shop.gate.pass(Duration::from_secs(2));
    assert_eq!(shop.send().status, 200);
    assert_eq!(shop.used_of_the_cap(), "1");
    drop(other);
}

#[test]
fn the_shipped_cap_is_500_a_month_to_the_cent() {
    let backend = Backend::start();
    let shop = Shop::with(&backend.url(), |policy| {
        policy.replace(
            "scope: sms:send, idempotency: accept, cost: 1",
            "scope: sms:send, cost: 124.99",
        );
    });
    shop.clerk().top_up("acme", "10000");
    for _ in 0..4 {
        assert_eq!(shop.send().status, 200);
    }
    message_and_code(&shop.send(), 403, "spend_cap_reached");
    // 499.96 are spent; 0.04 are less than any price, and free is free.
    let figures = shop.clerk().figures("tenant", "acme", "spend-cap");
    assert_eq!((&*figures.used, &*figures.ceiling, &*figures.remaining), ("499.96", "500", "0.04"));
    assert!(figures.resets_at.is_some());
}

#[test]
fn both_used_up_is_told_as_the_wallets_because_no_time_fills_it() {
    let backend = Backend::start();
    let shop = Shop::with(&backend.url(), |policy| {
        policy
            .replace("\ntenants: {}", "\ntenants: { acme: { limits: { spend-cap: 2.5/month } } }");
    });
    shop.clerk().top_up("acme", "2");
    for _ in 0..2 {
        assert_eq!(shop.send().status, 200);
    }
    message_and_code(&shop.send(), 402, "insufficient_balance");
    shop.clerk().top_up("acme", "1");
    message_and_code(&shop.send(), 403, "spend_cap_reached");
}

#[test]
fn wallet_and_cap_are_the_tenants_over_all_its_tokens_and_nobody_elses() {
    let backend = Backend::start();
    let policy = Policy::contract("sms-platform-money");
    let one = policy.key("acme", &GRANTS);
    let two = policy.key("acme", &GRANTS);
    let other = policy.key("globex", &GRANTS);
    let gate = Gate::start(policy, &backend);
    let clerk = Clerk(gate.admin);
    clerk.top_up("acme", "2");
    clerk.top_up("globex", "1");
    assert_eq!(gate.send(&sms(&one)).status, 200);
    assert_eq!(gate.send(&sms(&two)).status, 200);
    message_and_code(&gate.send(&sms(&one)), 402, "insufficient_balance");
    message_and_code(&gate.send(&sms(&two)), 402, "insufficient_balance");
    assert_eq!(gate.send(&sms(&other)).status, 200);
    message_and_code(&gate.send(&sms(&other)), 402, "insufficient_balance");
    assert_eq!(backend.count(), 3);
}

#[test]
fn the_backend_is_told_the_balance_and_a_clients_own_word_is_removed() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    shop.clerk().top_up("acme", "4.5");
    let forgeries: [&[(&str, &str)]; 4] = [
        &[],
        &[("X-Wallet-Balance", "1000000")],
        &[("x_wallet_balance", "1000000"), ("X-WALLET_BALANCE", "1")],
        &[("X-Wallet-Balance", "1000000"), ("Connection", "close, X-Wallet-Balance")],
    ];
    for (forged, left) in forgeries.iter().zip(["3.5", "2.5", "1.5", "0.5"]) {
        let request =
            forged.iter().fold(sms(&shop.token), |asked, (name, value)| asked.header(name, value));
        assert_eq!(shop.gate.send(&request).status, 200, "{forged:?}");
        let seen = backend.last();
        assert_eq!(seen.only("x-wallet-balance"), left, "{forged:?}");
        let lower = seen.head.to_ascii_lowercase();
        assert!(!lower.contains("1000000") && !lower.contains("wallet_balance"), "{lower}");
    }
}

#[test]
fn get_balance_is_the_gates_own_answer() {
    let backend = Backend::start();
    let shop = Shop::before(&backend.url());
    let balance = Request::get("/balance").bearer(&shop.token);
    shop.gate.send(&balance).is(200, r#"{"balance":0,"unit":"credits"}"#);
    shop.clerk().top_up("acme", "12.5");
    shop.gate.send(&balance).is(200, r#"{"balance":12.5,"unit":"credits"}"#);
    shop.send();
    let told = shop.gate.send(&balance);
    assert_eq!(told.text(), r#"{"balance":11.5,"unit":"credits"}"#, "exact, to the byte");
    assert_eq!(told.number("x-ratelimit-remaining"), 116);
    assert_eq!(backend.count(), 1, "only the message reached the backend");
    let away = shop.gate.policy.key("acme", &["--scope", "reports"]);
    let shop = Shop { gate: shop.gate.restarted(&backend), ..shop };
    let denied = shop.gate.send(&Request::get("/balance").bearer(&away));
    message_and_code(&denied, 403, "scope_denied");
}

#[test]
fn a_restart_of_the_shipped_gate_forgets_no_money() {
    let backend = counting();
    let shop = Shop::before(&backend.url());
    shop.clerk().top_up("acme", "3");
    let first = shop.gate.send(&keyed(&shop.token, "k"));
    let shop = Shop { gate: shop.gate.restarted(&backend), ..shop };
    assert_eq!((shop.clerk().balance("acme"), shop.used_of_the_cap()), ("2".into(), "1".into()));
    is_replay_of(&first, &shop.gate.send(&keyed(&shop.token, "k")));
    for _ in 0..2 {
        assert_eq!(shop.send().status, 201);
    }
    message_and_code(&shop.send(), 402, "insufficient_balance");
    let shop = Shop { gate: shop.gate.restarted(&backend), ..shop };
    message_and_code(&shop.send(), 402, "insufficient_balance");
    assert_eq!(backend.count(), 3);
}

#[test]
fn a_gate_that_is_killed_before_the_answer_keeps_the_charge_and_never_sends_again() {
    let backend = Backend::start();
    backend.answers(Reply::json("200 OK", "{}").after(A_SECOND));
    let policy = Policy::contract("sms-platform-money");
    let token = policy.key("acme", &GRANTS);
    let launch = Launch::new(&policy, &backend.url(), &policy.directory().join("state"));
    let gate = launch.start();
    Clerk(gate.admin).top_up("acme", "2");
    let mut client = Connection::to(gate.traffic);
    client.write(&keyed(&token, "k").bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    gate.kill();

    let gate = launch.start();
    let clerk = Clerk(gate.admin);
    let send = |request: Request| attempt(gate.traffic, &request).expect("it runs");
    assert_eq!(clerk.balance("acme"), "1", "what nobody knows stays charged");
    message_and_code(&send(keyed(&token, "k")), 409, "idempotency_outcome_unknown");
    let listed = clerk.unresolved();
    assert_eq!(listed.len(), 1);
    backend.answers(Reply::json("200 OK", "{}"));
    assert_eq!(send(sms(&token)).status, 200);
    message_and_code(&send(sms(&token)), 402, "insufficient_balance");
    // Somebody found out that the message did not go out.
    clerk.release(&listed[0]);
    assert_eq!((clerk.balance("acme"), backend.count()), ("1".to_owned(), 2));
}

#[test]
fn errors_are_a_message_and_a_machine_readable_code() {
    MONEY.the_gates_own_refusals_wear(has_message_and_code);
}

#[test]
fn the_tenant_cannot_be_forged() {
    MONEY.identity_cannot_be_forged();
}

#[test]
fn a_backends_own_answers_pass_byte_for_byte() {
    MONEY.a_backends_own_answers_pass_byte_for_byte();
}

#[test]
fn a_token_works_within_a_second_and_stops_as_soon_when_revoked() {
    MONEY.a_key_works_and_stops_within_a_second();
}

#[test]
fn the_money_file_differs_from_the_other_in_money_alone() {
    let lines = |name: &str| -> Vec<String> {
        let text = Policy::contract(name).text();
        let said = text.lines().map(|line| line.split("  #").next().unwrap_or(line).trim_end());
        said.filter(|line| !line.trim_start().starts_with('#') && !line.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (plain, money) = (lines("sms-platform"), lines("sms-platform-money"));
    let of_money = ["wallet", "cost:", "spend-cap", "state:", "keys:"];
    for line in money.iter().filter(|line| !plain.contains(line)) {
        assert!(of_money.iter().any(|word| line.contains(word)), "{line}");
    }
    assert_eq!(money.len(), plain.len());
}
