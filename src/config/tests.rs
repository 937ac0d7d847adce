//! What loading does as a whole, over files in memory.

mod keys;
mod money;

use std::collections::HashMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::policy::answer::{Facts, Places, Text};
use crate::policy::keys::Key;
use crate::policy::limit::Ceiling;
use crate::policy::refusal::Refusal;
use crate::policy::snapshot::StateAt;

/// 2026-11-20T00:00:00Z
const NOW: Wall = Wall(1_795_132_800_000);
const MINUTE: u64 = 60_000_000_000;
const DAY: u64 = 86_400_000_000_000;

const POLICY: &str = "
version: 1
upstream: http://127.0.0.1:9000
credentials: { keys: [keys.yaml, more.jsonl] }
routes:
  - { name: api, match: GET /api/**, scope: read }
  - { name: send, match: POST /send, scope: send }
limits:
  throttle: { rate: 60/minute, burst: 30, per: key }
  shared: { rate: 600/minute, window: sliding, per: tenant }
  by-plan: { rate: 1000/minute, per: plan }
  open: { concurrent: 10, per: key }
  extra: { rate: none, per: key }
plans:
  pro: { limits: { throttle: 1200/minute, shared: 6000, by-plan: 5000 } }
  tiny: { limits: { throttle: 5/day, shared: 1, by-plan: 10 }, scopes: [read] }
tenants:
  acme: { plan: pro, limits: { throttle: 90, open: none } }
  globex: { plan: pro, scopes: [read, send] }
";

fn key(id: &str, tenant: &str, rest: &str) -> String {
    let digest = format!("{:0>64}", hex_of(id));
    format!("- {{ id: {id}, tenant: {tenant}, digest: {{ sha256: {digest} }}{rest} }}\n")
}

fn line(id: &str, tenant: &str, digest: u32, rest: &str) -> String {
    format!(
        "{{\"id\":\"{id}\",\"tenant\":\"{tenant}\",\"digest\":{{\"sha256\":\"{digest:064x}\"}}{rest}}}\n"
    )
}

fn hex_of(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn load_files(
    files: &[(&str, &[u8])],
    overrides: &Overrides,
    previous: Option<&Snapshot>,
) -> Result<Loaded, Problems> {
    let files: HashMap<PathBuf, Vec<u8>> =
        files.iter().map(|(path, bytes)| (PathBuf::from(path), bytes.to_vec())).collect();
    let read = |file: &Path| {
        files.get(file).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let list = |_: &Path| Ok(files.keys().cloned().collect());
    let env = |name: &str| (name == "TOKEN").then(|| "s3cret value".to_owned());
    let sources = Sources { read: &read, open: None, list: &list, env: &env, breathe: &|| () };
    load(Path::new("policy.yaml"), overrides, &sources, NOW, previous)
}

fn loaded(policy: &str, yaml: &str, jsonl: &str) -> Loaded {
    let files = [
        ("policy.yaml", policy.as_bytes()),
        ("keys.yaml", yaml.as_bytes()),
        ("more.jsonl", jsonl.as_bytes()),
    ];
    load_files(&files, &Overrides::default(), None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn refused(policy: &str) -> String {
    load_files(&[("policy.yaml", policy.as_bytes())], &Overrides::default(), None)
        .unwrap_err()
        .to_string()
}

fn found<'a>(snapshot: &'a Snapshot, id: &str) -> Key<'a> {
    snapshot.keys.iter().find(|key| key.id == id).unwrap()
}

fn ceiling(snapshot: &Snapshot, id: &str, limit: &str) -> Option<Ceiling> {
    let place = snapshot.limits.iter().position(|known| &*known.name == limit).unwrap();
    snapshot.terms(found(snapshot, id).entitlement.terms).ceilings[place]
}

fn rate(snapshot: &Snapshot, id: &str, limit: &str) -> Option<(u64, u64, u64)> {
    ceiling(snapshot, id, limit).map(|ceiling| (ceiling.units, ceiling.period, ceiling.burst))
}

fn body(policy: &str, refusal: Refusal) -> String {
    let snapshot = loaded(policy, "[]", "").snapshot;
    let facts = Facts {
        retry_after: Some(7),
        limit: Some("thro\"ttle"),
        request_id: b"r-1",
        ..Facts::default()
    };
    let bytes =
        snapshot.answers.to(refusal).body.render(&facts, &mut Vec::new(), &mut Places::new());
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn templates_keep_the_order_and_the_types_of_json() {
    let policy = format!(
        "{POLICY}
errors:
  body:
    success: false
    error: {{ code: \"{{code}}\", message: \"{{message}}\", status: \"{{status}}\", text: \"is {{status}}\" }}
    wait: \"{{retry_after}}\"
    limit: \"{{limit}}\"
    list: [1, 2.50, ~, yes, \"{{{{braces}}}}\", \"{{request_id}}\"]
    {{}}: {{}}
  on:
    rate: {{ code: slow_down, message: \"Wait {{retry_after}} s for \\\"{{limit}}\\\".\" }}
"
    )
    .replace("    {}: {}\n", "    empty: {}\n");
    assert_eq!(
        body(&policy, Refusal::Rate),
        "{\"success\":false,\"error\":{\"code\":\"slow_down\",\"message\":\"Wait 7 s for \\\"thro\\\"ttle\\\".\",\
         \"status\":429,\"text\":\"is 429\"},\"wait\":7,\"limit\":\"thro\\\"ttle\",\
         \"list\":[1,2.50,null,\"yes\",\"{braces}\",\"r-1\"],\"empty\":{}}"
    );
}

#[test]
fn a_refusal_that_follows_another_is_the_same_to_the_byte() {
    let policy = format!("{POLICY}\nerrors: {{ on: {{ key_unknown: {{ code: bad_token }} }} }}\n");
    let snapshot = loaded(&policy, "[]", "").snapshot;
    let unknown = snapshot.answers.to(Refusal::KeyUnknown);
    let malformed = snapshot.answers.to(Refusal::KeyMalformed);
    assert_eq!((&unknown.code, &unknown.body), (&malformed.code, &malformed.body));
    assert_ne!(&*snapshot.answers.to(Refusal::KeyExpired).code, "bad_token");
}

#[test]
fn without_words_of_its_own_a_refusal_is_a_problem_document() {
    let snapshot = loaded(POLICY, "[]", "").snapshot;
    let answer = snapshot.answers.to(Refusal::ScopeDenied);
    assert_eq!(answer.content_type, "application/problem+json");
    let text = body(POLICY, Refusal::ScopeDenied);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["status"], 403);
    assert_eq!(json["title"], "Forbidden");
    assert_eq!(json["code"], "scope_denied");
    assert_eq!(json["request_id"], "r-1");
}

#[test]
fn a_plain_text_body_is_plain_text() {
    let policy =
        format!("{POLICY}\nerrors: {{ content_type: text/plain, body: \"no: {{message}}\" }}\n");
    assert_eq!(body(&policy, Refusal::Draining), "no: The gate is shutting down. Try again.");
    let snapshot = loaded(&policy, "[]", "").snapshot;
    assert!(matches!(snapshot.answers.to(Refusal::Draining).body, Text::Fixed(_)));
}

#[test]
fn flags_win_over_the_file() {
    let overrides = Overrides {
        listen: Some("127.0.0.1:1234".parse().unwrap()),
        upstream: Some("https://[::1]:8443/base/".to_owned()),
        admin: Some("none".to_owned()),
        state: Some("memory".to_owned()),
        secrets: Secrets::Required,
    };
    let files = [("policy.yaml", "version: 1\n".as_bytes())];
    let snapshot = load_files(&files, &overrides, None).unwrap().snapshot;
    assert_eq!(snapshot.server.listeners[0].address.port(), 1234);
    assert_eq!((&*snapshot.upstream.host, snapshot.upstream.port), ("::1", 8443));
    assert_eq!(&*snapshot.upstream.base_path, "/base");
    assert_eq!(snapshot.server.admin, None);
    assert_eq!(snapshot.server.state, StateAt::Memory);
    let wrong = Overrides { upstream: Some("9000".to_owned()), ..Overrides::default() };
    let problems = load_files(&files, &wrong, None).unwrap_err().to_string();
    assert!(problems.contains("--upstream 9000"), "{problems}");
}

#[test]
fn names_keep_their_slots_and_an_equal_upstream_its_pools() {
    let first = loaded(POLICY, "[]", "").snapshot;
    let changed = POLICY
        .replace("  - { name: api, match: GET /api/**, scope: read }\n", "")
        .replace("limits:\n", "  - { name: new, match: GET /new, scope: read }\nlimits:\n  first: { rate: 1/second }\n");
    let files = [("policy.yaml", changed.as_bytes()), ("keys.yaml", b"[]"), ("more.jsonl", b"")];
    let second = load_files(&files, &Overrides::default(), Some(&first)).unwrap().snapshot;
    let names =
        |slots: &[crate::policy::Name]| slots.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&second.route_slots), ["api", "send", "new"]);
    assert_eq!((second.routes[0].slot, second.routes[1].slot), (1, 2));
    assert_eq!(second.limits[0].slot, 5);
    assert!(std::sync::Arc::ptr_eq(&first.upstream, &second.upstream));
    assert_ne!(first.digest, second.digest);
    assert_eq!(first.keys_digest, second.keys_digest);
}

#[test]
fn secrets_come_from_the_environment_or_a_file_and_are_never_printed() {
    let policy = "
version: 1
upstream:
  url: http://127.0.0.1:9000
  set_headers: { X-Token: { env: TOKEN }, X-File: { file: token.txt }, X-Plain: yes }
  set_query: { user name: a&b, token: { env: TOKEN } }
  remove_query: [other]
"
    .replace("user name", "user_name");
    let files = [("policy.yaml", policy.as_bytes()), ("token.txt", b"from file\n")];
    let loaded = load_files(&files, &Overrides::default(), None).unwrap();
    let upstream = &loaded.snapshot.upstream;
    let values: Vec<&str> =
        upstream.set_headers.iter().map(|(_, value)| value.to_str().unwrap()).collect();
    assert_eq!(values, ["s3cret value", "from file", "yes"]);
    assert_eq!(&*upstream.set_query[0], "user_name=a%26b");
    assert_eq!(&*upstream.set_query[1], "token=s3cret%20value");
    assert_eq!(
        upstream.remove_query.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["other", "token", "user_name"]
    );
    assert!(!format!("{:?}", upstream.set_headers).contains("s3cret"));
    assert!(loaded.files.contains(&PathBuf::from("token.txt")));
    assert!(loaded.snapshot.identity.forbidden.forbids("x_token"));
}

#[test]
fn away_from_its_host_a_policy_is_checked_without_its_secrets() {
    let policy = "version: 1\nupstream: { url: \"http://a\", set_headers: { X: { env: GONE } } }\n";
    let files = [("policy.yaml", policy.as_bytes())];
    load_files(&files, &Overrides::default(), None).unwrap_err();
    let offline = Overrides { secrets: Secrets::Optional, ..Overrides::default() };
    let loaded = load_files(&files, &offline, None).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn no_word_is_read_as_a_boolean_number_or_date() {
    let policy = format!(
        "{POLICY}
report: {{ x-ratelimit: none }}
errors:
  on:
    rate: {{ message: no, code: 1e3 }}
    quota: {{ message: off, code: 0x10 }}
"
    );
    let snapshot = loaded(&policy, "[]", "").snapshot;
    assert_eq!(&*snapshot.answers.to(Refusal::Rate).code, "1e3");
    assert_eq!(&*snapshot.answers.to(Refusal::Quota).code, "0x10");
    assert!(body(&policy, Refusal::Rate).contains("\"detail\":\"no\""));
}

#[test]
fn show_names_the_line_that_each_value_comes_from() {
    let keys = [
        key("own", "acme", ", limits: { throttle: 7 }, allow: [10.0.0.0/8, 192.0.2.1]"),
        key("of-plan", "globex", ""),
    ];
    let loaded = loaded(POLICY, &keys.concat(), "");
    let own = show(&loaded, &Show::Key("own".to_owned())).unwrap();
    assert!(own.contains("throttle: 7/minute, burst 4, per key  # keys.yaml:1"), "{own}");
    assert!(own.contains("open: none, per key  # policy.yaml:18"), "{own}");
    assert!(own.contains("shared: 6000/minute, sliding, per tenant  # policy.yaml:15"), "{own}");
    assert!(own.contains("allow of the key: [10.0.0.0/8, 192.0.2.1/32]  # keys.yaml:1"), "{own}");
    let plan = show(&loaded, &Show::Key("of-plan".to_owned())).unwrap();
    assert!(plan.contains("throttle: 1200/minute, burst 600, per key  # policy.yaml:15"), "{plan}");
    assert!(plan.contains("open: 10 open at once, per key  # policy.yaml:12"), "{plan}");
    let tenant = show(&loaded, &Show::Tenant("acme".to_owned())).unwrap();
    assert!(
        tenant.contains("throttle: 90/minute, burst 45, per key  # policy.yaml:18"),
        "{tenant}"
    );
    let route = show(&loaded, &Show::Route("api".to_owned())).unwrap();
    assert!(route.contains("match: [GET /api/**]"), "{route}");
    let all = show(&loaded, &Show::All).unwrap();
    assert!(all.contains("keys: 2"), "{all}");
    let wrong = show(&loaded, &Show::Route("apy".to_owned())).unwrap_err();
    assert_eq!(wrong, "there is no route `apy`; did you mean `api`?");
}

#[test]
fn a_yaml_key_file_that_is_too_long_names_the_other_kind() {
    let keys = "- x\n".repeat(20_001);
    let files = [
        ("policy.yaml", POLICY.as_bytes()),
        ("keys.yaml", keys.as_bytes()),
        ("more.jsonl", b"".as_slice()),
    ];
    let problems = load_files(&files, &Overrides::default(), None).unwrap_err();
    assert!(problems.to_string().contains(".jsonl"), "{problems}");
    assert_eq!(problems.iter().filter(|problem| problem.severity == Severity::Error).count(), 1);
}

#[test]
fn everything_that_was_read_is_to_be_watched() {
    let loaded = loaded(POLICY, "[]", "");
    let files: Vec<_> = loaded.files.iter().map(|file| file.to_str().unwrap()).collect();
    assert_eq!(files, ["keys.yaml", "more.jsonl", "policy.yaml"]);
}

#[test]
fn a_file_with_very_many_mistakes_tells_the_first_and_counts_the_rest() {
    let mut policy = "version: 1\nupstream: http://127.0.0.1:9000\nroutes:\n".to_owned();
    for n in 0..400 {
        writeln!(policy, "  - {{ name: r{n}, match: nothing{n} }}").unwrap();
    }
    let problems = refused(&policy);
    assert!(problems.contains("200 more problems are not shown"), "{problems}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_loader_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..12),
        which in 0..3usize,
    ) {
        let mut files = [
            include_str!("../../tests/examples/design.yaml").as_bytes().to_vec(),
            key("one", "acme", ", limits: { throttle: 7 }, expires: 2027-01-01").into_bytes(),
            line("two", "acme", 9, ",\"limits\":{\"throttle\":\"5/minute\"}").into_bytes(),
        ];
        let bytes = &mut files[which];
        for (index, byte, edit) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let files = [
            ("policy.yaml", files[0].as_slice()),
            ("sms-platform.keys.yaml", files[1].as_slice()),
            ("keys.yaml", files[1].as_slice()),
            ("more.jsonl", files[2].as_slice()),
        ];
        let told = match load_files(&files, &Overrides::default(), None) {
            Ok(loaded) => loaded.warnings.to_string(),
            Err(problems) => problems.to_string(),
        };
        let escape = char::from(27);
        prop_assert!(!told.contains(escape));
        let policy = POLICY.as_bytes();
        let files = [("policy.yaml", policy), files[2], files[3]];
        let _ = load_files(&files, &Overrides::default(), None);
    }
}
