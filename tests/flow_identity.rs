//! Who asks, from where, and what the backend is told about it: through the whole gate.

mod support;

use std::time::Duration;

use support::inside::Inside;
use support::{A_SECOND, Backend, Connection, Gate, Key, Policy, Request, Seen, eventually};

const KEYS: [Key<'static>; 2] =
    [Key::of("first", "acme", "secret-a"), Key::of("second", "globex", "secret-b")];

/// A header's name and value.
type Field<'a> = (&'a str, &'a str);

const ALL: &str = "routes:\n  - { name: all, match: ANY /** }\n";

/// A policy with these places of credentials.
fn policy(accept: &str, rest: &str, keys: &[Key<'_>]) -> Policy {
    let head = "version: 1\nupstream: http://127.0.0.1:9\nstate: memory\nidentity: { tenant: X-Tenant-Id, key: X-Key-Id }\n";
    let credentials = format!("credentials: {{ accept: [{accept}], keys: gate.keys.yaml }}\n");
    Policy::with_keys(&format!("{head}{credentials}{rest}"), keys)
}

fn gate(accept: &str, rest: &str, keys: &[Key<'_>], backend: &Backend) -> Inside {
    Inside::start(policy(accept, rest, keys), backend)
}

/// A gate behind a proxy on 127.0.0.1, so that requests come from any address.
const BEHIND: &str = "client_address: { from: x-forwarded-for, trusted: [127.0.0.1/32] }\n";

fn from(address: &str) -> Request {
    Request::get("/x").bearer("secret-a").header("X-Forwarded-For", address)
}

/// The names of a request's fields that are `name` in any spelling, with their values.
fn spelled<'a>(seen: &'a Seen, name: &str) -> Vec<(&'a str, &'a str)> {
    let named = |n: &str| n.to_ascii_lowercase().replace('_', "-") == name;
    seen.headers.iter().filter(|(n, _)| named(n)).map(|(n, v)| (&**n, &**v)).collect()
}

#[test]
fn a_key_is_found_in_each_accepted_place_and_never_forwarded() {
    // `first:secret-a` and `secret-a:` in base64.
    let cases: [(&str, &str, Option<Field<'_>>); 7] = [
        ("bearer", "/x?q=1", Some(("Authorization", "Bearer secret-a"))),
        ("bearer", "/x?q=1", Some(("authorization", "bearer   secret-a"))),
        ("authorization", "/x?q=1", Some(("Authorization", "secret-a"))),
        ("basic", "/x?q=1", Some(("Authorization", "Basic Zmlyc3Q6c2VjcmV0LWE="))),
        ("basic", "/x?q=1", Some(("Authorization", "Basic c2VjcmV0LWE6"))),
        ("{ header: X-API-Key }", "/x?q=1", Some(("x-api-KEY", "secret-a"))),
        ("{ query: api_key }", "/x?q=1&api_key=secret-a", None),
    ];
    for (accept, target, header) in cases {
        let backend = Backend::start();
        let gate = gate(accept, ALL, &KEYS, &backend);
        let request = Request::get(target);
        let request = match header {
            Some((name, value)) => request.header(name, value),
            None => request,
        };
        assert_eq!(gate.send(&request).status, 200, "{accept}: {header:?}");
        let seen = backend.last();
        assert!(!seen.head.contains("secret-a"), "{accept}: {}", seen.head);
        assert!(seen.all("authorization").is_empty(), "{accept}");
        assert_eq!(seen.target, "/x?q=1", "{accept}");
        assert_eq!((seen.only("x-tenant-id"), seen.only("x-key-id")), ("acme", "first"));
        let elsewhere = gate.send(&Request::get("/x").header("X-Other", "secret-a"));
        assert_eq!(elsewhere.status, 401, "{accept}");
    }
}

#[test]
fn two_places_may_agree_but_not_differ() {
    let backend = Backend::start();
    let gate = gate("bearer, { header: X-API-Key }, { query: key }", ALL, &KEYS, &backend);
    let same = Request::get("/x?key=secret-a").bearer("secret-a").header("X-API-Key", "secret-a");
    assert_eq!(gate.send(&same).status, 200);
    let seen = backend.count();
    let differing = [
        Request::get("/x").bearer("secret-a").header("X-API-Key", "secret-b"),
        Request::get("/x?key=secret-b").bearer("secret-a"),
        Request::get("/x?key=secret-b&key=secret-a"),
        Request::get("/x").header("X-API-Key", "secret-a").header("X-API-Key", "secret-b"),
    ];
    for request in differing {
        assert_eq!(gate.send(&request).status, 401, "{request:?}");
    }
    let twice = Request::get("/x").bearer("secret-a").bearer("secret-a");
    assert_eq!(gate.send(&twice).status, 400, "two Authorization lines are no request");
    assert_eq!(backend.count(), seen);
}

#[test]
fn a_key_in_the_query_is_removed_in_any_spelling() {
    let backend = Backend::start();
    let gate = gate("{ query: api_key }, bearer", ALL, &KEYS, &backend);
    for hidden in
        ["API_KEY=secret-a", "api%5Fkey=secret-a", "Api_Key=", "api_key", "%61pi_key=secret-a"]
    {
        let target = format!("/x?a=1&{hidden}&b=%20");
        let request = Request::get(&target).bearer("secret-a");
        assert_eq!(gate.send(&request).status, 200, "{target}");
        assert_eq!(backend.last().target, "/x?a=1&b=%20", "{target}");
    }
    // However the backend cuts its query.
    for hidden in ["api_key[]=other", "api_key%5Bx%5D=other", "c=2;api_key=other"] {
        let target = format!("/x?a=1&{hidden}&b=%20");
        assert_eq!(gate.send(&Request::get(&target).bearer("secret-a")).status, 200, "{target}");
        assert_eq!(backend.last().target, "/x?a=1&b=%20", "{target}");
    }
    let kept = "/x?a=1;b=2&api_keys=1&list[]=api_key";
    assert_eq!(gate.send(&Request::get(kept).bearer("secret-a")).status, 200);
    assert_eq!(backend.last().target, kept);
}

#[test]
fn nobody_can_say_who_they_are() {
    let backend = Backend::start();
    let rest = "routes:\n  - { name: all, match: ANY /** }\n  - { name: open, match: GET /open, public: true }\n";
    let gate = gate("bearer", rest, &KEYS, &backend);
    let forged: &[&[(&str, &str)]] = &[
        &[("X-Tenant-Id", "evil")],
        &[("x-tenant-id", "evil"), ("X-TENANT-ID", "more evil")],
        &[("X_Tenant_Id", "evil"), ("x_tenant-id", "evil"), ("X-TENANT_ID", "evil")],
        &[("Connection", "X-Tenant-Id")],
        &[("Connection", "keep-alive, x-tenant-id, X-Key-Id"), ("X-Tenant-Id", "evil")],
        &[("X-Key-Id", "evil"), ("x_key_id", "evil")],
    ];
    for fields in forged {
        let add = |request| {
            fields
                .iter()
                .fold(request, |request: Request, (name, value)| request.header(name, value))
        };
        assert_eq!(gate.send(&add(Request::get("/x").bearer("secret-a"))).status, 200);
        let seen = backend.last();
        for (name, value) in [("x-tenant-id", "acme"), ("x-key-id", "first")] {
            assert_eq!(spelled(&seen, name), [(name, value)], "{fields:?}: {}", seen.head);
        }
        assert_eq!(gate.send(&add(Request::get("/open"))).status, 200);
        let seen = backend.last();
        for name in ["x-tenant-id", "x-key-id"] {
            assert!(spelled(&seen, name).is_empty(), "public, {fields:?}: {}", seen.head);
        }
    }
    for end_to_end in ["Authorization", "Host", "X-Forwarded-For", "cookie"] {
        let request = Request::get("/x").bearer("secret-a").header("Connection", end_to_end);
        assert_eq!(gate.send(&request).status, 400, "{end_to_end}");
    }
}

#[test]
fn method_and_path_overrides_never_reach_the_backend() {
    let backend = Backend::start();
    let gate = gate("bearer", ALL, &KEYS, &backend);
    let names = [
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-HTTP-Method",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X_Original_URL",
        "X-Forwarded-Prefix",
        "X-Forwarded-Uri",
        "X_Forwarded_Host",
    ];
    for name in names {
        let request = Request::get("/x").bearer("secret-a").header(name, "/admin");
        assert_eq!(gate.send(&request).status, 200, "{name}");
        assert!(!backend.last().head.contains("/admin"), "{name}: {}", backend.last().head);
    }
}

#[test]
fn allowlists_of_policy_tenant_plan_key_and_route_intersect() {
    let rest = format!(
        "{BEHIND}allow: [10.0.0.0/8, 2001:db8::/32]
routes:
  - {{ name: all, match: ANY /x }}
  - {{ name: narrow, match: ANY /narrow, allow: [10.1.1.0/30, \"2001:db8:1:1::/64\"] }}
plans:
  default: {{}}
  planned: {{ allow: [10.1.0.0/16, \"2001:db8:1::/48\"] }}
tenants: {{ acme: {{ plan: planned, allow: [10.1.1.0/24, \"2001:db8:1::/48\"] }} }}
"
    );
    let keys = [
        KEYS[0],
        KEYS[1],
        Key::of("third", "acme", "secret-c").with("allow: [10.1.1.1/32, 10.9.9.9/32]"),
    ];
    let backend = Backend::start();
    let gate = gate("bearer", &rest, &keys, &backend);
    let status = |secret: &str, path: &str, address: &str| {
        let request = Request::get(path).bearer(secret).header("X-Forwarded-For", address);
        gate.send(&request).status
    };
    // (address, other tenant, the tenant's key, its narrower key, the tenant's key on the narrow route)
    let table = [
        ("10.1.1.1", 200, 200, 200, 200),
        ("10.1.1.2", 200, 200, 403, 200),
        ("10.1.1.9", 200, 200, 403, 403),
        ("10.1.2.1", 200, 403, 403, 403),
        ("10.9.9.9", 200, 403, 403, 403),
        ("11.0.0.1", 403, 403, 403, 403),
        ("::ffff:10.1.1.1", 200, 200, 200, 200),
        ("::ffff:11.0.0.1", 403, 403, 403, 403),
        ("2001:db8:1:1::7", 200, 200, 403, 200),
        ("2001:db8:1:2::7", 200, 200, 403, 403),
        ("2001:db8:2::7", 200, 403, 403, 403),
        ("2001:db9::7", 403, 403, 403, 403),
        // No addresses: the peer stays, which is on no list.
        ("010.1.1.1", 403, 403, 403, 403),
        ("10.1.1.1%eth0", 403, 403, 403, 403),
        ("0x0a010101", 403, 403, 403, 403),
    ];
    for (address, other, plain, narrower, narrow) in table {
        assert_eq!(status("secret-b", "/x", address), other, "{address}");
        assert_eq!(status("secret-a", "/x", address), plain, "{address}");
        assert_eq!(status("secret-c", "/x", address), narrower, "{address}");
        assert_eq!(status("secret-a", "/narrow", address), narrow, "{address}");
    }
}

#[test]
fn a_tenant_in_path_or_query_must_be_the_callers_own() {
    let backend = Backend::start();
    let rest = "\
routes:
  - { name: path, match: \"GET /accounts/{account}/**\", tenant: { path: account } }
  - { name: query, match: GET /search, tenant: { query: tenant } }
";
    let gate = gate("bearer", rest, &KEYS, &backend);
    let table = [
        ("/accounts/acme/x", 200),
        ("/accounts/acme", 200),
        ("/accounts/globex/x", 403),
        ("/accounts/ACME/x", 403),
        ("/accounts/acme%20/x", 403),
        ("/accounts/%61cme/x", 400),
        ("/search?tenant=acme", 200),
        ("/search?tenant=globex", 403),
        ("/search?tenant=acme&tenant=globex", 403),
        ("/search?tenant=globex&tenant=acme", 403),
        ("/search?TENANT=globex&tenant=acme", 403),
        ("/search?tenant=acme&t%65nant=globex", 403),
        ("/search?q=1;tenant=globex", 403),
        ("/search?tenant=acme;tenant=globex", 403),
        ("/search?tenant=globex;q=1&tenant=acme", 403),
        ("/search?tenant[]=globex", 403),
        ("/search?tenant%5B0%5D=globex&tenant=acme", 403),
        ("/search?+tenant=globex", 403),
        ("/search?q=1;r=2&tenants=globex", 200),
    ];
    for (target, status) in table {
        let before = backend.count();
        assert_eq!(gate.send(&Request::get(target).bearer("secret-a")).status, status, "{target}");
        assert_eq!(backend.count() - before, usize::from(status == 200), "{target}");
    }
}

#[test]
fn a_forwarded_address_is_believed_of_trusted_peers_only_and_from_the_right() {
    let trusted = "trusted: [127.0.0.1/32, 10.0.0.0/8]";
    let cases: [(&str, &str, &[Field<'_>]); 5] = [
        (
            "x-forwarded-for",
            "X-Forwarded-For",
            &[
                ("192.0.2.7", "192.0.2.7"),
                ("198.51.100.1, 192.0.2.7", "192.0.2.7"),
                ("192.0.2.7, 10.0.0.1", "192.0.2.7"),
                ("198.51.100.1, 192.0.2.7, 10.0.0.1, 10.2.3.4", "192.0.2.7"),
                ("192.0.2.7:4711", "192.0.2.7"),
                ("[2001:db8::1]:443", "2001:db8::1"),
                ("rubbish", "127.0.0.1"),
                ("192.0.2.7, rubbish, 10.0.0.1", "10.0.0.1"),
            ],
        ),
        (
            "forwarded",
            "Forwarded",
            &[
                ("for=192.0.2.7", "192.0.2.7"),
                (
                    "for=198.51.100.1, for=192.0.2.7;proto=https;by=10.0.0.9, for=10.0.0.1",
                    "192.0.2.7",
                ),
                ("For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
                ("for=unknown", "127.0.0.1"),
                ("for=192.0.2.7, for=_hidden", "127.0.0.1"),
            ],
        ),
        (
            "{ header: CF-Connecting-IP }",
            "CF-Connecting-IP",
            &[("192.0.2.7", "192.0.2.7"), ("192.0.2.7, 192.0.2.8", "127.0.0.1")],
        ),
        ("x-forwarded-for", "Forwarded", &[("for=192.0.2.7", "127.0.0.1")]),
        ("forwarded", "X-Forwarded-For", &[("192.0.2.7", "127.0.0.1")]),
    ];
    for (rule, name, said) in cases {
        let backend = Backend::start();
        let rest = format!("client_address: {{ from: {rule}, {trusted} }}\n{ALL}");
        let gate = gate("bearer", &rest, &KEYS, &backend);
        for (value, decided) in said {
            let request = Request::get("/x").bearer("secret-a").header(name, value);
            assert_eq!(gate.send(&request).status, 200);
            assert_eq!(backend.last().only("x-forwarded-for"), *decided, "{rule}: {name}: {value}");
            let stranger = Connection::from([127, 0, 0, 5], gate.traffic).send(&request);
            assert_eq!(stranger.status, 200);
            assert_eq!(backend.last().only("x-forwarded-for"), "127.0.0.5", "{rule}: {value}");
            assert_eq!(backend.last().only("forwarded"), "for=127.0.0.5;proto=http");
        }
    }
}

#[test]
fn a_proxy_header_is_believed_of_trusted_peers_only() {
    let backend = Backend::start();
    let rest = format!(
        "listen: {{ address: 127.0.0.1:0, proxy_protocol: true }}\n\
         client_address: {{ from: proxy-protocol, trusted: [127.0.0.1/32] }}\n{ALL}"
    );
    let gate = Gate::start(policy("bearer", &rest, &KEYS), &backend);
    let request = Request::get("/x")
        .bearer("secret-a")
        .header("X-Request-Id", "theirs-1")
        .header("X-Forwarded-Proto", "https")
        .bytes();
    let mut connection = gate.connect();
    connection.write(b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n");
    connection.write(&request);
    assert_eq!(connection.answer(support::wire::Asked::Other).status, 200);
    assert_eq!(backend.last().only("x-forwarded-for"), "192.0.2.7");
    // The proxy has passed the client's own fields on, and vouches for none of them.
    assert_eq!(backend.last().only("x-forwarded-proto"), "http");
    assert_ne!(backend.last().only("x-request-id"), "theirs-1");

    let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    version_2.extend("2001:db8::7".parse::<std::net::Ipv6Addr>().expect("an address").octets());
    version_2.extend(std::net::Ipv6Addr::LOCALHOST.octets());
    version_2.extend([0x12, 0x34, 0, 80]);
    let mut connection = gate.connect();
    connection.write(&[version_2, request.clone()].concat());
    assert_eq!(connection.answer(support::wire::Asked::Other).status, 200);
    assert_eq!(backend.last().only("x-forwarded-for"), "2001:db8::7");

    let reached = backend.count();
    let mut stranger = Connection::from([127, 0, 0, 5], gate.traffic);
    stranger.write(&[b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n", &request[..]].concat());
    let told = String::from_utf8_lossy(&stranger.rest()).into_owned();
    assert!(!told.contains(" 200 "), "{told}");
    let mut without = gate.connect();
    without.try_write(&request);
    let told = String::from_utf8_lossy(&without.rest()).into_owned();
    assert!(!told.contains(" 200 "), "a trusted peer must say whom it speaks for: {told}");
    assert_eq!(backend.count(), reached);
}

#[test]
fn host_is_kept_or_set_and_via_is_added() {
    let backend = Backend::start();
    let kept = gate("bearer", ALL, &KEYS, &backend);
    let request =
        Request::get("/x").bearer("secret-a").host("API.example:8443").header("Via", "1.0 edge");
    assert_eq!(kept.send(&request).status, 200);
    let seen = backend.last();
    assert_eq!(seen.only("host"), "API.example:8443");
    assert_eq!(seen.only("x-forwarded-host"), "API.example:8443");
    let via = seen.all("via").join(", ");
    assert!(via.starts_with("1.0 edge, 1.1 "), "{via}");
    drop(kept);

    let text = policy("bearer", ALL, &KEYS).text().replace(
        "upstream: http://127.0.0.1:9",
        &format!(
            "upstream: {{ url: \"{}\", host: inner.example, set_headers: {{ X-From: gate, X-Secret: {{ env: INNER }} }}, \
             remove_headers: [X-Debug], set_query: {{ user: gate, pass: {{ file: inner.txt }} }}, remove_query: [debug, user, pass] }}",
            backend.url()
        ),
    );
    let policy = Policy::with_keys(&text, &KEYS).set("INNER", "inner secret");
    std::fs::write(policy.directory().join("inner.txt"), "p&ss\n").expect("the directory is ours");
    let set = Gate::run(policy, &["--listen", "127.0.0.1:0"]);
    let request = Request::get("/x?a=1&DEBUG=2&u%73er=evil&user=evil&b")
        .bearer("secret-a")
        .header("X-From", "evil")
        .header("X-Secret", "evil")
        .header("x-debug", "1");
    assert_eq!(set.send(&request).status, 200);
    let seen = backend.last();
    assert_eq!(seen.only("host"), "inner.example");
    assert_eq!((seen.only("x-from"), seen.only("x-secret")), ("gate", "inner secret"));
    assert!(seen.all("x-debug").is_empty());
    assert_eq!(seen.target, "/x?a=1&b&user=gate&pass=p%26ss");
}

#[test]
fn a_request_id_is_kept_from_a_trusted_hop_and_made_otherwise() {
    let backend = Backend::start();
    let gate = gate("bearer", &format!("{BEHIND}{ALL}"), &KEYS, &backend);
    let request = from("192.0.2.7").header("X-Request-Id", "theirs-1");
    let answer = gate.send(&request);
    assert_eq!(answer.header("x-request-id"), Some("theirs-1"));
    assert_eq!(backend.last().only("x-request-id"), "theirs-1");
    let stranger = Connection::from([127, 0, 0, 5], gate.traffic).send(&request);
    let made = stranger.header("x-request-id").expect("there is always one").to_owned();
    assert_ne!(made, "theirs-1");
    assert_eq!(backend.last().only("x-request-id"), made);
    let refused = gate.send(&Request::get("/x"));
    assert_eq!(refused.status, 401);
    assert!(refused.header("x-request-id").is_some_and(|id| !id.is_empty() && id != made));
}

#[test]
fn strangers_learn_no_routes() {
    let backend = Backend::start();
    let rest = "routes:\n  - { name: x, match: [GET /x, POST /x] }\n  - { name: open, match: GET /open, public: true }\n";
    let gate = gate("bearer", rest, &KEYS, &backend);
    let told = |request: &Request| gate.send(request).without_date_and_id();
    let known = told(&Request::get("/x"));
    for request in
        [Request::get("/nowhere"), Request::new("DELETE", "/x"), Request::new("PUT", "/y")]
    {
        let answer = told(&request);
        // The bodies differ in the request's id alone; the Content-Length is among the headers.
        assert_eq!((answer.status, &answer.headers), (401, &known.headers), "{request:?}");
        assert_eq!(answer.json()["code"], known.json()["code"]);
        let wrong = told(&request.clone().bearer("wrong"));
        assert_eq!(wrong.status, 401, "{request:?}");
    }
    assert_eq!(gate.send(&Request::get("/nowhere").bearer("secret-a")).status, 404);
    let method = gate.send(&Request::new("DELETE", "/x").bearer("secret-a"));
    assert_eq!(method.status, 405);
    assert_eq!(method.header("allow"), Some("GET, POST, HEAD"));
    assert_eq!(backend.count(), 0);
    assert_eq!(gate.send(&Request::new("HEAD", "/x").bearer("secret-a")).status, 200);
    assert_eq!(backend.last().method, "HEAD");
}

#[test]
fn a_public_route_asks_nobody_and_leaves_authorization_alone() {
    let backend = Backend::start();
    let rest = "\
routes:
  - { name: hook, match: POST /hook, public: true }
  - { name: closed, match: POST /closed, public: true, allow: [192.0.2.0/24] }
  - { name: ready, match: GET /-/ready, public: true, answer: ready }
";
    let gate = gate("bearer", rest, &KEYS, &backend);
    assert_eq!(gate.send(&Request::post("/hook", "{}")).status, 200);
    let own = Request::post("/hook", "{}").header("Authorization", "Bearer theirs");
    assert_eq!(gate.send(&own).status, 200);
    assert_eq!(backend.last().only("authorization"), "Bearer theirs");
    assert_eq!(gate.send(&Request::post("/closed", "{}")).status, 403);
    let reached = backend.count();
    let ready = gate.send(&Request::get("/-/ready"));
    assert_eq!((ready.status, &*ready.text()), (200, "{\"ready\":true}"));
    assert_eq!(backend.count(), reached, "the gate answers for itself");
}

#[test]
fn a_key_lives_from_not_before_to_expires_without_a_reload() {
    let backend = Backend::start();
    let now = jiff::Timestamp::from_second(support::unix_now()).expect("it is now");
    let at = |seconds: i64| now + jiff::SignedDuration::from_secs(seconds);
    let more = format!("not_before: {}, expires: {}", at(3600), at(7200));
    let rest = format!("{ALL}errors: {{ on: {{ key_not_yet: {{ code: early }} }} }}\n");
    let gate = gate("bearer", &rest, &[KEYS[0].with(&more), KEYS[1]], &backend);
    let told = || {
        let answer = gate.send(&Request::get("/x").bearer("secret-a"));
        let code = (answer.status != 200).then(|| answer.json()["code"].clone());
        (answer.status, code.and_then(|code| code.as_str().map(str::to_owned)).unwrap_or_default())
    };
    assert_eq!(told(), (401, "early".to_owned()));
    gate.pass(Duration::from_secs(3700));
    assert_eq!(told(), (200, String::new()));
    gate.pass(Duration::from_hours(1));
    assert_eq!(told(), (401, "key_expired".to_owned()));
    assert_eq!(gate.send(&Request::get("/x").bearer("secret-b")).status, 200);
}

#[test]
fn a_rotated_key_works_with_both_secrets_until_the_overlap_is_over() {
    let backend = Backend::start();
    let gate = gate("bearer", ALL, &KEYS, &backend);
    let status = |secret: &str| gate.send(&Request::get("/x").bearer(secret)).status;
    let rotated = gate.policy.keys("rotate", &["first", "--overlap", "1h"]);
    let new = String::from_utf8(rotated.stdout).expect("secrets are ASCII").trim_end().to_owned();
    assert!(eventually(A_SECOND, || status(&new) == 200));
    assert_eq!(backend.last().only("x-key-id"), "first", "it is the same key");
    assert_eq!(status("secret-a"), 200);
    gate.pass(Duration::from_secs(3700));
    assert_eq!((status("secret-a"), status(&new)), (401, 200));
    let again = gate.policy.keys("rotate", &["first"]);
    let newest = String::from_utf8(again.stdout).expect("secrets are ASCII").trim_end().to_owned();
    assert!(eventually(A_SECOND, || status(&newest) == 200));
    assert_eq!(status(&new), 401, "without an overlap the old secret dies at once");
}

#[test]
fn what_is_wrong_with_a_key_is_told_apart_only_where_the_policy_says_so() {
    let backend = Backend::start();
    let rest = format!(
        "{ALL}errors:\n  body: {{ error: \"{{code}}\" }}\n  on:\n{}",
        ["key_unknown", "key_expired", "key_revoked", "tenant_inactive"]
            .map(|name| format!("    {name}: {{ status: 401, code: invalid, message: No. }}\n"))
            .concat()
    );
    let rest = format!("{rest}tenants: {{ gone: {{ active: false }} }}\n");
    let keys = [
        Key::of("k1", "acme", "secret-1").with("expires: 2020-01-01T00:00:00Z"),
        Key::of("k2", "acme", "secret-2").with("revoked: { at: 2020-01-01T00:00:00Z, why: lost }"),
        Key::of("k3", "gone", "secret-3"),
    ];
    let gate = gate("bearer", &rest, &keys, &backend);
    let told = |secret: &str| gate.send(&Request::get("/x").bearer(secret)).without_date_and_id();
    let unknown = told("secret-0");
    assert_eq!((unknown.status, &*unknown.text()), (401, "{\"error\":\"invalid\"}"));
    for secret in ["secret-1", "secret-2", "secret-3", "secret 4", "s\u{e9}cret", &"x".repeat(3000)]
    {
        let answer = told(secret);
        assert_eq!(answer.headers, unknown.headers, "{secret}");
        assert_eq!((answer.status, answer.body), (401, unknown.body.clone()), "{secret}");
    }
}
