//! Prepaid credit: what was topped up and what of it is used, in millionths. The ceiling is its own; time does not help.

use super::Standing;
use crate::policy::order::Reading;

/// A balance, as the two sums that it is the difference of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    /// All that was ever topped up.
    pub granted: u64,
    /// All that was used of it.
    pub used: u64,
}

impl Purse {
    /// What is left.
    pub fn balance(self) -> u64 {
        self.granted.saturating_sub(self.used)
    }

    pub(super) fn admits(self, cost: u64) -> bool {
        cost <= self.balance()
    }

    pub(super) fn read(self, cost: u64) -> Reading {
        self.standing().saying(self.admits(cost), || None)
    }

    pub(super) fn standing(self) -> Standing {
        Standing { whole: self.granted, used: self.used, remaining: self.balance(), more_in: None }
    }

    /// Uses some of it.
    pub fn take(&mut self, cost: u64) {
        self.used = self.used.saturating_add(cost);
    }

    /// Gives back what was used.
    pub fn give_back(&mut self, cost: u64) {
        self.used = self.used.saturating_sub(cost);
    }

    /// Adds credit.
    pub fn top_up(&mut self, amount: u64) {
        self.granted = self.granted.saturating_add(amount);
    }

    pub(super) fn is_idle(self) -> bool {
        self == Purse::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_costs_nothing_is_admitted_by_an_empty_purse() {
        let purse = Purse::default();
        assert!(purse.admits(0) && !purse.admits(1));
        assert_eq!(purse.read(1).wait, None, "time does not help");
    }

    proptest! {
        #[test]
        fn the_balance_is_what_was_topped_up_less_what_was_used_and_never_below_nothing(
            steps in prop::collection::vec((0u64..100, 0u8..3), 1..100),
        ) {
            let (mut purse, mut granted, mut used) = (Purse::default(), 0, 0);
            for (amount, step) in steps {
                match step {
                    0 => {
                        purse.top_up(amount);
                        granted += amount;
                    }
                    1 if purse.admits(amount) => {
                        purse.take(amount);
                        used += amount;
                    }
                    1 => prop_assert!(used + amount > granted),
                    _ => {
                        let back = amount.min(used);
                        purse.give_back(back);
                        used -= back;
                    }
                }
                prop_assert!(used <= granted);
                prop_assert_eq!(purse.balance(), granted - used);
                prop_assert_eq!(purse.read(0).remaining, granted - used);
            }
        }
    }
}
