//! The rounds without their thread: time moves by hand, and nothing is waited for.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clock::{ManualClock, Wall};
use crate::config::{self, Overrides, Sources};
use crate::policy::keys::Key;
use crate::policy::limit::SubjectKey;
use crate::policy::overlay::RevokedBy;
use crate::policy::refusal::Refusal;
use crate::store::{Act, Backing, Restored};
use crate::telemetry::metrics::BuildInfo;

use super::*;

const DAY: Duration = Duration::from_hours(24);

const KEYS: &str = "
- { id: ka, tenant: acme, digest: { sha256: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" } }
- { id: kb, tenant: acme, digest: { sha256: \"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\" } }
- { id: old, tenant: acme, digest: { sha256: \"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\" }, expires: 2026-01-01T00:00:00Z }
- { id: gone, tenant: acme, digest: { sha256: \"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\" }, revoked: { at: 2026-01-01T00:00:00Z } }
";

struct House {
    rounds: Rounds,
    clock: Arc<ManualClock>,
    strikes: Strikes,
    from: Receiver<Message>,
    wakes: Arc<AtomicUsize>,
}

fn named<'a>(policy: &'a Snapshot, id: &str) -> Key<'a> {
    policy.keys.iter().find(|key| key.id == id).expect("it is in the file")
}

fn policy(rules: &str, now: Wall) -> Snapshot {
    let text = format!(
        "version: 1\nupstream: http://127.0.0.1:9\ncredentials: {{ keys: k.yaml }}\n\
         routes: [{{ name: all, match: ANY /** }}]\nauto_revoke:\n{rules}"
    );
    let read = move |path: &Path| {
        Ok(if path.ends_with("k.yaml") { KEYS.into() } else { text.clone().into_bytes() })
    };
    let sources = Sources {
        read: &read,
        open: None,
        list: &|_| Ok(Vec::new()),
        env: &|_| None,
        breathe: &|| (),
    };
    config::load(Path::new("p.yaml"), &Overrides::default(), &sources, now, None).unwrap().snapshot
}

impl House {
    fn with(rules: &str) -> House {
        let now = Now { wall: Wall(1_790_000_000_000), ..Now::default() };
        let manual = ManualClock::starting_at(now);
        let clock = Clock::Manual(Arc::clone(&manual));
        let wakes = Arc::new(AtomicUsize::new(0));
        let woken = Arc::clone(&wakes);
        let snapshot = policy(rules, now.wall);
        let build = BuildInfo { version: "0", revision: "0" };
        let metrics = Metrics::new(1, build, clock.clone());
        metrics.policy_in_force(&snapshot, 1, now);
        let parts = Parts {
            ledger: Ledger::new(100, Backing::None, Restored::default()),
            policy: Arc::new(ArcSwap::from_pointee(snapshot)),
            metrics,
            lifecycle: Arc::new(Lifecycle::new()),
            log: Log::discard(),
            clock,
            wake: Wake::new(move || {
                woken.fetch_add(1, Ordering::Relaxed);
            }),
            directory: None,
        };
        let (to, from) = sync_channel(QUEUE);
        let rounds = Rounds::new(parts, HandedOn::default());
        House { rounds, clock: manual, strikes: Strikes::new(to), from, wakes }
    }

    fn round(&mut self) {
        self.rounds.round(self.clock.now());
    }

    fn policy(&self) -> Arc<Snapshot> {
        self.rounds.parts.policy.load_full()
    }

    /// The subject of a key.
    fn key(&self, id: &str) -> SubjectKey {
        named(&self.policy(), id).subject
    }

    /// One refusal of this key, and what comes of it.
    fn refused(&mut self, id: &str, why: Refusal) {
        let (policy, now) = (self.policy(), self.clock.now());
        let key = named(&policy, id);
        let parts = &self.rounds.parts;
        self.strikes.refused(&policy, &parts.ledger, now, &key, why);
        while let Ok(Message::Strike(strike)) = self.from.try_recv() {
            self.rounds.bailiff.struck(&self.rounds.parts, strike, now);
        }
    }

    fn revoked_by(&self, id: &str) -> Option<RevokedBy> {
        let overlay = self.rounds.parts.ledger.overlay();
        overlay.revoked(self.key(id)).map(|revoked| revoked.by.clone())
    }

    fn counted(&self, rule: &str, mode: &str) -> u64 {
        let series = format!("tollgate_auto_revocations_total{{rule=\"{rule}\",mode=\"{mode}\"}} ");
        let text = self.rounds.parts.metrics.render().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.expect("it is there from the start").parse().unwrap()
    }
}

#[test]
fn a_key_counts_as_unused_from_its_first_sight_and_only_while_nobody_uses_it() {
    let mut house = House::with("  idle: { unused: 90d, mode: enforce }\n");
    house.round();
    house.clock.advance(60 * DAY);
    house.rounds.parts.ledger.saw(house.key("ka"), house.clock.now().wall);
    house.clock.advance(29 * DAY);
    house.round();
    assert_eq!(house.revoked_by("kb"), None, "a day is left");
    house.clock.advance(2 * DAY);
    house.round();
    assert_eq!(house.revoked_by("kb"), Some(RevokedBy::Rule("idle".into())));
    assert_eq!(house.revoked_by("ka"), None);
    assert_eq!((house.counted("idle", "enforce"), house.wakes.load(Ordering::Relaxed)), (1, 1));
}

/// The wall clock alone goes ahead: it was wrong, or the machine slept.
fn jump(house: &House, by: Duration) {
    let wall = house.clock.now().wall;
    house.clock.set_wall(wall.plus_nanos(u64::try_from(by.as_nanos()).unwrap()));
}

#[test]
fn a_clock_that_jumps_ahead_revokes_nobody() {
    let mut house = House::with("  idle: { unused: 90d, mode: enforce }\n");
    house.round();
    jump(&house, 400 * DAY);
    house.clock.advance(Duration::from_hours(1));
    house.round();
    assert_eq!((house.revoked_by("ka"), house.revoked_by("kb")), (None, None));
    house.clock.advance(91 * DAY);
    house.round();
    assert!(house.revoked_by("ka").is_some(), "that many days nobody used it");
}

#[test]
fn a_gate_that_was_down_for_long_revokes_nobody_when_it_comes_back() {
    let mut house = House::with("  idle: { unused: 90d, mode: enforce }\n");
    house.round();
    house.clock.advance(100 * DAY);
    // Another process, with the same ledger.
    house.rounds = Rounds::new(house.rounds.parts.clone(), HandedOn::default());
    house.round();
    assert_eq!((house.revoked_by("ka"), house.revoked_by("kb")), (None, None));
    house.clock.advance(60 * DAY);
    house.round();
    house.clock.advance(Duration::from_hours(1));
    house.rounds = Rounds::new(house.rounds.parts.clone(), HandedOn::default());
    house.round();
    house.clock.advance(31 * DAY);
    house.round();
    assert!(house.revoked_by("ka").is_some(), "a short restart does not start the count anew");
}

#[test]
fn a_rule_that_is_switched_on_again_does_not_count_the_time_in_which_nobody_looked() {
    let mut house = House::with("  idle: { unused: 90d, mode: enforce }\n");
    house.round();
    let with = house.rounds.parts.policy.load_full();
    let without =
        policy("  abuse: { refused: 5/hour, for: [scope_denied] }\n", house.clock.now().wall);
    house.rounds.parts.policy.store(Arc::new(without));
    house.clock.advance(Duration::from_hours(1));
    house.round();
    house.clock.advance(100 * DAY);
    house.round();
    house.rounds.parts.policy.store(with);
    house.clock.advance(Duration::from_hours(1));
    house.round();
    assert_eq!((house.revoked_by("ka"), house.revoked_by("kb")), (None, None));
}

#[test]
fn what_its_file_has_ended_is_not_ended_again() {
    let mut house = House::with("  idle: { unused: 1d, mode: enforce }\n");
    house.round();
    house.clock.advance(10 * DAY);
    house.round();
    assert_eq!((house.revoked_by("old"), house.revoked_by("gone")), (None, None));
    assert!(house.revoked_by("ka").is_some());
}

#[test]
fn a_restored_key_counts_as_used_by_the_one_who_restored_it() {
    let mut house = House::with("  idle: { unused: 1d, mode: enforce }\n");
    house.round();
    house.clock.advance(2 * DAY);
    house.round();
    let restore = Act::Restore { key: house.key("ka") };
    let now = house.clock.now();
    house.rounds.parts.ledger.act(now, restore, None, Box::new(|_| {})).unwrap();
    house.clock.advance(DAY / 2);
    house.round();
    assert_eq!(house.revoked_by("ka"), None);
    house.clock.advance(DAY);
    house.round();
    assert!(house.revoked_by("ka").is_some());
}

#[test]
fn refusals_for_the_named_reasons_revoke_at_the_number_within_the_window() {
    let mut house =
        House::with("  abuse: { refused: 5/hour, for: [scope_denied], mode: enforce }\n");
    for _ in 0..50 {
        house.refused("ka", Refusal::Rate);
    }
    for _ in 0..4 {
        house.refused("ka", Refusal::ScopeDenied);
    }
    assert_eq!(house.revoked_by("ka"), None, "four are borne");
    house.clock.advance(Duration::from_hours(1));
    house.refused("ka", Refusal::ScopeDenied);
    assert_eq!(house.revoked_by("ka"), None, "the window has moved on");
    for _ in 0..4 {
        house.refused("ka", Refusal::ScopeDenied);
    }
    assert_eq!(house.revoked_by("ka"), Some(RevokedBy::Rule("abuse".into())));
    assert_eq!(house.revoked_by("kb"), None);
    house.refused("ka", Refusal::ScopeDenied);
    assert_eq!(house.counted("abuse", "enforce"), 1, "once");
}

#[test]
fn in_shadow_a_rule_is_counted_once_a_key_and_revokes_nobody() {
    let rules = "  idle: { unused: 1d }\n  abuse: { refused: 1/hour, for: [scope_denied] }\n";
    let mut house = House::with(rules);
    house.round();
    house.clock.advance(2 * DAY);
    for _ in 0..5 {
        house.round();
        house.refused("kb", Refusal::ScopeDenied);
        house.clock.advance(Duration::from_mins(2));
    }
    assert_eq!((house.revoked_by("ka"), house.revoked_by("kb")), (None, None));
    assert_eq!((house.counted("idle", "shadow"), house.counted("abuse", "shadow")), (2, 1));
    assert_eq!(house.wakes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_rule_that_the_policy_has_no_more_strikes_nobody() {
    let mut house =
        House::with("  abuse: { refused: 1/hour, for: [scope_denied], mode: enforce }\n");
    let (before, now) = (house.policy(), house.clock.now());
    let key = named(&before, "ka");
    for _ in 0..2 {
        house.strikes.refused(&before, &house.rounds.parts.ledger, now, &key, Refusal::ScopeDenied);
    }
    let other = policy("  idle: { unused: 1d, mode: enforce }\n", now.wall);
    house.rounds.parts.policy.store(Arc::new(other));
    while let Ok(Message::Strike(strike)) = house.from.try_recv() {
        house.rounds.bailiff.struck(&house.rounds.parts, strike, now);
    }
    assert_eq!(house.revoked_by("ka"), None);
}
