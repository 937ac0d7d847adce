//! Usage and acts on the admin listener, over real sockets, against a gate whose clock moves when told to.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use support::inside::Inside;
use support::{Answer, Backend, Gate, Key, Policy, Reply, Request, eventually, send};

const POLICY: &str = "\
version: 1
upstream: http://127.0.0.1:9
credentials: { accept: [bearer], keys: gate.keys.yaml }
routes:
  - { name: send, match: POST /send, cost: 1.5 }
  - { name: read, match: GET /read, scope: read }
limits:
  throttle: { rate: 10/minute, window: sliding, per: key }
  monthly: { quota: 1000/month, per: tenant, time_zone: UTC }
  spend-cap: { spend: 500/month, unit: EUR, per: tenant }
  wallet: { credit: prepaid, unit: credits, per: tenant, routes: [send] }
  by-address: { rate: 1000/minute, per: address }
  both: { quota: 50/day, per: [key, route] }
  burst: { rate: 50/second, burst: 1000, per: tenant }
";

const KEYS: [Key<'static>; 3] = [
    Key::of("ka", "acme", "secret-a").with("scopes: [read]"),
    Key::of("kb", "acme", "secret-b"),
    Key::of("kc", "globex", "secret-c"),
];

fn gate(more: &str, backend: &Backend) -> Inside {
    Inside::start(Policy::with_keys(&format!("{POLICY}{more}"), &KEYS), backend)
}

fn admin(gate: &Inside) -> SocketAddr {
    gate.admin.expect("it listens")
}

fn get(gate: &Inside, path: &str) -> Answer {
    send(admin(gate), &Request::get(path).host("localhost"))
}

fn post(gate: &Inside, path: &str, body: &Value) -> Answer {
    send(admin(gate), &Request::post(path, &body.to_string()).host("localhost"))
}

#[track_caller]
fn done(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.is_json();
    answer.json()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{answer:?}");
}

#[track_caller]
fn row(gate: &Inside, query: &str, limit: &str) -> Value {
    let told = done(&get(gate, &format!("/v1/usage?{query}")));
    let rows = told["usage"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["limit"] == limit);
    row.unwrap_or_else(|| panic!("no {limit} in {told}")).clone()
}

fn top_up(gate: &Inside, amount: &str) -> Value {
    let body = json!({ "limit": "wallet", "tenant": "acme", "add": amount });
    done(&post(gate, "/v1/credit", &body))
}

#[test]
fn credit_is_added_to_the_last_digit_and_told_before_and_after() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    let first = top_up(&gate, "10.50");
    assert_eq!((&first["balance_before"], &first["balance_after"]), (&json!("0"), &json!("10.5")));
    assert_eq!((&first["added"], &first["unit"]), (&json!("10.5"), &json!("credits")));
    assert_eq!(first["durable"], false, "state in memory is no promise, and says so");
    let second = top_up(&gate, "0.000001");
    assert_eq!(second["balance_after"], "10.500001");
    let row = row(&gate, "tenant=acme", "wallet");
    assert_eq!(row["remaining"], "10.500001");
    assert_eq!((&row["used"], &row["resets_at"]), (&json!("0"), &Value::Null));
}

#[test]
fn what_cannot_be_an_amount_or_is_no_credit_is_refused_by_its_reason() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    for amount in ["0", "-1", "1e3", "0.0000001", "", "99999999999999999999"] {
        let body = json!({ "limit": "wallet", "tenant": "acme", "add": amount });
        refused(&post(&gate, "/v1/credit", &body), 422, "amount_invalid");
    }
    let ask = |body: Value| post(&gate, "/v1/credit", &body);
    let good = json!({ "limit": "wallet", "tenant": "acme", "add": "1" });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    refused(&ask(with("limit", json!("monthly"))), 422, "limit_unfit");
    refused(&ask(with("limit", json!("walet"))), 404, "limit_unknown");
    refused(&ask(with("tenant", json!("acmee"))), 404, "tenant_unknown");
    refused(&ask(with("add", json!(1.5))), 400, "bad_request");
    let unknown = ask(with("amount", json!("1")));
    refused(&unknown, 400, "bad_request");
    assert!(unknown.text().contains("`amount`"), "{}", unknown.text());
    refused(&ask(json!({ "limit": "wallet", "add": "1" })), 422, "subject_missing");
    refused(&ask(json!([])), 400, "bad_request");
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "0", "nothing was added");
}

#[test]
fn a_repeat_under_the_same_name_gets_the_first_answer_and_does_nothing() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    let ask = |amount: &str| {
        let body = json!({ "limit": "wallet", "tenant": "acme", "add": amount }).to_string();
        let request = Request::post("/v1/credit", &body).host("localhost");
        send(admin(&gate), &request.header("Idempotency-Key", "invoice-7"))
    };
    let first = ask("5");
    assert_eq!(done(&first)["act"], "invoice-7");
    let again = ask("5");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.body, first.body);
    refused(&ask("6"), 422, "idempotency_mismatch");
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "5");
    let (one, other) = (top_up(&gate, "1"), top_up(&gate, "1"));
    assert_ne!(one["act"], other["act"], "without a name each is an act of its own");
}

#[test]
fn usage_follows_requests_and_names_whom_it_counts() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    top_up(&gate, "10");
    for _ in 0..2 {
        let request = Request::post("/send", "{}").bearer("secret-a");
        assert_eq!(gate.send(&request).status, 200);
    }
    let throttle = row(&gate, "key=ka", "throttle");
    assert_eq!((&throttle["used"], &throttle["remaining"]), (&json!(2), &json!(8)));
    assert_eq!((&throttle["subject"], &throttle["per"]), (&json!("ka"), &json!("key")));
    assert!(throttle["resets_at"].as_str().is_some_and(|at| at.ends_with('Z')));
    let monthly = row(&gate, "tenant=acme", "monthly");
    assert_eq!((&monthly["used"], &monthly["ceiling"]), (&json!(2), &json!(1000)));
    let end = monthly["resets_at"].as_str().expect("a month ends");
    assert!(end.ends_with("-01T00:00:00.000Z"), "{end}");
    let spend = row(&gate, "key=kb", "spend-cap");
    assert_eq!((&spend["used"], &spend["remaining"]), (&json!("3"), &json!("497")), "its tenant's");
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "7");
    let both = row(&gate, "key=ka", "both");
    assert_eq!((&both["subject"], &both["used"]), (&json!("ka+send"), &json!(2)));
    assert_eq!(row(&gate, "limit=both&key=ka&route=read", "both")["used"], 0);
    assert_eq!(row(&gate, "key=kb", "throttle")["used"], 0);
    let burst = row(&gate, "tenant=globex", "burst");
    assert_eq!((&burst["ceiling"], &burst["remaining"]), (&json!(1000), &json!(1000)), "its size");
    assert_eq!(row(&gate, "limit=by-address&address=127.0.0.1", "by-address")["used"], 2);
    refused(&get(&gate, "/v1/usage?limit=by-address"), 422, "subject_missing");
    refused(&get(&gate, "/v1/usage?limit=both&tenant=acme"), 422, "subject_missing");
    refused(&get(&gate, "/v1/usage?key=nobody"), 404, "key_unknown");
    refused(&get(&gate, "/v1/usage?kee=ka"), 400, "bad_request");
    refused(&get(&gate, "/v1/usage"), 400, "bad_request");
}

#[test]
fn a_limit_alone_is_listed_for_all_it_counts_and_as_csv() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    assert_eq!(gate.send(&Request::get("/read").bearer("secret-a")).status, 200);
    let told = done(&get(&gate, "/v1/usage?limit=monthly"));
    let rows = told["usage"].as_array().expect("a list");
    let subjects: Vec<_> = rows.iter().map(|row| (&row["subject"], &row["used"])).collect();
    assert_eq!(subjects, [(&json!("acme"), &json!(1)), (&json!("globex"), &json!(0))]);
    assert_eq!(told["next"], Value::Null);
    let rest = done(&get(&gate, "/v1/usage?limit=throttle&after=ka"));
    assert_eq!(rest["usage"].as_array().map(Vec::len), Some(2));
    let csv = get(&gate, "/v1/usage?limit=spend-cap&format=csv");
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    let text = csv.text();
    let mut lines = text.split("\r\n");
    let head = "limit,kind,per,unit,subject,used,ceiling,remaining,resets_at,mode";
    assert_eq!(lines.next(), Some(head));
    let first = lines.next().expect("acme's line");
    assert!(first.starts_with("spend-cap,spend,tenant,EUR,acme,0,500,500,"), "{first}");
}

#[test]
fn use_is_corrected_and_counters_start_anew() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    let monthly = |more: Value| {
        let mut body = json!({ "limit": "monthly", "tenant": "acme" });
        for (name, value) in more.as_object().expect("fields") {
            body[name] = value.clone();
        }
        body
    };
    let adjust = |more| post(&gate, "/v1/usage/adjust", &monthly(more));
    let told = done(&adjust(json!({ "add": "990", "note": "sent by hand" })));
    assert_eq!((&told["used_before"], &told["used_after"]), (&json!(0), &json!(990)));
    assert_eq!(row(&gate, "tenant=acme", "monthly")["remaining"], 10);
    done(&adjust(json!({ "remove": 90 })));
    assert_eq!(row(&gate, "tenant=acme", "monthly")["used"], 900);
    refused(&adjust(json!({ "add": "1.5" })), 422, "amount_invalid");
    refused(&adjust(json!({ "add": 1, "remove": 1 })), 400, "bad_request");
    refused(&adjust(json!({})), 400, "bad_request");
    let told = done(&post(&gate, "/v1/usage/reset", &monthly(json!({}))));
    assert_eq!(told["used_before"], 900);
    assert_eq!(row(&gate, "tenant=acme", "monthly")["used"], 0);
    let throttle = json!({ "limit": "throttle", "key": "ka" });
    for _ in 0..10 {
        assert_eq!(gate.send(&Request::get("/read").bearer("secret-a")).status, 200);
    }
    assert_eq!(gate.send(&Request::get("/read").bearer("secret-a")).status, 429);
    done(&post(&gate, "/v1/usage/reset", &throttle));
    assert_eq!(gate.send(&Request::get("/read").bearer("secret-a")).status, 200);
    let mut more = throttle;
    more["add"] = json!(1);
    refused(&post(&gate, "/v1/usage/adjust", &more), 422, "limit_unfit");
}

#[test]
fn a_revoked_key_stops_on_its_next_request_and_one_act_restores_it() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    let request = Request::get("/read").bearer("secret-a");
    let mut open = gate.connect();
    assert_eq!(open.send(&request).status, 200);
    let told = done(&post(&gate, "/v1/keys/ka/revoke", &json!({ "why": "leaked" })));
    assert_eq!((&told["state"], &told["changed"]), (&json!("revoked"), &json!(true)));
    assert_eq!(open.send(&request).status, 401, "an open connection is no way round");
    let standing = done(&get(&gate, "/v1/keys/ka"));
    assert_eq!(standing["state"], "revoked");
    assert_eq!(standing["revoked"]["by"], "person");
    assert_eq!(standing["revoked"]["why"], "leaked");
    let again = done(&post(&gate, "/v1/keys/ka/revoke", &json!({})));
    assert_eq!((&again["changed"], &again["revoked"]["why"]), (&json!(false), &json!("leaked")));
    let list = done(&get(&gate, "/v1/revocations"));
    assert_eq!(list["revocations"][0]["key"], "ka");
    let told = done(&post(&gate, "/v1/keys/ka/restore", &json!({})));
    assert_eq!((&told["state"], &told["changed"]), (&json!("live"), &json!(true)));
    assert_eq!(open.send(&request).status, 200);
    assert_eq!(done(&get(&gate, "/v1/keys/ka"))["revoked"], Value::Null);
    assert_eq!(done(&post(&gate, "/v1/keys/ka/restore", &json!({})))["changed"], false);
    refused(&post(&gate, "/v1/keys/nobody/revoke", &json!({})), 404, "key_unknown");
    refused(&get(&gate, "/v1/keys/nobody"), 404, "key_unknown");
}

#[test]
fn a_key_that_its_file_revokes_is_restored_by_its_file_alone() {
    let backend = Backend::start();
    let keys = [Key::of("ka", "acme", "secret-a").with("revoked: { at: 2026-01-01T00:00:00Z }")];
    let gate = Inside::start(Policy::with_keys(POLICY, &keys), &backend);
    refused(&post(&gate, "/v1/keys/ka/restore", &json!({})), 409, "revoked_by_file");
    assert_eq!(done(&get(&gate, "/v1/keys/ka"))["revoked"], json!({ "by": "file" }));
}

#[test]
fn when_a_key_was_used_is_told_where_it_is_written_down_and_not_as_never() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    assert_eq!(gate.send(&Request::get("/read").bearer("secret-a")).status, 200);
    assert_eq!(done(&get(&gate, "/v1/keys/ka")).get("last_seen"), None);
}

#[test]
fn an_unused_key_is_revoked_by_its_rule_and_restored_by_one_act() {
    let backend = Backend::start();
    let rules = "auto_revoke:\n  idle: { unused: 90d, mode: enforce }\n  old: { unused: 30d }\n";
    let gate = gate(rules, &backend);
    let request = Request::get("/read").bearer("secret-a");
    let metric = |series: &str| {
        let text = get(&gate, "/metrics").text();
        text.lines().any(|line| line == series)
    };
    assert!(metric("tollgate_auto_revocations_total{rule=\"idle\",mode=\"enforce\"} 0"));
    // The first look, in which all keys are first seen, happens when the gate starts.
    let seen = || done(&get(&gate, "/v1/keys/kc"))["last_seen"].is_string();
    assert!(eventually(Duration::from_secs(5), seen));
    gate.pass(Duration::from_hours(60 * 24));
    assert_eq!(gate.send(&request).status, 200);
    gate.pass(Duration::from_hours(31 * 24));
    let state = |key: &str| done(&get(&gate, &format!("/v1/keys/{key}")))["state"].clone();
    assert!(eventually(Duration::from_secs(5), || state("kc") == "revoked"));
    assert_eq!(state("ka"), "live", "it was used in between");
    assert_eq!(gate.send(&request).status, 200);
    let standing = done(&get(&gate, "/v1/keys/kc"));
    assert_eq!(standing["revoked"]["rule"], "idle");
    assert_eq!(standing["revoked"]["why"], "unused for more than 90 days");
    let old = Request::post("/send", "{}").bearer("secret-c");
    assert_eq!(gate.send(&old).status, 401);
    assert!(metric("tollgate_auto_revocations_total{rule=\"idle\",mode=\"enforce\"} 2"));
    let shadow = "tollgate_auto_revocations_total{rule=\"old\",mode=\"shadow\"} ";
    assert!(get(&gate, "/metrics").text().contains(shadow));
    done(&post(&gate, "/v1/keys/kc/restore", &json!({})));
    assert_eq!(gate.send(&old).status, 402, "known again, and without credit");
}

#[test]
fn nothing_is_unresolved_and_what_is_not_there_cannot_be_settled() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    let list = done(&get(&gate, "/v1/reservations"));
    assert_eq!(list["reservations"], json!([]));
    assert_eq!(list["records_total"], 0);
    let none = json!({});
    for path in ["0123456789abcdef0123456789abcdef", "x"] {
        let answer = post(&gate, &format!("/v1/reservations/{path}/confirm"), &none);
        refused(&answer, 404, "reservation_unknown");
        refused(&post(&gate, &format!("/v1/records/{path}/release"), &none), 404, "record_unknown");
    }
    refused(&post(&gate, "/v1/records/1/forget", &none), 404, "route_unknown");
}

#[test]
fn methods_bodies_and_pages_of_others_are_bounded() {
    let backend = Backend::start();
    let gate = gate("", &backend);
    let method = get(&gate, "/v1/credit");
    refused(&method, 405, "method_unknown");
    assert_eq!(method.header("allow"), Some("POST"));
    let method = post(&gate, "/v1/usage", &json!({}));
    refused(&method, 405, "method_unknown");
    assert_eq!(method.header("allow"), Some("GET, HEAD"));
    let long = json!({ "limit": "x".repeat(70_000) });
    refused(&post(&gate, "/v1/credit", &long), 413, "body_too_large");
    let ask = |request: Request| send(admin(&gate), &request);
    let body = json!({ "limit": "wallet", "tenant": "acme", "add": "1" }).to_string();
    let evil = Request::post("/v1/credit", &body).host("localhost");
    refused(&ask(evil.header("Origin", "http://evil.example")), 403, "origin_denied");
    refused(&ask(Request::post("/v1/credit", &body).host("evil.example")), 403, "host_denied");
    refused(&ask(Request::get("/v1/usage?tenant=acme").host("evil.example")), 403, "host_denied");
    let twice = Request::post("/v1/credit", &body).host("localhost");
    let twice = twice.header("Idempotency-Key", "a").header("Idempotency-Key", "b");
    refused(&ask(twice), 400, "idempotency_malformed");
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "0");
}

#[test]
fn with_a_token_nobody_acts_without_it_and_every_act_is_told_in_the_log() {
    let backend = Backend::start();
    let token = "tgadmin-0123456789abcdef0123456789abcdef";
    let text = format!("{POLICY}admin: {{ listen: 127.0.0.1:0, token: {{ env: ADMIN_TOKEN }} }}\n");
    let policy = Policy::with_keys(&text, &KEYS).set("ADMIN_TOKEN", token);
    let gate = Gate::start(policy, &backend);
    let ask = |request: Request| send(gate.admin, &request.host("gate.internal"));
    let body = json!({ "limit": "wallet", "tenant": "acme", "add": "2.5", "note": "invoice 7" });
    let act = Request::post("/v1/credit", &body.to_string());
    let none = ask(act.clone());
    refused(&none, 401, "token_missing");
    assert!(none.header("www-authenticate").is_some_and(|told| told.starts_with("Bearer")));
    refused(&ask(act.clone().bearer("tgadmin-wrong")), 401, "token_unknown");
    refused(&ask(Request::get("/v1/nothing")), 401, "token_missing");
    for open in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(ask(Request::get(open)).status, 200, "{open}");
    }
    assert_eq!(done(&ask(act.bearer(token)))["balance_after"], "2.5");
    let told = || {
        gate.output()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|event| event["event"] == "admin_act")
    };
    assert!(eventually(Duration::from_secs(5), || told().is_some()));
    let event = told().expect("it was there");
    assert_eq!((&event["by"], &event["act"]), (&json!("token"), &json!("top_up")));
    assert_eq!((&event["before"], &event["after"]), (&json!("0"), &json!("2.5")));
    assert_eq!(
        (&event["to"], &event["note"]),
        (&json!("wallet of tenant acme"), &json!("invoice 7"))
    );
    assert!(!gate.output().contains(token), "the gate wrote a secret");
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart_and_so_is_its_answer() {
    let backend = Backend::start();
    let gate = gate("state: ./state\n", &backend);
    let credit = |gate: &Inside| {
        let body = json!({ "limit": "wallet", "tenant": "acme", "add": "7.25" }).to_string();
        let request = Request::post("/v1/credit", &body).host("localhost");
        send(admin(gate), &request.header("Idempotency-Key", "invoice-8"))
    };
    let first = credit(&gate);
    assert_eq!(done(&first)["durable"], true);
    let adjusted = json!({ "limit": "monthly", "tenant": "globex", "add": 12 });
    done(&post(&gate, "/v1/usage/adjust", &adjusted));
    done(&post(&gate, "/v1/keys/kb/revoke", &json!({ "why": "leaked" })));
    let gate = gate.restarted(&backend);
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "7.25");
    assert_eq!(row(&gate, "tenant=globex", "monthly")["used"], 12);
    assert_eq!(done(&get(&gate, "/v1/keys/kb"))["revoked"]["why"], "leaked");
    let again = credit(&gate);
    assert_eq!((again.header("idempotent-replayed"), &again.body), (Some("true"), &first.body));
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "7.25");
    let metrics = get(&gate, "/metrics").text();
    for series in [
        "tollgate_store_up{store=\"directory\"} 1",
        "tollgate_store_errors_total{store=\"directory\",reason=\"failed\"} 0",
        "tollgate_limit_fallback{limit=\"wallet\",behaviour=\"deny\"} 0",
        "tollgate_idempotency_records{state=\"unknown\"} 0",
        "tollgate_idempotency_total{route=\"_unlisted\",outcome=\"unknown\"} 0",
        "tollgate_unresolved_reservations 0",
        "tollgate_cost_exceeded_total{route=\"_unlisted\"} 0",
        "tollgate_cost_exceeded_total{route=\"send\"} 0",
    ] {
        assert!(metrics.lines().any(|line| line == series), "{series} is not in\n{metrics}");
    }
    for begins in
        ["tollgate_state_free_bytes ", "tollgate_store_lag_seconds{", "tollgate_store_syncs_total{"]
    {
        assert!(metrics.lines().any(|line| line.starts_with(begins)), "{begins}");
    }
}

#[test]
fn a_request_without_an_answer_stays_charged_until_a_person_has_found_out() {
    let backend = Backend::start();
    let more = "state: ./state\nidempotency: { keep: 1h }\n";
    let text = POLICY.replace("cost: 1.5 }", "cost: 1.5, idempotency: accept }");
    let policy = Policy::with_keys(&format!("{text}{more}"), &KEYS);
    let gate = Inside::start(policy, &backend);
    top_up(&gate, "10");
    let sent = |name: &str| {
        backend.answers(Reply::json("nonsense", ""));
        let request = Request::post("/send", "{}").bearer("secret-a");
        gate.send(&request.header("Idempotency-Key", name)).status
    };
    assert_eq!((sent("one"), sent("two")), (502, 502));
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "7");
    let list = || done(&get(&gate, "/v1/reservations"));
    assert!(eventually(Duration::from_secs(5), || list()["records_total"] == 2));
    let told = list();
    let first = &told["reservations"][0];
    assert_eq!((&first["tenant"], &first["key"]), (&json!("acme"), &json!("ka")));
    assert_eq!((&first["route"], &first["doubt"]), (&json!("send"), &json!("no_answer")));
    let charges = first["charges"].as_array().expect("a list");
    let amounts: Vec<_> = charges.iter().map(|one| (&one["limit"], &one["amount"])).collect();
    assert!(amounts.contains(&(&json!("wallet"), &json!("1.5"))), "{told}");
    let id = |at: usize, kind: &str| told[kind][at]["id"].as_str().expect("an id").to_owned();
    let settle = |kind: &str, id: &str, verb: &str| {
        done(&post(&gate, &format!("/v1/{kind}/{id}/{verb}"), &json!({ "note": "asked" })))
    };
    assert_eq!(settle("reservations", &id(0, "reservations"), "release")["state"], "released");
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "8.5", "its charge is back");
    assert_eq!(settle("reservations", &id(1, "reservations"), "confirm")["state"], "confirmed");
    assert_eq!(row(&gate, "tenant=acme", "wallet")["remaining"], "8.5", "its charge stands");
    let gone =
        post(&gate, &format!("/v1/reservations/{}/release", id(1, "reservations")), &json!({}));
    refused(&gone, 404, "reservation_unknown");
    // The record of a settled reservation is settled with it.
    assert_eq!((&list()["reservations_total"], &list()["records_total"]), (&json!(0), &json!(0)));
    backend.answers(Reply::json("200 OK", "{}"));
    let again = |name: &str| {
        let request = Request::post("/send", "{}").bearer("secret-a");
        gate.send(&request.header("Idempotency-Key", name))
    };
    assert_eq!(again("one").status, 200, "released: the next one with its key is a fresh one");
    refused(&again("two"), 409, "idempotency_not_replayable");
}
