//! A list that grows and never moves what is in it, so that it is read without a lock and by anybody who has a number.

use std::array;
use std::sync::OnceLock;

/// Rows of chunks, each twice as long as the one before: enough for 2³² things in chunks of two.
const ROWS: usize = 32;

/// Things by their number. They are made in chunks of `CHUNK` when the first of a chunk is asked for, so that no request
/// waits for more than that, and are dropped with the list.
#[derive(Debug)]
pub(super) struct Shelves<T, const CHUNK: usize> {
    rows: [OnceLock<Row<T, CHUNK>>; ROWS],
}

type Row<T, const CHUNK: usize> = Box<[OnceLock<Box<[T; CHUNK]>>]>;

/// Where a thing stands.
struct Place {
    row: usize,
    chunk: usize,
    within: usize,
}

impl<T, const CHUNK: usize> Default for Shelves<T, CHUNK> {
    fn default() -> Shelves<T, CHUNK> {
        Shelves { rows: [const { OnceLock::new() }; ROWS] }
    }
}

impl<T, const CHUNK: usize> Shelves<T, CHUNK> {
    /// The thing at a number, if its chunk was made.
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let Place { row, chunk, within } = Self::place(at);
        Some(&self.rows.get(row)?.get()?.get(chunk)?.get()?[within])
    }

    fn place(at: u32) -> Place {
        let at = at as usize;
        let chunk = at / CHUNK + 1;
        let row = chunk.ilog2() as usize;
        Place { row, chunk: chunk - (1 << row), within: at % CHUNK }
    }
}

impl<T: Default, const CHUNK: usize> Shelves<T, CHUNK> {
    /// The thing at a number.
    pub(super) fn at(&self, at: u32) -> &T {
        self.get(at).unwrap_or_else(|| self.made(at))
    }

    #[cold]
    fn made(&self, at: u32) -> &T {
        let Place { row, chunk, within } = Self::place(at);
        let chunks =
            self.rows[row].get_or_init(|| (0..1usize << row).map(|_| OnceLock::new()).collect());
        let things = chunks[chunk].get_or_init(|| Box::new(array::from_fn(|_| T::default())));
        &things[within]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn every_number_has_a_thing_of_its_own_that_stays_where_it_is() {
        let shelves: Shelves<AtomicU32, 4> = Shelves::default();
        let first: *const AtomicU32 = shelves.at(0);
        for n in 0..1_000 {
            shelves.at(n).store(n, Ordering::Relaxed);
        }
        for n in 0..1_000 {
            assert_eq!(shelves.get(n).map(|thing| thing.load(Ordering::Relaxed)), Some(n));
        }
        assert!(std::ptr::eq(first, shelves.at(0)));
    }

    #[test]
    fn nothing_is_made_for_who_only_looks_and_no_number_is_too_large() {
        let shelves: Shelves<AtomicU32, 256> = Shelves::default();
        assert!(shelves.get(0).is_none() && shelves.get(u32::MAX).is_none());
        shelves.at(300);
        assert!(shelves.get(256).is_some() && shelves.get(0).is_none());
        assert_eq!(Shelves::<AtomicU32, 2>::place(u32::MAX).row, ROWS - 1);
    }
}
