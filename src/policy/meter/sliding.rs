//! The sliding window: never more than N in *any* period (a half-open one: what was taken exactly a period ago is
//! gone).
//!
//! Use is kept as groups of (instant of the latest arrival, units). While 32 groups are enough, each arrival has its
//! own and the count is exact. After that, arrivals of one grain (1/30 of the period) are merged, and the merged group
//! takes the *later* instant: units may be held for up to a grain too long, never too short.

use crate::clock::Steady;
use crate::policy::limit::Ceiling;
use crate::policy::order::Reading;

use super::wide::Wide;
use super::{Carried, Look, Standing};

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
    /// The units of those in use, so that a decision need not read all eight cache lines of them: 900 instructions less
    /// for a full window.
    sum: Wide,
    idle_from: Steady,
}

/// The groups that count at some instant, and their units.
#[derive(Clone, Copy)]
struct Live<'a> {
    groups: &'a [Group],
    used: u128,
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
            sliding.add(units);
        }
        Some(sliding)
    }

    pub(super) fn look(&self, ceiling: &Ceiling, weight: u64, now: Steady) -> Look {
        let used = self.live(ceiling, now).used;
        let free = u128::from(ceiling.units).saturating_sub(used);
        Look { admits: ceiling.units > 0 && u128::from(weight) <= free, level: used }
    }

    pub(super) fn read(&self, ceiling: &Ceiling, weight: u64, now: Steady) -> Reading {
        read(self.live(ceiling, now), ceiling, weight, now)
    }

    /// Takes, where so much was `used` at this same instant, and says how it stands then.
    pub(super) fn charge(
        &mut self,
        ceiling: &Ceiling,
        weight: u64,
        now: Steady,
        used: u128,
    ) -> Standing {
        self.take(ceiling, weight, now);
        let live = self.live_with(used + u128::from(weight), ceiling, now);
        debug_assert_eq!(live.used, self.live(ceiling, now).used, "what was used, and this");
        standing(live, ceiling, now)
    }

    /// Keeps the ceiling, and says how it stands, behind a look at this same instant.
    pub(super) fn decline(
        &mut self,
        ceiling: &Ceiling,
        weight: u64,
        now: Steady,
        look: Look,
    ) -> Reading {
        self.keep(ceiling);
        read(self.live_with(look.level, ceiling, now), ceiling, weight, now)
    }

    pub(super) fn take(&mut self, ceiling: &Ceiling, weight: u64, now: Steady) {
        if weight == 0 {
            return;
        }
        let at = match self.newest() {
            // Groups stay in order, also where another worker's clock was read a moment earlier.
            Some(newest) if now <= newest.at => return self.join(weight, newest.at, ceiling),
            Some(newest) if self.len == GROUPS && !self.forget_gone(ceiling, now) => {
                if is_one_grain(newest.at, now, ceiling) {
                    return self.join(weight, now, ceiling);
                }
                self.merge_two(ceiling);
                now
            }
            Some(_) | None => now,
        };
        self.groups[self.len] = Group { at, units: weight };
        self.len += 1;
        self.add(weight);
        self.keep(ceiling);
    }

    /// Adds to the newest group, which is of the later instant `at` from now on.
    fn join(&mut self, weight: u64, at: Steady, ceiling: &Ceiling) {
        let newest = &mut self.groups[self.len - 1];
        let added = weight.min(u64::MAX - newest.units);
        *newest = Group { at, units: newest.units + added };
        self.add(added);
        self.keep(ceiling);
    }

    pub(super) fn give_back(&mut self, ceiling: &Ceiling, weight: u64, taken: Steady) {
        let Some(newest) = self.newest() else { return };
        // What has left the period is no longer in any group, and must not be taken out of another's.
        if taken.plus(ceiling.period) <= newest.at {
            return;
        }
        if let Some(group) = self.groups[..self.len].iter_mut().find(|group| group.at >= taken) {
            let back = weight.min(group.units);
            group.units -= back;
            self.subtract(u128::from(back));
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
        let units = u64::try_from(self.live(ceiling, now).used).unwrap_or(u64::MAX);
        Carried { at: self.newest().map_or(Steady::default(), |newest| newest.at), units }
    }

    pub(super) fn carry(&mut self, carried: Carried) {
        if carried.units > 0 {
            self.groups[0] = Group { at: carried.at, units: carried.units };
            self.len = 1;
            self.sum = Wide::new(u128::from(carried.units));
        }
    }

    /// The groups stay, with nothing in them: what was taken before and is given back later must find its own.
    pub(super) fn reset(&mut self) {
        self.groups[..self.len].iter_mut().for_each(|group| group.units = 0);
        self.sum = Wide::default();
    }

    pub(super) fn copy_from(&mut self, old: &Sliding) {
        *self.groups = *old.groups;
        (self.len, self.sum, self.idle_from) = (old.len, old.sum, old.idle_from);
    }

    fn used(&self) -> &[Group] {
        &self.groups[..self.len]
    }

    /// The groups that count at `now`, or at the newest group's instant if that is later.
    #[inline]
    fn live(&self, ceiling: &Ceiling, now: Steady) -> Live<'_> {
        let (gone, groups) = self.used().split_at(gone(self.used(), ceiling, now));
        // The shorter half is counted.
        let used = if gone.len() < groups.len() {
            self.sum.get().saturating_sub(total(gone))
        } else {
            total(groups)
        };
        Live { groups, used }
    }

    /// As [`Sliding::live`], where it is known how much is `used`.
    fn live_with(&self, used: u128, ceiling: &Ceiling, now: Steady) -> Live<'_> {
        let groups = self.used();
        Live { groups: &groups[gone(groups, ceiling, now)..], used }
    }

    fn add(&mut self, units: u64) {
        self.sum = Wide::new(self.sum.get() + u128::from(units));
        debug_assert_eq!(self.sum.get(), total(self.used()), "the sum of what is kept");
    }

    fn subtract(&mut self, units: u128) {
        self.sum = Wide::new(self.sum.get().saturating_sub(units));
    }

    fn newest(&self) -> Option<Group> {
        self.used().last().copied()
    }

    /// Whether something had left the period at `at`, and so there is room now.
    fn forget_gone(&mut self, ceiling: &Ceiling, at: Steady) -> bool {
        let gone = gone_at(self.used(), ceiling, at);
        if gone > 0 {
            self.subtract(total(&self.groups[..gone]));
            self.groups.copy_within(gone..self.len, 0);
            self.len -= gone;
        }
        gone > 0
    }

    /// Makes room where all count: merges two groups of one grain.
    fn merge_two(&mut self, ceiling: &Ceiling) {
        let mut pairs = self.used().windows(2);
        // By the arithmetic of `GRAINS` there is a pair; the oldest two would be a safe choice as well.
        let sharing = pairs.position(|pair| is_one_grain(pair[0].at, pair[1].at, ceiling));
        let older = sharing.unwrap_or(0);
        let units = self.groups[older].units;
        self.groups.copy_within(older + 1..self.len, older);
        let lost = units.saturating_sub(u64::MAX - self.groups[older].units);
        self.groups[older].units = self.groups[older].units.saturating_add(units);
        self.subtract(u128::from(lost));
        self.len -= 1;
    }
}

/// What a window says whose whole use is what was carried over.
pub(super) fn read_carrying(
    carried: Carried,
    ceiling: &Ceiling,
    weight: u64,
    now: Steady,
) -> Reading {
    let group = [Group { at: carried.at, units: carried.units }];
    let gone = if carried.units > 0 { gone(&group, ceiling, now) } else { 1 };
    let groups = &group[gone..];
    read(Live { groups, used: total(groups) }, ceiling, weight, now)
}

fn read(live: Live<'_>, ceiling: &Ceiling, weight: u64, now: Steady) -> Reading {
    let standing = standing(live, ceiling, now);
    standing.saying(ceiling.units > 0 && weight <= standing.remaining, || {
        if ceiling.units == 0 || weight > ceiling.units {
            None
        } else if weight == standing.remaining + 1 {
            // One more than remains is asked for, nearly always.
            standing.more_in
        } else {
            until_fits(weight, live, ceiling, now)
        }
    })
}

fn standing(live: Live<'_>, ceiling: &Ceiling, now: Steady) -> Standing {
    let used = live.used;
    let remaining = u64::try_from(u128::from(ceiling.units).saturating_sub(used)).unwrap_or(0);
    let more_in = if remaining < ceiling.units {
        until_fits(remaining + 1, live, ceiling, now)
    } else {
        None
    };
    Standing {
        whole: ceiling.units,
        used: u64::try_from(used).unwrap_or(u64::MAX),
        remaining,
        more_in,
    }
}

/// Nanoseconds until so many groups have left that `units` fit.
fn until_fits(units: u64, live: Live<'_>, ceiling: &Ceiling, now: Steady) -> Option<u64> {
    let mut left = live.used;
    live.groups
        .iter()
        .find(|group| {
            left = left.saturating_sub(u128::from(group.units));
            left + u128::from(units) <= u128::from(ceiling.units)
        })
        .map(|group| group.at.plus(ceiling.period).since(now))
}

/// How many groups count no more at `now`, or at the newest group's instant if that is later.
fn gone(groups: &[Group], ceiling: &Ceiling, now: Steady) -> usize {
    groups.last().map_or(0, |newest| gone_at(groups, ceiling, now.max(newest.at)))
}

fn gone_at(groups: &[Group], ceiling: &Ceiling, at: Steady) -> usize {
    let is_gone = |group: &Group| group.at.plus(ceiling.period) <= at;
    // Mostly none is: a search from the middle would read lines that say nothing else.
    if groups.first().is_none_or(|oldest| !is_gone(oldest)) {
        0
    } else {
        groups.partition_point(is_gone)
    }
}

fn total(groups: &[Group]) -> u128 {
    groups.iter().map(|group| u128::from(group.units)).sum()
}

/// Whether two instants, the earlier one first, are of one grain. Nearly always the grain is longer than what is between
/// them, or much shorter: one division, and none.
fn is_one_grain(earlier: Steady, later: Steady, ceiling: &Ceiling) -> bool {
    let grain = ceiling.period.div_ceil(GRAINS).max(1);
    let between = later.since(earlier);
    between < grain && earlier.0 % grain < grain - between
}
