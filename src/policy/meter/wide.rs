//! Sums that do not fit in 64 bits, in meters.

/// A `u128` in halves: its own alignment would make every meter a third larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wide {
    high: u64,
    low: u64,
}

impl Wide {
    #[expect(clippy::cast_possible_truncation, reason = "the other half is in the other field")]
    pub(super) fn new(value: u128) -> Wide {
        Wide { high: (value >> 64) as u64, low: value as u64 }
    }

    pub(super) fn get(self) -> u128 {
        (u128::from(self.high) << 64) | u128::from(self.low)
    }
}
