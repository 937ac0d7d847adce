//! Which row has which id, while rows are read. Open addressing over places of four bytes, since a row holds the hash of its
//! id anyway: a map would take eight times the memory, beside a table that is in force meanwhile.

use crate::policy::keys::{KeyIx, KeysBuilder};
use crate::policy::limit::SubjectKey;

/// Rows by the hashes of their ids.
#[derive(Debug, Default)]
pub(super) struct ById {
    /// 0 is empty, n is row n - 1.
    places: Vec<u32>,
    rows: usize,
}

impl ById {
    /// Makes room for so many more rows.
    pub(super) fn expect(&mut self, rows: usize) {
        if self.rows == 0 {
            self.places = vec![0; (rows * 2).next_power_of_two()];
        }
    }

    /// The row with this id.
    pub(super) fn find(&self, subject: SubjectKey, rows: &KeysBuilder) -> Option<KeyIx> {
        let row = self.places.get(self.place(subject, rows)?)?.checked_sub(1)?;
        Some(KeyIx(row))
    }

    /// A row whose id no other has.
    pub(super) fn insert(&mut self, ix: KeyIx, rows: &KeysBuilder) {
        if (self.rows + 1) * 2 > self.places.len() {
            let before = std::mem::take(&mut self.places);
            self.places = vec![0; (before.len() * 2).max(16)];
            for row in before.into_iter().filter_map(|row| row.checked_sub(1)) {
                self.put(KeyIx(row), rows);
            }
        }
        self.rows += 1;
        self.put(ix, rows);
    }

    fn put(&mut self, ix: KeyIx, rows: &KeysBuilder) {
        let place = rows.subject(ix).and_then(|subject| self.place(subject, rows));
        if let Some(place) = place {
            self.places[place] = ix.0.saturating_add(1);
        }
    }

    /// Where the row with this id stands, or would; `None` where there is no room for any.
    fn place(&self, subject: SubjectKey, rows: &KeysBuilder) -> Option<usize> {
        let last = self.places.len().checked_sub(1)?;
        let mut at = usize::try_from(subject.0 & last as u128).unwrap_or(0);
        while let Some(row) = self.places[at].checked_sub(1)
            && rows.subject(KeyIx(row)) != Some(subject)
        {
            at = (at + 1) & last;
        }
        Some(at)
    }
}
