//! The log: changes as they came, in a file of their own. A commit is one write behind the last one and one sync; the tables
//! get the same changes later, many commits at once, when what was reserved and claimed is mostly settled and answered
//! already, so that a request leaves one row there and not four.
//!
//! It has two halves. While the tables take what one of them has, commits go on into the other, and neither waits.
//!
//! A commit is a frame: length, checksum, number, changes. Frames begin at sectors, so that no write touches one that was
//! acknowledged. What counts is the numbers: those that the tables have are over, whatever stands here.

use std::io;

use super::super::op::Op;
use super::changes;
use super::codec::{Malformed, RowReader, RowWriter};
use super::storage::{BEFORE_TABLES, Storage};

/// Bytes of one half: some 4 000 requests with a key and a price, a sixth of a second of them at most.
const HALF: usize = 4 << 20;
/// Bytes of the file.
pub(super) const LENGTH: usize = 2 * HALF;
/// Bytes that a disk writes together or not at all.
const SECTOR: usize = 512;
/// Length and checksum of what follows: the number, and the changes.
const HEAD: usize = 8;
/// The least of what follows.
const NUMBER: usize = 8;
/// What the buffer of a frame keeps for the next.
const BUFFER: usize = 128 * 1024;

/// The log, open for frames.
#[derive(Debug)]
pub(super) struct Log {
    storage: Storage,
    half: Half,
    /// Where in that half the next frame begins.
    end: usize,
    frame: Vec<u8>,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

impl Half {
    fn other(self) -> Half {
        match self {
            Half::First => Half::Second,
            Half::Second => Half::First,
        }
    }

    fn begins(self) -> usize {
        match self {
            Half::First => 0,
            Half::Second => HALF,
        }
    }
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
    /// Makes a log of nothing. Its bytes are written and not only reserved: a sync of bytes that are there already has
    /// less to write.
    pub(super) fn make(storage: &Storage) -> io::Result<()> {
        storage.set_length(LENGTH as u64)?;
        storage.write(0, &vec![0; LENGTH])?;
        storage.sync()
    }

    /// The log of a storage, of which every frame is in the tables before the first is written.
    pub(super) fn new(storage: Storage) -> Log {
        Log { storage, half: Half::First, end: 0, frame: Vec::new() }
    }

    /// Writes one commit behind the last.
    pub(super) fn append<'o>(
        &mut self,
        number: u64,
        ops: impl Iterator<Item = &'o Op>,
    ) -> io::Result<Appended> {
        let room = HALF.saturating_sub(self.end);
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
        self.storage.write((self.half.begins() + self.end) as u64, &self.frame)?;
        self.end += self.frame.len().next_multiple_of(SECTOR);
        Ok(Appended::Written)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.storage.sync()
    }

    /// Frames begin at the head of the other half, of which the tables have everything.
    pub(super) fn turn(&mut self) {
        self.half = self.half.other();
        self.end = 0;
    }

    /// The changes of all commits after this one, and the number of the last.
    pub(super) fn read_after(&self, number: u64) -> Result<(Vec<Op>, u64), LogProblem> {
        let mut log = vec![0; LENGTH];
        self.storage.read(0, &mut log).map_err(LogProblem::Io)?;
        let (first, second) = log.split_at(HALF);
        changes_after(&mut [first, second], number)
    }
}

/// The same of a log of format 2, which had one part, and stood before the tables in their file.
pub(super) fn read_older(tables: &Storage, number: u64) -> Result<(Vec<Op>, u64), LogProblem> {
    let mut log = vec![0; usize::try_from(BEFORE_TABLES).unwrap_or(0)];
    tables.read(0, &mut log).map_err(LogProblem::Io)?;
    changes_after(&mut [&log], number)
}

/// The changes of all commits after this one in the parts of a log, and the number of the last.
fn changes_after(parts: &mut [&[u8]], number: u64) -> Result<(Vec<Op>, u64), LogProblem> {
    // The part that was begun first has the lower numbers. One of which the head broke off has none that count.
    parts.sort_by_key(|part| frame_after(part, 0, 0).map(|frame| frame.number));
    let (mut ops, mut last) = (Vec::new(), number);
    for part in parts.iter() {
        let mut at = 0;
        // Behind the newest frame of a part stand older ones, of its last use, which the tables have.
        while let Some(frame) = frame_after(part, at, 0).filter(|frame| frame.number <= last + 1) {
            if frame.number > last {
                let mut reader = RowReader::unchecked(frame.changes);
                while !reader.is_empty() {
                    ops.push(changes::read(&mut reader).map_err(LogProblem::Malformed)?);
                }
                last = frame.number;
            }
            at += frame.length.next_multiple_of(SECTOR);
        }
    }
    // A frame is written when the one before is durable: behind one that broke off nothing newer stands.
    let has_newer = |part: &&[u8]| {
        (0..part.len()).step_by(SECTOR).any(|at| frame_after(part, at, last).is_some())
    };
    if parts.iter().any(has_newer) {
        return Err(LogProblem::Malformed(Malformed("a commit amidst others is damaged")));
    }
    Ok((ops, last))
}

/// A commit as it stands in the log.
struct Frame<'a> {
    number: u64,
    changes: &'a [u8],
    length: usize,
}

/// The frame that begins here, if one does, is whole, and has a number above this one.
fn frame_after(part: &[u8], at: usize, number: u64) -> Option<Frame<'_>> {
    let frame = part.get(at..)?;
    let (length, rest) = frame.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let content = rest.get(..length).filter(|content| content.len() >= NUMBER)?;
    let (found, changes) = content.split_first_chunk()?;
    let found = u64::from_le_bytes(*found);
    let whole = found > number && crc32fast::hash(content) == u32::from_le_bytes(*checksum);
    whole.then_some(Frame { number: found, changes, length: HEAD + length })
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::clock::Wall;
    use crate::policy::limit::SubjectKey;

    fn empty() -> Log {
        let storage = Storage::new(InMemoryBackend::new());
        Log::make(&storage).unwrap();
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

    fn damage(log: &Log, at: usize) {
        let mut byte = [0];
        log.storage.read(at as u64, &mut byte).unwrap();
        log.storage.write(at as u64, &[byte[0] ^ 1]).unwrap();
    }

    #[test]
    fn commits_come_back_in_their_order_and_those_that_the_tables_have_do_not() {
        let mut log = empty();
        assert_eq!(found_after(&log, 0), Some((0, 0)));
        (8..=11).for_each(|number| append(&mut log, number));
        assert_eq!(found_after(&log, 7), Some((4, 11)));
        assert_eq!(found_after(&log, 11), Some((0, 11)), "the tables have all of it");
        log.turn();
        log.turn();
        append(&mut log, 12);
        assert_eq!(found_after(&log, 11), Some((1, 12)), "older ones stand behind");
    }

    #[test]
    fn commits_of_both_halves_are_one_sequence_whichever_was_begun_first() {
        let mut log = empty();
        let mut last = 0;
        for _ in 0..5 {
            let before = last;
            for number in last + 1..=last + 3 {
                append(&mut log, number);
            }
            last += 3;
            assert_eq!(found_after(&log, before), Some((3, last)), "the other half is over");
            log.turn();
            // While the tables take those three.
            append(&mut log, last + 1);
            append(&mut log, last + 2);
            last += 2;
            assert_eq!(found_after(&log, before), Some((5, last)));
            assert_eq!(found_after(&log, before + 3), Some((2, last)), "the tables have three");
            log.turn();
        }
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
    fn a_half_that_is_damaged_or_gone_before_a_newer_one_is_damage() {
        let mut log = empty();
        (1..=3).for_each(|number| append(&mut log, number));
        log.turn();
        append(&mut log, 4);
        for at in [20, 512 + 20, 1024 + 20] {
            damage(&log, at);
            assert_eq!(found_after(&log, 0), None, "byte {at}");
            assert_eq!(found_after(&log, 3), Some((1, 4)), "the tables have that half");
            damage(&log, at);
        }
        damage(&log, HALF + 20);
        assert_eq!(found_after(&log, 0), Some((3, 3)), "the last one broke off");
        log.storage.write(0, &[0; 1536]).unwrap();
        damage(&log, HALF + 20);
        assert_eq!(found_after(&log, 0), None);
    }

    #[test]
    fn a_commit_that_does_not_fit_leaves_the_log_as_it_is() {
        let mut log = empty();
        append(&mut log, 1);
        let many = vec![Op::Seen(SubjectKey(1), Wall(1)); HALF / 25];
        assert_eq!(log.append(2, many.iter()).unwrap(), Appended::NoRoom);
        assert_eq!(found_after(&log, 0), Some((1, 1)));
        log.turn();
        let fits = (HALF - HEAD - NUMBER) / 25;
        assert_eq!(log.append(2, many[..fits].iter()).unwrap(), Appended::Written);
        assert_eq!(found_after(&log, 1), Some((fits, 2)));
        assert_eq!(log.append(3, [].iter()).unwrap(), Appended::NoRoom);
    }

    #[test]
    fn a_log_of_format_2_is_read_where_it_stood() {
        let mut log = empty();
        (5..=7).for_each(|number| append(&mut log, number));
        let (ops, last) = read_older(&log.storage, 5).unwrap();
        assert_eq!((ops.len(), last), (2, 7));
        damage(&log, 512 + 20);
        assert!(read_older(&log.storage, 4).is_err());
    }
}
