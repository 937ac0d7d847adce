//! The log: changes as they came, at the head of the journal's file. A commit is one write behind the last one and one
//! sync; the tables behind the log get the same changes later, many commits at once, when what was reserved and claimed is
//! mostly settled and answered already, so that a request leaves one row there and not four.
//!
//! A commit is a frame: length, checksum, number, changes. Frames begin at sectors, so that no write touches one that was
//! acknowledged. What counts is the numbers: those that the tables have are over, whatever stands here.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use super::super::op::Op;
use super::changes;
use super::codec::{Malformed, RowReader, RowWriter};

/// Bytes of the file that are the log's.
pub(super) const LENGTH: u64 = 1 << 20;
/// Bytes that a disk writes together or not at all.
const SECTOR: usize = 512;
/// Length and checksum of what follows: the number, and the changes.
const HEAD: usize = 8;
/// The least of what follows.
const NUMBER: usize = 8;
/// What the buffer of a frame keeps for the next.
const BUFFER: usize = 128 * 1024;

/// A storage of which the log has the head, and the tables the rest.
#[derive(Clone, Debug)]
pub(super) struct Storage(Arc<dyn StorageBackend>);

impl Storage {
    pub(super) fn new(storage: impl StorageBackend) -> Storage {
        Storage(Arc::new(storage))
    }

    /// Bytes of all of it.
    pub(super) fn length(&self) -> io::Result<u64> {
        self.0.len()
    }

    /// Makes a log of nothing. Its bytes are written and not only reserved: a sync of bytes that are there already has
    /// less to write.
    pub(super) fn clear_log(&self) -> io::Result<()> {
        self.0.set_len(LENGTH)?;
        self.0.write(0, &vec![0; usize::try_from(LENGTH).unwrap_or(0)])
    }
}

/// The part of the storage that is the tables'.
#[derive(Debug)]
pub(super) struct TablesPart(pub(super) Storage);

impl StorageBackend for TablesPart {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.0.len()?.saturating_sub(LENGTH))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.0.read(LENGTH + offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.0.set_len(LENGTH + length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.0.write(LENGTH + offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.0.close()
    }
}

/// The log, open for frames.
#[derive(Debug)]
pub(super) struct Log {
    storage: Storage,
    /// Where the next frame begins.
    end: usize,
    frame: Vec<u8>,
}

/// Whether a commit is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// It is written, and durable after the next sync.
    Written,
    /// It does not fit behind the others; nothing was written.
    NoRoom,
}

/// Why the log cannot be read.
#[derive(Debug)]
pub(super) enum LogProblem {
    /// The system did not let it be read.
    Io(io::Error),
    /// It is not what was written.
    Malformed(Malformed),
}

impl Log {
    /// The log of a storage, of which every frame is in the tables.
    pub(super) fn new(storage: Storage) -> Log {
        Log { storage, end: 0, frame: Vec::new() }
    }

    /// Writes one commit behind the last.
    pub(super) fn append<'o>(
        &mut self,
        number: u64,
        ops: impl Iterator<Item = &'o Op>,
    ) -> io::Result<Appended> {
        let room = length().saturating_sub(self.end);
        let mut bytes = std::mem::take(&mut self.frame);
        bytes.clear();
        bytes.shrink_to(BUFFER);
        bytes.extend_from_slice(&[0; HEAD]);
        let mut writer = RowWriter::unchecked(bytes);
        writer.u64(number);
        for op in ops {
            changes::write(&mut writer, op);
            if writer.len() > room {
                break;
            }
        }
        self.frame = writer.into_bytes();
        if self.frame.len() > room {
            return Ok(Appended::NoRoom);
        }
        let (head, rest) = self.frame.split_at_mut(HEAD);
        let (length, checksum) = head.split_at_mut(HEAD / 2);
        // A log of more than a `u32` counts has no room here.
        length.copy_from_slice(&u32::try_from(rest.len()).unwrap_or(u32::MAX).to_le_bytes());
        checksum.copy_from_slice(&crc32fast::hash(rest).to_le_bytes());
        self.storage.0.write(self.end as u64, &self.frame)?;
        self.end += self.frame.len().next_multiple_of(SECTOR);
        Ok(Appended::Written)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.storage.0.sync_data()
    }

    /// The tables have all of it: frames begin at the head again.
    pub(super) fn begin_anew(&mut self) {
        self.end = 0;
    }

    /// The changes of all commits after this one, and the number of the last.
    pub(super) fn read_after(&self, number: u64) -> Result<(Vec<Op>, u64), LogProblem> {
        let mut log = vec![0; length()];
        self.storage.0.read(0, &mut log).map_err(LogProblem::Io)?;
        let (mut ops, mut last, mut at) = (Vec::new(), number, 0);
        while let Some(frame) = frame_at(&log, at).filter(|frame| frame.number == last + 1) {
            let mut reader = RowReader::unchecked(frame.changes);
            while !reader.is_empty() {
                ops.push(changes::read(&mut reader).map_err(LogProblem::Malformed)?);
            }
            last = frame.number;
            at += frame.length.next_multiple_of(SECTOR);
        }
        // A frame is written when the one before is durable: behind one that broke off nothing newer stands.
        let newer = |at: &usize| frame_at(&log, *at).is_some_and(|frame| frame.number > last);
        if (at..log.len()).step_by(SECTOR).any(|at| newer(&at)) {
            return Err(LogProblem::Malformed(Malformed("a commit amidst others is damaged")));
        }
        Ok((ops, last))
    }
}

/// A commit as it stands in the log.
struct Frame<'a> {
    number: u64,
    changes: &'a [u8],
    length: usize,
}

/// The frame that begins here, if one does and is whole.
fn frame_at(log: &[u8], at: usize) -> Option<Frame<'_>> {
    let frame = log.get(at..)?;
    let (length, rest) = frame.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let content = rest.get(..length).filter(|content| content.len() >= NUMBER)?;
    let (number, changes) = content.split_first_chunk()?;
    let whole = crc32fast::hash(content) == u32::from_le_bytes(*checksum);
    whole.then(|| Frame { number: u64::from_le_bytes(*number), changes, length: HEAD + length })
}

fn length() -> usize {
    usize::try_from(LENGTH).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::clock::Wall;
    use crate::policy::limit::SubjectKey;

    fn empty() -> Log {
        let storage = Storage::new(InMemoryBackend::new());
        storage.clear_log().unwrap();
        Log::new(storage)
    }

    fn append(log: &mut Log, number: u64) {
        let op = Op::Seen(SubjectKey(number.into()), Wall(1));
        assert_eq!(log.append(number, [op].iter()).unwrap(), Appended::Written);
    }

    /// How many changes there are after a commit, and the number of the last.
    fn found_after(log: &Log, number: u64) -> Option<(usize, u64)> {
        log.read_after(number).ok().map(|(ops, last)| (ops.len(), last))
    }

    fn damage(log: &Log, at: u64) {
        let mut byte = [0];
        log.storage.0.read(at, &mut byte).unwrap();
        log.storage.0.write(at, &[byte[0] ^ 1]).unwrap();
    }

    #[test]
    fn commits_come_back_in_their_order_and_those_that_the_tables_have_do_not() {
        let mut log = empty();
        assert_eq!(found_after(&log, 0), Some((0, 0)));
        (8..=11).for_each(|number| append(&mut log, number));
        assert_eq!(found_after(&log, 7), Some((4, 11)));
        assert_eq!(found_after(&log, 11), Some((0, 11)), "the tables have all of it");
        log.begin_anew();
        append(&mut log, 12);
        assert_eq!(found_after(&log, 11), Some((1, 12)), "older ones stand behind");
    }

    #[test]
    fn a_last_commit_that_broke_off_is_none_and_one_amidst_others_is_damage() {
        let mut log = empty();
        (1..=3).for_each(|number| append(&mut log, number));
        damage(&log, 1024 + 20);
        assert_eq!(found_after(&log, 0), Some((2, 2)));
        damage(&log, 20);
        damage(&log, 1024 + 20);
        assert_eq!(found_after(&log, 0), None);
        assert_eq!(found_after(&log, 3), Some((0, 3)), "what is over cannot be damaged");
        assert_eq!(found_after(&log, 2), None, "the tables are older than the log's first");
    }

    #[test]
    fn a_commit_that_does_not_fit_leaves_the_log_as_it_is() {
        let mut log = empty();
        append(&mut log, 1);
        let many = vec![Op::Seen(SubjectKey(1), Wall(1)); length() / 25];
        assert_eq!(log.append(2, many.iter()).unwrap(), Appended::NoRoom);
        assert_eq!(found_after(&log, 0), Some((1, 1)));
        log.begin_anew();
        let fits = (length() - HEAD - NUMBER) / 25;
        assert_eq!(log.append(2, many[..fits].iter()).unwrap(), Appended::Written);
        assert_eq!(found_after(&log, 1), Some((fits, 2)));
        assert_eq!(log.append(3, [].iter()).unwrap(), Appended::NoRoom);
    }
}
