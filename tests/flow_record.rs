//! What a gate writes and counts: one record a request with everything its decision was made of, and never a secret.

mod support;

use std::collections::HashSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{A_SECOND, Backend, Connection, Gate, Key, Policy, Reply, Request, eventually};

const POLICY: &str = "\
version: 1
upstream: http://127.0.0.1:9
state: memory
credentials: { accept: [bearer, { header: X-API-Key }, { header: X-Our-Token }, { query: api_key }], keys: gate.keys.yaml }
identity: { tenant: X-Tenant-Id }
routes:
  - { name: read, match: GET /read/**, scope: read }
  - { name: write, match: POST /write, scope: write }
  - { name: hook, match: POST /hook, public: true }
limits:
  few: { rate: 3/hour, window: sliding, routes: [read] }
  seen: { rate: 1/hour, window: fixed, routes: [read], mode: shadow }
plans: { default: {}, pro: {} }
tenants: { acme: { plan: pro }, gone: { active: false } }
record: { to: stdout, headers: [User-Agent] }
";

const SECRET: &str = "Secret-a-4711";

fn keys() -> [Key<'static>; 2] {
    [
        Key::of("ka", "acme", SECRET).with("scopes: [read]"),
        Key::of("kg", "gone", "Secret-gone-4711").with("scopes: [read, write]"),
    ]
}

fn start(backend: &Backend) -> Gate {
    Gate::start(Policy::with_keys(POLICY, &keys()), backend)
}

/// Waits for as many records, and no more.
#[track_caller]
fn records(gate: &Gate, n: usize) -> Vec<Value> {
    assert!(
        eventually(Duration::from_secs(5), || gate.records().len() >= n),
        "{:?}",
        gate.records()
    );
    std::thread::sleep(Duration::from_millis(200));
    let records = gate.records();
    assert_eq!(records.len(), n, "{records:?}");
    records
}

/// The one record with this status: workers write theirs in no order.
#[track_caller]
fn with_status(records: &[Value], status: u16) -> &Value {
    let found: Vec<_> = records.iter().filter(|record| record["status"] == status).collect();
    assert_eq!(found.len(), 1, "{status}: {records:?}");
    found[0]
}

#[test]
fn every_request_leaves_one_record_with_what_its_decision_was_made_of() {
    let backend = Backend::start();
    // One worker writes its records in the order of its requests.
    let policy = Policy::with_keys(&format!("{POLICY}workers: 1\n"), &keys());
    let gate = Gate::start(policy, &backend);
    let read = Request::get("/read/x?q=1").bearer(SECRET).header("User-Agent", "test/1");
    let asked = [
        (read.clone(), 200),
        (Request::get("/read/x"), 401),
        (Request::get("/read/x").bearer("wrong"), 401),
        (Request::get("/read/x").bearer("Secret-gone-4711"), 403),
        (Request::post("/write", "{}").bearer(SECRET), 403),
        (Request::get("/nowhere").bearer(SECRET), 404),
        (Request::new("DELETE", "/write").bearer(SECRET), 405),
        (Request::get("/read//x").bearer(SECRET), 400),
        (Request::post("/hook", "{\"a\":1}"), 200),
        (read.clone(), 200),
        (read.clone(), 200),
        (read.clone(), 429),
    ];
    for (request, status) in &asked {
        assert_eq!(gate.send(request).status, *status, "{request:?}");
    }
    let records = records(&gate, asked.len());
    for (record, (request, status)) in records.iter().zip(&asked) {
        assert_eq!((&record["v"], &record["status"]), (&json!(1), &json!(status)), "{request:?}");
        for field in [
            "time",
            "id",
            "policy",
            "peer",
            "client",
            "protocol",
            "method",
            "path",
            "outcome",
            "request_id",
        ] {
            assert!(record[field].is_string(), "{field} in {record}");
        }
        for field in ["gate_us", "total_us", "request_bytes", "response_bytes"] {
            assert!(record[field].is_u64(), "{field} in {record}");
        }
    }
    let ids: HashSet<_> = records.iter().map(|record| record["id"].to_string()).collect();
    assert_eq!(ids.len(), records.len(), "ids are unique");

    let first = &records[0];
    for (field, value) in [
        ("method", json!("GET")),
        ("path", json!("/read/x")),
        ("host", json!("api.example")),
        ("route", json!("read")),
        ("key", json!("ka")),
        ("tenant", json!("acme")),
        ("plan", json!("pro")),
        ("scope", json!("read")),
        ("outcome", json!("admitted")),
        ("client", json!("127.0.0.1")),
        ("upstream_status", json!(200)),
        ("response_bytes", json!(11)),
        ("end", json!("clean")),
    ] {
        assert_eq!(first[field], value, "{field} in {first}");
    }
    assert_eq!(first["headers"]["user-agent"], "test/1");
    let limit = |record: &Value, name: &str| {
        let limits = record["limits"].as_array().cloned().unwrap_or_default();
        limits.into_iter().find(|limit| limit["name"] == name).unwrap_or_default()
    };
    let few = limit(first, "few");
    assert_eq!(
        (&few["ceiling"], &few["remaining"], &few["admits"]),
        (&json!(3), &json!(2), &json!(true)),
        "{few}"
    );
    let seen = limit(&records[9], "seen");
    assert_eq!((&seen["mode"], &seen["admits"]), (&json!("shadow"), &json!(false)), "{seen}");

    let refusals: Vec<_> = records.iter().map(|record| record["refusal"].as_str()).collect();
    assert_eq!(
        refusals,
        [
            None,
            Some("key_missing"),
            Some("key_unknown"),
            Some("tenant_inactive"),
            Some("scope_denied"),
            Some("route_unknown"),
            Some("method_unknown"),
            Some("bad_request"),
            None,
            None,
            None,
            Some("rate"),
        ]
    );
    assert_eq!(records[11]["limit"], "few");
    assert_eq!(
        (&records[3]["key"], &records[3]["tenant"]),
        (&json!("kg"), &json!("gone")),
        "known though refused"
    );
    assert_eq!((&records[8]["request_bytes"], &records[8]["key"]), (&json!(7), &Value::Null));
}

#[test]
fn what_is_counted_is_what_was_answered() {
    let backend = Backend::start();
    let gate = start(&backend);
    let read = Request::get("/read/x").bearer(SECRET);
    for status in ["200 OK", "404 Not Found", "503 Busy"] {
        backend.answers(Reply::json(status, "{}"));
        gate.send(&read);
    }
    gate.send(&read);
    gate.send(&Request::get("/read/x"));
    gate.send(&Request::post("/write", "{}").bearer(SECRET));
    records(&gate, 6);
    let requests = |route: &str, outcome: &str, class: &str| {
        let series = format!(
            "tollgate_requests_total{{route=\"{route}\",outcome=\"{outcome}\",class=\"{class}\"}}"
        );
        gate.metric(&series).unwrap_or(0.0)
    };
    let refusals = |route: &str, reason: &str, limit: &str, mode: &str| {
        let series = format!(
            "tollgate_refusals_total{{route=\"{route}\",reason=\"{reason}\",limit=\"{limit}\",mode=\"{mode}\"}}"
        );
        gate.metric(&series).unwrap_or(0.0)
    };
    assert!(eventually(A_SECOND, || requests("read", "admitted", "2xx") >= 1.0));
    let counted = [
        requests("read", "admitted", "2xx"),
        requests("read", "admitted", "4xx"),
        requests("read", "admitted", "5xx"),
        requests("read", "refused", "4xx"),
        requests("write", "refused", "4xx"),
        refusals("read", "rate", "few", "enforce"),
        refusals("read", "key_missing", "", "enforce"),
        refusals("write", "scope_denied", "", "enforce"),
        gate.metric("tollgate_panics_total").unwrap_or(-1.0),
        gate.metric("tollgate_requests_in_flight{listener=\"traffic\"}").unwrap_or(-1.0),
    ];
    let counted = counted.map(|n| n.to_string());
    assert_eq!(counted, ["1", "1", "1", "2", "1", "1", "1", "1", "0", "0"]);
    assert!(refusals("read", "rate", "seen", "shadow") >= 2.0, "shadow is counted apart");
}

#[test]
fn no_secret_no_query_and_no_body_is_ever_written() {
    let backend = Backend::start();
    let text = POLICY.replace(
        "upstream: http://127.0.0.1:9",
        &format!(
            "upstream: {{ url: \"{}\", set_headers: {{ X-Own: {{ env: OWN }} }}, set_query: {{ pass: {{ env: PASS }} }} }}",
            backend.url()
        ),
    );
    let policy = Policy::with_keys(&text, &keys()).set("OWN", "Own-4711").set("PASS", "Pass-4711");
    let gate = Gate::run(policy, &["--listen", "127.0.0.1:0"]);
    let made = gate.policy.key("acme", &["--scope", "write"]);
    let ours = Request::post("/write", "body-Text-4711").bearer(&made);
    assert!(gate.soon(&ours, 200));
    let typo = format!("{}x", &made[..made.len() - 1]);
    let requests = [
        Request::get("/read/x?phone=Query-4711").bearer(SECRET),
        Request::get(&format!("/read/x?api_key={SECRET}&text=Query-4711")),
        Request::get("/read/x?api_key=Wrong-4711"),
        Request::get("/read/x").header("X-API-Key", SECRET).header("Cookie", "sid=Cookie-4711"),
        Request::get("/read/x").header("X-Our-Token", SECRET),
        Request::get("/read/x").header("X-Our-Token", "Wrong-4711"),
        Request::get("/read/x").bearer("Wrong-4711"),
        Request::get("/read/x").header("Authorization", "Basic QmFzaWMtNDcxMQ=="),
        Request::get("/read/x").bearer(SECRET).header("X-API-Key", "Wrong-4711"),
        Request::post("/write", "body-Text-4711").bearer(&typo),
        Request::post("/hook", "body-Text-4711").header("Authorization", "Bearer Hook-4711"),
        Request::get("/nowhere?phone=Query-4711").bearer(SECRET),
        Request::get("/read/\\?phone=Query-4711").bearer(SECRET),
    ];
    for request in &requests {
        let answer = gate.send(request);
        let told = format!("{answer:?} {}", answer.text());
        assert!(!told.contains("4711"), "{request:?}: {told}");
    }
    let mut broken = gate.connect();
    broken.try_write(b"GET /read/x?phone=Query-4711 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer Wrong-4711\r\nX\x01: 4711\r\n\r\n");
    drop(broken.rest());
    gate.policy.revoke("ka");
    gate.soon(&requests[0], 401);
    gate.policy.append("nonsense: true");
    assert!(eventually(A_SECOND, || gate.metric("tollgate_policy_last_load_ok") == Some(0.0)));
    let admin: String = ["/metrics", "/v1/policy", "/healthz", "/readyz"]
        .map(|path| gate.ask_admin(path).text())
        .concat();
    assert!(admin.contains("tollgate_requests_total"));
    gate.signal(Signal::TERM);
    gate.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(400));
    let written = gate.output();
    assert!(written.contains("\"route\":\"read\"") && written.contains("policy_rejected"));
    for (place, text) in [("output", &written), ("admin", &admin)] {
        for secret in ["4711", "QmFzaWMt", &made, &typo, "phone"] {
            let line = text
                .lines()
                .find(|line| line.contains(secret) && !line.contains("\"peer\":\"127.0.0.1:4711"));
            assert_eq!(line, None, "{secret} in {place}");
        }
    }
    let seen = backend.seen();
    assert!(seen.iter().any(|seen| seen.target.contains("pass=Pass-4711")), "the backend is told");
}

#[test]
fn a_header_that_carries_keys_cannot_be_recorded() {
    for header in ["X-Our-Token", "x-api-key", "Authorization", "Cookie", "Proxy-Authorization"] {
        let text = POLICY.replace("[User-Agent]", &format!("[User-Agent, {header}]"));
        let policy = Policy::with_keys(&text, &keys());
        let checked = policy.run(&["check", "gate.yaml"]);
        let said = String::from_utf8_lossy(&checked.stdout).into_owned()
            + &String::from_utf8_lossy(&checked.stderr);
        assert_eq!(checked.status.code(), Some(1), "{header}: {said}");
        assert!(said.contains("a secret is never recorded"), "{header}: {said}");
    }
}

#[test]
fn a_password_before_the_host_is_not_written_down() {
    let backend = Backend::start();
    let gate = start(&backend);
    for (target, host) in [
        (format!("http://me:{SECRET}@api.example/read/x"), "api.example".to_owned()),
        ("/read/x".to_owned(), format!("me:{SECRET}@api.example")),
    ] {
        let mut connection = gate.connect();
        connection.write(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!(connection.answer(support::wire::Asked::Other).status, 400, "{target}");
    }
    for record in records(&gate, 2) {
        assert_eq!(record["host"], "api.example");
        assert!(!record.to_string().contains(SECRET), "{record}");
    }
}

#[test]
fn a_callers_text_stays_inside_its_field_and_out_of_labels() {
    let backend = Backend::start();
    let gate = start(&backend);
    let forged = Request::get("/read/%22%7D%0").bearer(SECRET);
    gate.send(&forged);
    let agent = "\"}\t{\"v\":1,\"status\":200} \u{e9}\u{2028}";
    let request =
        Request::get("/read/%22,%22status%22:1").bearer(SECRET).header("User-Agent", agent);
    assert_eq!(gate.send(&request).status, 200);
    let records = records(&gate, 2);
    let record = with_status(&records, 200);
    assert_eq!(record["headers"]["user-agent"], agent);
    assert_eq!(record["path"], "/read/%22,%22status%22:1");
    let lines = gate.output().lines().filter(|line| line.contains("\"v\":1")).count();
    assert_eq!(lines, 2);
    for n in 0..50 {
        gate.send(
            &Request::new(&format!("M{n}"), &format!("/unknown/{n}"))
                .host(&format!("h{n}.example")),
        );
    }
    let metrics = gate.ask_admin("/metrics").text();
    for text in ["M7", "unknown/7", "h7.example", "127.0.0.1"] {
        assert!(!metrics.contains(text), "{text} is in a label");
    }
}

#[test]
fn a_client_that_leaves_and_an_upstream_that_fails_are_told_apart() {
    let backend = Backend::start();
    let text =
        POLICY.replace("name: read,", "name: read, timeout: 400ms,").replace("3/hour", "30/hour");
    let gate = Gate::start(Policy::with_keys(&text, &keys()), &backend);
    let read = Request::get("/read/x").bearer(SECRET);
    backend.answers(Reply::json("200 OK", "{}").after(Duration::from_secs(2)));
    assert_eq!(gate.send(&read).status, 504);
    let mut leaver = gate.connect();
    leaver.write(&read.bytes());
    assert!(eventually(A_SECOND, || backend.count() == 2));
    drop(leaver);
    let both = records(&gate, 2);
    let (late, left) = (with_status(&both, 504), with_status(&both, 499));
    assert_eq!(
        (&late["outcome"], &late["refusal"]),
        (&json!("failed"), &json!("upstream_timeout"))
    );
    assert_eq!((&left["refusal"], &left["end"]), (&Value::Null, &json!("client_left")), "{left}");
    let series = "tollgate_upstream_errors_total{upstream=\"default\",reason=\"upstream_timeout\"}";
    assert!(eventually(A_SECOND, || gate.metric(series) == Some(1.0)));
}

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_traffic_up() {
    let backend = Backend::start();
    let text = POLICY.replace("3/hour", "100000/hour");
    let mut gate = Gate::unread(Policy::with_keys(&text, &keys()), &backend);
    let read = Request::get("/read/x").bearer(SECRET).header("User-Agent", &"x".repeat(4000));
    // Four kilobytes each: several times what the pipe and the gate's own buffers hold.
    let mut kept = gate.connect();
    for _ in 0..1500 {
        assert_eq!(kept.send(&read).status, 200);
    }
    let dropped = || gate.metric("tollgate_log_dropped_total{sink=\"records\"}");
    assert!(eventually(A_SECOND, || dropped().is_some_and(|n| n > 0.0)), "what is lost is counted");
    assert_eq!(kept.send(&read).status, 200);
    gate.policy.replace("100000/hour", "99999/hour");
    assert!(
        eventually(A_SECOND, || gate.send(&read).number("x-ratelimit-limit") == 99_999),
        "reloads work"
    );
    gate.policy.replace("record:", "drain: { delay: 0s, deadline: 1s }\nrecord:");
    std::thread::sleep(Duration::from_millis(700));
    gate.signal(Signal::TERM);
    assert_eq!(gate.exit_within(Duration::from_secs(8)), Some(0), "and it ends");
}

#[test]
fn a_record_file_that_was_moved_away_is_opened_anew_on_sighup() {
    let backend = Backend::start();
    let text = POLICY.replace("to: stdout", "to: access.log").replace("3/hour", "100/hour");
    let gate = Gate::start(Policy::with_keys(&text, &keys()), &backend);
    let read = Request::get("/read/x").bearer(SECRET);
    let log = gate.policy.directory().join("access.log");
    let old = gate.policy.directory().join("access.log.1");
    let lines = |file: &std::path::Path| {
        std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
    };
    assert_eq!(gate.send(&read).status, 200);
    assert!(eventually(A_SECOND, || lines(&log) == 1));
    std::fs::rename(&log, &old).expect("the directory is ours");
    gate.signal(Signal::HUP);
    assert!(eventually(A_SECOND, || log.exists()), "a new file");
    assert_eq!(gate.send(&read).status, 200);
    assert!(eventually(A_SECOND, || lines(&log) == 1));
    assert_eq!(lines(&old), 1);
    assert!(gate.records().is_empty(), "nothing on standard output");
}

/// What a gate renders once and says again: each request of a connection must still be told under its own names.
#[test]
fn one_connection_of_many_callers_and_policies_tells_each_request_under_its_own_names() {
    let backend = Backend::start();
    let text = "\
version: 1
upstream: http://127.0.0.1:9
state: memory
workers: 1
credentials: { accept: [bearer], keys: gate.keys.yaml }
routes:
  - { name: items, match: GET /items }
  - { name: orders, match: GET /orders }
plans: { default: {}, pro: { limits: { few: 9/hour } } }
tenants: { acme: { plan: pro }, globex: {} }
limits:
  few: { rate: 7/hour, per: key }
record: { to: stdout }
report: { ratelimit: draft10 }
";
    let keys = [Key::of("ka", "acme", "Secret-a"), Key::of("kb", "globex", "Secret-b")];
    let gate = Gate::start(Policy::with_keys(text, &keys), &backend);
    let mut open = gate.connect();
    let mut expected = Vec::new();
    let mut ask = |open: &mut Connection, path: &str, letter: &str, ceiling: u64, route: &str| {
        let secret = format!("Secret-{letter}");
        let answer = open.send(&Request::get(path).bearer(&secret));
        let field = format!("\"few\";q={ceiling};w=3600");
        assert_eq!(answer.header("ratelimit-policy"), Some(field.as_str()), "{path} by {letter}");
        let (key, tenant) = if letter == "a" { ("ka", "acme") } else { ("kb", "globex") };
        expected.push(json!([route, key, tenant, "few", ceiling]));
    };
    for _ in 0..2 {
        for (path, route) in [("/items", "items"), ("/orders", "orders")] {
            ask(&mut open, path, "a", 9, route);
            ask(&mut open, path, "b", 7, route);
        }
    }
    let digest = || gate.ask_admin("/v1/policy").json()["digest"].clone();
    for (from, to, route) in
        [("name: items", "name: things", "things"), ("7/hour", "8/hour", "things")]
    {
        let before = digest();
        gate.policy.replace(from, to);
        assert!(eventually(A_SECOND, || digest() != before), "{to} is in force");
        let others = if to == "8/hour" { 8 } else { 7 };
        ask(&mut open, "/items", "b", others, route);
        ask(&mut open, "/items", "a", 9, route);
    }
    let told: Vec<Value> = records(&gate, expected.len())
        .iter()
        .map(|record| {
            let limit = &record["limits"][0];
            let [route, key, tenant] = ["route", "key", "tenant"].map(|name| record[name].clone());
            json!([route, key, tenant, limit["name"], limit["ceiling"]])
        })
        .collect();
    assert_eq!(told, expected);
}
