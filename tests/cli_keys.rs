//! `tollgate keys` as an operator uses it: the real program, in a directory of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its files cannot go on")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const POLICY: &str = "\
version: 1
listen: 127.0.0.1:0
upstream: http://127.0.0.1:9
admin: none
state: memory
credentials:
  accept: [bearer]
  prefix: [sp_live_, sp_test_]
  keys: platform.keys.yaml
  # more here
routes:
  - { name: send, match: POST /sms/send, scope: sms:send }
  - { name: otp, match: POST /otp/send, scope: otp }
  - { name: reports, match: GET /messages/**, scope: reports }
limits:
  throttle: { rate: 120/minute, window: sliding, per: key }
plans:
  pro: { limits: { throttle: 1200/minute } }
tenants:
  acme: { plan: pro }
";

const KEYS: &str = "\
# The platform's keys. Ask #ops before you touch them.

- id: old            # since 2020
  tenant: acme
  label: The first
  digest: { sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa }
  last4: \"0001\"
  scopes: [sms:send] # one is enough

# the end
";

struct Desk {
    directory: TempDir,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Desk {
    fn new() -> Desk {
        Desk::with(POLICY, Some(KEYS))
    }

    fn with(policy: &str, keys: Option<&str>) -> Desk {
        let desk = Desk { directory: tempfile::tempdir().unwrap() };
        fs::write(desk.path("policy.yaml"), policy).unwrap();
        if let Some(keys) = keys {
            fs::write(desk.key_file(), keys).unwrap();
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn key_file(&self) -> PathBuf {
        self.path("platform.keys.yaml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.key_file()).unwrap()
    }

    fn command(&self, verb: &str, rest: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["keys", verb, "--config"]).arg(self.path("policy.yaml")).args(rest);
        command.stdin(Stdio::null());
        command
    }

    fn keys(&self, verb: &str, rest: &[&str]) -> Said {
        let output = self.command(verb, rest).output().unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn new_key(&self, rest: &[&str]) -> Said {
        let all: Vec<&str> = ["--tenant", "acme"].iter().chain(rest).copied().collect();
        self.keys("new", &all)
    }

    fn list(&self) -> Vec<Value> {
        let said = self.keys("list", &["--json"]);
        assert_eq!(said.code, 0, "{}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }

    fn listed(&self, id: &str) -> Value {
        let list = self.list();
        list.iter().find(|key| key["id"] == id).unwrap_or_else(|| panic!("{id}: {list:?}")).clone()
    }
}

impl Said {
    /// The one line of standard output, with nothing else anywhere that holds it.
    fn secret(&self) -> &str {
        assert_eq!(self.code, 0, "{}", self.err);
        let secret = self.out.strip_suffix('\n').unwrap();
        assert!(!secret.is_empty() && !secret.contains(char::is_whitespace), "{:?}", self.out);
        assert!(!self.err.contains(secret), "{}", self.err);
        secret
    }
}

fn sha256(secret: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.map(|nibble| char::from_digit(nibble.into(), 16).unwrap()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_key_prints_its_secret_alone_and_leaves_every_comment() {
    let desk = Desk::new();
    let said = desk.new_key(&["--id", "live", "--scope", "otp", "--scope", "sms:send"]);
    let secret = said.secret();
    assert!(secret.starts_with("sp_live_"));
    let text = desk.text();
    assert!(text.starts_with(KEYS), "{text}");
    assert!(text.contains(&sha256(secret)) && !text.contains(secret));
    let listed = desk.listed("live");
    assert_eq!(listed["tenant"], "acme");
    assert_eq!(listed["scopes"], serde_json::json!(["otp", "sms:send"]));
    assert_eq!(listed["state"], "active");
    assert_eq!(listed["last4"], &secret[secret.len() - 4..]);
}

#[test]
fn a_key_has_everything_that_was_asked_for() {
    let desk = Desk::new();
    let said = desk.new_key(&[
        "--id",
        "full",
        "--plan",
        "pro",
        "--label",
        "Ann's: \"key\" #1",
        "--expires",
        "30d",
        "--not-before",
        "2020-01-01",
        "--allow",
        "203.0.113.0/24",
        "--allow",
        "2001:db8::1",
        "--limit",
        "throttle=600/minute",
        "--prefix",
        "sp_test_",
    ]);
    assert!(said.secret().starts_with("sp_test_"));
    let text = desk.text();
    for part in [
        "label: \"Ann's: \\\"key\\\" #1\"",
        "plan: pro",
        "not_before: 2020-01-01T00:00:00Z",
        "allow: [203.0.113.0/24, 2001:db8::1/128]",
        "limits: { throttle: 600/minute }",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_key_file_is_made_private_and_an_old_one_keeps_its_rights() {
    let desk = Desk::with(POLICY, None);
    desk.new_key(&["--id", "first"]).secret();
    assert_eq!(mode(&desk.key_file()), 0o600);
    fs::set_permissions(desk.key_file(), fs::Permissions::from_mode(0o640)).unwrap();
    desk.new_key(&["--id", "second"]).secret();
    assert_eq!(mode(&desk.key_file()), 0o640);
    assert_eq!(desk.list().len(), 2);
}

#[test]
fn eight_operators_at_once_all_succeed() {
    let desk = Desk::new();
    let children: Vec<_> = (0..8)
        .map(|number| {
            let id = format!("key-{number}");
            let mut command = desk.command("new", &["--tenant", "acme", "--id", &id]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut secrets = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        secrets.push(String::from_utf8(output.stdout).unwrap());
    }
    let text = desk.text();
    assert!(secrets.iter().all(|secret| text.contains(&sha256(secret.trim_end()))));
    assert_eq!(desk.list().len(), 9);
    let left = fs::read_dir(desk.directory.path()).unwrap().count();
    assert_eq!(left, 2, "no temporary and no lock file stays");
}

#[test]
fn expiry_is_a_date_an_instant_a_duration_or_never() {
    let desk = Desk::new();
    for (id, expires, expected) in [
        ("date", "2099-01-01", "2099-01-01T00:00:00Z"),
        ("instant", "2099-01-01T12:00:00+02:00", "2099-01-01T10:00:00Z"),
    ] {
        desk.new_key(&["--id", id, "--expires", expires]).secret();
        assert_eq!(desk.listed(id)["expires"], expected);
    }
    for (id, expires) in [("days", "30d"), ("hours", "12h")] {
        desk.new_key(&["--id", id, "--expires", expires]).secret();
        let at = desk.listed(id)["expires"].as_str().unwrap().to_owned();
        assert!(at.starts_with("20") && at.ends_with('Z'), "{at}");
    }
    desk.new_key(&["--id", "never", "--expires", "never"]).secret();
    assert_eq!(desk.listed("never")["expires"], Value::Null);
    let said = desk.new_key(&["--id", "past", "--expires", "2001-01-01"]);
    said.secret();
    assert!(said.err.contains("warning") && said.err.contains("2001-01-01"), "{}", said.err);
    assert_eq!(desk.listed("past")["state"], "expired");
    assert_eq!(desk.new_key(&["--expires", "soon"]).code, 2);
}

#[test]
fn a_key_gets_limits_of_its_own_kind_and_period() {
    let limits = "limits:
  quota: { quota: none, per: key, time_zone: Europe/Amsterdam }
  cap: { spend: 500/month, unit: EUR, per: key }
  wallet: { credit: prepaid, unit: credits, per: key }
  later: { credit: prepaid, unit: credits, per: key, mode: disabled }
";
    let desk = Desk::with(&POLICY.replace("limits:\n", limits), None);
    let given = ["quota=1000000/month", "cap=20.50/day", "wallet=none", "later=none"];
    let rest: Vec<&str> = given.iter().flat_map(|limit| ["--limit", limit]).collect();
    desk.new_key(&rest).secret();
    let written = "limits: { quota: 1000000/month, cap: 20.50/day, wallet: none, later: none }";
    assert!(desk.text().contains(written), "{}", desk.text());
    desk.new_key(&["--limit", "cap=20.50"]).secret();
    let before = desk.text();
    for (limit, meant) in [
        ("quota=1000", "needs its period"),
        ("quota=1000/hour", "by the day or the month"),
        ("quota=1.5/day", "no whole number"),
        ("cap=0.0000001/day", "six decimal places"),
        ("wallet=500", "prepaid"),
    ] {
        let said = desk.new_key(&["--limit", limit]);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{limit}");
        assert!(said.err.contains(meant), "{limit}: {}", said.err);
    }
    assert_eq!(desk.text(), before);
}

#[test]
fn slips_are_told_with_what_was_meant_and_change_nothing() {
    let desk = Desk::new();
    for (rest, meant) in [
        (["--scope", "sms:sned"], "sms:send"),
        (["--plan", "por"], "pro"),
        (["--limit", "throtle=1/minute"], "throttle"),
        (["--id", "old"], "already"),
        (["--prefix", "ms_live_"], "sp_test_"),
        (["--limit", "throttle=often"], "often"),
        (["--id", "has space"], "spaces"),
    ] {
        let said = desk.new_key(&rest);
        assert_eq!(said.code, 1, "{rest:?}: {}", said.err);
        assert!(said.err.contains(meant), "{rest:?}: {}", said.err);
        assert_eq!(said.out, "", "{rest:?}");
    }
    assert_eq!(desk.text(), KEYS);
    for wrong in [["--limit", "throttle"], ["--allow", "everywhere"], ["--allow", "10.0.0.0/33"]] {
        assert_eq!(desk.new_key(&wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn a_policy_may_want_scopes_said_or_keys_to_expire_or_tenants_to_be_known() {
    let with = |line: &str| Desk::with(&POLICY.replace("# more here", line), None);
    let desk = with("new_keys: { scopes: required }");
    let said = desk.new_key(&[]);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    assert!(said.err.contains("--scope") && said.err.contains("sms:send"), "{}", said.err);
    desk.new_key(&["--scope", "otp"]).secret();

    let desk = with("new_keys: { scopes: [otp, reports], expires: 365d }");
    desk.new_key(&["--id", "a"]).secret();
    assert_eq!(desk.listed("a")["scopes"], serde_json::json!(["otp", "reports"]));
    assert!(desk.listed("a")["expires"].is_string());
    desk.new_key(&["--id", "b", "--expires", "never"]).secret();
    assert!(desk.listed("b")["expires"].is_null());

    let closed = POLICY.replace("tenants:", "tenants:\n  unlisted: closed");
    let desk = Desk::with(&closed, None);
    let said = desk.keys("new", &["--tenant", "acmee"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("did you mean `acme`?"), "{}", said.err);
    assert!(!desk.key_file().exists());
    desk.new_key(&[]).secret();

    let desk = with("new_keys: { scopes: all }");
    desk.new_key(&["--id", "a"]).secret();
    assert!(desk.listed("a")["scopes"].is_null());
}

#[test]
fn a_rotation_keeps_the_old_secret_only_for_its_overlap() {
    let desk = Desk::new();
    let first = desk.new_key(&["--id", "live"]).secret().to_owned();
    let second = desk.keys("rotate", &["live"]).secret().to_owned();
    let text = desk.text();
    assert!(text.contains(&sha256(&second)) && !text.contains(&sha256(&first)), "{text}");
    assert_eq!(desk.listed("live")["state"], "active");
    assert_eq!(desk.listed("live")["last4"], &second[second.len() - 4..]);

    let said = desk.keys("rotate", &["live", "--overlap", "24h"]);
    let third = said.secret();
    let text = desk.text();
    assert!(text.contains(&sha256(&second)) && text.contains(&sha256(third)), "{text}");
    assert!(text.contains("until: ") && text.starts_with(KEYS), "{text}");
    assert_eq!(desk.listed("live")["state"], "rotating");
    assert_eq!(desk.keys("rotate", &["live", "--overlap", "soon"]).code, 2);
}

#[test]
fn a_revoked_key_says_when_and_why_and_stays_revoked() {
    let desk = Desk::new();
    let said = desk.keys("revoke", &["old", "--why", "found in a repository"]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{}", said.err);
    let text = desk.text();
    assert!(text.contains("# one is enough") && text.ends_with("# the end\n"), "{text}");
    let listed = desk.listed("old");
    assert_eq!(listed["state"], "revoked");
    assert!(listed["revoked"].as_str().unwrap().ends_with("found in a repository"));
    let again = desk.keys("revoke", &["old"]);
    assert_eq!(again.code, 0);
    assert!(again.err.contains("revoked before"), "{}", again.err);
    assert_eq!(desk.text(), text);
    assert_eq!(desk.keys("rotate", &["old"]).code, 1);
    for verb in ["revoke", "rotate"] {
        let said = desk.keys(verb, &["odl"]);
        assert_eq!(said.code, 1);
        assert!(said.err.contains("did you mean old?"), "{}", said.err);
    }
}

#[test]
fn a_key_can_be_revoked_under_a_policy_that_does_not_load() {
    let desk = Desk::with(&POLICY.replace("version: 1", "version: 1\nnonsense: 1"), Some(KEYS));
    let said = desk.keys("revoke", &["old"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("--file"), "{}", said.err);
    let file = desk.key_file();
    let said = desk.keys("revoke", &["old", "--file", file.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("warning") && desk.text().contains("revoked: {"), "{}", said.err);
}

#[test]
fn a_linked_key_file_is_left_alone_and_both_ways_out_are_told() {
    let desk = Desk::with(POLICY, None);
    let real = desk.path("real.yaml");
    fs::write(&real, KEYS).unwrap();
    symlink(&real, desk.key_file()).unwrap();
    let said = desk.new_key(&["--id", "live"]);
    assert_eq!(said.code, 3, "{}", said.err);
    let secret = said.out.trim_end();
    assert!(said.err.contains("- id: live") && said.err.contains(&sha256(secret)), "{}", said.err);
    assert!(said.err.contains("--admin") && !said.err.contains(secret), "{}", said.err);
    let said = desk.keys("revoke", &["old", "--why", "leaked"]);
    assert_eq!(said.code, 3);
    assert!(said.err.contains("why: \"leaked\"") && said.err.contains("--admin"), "{}", said.err);
    assert_eq!(desk.keys("rotate", &["old"]).code, 3);
    assert_eq!(fs::read_to_string(&real).unwrap(), KEYS);
    assert!(fs::symlink_metadata(desk.key_file()).unwrap().is_symlink());
}

#[test]
fn a_directory_that_nobody_may_write_to_is_left_alone() {
    let desk = Desk::new();
    let directory = desk.directory.path();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o555)).unwrap();
    let said = desk.new_key(&["--id", "live"]);
    let text = desk.text();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.err.contains("nothing was changed"), "{}", said.err);
    assert_eq!(text, KEYS);
}

#[test]
fn a_secret_goes_to_its_own_file_where_one_is_named() {
    let desk = Desk::new();
    let file = desk.path("acme.secret");
    let name = file.to_str().unwrap();
    let said = desk.new_key(&["--id", "live", "--secret-file", name]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{}", said.err);
    assert_eq!(mode(&file), 0o600);
    let secret = fs::read_to_string(&file).unwrap();
    assert!(desk.text().contains(&sha256(secret.trim_end())));
    let before = desk.text();
    let said = desk.new_key(&["--id", "other", "--secret-file", name]);
    assert_eq!((said.code, desk.text()), (3, before), "an existing file is not written over");
}

#[test]
fn json_holds_the_secret_once_and_lists_hold_none() {
    let desk = Desk::new();
    let said = desk.new_key(&["--id", "live", "--json"]);
    let told: Value = serde_json::from_str(&said.out).unwrap();
    let secret = told["secret"].as_str().unwrap();
    assert_eq!(told["id"], "live");
    for rest in [&["--json"][..], &[]] {
        let said = desk.keys("list", rest);
        assert!(said.out.contains("live") && said.out.contains("old"), "{}", said.out);
        assert!(!said.out.contains(secret) && !said.out.contains(&sha256(secret)));
        assert!(!said.out.contains("aaaaaaaa"), "{}", said.out);
    }
}

#[test]
fn json_lines_are_appended_to_and_the_last_line_counts() {
    let desk = Desk::with(&POLICY.replace("platform.keys.yaml", "platform.jsonl"), None);
    desk.new_key(&["--id", "live"]).secret();
    let before = fs::read_to_string(desk.path("platform.jsonl")).unwrap();
    desk.keys("rotate", &["live"]).secret();
    assert_eq!(desk.keys("revoke", &["live"]).code, 0);
    let after = fs::read_to_string(desk.path("platform.jsonl")).unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(after.lines().count(), 3);
    assert_eq!(desk.listed("live")["state"], "revoked");
    assert_eq!(desk.list().len(), 1);
}

#[test]
fn among_several_key_files_one_is_chosen() {
    let desk = Desk::with(&POLICY.replace("platform.keys.yaml", "\"*.keys.yaml\""), Some(KEYS));
    desk.new_key(&["--id", "one"]).secret();
    let other = desk.path("other.keys.yaml");
    desk.new_key(&["--id", "two", "--file", other.to_str().unwrap()]).secret();
    let said = desk.new_key(&["--id", "three"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("--file"), "{}", said.err);
    let stranger = desk.path("stranger.yaml");
    let said = desk.new_key(&["--id", "three", "--file", stranger.to_str().unwrap()]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(!stranger.exists());
    assert_eq!(desk.keys("revoke", &["two"]).code, 0);
    assert!(fs::read_to_string(&other).unwrap().contains("revoked: {"));
    assert_eq!(desk.new_key(&["--id", "two", "--file", desk.key_file().to_str().unwrap()]).code, 1);
}

#[test]
fn an_existing_secret_is_turned_into_what_a_key_file_holds() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["keys", "digest"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"an-old-key-that-people-have\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let digest = sha256("an-old-key-that-people-have");
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.starts_with(&format!("digest: {{ sha256: {digest} }}\n")), "{out}");
    assert!(out.ends_with("last4: have\n"), "{out}");
}

#[test]
fn keys_are_made_without_the_upstreams_secrets_but_not_without_the_pepper() {
    let secrets = "upstream:\n  url: http://127.0.0.1:9\n  set_headers: { X-Secret: { env: TOLLGATE_TEST_UNSET } }";
    let policy = POLICY.replace("upstream: http://127.0.0.1:9", secrets);
    let desk = Desk::with(&policy, None);
    desk.new_key(&["--id", "live"]).secret();
    desk.keys("rotate", &["live"]).secret();
    assert_eq!(desk.keys("revoke", &["live"]).code, 0);

    let peppered = POLICY.replace("# more here", "pepper: { env: TOLLGATE_TEST_PEPPER }");
    let desk = Desk::with(&peppered, Some("[]"));
    let said = desk.new_key(&["--id", "live"]);
    assert_eq!((said.code, said.out.as_str()), (3, ""), "{}", said.err);
    assert!(said.err.contains("TOLLGATE_TEST_PEPPER"), "{}", said.err);
    assert_eq!(desk.text(), "[]");
    let mut command = desk.command("new", &["--tenant", "acme", "--id", "live"]);
    let output = command.env("TOLLGATE_TEST_PEPPER", "0123456789abcdef").output().unwrap();
    assert!(output.status.success());
    assert!(desk.text().contains("digest: { hmac: "), "{}", desk.text());
    let secret = String::from_utf8(output.stdout).unwrap();
    assert!(!desk.text().contains(&sha256(secret.trim_end())));
}
