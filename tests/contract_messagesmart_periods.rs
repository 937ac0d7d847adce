//! The sentences of the `messagesmart` contract that speak of days, months and years: quotas, lifetimes and revocation by
//! policy, against the shipped policy, with a clock that the test moves.

mod support;

use std::thread;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _, Zoned};
use support::clerk::Clerk;
use support::contract::{SMART, success_false as printed};
use support::inside::Inside;
use support::{A_SECOND, Answer, Backend, Connection, Gate, Policy, Request, eventually};

const QUOTA: &str = r#"{"success":false,"error":{"code":"api_key_quota_exceeded","message":"API key quota has been exceeded.","httpStatus":429}}"#;
const RATE: &str = r#"{"success":false,"error":{"code":"rate_limit_exceeded","message":"Too many requests. Please try again later.","httpStatus":429}}"#;

/// The gate with the shipped policy and time in the test's hand.
struct Office {
    gate: Inside,
}

impl Office {
    fn with(backend: &Backend, edit: impl FnOnce(&Policy)) -> Office {
        let policy = Policy::contract("messagesmart");
        edit(&policy);
        Office { gate: Inside::start(policy, backend) }
    }

    /// As [`Office::with`], with the clock moved on to so long before the next midnight in UTC.
    fn before_midnight(backend: &Backend, by: Duration, edit: impl FnOnce(&Policy)) -> Office {
        let office = Office::with(backend, edit);
        // The next midnight may be too near.
        let day = Duration::from_hours(24);
        let wait = (office.until_midnight() + day).saturating_sub(by);
        office.pass(wait.checked_sub(day).unwrap_or(wait));
        office
    }

    fn now(&self) -> Zoned {
        let now = Timestamp::from_millisecond(self.gate.unix_millis()).expect("a time");
        now.to_zoned(TimeZone::UTC)
    }

    fn until(&self, then: Result<Zoned, jiff::Error>) -> Duration {
        let wait = then.expect("a date").timestamp().duration_since(self.now().timestamp());
        wait.try_into().expect("it lies ahead")
    }

    fn until_midnight(&self) -> Duration {
        self.until(self.now().tomorrow().and_then(|day| day.start_of_day()))
    }

    fn until_the_months_end(&self) -> Duration {
        let first = self.now().first_of_month().and_then(|first| first.checked_add(1.month()));
        self.until(first.and_then(|day| day.start_of_day()))
    }

    fn pass(&self, time: Duration) {
        self.gate.pass(time);
    }

    fn send(&self, key: &str) -> Answer {
        self.gate.send(&SMART.signed(key))
    }

    /// Sends until something else than 200 comes: how many passed, and what came.
    fn use_up(&self, key: &str) -> (usize, Answer) {
        let mut connection = self.gate.connect();
        let mut passed = 0;
        loop {
            let answer = connection.send(&SMART.signed(key));
            if answer.status != 200 {
                return (passed, answer);
            }
            passed += 1;
            assert!(passed < 100_000, "nothing ever ends it");
        }
    }

    /// Whether the gate says that it has revoked this key. Asking with the key itself would be using it.
    fn has_revoked(&self, id: &str) -> bool {
        let standing = self.clerk().looks(&format!("/v1/keys/{id}"));
        standing["state"] == "revoked"
    }

    fn clerk(&self) -> Clerk {
        Clerk(self.gate.admin.expect("the policy has an admin listener"))
    }
}

#[track_caller]
fn is_quota(answer: &Answer) {
    answer.is(429, QUOTA);
}

#[track_caller]
fn is_rate(answer: &Answer) {
    answer.is(429, RATE);
}

/// `Retry-After` is whole seconds, rounded up.
#[track_caller]
fn waits(answer: &Answer, time: Duration) {
    let told = Duration::from_secs(answer.number("retry-after").unsigned_abs());
    assert!(told >= time && told < time + Duration::from_secs(1), "{told:?} and not {time:?}");
}

#[test]
fn the_six_errors_are_printed_as_published() {
    let backend = Backend::start();
    let (mut expired, mut revoked, mut used_up, mut fast) = Default::default();
    let office = Office::with(&backend, |policy| {
        expired = policy.key("acme", &["--expires", "2020-01-01T00:00:00Z"]);
        revoked = policy.key("acme", &["--id", "gone"]);
        policy.revoke("gone");
        used_up = policy.key("acme", &["--limit", "quota=1/day"]);
        fast = policy.key("acme", &["--limit", "rate=1/minute"]);
    });
    for key in [&used_up, &fast] {
        assert_eq!(office.send(key).status, 200);
    }
    let table = [
        ((SMART.ask)(), 401, "api_key_missing", "API key is missing."),
        (
            SMART.signed("ms_live_1a2b3c4d5e6f7g8h9i0j"),
            401,
            "api_key_invalid",
            "API key is invalid.",
        ),
        (SMART.signed(&expired), 401, "api_key_expired", "API key has expired."),
        (SMART.signed(&revoked), 401, "api_key_revoked", "API key has been revoked."),
        (SMART.signed(&used_up), 429, "api_key_quota_exceeded", "API key quota has been exceeded."),
        (
            SMART.signed(&fast),
            429,
            "rate_limit_exceeded",
            "Too many requests. Please try again later.",
        ),
    ];
    for (request, status, code, message) in table {
        let answer = office.gate.send(&request);
        answer.is(status, &printed(status, code, message));
        assert!(answer.json()["error"]["httpStatus"].is_number(), "{}", answer.text());
        assert_eq!(answer.header("retry-after").is_some(), status == 429, "{code}");
    }
    assert_eq!(backend.count(), 2);
}

#[test]
fn a_key_has_no_quota_unless_it_was_given_one() {
    let backend = Backend::start();
    let mut key = String::new();
    let office = Office::with(&backend, |policy| {
        key = policy.key("acme", &["--limit", "rate=100000/minute"]);
    });
    let mut connection = office.gate.connect();
    for _ in 0..2_000 {
        assert_eq!(connection.send(&SMART.signed(&key)).status, 200);
    }
}

#[test]
fn a_quota_per_day_resets_at_midnight_in_utc() {
    let backend = Backend::start();
    let mut key = String::new();
    let half_past = Duration::from_millis(1_500);
    let office = Office::before_midnight(&backend, half_past, |policy| {
        key = policy.key("acme", &["--limit", "quota=5/day"]);
    });
    let (passed, refused) = office.use_up(&key);
    assert_eq!(passed, 5);
    is_quota(&refused);
    waits(&refused, half_past);
    office.pass(Duration::from_millis(1_499));
    let refused = office.send(&key);
    is_quota(&refused);
    assert_eq!(refused.number("retry-after"), 1, "never 0");
    office.pass(Duration::from_millis(1));
    let (passed, refused) = office.use_up(&key);
    assert_eq!(passed, 5, "a new day, and nothing of the old one is carried over");
    is_quota(&refused);
    waits(&refused, Duration::from_hours(24));
    // A day on which nobody came does not add to the next.
    office.pass(Duration::from_hours(72));
    assert_eq!(office.use_up(&key).0, 5);
    assert_eq!(backend.count(), 15);
}

#[test]
fn a_quota_per_month_resets_when_the_month_ends() {
    let backend = Backend::start();
    let mut key = String::new();
    let office =
        Office::with(&backend, |policy| key = policy.key("acme", &["--limit", "quota=3/month"]));
    // Thirteen months, so that every length and a turn of the year are among them, within the key's 365 days.
    for month in 0..11 {
        let (passed, refused) = office.use_up(&key);
        assert_eq!(passed, 3, "month {month}");
        is_quota(&refused);
        let wait = office.until_the_months_end();
        waits(&refused, wait);
        office.pass(wait.saturating_sub(Duration::from_millis(1)));
        is_quota(&office.send(&key));
        office.pass(Duration::from_millis(1));
    }
    assert_eq!(backend.count(), 33);
}

#[test]
fn each_key_chooses_its_period_and_counts_alone() {
    let backend = Backend::start();
    let (mut daily, mut monthly, mut free) = Default::default();
    let office = Office::with(&backend, |policy| {
        daily = policy.key("acme", &["--limit", "quota=2/day"]);
        monthly = policy.key("acme", &["--limit", "quota=4/month"]);
        free = policy.key("acme", &[]);
    });
    // From the first of a month, so that its end is days away.
    office.pass(office.until_the_months_end());
    assert_eq!((office.use_up(&daily).0, office.use_up(&monthly).0), (2, 4));
    let month = office.until_the_months_end();
    waits(&office.send(&daily), office.until_midnight());
    waits(&office.send(&monthly), month);
    assert_eq!(office.send(&free).status, 200, "another key of the tenant");
    office.pass(office.until_midnight());
    assert_eq!(office.use_up(&daily).0, 2);
    is_quota(&office.send(&monthly));
    office.pass(office.until_the_months_end());
    assert_eq!((office.use_up(&daily).0, office.use_up(&monthly).0), (2, 4));
}

#[test]
fn the_rates_answer_waits_for_the_rate_and_the_quotas_for_the_period() {
    let backend = Backend::start();
    let mut key = String::new();
    let noon = Duration::from_hours(12);
    let office = Office::before_midnight(&backend, noon, |policy| {
        key = policy.key("acme", &["--limit", "quota=61/day"]);
    });
    // Sixty pass; the 61st is the rate's, and spends nothing of the quota.
    let (passed, refused) = office.use_up(&key);
    assert_eq!(passed, 60);
    for _ in 0..5 {
        is_rate(&office.send(&key));
    }
    is_rate(&refused);
    assert!((1..=61).contains(&refused.number("retry-after")));
    office.pass(Duration::from_secs(refused.number("retry-after").unsigned_abs()));
    let (passed, refused) = office.use_up(&key);
    assert_eq!(passed, 1, "what was refused was not counted");
    is_quota(&refused);
    waits(&refused, office.until_midnight());
}

#[test]
fn where_both_are_exceeded_the_quota_answers() {
    let backend = Backend::start();
    let mut key = String::new();
    let noon = Duration::from_hours(12);
    let office = Office::before_midnight(&backend, noon, |policy| {
        key = policy.key("acme", &["--limit", "quota=60/day"]);
    });
    let (passed, refused) = office.use_up(&key);
    assert_eq!(passed, 60);
    is_quota(&refused);
    waits(&refused, noon);
    // In the last second of a day the rate's wait is the longer one, and waiting that long admits.
    let mut late = String::new();
    let office = Office::before_midnight(&backend, Duration::from_secs(1), |policy| {
        late = policy.key("acme", &["--limit", "quota=60/day"]);
    });
    let (passed, refused) = office.use_up(&late);
    assert_eq!((passed, refused.status), (60, 429));
    let wait = refused.number("retry-after");
    assert!((2..=61).contains(&wait), "{wait}");
    office.pass(Duration::from_secs(wait.unsigned_abs()));
    assert_eq!(office.send(&late).status, 200);
}

#[test]
fn the_use_of_a_quota_can_be_looked_at_and_outlives_a_restart() {
    let backend = Backend::start();
    let mut key = String::new();
    let noon = Duration::from_hours(12);
    let office = Office::before_midnight(&backend, noon, |policy| {
        key = policy.key("acme", &["--id", "first", "--limit", "quota=10/day"]);
    });
    for _ in 0..4 {
        assert_eq!(office.send(&key).status, 200);
    }
    let figures = office.clerk().figures("key", "first", "quota");
    assert_eq!((&*figures.used, &*figures.ceiling, &*figures.remaining), ("4", "10", "6"));
    let resets: Timestamp =
        figures.resets_at.and_then(|at| at.parse().ok()).expect("a quota resets at a time");
    let midnight = office.now().timestamp() + SignedDuration::from_hours(12);
    assert_eq!(resets, midnight);

    let office = Office { gate: office.gate.restarted(&backend) };
    assert_eq!(office.clerk().figures("key", "first", "quota").used, "4");
    assert_eq!(office.use_up(&key).0, 6);
    let office = Office { gate: office.gate.restarted(&backend) };
    is_quota(&office.send(&key));
    assert_eq!(backend.count(), 10);
}

#[test]
fn a_key_may_get_another_quota_and_its_use_is_carried_over() {
    let backend = Backend::start();
    let mut key = String::new();
    let noon = Duration::from_hours(12);
    let office = Office::before_midnight(&backend, noon, |policy| {
        key = policy.key("acme", &["--limit", "quota=3/day"]);
    });
    assert_eq!(office.use_up(&key).0, 3);
    office.gate.policy.replace_in_keys("3/day", "5/day");
    assert!(eventually(A_SECOND, || office.send(&key).status == 200), "a raised quota");
    assert_eq!(office.use_up(&key).0, 1);
}

#[test]
fn a_lifetime_is_365_days_or_what_the_key_was_made_with() {
    let backend = Backend::start();
    let (mut usual, mut brief) = Default::default();
    let office = Office::with(&backend, |policy| {
        usual = policy.key("acme", &[]);
        brief = policy.key("acme", &["--expires", "30d"]);
    });
    let day = Duration::from_hours(24);
    let moments = [(Duration::ZERO, 200, 200), (day * 29, 200, 200), (day * 2, 200, 401)];
    for (pass, first, second) in
        moments.into_iter().chain([(day * 333, 200, 401), (day * 2, 401, 401)])
    {
        office.pass(pass);
        assert_eq!((office.send(&usual).status, office.send(&brief).status), (first, second));
    }
    office.send(&usual).is(401, &printed(401, "api_key_expired", "API key has expired."));
}

#[test]
fn a_key_that_nobody_uses_is_revoked_by_a_rule_that_is_switched_on() {
    let backend = Backend::start();
    let (mut idle, mut busy) = Default::default();
    let office = Office::with(&backend, |policy| {
        idle = policy.key("acme", &["--id", "idle"]);
        busy = policy.key("acme", &["--id", "busy"]);
        policy.replace("unused: 180d, mode: shadow", "unused: 90d, mode: enforce");
    });
    assert_eq!((office.send(&idle).status, office.send(&busy).status), (200, 200));
    let day = Duration::from_hours(24);
    for _ in 0..3 {
        office.pass(day * 29);
        assert_eq!(office.send(&busy).status, 200);
    }
    // 87 days. The rule is looked at once a minute; a second of real time is more than enough for it.
    thread::sleep(A_SECOND);
    assert_eq!(office.send(&idle).status, 200, "it was not unused for 90 days");
    office.pass(day * 89);
    assert_eq!(office.send(&busy).status, 200);
    office.pass(day * 2);
    let revoked = printed(401, "api_key_revoked", "API key has been revoked.");
    assert!(eventually(3 * A_SECOND, || office.has_revoked("idle")), "91 days");
    office.send(&idle).is(401, &revoked);
    assert_eq!(office.send(&busy).status, 200);
    let office = Office { gate: office.gate.restarted(&backend) };
    office.send(&idle).is(401, &revoked);

    // One command takes it back, and the key counts as used now.
    office.clerk().restore("idle");
    assert!(eventually(A_SECOND, || office.send(&idle).status == 200));
    thread::sleep(A_SECOND);
    assert_eq!(office.send(&idle).status, 200);
}

/// A key that is refused from here and works from 127.0.0.9.
fn away(policy: &Policy, id: &str) -> String {
    policy.key("acme", &["--id", id, "--allow", "127.0.0.9/32"])
}

#[test]
fn a_key_that_is_refused_too_often_is_revoked_by_a_rule_that_is_switched_on() {
    let backend = Backend::start();
    let (mut loud, mut slow) = Default::default();
    let office = Office::with(&backend, |policy| {
        loud = away(policy, "loud");
        slow = away(policy, "slow");
        let rule = "for: [scope_denied, address_denied, tenant_denied], mode: ";
        policy.replace(&format!("{rule}shadow"), &format!("{rule}enforce"));
    });
    let mut listed = Connection::from([127, 0, 0, 9], office.gate.traffic);
    let mut from_the_list = |key: &str| listed.send(&SMART.signed(key));
    // Other refusals are not of the named kinds: a path that does not exist, and a rate.
    for _ in 0..60 {
        let missing = Request::get("/nowhere").header("X-API-Key", &loud);
        assert_eq!(office.gate.send(&missing).status, 404);
    }
    for _ in 0..49 {
        assert_eq!((office.send(&loud).status, office.send(&slow).status), (403, 403));
    }
    thread::sleep(A_SECOND);
    assert_eq!(from_the_list(&loud).status, 200, "49 are borne");
    assert_eq!(office.send(&loud).status, 403);
    assert!(eventually(A_SECOND, || office.has_revoked("loud")), "50 within an hour");
    let revoked = printed(401, "api_key_revoked", "API key has been revoked.");
    from_the_list(&loud).is(401, &revoked);

    // An hour later the old refusals of the other one are forgotten.
    office.pass(Duration::from_mins(61));
    for _ in 0..10 {
        assert_eq!(office.send(&slow).status, 403);
    }
    thread::sleep(A_SECOND);
    assert_eq!(from_the_list(&slow).status, 200);
    from_the_list(&loud).is(401, &revoked);
    let office = Office { gate: office.gate.restarted(&backend) };
    office.send(&loud).is(401, &revoked);

    office.clerk().restore("loud");
    let mut listed = Connection::from([127, 0, 0, 9], office.gate.traffic);
    assert!(eventually(A_SECOND, || listed.send(&SMART.signed(&loud)).status == 200));
}

#[test]
fn as_shipped_the_rules_revoke_nothing_and_say_what_they_would_do() {
    let backend = Backend::start();
    let policy = Policy::contract("messagesmart");
    let loud = away(&policy, "loud");
    let gate = Gate::start(policy, &backend);
    for _ in 0..60 {
        assert_eq!(gate.send(&SMART.signed(&loud)).status, 403);
    }
    let said = || {
        gate.output()
            .lines()
            .any(|line| line.contains("loud") && line.contains("abuse") && line.contains("shadow"))
    };
    assert!(eventually(2 * A_SECOND, said), "{}", gate.output());
    let mut listed = Connection::from([127, 0, 0, 9], gate.traffic);
    assert_eq!(listed.send(&SMART.signed(&loud)).status, 200);

    let mut idle = String::new();
    let office = Office::with(&backend, |policy| idle = policy.key("acme", &["--id", "idle"]));
    assert_eq!(office.send(&idle).status, 200);
    office.pass(Duration::from_hours(24 * 200));
    thread::sleep(2 * A_SECOND);
    assert_eq!(office.send(&idle).status, 200);
}

#[test]
fn a_key_can_be_revoked_by_hand_at_the_admin_listener_too() {
    let backend = Backend::start();
    let mut key = String::new();
    let office = Office::with(&backend, |policy| key = policy.key("acme", &["--id", "first"]));
    let mut open = office.gate.connect();
    assert_eq!(open.send(&SMART.signed(&key)).status, 200);
    office.clerk().revoke("first");
    let revoked = printed(401, "api_key_revoked", "API key has been revoked.");
    open.send(&SMART.signed(&key)).is(401, &revoked);
    let office = Office { gate: office.gate.restarted(&backend) };
    office.send(&key).is(401, &revoked);
    office.clerk().restore("first");
    assert!(eventually(A_SECOND, || office.send(&key).status == 200));
}
