//! What a power cut leaves of a directory, worked out from the record of every change to it. Data is safe once its file was
//! synced, a name once its directory was; of everything else any part may be missing.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::dice::Dice;

/// What a disk writes at once.
const SECTOR: usize = 512;

/// One change, in the words of `tests/faults/disk.c`.
#[derive(Debug)]
struct Change {
    kind: Kind,
    inode: u64,
    offset: u64,
    /// How long the file was before.
    length: u64,
    path: PathBuf,
    old: Vec<u8>,
    new: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Resize,
    Create,
    Rename,
    Unlink,
    SyncFile,
    SyncDirectory,
}

/// Puts the directory into a state that a power cut at the end of `log` may leave.
pub(super) fn cut(directory: &Path, log: &[u8], dice: &mut Dice) {
    let mut pending: Vec<Change> = Vec::new();
    let mut rest = log;
    while let Some(change) = Change::read(&mut rest) {
        match change.kind {
            Kind::SyncFile => pending.retain(|p| p.is_name() || p.inode != change.inode),
            Kind::SyncDirectory => {
                pending.retain(|p| !p.is_name() || p.path.parent() != Some(&change.path));
            }
            _ => pending.push(change),
        }
    }
    for change in pending.iter().rev() {
        change.take_back(directory);
    }
    // A disk may also have written some of it, in an order of its own.
    if dice.below(3) > 0 {
        for change in &pending {
            change.write_some(directory, dice);
        }
    }
}

impl Change {
    fn read(rest: &mut &[u8]) -> Option<Change> {
        let mut number = || {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            *rest = tail;
            Some(u64::from_ne_bytes(*head))
        };
        let kind = match u8::try_from(number()?).ok()? {
            b'W' => Kind::Write,
            b'T' => Kind::Resize,
            b'C' => Kind::Create,
            b'R' => Kind::Rename,
            b'U' => Kind::Unlink,
            b'S' => Kind::SyncFile,
            b'D' => Kind::SyncDirectory,
            other => panic!("no kind of change: {other}"),
        };
        let (inode, offset, length) = (number()?, number()?, number()?);
        let (path, old, new) = (number()?, number()?, number()?);
        let mut bytes = |length: u64| {
            // The last record may be cut short by the gate's death; its change was made all the same, but a sync cannot
            // have followed it.
            let (head, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            *rest = tail;
            Some(head.to_vec())
        };
        let path = PathBuf::from(String::from_utf8(bytes(path)?).ok()?);
        Some(Change { kind, inode, offset, length, path, old: bytes(old)?, new: bytes(new)? })
    }

    /// Whether it is about a name, and not about what stands in a file.
    fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Create | Kind::Rename | Kind::Unlink)
    }

    fn take_back(&self, directory: &Path) {
        let text = |bytes: &[u8]| PathBuf::from(String::from_utf8_lossy(bytes).into_owned());
        // Names that are not there any more need not be taken back.
        match self.kind {
            Kind::Create => drop(fs::remove_file(&self.path)),
            Kind::Unlink if !self.new.is_empty() => {
                drop(fs::hard_link(text(&self.new), &self.path));
            }
            Kind::Rename => {
                drop(fs::rename(text(&self.old), &self.path));
                if !self.new.is_empty() {
                    drop(fs::hard_link(text(&self.new), text(&self.old)));
                }
            }
            Kind::Write | Kind::Resize => {
                let Some(path) = files(directory).remove(&self.inode) else { return };
                let file = OpenOptions::new().write(true).open(path).expect("it is ours");
                file.write_all_at(&self.old, self.offset).expect("there is room");
                file.set_len(self.length).expect("there is room");
            }
            Kind::Unlink | Kind::SyncFile | Kind::SyncDirectory => {}
        }
    }

    /// Writes some sectors of a write that was taken back.
    fn write_some(&self, directory: &Path, dice: &mut Dice) {
        if self.kind != Kind::Write {
            return;
        }
        let Some(path) = files(directory).remove(&self.inode) else { return };
        let file = OpenOptions::new().write(true).open(path).expect("it is ours");
        let mut at = 0;
        while at < self.new.len() {
            let offset = self.offset + at as u64;
            let to_the_edge = SECTOR - usize::try_from(offset).unwrap_or(0) % SECTOR;
            let end = self.new.len().min(at + to_the_edge);
            if dice.below(2) == 0 {
                file.write_all_at(&self.new[at..end], offset).expect("there is room");
            }
            at = end;
        }
    }
}

/// The files below a directory by their inodes.
fn files(directory: &Path) -> HashMap<u64, PathBuf> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(about.ino(), entry.path());
        }
    }
    found
}
