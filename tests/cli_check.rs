//! `tollgate check` and its neighbours: the real program, its output and its exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its files cannot go on")]

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const GOOD: &str = "\
version: 1
listen: 127.0.0.1:0
upstream: http://127.0.0.1:9
routes:
  - { name: ping, match: GET /ping, public: true }
";

fn with(policy: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("policy.yaml"), policy).unwrap();
    directory
}

fn tollgate(directory: &TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_good_policy_passes_and_says_what_it_holds() {
    let output = tollgate(&with(GOOD), &["check", "policy.yaml"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("1 route, no limits"), "{}", text(&output));
    assert!(text(&output).contains("policy.yaml: usable"), "{}", text(&output));
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let bad = GOOD.replace("match:", "mtach:").replace("http://127.0.0.1:9", "ftp://x");
    let directory = with(&bad);
    let output = tollgate(&directory, &["check", "policy.yaml"]);
    assert_eq!(code(&output), 1);
    let said = text(&output);
    assert!(said.contains("policy.yaml:3:") && said.contains("policy.yaml:5:"), "{said}");
    assert!(said.contains("did you mean `match`?"), "{said}");
    let output = tollgate(&directory, &["check", "--format", "json", "policy.yaml"]);
    assert_eq!(code(&output), 1);
    let told: Value = serde_json::from_str(&text(&output)).unwrap();
    let policy = &told["policies"][0];
    assert_eq!(policy["usable"], false);
    assert_eq!(policy["errors"], policy["problems"].as_array().unwrap().len());
    let output = tollgate(&directory, &["check", "--format", "github", "policy.yaml"]);
    assert!(text(&output).contains("::error file=policy.yaml,line=5,col="), "{}", text(&output));
}

#[test]
fn one_bad_file_among_several_fails_the_check() {
    let directory = with(GOOD);
    fs::write(directory.path().join("bad.yaml"), "version: 2\n").unwrap();
    let output = tollgate(&directory, &["check", "policy.yaml", "bad.yaml", "absent.yaml"]);
    assert_eq!(code(&output), 1);
    let said = text(&output);
    assert!(
        said.contains("policy.yaml: usable") && said.contains("bad.yaml: not usable"),
        "{said}"
    );
    assert!(said.contains("absent.yaml: not usable"), "{said}");
}

#[test]
fn warnings_fail_only_where_they_are_denied() {
    let directory = with(&GOOD.replace("listen:", "allow: [0.0.0.0/0]\nlisten:"));
    let output = tollgate(&directory, &["check", "policy.yaml"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("1 warning"), "{}", text(&output));
    assert_eq!(code(&tollgate(&directory, &["check", "--deny-warnings", "policy.yaml"])), 1);
}

#[test]
fn offline_secrets_that_are_not_here_are_warnings() {
    let upstream = "upstream:\n  url: https://127.0.0.1:9\n  ca: absent.pem\n  \
                    set_headers: { X-Secret: { env: TOLLGATE_TEST_UNSET } }";
    let directory = with(&GOOD.replace("upstream: http://127.0.0.1:9", upstream));
    assert_eq!(code(&tollgate(&directory, &["check", "policy.yaml"])), 1);
    let output = tollgate(&directory, &["check", "--offline", "policy.yaml"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("absent.pem") && said.contains("TOLLGATE_TEST_UNSET"), "{said}");
    let worse = with(&GOOD.replace("http:", "ftp:").replace("listen:", "lsiten:"));
    assert_eq!(code(&tollgate(&worse, &["check", "--offline", "policy.yaml"])), 1);
}

#[test]
fn a_policy_may_come_through_standard_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(GOOD.as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn usage_version_and_schema_are_told() {
    let directory = with(GOOD);
    assert_eq!(code(&tollgate(&directory, &[])), 2);
    assert_eq!(code(&tollgate(&directory, &["chekc"])), 2);
    assert_eq!(code(&tollgate(&directory, &["help", "keys", "new"])), 0);
    assert!(text(&tollgate(&directory, &["--version"])).starts_with("tollgate "));
    let output = tollgate(&directory, &["version", "--json"]);
    let told: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    let output = tollgate(&directory, &["schema"]);
    let schema: Value = serde_json::from_str(&text(&output)).unwrap();
    assert!(schema["properties"]["routes"].is_object());
}

#[test]
fn show_tells_what_is_in_force() {
    let directory = with(GOOD);
    let output = tollgate(&directory, &["show", "policy.yaml", "--route", "ping"]);
    assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text(&output).contains("ping"), "{}", text(&output));
    assert_eq!(code(&tollgate(&directory, &["show", "policy.yaml", "--route", "pong"])), 1);
}

#[test]
fn show_tells_what_bounds_a_tenants_keys_and_what_is_only_shadow() {
    let directory = with(
        "\
version: 1
upstream: http://127.0.0.1:9
state: memory
credentials: { accept: [bearer], keys: keys.yaml, new_keys: { scopes: all } }
routes:
  - { name: send, match: POST /send, scope: send, max_body: 64KiB }
  - { name: read, match: GET /**, scope: read }
limits:
  trial: { rate: 10/minute, per: key, mode: shadow }
plans:
  basic: { scopes: [send, read] }
tenants:
  acme: { plan: basic, scopes: [read] }
",
    );
    fs::write(directory.path().join("keys.yaml"), "[]\n").unwrap();
    let told = |arguments: &[&str]| {
        let output = tollgate(&directory, &[&["show", "policy.yaml"], arguments].concat());
        assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
        text(&output)
    };
    let tenant = told(&["--tenant", "acme"]);
    assert!(tenant.contains("scopes of the plan, at most: [send, read]"), "{tenant}");
    assert!(tenant.contains("scopes of the tenant, at most: [read]  # policy.yaml:13"), "{tenant}");
    assert!(tenant.contains("trial: 10/minute, per key (shadow)"), "{tenant}");
    let route = told(&["--route", "send"]);
    assert!(route.contains("max_body: 64KiB"), "{route}");
    assert!(route.contains("limit trial: 10/minute (shadow)"), "{route}");
    let all = told(&[]);
    assert!(all.contains("acme: plan basic, scopes [read]"), "{all}");
    assert!(all.contains("scopes: [send, read]"), "{all}");
}

#[test]
fn a_flag_that_cannot_be_is_wrong_usage() {
    let directory = with(GOOD);
    for (flag, value, told) in [
        ("--listen", "8080", "expected an address with a port"),
        ("--listen", "localhost:8080", "expected an address with a port"),
        ("--admin", "9901", "or `none`"),
        ("--upstream", "127.0.0.1:9000", "write http://host:port"),
        ("--upstream", "ftp://127.0.0.1", "http or https"),
    ] {
        let output = tollgate(&directory, &["run", "--config", "policy.yaml", flag, value]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code(&output), 2, "{flag} {value}: {error}");
        assert!(error.contains(told), "{flag} {value}: {error}");
    }
}

#[test]
fn a_certificate_with_anothers_key_fails_the_check_as_it_fails_the_start() {
    let listen = "listen: [{ address: 127.0.0.1:0, tls: { certificate: c.pem, key: k.pem } }]";
    let directory = with(&GOOD.replace("listen: 127.0.0.1:0", listen));
    let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (ours, others) = (pair(), pair());
    fs::write(directory.path().join("c.pem"), ours.cert.pem()).unwrap();
    fs::write(directory.path().join("k.pem"), others.signing_key.serialize_pem()).unwrap();
    let output = tollgate(&directory, &["check", "policy.yaml"]);
    assert_eq!(code(&output), 1, "{}", text(&output));
    assert!(text(&output).contains("error: "), "{}", text(&output));
    fs::write(directory.path().join("k.pem"), ours.signing_key.serialize_pem()).unwrap();
    let output = tollgate(&directory, &["check", "policy.yaml"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
}
