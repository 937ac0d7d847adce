//! The sliding window: never more than N in *any* period (a half-open one: what was taken exactly a period ago is
//! gone).
//!
//! Use is kept as groups of (instant of the latest arrival, units). While 32 groups are enough, each arrival has its
//! own and the count is exact. After that, arrivals of one grain (1/30 of the period) are merged, and the merged group
//! takes the *later* instant: units may be held for up to a grain too long, never too short.

use crate::clock::Steady;
use crate::policy::limit::Ceiling;

use super::{Carried, Figures, Standing};

/// The most groups that are kept.
const GROUPS: usize = 32;

/// Grains in a period. A period touches at most `GRAINS + 1` of them, which is less than `GROUPS`: of `GROUPS` groups
/// that still count, two always share a grain.
const GRAINS: u64 = 30;

#[derive(Clone, Copy, Debug, Default)]
struct Group {
    at: Steady,
    units: u64,
}

/// When the use of the last period was.
#[derive(Clone, Debug, Default)]
pub struct Sliding {
    /// The first `len` are in use, ascending by instant.
    groups: Box<[Group; GROUPS]>,
    len: usize,
    idle_from: Steady,
}

impl Sliding {
    /// When the use was, ascending: instants and units, at most 32 of them.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (Steady, u64)> {
        self.used().iter().map(|group| (group.at, group.units))
    }

    /// When it says the same as an empty one.
    pub fn idle_from(&self) -> Steady {
        self.idle_from
    }

    /// The window with this use; `None` if the instants do not ascend or are more than 32.
    pub fn from_groups(
        groups: impl Iterator<Item = (Steady, u64)>,
        idle_from: Steady,
    ) -> Option<Sliding> {
        let mut sliding = Sliding { idle_from, ..Sliding::default() };
        for (at, units) in groups {
            let ascends = sliding.newest().is_none_or(|newest| newest.at <= at);
            let group = sliding.groups.get_mut(sliding.len).filter(|_| ascends)?;
            *group = Group { at, units };
            sliding.len += 1;
        }
        Some(sliding)
    }

    pub(super) fn admits(&self, ceiling: &Ceiling, weight: u64, now: Steady) -> bool {
        ceiling.units > 0
            && u128::from(weight)
                <= u128::from(ceiling.units).saturating_sub(total(live(self.used(), ceiling, now)))
    }

    pub(super) fn figures(&self, ceiling: &Ceiling, weight: u64, now: Steady) -> Figures {
        figures(self.used(), ceiling, weight, now)
    }

    pub(super) fn standing(&self, ceiling: &Ceiling, now: Steady) -> Standing {
        standing(live(self.used(), ceiling, now), ceiling, now)
    }

    pub(super) fn take(&mut self, ceiling: &Ceiling, weight: u64, now: Steady) {
        if weight == 0 {
            return;
        }
        // Groups stay in order, also where another worker's clock was read a moment earlier.
        let at = self.newest().map_or(now, |newest| newest.at.max(now));
        if self.len == GROUPS && self.newest().is_some_and(|newest| newest.at < at) {
            self.make_room(ceiling, at);
        }
        let shares = self.len > 0 && {
            let newest = self.groups[self.len - 1].at;
            newest == at || (self.len == GROUPS && grain(newest, ceiling) == grain(at, ceiling))
        };
        if shares {
            let newest = &mut self.groups[self.len - 1];
            *newest = Group { at, units: newest.units.saturating_add(weight) };
        } else {
            self.groups[self.len] = Group { at, units: weight };
            self.len += 1;
        }
        self.keep(ceiling);
    }

    pub(super) fn give_back(&mut self, ceiling: &Ceiling, weight: u64, taken: Steady) {
        let Some(newest) = self.newest() else { return };
        // What has left the period is no longer in any group, and must not be taken out of another's.
        if taken.plus(ceiling.period) <= newest.at {
            return;
        }
        if let Some(group) = self.groups[..self.len].iter_mut().find(|group| group.at >= taken) {
            group.units = group.units.saturating_sub(weight);
        }
    }

    pub(super) fn keep(&mut self, ceiling: &Ceiling) {
        if let Some(newest) = self.newest() {
            self.idle_from = newest.at.plus(ceiling.period);
        }
    }

    pub(super) fn is_idle(&self, now: Steady) -> bool {
        self.len == 0 || now >= self.idle_from
    }

    pub(super) fn carried(&self, ceiling: &Ceiling, now: Steady) -> Carried {
        let units = u64::try_from(total(live(self.used(), ceiling, now))).unwrap_or(u64::MAX);
        Carried { at: self.newest().map_or(Steady::default(), |newest| newest.at), units }
    }

    pub(super) fn carry(&mut self, carried: Carried) {
        if carried.units > 0 {
            self.groups[0] = Group { at: carried.at, units: carried.units };
            self.len = 1;
        }
    }

    /// The groups stay, with nothing in them: what was taken before and is given back later must find its own.
    pub(super) fn reset(&mut self) {
        self.groups[..self.len].iter_mut().for_each(|group| group.units = 0);
    }

    pub(super) fn copy_from(&mut self, old: &Sliding) {
        *self.groups = *old.groups;
        (self.len, self.idle_from) = (old.len, old.idle_from);
    }

    fn used(&self) -> &[Group] {
        &self.groups[..self.len]
    }

    fn newest(&self) -> Option<Group> {
        self.used().last().copied()
    }

    /// Forgets what has left the period, or else merges two groups of one grain, unless the newest of them can take
    /// in an arrival at `at` anyway.
    fn make_room(&mut self, ceiling: &Ceiling, at: Steady) {
        let gone = self.len - live_at(self.used(), ceiling, at).len();
        if gone > 0 {
            self.groups.copy_within(gone..self.len, 0);
            self.len -= gone;
            return;
        }
        let newest = self.groups[self.len - 1].at;
        if grain(newest, ceiling) == grain(at, ceiling) {
            return;
        }
        let sharing = self
            .used()
            .windows(2)
            .position(|pair| grain(pair[0].at, ceiling) == grain(pair[1].at, ceiling));
        // By the arithmetic of `GRAINS` there is a pair; the oldest two would be a safe choice as well.
        let older = sharing.unwrap_or(0);
        let units = self.groups[older].units;
        self.groups.copy_within(older + 1..self.len, older);
        self.groups[older].units = self.groups[older].units.saturating_add(units);
        self.len -= 1;
    }
}

/// The figures of a window whose whole use is what was carried over.
pub(super) fn figures_carrying(
    carried: Carried,
    ceiling: &Ceiling,
    weight: u64,
    now: Steady,
) -> Figures {
    let group = [Group { at: carried.at, units: carried.units }];
    figures(if carried.units > 0 { &group } else { &[] }, ceiling, weight, now)
}

fn figures(groups: &[Group], ceiling: &Ceiling, weight: u64, now: Steady) -> Figures {
    let live = live(groups, ceiling, now);
    let Standing { used, remaining, more_in } = standing(live, ceiling, now);
    let admits = ceiling.units > 0 && weight <= remaining;
    let wait = if admits {
        Some(0)
    } else if weight <= ceiling.units && ceiling.units > 0 {
        until_fits(weight, total(live), live, ceiling, now)
    } else {
        None
    };
    Figures { used, remaining, admits, wait, more_in }
}

fn standing(live: &[Group], ceiling: &Ceiling, now: Steady) -> Standing {
    let used = total(live);
    let remaining = u64::try_from(u128::from(ceiling.units).saturating_sub(used)).unwrap_or(0);
    let more_in = if remaining < ceiling.units {
        until_fits(remaining + 1, used, live, ceiling, now)
    } else {
        None
    };
    Standing { used: u64::try_from(used).unwrap_or(u64::MAX), remaining, more_in }
}

/// Nanoseconds until so many groups have left that `units` fit.
fn until_fits(
    units: u64,
    used: u128,
    live: &[Group],
    ceiling: &Ceiling,
    now: Steady,
) -> Option<u64> {
    let mut left = used;
    live.iter()
        .find(|group| {
            left = left.saturating_sub(u128::from(group.units));
            left + u128::from(units) <= u128::from(ceiling.units)
        })
        .map(|group| group.at.plus(ceiling.period).since(now))
}

/// The groups that count at `now`, or at the newest group's instant if that is later.
fn live<'a>(groups: &'a [Group], ceiling: &Ceiling, now: Steady) -> &'a [Group] {
    match groups.last() {
        Some(newest) => live_at(groups, ceiling, now.max(newest.at)),
        None => groups,
    }
}

fn live_at<'a>(groups: &'a [Group], ceiling: &Ceiling, at: Steady) -> &'a [Group] {
    let gone = groups.partition_point(|group| group.at.plus(ceiling.period) <= at);
    &groups[gone..]
}

fn total(groups: &[Group]) -> u128 {
    groups.iter().map(|group| u128::from(group.units)).sum()
}

fn grain(at: Steady, ceiling: &Ceiling) -> u64 {
    at.0 / ceiling.period.div_ceil(GRAINS).max(1)
}
