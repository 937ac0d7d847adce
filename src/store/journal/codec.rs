//! How a row is written: a version, little-endian fields, and a checksum over the row and its key, so that a row that is
//! damaged or in the wrong place is found and never read as another.

use std::fmt;

/// Why a row cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The version of every kind of row in this format. A row with another is not read.
const VERSION: u8 = 1;
/// Length of the checksum at the end.
const CHECKSUM: usize = 4;

/// Makes a row.
#[derive(Debug)]
pub(super) struct RowWriter {
    bytes: Vec<u8>,
}

impl RowWriter {
    pub(super) fn new() -> RowWriter {
        // Most rows fit, and are not moved while they grow.
        let mut bytes = Vec::with_capacity(512);
        bytes.push(VERSION);
        RowWriter { bytes }
    }

    /// Fields that carry no version and no checksum of their own, after what is in `bytes` already.
    pub(super) fn unchecked(bytes: Vec<u8>) -> RowWriter {
        RowWriter { bytes }
    }

    /// What was written, as it is.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes whose number the reader knows.
    pub(super) fn array(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A number of things that follow; more than a `u32` holds never fit into memory.
    pub(super) fn count(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&count.to_le_bytes());
    }

    /// Bytes with their number before them.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// The row, for the place with this key.
    pub(super) fn finish(mut self, key: &[u8]) -> Vec<u8> {
        let checksum = checksum(key, &self.bytes);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());
        self.bytes
    }
}

/// Reads a row.
#[derive(Debug)]
pub(super) struct RowReader<'a> {
    rest: &'a [u8],
}

impl<'a> RowReader<'a> {
    /// A row from the place with this key, once its checksum and its version are right.
    pub(super) fn new(row: &'a [u8], key: &[u8]) -> Result<RowReader<'a>, Malformed> {
        let end = row.len().checked_sub(CHECKSUM).ok_or(Malformed("it is too short"))?;
        let (content, found) = row.split_at(end);
        if found != checksum(key, content).to_le_bytes() {
            return Err(Malformed("its checksum is wrong"));
        }
        let mut reader = RowReader { rest: content };
        match reader.u8()? {
            VERSION => Ok(reader),
            _ => Err(Malformed("it has a version that this release does not know")),
        }
    }

    /// Fields that carry no version and no checksum of their own: a key's, a frame's.
    pub(super) fn unchecked(fields: &'a [u8]) -> RowReader<'a> {
        RowReader { rest: fields }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything must have been read.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("it is too long")) }
    }

    pub(super) fn slice(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_le_bytes)
    }

    /// A number of things that follow, each of at least one byte: no more than there are bytes left.
    pub(super) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.array().map(u32::from_le_bytes)?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or(Malformed("it counts more than it holds"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.count()?;
        self.slice(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text in it is not UTF-8"))
    }
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(content);
    hasher.finalize()
}
