//! What the ledger should say, worked out one request after another by the plainest means: logs, maps and sums.

use std::collections::{BTreeMap, HashMap};

use tollgate::policy::calendar::Period;
use tollgate::policy::limit::{LimitKind, Mode, Window};
use tollgate::policy::order::Ask;

/// What a limit says: used, remaining, whether it admits.
pub(crate) type Said = (u64, u64, bool);

/// One subject's use of one limit.
#[derive(Clone, Debug)]
pub(crate) enum Use {
    /// Milliseconds of the steady clock, and units.
    Log(Vec<(i64, u64)>),
    /// The latest period that was seen, and its use.
    Sum(Period, u64),
    /// What was topped up, and what is used of it.
    Purse(u64, u64),
}

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    InFlight,
    Answered(usize),
    NotReplayable,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) tenant: u128,
    pub(crate) head: u8,
    /// When it was claimed, by the wall clock.
    pub(crate) claimed: i64,
    /// The end of its life by the wall clock, and by the one that does not jump: the later of both counts.
    pub(crate) until: i64,
    pub(crate) ends: i64,
    /// When a search for ended ones looks at it next, by the clock that does not jump.
    pub(crate) listed: i64,
    pub(crate) state: State,
}

impl Row {
    pub(crate) fn lives(&self, wall: i64, steady: i64) -> bool {
        self.state == State::InFlight || self.until > wall || self.ends > steady
    }
}

/// Money that was taken: from which meter, how much, and when by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) meter: (u16, u128),
    pub(crate) amount: u64,
    pub(crate) wall: i64,
    pub(crate) steady: i64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) uses: HashMap<(u16, u128), Use>,
    pub(crate) rows: BTreeMap<u128, Row>,
    /// The last reset of each meter, by the steady clock.
    pub(crate) resets: HashMap<(u16, u128), i64>,
}

pub(crate) const RATE_PERIOD: i64 = 10_000;

/// How long a row that outlived its life is not looked at again, in milliseconds: who finds no room must not look through
/// all of them every time.
const AGAIN: i64 = 1_000;

/// Bytes that are counted for an answer beside its body.
const OVERHEAD: usize = 64;

impl Use {
    fn none(window: Window) -> Use {
        match window.kind() {
            LimitKind::Rate => Use::Log(Vec::new()),
            LimitKind::Quota | LimitKind::Spend => Use::Sum(Period::default(), 0),
            LimitKind::Credit => Use::Purse(0, 0),
            LimitKind::Concurrent => unreachable!("not in this model"),
        }
    }

    /// Use in this period; a clock that was set back goes on in the latest.
    fn used(&self, steady: i64, period: Period) -> u64 {
        match self {
            Use::Log(log) => {
                log.iter().filter(|(at, _)| at + RATE_PERIOD > steady).map(|l| l.1).sum()
            }
            Use::Sum(latest, used) if latest.from >= period.from => *used,
            Use::Sum(..) => 0,
            Use::Purse(_, used) => *used,
        }
    }
}

impl Model {
    pub(crate) fn says(&self, ask: &Ask, steady: i64) -> Said {
        let none = Use::none(ask.ceiling.window);
        let counted = self.uses.get(&(ask.limit.0, ask.subject.0)).unwrap_or(&none);
        let used = counted.used(steady, ask.period);
        let ceiling =
            if let Use::Purse(granted, _) = counted { *granted } else { ask.ceiling.units };
        let remaining = ceiling.saturating_sub(used);
        let free = ask.ceiling.window.kind().is_money() && ask.weight == 0;
        let closed = ceiling == 0 && ask.ceiling.window.kind() != LimitKind::Credit;
        (used, remaining, free || !closed && ask.weight <= remaining)
    }

    pub(crate) fn take(&mut self, ask: &Ask, steady: i64) {
        let none = || Use::none(ask.ceiling.window);
        match self.uses.entry((ask.limit.0, ask.subject.0)).or_insert_with(none) {
            Use::Log(log) => match log.last_mut().filter(|(at, _)| *at == steady) {
                Some(last) => last.1 += ask.weight,
                None => log.push((steady, ask.weight)),
            },
            Use::Sum(latest, used) => {
                if *used == 0 || latest.from < ask.period.from {
                    (*latest, *used) = (ask.period, 0);
                }
                *used += ask.weight;
            }
            Use::Purse(_, used) => *used += ask.weight,
        }
    }

    pub(crate) fn give_back(&mut self, taken: Taken) {
        if self.resets.get(&taken.meter).is_some_and(|reset| taken.steady < *reset) {
            return;
        }
        match self.uses.get_mut(&taken.meter) {
            Some(Use::Log(log)) => {
                if let Some(entry) = log.iter_mut().find(|(at, _)| *at == taken.steady) {
                    entry.1 = entry.1.saturating_sub(taken.amount);
                }
            }
            Some(Use::Sum(latest, used)) if taken.wall >= latest.from.0 => {
                *used -= taken.amount.min(*used);
            }
            Some(Use::Purse(_, used)) => *used -= taken.amount.min(*used),
            Some(Use::Sum(..)) | None => {}
        }
    }

    pub(crate) fn top_up(&mut self, meter: (u16, u128), amount: u64) {
        if let Use::Purse(granted, _) = self.uses.entry(meter).or_insert(Use::Purse(0, 0)) {
            *granted += amount;
        }
    }

    /// Use counted or taken out by hand, in the period of now.
    pub(crate) fn adjust(&mut self, ask: &Ask, add: u64, remove: u64) {
        let none = || Use::none(ask.ceiling.window);
        match self.uses.entry((ask.limit.0, ask.subject.0)).or_insert_with(none) {
            Use::Sum(latest, used) => {
                if *used == 0 || latest.from < ask.period.from {
                    (*latest, *used) = (ask.period, 0);
                }
                if latest.from == ask.period.from {
                    *used = (*used + add).saturating_sub(remove);
                }
            }
            Use::Purse(_, used) => *used = (*used + add).saturating_sub(remove),
            Use::Log(_) => {}
        }
    }

    pub(crate) fn reset(&mut self, meter: (u16, u128), steady: i64) {
        self.resets.insert(meter, steady);
        match self.uses.get_mut(&meter) {
            Some(Use::Log(log)) => log.clear(),
            Some(Use::Sum(_, used) | Use::Purse(_, used)) => *used = 0,
            None => {}
        }
    }

    /// The record that still lives at these instants of the two clocks.
    pub(crate) fn living(&self, id: u128, wall: i64, steady: i64) -> Option<&Row> {
        self.rows.get(&id).filter(|row| row.lives(wall, steady))
    }

    pub(crate) fn forget_ended(&mut self, wall: i64, steady: i64) {
        self.rows.retain(|_, row| {
            if row.listed > steady {
                return true;
            }
            row.listed = steady + AGAIN;
            row.lives(wall, steady)
        });
    }

    pub(crate) fn count(&self, is: impl Fn(&Row) -> bool) -> usize {
        self.rows.values().filter(|row| is(row)).count()
    }

    pub(crate) fn bytes(&self) -> usize {
        let of = |row: &Row| match row.state {
            State::Answered(bytes) => bytes + OVERHEAD,
            State::InFlight | State::NotReplayable | State::Unknown => 0,
        };
        self.rows.values().map(of).sum()
    }

    /// What an answer of so many bytes becomes.
    pub(crate) fn kept(&self, bytes: usize, bound: usize) -> State {
        if self.bytes() + bytes + OVERHEAD <= bound {
            State::Answered(bytes)
        } else {
            State::NotReplayable
        }
    }
}

/// Whether this refusal counts.
pub(crate) fn vetoes(ask: &Ask, said: Said) -> bool {
    ask.mode == Mode::Enforce && !said.2
}
