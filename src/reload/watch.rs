//! The kernel's word that something changed. Directories are watched, not files: a file that is replaced is another
//! file. It is only a hint that saves time; the poll finds whatever it misses.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::files::trail;

/// What the kernel is asked for. Not each write: the gate's own record may be written beside its policy, a hundred times a
/// second, and who writes a policy closes it. Not opening and reading either, which is what a look does.
const ASKED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);
/// A name came or went. Of a directory that is named itself the names matter; a log that is closed in it does not.
const NAMES: ReadFlags = ReadFlags::CREATE
    .union(ReadFlags::DELETE)
    .union(ReadFlags::MOVED_FROM)
    .union(ReadFlags::MOVED_TO);
/// All of a directory may be another, or more happened than the kernel could keep.
const WHOLE: ReadFlags = ReadFlags::DELETE_SELF
    .union(ReadFlags::MOVE_SELF)
    .union(ReadFlags::UNMOUNT)
    .union(ReadFlags::QUEUE_OVERFLOW);
/// Bytes of events that are read at a time.
const PART: usize = 4096;

/// A watch over the directories of some files.
pub(super) struct Watch {
    kernel: Option<OwnedFd>,
    unavailable: Option<String>,
    directories: BTreeMap<PathBuf, Watched>,
    /// The paths whose events matter.
    paths: BTreeSet<PathBuf>,
}

/// A directory under one of its names.
#[derive(Clone, Copy)]
struct Watched {
    /// Device and inode of what the name meant when the watch was set.
    identity: (u64, u64),
    /// The kernel's number for it; two names of one directory have the same.
    number: i32,
}

impl Watch {
    /// A watch over nothing yet.
    pub(super) fn start() -> Watch {
        match inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC) {
            Ok(kernel) => Watch::over_nothing(Some(kernel), None),
            Err(error) => Watch::over_nothing(None, Some(error.to_string())),
        }
    }

    /// A watch that hears nothing, as where the kernel has no more of them to give.
    #[cfg(test)]
    pub(super) fn deaf() -> Watch {
        Watch::over_nothing(None, Some("none left".into()))
    }

    fn over_nothing(kernel: Option<OwnedFd>, unavailable: Option<String>) -> Watch {
        Watch { kernel, unavailable, directories: BTreeMap::new(), paths: BTreeSet::new() }
    }

    /// Why the kernel tells nothing, if it does not.
    pub(super) fn unavailable(&self) -> Option<&str> {
        self.unavailable.as_deref()
    }

    /// What becomes readable when [`Watch::changed`] has something to look at.
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.kernel.as_ref().map(AsFd::as_fd)
    }

    /// Watches the directories of exactly these files, and of every link that leads to them.
    pub(super) fn follow(&mut self, files: &[PathBuf]) {
        let Some(kernel) = &self.kernel else { return };
        self.paths = files.iter().flat_map(|file| trail(file)).collect();
        let mut wanted = BTreeMap::new();
        for path in &self.paths {
            let within = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
            if let Some((directory, identity)) = within.and_then(|dir| Some((dir, identity(dir)?)))
            {
                wanted.insert(directory.to_owned(), identity);
            }
        }
        let before = std::mem::take(&mut self.directories);
        for (directory, identity) in wanted {
            if let Some(had) = before.get(&directory).filter(|had| had.identity == identity) {
                self.directories.insert(directory, *had);
                continue;
            }
            match inotify::add_watch(kernel, &directory, ASKED) {
                Ok(number) => {
                    self.directories.insert(directory, Watched { identity, number });
                }
                Err(error) => self.unavailable = Some(unwatched(error)),
            }
        }
        let kept: BTreeSet<i32> = self.directories.values().map(|kept| kept.number).collect();
        for gone in before.values().filter(|gone| !kept.contains(&gone.number)) {
            // A directory that was removed took its watch with it.
            let _ = inotify::remove_watch(kernel, gone.number);
        }
    }

    /// Whether anything happened since the last call that may have changed the files. Does not wait.
    pub(super) fn changed(&mut self) -> bool {
        let Some(kernel) = &self.kernel else { return false };
        let mut part = [MaybeUninit::uninit(); PART];
        let mut events = Reader::new(kernel, &mut part);
        let (mut changed, mut over) = (false, BTreeSet::new());
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    changed |= self.matters(event.wd(), event.events(), name);
                    if event.events().contains(ReadFlags::IGNORED) {
                        over.insert(event.wd());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody knows what was not told.
                Err(_) => {
                    changed = true;
                    break;
                }
            }
        }
        // The kernel ended these watches; a directory that is made anew may even have the old one's identity.
        self.directories.retain(|_, watched| !over.contains(&watched.number));
        changed
    }

    fn matters(&self, number: i32, what: ReadFlags, name: Option<&OsStr>) -> bool {
        let ours = |directory: &Path| match name {
            Some(name) => {
                let named = what.intersects(NAMES) && self.paths.contains(directory);
                named || self.paths.contains(&directory.join(name))
            }
            None => what.contains(ReadFlags::ATTRIB) && self.paths.contains(directory),
        };
        let mut within = self.directories.iter().filter(|(_, watched)| watched.number == number);
        what.intersects(WHOLE) || within.any(|(directory, _)| ours(directory))
    }
}

/// Why a directory is not watched. The kernel's word for too many watches is that of a full disk.
fn unwatched(error: Errno) -> String {
    match error {
        Errno::NOSPC => "no more directories can be watched (fs.inotify.max_user_watches)".into(),
        error => error.to_string(),
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|data| (data.dev(), data.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// A watch over `names` of a new directory.
    fn watch(names: &[&str]) -> (tempfile::TempDir, Watch) {
        let directory = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = names.iter().map(|name| directory.path().join(name)).collect();
        for file in &files {
            match file.extension() {
                Some(_) => fs::write(file, "one").unwrap(),
                None => fs::create_dir(file).unwrap(),
            }
        }
        let mut watch = Watch::start();
        watch.follow(&files);
        assert_eq!(watch.unavailable(), None);
        (directory, watch)
    }

    /// Whether the thread would wake.
    fn wakes(watch: &Watch) -> bool {
        let mut waited = [PollFd::from_borrowed_fd(watch.readable().unwrap(), PollFlags::IN)];
        poll(&mut waited, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    #[test]
    fn records_that_are_written_beside_a_policy_wake_nobody() {
        let (directory, mut watch) = watch(&["policy.yaml"]);
        let mut log = File::create(directory.path().join("access.log")).unwrap();
        assert!(!watch.changed(), "another file came");
        for _ in 0..100 {
            log.write_all(b"record\n").unwrap();
        }
        assert!(!wakes(&watch));
        drop(log);
        assert!(!watch.changed(), "another file was closed");
    }

    #[test]
    fn reading_the_policy_wakes_nobody() {
        let (directory, watch) = watch(&["policy.yaml"]);
        fs::read(directory.path().join("policy.yaml")).unwrap();
        fs::read_dir(directory.path()).unwrap().for_each(drop);
        assert!(!wakes(&watch));
    }

    #[test]
    fn each_way_to_change_a_policy_is_told() {
        let ways: [fn(&Path); 5] = [
            |file| fs::write(file, "two").unwrap(),
            |file| {
                let other = file.with_extension("new");
                fs::write(&other, "two").unwrap();
                fs::rename(other, file).unwrap();
            },
            |file| fs::remove_file(file).unwrap(),
            |file| fs::set_permissions(file, fs::metadata(file).unwrap().permissions()).unwrap(),
            |file| {
                let before = file.parent().unwrap();
                let after = before.with_extension("moved");
                fs::rename(before, &after).unwrap();
                fs::rename(after, before).unwrap();
            },
        ];
        for (nth, way) in ways.iter().enumerate() {
            let (directory, mut watch) = watch(&["policy.yaml"]);
            assert!(!watch.changed(), "{nth}");
            way(&directory.path().join("policy.yaml"));
            assert!(watch.changed(), "{nth}");
            assert!(!watch.changed(), "{nth}: told once");
        }
    }

    #[test]
    fn a_newcomer_in_a_directory_that_is_itself_named_matters() {
        let (directory, mut watch) = watch(&["keys"]);
        let keys = directory.path().join("keys");
        let mut log = File::create(keys.join("access.log")).unwrap();
        assert!(watch.changed());
        log.write_all(b"record\n").unwrap();
        drop(log);
        assert!(!watch.changed());
        fs::remove_file(keys.join("access.log")).unwrap();
        assert!(watch.changed());
    }

    #[test]
    fn one_directory_under_two_names_is_watched_until_the_last_is_not_wanted() {
        let (directory, mut watch) = watch(&["keys"]);
        let (keys, also) = (directory.path().join("keys"), directory.path().join("also"));
        symlink("keys", &also).unwrap();
        let (first, second) = (keys.join("a.yaml"), also.join("b.yaml"));
        watch.follow(&[first.clone(), second.clone()]);
        assert!(!watch.changed());
        fs::write(&second, "b").unwrap();
        assert!(watch.changed());
        watch.follow(std::slice::from_ref(&first));
        fs::write(&second, "b").unwrap();
        assert!(!watch.changed());
        fs::write(&first, "a").unwrap();
        assert!(watch.changed());
    }

    #[test]
    fn a_directory_that_is_made_anew_is_watched_anew() {
        let (directory, mut watch) = watch(&["keys"]);
        let keys = directory.path().join("keys");
        fs::remove_dir(&keys).unwrap();
        assert!(watch.changed());
        fs::create_dir(&keys).unwrap();
        watch.follow(std::slice::from_ref(&keys));
        watch.changed();
        fs::write(keys.join("new.yaml"), "x").unwrap();
        assert!(watch.changed());
    }
}
