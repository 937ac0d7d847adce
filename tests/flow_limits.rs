//! Limits through HTTP, with a clock that moves when told to: the numbers that the README promises, to the unit.

mod support;

use std::time::Duration;

use support::inside::Inside;
use support::{A_SECOND, Answer, Backend, Connection, Key, Policy, Reply, Request, eventually};

const HEAD: &str = "\
version: 1
upstream: http://127.0.0.1:9
state: memory
credentials: { accept: [bearer], keys: gate.keys.yaml }
";

const KEYS: [Key<'static>; 4] = [
    Key::of("ka", "acme", "secret-a"),
    Key::of("kb", "acme", "secret-b"),
    Key::of("kc", "globex", "secret-c"),
    Key::of("kd", "initech", "secret-d"),
];

const ALL: &str = "routes:\n  - { name: all, match: ANY /** }\n";

fn gate(rest: &str, keys: &[Key<'_>], backend: &Backend) -> Inside {
    Inside::start(Policy::with_keys(&format!("{HEAD}{rest}"), keys), backend)
}

fn by(letter: &str) -> Request {
    Request::get("/x").bearer(&format!("secret-{letter}"))
}

/// How many of `n` requests are admitted; the backend must see exactly those.
fn admitted(gate: &Inside, backend: &Backend, request: &Request, n: usize) -> usize {
    let before = backend.count();
    let mut connection = gate.connect();
    let mut passed = 0;
    for _ in 0..n {
        match connection.send(request).status {
            200 => passed += 1,
            429 => {}
            status => panic!("{status}"),
        }
    }
    assert_eq!(backend.count() - before, passed);
    passed
}

/// What the IETF field says is left of a limit.
#[track_caller]
fn left(answer: &Answer, limit: &str) -> u64 {
    // A backend's own entries stand in the same list.
    let lines = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("ratelimit"));
    let mut items = lines.flat_map(|(_, line)| line.split(','));
    let item = items.find(|item| item.trim().starts_with(&format!("\"{limit}\"")));
    let item = item.unwrap_or_else(|| panic!("no {limit}: {answer:?}"));
    let r = item.split(';').find_map(|part| part.trim().strip_prefix("r="));
    r.and_then(|r| r.parse().ok()).unwrap_or_else(|| panic!("no r in {item}"))
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).expect("waits are not negative"))
}

#[test]
fn a_bucket_of_60_a_minute_lets_119_pass_in_its_first_minute() {
    let backend = Backend::start();
    let gate = gate(&format!("{ALL}limits: {{ l: {{ rate: 60/minute }} }}\n"), &KEYS, &backend);
    assert_eq!(admitted(&gate, &backend, &by("a"), 70), 60);
    assert_eq!(gate.send(&by("a")).number("retry-after"), 1);
    let mut more = 0;
    for _ in 0..59 {
        gate.pass(Duration::from_secs(1));
        more += admitted(&gate, &backend, &by("a"), 2);
    }
    assert_eq!(more, 59);
}

#[test]
fn a_burst_is_the_buckets_size() {
    let backend = Backend::start();
    let rest = format!("{ALL}limits: {{ l: {{ rate: 60/minute, burst: 5 }} }}\n");
    let gate = gate(&rest, &KEYS, &backend);
    assert_eq!(admitted(&gate, &backend, &by("a"), 9), 5);
    gate.pass(Duration::from_secs(3));
    assert_eq!(admitted(&gate, &backend, &by("a"), 9), 3);
    gate.pass(Duration::from_hours(1));
    assert_eq!(admitted(&gate, &backend, &by("a"), 9), 5);
}

#[test]
fn a_sliding_window_never_lets_more_than_its_number_pass_in_any_period() {
    let backend = Backend::start();
    let rest = format!("{ALL}limits: {{ l: {{ rate: 10/minute, window: sliding }} }}\n");
    let gate = gate(&rest, &KEYS, &backend);
    let mut passed: Vec<u64> = Vec::new();
    for second in 0..240_u64 {
        let n = admitted(&gate, &backend, &by("a"), if second % 7 == 0 { 6 } else { 1 });
        passed.extend(std::iter::repeat_n(second, n));
        gate.pass(Duration::from_secs(1));
    }
    for from in 0..240 {
        let inside = passed.iter().filter(|at| (from..from + 60).contains(*at)).count();
        assert!(inside <= 10, "{inside} from second {from}");
    }
    assert!(passed.len() >= 38, "it may refuse 1/32 of a period early, not more: {passed:?}");
}

#[test]
fn a_fixed_window_starts_anew_at_its_edge() {
    let backend = Backend::start();
    let rest = format!("{ALL}limits: {{ l: {{ rate: 10/minute, window: fixed }} }}\n");
    let gate = gate(&rest, &KEYS, &backend);
    assert_eq!(admitted(&gate, &backend, &by("a"), 12), 10);
    let wait = gate.send(&by("a")).number("retry-after");
    assert!((1..=60).contains(&wait), "{wait}");
    gate.pass(seconds(wait));
    assert_eq!(admitted(&gate, &backend, &by("a"), 12), 10);
}

#[test]
fn waiting_exactly_retry_after_admits_whatever_the_window() {
    for window in ["bucket", "sliding", "fixed"] {
        let backend = Backend::start();
        let rest = format!("{ALL}limits: {{ l: {{ rate: 7/minute, window: {window} }} }}\n");
        let gate = gate(&rest, &KEYS, &backend);
        gate.pass(Duration::from_millis(333));
        for round in 0..8 {
            let refused = loop {
                let answer = gate.send(&by("a"));
                if answer.status == 429 {
                    break answer;
                }
            };
            let wait = refused.number("retry-after");
            assert!(wait >= 1, "{window}: {wait}");
            gate.pass(seconds(wait));
            assert_eq!(gate.send(&by("a")).status, 200, "{window}, round {round}");
            gate.pass(Duration::from_millis(777));
        }
    }
}

#[test]
fn a_refusal_by_one_limit_spends_nothing_of_the_others() {
    let backend = Backend::start();
    let rest = format!(
        "{ALL}limits:\n  own: {{ rate: 3/hour, window: sliding, per: key }}\n  \
         shared: {{ rate: 8/hour, window: sliding, per: tenant }}\n"
    );
    let keys = [KEYS[0], KEYS[1], Key::of("ke", "acme", "secret-e")];
    let gate = gate(&rest, &keys, &backend);
    assert_eq!(admitted(&gate, &backend, &by("a"), 30), 3);
    let first = gate.send(&by("b"));
    assert_eq!((left(&first, "own"), left(&first, "shared")), (2, 4), "27 refusals took nothing");
    assert_eq!(admitted(&gate, &backend, &by("b"), 9), 2);
    assert_eq!(admitted(&gate, &backend, &by("e"), 9), 2, "the tenant's eight are used");
    let refused = gate.send(&by("e"));
    assert_eq!((left(&refused, "own"), left(&refused, "shared")), (1, 0));
}

#[test]
fn keys_that_take_turns_on_one_connection_are_counted_each_on_its_own_meters() {
    let backend = Backend::start();
    let rest = format!(
        "{ALL}limits:\n  own: {{ rate: 20/hour, window: sliding, per: key }}\n  \
         shared: {{ rate: 40/hour, window: sliding, per: tenant }}\n  \
         here: {{ rate: 30/hour, window: sliding, per: [key, address] }}\n  \
         crowd: {{ rate: 100/hour, window: sliding, per: address }}\n"
    );
    // The last one is of the first ones' tenant, with a ceiling of its own.
    let few = Key::of("ke", "acme", "secret-e").with("limits: { own: 10/hour }");
    let gate = gate(&rest, &[KEYS[0], KEYS[1], KEYS[2], few], &backend);
    let mut connection = gate.connect();
    let turns = "aabcabcaebceeacbbaccae";
    for (at, key) in turns.char_indices() {
        let answer = connection.send(&by(&key.to_string()));
        let so_far = |is_counted: &dyn Fn(char) -> bool| {
            turns[..=at].chars().filter(|turn| is_counted(*turn)).count() as u64
        };
        let (own, shared) =
            (so_far(&|turn| turn == key), so_far(&|turn| (turn == 'c') == (key == 'c')));
        let most = if key == 'e' { 10 } else { 20 };
        let expected = [most - own, 40 - shared, 30 - own, 99 - at as u64];
        let told = ["own", "shared", "here", "crowd"].map(|limit| left(&answer, limit));
        assert_eq!(told, expected, "{key} after {:?}", &turns[..at]);
    }
}

#[test]
fn a_request_refused_before_the_limits_spends_nothing() {
    let backend = Backend::start();
    let rest = "\
routes:
  - { name: read, match: GET /x, scope: read }
  - { name: here, match: GET /here, allow: [192.0.2.0/24] }
limits: { l: { rate: 3/hour, window: sliding } }
";
    let keys = [KEYS[0].with("scopes: [read]"), KEYS[1].with("scopes: [other]")];
    let gate = gate(rest, &keys, &backend);
    for _ in 0..5 {
        assert_eq!(gate.send(&by("b")).status, 403);
        assert_eq!(gate.send(&Request::get("/here").bearer("secret-a")).status, 403);
        assert_eq!(gate.send(&Request::get("/nowhere").bearer("secret-a")).status, 404);
    }
    assert_eq!(admitted(&gate, &backend, &by("a"), 5), 3);
}

#[test]
fn a_limit_counts_whom_it_says() {
    let source = |gate: &Inside, letter: &str, from: [u8; 4], path: &str| {
        let request = Request::get(path).bearer(&format!("secret-{letter}"));
        Connection::from(from, gate.traffic).send(&request).status
    };
    let (home, away) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    // After one request of key a from home on /x: which one-request neighbours share its meter?
    let cases: [(&str, [u16; 4]); 9] = [
        // (per, [same tenant's other key, other tenant, same key from away, same key on the other route])
        ("key", [200, 200, 429, 429]),
        ("tenant", [429, 200, 429, 429]),
        ("plan", [429, 429, 429, 429]),
        ("address", [429, 429, 200, 429]),
        ("route", [429, 429, 429, 200]),
        ("everyone", [429, 429, 429, 429]),
        ("[key, address]", [200, 200, 200, 429]),
        ("[tenant, route]", [429, 200, 429, 200]),
        ("[key, route]", [200, 200, 429, 200]),
    ];
    for (per, expected) in cases {
        let backend = Backend::start();
        let rest = format!(
            "routes:\n  - {{ name: x, match: ANY /x }}\n  - {{ name: y, match: ANY /y }}\n\
             plans: {{ default: {{}}, pro: {{}} }}\n\
             limits: {{ l: {{ rate: 1/hour, per: {per} }} }}\n"
        );
        let asked: [(&str, [u8; 4], &str); 4] =
            [("b", home, "/x"), ("c", home, "/x"), ("a", away, "/x"), ("a", home, "/y")];
        for ((letter, from, path), status) in asked.into_iter().zip(expected) {
            let gate = gate(&rest, &[KEYS[0], KEYS[1], KEYS[2]], &backend);
            assert_eq!(source(&gate, "a", home, "/x"), 200);
            assert_eq!(source(&gate, "a", home, "/x"), 429, "per {per}");
            assert_eq!(
                source(&gate, letter, from, path),
                status,
                "per {per}: {letter} {from:?} {path}"
            );
        }
    }
}

#[test]
fn the_nearest_override_wins_and_none_lifts_a_limit() {
    let backend = Backend::start();
    let rest = format!(
        "{ALL}limits: {{ l: {{ rate: 2/hour }} }}
plans:
  default: {{}}
  three: {{ limits: {{ l: 3/hour }} }}
  four: {{ limits: {{ l: 4/hour }} }}
  free: {{ limits: {{ l: none }} }}
tenants:
  planned: {{ plan: three }}
  told: {{ plan: three, limits: {{ l: 5/hour }} }}
"
    );
    let key = Key::of;
    let keys = [
        key("k0", "plain", "secret-0"),
        key("k1", "planned", "secret-1"),
        key("k2", "planned", "secret-2").with("plan: four"),
        key("k3", "told", "secret-3").with("plan: four"),
        key("k4", "told", "secret-4").with("plan: four, limits: { l: 6/hour }"),
        key("k5", "plain", "secret-5").with("plan: free"),
        key("k6", "told", "secret-6").with("limits: { l: none }"),
    ];
    let gate = gate(&rest, &keys, &backend);
    for (letter, expected) in
        [("0", 2), ("1", 3), ("2", 4), ("3", 5), ("4", 6), ("5", 20), ("6", 20)]
    {
        assert_eq!(admitted(&gate, &backend, &by(letter), 20), expected, "key k{letter}");
    }
    let unlimited = gate.send(&by("5"));
    assert_eq!(unlimited.header("x-ratelimit-limit"), None, "{unlimited:?}");
}

#[test]
fn a_shadow_limit_never_refuses_and_counts_no_more_than_it_would_have_admitted() {
    let backend = Backend::start();
    let rest = format!("{ALL}limits: {{ l: {{ rate: 2/hour, mode: shadow }} }}\n");
    let gate = gate(&rest, &KEYS, &backend);
    assert_eq!(admitted(&gate, &backend, &by("a"), 10), 10);
    gate.policy.replace(", mode: shadow", "");
    assert!(eventually(A_SECOND, || gate.send(&by("b")).header("x-ratelimit-limit").is_some()));
    assert_eq!(gate.send(&by("a")).status, 429, "what shadow counted stands when it is enforced");
}

#[test]
fn retry_after_is_the_longest_wait_of_all_that_refuse() {
    let backend = Backend::start();
    let rest = format!(
        "{ALL}limits:\n  short: {{ rate: 1/minute, window: fixed }}\n  \
         long: {{ rate: 1/hour, burst: 1 }}\n  medium: {{ rate: 1/10m, burst: 1 }}\n"
    );
    let gate = gate(&rest, &KEYS, &backend);
    assert_eq!(gate.send(&by("a")).status, 200);
    assert_eq!(gate.send(&by("a")).number("retry-after"), 3600);
    gate.pass(Duration::from_millis(1500));
    assert_eq!(gate.send(&by("a")).number("retry-after"), 3599, "rounded up");
    gate.pass(Duration::from_millis(3_598_499));
    assert_eq!(gate.send(&by("a")).number("retry-after"), 1, "never 0");
    gate.pass(Duration::from_millis(1));
    assert_eq!(gate.send(&by("a")).status, 200);
}

#[test]
fn a_concurrent_slot_is_free_again_when_the_body_ends_or_the_client_leaves() {
    let backend = Backend::start();
    let gate = gate(&format!("{ALL}limits: {{ l: {{ concurrent: 1 }} }}\n"), &KEYS, &backend);
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_millis(400)));
    let mut first = gate.connect();
    first.write(&by("a").bytes());
    assert!(eventually(A_SECOND, || backend.count() == 1));
    let refused = gate.send(&by("a"));
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), None, "time alone does not help");
    assert_eq!(first.answer(support::wire::Asked::Other).status, 200);
    assert_eq!(gate.send(&by("a")).status, 200, "the body ended");

    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(3)));
    let mut leaver = gate.connect();
    leaver.write(&by("a").bytes());
    assert!(eventually(A_SECOND, || backend.count() == 3));
    assert_eq!(gate.send(&by("a")).status, 429);
    drop(leaver);
    backend.answers(Reply::json("200 OK", "{}"));
    assert!(eventually(A_SECOND, || gate.send(&by("a")).status == 200), "the client left");
}

#[test]
fn x_ratelimit_has_the_form_that_the_policy_says() {
    for form in ["unix", "seconds", "none"] {
        let backend = Backend::start();
        let rest = format!(
            "{ALL}limits: {{ l: {{ rate: 5/minute, window: sliding }} }}\n\
             report: {{ x-ratelimit: {form}, ratelimit: none }}\n"
        );
        let gate = gate(&rest, &KEYS, &backend);
        let answer = gate.send(&by("a"));
        assert_eq!(answer.header("ratelimit"), None);
        assert_eq!(answer.header("ratelimit-policy"), None);
        if form == "none" {
            assert_eq!(answer.header("x-ratelimit-limit"), None);
            continue;
        }
        assert_eq!(answer.number("x-ratelimit-limit"), 5);
        assert_eq!(answer.number("x-ratelimit-remaining"), 4);
        let told = answer.number("x-ratelimit-reset");
        let now = gate.unix_millis().div_euclid(1000);
        let wait = if form == "unix" { told - now } else { told };
        assert!((1..=63).contains(&wait), "{form}: {told} at {now}");
    }
}

#[test]
fn every_answer_to_an_authenticated_request_shows_its_limits() {
    let backend = Backend::start();
    let rest = "\
routes:
  - { name: x, match: GET /x, scope: read }
limits: { l: { rate: 5/minute, window: sliding } }
";
    let keys = [KEYS[0].with("scopes: [read]"), KEYS[1].with("scopes: [other]")];
    let gate = gate(rest, &keys, &backend);
    for (status, remaining) in [("500 Broken", 4), ("404 Not Found", 3), ("204 No Content", 2)] {
        backend.answers(
            Reply::json(status, "")
                .header("X-RateLimit-Limit", "999")
                .header("RateLimit", "\"other\";r=1"),
        );
        let answer = gate.send(&by("a"));
        assert_eq!(answer.number("x-ratelimit-limit"), 5, "{status}");
        assert_eq!(answer.number("x-ratelimit-remaining"), remaining, "{status}");
        let limits: Vec<_> = answer
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case("x-ratelimit-limit"))
            .collect();
        assert_eq!(limits.len(), 1, "{status}: {limits:?}");
        let policy = answer.header("ratelimit-policy").unwrap_or_default();
        assert!(
            policy.contains("\"l\"") && policy.contains("q=5") && policy.contains("w=60"),
            "{policy}"
        );
        assert_eq!(left(&answer, "l"), u64::try_from(remaining).expect("it is positive"));
    }
    assert_eq!(
        gate.send(&by("b")).number("x-ratelimit-remaining"),
        5,
        "a refused request shows, and takes nothing"
    );
    assert_eq!(gate.send(&by("zzz")).header("x-ratelimit-limit"), None, "a stranger sees nothing");
}

#[test]
fn a_weight_is_that_many_units() {
    let backend = Backend::start();
    let rest = "\
routes:
  - { name: x, match: GET /x }
  - { name: bulk, match: POST /bulk, weight: 4 }
limits: { l: { rate: 10/hour, window: sliding } }
";
    let gate = gate(rest, &KEYS, &backend);
    let bulk = Request::post("/bulk", "{}").bearer("secret-a");
    assert_eq!(left(&gate.send(&bulk), "l"), 6);
    assert_eq!(left(&gate.send(&bulk), "l"), 2);
    let refused = gate.send(&bulk);
    assert_eq!((refused.status, left(&refused, "l")), (429, 2));
    assert_eq!(admitted(&gate, &backend, &by("a"), 5), 2, "what is left serves lighter requests");
}

#[test]
fn guessing_is_stopped_by_address_and_a_valid_key_from_there_still_works() {
    let backend = Backend::start();
    let rest = format!(
        "{ALL}limits: {{ guessing: {{ rate: 5/minute, window: sliding, per: address, counts: failed_authentication }} }}\n"
    );
    let gate = gate(&rest, &KEYS, &backend);
    for _ in 0..5 {
        assert_eq!(gate.send(&by("wrong")).status, 401);
        assert_eq!(gate.send(&by("a")).status, 200, "successes are not counted");
    }
    let refused = gate.send(&by("wrong"));
    assert_eq!(refused.status, 429);
    assert!(refused.number("retry-after") >= 1);
    assert_eq!(gate.send(&Request::get("/x")).status, 401, "a missing key is no guess");
    assert_eq!(gate.send(&by("a")).status, 200);
    let elsewhere = Connection::from([127, 0, 0, 9], gate.traffic).send(&by("wrong"));
    assert_eq!(elsewhere.status, 401, "other addresses have done nothing");
    gate.pass(seconds(refused.number("retry-after")));
    assert_eq!(gate.send(&by("wrong")).status, 401);
}

#[test]
fn a_changed_limit_holds_on_the_next_request_and_refills_nothing() {
    for window in ["bucket", "sliding", "fixed"] {
        let backend = Backend::start();
        let rest = format!("{ALL}limits: {{ l: {{ rate: 10/hour, window: {window} }} }}\n");
        let gate = gate(&rest, &KEYS, &backend);
        assert_eq!(admitted(&gate, &backend, &by("a"), 6), 6);
        let in_force = |n: i64| {
            assert!(
                eventually(A_SECOND, || gate.send(&by("b")).number("x-ratelimit-limit") == n),
                "{window}: {n}"
            );
        };
        gate.policy.replace("10/hour", "4/hour");
        in_force(4);
        let refused = gate.send(&by("a"));
        assert_eq!((refused.status, left(&refused, "l")), (429, 0), "{window}: never a negative");
        gate.policy.replace("4/hour", "8/hour");
        in_force(8);
        assert_eq!(admitted(&gate, &backend, &by("a"), 6), 2, "{window}: six of eight are used");
    }
}

#[test]
fn rotating_a_key_refills_nothing() {
    let backend = Backend::start();
    let gate = gate(&format!("{ALL}limits: {{ l: {{ rate: 5/hour }} }}\n"), &KEYS, &backend);
    assert_eq!(admitted(&gate, &backend, &by("a"), 4), 4);
    gate.policy.write_keys(&[Key::of("ka", "acme", "secret-new"), KEYS[1]]);
    // Asked with another key: this one has a single request left.
    assert!(eventually(A_SECOND, || gate.send(&by("c")).status == 401));
    assert_eq!(gate.send(&by("a")).status, 401);
    assert_eq!(admitted(&gate, &backend, &by("new"), 4), 1);
}

#[test]
fn of_a_thousand_at_once_exactly_as_many_pass_as_are_left() {
    let backend = Backend::start();
    let rest = format!("{ALL}limits: {{ l: {{ rate: 37/hour, window: sliding, per: tenant }} }}\n");
    let gate = gate(&rest, &KEYS, &backend);
    let passed: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|n| {
                let mut connection = gate.connect();
                let request = by(if n % 2 == 0 { "a" } else { "b" });
                scope.spawn(move || {
                    (0..50).filter(|_| connection.send(&request).status == 200).count()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("it does not panic")).sum()
    });
    assert_eq!((passed, backend.count()), (37, 37));
}

#[test]
fn an_ipv6_network_is_one_address_and_a_full_table_makes_newcomers_share() {
    let backend = Backend::start();
    let rest = format!(
        "client_address: {{ from: x-forwarded-for, trusted: [127.0.0.1/32] }}\nbounds: {{ subjects: 1024 }}\n\
         {ALL}limits: {{ l: {{ rate: 2/hour, per: address }} }}\n"
    );
    let gate = gate(&rest, &KEYS, &backend);
    let from = |address: &str| gate.send(&by("a").header("X-Forwarded-For", address)).status;
    assert_eq!((from("2001:db8:1:2::1"), from("2001:db8:1:2:ffff::9")), (200, 200));
    assert_eq!(from("2001:db8:1:2::3"), 429, "they share a /64");
    assert_eq!(from("2001:db8:1:3::1"), 200, "its neighbour has done nothing");
    assert_eq!((from("203.0.113.1"), from("203.0.113.1"), from("203.0.113.1")), (200, 200, 429));
    let mut crowd = gate.connect();
    for n in 0..1200 {
        let address = format!("198.{}.{}.1", 18 + n / 256, n % 256);
        crowd.send(&by("a").header("X-Forwarded-For", &address));
    }
    assert_eq!(from("203.0.113.1"), 429, "who is in the table is not evicted by newcomers");
    assert_eq!(
        (from("192.0.2.1"), from("192.0.2.2"), from("192.0.2.3")),
        (200, 200, 429),
        "newcomers share a /24"
    );
}
