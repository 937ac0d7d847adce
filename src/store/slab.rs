//! Where cells stand: by number, and never elsewhere. A cell that has no subject any more waits for the next one, so that
//! who has its number may always look, and finds out under its lock whose it is.

use std::num::NonZeroU32;

use parking_lot::Mutex;

use super::cell::Cell;
use super::shelves::Shelves;

/// The number of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CellIx(NonZeroU32);

impl CellIx {
    /// As it is kept in an atomic; 0 is no cell.
    pub(super) fn to_bits(self) -> u32 {
        self.0.get()
    }

    /// What was kept so.
    pub(super) fn from_bits(bits: u32) -> Option<CellIx> {
        NonZeroU32::new(bits).map(CellIx)
    }
}

/// All cells. 256 at a time are made, which is 32 KiB: the request that needs the first of them waits for no more.
#[derive(Debug, Default)]
pub(super) struct Slab {
    cells: Shelves<Cell, 256>,
    vacant: Mutex<Vacant>,
}

/// Cells without a subject.
#[derive(Debug, Default)]
struct Vacant {
    /// Those that had one.
    left: Vec<CellIx>,
    /// The highest number that was ever given out.
    highest: u32,
}

impl Slab {
    /// The cell with this number.
    pub(super) fn at(&self, ix: CellIx) -> &Cell {
        self.cells.at(ix.to_bits())
    }

    /// A vacant cell, for one subject.
    pub(super) fn take(&self) -> CellIx {
        let mut vacant = self.vacant.lock();
        vacant.left.pop().unwrap_or_else(|| {
            // There is no memory for 2³² cells.
            vacant.highest = vacant.highest.saturating_add(1);
            CellIx(NonZeroU32::MIN.saturating_add(vacant.highest - 1))
        })
    }

    /// A cell has no subject any more. Once for each time that it was taken.
    pub(super) fn leave(&self, ix: CellIx) {
        self.vacant.lock().left.push(ix);
    }
}
