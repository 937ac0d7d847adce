//! The commands that talk to a running gate.

mod support;

use std::process::Output;

use serde_json::Value;

use support::{Backend, Gate, Key, Policy, Request};

const POLICY: &str = "\
version: 1
upstream: http://127.0.0.1:9
credentials: { accept: [bearer], keys: gate.keys.yaml }
routes:
  - { name: send, match: POST /send, cost: 1.5 }
  - { name: read, match: GET /read }
limits:
  monthly: { quota: 1000/month, per: key, time_zone: UTC }
  wallet: { credit: prepaid, unit: credits, per: tenant, routes: [send] }
";

fn gate(backend: &Backend, keys: usize) -> Gate {
    let names: Vec<(String, String)> =
        (0..keys).map(|n| (format!("k{n:03}"), format!("secret-{n}"))).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|(id, secret)| Key::of(id, "acme", secret)).collect();
    Gate::start(Policy::with_keys(POLICY, &keys), backend)
}

fn run(gate: &Gate, arguments: &[&str]) -> Output {
    let admin = format!("http://{}", gate.admin);
    gate.policy.run(&[arguments, &["--admin", &admin]].concat())
}

#[track_caller]
fn printed(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {told}", output.status);
    String::from_utf8(output.stdout.clone()).expect("it prints UTF-8")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn credit_is_added_once_under_a_name_and_seen_in_the_usage() {
    let backend = Backend::start();
    let gate = gate(&backend, 1);
    let add = ["credit", "add", "--limit", "wallet", "--tenant", "acme", "10.50", "--once", "i-7"];
    let first = printed(&run(&gate, &add));
    assert!(first.contains("wallet of acme: 0 -> 10.5 credits"), "{first}");
    assert!(first.contains("in memory"), "{first}");
    assert_eq!(printed(&run(&gate, &add)), first, "the same act, the same answer");
    let usage = printed(&run(&gate, &["usage", "--tenant", "acme"]));
    let line = usage.lines().find(|line| line.starts_with("wallet")).expect("a line for it");
    assert!(line.contains("10.5") && line.contains("credits"), "{usage}");
    let json = printed(&run(&gate, &["usage", "--tenant", "acme", "--json"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["usage"][0]["remaining"], "10.5");
}

#[test]
fn usage_of_a_limit_goes_through_all_pages_in_every_form() {
    let backend = Backend::start();
    let gate = gate(&backend, 230);
    for form in [&[][..], &["--csv"]] {
        let text = printed(&run(&gate, &[&["usage", "--limit", "monthly"], form].concat()));
        assert_eq!(text.lines().count(), 231, "{form:?}");
        assert_eq!(text.matches("k229").count(), 1);
    }
    let json = printed(&run(&gate, &["usage", "--limit", "monthly", "--json"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["usage"].as_array().map(Vec::len), Some(230));
}

#[test]
fn a_key_is_revoked_and_restored_at_the_gate_without_touching_its_file() {
    let backend = Backend::start();
    let gate = gate(&backend, 1);
    let request = Request::get("/read").bearer("secret-0");
    let before = gate.policy.keys_text();
    let revoked = run(&gate, &["keys", "revoke", "k000", "--why", "leaked"]);
    assert!(revoked.status.success(), "{}", told(&revoked));
    assert_eq!(gate.send(&request).status, 401);
    assert!(told(&run(&gate, &["keys", "revoke", "k000"])).contains("revoked before"));
    let restored = run(&gate, &["keys", "restore", "k000"]);
    assert!(restored.status.success(), "{}", told(&restored));
    assert_eq!(gate.send(&request).status, 200);
    assert_eq!(gate.policy.keys_text(), before);
}

#[test]
fn nothing_unresolved_is_said_so() {
    let backend = Backend::start();
    let gate = gate(&backend, 1);
    assert_eq!(printed(&run(&gate, &["reservations", "list"])), "Nothing is unresolved.\n");
    let settle = run(&gate, &["reservations", "confirm", "0123456789abcdef0123456789abcdef"]);
    assert_eq!(settle.status.code(), Some(4));
    assert!(told(&settle).contains("reservation_unknown"), "{}", told(&settle));
}

#[test]
fn a_refusal_and_an_unreachable_gate_are_exit_code_4_with_words() {
    let backend = Backend::start();
    let gate = gate(&backend, 1);
    for arguments in [
        &["usage", "--tenant", "nobody"][..],
        &["usage", "--limit", "walet"],
        &["keys", "revoke", "nobody"],
        &["credit", "add", "--limit", "wallet", "--tenant", "acme", "1e9"],
    ] {
        let output = run(&gate, arguments);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}");
        assert!(told(&output).contains("the admin listener refused (4"), "{}", told(&output));
    }
    // A port where something else listens, and one where nobody does.
    let backend_url = backend.url();
    let stranger = gate.policy.run(&["usage", "--tenant", "acme", "--admin", &backend_url]);
    assert_eq!(stranger.status.code(), Some(4), "{}", told(&stranger));
    let gone = Backend::start().url();
    let nobody = gate.policy.run(&["usage", "--tenant", "acme", "--admin", &gone]);
    assert_eq!(nobody.status.code(), Some(4), "{}", told(&nobody));
}

#[test]
fn what_makes_no_sense_is_wrong_usage_before_anything_is_asked() {
    let backend = Backend::start();
    let gate = gate(&backend, 1);
    for arguments in [
        &["usage"][..],
        &["usage", "--tenant", "a", "--key", "b"],
        &["usage", "--tenant", "a", "--json", "--csv"],
        &["credit", "add", "--limit", "wallet"],
        &["credit", "add", "--limit", "wallet", "--tenant", "a", "1", "--once", "a\nb"],
        &["credit", "add", "--limit", "wallet", "--tenant", "a", "1", "--once", ""],
        &["keys", "revoke", "k000", "--config", "gate.yaml"],
    ] {
        assert_eq!(run(&gate, arguments).status.code(), Some(2), "{arguments:?}");
    }
    let policy = &gate.policy;
    assert_eq!(policy.run(&["keys", "revoke", "k000"]).status.code(), Some(2));
    let https = ["usage", "--tenant", "a", "--admin", "https://127.0.0.1:9901"];
    assert_eq!(policy.run(&https).status.code(), Some(2));
}

#[test]
fn the_token_comes_from_a_file_or_the_environment() {
    let backend = Backend::start();
    let token = "tgadmin-0123456789abcdef0123456789abcdef";
    let text =
        format!("{POLICY}admin: {{ listen: 127.0.0.1:0, token: {{ file: admin.token }} }}\n");
    let policy = Policy::with_keys(&text, &[Key::of("k000", "acme", "secret-0")]);
    std::fs::write(policy.directory().join("admin.token"), format!("{token}\n")).unwrap();
    std::fs::write(policy.directory().join("wrong.token"), "tgadmin-wrong\n").unwrap();
    let gate = Gate::start(policy, &backend);
    let usage = ["usage", "--tenant", "acme"];
    assert_eq!(run(&gate, &usage).status.code(), Some(4));
    let with = |file: &str| run(&gate, &[&usage[..], &["--token-file", file]].concat());
    assert_eq!(with("wrong.token").status.code(), Some(4));
    assert_eq!(with("none.token").status.code(), Some(3));
    printed(&with("admin.token"));
    let admin = format!("http://{}", gate.admin);
    let arguments = [&usage[..], &["--admin", &admin]].concat();
    let output = gate.policy.command(&arguments).env("TOLLGATE_ADMIN_TOKEN", token).output();
    printed(&output.expect("the binary runs"));
}
