//! What is open at this moment. Time does not help, only closing does.

use crate::policy::limit::Ceiling;
use crate::policy::order::Reading;

use super::Standing;

/// The number of open requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Concurrent {
    open: u64,
}

impl Concurrent {
    pub(super) fn admits(self, ceiling: &Ceiling) -> bool {
        self.open < ceiling.units
    }

    pub(super) fn read(self, ceiling: &Ceiling) -> Reading {
        self.standing(ceiling).saying(self.admits(ceiling), || None)
    }

    pub(super) fn standing(self, ceiling: &Ceiling) -> Standing {
        Standing {
            whole: ceiling.units,
            used: self.open,
            remaining: ceiling.units.saturating_sub(self.open),
            more_in: None,
        }
    }

    pub(super) fn take(&mut self) {
        self.open = self.open.saturating_add(1);
    }

    pub(super) fn close_one(&mut self) {
        debug_assert!(self.open > 0, "a slot is closed once");
        self.open = self.open.saturating_sub(1);
    }

    pub(super) fn set_open(&mut self, open: u64) {
        self.open = open;
    }

    pub(super) fn is_idle(self) -> bool {
        self.open == 0
    }
}
