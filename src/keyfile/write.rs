//! A key file on disk: held by one writer at a time, and replaced whole or not at all, durably. The lock is the
//! directory's, so that no lock file is left among the keys, and it outlives the rename that it guards.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::Format;

/// How long one writer waits for another.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);
/// The rights of a key file that is made here: its owner's alone.
const PRIVATE: u32 = 0o600;

/// Why a key file was not written. Nothing was changed.
#[derive(Debug)]
pub enum WriteProblem {
    /// It is a symbolic link, as in a mounted `ConfigMap`: what it points to belongs to somebody else.
    Symlink(PathBuf),
    /// It, or its directory, may not be written to.
    ReadOnly(PathBuf, Option<io::Error>),
    /// It is no regular file.
    NoFile(PathBuf),
    /// It holds something that is no UTF-8.
    NoText(PathBuf),
    /// Another writer holds it, and did not let go within 20 seconds.
    Busy(PathBuf),
    /// Anything else that the system says.
    System(PathBuf, io::Error),
}

impl fmt::Display for WriteProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteProblem::Symlink(path) => write!(f, "{} is a symbolic link", path.display()),
            WriteProblem::ReadOnly(path, None) => write!(f, "{} is read-only", path.display()),
            WriteProblem::ReadOnly(path, Some(why)) => {
                write!(f, "{} cannot be written: {why}", path.display())
            }
            WriteProblem::NoFile(path) => write!(f, "{} is not a regular file", path.display()),
            WriteProblem::NoText(path) => write!(f, "{} is not UTF-8 text", path.display()),
            WriteProblem::Busy(path) => {
                write!(f, "another process holds the lock of {}", path.display())
            }
            WriteProblem::System(path, why) => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl std::error::Error for WriteProblem {}

/// A key file that is held for writing, until dropped.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    directory: File,
    /// What the file was when it was locked; `None`: it did not exist.
    before: Option<Before>,
}

#[derive(Debug)]
struct Before {
    text: String,
    mode: u32,
    owner: (u32, u32),
}

impl Held {
    /// Waits for other writers, then reads the file. A file that does not exist is held too.
    pub fn lock(path: &Path) -> Result<Held, WriteProblem> {
        let parent = directory_of(path);
        let system = |error| WriteProblem::System(parent.clone(), error);
        let directory = File::open(&parent).map_err(system)?;
        lock_patiently(&directory, &parent)?;
        let before = read(path)?;
        Ok(Held { path: path.to_owned(), directory, before })
    }

    /// The file's text; empty where it does not exist.
    pub fn text(&self) -> &str {
        self.before.as_ref().map_or("", |before| &before.text)
    }

    /// Whether the file could be written, as far as can be told before.
    fn writable(&self) -> Result<(), WriteProblem> {
        let link = fs::symlink_metadata(&self.path).is_ok_and(|file| file.is_symlink());
        if link {
            return Err(WriteProblem::Symlink(self.path.clone()));
        }
        let nobody_writes = |mode: u32| mode & 0o222 == 0;
        if self.before.as_ref().is_some_and(|before| nobody_writes(before.mode)) {
            return Err(WriteProblem::ReadOnly(self.path.clone(), None));
        }
        match self.directory.metadata() {
            Ok(directory) if nobody_writes(directory.mode()) => {
                Err(WriteProblem::ReadOnly(directory_of(&self.path), None))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.problem(error)),
        }
    }

    /// Puts `text` in the file's place: another file of the same owner and rights, synced, renamed over it. JSON lines
    /// to which only lines were added are appended to instead, for a reader that looks at what is new.
    pub fn replace(self, text: &str) -> Result<(), WriteProblem> {
        self.writable()?;
        let added = match (&self.before, Format::of(&self.path)) {
            (Some(before), Format::JsonLines) => text.strip_prefix(before.text.as_str()),
            _ => None,
        };
        match added {
            Some(added) => self.add(added),
            None => self.rename_over(text),
        }
        .map_err(|error| self.problem(error))
    }

    fn add(&self, added: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        let length = file.metadata()?.len();
        let done = file.write_all(added.as_bytes()).and_then(|()| file.sync_all());
        if done.is_err() {
            // Half a line would spoil the file for its reader.
            file.set_len(length)?;
        }
        done
    }

    fn rename_over(&self, text: &str) -> io::Result<()> {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(".tmp");
        let temporary = self.path.with_file_name(name);
        // Whatever has this name was left by a writer that died: the lock says that there is no other.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.write_new(&temporary, text).and_then(|()| {
            fs::rename(&temporary, &self.path)?;
            self.directory.sync_all()
        });
        if written.is_err() {
            // The write's own error is the one to tell; the leftover may not even exist.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn write_new(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
        file.write_all(text.as_bytes())?;
        if let Some(before) = &self.before {
            let (user, group) = before.owner;
            let new = file.metadata()?;
            if (new.uid(), new.gid()) != before.owner {
                fchown(&file, Some(user), Some(group))?;
            }
            file.set_permissions(fs::Permissions::from_mode(before.mode & 0o7777))?;
        }
        file.sync_all()
    }

    fn problem(&self, error: io::Error) -> WriteProblem {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
        match error.kind() {
            // A file that is itself a mount point cannot be renamed over, and says "busy".
            PermissionDenied | ReadOnlyFilesystem | ResourceBusy => {
                WriteProblem::ReadOnly(self.path.clone(), Some(error))
            }
            _ => WriteProblem::System(self.path.clone(), error),
        }
    }
}

/// Writes a secret to a file that must not exist yet, readable by its owner alone.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn lock_patiently(directory: &File, path: &Path) -> Result<(), WriteProblem> {
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => sleep(PAUSE),
            Err(TryLockError::Error(error)) => {
                return Err(WriteProblem::System(path.to_owned(), error));
            }
        }
    }
    Err(WriteProblem::Busy(path.to_owned()))
}

fn read(path: &Path) -> Result<Option<Before>, WriteProblem> {
    let system = |error| WriteProblem::System(path.to_owned(), error);
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system(error)),
    };
    if !file.is_file() {
        return Err(WriteProblem::NoFile(path.to_owned()));
    }
    let bytes = fs::read(path).map_err(system)?;
    let text = String::from_utf8(bytes).map_err(|_| WriteProblem::NoText(path.to_owned()))?;
    Ok(Some(Before { text, mode: file.mode(), owner: (file.uid(), file.gid()) }))
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_rights() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        fs::write(directory.path().join(".keys.yaml.tmp"), "left by a writer that died").unwrap();
        Held::lock(&path).unwrap().replace("- a\n").unwrap();
        assert_eq!((mode(&path), fs::read_to_string(&path).unwrap().as_str()), (0o600, "- a\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        Held::lock(&path).unwrap().replace("- b\n").unwrap();
        assert_eq!((mode(&path), fs::read_to_string(&path).unwrap().as_str()), (0o640, "- b\n"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn added_lines_are_appended_to_the_very_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.jsonl");
        fs::write(&path, "{}\n").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        Held::lock(&path).unwrap().replace("{}\n[]\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n[]\n");
    }

    #[test]
    fn a_link_and_a_file_that_nobody_may_write_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real.yaml");
        fs::write(&real, "- a\n").unwrap();
        let link = directory.path().join("link.yaml");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let refused = Held::lock(&link).unwrap().replace("- b\n").unwrap_err();
        assert!(matches!(refused, WriteProblem::Symlink(_)));
        fs::set_permissions(&real, fs::Permissions::from_mode(0o444)).unwrap();
        let refused = Held::lock(&real).unwrap().replace("- b\n").unwrap_err();
        assert!(matches!(refused, WriteProblem::ReadOnly(..)));
        assert_eq!(fs::read_to_string(&real).unwrap(), "- a\n");
    }
}
