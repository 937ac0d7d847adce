//! The reload of a whole gate, over its files and its admin listener: what an operator does and sees.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use tollgate::clock::Clock;
use tollgate::config::Overrides;
use tollgate::gate::{Gate, Options};
use tollgate::policy::snapshot::RecordSink;
use tollgate::telemetry::events::Log;

const POLICY: &str = "\
version: 1
listen: 127.0.0.1:0
upstream: http://127.0.0.1:9
admin: 127.0.0.1:0
state: memory
credentials: { accept: [bearer], keys: keys/*.keys.yaml }
routes:
  - { name: all, match: GET /** }
";

struct Files {
    _directory: tempfile::TempDir,
    policy: PathBuf,
    keys: PathBuf,
}

fn files() -> Files {
    let directory = tempfile::tempdir().unwrap();
    let (policy, keys) = (directory.path().join("gate.yaml"), directory.path().join("keys"));
    fs::write(&policy, POLICY).unwrap();
    fs::create_dir(&keys).unwrap();
    key(&keys, 1);
    Files { _directory: directory, policy, keys }
}

/// A key file with one key.
fn key(directory: &Path, number: u8) {
    let digest = format!("{number:02x}").repeat(32);
    let text = format!("- {{ id: k{number}, tenant: acme, digest: {{ sha256: \"{digest}\" }} }}\n");
    fs::write(directory.join(format!("{number}.keys.yaml")), text).unwrap();
}

fn gate(files: &Files) -> Gate {
    Gate::start(Options {
        config: files.policy.clone(),
        overrides: Overrides::default(),
        clock: Clock::system(),
        env: |_| None,
        log: Log::discard(),
        records: Some(RecordSink::Off),
        handed: ListenFd::empty(),
    })
    .unwrap_or_else(|problem| panic!("{problem}"))
}

fn status(gate: &Gate) -> serde_json::Value {
    let mut stream = TcpStream::connect(gate.admin.unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
        .write_all(b"GET /v1/policy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn comes_to(gate: &Gate, field: &str, value: &serde_json::Value) {
    for _ in 0..500 {
        if status(gate)[field] == *value {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{field} is not {value}: {}", status(gate));
}

#[test]
fn a_key_file_that_comes_later_and_matches_the_glob_is_in_force() {
    let files = files();
    let gate = gate(&files);
    comes_to(&gate, "keys", &1.into());
    key(&files.keys, 2);
    comes_to(&gate, "keys", &2.into());
    fs::remove_file(files.keys.join("1.keys.yaml")).unwrap();
    comes_to(&gate, "keys", &1.into());
}

#[test]
fn a_broken_policy_is_told_with_its_line_and_recovers() {
    let files = files();
    let gate = gate(&files);
    let digest = status(&gate)["digest"].clone();
    fs::write(&files.policy, POLICY.replace("upstream:", "upstraem:")).unwrap();
    comes_to(&gate, "last_load_ok", &false.into());
    let refused = status(&gate);
    assert_eq!(refused["digest"], digest);
    let problems = refused["last_error"]["problems"].as_str().unwrap();
    assert!(problems.contains("gate.yaml:3"), "{problems}");
    fs::write(&files.policy, POLICY).unwrap();
    comes_to(&gate, "last_load_ok", &true.into());
    assert_eq!(status(&gate)["digest"], digest);
}

#[test]
fn a_moved_listener_waits_for_a_restart_and_is_said() {
    let files = files();
    let gate = gate(&files);
    fs::write(&files.policy, POLICY.replace("listen: 127.0.0.1:0", "listen: 127.0.0.1:1")).unwrap();
    comes_to(&gate, "restart_needed", &serde_json::json!(["listen"]));
    assert!(TcpStream::connect(gate.traffic[0]).is_ok());
}
