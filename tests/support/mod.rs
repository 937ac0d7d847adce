//! What the suites share: a policy in a directory of its own, the gate as a process, a backend that records every byte, and
//! a client that writes and reads bytes. Nothing here knows the gate's code but its clock: what a suite proves, it
//! proves from outside.
#![allow(dead_code, unused_imports, reason = "each suite uses its part of this")]

pub(crate) mod backend;
pub(crate) mod bait;
pub(crate) mod clerk;
pub(crate) mod contract;
pub(crate) mod dice;
pub(crate) mod disk;
pub(crate) mod frail;
pub(crate) mod gate;
pub(crate) mod inside;
pub(crate) mod kannel;
pub(crate) mod policy;
pub(crate) mod power;
pub(crate) mod process;
pub(crate) mod streams;
pub(crate) mod tls;
pub(crate) mod wire;

use std::thread;
use std::time::Duration;

use tollgate::clock::Clock;

pub(crate) use backend::{Backend, Reply, Seen};
pub(crate) use gate::Gate;
pub(crate) use policy::{Key, Policy};
pub(crate) use wire::{Answer, Asked, Connection, Request, send};

/// "Within a second", with half of one on top for a machine that runs other tests at the same time.
pub(crate) const A_SECOND: Duration = Duration::from_millis(1500);

/// What a process may take to start, or to say that it cannot.
pub(crate) const START: Duration = Duration::from_secs(10);

/// Asks every 20 ms until `done` or the time is up; whether it was done.
pub(crate) fn eventually(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let clock = Clock::system();
    let start = clock.now().steady;
    loop {
        if done() {
            return true;
        }
        if Duration::from_nanos(clock.now().steady.since(start)) > within {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Unix seconds.
pub(crate) fn unix_now() -> i64 {
    Clock::system().now().wall.0.div_euclid(1000)
}
