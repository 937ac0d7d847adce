//! A running gate follows its files within a second, and what is open lives on.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use support::tls::Identity;
use support::wire::Asked;
use support::{
    A_SECOND, Backend, Connection, Gate, Key, Policy, Request, eventually, streams, unix_now,
};

const POLICY: &str = "\
version: 1
upstream: http://127.0.0.1:9
state: memory
credentials: { accept: [bearer], keys: gate.keys.yaml }
routes:
  - { name: all, match: ANY /** }
  - { name: cut, match: GET /events/**, on_revoke: finish }
";

const CUT: &str = "on_revoke: finish";

const KEYS: [Key<'static>; 2] =
    [Key::of("ka", "acme", "secret-a"), Key::of("kb", "globex", "secret-b")];

fn start() -> (Backend, Gate) {
    let backend = Backend::start();
    let gate = Gate::start(Policy::with_keys(POLICY, &KEYS), &backend);
    (backend, gate)
}

fn by(letter: &str) -> Request {
    Request::get("/x").bearer(&format!("secret-{letter}"))
}

fn last_load_ok(gate: &Gate) -> Option<f64> {
    gate.metric("tollgate_policy_last_load_ok")
}

#[track_caller]
fn said(gate: &Gate, event: &str) -> bool {
    eventually(A_SECOND, || gate.output().contains(&format!("\"event\":\"{event}\"")))
}

#[test]
fn an_edit_in_place_and_an_atomic_rename_are_in_force_within_a_second() {
    let (_backend, gate) = start();
    let mut open = gate.connect();
    assert_eq!(open.send(&by("a")).status, 200);
    let scoped =
        gate.policy.text().replace("match: ANY /**", "match: ANY /**, allow: [192.0.2.0/24]");
    fs::write(gate.policy.file(), scoped).expect("the file is ours");
    assert!(gate.soon(&by("a"), 403), "an edit in place");
    assert_eq!(open.send(&by("a")).status, 403, "on open connections, too");
    gate.policy.replace(", allow: [192.0.2.0/24]", "");
    assert!(gate.soon(&by("a"), 200), "an atomic rename");
    assert_eq!(open.send(&by("a")).status, 200, "the connection was not touched");
}

#[test]
fn the_symlink_swap_of_a_config_map_is_in_force_within_a_second() {
    let policy = Policy::with_keys(POLICY, &KEYS);
    let (text, keys) = (policy.text(), policy.keys_text());
    let mount = policy.directory().to_owned();
    let version = |name: &str, text: &str| {
        let data = mount.join(name);
        fs::create_dir(&data).expect("the directory is ours");
        fs::write(data.join("gate.yaml"), text).expect("the directory is ours");
        fs::write(data.join("gate.keys.yaml"), &keys).expect("the directory is ours");
    };
    let link = |target: &str, name: &str| {
        let new = mount.join(".link");
        symlink(target, &new).expect("the directory is ours");
        fs::rename(&new, mount.join(name)).expect("a rename within a directory works");
    };
    version("..v1", &text);
    link("..v1", "..data");
    link("..data/gate.yaml", "gate.yaml");
    link("..data/gate.keys.yaml", "gate.keys.yaml");
    let backend = Backend::start();
    let gate = Gate::start(policy, &backend);
    assert_eq!(gate.send(&by("a")).status, 200);
    version("..v2", &text.replace("match: ANY /**", "match: ANY /**, allow: [192.0.2.0/24]"));
    link("..v2", "..data");
    assert!(gate.soon(&by("a"), 403), "the first swap");
    fs::remove_dir_all(mount.join("..v1")).expect("it is there");
    version("..v3", &text);
    link("..v3", "..data");
    assert!(gate.soon(&by("a"), 200), "the second swap");
}

#[test]
fn an_edited_key_file_is_in_force_within_a_second() {
    let (_backend, gate) = start();
    assert_eq!(gate.send(&by("c")).status, 401);
    gate.policy.write_keys(&[KEYS[0], Key::of("kc", "acme", "secret-c")]);
    assert!(gate.soon(&by("c"), 200));
    assert_eq!((gate.send(&by("a")).status, gate.send(&by("b")).status), (200, 401));
    gate.policy.write_keys(&[KEYS[0].with("revoked: { at: 2026-01-01T00:00:00Z, why: left }")]);
    assert!(gate.soon(&by("a"), 401));
}

#[test]
fn a_bad_file_keeps_the_last_good_policy_and_says_so() {
    let (_backend, gate) = start();
    assert_eq!(last_load_ok(&gate), Some(1.0));
    gate.policy.replace("routes:", "rotues:");
    assert!(eventually(A_SECOND, || last_load_ok(&gate) == Some(0.0)));
    assert_eq!(gate.send(&by("a")).status, 200, "the last good policy is in force");
    assert!(said(&gate, "policy_rejected"));
    assert!(gate.output().contains("rotues"), "the log says where");
    gate.policy.replace("rotues:", "routes:");
    assert!(eventually(A_SECOND, || last_load_ok(&gate) == Some(1.0)));
    let keys = gate.policy.directory().join("gate.keys.yaml");
    let good = fs::read(&keys).expect("it is there");
    fs::write(&keys, "- { id: ka, tenant: acme, digest: nonsense }\n").expect("it is ours");
    assert!(eventually(A_SECOND, || last_load_ok(&gate) == Some(0.0)), "a bad key file");
    assert_eq!(gate.send(&by("a")).status, 200);
    fs::remove_file(&keys).expect("it is there");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(gate.send(&by("a")).status, 200, "no key file at all");
    fs::write(&keys, good).expect("it is ours");
    assert!(eventually(A_SECOND, || last_load_ok(&gate) == Some(1.0)));
    assert_eq!(gate.send(&by("a")).status, 200);
}

#[test]
fn sighup_looks_at_the_files_at_once_and_ends_nothing() {
    let (_backend, mut gate) = start();
    let mut open = gate.connect();
    assert_eq!(open.send(&by("a")).status, 200);
    for _ in 0..5 {
        gate.signal(Signal::HUP);
    }
    assert!(said(&gate, "reload_requested"));
    assert_eq!(open.send(&by("a")).status, 200);
    gate.policy.write_keys(&KEYS[..1]);
    gate.signal(Signal::HUP);
    assert!(gate.soon(&by("b"), 401));
    assert_eq!(open.send(&by("a")).status, 200);
    assert_eq!(gate.exit_within(Duration::ZERO), None);
}

#[test]
fn what_needs_a_restart_is_said_and_the_rest_is_taken() {
    let (_backend, gate) = start();
    let text = gate.policy.text().replace("ANY /**", "ANY /**, allow: [192.0.2.0/24]");
    fs::write(gate.policy.file(), format!("{text}workers: 7\n")).expect("the file is ours");
    assert!(gate.soon(&by("a"), 403), "the rest is taken");
    assert!(said(&gate, "restart_needed"));
    assert!(eventually(A_SECOND, || gate.metric("tollgate_policy_restart_needed") == Some(1.0)));
    assert!(gate.ask_admin("/v1/policy").text().contains("workers"));
    fs::write(gate.policy.file(), POLICY).expect("the file is ours");
    assert!(eventually(A_SECOND, || gate.metric("tollgate_policy_restart_needed") == Some(0.0)));
}

#[test]
fn a_new_certificate_is_shown_on_new_connections_and_old_ones_live_on() {
    let policy = Policy::with_keys(
        &format!(
            "{POLICY}listen: {{ address: 127.0.0.1:0, tls: {{ certificate: chain.pem, key: key.pem }} }}\n"
        ),
        &KEYS,
    );
    let (first, second) = (Identity::new(), Identity::new());
    first.write(policy.directory());
    let backend = Backend::start();
    let gate = Gate::start(policy, &backend);
    let request = by("a").bytes();
    let ok = |answer: std::io::Result<String>| {
        answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    };
    let mut open = first.connect(gate.traffic).expect("the first certificate is shown");
    assert!(ok(open.ask(&request, "}")));
    second.write(gate.policy.directory());
    assert!(eventually(A_SECOND, || second.connect(gate.traffic).is_ok()), "the new one is shown");
    assert!(first.connect(gate.traffic).is_err(), "the old one is not");
    assert!(ok(open.ask(&request, "}")), "who is connected stays connected");
    // A certificate whose key is not there keeps the last good pair.
    fs::write(gate.policy.directory().join("key.pem"), "nonsense").expect("it is ours");
    assert!(eventually(A_SECOND, || last_load_ok(&gate) == Some(0.0)));
    let mut new = second.connect(gate.traffic).expect("the last good one is shown");
    assert!(ok(new.ask(&request, "}")));
}

/// A stream of events, a tunnel and a kept connection of a key that `keys new` made.
struct Open {
    gate: Gate,
    secret: String,
    events: Connection,
    tunnel: Connection,
    kept: Connection,
}

/// How many events the streams have: two seconds of them.
const EVENTS: usize = 40;

fn open(on_revoke: &str) -> Open {
    let text = POLICY.replace(CUT, on_revoke);
    let gate =
        Gate::before(Policy::with_keys(&text, &KEYS), &format!("http://{}", streams::streaming()));
    let secret = gate.policy.key("acme", &["--id", "late"]);
    let request = Request::get("/x").bearer(&secret);
    assert!(gate.soon(&request, 200), "a new key works within a second");
    let mut kept = gate.connect();
    assert_eq!(kept.send(&request).status, 200);
    let mut events = gate.connect();
    events.write(&Request::get(&format!("/events/{EVENTS}")).bearer(&secret).bytes());
    events.until("data: 2\n");
    let mut tunnel = gate.connect();
    let upgrade = Request::get("/tunnel")
        .bearer(&secret)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket");
    assert_eq!(tunnel.send(&upgrade).status, 101);
    tunnel.write(b"ping-1;");
    tunnel.until("ping-1;");
    Open { gate, secret, events, tunnel, kept }
}

#[test]
fn changes_that_do_not_concern_them_leave_streams_tunnels_and_connections_alone() {
    let Open { gate, secret, mut events, mut tunnel, mut kept } = open(CUT);
    let (ours, others) = (Request::get("/x").bearer(&secret), by("a"));
    gate.policy.revoke("ka");
    assert!(gate.soon(&others, 401));
    gate.policy.replace("version: 1", "version: 1\nlimits: { l: { rate: 100/minute } }");
    assert!(eventually(A_SECOND, || gate.send(&ours).header("x-ratelimit-limit").is_some()));
    gate.policy.key("globex", &["--id", "another"]);
    tunnel.write(b"ping-2;");
    tunnel.until("ping-2;");
    assert_eq!(kept.send(&ours).status, 200);
    events.until(&format!("data: {}\n", EVENTS - 1));
    events.until("0\r\n\r\n");
    tunnel.write(b"ping-3;");
    tunnel.until("ping-3;");
}

#[test]
fn a_revoked_keys_tunnel_is_cut_within_a_second_and_its_stream_may_finish() {
    let Open { gate, secret, mut events, mut tunnel, mut kept } = open(CUT);
    gate.policy.revoke("late");
    assert!(gate.soon(&Request::get("/x").bearer(&secret), 401));
    assert_eq!(kept.send(&Request::get("/x").bearer(&secret)).status, 401);
    assert!(tunnel.is_closed_within(A_SECOND), "an upgrade is cut where nothing is said");
    events.until(&format!("data: {}\n", EVENTS - 1));
    events.until("0\r\n\r\n");
}

#[test]
fn a_stream_is_cut_where_the_policy_says_so_and_never_ends_as_if_it_were_whole() {
    let Open { gate, mut events, mut tunnel, .. } = open("on_revoke: cut");
    gate.policy.revoke("late");
    let rest = String::from_utf8_lossy(&events.rest()).into_owned();
    assert!(!rest.contains("0\r\n\r\n"), "{rest}");
    assert!(!rest.contains(&format!("data: {}\n", EVENTS - 1)), "it was cut late: {rest}");
    assert!(tunnel.is_closed_within(A_SECOND));
    let cut = || gate.records().iter().filter(|record| record["end"] == "cut").count();
    assert!(eventually(A_SECOND, || cut() == 2), "{:?}", gate.records());
}

#[test]
fn a_kept_answer_is_read_to_its_end_across_a_reload() {
    let gate =
        Gate::before(Policy::with_keys(POLICY, &KEYS), &format!("http://{}", streams::streaming()));
    let mut events = gate.connect();
    events.write(&Request::get("/events/20").bearer("secret-a").bytes());
    for n in 0..5 {
        gate.policy.append(&format!("# edit {n}"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let answer = events.answer(Asked::Other);
    assert_eq!(answer.text().matches("data:").count(), 20);
    assert_eq!(events.send(&by("a")).status, 200, "and the connection is good for more");
}

/// After `change` the tunnel is cut in time, new requests are refused, and the stream of events may finish.
#[track_caller]
fn cuts(mut opened: Open, change: impl FnOnce(&mut Open)) {
    change(&mut opened);
    let Open { gate, secret, mut tunnel, mut events, .. } = opened;
    assert!(tunnel.is_closed_within(Duration::from_secs(4)));
    let status = gate.send(&Request::get("/x").bearer(&secret)).status;
    assert!(matches!(status, 401 | 403), "{status}");
    events.until("0\r\n\r\n");
}

#[test]
fn a_tunnel_is_cut_when_its_tenant_is_switched_off() {
    cuts(open(CUT), |open| open.gate.policy.append("tenants: { acme: { active: false } }"));
}

#[test]
fn a_tunnel_is_cut_when_its_address_is_no_longer_admitted() {
    cuts(open(CUT), |open| open.gate.policy.append("tenants: { acme: { allow: [192.0.2.0/24] } }"));
}

#[test]
fn a_tunnel_is_cut_when_its_route_no_longer_admits_its_address() {
    let stricter = "match: ANY /**, allow: [192.0.2.0/24] }";
    cuts(open(CUT), |open| open.gate.policy.replace("match: ANY /** }", stricter));
}

#[test]
fn a_tunnel_is_cut_when_its_route_demands_a_scope_that_its_key_has_not() {
    cuts(open(CUT), |open| {
        open.gate.policy.replace("match: ANY /** }", "match: ANY /**, scope: tunnels }");
        open.gate.policy.append("tenants: { acme: { scopes: [] } }");
    });
}

#[test]
fn a_tunnel_is_cut_when_its_key_expires() {
    cuts(open(CUT), |Open { gate, secret, tunnel, .. }| {
        let at = jiff::Timestamp::from_second(unix_now() + 3).expect("it is near");
        let expires = format!("expires: {at}");
        gate.policy.write_keys(&[Key::of("late", "acme", secret).with(&expires)]);
        // The reload alone ends nothing.
        assert!(gate.soon(&by("a"), 401));
        tunnel.write(b"ping-2;");
        tunnel.until("ping-2;");
        assert_eq!(gate.send(&Request::get("/x").bearer(secret)).status, 200);
    });
}

#[test]
fn a_moved_upstream_is_taken_on_the_next_request() {
    let (first, second) = (Backend::start(), Backend::start());
    let text = POLICY.replace("http://127.0.0.1:9", &first.url());
    let gate = Gate::run(Policy::with_keys(&text, &KEYS), &["--listen", "127.0.0.1:0"]);
    let mut kept = gate.connect();
    assert_eq!(kept.send(&by("a")).status, 200);
    gate.policy.replace(&first.url(), &second.url());
    assert!(eventually(A_SECOND, || kept.send(&by("a")).status == 200 && second.count() > 0));
    let before = first.count();
    assert_eq!(kept.send(&by("a")).status, 200);
    assert_eq!(first.count(), before, "the old one is asked no more");
}

#[test]
fn no_request_fails_while_policies_change_under_load() {
    let (backend, gate) = start();
    let gate = Arc::new(gate);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (gate, stop) = (Arc::clone(&gate), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut asked = 0;
                let mut connection = gate.connect();
                while !stop.load(Ordering::SeqCst) {
                    if n % 2 == 0 {
                        connection = gate.connect();
                    }
                    assert_eq!(connection.send(&by("a")).status, 200);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for n in 0..30 {
        match n % 3 {
            0 => gate.policy.append(&format!("# {n}")),
            1 => gate.policy.write_keys(&KEYS[..1]),
            _ => gate.policy.write_keys(&KEYS),
        }
        gate.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::SeqCst);
    let asked: usize = clients.into_iter().map(|client| client.join().expect("none failed")).sum();
    assert_eq!(backend.count(), asked);
    assert!(asked > 100, "{asked}");
}

#[test]
fn a_line_appended_to_a_long_key_file_is_in_force_within_a_second() {
    use std::fmt::Write as _;
    use std::io::Write as _;
    let text = POLICY.replace("gate.keys.yaml", "gate.keys.jsonl");
    let policy = Policy::new("gate.yaml", &text);
    let file = policy.directory().join("gate.keys.jsonl");
    let mut lines = String::new();
    for n in 0..2_000 {
        writeln!(
            lines,
            "{{\"id\":\"k{n}\",\"tenant\":\"t\",\"digest\":{{\"sha256\":\"{n:064x}\"}}}}"
        )
        .expect("a String takes all");
    }
    fs::write(&file, lines).expect("it is ours");
    let backend = Backend::start();
    let gate = Gate::start(policy, &backend);
    let secret = gate.policy.key("acme", &["--id", "new"]);
    let request = Request::get("/x").bearer(&secret);
    assert!(gate.soon(&request, 200), "keys new");
    // A line that is written in two pieces is not believed before its end.
    let mut open = fs::OpenOptions::new().append(true).open(&file).expect("it is there");
    let entry = Key::of("late", "acme", "secret-late").json();
    let (half, rest) = entry.split_at(entry.len() / 2);
    open.write_all(half.as_bytes()).expect("it is ours");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(gate.send(&request).status, 200);
    open.write_all(format!("{rest}\n").as_bytes()).expect("it is ours");
    assert!(gate.soon(&Request::get("/x").bearer("secret-late"), 200), "an appended line");
    gate.policy.revoke("new");
    assert!(gate.soon(&request, 401), "keys revoke");
    assert_eq!(gate.send(&Request::get("/x").bearer("secret-late")).status, 200);
}
