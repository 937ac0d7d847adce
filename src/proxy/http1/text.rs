//! Bytes that are put together to be written. Their memory is set once and used by one request after the other: a piece
//! is copied into its place without asking the allocator, which at a dozen fields a head is half of their cost.

/// The size of a new one, in bytes: most heads.
const SIZE: usize = 1024;

/// What was put together so far.
#[derive(Debug, Default)]
pub(crate) struct Text {
    bytes: Vec<u8>,
    length: usize,
}

impl Text {
    /// Nothing, with memory for most heads.
    pub(super) fn for_a_head() -> Text {
        Text { bytes: vec![0; SIZE], length: 0 }
    }

    /// Adds a piece.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.place(piece.len()).copy_from_slice(piece);
    }

    /// Adds a field with the end of its line (RFC 9112 §5).
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        let place = self.place(name.len() + value.len() + 4);
        let (place, rest) = place.split_at_mut(name.len());
        place.copy_from_slice(name);
        let (place, rest) = rest.split_at_mut(2);
        place.copy_from_slice(b": ");
        let (place, rest) = rest.split_at_mut(value.len());
        place.copy_from_slice(value);
        rest.copy_from_slice(b"\r\n");
    }

    /// The next `bytes` bytes.
    #[inline]
    fn place(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.length;
        self.length += bytes;
        if self.bytes.len() < self.length {
            self.bytes.resize(self.length.max(2 * self.bytes.len()), 0);
        }
        &mut self.bytes[start..self.length]
    }

    /// All of it.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Begins again in the same memory.
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    /// The memory it holds, in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_is_there_whole_however_long_and_nothing_of_before() {
        let mut text = Text::default();
        for length in [1, 10, 5000, 3] {
            text.clear();
            text.push(&vec![b'x'; length]);
            text.field(b"name", &vec![b'y'; length]);
            let whole = format!("{}name: {}\r\n", "x".repeat(length), "y".repeat(length));
            assert_eq!((text.as_bytes(), text.len()), (whole.as_bytes(), whole.len()));
        }
        assert!(text.size() >= 10_000);
    }
}
