//! What the contracts say about minutes and years, with a clock that the test moves.

mod support;

use std::time::Duration;

use support::inside::Inside;
use support::{Backend, Policy, Request};

const MINUTE: i64 = 60_000;

/// One published "N per minute": a policy, the grants of a key, a request that counts, and N.
#[derive(Clone, Copy)]
struct Published {
    contract: &'static str,
    grants: &'static [&'static str],
    ask: fn(&str) -> Request,
    n: usize,
}

const PUBLISHED: [Published; 8] = [
    Published {
        contract: "pulse",
        grants: &[],
        ask: |key| Request::post("/api/v3/sms/send", "{}").bearer(key),
        n: 60,
    },
    Published {
        contract: "pulse",
        grants: &[],
        ask: |key| Request::get("/api/v3/me").bearer(key),
        n: 120,
    },
    Published {
        contract: "pulse",
        grants: &[],
        ask: |key| Request::post("/api/v3/campaigns", "{}").bearer(key),
        n: 10,
    },
    Published {
        contract: "sms-platform",
        grants: &["--scope", "balance"],
        ask: |key| Request::get("/balance").bearer(key),
        n: 120,
    },
    Published {
        contract: "messagesmart",
        grants: &[],
        ask: |key| Request::get("/api/v1/templates").header("X-API-Key", key),
        n: 60,
    },
    // A quota beside the rate changes nothing about minutes.
    Published {
        contract: "messagesmart",
        grants: &["--limit", "quota=1000000/day"],
        ask: |key| Request::get("/api/v1/templates").header("X-API-Key", key),
        n: 60,
    },
    // Of an address, whatever its tokens.
    Published {
        contract: "sms-platform",
        grants: &["--scope", "otp"],
        ask: |key| Request::post("/otp/send", "{}").bearer(key),
        n: 10,
    },
    // A retry is a request, too.
    Published {
        contract: "sms-platform",
        grants: &["--scope", "sms:send"],
        ask: |key| Request::post("/sms/send", "{}").bearer(key).header("Idempotency-Key", "same"),
        n: 120,
    },
];

impl Published {
    fn start(self, backend: &Backend) -> (Inside, Request) {
        let policy = Policy::contract(self.contract);
        let key = policy.key("acme", self.grants);
        (Inside::start(policy, backend), (self.ask)(&key))
    }
}

/// Steps that look like chance and are the same in every run.
struct Steps(u64);

impl Steps {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn one_of(&mut self, of: &[u64]) -> u64 {
        let place = self.next(of.len() as u64);
        of[usize::try_from(place).expect("it is below a length")]
    }
}

#[test]
fn a_published_n_per_minute_is_never_exceeded_in_any_minute() {
    for published in PUBLISHED {
        let backend = Backend::start();
        let (gate, request) = published.start(&backend);
        let mut connection = gate.connect();
        let mut admitted: Vec<i64> = Vec::new();
        let mut steps = Steps(0x9e37_79b9_7f4a_7c15);
        let end = gate.unix_millis() + 5 * MINUTE;
        while gate.unix_millis() < end {
            // A crowd now and then, a trickle between, and pauses that end on either side of a minute's edge.
            let crowd = if steps.next(8) == 0 { published.n + 5 } else { 1 };
            for _ in 0..crowd {
                let answer = connection.send(&request);
                match answer.status {
                    200 => admitted.push(gate.unix_millis()),
                    status => assert_eq!(status, 429, "{answer:?}"),
                }
            }
            gate.pass(Duration::from_millis(steps.one_of(&[7, 250, 999, 1000, 3001])));
        }
        for (i, last) in admitted.iter().enumerate() {
            let within = admitted[..=i].iter().filter(|at| **at > last - MINUTE).count();
            assert!(
                within <= published.n,
                "{}: {within} of {} in the minute up to {last}",
                published.contract,
                published.n
            );
        }
        assert!(admitted.len() >= 3 * published.n, "{}: it refuses too much", published.contract);
        let replayed = String::from_utf8_lossy(&request.bytes()).contains("Idempotency-Key");
        assert_eq!(backend.count(), if replayed { 1 } else { admitted.len() });
    }
}

#[test]
fn the_whole_n_pass_at_once_and_waiting_until_the_reset_admits() {
    for published in PUBLISHED {
        let backend = Backend::start();
        let (gate, request) = published.start(&backend);
        let mut connection = gate.connect();
        for n in 0..published.n {
            assert_eq!(connection.send(&request).status, 200, "{} {n}", published.contract);
        }
        let refused = connection.send(&request);
        assert_eq!(refused.status, 429);
        let wait = refused.number("retry-after");
        assert!((1..=60).contains(&wait), "{wait}");
        // The headers may be another limit's, which has something left.
        if refused.header("x-ratelimit-remaining") == Some("0") {
            let until = refused.number("x-ratelimit-reset") * 1000 - gate.unix_millis();
            assert!(
                (until - wait * 1000).abs() < 1000,
                "Reset in {until} ms, Retry-After {wait} s"
            );
        }
        gate.pass(Duration::from_millis(500));
        assert_eq!(connection.send(&request).status, 429, "half a second is not the wait");
        gate.pass(Duration::from_secs(wait.unsigned_abs()));
        assert_eq!(connection.send(&request).status, 200, "{}", published.contract);
    }
}

#[test]
fn a_restart_refills_nothing() {
    for published in PUBLISHED {
        let backend = Backend::start();
        let (gate, request) = published.start(&backend);
        let mut connection = gate.connect();
        for _ in 0..published.n {
            assert_eq!(connection.send(&request).status, 200, "{}", published.contract);
        }
        drop(connection);
        let gate = gate.restarted(&backend);
        let refused = gate.send(&request);
        assert_eq!(refused.status, 429, "{}", published.contract);
        gate.pass(Duration::from_secs(refused.number("retry-after").unsigned_abs()));
        assert_eq!(gate.send(&request).status, 200, "{}", published.contract);
    }
}

#[test]
fn waiting_what_retry_after_says_admits_wherever_in_the_minute_the_refusal_came() {
    for pause in [1, 17, 250, 1_000, 2_500, 7_777, 31_000, 59_999] {
        let published = PUBLISHED[2];
        let backend = Backend::start();
        let (gate, request) = published.start(&backend);
        let mut connection = gate.connect();
        for _ in 0..published.n / 2 {
            assert_eq!(connection.send(&request).status, 200);
        }
        gate.pass(Duration::from_millis(pause));
        let mut refused = connection.send(&request);
        while refused.status == 200 {
            refused = connection.send(&request);
        }
        for _ in 0..3 {
            gate.pass(Duration::from_secs(refused.number("retry-after").unsigned_abs()));
            assert_eq!(connection.send(&request).status, 200, "after {pause} ms");
            refused = connection.send(&request);
            while refused.status == 200 {
                refused = connection.send(&request);
            }
        }
    }
}

#[test]
fn a_token_without_an_expiry_never_expires() {
    for (contract, ask) in [
        ("pulse", (|key| Request::get("/api/v3/me").bearer(key)) as fn(&str) -> Request),
        ("mottasl", |key| Request::get("/agents").header("Authorization", key)),
        ("partner", |key| Request::get("/api/v1/wallet").bearer(key)),
    ] {
        let backend = Backend::start();
        let policy = Policy::contract(contract);
        let key = policy.key("acme", &[]);
        let gate = Inside::start(policy, &backend);
        for _ in 0..10 {
            assert_eq!(gate.send(&ask(&key)).status, 200, "{contract}");
            gate.pass(Duration::from_hours(10 * 365 * 24));
        }
    }
}

#[test]
fn a_token_with_an_expiry_lives_until_then_and_no_longer() {
    let day = Duration::from_hours(24);
    let cases = [
        ("pulse", &["--expires", "90d"][..], 90),
        ("messagesmart", &[], 365),
        ("messagesmart", &["--expires", "30d"], 30),
    ];
    for (contract, arguments, days) in cases {
        let backend = Backend::start();
        let policy = Policy::contract(contract);
        let key = policy.key("acme", arguments);
        let gate = Inside::start(policy, &backend);
        let request = Request::get("/api/v3/me").bearer(&key).header("X-API-Key", &key);
        let request = match contract {
            "pulse" => request,
            _ => Request::get("/api/v1/templates").header("X-API-Key", &key),
        };
        gate.pass(day * (days - 1));
        assert_eq!(gate.send(&request).status, 200, "{contract}: the day before");
        gate.pass(day + Duration::from_secs(5));
        let answer = gate.send(&request);
        assert_eq!(answer.status, 401, "{contract}");
        assert!(answer.text().contains("expired"), "{}", answer.text());
    }
}
