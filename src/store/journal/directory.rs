//! The state directory: who may use it, whose it is, and in which format it is. Five files:
//!
//! - `format`: one line, written once, after everything else is there. Its lock is the directory's lock.
//! - `journal`: [the tables](super::tables).
//! - `log`: see [`super::log`].
//! - `acknowledged`: see [`super::mark`].
//! - `journal.new`: a journal in the making, of no account.
//!
//! Format 2 had its log in the journal's file, before the tables. It is read, and becomes format 3 by that.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::mark::Mark;
use super::problem::OpenProblem;

/// The format that this release writes.
const FORMAT: u64 = 3;
/// The format before, which it reads as well.
const OLDER: u64 = 2;
const FORMAT_TEXT: &str = "tollgate state, format ";

const FORMAT_FILE: &str = "format";
const JOURNAL_FILE: &str = "journal";
const LOG_FILE: &str = "log";
const NEW_JOURNAL_FILE: &str = "journal.new";
const MARK_FILE: &str = "acknowledged";

/// Whether there was state here before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// None that was ever promised to anybody.
    New,
    /// A journal and a mark must be here, of the format before.
    Older,
    /// A journal, a log and a mark must be here.
    Established,
}

/// A directory that is this process's alone until it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Locked.
    format: File,
    standing: Standing,
    opened_up: Vec<PathBuf>,
}

impl Directory {
    /// Makes it if it is not there, locks it, and reads in which format it is.
    pub(super) fn take(path: &Path) -> Result<Directory, OpenProblem> {
        if !path.is_dir() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| unusable(path, "cannot be made", &error))?;
        }
        let mut opened_up = Vec::new();
        let mode = fs::metadata(path).map_err(|error| unusable(path, "cannot be read", &error))?;
        // A mounted volume belongs to another; the files are closed all the same.
        if mode.permissions().mode() & 0o077 != 0
            && fs::set_permissions(path, Permissions::from_mode(0o700)).is_ok()
        {
            opened_up.push(path.to_owned());
        }
        let file = path.join(FORMAT_FILE);
        let mut format = open_private(&file, &mut opened_up)?;
        match format.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenProblem::Locked { directory: path.to_owned() });
            }
            Err(TryLockError::Error(error)) => {
                return Err(unusable(&file, "cannot be locked", &error));
            }
        }
        let mut text = Vec::new();
        let read = (&mut format).take(4096).read_to_end(&mut text);
        read.map_err(|error| unusable(&file, "cannot be read", &error))?;
        let standing = standing(path, &file, &text)?;
        Ok(Directory { path: path.to_owned(), format, standing, opened_up })
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Files that others could read, and can no longer.
    pub(super) fn opened_up(&self) -> &[PathBuf] {
        &self.opened_up
    }

    pub(super) fn journal_path(&self) -> PathBuf {
        self.path.join(JOURNAL_FILE)
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.path.join(LOG_FILE)
    }

    pub(super) fn format_path(&self) -> PathBuf {
        self.path.join(FORMAT_FILE)
    }

    /// The file with the data. In a new directory `make` fills it under another name first, so that a crash on the way
    /// leaves nothing that looks like state.
    pub(super) fn journal(
        &mut self,
        make: impl FnOnce(File) -> Result<(), OpenProblem>,
    ) -> Result<File, OpenProblem> {
        let path = self.journal_path();
        let length = match fs::metadata(&path) {
            Ok(metadata) => Some(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unusable(&path, "cannot be read", &error)),
        };
        match (self.standing, length) {
            (_, Some(1..)) => {}
            (Standing::Established | Standing::Older, None) => {
                return Err(corrupt(path, "it is missing"));
            }
            (Standing::Established | Standing::Older, Some(0)) => {
                return Err(corrupt(path, "it is empty"));
            }
            (Standing::New, _) => {
                let new = self.path.join(NEW_JOURNAL_FILE);
                match fs::remove_file(&new) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(unusable(&new, "cannot be removed", &error)),
                }
                make(open_private(&new, &mut self.opened_up)?)?;
                fs::rename(&new, &path)
                    .map_err(|error| unusable(&path, "cannot be made", &error))?;
                self.sync()?;
            }
        }
        open_private(&path, &mut self.opened_up)
    }

    /// The file with the log; an empty one where none must be here.
    pub(super) fn log(&mut self) -> Result<File, OpenProblem> {
        let path = self.log_path();
        match (self.standing, path.try_exists()) {
            (_, Ok(true)) | (Standing::New | Standing::Older, Ok(false)) => {}
            (Standing::Established, Ok(false)) => return Err(corrupt(path, "it is missing")),
            (_, Err(error)) => return Err(unusable(&path, "cannot be read", &error)),
        }
        open_private(&path, &mut self.opened_up)
    }

    /// The mark, and the last commit that was acknowledged.
    pub(super) fn mark(&mut self) -> Result<(Mark, u64), OpenProblem> {
        let path = self.path.join(MARK_FILE);
        let failed = |error: &io::Error| unusable(&path, "cannot be read or written", error);
        match (path.try_exists(), self.standing) {
            (Ok(true), _) => {}
            (Ok(false), Standing::New) => {
                let file = open_private(&path, &mut self.opened_up)?;
                return Mark::create(file).map(|mark| (mark, 0)).map_err(|error| failed(&error));
            }
            (Ok(false), Standing::Established | Standing::Older) => {
                return Err(corrupt(path, "it is missing"));
            }
            (Err(error), _) => return Err(failed(&error)),
        }
        let file = open_private(&path, &mut self.opened_up)?;
        match (Mark::read(file).map_err(|error| failed(&error))?, self.standing) {
            (Some(known), _) => Ok(known),
            // A crash while it was made.
            (None, Standing::New) => {
                let file = open_private(&path, &mut self.opened_up)?;
                Mark::create(file).map(|mark| (mark, 0)).map_err(|error| failed(&error))
            }
            (None, Standing::Established | Standing::Older) => {
                Err(corrupt(path, "its checksums are wrong"))
            }
        }
    }

    /// From now on a journal, a log and a mark must be here, of the format of this release.
    pub(super) fn establish(&mut self) -> Result<(), OpenProblem> {
        if self.standing != Standing::Established {
            // Their names first: a power cut must not leave the format of a file that is not there.
            self.sync()?;
            let path = self.format_path();
            // One write of a few bytes: where it takes the place of the format before, either of them stands there.
            let line = format!("{FORMAT_TEXT}{FORMAT}\n");
            let written = self
                .format
                .write_all_at(line.as_bytes(), 0)
                .and_then(|()| self.format.set_len(line.len() as u64))
                .and_then(|()| self.format.sync_all());
            written.map_err(|error| unusable(&path, "cannot be written", &error))?;
            self.sync()?;
            self.standing = Standing::Established;
        }
        Ok(())
    }

    /// Makes the names in it durable, and its own.
    fn sync(&self) -> Result<(), OpenProblem> {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(|error| unusable(&self.path, "cannot be synced", &error))?;
        // Where only the directory itself is ours, its name is somebody else's care.
        let _ = File::open(parent).and_then(|directory| directory.sync_all());
        Ok(())
    }
}

fn standing(directory: &Path, file: &Path, text: &[u8]) -> Result<Standing, OpenProblem> {
    if text.is_empty() {
        return Ok(Standing::New);
    }
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.strip_prefix(FORMAT_TEXT)?.strip_suffix('\n')?.parse::<u64>().ok());
    match number {
        Some(FORMAT) => Ok(Standing::Established),
        Some(OLDER) => Ok(Standing::Older),
        Some(found @ 1..) => {
            Err(OpenProblem::OtherFormat { directory: directory.to_owned(), found, known: FORMAT })
        }
        Some(0) | None => Err(corrupt(file.to_owned(), "it names no format")),
    }
}

/// The log that belongs to a journal.
pub(super) fn log_beside(journal: &Path) -> PathBuf {
    journal.with_file_name(LOG_FILE)
}

/// Opens a file for this user alone, and makes it so if it was not.
fn open_private(path: &Path, opened_up: &mut Vec<PathBuf>) -> Result<File, OpenProblem> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let file = opened.map_err(|error| unusable(path, "cannot be opened", &error))?;
    let metadata = file.metadata().map_err(|error| unusable(path, "cannot be read", &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(|error| {
            unusable(path, "others can read it, and that cannot be changed", &error)
        })?;
        if mode & 0o077 != 0 {
            opened_up.push(path.to_owned());
        }
    }
    Ok(file)
}

fn unusable(path: &Path, what: &str, error: &io::Error) -> OpenProblem {
    OpenProblem::Unusable { path: path.to_owned(), what: format!("it {what}: {error}") }
}

fn corrupt(file: PathBuf, what: &str) -> OpenProblem {
    OpenProblem::Corrupt { file, what: what.to_owned() }
}
