//! One ledger and its model, how requests are opened, and what people do to both.

use std::collections::HashSet;
use std::rc::Rc;

use jiff::tz::TimeZone;
use tollgate::clock::{Now, Steady, Wall};
use tollgate::policy::calendar::{Calendar, CalendarIx, Every, Period};
use tollgate::policy::idempotency::{HeadPrint, OnUnknown, RecordBounds, RecordId};
use tollgate::policy::limit::{Ceiling, LimitId, LimitKind, Mode, SubjectKey, Window};
use tollgate::policy::order::{Ask, Asks, Heard, Readings};
use tollgate::policy::outcome::Record as Fate;
use tollgate::store::{
    Act, ActProblem, Adjustment, Claim, Found, MeterId, Opening, Order, Reservation, ReservationId,
    Resolution,
};

use super::event::Event;
use super::model::{Model, RATE_PERIOD, Row, Said, State, Taken, vetoes};
use super::{Ground, ask, commit, waiting};

pub(super) const HOUR: i64 = 3_600_000;

/// 2026-10-23T12:00:00Z: days of 25 hours, ends of months and an anchor's day are near.
pub(super) const START: i64 = 1_792_756_800_000;

pub(super) const BOUNDS: RecordBounds = RecordBounds { records: 7, per_tenant: 5, bytes: 900 };

/// How long records live, and what statuses free a claim.
pub(super) const KEEP: i64 = 6 * HOUR;

/// An exchange under way, and what the model knows of it.
pub(super) struct Exchange {
    pub(super) reservation: Reservation,
    pub(super) taken: Vec<(LimitKind, Taken)>,
    pub(super) key: Option<u128>,
    /// What nobody knew of the request before.
    pub(super) before: Option<Row>,
    pub(super) fate: Option<Fate>,
}

/// Money that nobody knows the outcome of.
pub(super) struct Listed {
    pub(super) id: ReservationId,
    pub(super) taken: Vec<Taken>,
    pub(super) key: Option<u128>,
    /// When, by the wall clock.
    pub(super) claimed: i64,
}

pub(super) struct World {
    pub(super) ground: Ground,
    pub(super) model: Model,
    pub(super) limits: Vec<Ask>,
    pub(super) calendars: Vec<Calendar>,
    pub(super) steady: i64,
    pub(super) offset: i64,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) listed: Vec<Listed>,
    pub(super) ids: HashSet<ReservationId>,
}

impl World {
    pub(super) fn new(ground: Ground) -> World {
        let calendar = |every, zone, anchor| {
            Calendar::new(every, TimeZone::get(zone).expect("a zone"), anchor, Wall(START))
        };
        let rate = ask(0, 0, Window::Sliding, 9);
        let period = u64::try_from(RATE_PERIOD).expect("positive") * 1_000_000;
        let rate = Ask { ceiling: Ceiling { period, ..rate.ceiling }, ..rate };
        let world = World {
            ground,
            model: Model::default(),
            limits: vec![
                rate,
                ask(1, 0, Window::Quota(CalendarIx(0)), 6),
                ask(2, 0, Window::Quota(CalendarIx(1)), 9),
                ask(3, 0, Window::Spend(CalendarIx(2)), 12),
                ask(4, 0, Window::Prepaid, 0),
            ],
            calendars: vec![
                calendar(Every::Day, "Europe/Amsterdam", 1),
                calendar(Every::Month, "UTC", 31),
                calendar(Every::Month, "America/New_York", 25),
            ],
            steady: 0,
            offset: 0,
            exchanges: Vec::new(),
            listed: Vec::new(),
            ids: HashSet::new(),
        };
        // From its first sweep on the ledger knows how far to believe the wall clock.
        world.ground.ledger.sweep(world.now(), 0);
        world
    }

    pub(super) fn wall(&self) -> i64 {
        START + self.steady + self.offset
    }

    pub(super) fn now(&self) -> Now {
        let steady = Steady(u64::try_from(self.steady).expect("positive") * 1_000_000);
        Now { steady, wall: Wall(self.wall()) }
    }

    /// The ask of a limit at this moment.
    pub(super) fn ask(&self, limit: usize, tenant: u128, cost: u64, weight: u64) -> Ask {
        let ask = self.limits[limit];
        let calendar = ask.ceiling.window.calendar();
        let money = ask.ceiling.window.kind().is_money();
        Ask {
            // Two cells a tenant, so that what is taken together is not always locked together.
            subject: SubjectKey(tenant * 10 + u128::from(limit == 3)),
            period: calendar.map_or(Period::default(), |ix| {
                self.calendars[usize::from(ix.0)].period_at(Wall(self.wall()))
            }),
            weight: if money { cost } else { weight },
            ..ask
        }
    }

    pub(super) fn asks(&self, tenant: u128, cost: u64, weight: u64) -> Rc<Asks> {
        let limits = 0..self.limits.len();
        Rc::new(limits.map(|limit| self.ask(limit, tenant, cost, weight)).collect())
    }

    pub(super) fn says(&self, asks: &Asks) -> Vec<Said> {
        asks.iter().map(|ask| self.model.says(ask, self.steady)).collect()
    }

    /// What the model makes of a claim: whether it is fresh, else the word for what it finds.
    pub(super) fn claims(
        &mut self,
        tenant: u128,
        key: u128,
        head: u8,
        waiver: bool,
    ) -> Result<(), &'static str> {
        let (id, wall) = (tenant * 1_000 + key, self.wall());
        match self.model.living(id, wall, self.steady) {
            Some(row) if row.head != head => return Err("mismatch"),
            Some(Row { state: State::InFlight, .. }) => return Err("in flight"),
            Some(Row { state: State::Answered(_), .. }) => return Err("answered"),
            Some(Row { state: State::NotReplayable, .. }) => return Err("not replayable"),
            Some(Row { state: State::Unknown, .. }) if !waiver => return Err("unknown"),
            Some(Row { state: State::Unknown, .. }) => return Ok(()),
            None if self.model.rows.contains_key(&id) => return Ok(()),
            None => {}
        }
        let is_full = |model: &Model| {
            model.rows.len() >= BOUNDS.records
                || model.count(|row| row.tenant == tenant) >= BOUNDS.per_tenant
        };
        if is_full(&self.model) {
            self.model.forget_ended(wall, self.steady);
        }
        if is_full(&self.model) { Err("full") } else { Ok(()) }
    }

    pub(super) fn open(
        &mut self,
        tenant: u128,
        key: Option<(u128, u8)>,
        cost: u64,
        weight: u64,
        waiver: bool,
    ) {
        let asks = self.asks(tenant, cost, weight);
        let before = self.says(&asks);
        let claim = key.map(|(key, head)| Claim {
            id: RecordId(tenant * 1_000 + key),
            tenant: SubjectKey(tenant),
            head: HeadPrint([head; 32]),
            keep: KEEP,
            on_unknown: if waiver { OnUnknown::Forward } else { OnUnknown::Refuse },
        });
        let order = Order { asks: &asks, claim: claim.as_ref(), bounds: BOUNDS, caller: None };
        let opening = self.ground.ledger.open(self.now(), &order);
        let claimed = key.map_or(Ok(()), |(key, head)| self.claims(tenant, key, head, waiver));
        match (claimed, opening) {
            (Ok(()), Opening::Admitted(reservation, readings)) => {
                assert!(!asks.iter().zip(&before).any(|(ask, said)| vetoes(ask, *said)));
                let taken = self.take(&asks, &before, &readings, |_| true);
                self.admitted(reservation, taken, tenant, key);
            }
            (Ok(()), Opening::Refused(readings)) => {
                assert!(asks.iter().zip(&before).any(|(ask, said)| vetoes(ask, *said)));
                assert_eq!(figures(&readings), before, "a refusal spends nothing");
                // A record that had ended gave way to the claim, and went with it.
                if let Some((key, _)) = key
                    && self.model.living(tenant * 1_000 + key, self.wall(), self.steady).is_none()
                {
                    self.model.rows.remove(&(tenant * 1_000 + key));
                }
                self.waits(&asks, &readings);
            }
            (Err("full"), Opening::Full(readings)) => assert_eq!(figures(&readings), before),
            (Err(word), Opening::Repeated(found, readings)) => {
                assert_eq!(word_of(&found), word);
                assert!(!vetoes(&asks[0], before[0]));
                self.take(&asks, &before, &readings, |kind| kind == LimitKind::Rate);
            }
            (Err(word), Opening::Refused(readings)) => {
                assert!(
                    word != "full" && vetoes(&asks[0], before[0]),
                    "only a rate refuses repeats"
                );
                let others = Heard { asks: &asks[1..], readings: &readings[1..] };
                assert_eq!(others.refusal(), None);
            }
            (claimed, opening) => panic!("{claimed:?}, and the ledger says {opening:?}"),
        }
    }

    /// Takes what a ledger that said this should have taken.
    pub(super) fn take(
        &mut self,
        asks: &Asks,
        before: &[Said],
        readings: &Readings,
        is_asked: impl Fn(LimitKind) -> bool,
    ) -> Vec<(LimitKind, Taken)> {
        let mut all = Vec::new();
        for ((ask, said), reading) in asks.iter().zip(before).zip(readings) {
            let kind = ask.ceiling.window.kind();
            if is_asked(kind) && said.2 {
                self.model.take(ask, self.steady);
                let meter = (ask.limit.0, ask.subject.0);
                let (wall, steady) = (self.wall(), self.steady);
                all.push((kind, Taken { meter, amount: ask.weight, wall, steady }));
            }
            let (used, remaining, _) = self.model.says(ask, self.steady);
            assert_eq!((reading.used, reading.remaining), (used, remaining), "{ask:?}");
            assert!(reading.admits == said.2 || !is_asked(kind) && reading.admits);
        }
        all
    }

    pub(super) fn admitted(
        &mut self,
        mut reservation: Reservation,
        taken: Vec<(LimitKind, Taken)>,
        tenant: u128,
        key: Option<(u128, u8)>,
    ) {
        let mut before = None;
        if let Some((key, head)) = key {
            let (wall, steady) = (self.wall(), self.steady);
            let row = Row {
                tenant,
                head,
                claimed: wall,
                until: wall + KEEP,
                ends: steady + KEEP,
                listed: steady + KEEP,
                state: State::InFlight,
            };
            let unknown = |row: &Row| row.state == State::Unknown && row.lives(wall, steady);
            before = self.model.rows.insert(tenant * 1_000 + key, row).filter(unknown);
        }
        let money = taken.iter().any(|(kind, taken)| kind.is_money() && taken.amount > 0);
        assert_eq!(reservation.holds_promise(), money || key.is_some());
        assert_eq!(reservation.holds_claim(), key.is_some());
        commit(&self.ground.ledger, &mut reservation);
        let key = key.map(|(key, _)| tenant * 1_000 + key);
        self.exchanges.push(Exchange { reservation, taken, key, before, fate: None });
    }

    /// For an otherwise idle subject, waiting exactly as long as was said admits, and less does not.
    pub(super) fn waits(&self, asks: &Asks, readings: &Readings) {
        for (ask, reading) in asks.iter().zip(readings).filter(|(_, reading)| !reading.admits) {
            let Some(wait) = reading.wait else { continue };
            let later = |nanos: u64| {
                let now = self.now();
                let wall = now.wall.plus_nanos(nanos);
                let calendar = ask.ceiling.window.calendar();
                let period = calendar.map_or(Period::default(), |ix| {
                    self.calendars[usize::from(ix.0)].period_at(wall)
                });
                let now = Now { steady: now.steady.plus(nanos), wall };
                self.ground.ledger.peek(now, &Ask { period, ..*ask }).admits
            };
            assert!(later(wait), "{ask:?} {reading:?}");
            assert!(!later(wait - 1_000_000), "{ask:?} {reading:?}");
        }
    }

    fn act(&self, act: Act) -> Result<(), ActProblem> {
        let (reply, wait) = waiting();
        self.ground.ledger.act(self.now(), act, None, reply)?;
        wait();
        Ok(())
    }

    pub(super) fn meter(&self, limit: usize, tenant: u128) -> (MeterId, Ask) {
        let ask = self.ask(limit, tenant, 0, 0);
        (
            MeterId {
                limit: LimitId(ask.id.0),
                kind: ask.ceiling.window.kind(),
                subject: ask.subject,
            },
            ask,
        )
    }

    pub(super) fn adjust(&mut self, limit: usize, tenant: u128, add: bool, amount: u64) {
        let (meter, ask) = self.meter(limit, tenant);
        let by = if add { Adjustment::Add(amount) } else { Adjustment::Remove(amount) };
        let done = self.act(Act::Adjust { meter, period: ask.period, by });
        if meter.kind == LimitKind::Rate {
            assert_eq!(done, Err(ActProblem::NotFound));
        } else {
            assert_eq!(done, Ok(()));
            let (more, less) = if add { (amount, 0) } else { (0, amount) };
            self.model.adjust(&ask, more, less);
        }
    }

    pub(super) fn resolve(&mut self, which: usize, how: Resolution) {
        let Some(id) = self.listed.get(which).map(|listed| listed.id) else {
            let none = Act::Resolve { id: ReservationId(7), how };
            assert_eq!(self.act(none), Err(ActProblem::NotFound));
            return;
        };
        assert_eq!(self.act(Act::Resolve { id, how }), Ok(()));
        let listed = self.listed.remove(which);
        let unknown = listed.key.filter(|key| {
            self.model
                .rows
                .get(key)
                .is_some_and(|row| row.state == State::Unknown && row.claimed == listed.claimed)
        });
        self.put(unknown, None, (how == Resolution::Confirm).then_some(State::NotReplayable));
        self.settled(listed, how);
    }

    pub(super) fn resolve_record(&mut self, key: u128, how: Resolution) {
        let done = self.act(Act::ResolveRecord { id: RecordId(key), how });
        let claimed = self.model.rows.get(&key).map(|row| row.claimed);
        match self.model.rows.get(&key).map(|row| &row.state) {
            None | Some(State::Answered(_) | State::NotReplayable) => {
                assert_eq!(done, Err(ActProblem::NotFound));
            }
            Some(State::InFlight) => assert_eq!(done, Err(ActProblem::UnderWay)),
            Some(State::Unknown) => {
                assert_eq!(done, Ok(()));
                self.put(
                    Some(key),
                    None,
                    (how == Resolution::Confirm).then_some(State::NotReplayable),
                );
                let hangs =
                    |listed: &Listed| listed.key == Some(key) && Some(listed.claimed) == claimed;
                while let Some(at) = self.listed.iter().position(hangs) {
                    let listed = self.listed.remove(at);
                    self.settled(listed, how);
                }
            }
        }
    }

    pub(super) fn settled(&mut self, listed: Listed, how: Resolution) {
        if how == Resolution::Release {
            for taken in listed.taken {
                self.model.give_back(taken);
            }
        }
    }

    pub(super) fn apply(&mut self, event: Event) {
        let how = |release| if release { Resolution::Release } else { Resolution::Confirm };
        match event {
            Event::Open { tenant, key, cost, weight, waiver } => {
                self.open(tenant, key, cost, weight, waiver);
            }
            Event::Go { which, verdict, stated, ending } => self.go(which, verdict, stated, ending),
            Event::Close(which) => self.close(which),
            Event::Release(which) => self.release(which),
            Event::Tick(ms) => self.steady += ms,
            Event::SetClock(offset) => self.offset = offset,
            Event::TopUp(tenant, amount) => {
                let (meter, ask) = self.meter(4, tenant);
                assert_eq!(self.act(Act::TopUp { meter, amount }), Ok(()));
                self.model.top_up((ask.limit.0, ask.subject.0), amount);
            }
            Event::Adjust { limit, tenant, add, amount } => self.adjust(limit, tenant, add, amount),
            Event::Reset { limit, tenant } => {
                let (meter, ask) = self.meter(limit, tenant);
                assert_eq!(self.act(Act::Reset { meter }), Ok(()));
                let reset = (ask.limit.0, ask.subject.0);
                self.model.reset(reset, self.steady);
                // The list knows what came before the reset, also where the clock does not.
                for listed in &mut self.listed {
                    listed.taken.retain(|taken| taken.meter != reset);
                }
            }
            Event::Resolve { which, release } => self.resolve(which, how(release)),
            Event::ResolveRecord { tenant, key, release } => {
                self.resolve_record(tenant * 1_000 + key, how(release));
            }
            Event::Ceiling { limit, units } => {
                let ceiling = &mut self.limits[limit].ceiling;
                (ceiling.units, ceiling.burst) = (units, units);
            }
            Event::Mode { limit, shadow } => {
                self.limits[limit].mode = if shadow { Mode::Shadow } else { Mode::Enforce };
            }
            Event::Sweep => {
                self.ground.ledger.sweep(self.now(), 1_000);
                self.ground.ledger.sweep_records(self.now(), 1_000);
                self.model.forget_ended(self.wall(), self.steady);
            }
        }
        self.check();
    }

    pub(super) fn end_all(&mut self) {
        while !self.exchanges.is_empty() {
            self.close(0);
        }
        self.check();
    }

    /// Whatever happened, the ledger and the model say the same.
    pub(super) fn check(&self) {
        let ledger = &self.ground.ledger;
        let full = ledger.records();
        let in_state = |state: State| self.model.count(|row| row.state == state);
        assert_eq!(full.records, self.model.rows.len());
        assert_eq!(full.in_flight, in_state(State::InFlight));
        assert_eq!(full.unknown, in_state(State::Unknown));
        assert_eq!(full.unknown, ledger.unknown_records().len());
        assert_eq!(full.bytes, self.model.bytes());
        assert!(full.records <= BOUNDS.records && full.bytes <= BOUNDS.bytes);
        assert_eq!(ledger.unresolved().len(), self.listed.len());
        for tenant in 1..3 {
            for ask in self.asks(tenant, 1, 1).iter() {
                let reading = ledger.peek(self.now(), ask);
                let read = (reading.used, reading.remaining, reading.admits);
                assert_eq!(read, self.model.says(ask, self.steady), "{ask:?}");
            }
        }
    }
}

fn figures(readings: &Readings) -> Vec<Said> {
    readings.iter().map(|reading| (reading.used, reading.remaining, reading.admits)).collect()
}

fn word_of(found: &Found) -> &'static str {
    match found {
        Found::InFlight => "in flight",
        Found::Mismatch => "mismatch",
        Found::Unknown => "unknown",
        Found::NotReplayable => "not replayable",
        Found::Answered(..) => "answered",
    }
}
