//! Disks that fail under a running gate, or from the first moment.

use std::thread;
use std::time::Duration;

use crate::bench::{Bench, act, act_request, ask, code, post, promise, send, top_up, usage};
use crate::support::disk::Disk;

use crate::support::frail::attempt;
use crate::support::process::Process;
use crate::support::{A_SECOND, eventually};

/// What becomes of the disk.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The next sync fails, and the one after it would succeed.
    Sync,
    /// So does the next write.
    Write,
    /// There is room for nothing.
    Full,
    /// There is room for a part of the next write.
    NearlyFull,
}

impl Fault {
    const ALL: [Fault; 4] = [Fault::Sync, Fault::Write, Fault::Full, Fault::NearlyFull];

    fn befalls(self, disk: &Disk) {
        match self {
            Fault::Sync => disk.fail_sync(1),
            Fault::Write => disk.fail_write(1),
            Fault::Full => disk.leave_room(0),
            Fault::NearlyFull => disk.leave_room(100),
        }
    }
}

#[track_caller]
fn unavailable(gate: &Process, request: &crate::support::Request) {
    let answer = ask(gate, request);
    assert_eq!((answer.status, &*code(&answer)), (503, "store_unavailable"), "{}", answer.text());
}

#[test]
fn a_failing_disk_is_never_hidden_behind_an_acknowledgement() {
    for fault in Fault::ALL {
        let bench = Bench::new();
        let (disk, gate) = bench.on_disk();
        let promised = promise(&gate);
        assert!(disk.syncs() > 0 && disk.writes() > 0, "the gate writes past this disk");
        let reached = bench.backend.count();
        fault.befalls(&disk);
        // The first that needs the disk finds out, and is not forwarded.
        unavailable(&gate, &send("after-the-fault"));
        assert!(disk.failures() > 0, "{fault:?} was not met");
        for request in [send("later"), post("/pay"), post("/counted")] {
            unavailable(&gate, &request);
        }
        assert_eq!(bench.backend.count(), reached, "{fault:?}: forwarded without a promise");
        for (status, said) in [
            act(&gate, "/v1/credit", &top_up("1"), "top-up-2"),
            act(&gate, "/v1/keys/ka/revoke", &serde_json::json!({}), "revoke-1"),
        ] {
            assert_eq!(status, 503, "{fault:?}: {said}");
        }
        // What needs no promise goes on.
        for path in ["/plain", "/local", "/allowed"] {
            let answer = ask(&gate, &post(path));
            assert_eq!(answer.status, 200, "{fault:?} {path}: {}", answer.text());
        }
        // Within a second, as everything that a balancer is told.
        let unready = || gate.ask_admin("/readyz").status == 503;
        assert!(eventually(A_SECOND, unready), "{fault:?}: still ready");
        let why = gate.ask_admin("/readyz").text();
        assert!(why.contains("store_failed"), "{why}");
        assert_eq!(gate.ask_admin("/healthz").status, 200, "a restart is a person's decision");
        assert!(gate.said().contains("\"event\":\"state_failed\""), "{}", gate.said());
        gate.kill();
        let gate = bench.launch().start();
        promised.holds(&gate, &bench, true);
        assert_eq!(gate.ask_admin("/readyz").status, 200);
        for key in ["after-the-fault", "later"] {
            let answer = ask(&gate, &send(key));
            let fine = answer.status == 200 || code(&answer) == "idempotency_unknown";
            assert!(fine, "{fault:?} {key}: {}", answer.text());
        }
        let credit = usage(&gate, "wallet");
        assert!(credit["ceiling"] == "100" || credit["ceiling"] == "101", "{credit}");
    }
}

#[test]
fn an_answered_request_was_durable_before_it_was_forwarded() {
    let bench = Bench::new();
    let (disk, gate) = bench.on_disk();
    promise(&gate);
    disk.slow_syncs(400);
    let reached = bench.backend.count();
    let address = gate.traffic;
    let asked = thread::spawn(move || attempt(address, &send("slow")));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(bench.backend.count(), reached, "forwarded before the claim was durable");
    assert_eq!(asked.join().expect("it ends").expect("it is answered").status, 200);
}

#[test]
fn a_repeated_act_is_not_acknowledged_before_the_first_is_durable() {
    let bench = Bench::new();
    let (disk, gate) = bench.on_disk();
    promise(&gate);
    disk.slow_syncs(1500);
    let request = act_request("/v1/credit", &top_up("7"), "top-up-2");
    // The first one who asks leaves at once.
    let mut left = std::net::TcpStream::connect(gate.admin).expect("the admin listener lives");
    std::io::Write::write_all(&mut left, &request.bytes()).expect("it reads");
    thread::sleep(Duration::from_millis(100));
    drop(left);
    let address = gate.admin;
    let again = thread::spawn(move || attempt(address, &request));
    thread::sleep(Duration::from_millis(400));
    let acknowledged = again.is_finished();
    gate.kill();
    let answer = again.join().expect("it ends");
    let gate = bench.launch().start();
    let credit = usage(&gate, "wallet");
    if acknowledged && answer.is_ok_and(|answer| answer.status == 200) {
        assert_eq!(credit["ceiling"], "107", "an acknowledged act is gone: {credit}");
    }
}

#[test]
fn a_gate_out_of_descriptors_keeps_its_promises() {
    let bench = Bench::new();
    let (disk, gate) = bench.on_disk();
    let promised = promise(&gate);
    disk.take_descriptors();
    let mut answered = Vec::new();
    for n in 0..20 {
        let key = format!("without-{n}");
        let answer = ask(&gate, &send(&key));
        match answer.status {
            200 => answered.push((key, answer)),
            _ => assert_eq!(code(&answer), "store_unavailable", "{}", answer.text()),
        }
    }
    gate.kill();
    let refused = disk.carry(&bench.launch()).refusal();
    assert_eq!(refused.code, Some(3), "{}", refused.said);
    let gate = bench.launch().start();
    promised.holds(&gate, &bench, true);
    for (key, first) in answered {
        let again = ask(&gate, &send(&key));
        let same = again.body == first.body && again.header("idempotent-replayed").is_some();
        assert!(same || code(&again) == "idempotency_unknown", "{key}: {}", again.text());
    }
}

#[test]
fn a_gate_that_cannot_write_does_not_start() {
    type Befall = fn(&Disk);
    let faults: [(&str, Befall); 5] = [
        ("a read-only file system", Disk::make_read_only),
        ("no descriptors", Disk::take_descriptors),
        ("a full disk", |disk| disk.leave_room(0)),
        ("a failing sync", |disk| disk.fail_sync(1)),
        ("a failing write", |disk| disk.fail_write(1)),
    ];
    for (name, befall) in faults {
        let bench = Bench::new();
        let disk = Disk::under(&bench.state());
        befall(&disk);
        let refused = disk.carry(&bench.launch()).refusal();
        assert_eq!(refused.code, Some(3), "{name}: {}", refused.said);
        let state = bench.state();
        let named = refused.said.contains(state.to_str().expect("a plain name"));
        assert!(named, "{name}: {}", refused.said);
        // Nothing is left behind that a good disk could not start from.
        let gate = bench.launch().start();
        promise(&gate);
    }
}

#[test]
fn a_store_that_failed_stays_failed_when_the_disk_is_well_again() {
    let bench = Bench::new();
    let (disk, gate) = bench.on_disk();
    promise(&gate);
    disk.leave_room(0);
    unavailable(&gate, &send("full"));
    disk.leave_room(1 << 40);
    assert!(!eventually(Duration::from_secs(2), || ask(&gate, &send("well")).status == 200));
}
