//! Where workers count. One worker writes a cell and the scrape reads it, so a count is a plain load and store: no
//! lock, no read-modify-write, no cache line that two workers write.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::limit::Mode;
use crate::policy::refusal::Refusal;

use super::Outcome;
use super::store::IDEMPOTENCY_OUTCOMES;

/// A count with one writer.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    /// Adds, wrapping; only the one writer may call this, which is what makes load and store enough.
    #[inline]
    pub(super) fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// The count as last stored.
    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds, in nanoseconds, of what the gate itself took.
pub(super) const GATE_BOUNDS: [u64; 14] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
];

/// Upper bounds, in nanoseconds, of what the upstream took to the head of its answer.
pub(super) const UPSTREAM_BOUNDS: [u64; 14] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// Upper bounds, in nanoseconds, of what a request waited until what it holds was durable.
pub(super) const COMMIT_BOUNDS: [u64; 14] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
];

/// Buckets of a histogram: one a bound, and one for what is above the last.
pub(super) const BUCKETS: usize = 15;

/// Times, sorted into buckets.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) buckets: [Cell; BUCKETS],
    pub(super) sum_nanos: Cell,
}

impl Times {
    /// Counts one time of `nanos`.
    #[inline]
    pub(super) fn observe(&self, bounds: &[u64; BUCKETS - 1], nanos: u64) {
        let at = bounds.iter().position(|bound| nanos <= *bound).unwrap_or(BUCKETS - 1);
        self.buckets[at].add(1);
        self.sum_nanos.add(nanos);
    }
}

/// Places in a [`Slots`] of the first segment; each further one doubles what there is.
const FIRST: usize = 16;
/// Segments of a [`Slots`]: room for 2^24 places, beyond any policy that loads.
const SEGMENTS: usize = 21;

/// Cells by slot, in segments that are appended and never moved: a count survives growth, and a reader needs no lock.
#[derive(Debug)]
pub(super) struct Slots<T> {
    segments: [OnceLock<Box<[T]>>; SEGMENTS],
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { segments: [const { OnceLock::new() }; SEGMENTS] }
    }
}

impl<T: Default> Slots<T> {
    /// The cells of `slot`, if room was made for it.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        let (segment, offset) = place(slot);
        self.segments.get(segment)?.get()?.get(offset)
    }

    /// The cells of `slot`, made now if need be; for what is rare enough that its first time may allocate.
    pub(super) fn get_or_grow(&self, slot: u32) -> Option<&T> {
        let (segment, offset) = place(slot);
        self.segments.get(segment)?.get_or_init(|| fresh(segment)).get(offset)
    }

    /// Makes room for slots `0..count`.
    pub(super) fn grow(&self, count: usize) {
        let Some(last) = count.checked_sub(1).and_then(|last| u32::try_from(last).ok()) else {
            return;
        };
        let (last_segment, _) = place(last);
        for (ordinal, segment) in self.segments.iter().enumerate().take(last_segment + 1) {
            segment.get_or_init(|| fresh(ordinal));
        }
    }
}

fn fresh<T: Default>(segment: usize) -> Box<[T]> {
    let size = if segment == 0 { FIRST } else { FIRST << (segment - 1) };
    std::iter::repeat_with(T::default).take(size).collect()
}

/// Segment 0 holds `0..16`, segment n holds `16·2^(n-1) .. 16·2^n`.
#[inline]
fn place(slot: u32) -> (usize, usize) {
    let slot = slot as usize;
    if slot < FIRST {
        return (0, slot);
    }
    let segment = (usize::BITS - (slot / FIRST).leading_zeros()) as usize;
    (segment, slot - (FIRST << (segment - 1)))
}

/// Outcomes, in the order of their cells.
pub(super) const OUTCOMES: [Outcome; 4] =
    [Outcome::Admitted, Outcome::Replayed, Outcome::Refused, Outcome::Failed];

/// Classes of a status: `1xx` to `5xx`.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The modes, in the order of their cells.
pub(super) const MODES: [Mode; 2] = [Mode::Enforce, Mode::Shadow];

/// How many refusals there are.
const REFUSALS: usize = Refusal::ALL.len();

/// Refusals of one route, by reason and mode.
#[derive(Debug)]
pub(super) struct RefusalCells([[Cell; MODES.len()]; REFUSALS]);

impl Default for RefusalCells {
    fn default() -> Self {
        RefusalCells(std::array::from_fn(|_| Default::default()))
    }
}

impl RefusalCells {
    pub(super) fn at(&self, why: Refusal, mode: Mode) -> &Cell {
        &self.0[why as usize][mode as usize]
    }
}

/// What is counted for one route, or for the requests of none.
#[derive(Debug, Default)]
pub(super) struct RouteCells {
    pub(super) requests: [[Cell; CLASSES.len()]; OUTCOMES.len()],
    pub(super) upstream: Times,
    /// Made at the route's first refusal: most routes have few, and a thousand routes should not hold them all.
    pub(super) refusals: OnceLock<Box<RefusalCells>>,
    /// Made at the first request of the route to which idempotency keys mean something.
    pub(super) idempotency: OnceLock<Box<[Cell; IDEMPOTENCY_OUTCOMES]>>,
    pub(super) cost_exceeded: Cell,
}

/// What limits refused, by limit, then by route with a place 0 for the requests of none.
#[derive(Debug, Default)]
pub(super) struct LimitCells {
    pub(super) by_route: Slots<OnceLock<Box<RefusalCells>>>,
}

/// Everything that one worker counts, apart from every other worker's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct WorkerCells {
    pub(super) in_flight: Cell,
    pub(super) panics: Cell,
    pub(super) gate: [Times; OUTCOMES.len()],
    pub(super) commit: Times,
    pub(super) upstream_errors: [Cell; UPSTREAM_ERRORS.len()],
    pub(super) unlisted: RouteCells,
    pub(super) routes: Slots<RouteCells>,
    pub(super) limits: Slots<LimitCells>,
}

/// The refusals that are the upstream's fault.
pub(super) const UPSTREAM_ERRORS: [Refusal; 3] =
    [Refusal::UpstreamUnreachable, Refusal::UpstreamTimeout, Refusal::UpstreamBroken];

impl WorkerCells {
    /// The cells of a route; those of no route where there is none, or no room was made for it.
    #[inline]
    pub(super) fn route(&self, slot: Option<u32>) -> &RouteCells {
        slot.and_then(|slot| self.routes.get(slot)).unwrap_or(&self.unlisted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_place_of_its_own() {
        let slots: Slots<Cell> = Slots::default();
        slots.grow(1000);
        for slot in 0..1000 {
            slots.get(slot).expect("room was made").add(u64::from(slot));
        }
        for slot in 0..1000 {
            assert_eq!(slots.get(slot).map(Cell::get), Some(u64::from(slot)));
        }
    }

    #[test]
    fn growth_keeps_what_was_counted_and_no_room_is_no_panic() {
        let slots: Slots<Cell> = Slots::default();
        slots.grow(1);
        slots.get(3).expect("the first segment").add(7);
        assert!(slots.get(5000).is_none());
        slots.grow(6000);
        assert_eq!(slots.get(3).map(Cell::get), Some(7));
        assert!(slots.get(5000).is_some());
        assert!(slots.get(u32::MAX).is_none());
        assert!(slots.get_or_grow(u32::MAX).is_none());
        slots.grow(0);
    }

    #[test]
    fn a_time_lands_in_the_first_bucket_that_holds_it() {
        let times = Times::default();
        times.observe(&GATE_BOUNDS, 10_000);
        times.observe(&GATE_BOUNDS, 10_001);
        times.observe(&GATE_BOUNDS, u64::MAX / 2);
        assert_eq!(times.buckets[0].get(), 1);
        assert_eq!(times.buckets[1].get(), 1);
        assert_eq!(times.buckets[BUCKETS - 1].get(), 1);
    }
}
