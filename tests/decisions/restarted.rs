//! What a ledger says after another process has had its directory: the journal's promises, as requests see them.

use tollgate::clock::{Now, Wall};
use tollgate::policy::calendar::{CalendarIx, Period};
use tollgate::policy::charge::{ChargeRule, Stated, Verdict};
use tollgate::policy::limit::{Ceiling, LimitId, LimitKind, SubjectKey, Window};
use tollgate::policy::order::{Ask, Asks};
use tollgate::policy::overlay::{Revoked, RevokedBy};
use tollgate::store::{
    Act, Backing, Completion, Doubt, Found, Ledger, MeterId, Opening, Reservation, Resolution,
};

use super::{answer, ask, at, body, claim, commit, open, waiting};

const PERIOD: Period = Period { from: Wall(0), until: Wall(86_400_000) };

fn quota() -> Ask {
    Ask { period: PERIOD, ..ask(1, 1, Window::Quota(CalendarIx(0)), 1_000) }
}

fn credit(weight: u64) -> Ask {
    Ask { weight, ..ask(2, 1, Window::Prepaid, 0) }
}

fn rate() -> Ask {
    let rate = ask(3, 1, Window::Sliding, 10);
    Ask { ceiling: Ceiling { period: 60_000_000_000, ..rate.ceiling }, ..rate }
}

/// Runs one process's life on the directory; afterwards it is gone without a word.
fn life(directory: &tempfile::TempDir, now: Now, live: impl FnOnce(&Ledger)) {
    let on_failure = Box::new(|why: &str| panic!("{why}"));
    let opened = Backing::open(directory.path(), now, on_failure).expect("it can be opened");
    let ledger = Ledger::new(100, opened.backing, opened.restored);
    live(&ledger);
    ledger.backing().close();
}

fn act(ledger: &Ledger, act: Act) {
    let (reply, wait) = waiting();
    ledger.act(at(1), act, None, reply).expect("it can be done");
    wait();
}

fn top_up(ledger: &Ledger, amount: u64) {
    let meter = MeterId { limit: LimitId(102), kind: LimitKind::Credit, subject: SubjectKey(1) };
    act(ledger, Act::TopUp { meter, amount });
}

fn send(ledger: &Ledger, all: &[Ask], key: Option<u128>) -> Reservation {
    let claim = key.map(|key| claim(1, key));
    match open(ledger, at(1), &Asks::from_slice(all), claim.as_ref()) {
        Opening::Admitted(mut reservation, _) => {
            commit(ledger, &mut reservation);
            reservation.sending();
            reservation
        }
        other => panic!("{other:?}"),
    }
}

fn learn(ledger: &Ledger, reservation: &mut Reservation, status: u16) {
    let rule = ChargeRule::default();
    reservation.learned(ledger, Verdict::of_status(status), &rule, Stated::Unasked);
}

#[test]
fn a_quota_is_never_less_used_than_before_and_at_most_a_block_more() {
    let directory = tempfile::tempdir().expect("a directory");
    life(&directory, at(0), |ledger| {
        for _ in 0..333 {
            send(ledger, &[quota()], None).close(ledger);
        }
    });
    life(&directory, at(2), |ledger| {
        let used = ledger.peek(at(2), &quota()).used;
        assert!((333..=343).contains(&used), "{used}");
    });
}

#[test]
fn an_orderly_end_loses_no_part_of_a_block_and_no_rate() {
    let directory = tempfile::tempdir().expect("a directory");
    life(&directory, at(0), |ledger| {
        for _ in 0..4 {
            send(ledger, &[quota(), rate()], None).close(ledger);
        }
        let (reply, wait) = waiting();
        ledger.finish(at(1), reply).expect("the store is up");
        wait();
    });
    life(&directory, at(2), |ledger| {
        assert_eq!(ledger.peek(at(2), &quota()).used, 4);
        assert_eq!(ledger.peek(at(2), &rate()).used, 4);
    });
}

#[test]
fn a_flush_remembers_rates_those_of_repeats_too() {
    let directory = tempfile::tempdir().expect("a directory");
    life(&directory, at(0), |ledger| {
        let mut first = send(ledger, &[rate()], Some(1));
        learn(ledger, &mut first, 200);
        first.complete(ledger, Completion::Answered(answer(5), body()));
        first.close(ledger);
        ledger.flush(at(1));
        for _ in 0..3 {
            let all = Asks::from_slice(&[rate(), quota()]);
            let repeat = open(ledger, at(1), &all, Some(&claim(1, 1)));
            assert!(matches!(repeat, Opening::Repeated(Found::Answered(..), _)), "{repeat:?}");
        }
        ledger.flush(at(1));
    });
    life(&directory, at(2), |ledger| {
        assert_eq!(ledger.peek(at(2), &rate()).used, 4);
        assert_eq!(ledger.peek(at(2), &quota()).used, 0);
    });
}

#[test]
fn what_was_under_way_is_unknown_and_charged_until_a_person_settles_it() {
    let directory = tempfile::tempdir().expect("a directory");
    life(&directory, at(0), |ledger| {
        top_up(ledger, 100);
        drop(send(ledger, &[credit(30)], Some(1)));
        let mut done = send(ledger, &[credit(20)], Some(2));
        learn(ledger, &mut done, 200);
        done.complete(ledger, Completion::Answered(answer(5), body()));
        done.close(ledger);
    });
    life(&directory, at(2), |ledger| {
        assert_eq!(ledger.peek(at(2), &credit(0)).remaining, 50);
        let repeat = |key| open(ledger, at(2), &Asks::new(), Some(&claim(1, key)));
        assert!(matches!(repeat(1), Opening::Repeated(Found::Unknown, _)));
        match repeat(2) {
            Opening::Repeated(Found::Answered(kept, print), _) => {
                assert_eq!((kept, print), (answer(5), body()));
            }
            other => panic!("{other:?}"),
        }
        let listed = ledger.unresolved();
        assert_eq!((listed.len(), listed[0].1), (1, Doubt::Crash));
        assert_eq!((listed[0].0.party.names().tenant, ledger.unknown_records().len()), ("t", 1));
        act(ledger, Act::Resolve { id: listed[0].0.id, how: Resolution::Release });
        assert_eq!(ledger.peek(at(2), &credit(0)).remaining, 80);
        assert!(ledger.unresolved().is_empty() && ledger.unknown_records().is_empty());
    });
    life(&directory, at(3), |ledger| {
        assert_eq!(ledger.peek(at(3), &credit(0)).remaining, 80, "it goes back once");
        send(ledger, &[credit(80)], Some(1)).close(ledger);
    });
}

#[test]
fn what_a_reset_has_forgiven_does_not_go_back_after_a_restart_either() {
    let reset = |ledger: &Ledger| {
        let meter =
            MeterId { limit: LimitId(102), kind: LimitKind::Credit, subject: SubjectKey(1) };
        act(ledger, Act::Reset { meter });
        let mut after = send(ledger, &[credit(40)], None);
        learn(ledger, &mut after, 200);
        after.close(ledger);
    };
    let released = |ledger: &Ledger| {
        let listed = ledger.unresolved();
        act(ledger, Act::Resolve { id: listed[0].0.id, how: Resolution::Release });
        assert_eq!(ledger.peek(at(2), &credit(0)).remaining, 60);
    };
    for before_the_restart in [true, false] {
        let directory = tempfile::tempdir().expect("a directory");
        life(&directory, at(0), |ledger| {
            top_up(ledger, 100);
            drop(send(ledger, &[credit(30)], Some(1)));
            if before_the_restart {
                reset(ledger);
            }
        });
        life(&directory, at(2), |ledger| {
            if !before_the_restart {
                reset(ledger);
            }
            released(ledger);
        });
        life(&directory, at(3), |ledger| {
            assert_eq!(ledger.peek(at(3), &credit(0)).remaining, 60);
        });
    }
}

#[test]
fn a_refund_and_a_freed_claim_are_remembered() {
    let directory = tempfile::tempdir().expect("a directory");
    life(&directory, at(0), |ledger| {
        top_up(ledger, 100);
        let mut refused = send(ledger, &[credit(30)], None);
        learn(ledger, &mut refused, 404);
        refused.close(ledger);
        let rule = ChargeRule { release: [503].into(), ..ChargeRule::default() };
        let mut freed = send(ledger, &[credit(10)], Some(1));
        freed.learned(ledger, Verdict::of_status(503), &rule, Stated::Unasked);
        freed.close(ledger);
    });
    life(&directory, at(2), |ledger| {
        assert_eq!(ledger.peek(at(2), &credit(0)).remaining, 90);
        assert!(ledger.unresolved().is_empty() && ledger.unknown_records().is_empty());
        send(ledger, &[credit(90)], Some(1)).close(ledger);
    });
}

#[test]
fn a_revoked_key_stays_revoked_and_a_restored_one_was_used_just_now() {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, other) = (SubjectKey(5), SubjectKey(6));
    let revoked =
        Revoked { key: "k".into(), at: Wall(1), by: RevokedBy::Person, why: "lost".into() };
    life(&directory, at(0), |ledger| {
        act(ledger, Act::Revoke { key: one, revoked: revoked.clone() });
        act(ledger, Act::Revoke { key: other, revoked: revoked.clone() });
        act(ledger, Act::Restore { key: other });
        assert!(ledger.last_seen(other).is_some());
    });
    life(&directory, at(2), |ledger| {
        assert_eq!(ledger.overlay().revoked(one), Some(&revoked));
        assert_eq!(ledger.overlay().revoked(other), None);
        assert!(ledger.last_seen(other).is_some() && ledger.last_seen(one).is_none());
    });
}
