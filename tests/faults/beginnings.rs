//! Directories in the making: whatever breaks off the first start, the next one begins anew, and what was promised right after
//! it is there.

use std::thread;
use std::time::Duration;

use crate::bench::{Bench, ask, code, post, promise, send, usage};
use crate::support::dice::Dice;
use crate::support::disk::Disk;

/// Each takes a moment of a start away from it.
type Befall = fn(&Disk, u64);

#[test]
fn a_first_start_may_break_off_anywhere_and_lose_its_power() {
    let faults: [(&str, Befall); 2] = [("sync", Disk::fail_sync), ("write", Disk::fail_write)];
    let mut dice = Dice::named("beginnings", 0);
    for (name, befall) in faults {
        let mut broke_off = 0;
        for nth in 1..=40 {
            let bench = Bench::new();
            let disk = Disk::under(&bench.state());
            befall(&disk, nth);
            let Err(refused) = disk.carry(&bench.launch()).try_start() else { break };
            assert_eq!(refused.code, Some(3), "{name} {nth}: {}", refused.said);
            broke_off += 1;
            disk.cut_power(&mut dice);
            let gate = bench.launch().start();
            promise(&gate);
        }
        assert!(broke_off > 0, "no {name} was needed to start");
    }
}

#[test]
fn what_was_promised_survives_any_remains_of_a_power_cut() {
    for seed in 0..12 {
        let bench = Bench::new();
        let (disk, gate) = bench.on_disk();
        let promised = promise(&gate);
        gate.kill();
        disk.cut_power(&mut Dice::named("remains", seed));
        let gate = disk.carry(&bench.launch()).start();
        promised.holds(&gate, &bench, true);
        // And again, on what the first recovery left behind.
        gate.kill();
        disk.cut_power(&mut Dice::named("remains of remains", seed));
        promised.holds(&bench.launch().start(), &bench, true);
    }
}

#[test]
fn a_disk_that_hangs_is_not_waited_for_and_what_it_writes_late_is_taken_back() {
    let bench = Bench::new();
    let (disk, gate) = bench.on_disk();
    promise(&gate);
    let used = usage(&gate, "wallet")["used"].clone();
    let reached = bench.backend.count();
    disk.slow_syncs(7000);
    let (traffic, key) = (gate.traffic, send("hung"));
    let waiting = thread::spawn(move || crate::support::frail::attempt(traffic, &key));
    let paying = ask(&gate, &post("/pay"));
    let sending = waiting.join().expect("it ends").expect("it is answered");
    for answer in [sending, paying] {
        assert_eq!((answer.status, &*code(&answer)), (503, "store_unavailable"));
    }
    assert_eq!(bench.backend.count(), reached, "forwarded without a promise");
    disk.slow_syncs(0);
    thread::sleep(Duration::from_secs(3));
    let again = ask(&gate, &send("hung"));
    assert_eq!(again.status, 200, "{}", again.text());
    gate.kill();
    let gate = bench.launch().start();
    assert_eq!(usage(&gate, "wallet")["used"], used);
    assert_eq!(gate.ask_admin("/v1/reservations").json()["reservations_total"], 0);
}
