//! The number of the last commit that was acknowledged, in a file beside the journal. Where a crash left the newest commit
//! damaged, the library goes back to the one before, and cannot know that this one was promised to somebody: the mark does.
//!
//! It is written after each commit and not synced: a kill leaves it exact, a power cut leaves it too low at worst, which
//! only makes it find less.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Two places, written in turn, each within one sector.
const PLACES: [u64; 2] = [0, 512];
const LENGTH: usize = 12;

/// The open file.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

impl Mark {
    /// Writes and syncs a mark of nothing.
    pub(super) fn create(file: File) -> io::Result<Mark> {
        for place in PLACES {
            file.write_all_at(&encoded(0), place)?;
        }
        file.sync_all()?;
        Ok(Mark { file })
    }

    /// The mark in a file, and its number. `None`: neither place is what was written there.
    pub(super) fn read(file: File) -> io::Result<Option<(Mark, u64)>> {
        let mut newest = None;
        for place in PLACES {
            let mut bytes = [0; LENGTH];
            match file.read_exact_at(&mut bytes, place) {
                Ok(()) => newest = newest.max(decoded(bytes)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(error),
            }
        }
        Ok(newest.map(|newest| (Mark { file }, newest)))
    }

    /// This commit is about to be acknowledged.
    pub(super) fn acknowledge(&self, sequence: u64) -> io::Result<()> {
        let place = PLACES[usize::from(sequence % 2 == 1)];
        self.file.write_all_at(&encoded(sequence), place)
    }
}

fn encoded(sequence: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decoded(bytes: [u8; LENGTH]) -> Option<u64> {
    let (sequence, checksum) = bytes.split_first_chunk::<8>()?;
    let right = checksum == crc32fast::hash(sequence).to_le_bytes();
    right.then(|| u64::from_le_bytes(*sequence))
}
