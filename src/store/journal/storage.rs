//! Where the bytes of the journal stand: files, or what a test puts in their place.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

/// Bytes at the head of the tables' file that are not theirs: the log of format 2 stood there. In a file that began later
/// they are a hole.
pub(super) const BEFORE_TABLES: u64 = 1 << 20;

/// The bytes of one file. Clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct Storage(Arc<dyn StorageBackend>);

impl Storage {
    pub(super) fn new(storage: impl StorageBackend) -> Storage {
        Storage(Arc::new(storage))
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        self.0.len()
    }

    pub(super) fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The part of a storage that is the tables'.
#[derive(Debug)]
pub(super) struct TablesPart(pub(super) Storage);

impl StorageBackend for TablesPart {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.length()?.saturating_sub(BEFORE_TABLES))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(BEFORE_TABLES + offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_length(BEFORE_TABLES + length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(BEFORE_TABLES + offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.0.close()
    }
}
