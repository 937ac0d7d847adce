//! The kernel's word that something changed. Directories are watched, not files: a file that is replaced is another
//! file. It is only a hint that saves time; the poll finds whatever it misses.
//!
//! The kernel is asked for names, attributes and files that were closed after writing, never for each write: of a log
//! in the policy's directory that stays open nothing is heard, and it costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::files::trail;

/// Bytes of events that are read together: some dozens of them, and at the least one of the longest name.
const READ_TOGETHER: usize = 4096;

/// A watch over the directories of some files.
pub(super) struct Watch {
    /// What the kernel's events are read from.
    events: Option<Arc<OwnedFd>>,
    unavailable: Option<String>,
    followed: Arc<Mutex<Followed>>,
}

/// What is watched, and which of it matters.
#[derive(Debug, Default)]
struct Followed {
    /// The names of each watched directory, by the kernel's number: links may give one of them several.
    directories: BTreeMap<i32, Vec<PathBuf>>,
    /// The paths whose events matter.
    paths: BTreeSet<PathBuf>,
    /// Nobody wants to know any more.
    ended: bool,
}

impl Watch {
    /// A watch over nothing yet. `changed` is called on a thread of the watch's.
    pub(super) fn start(changed: impl Fn() + Send + 'static) -> Watch {
        let followed: Arc<Mutex<Followed>> = Arc::default();
        let (events, unavailable) = match listen(Arc::clone(&followed), changed) {
            Ok(events) => (Some(events), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Watch { events, unavailable, followed }
    }

    /// A watch that hears nothing, as where the kernel has no more of them to give.
    #[cfg(test)]
    pub(super) fn deaf() -> Watch {
        Watch { events: None, unavailable: Some("none left".into()), followed: Arc::default() }
    }

    /// Why the kernel tells nothing, if it does not.
    pub(super) fn unavailable(&self) -> Option<&str> {
        self.unavailable.as_deref()
    }

    /// Watches the directories of exactly these files, and of every link that leads to them.
    pub(super) fn follow(&mut self, files: &[PathBuf]) {
        let Some(events) = &self.events else { return };
        let paths: BTreeSet<PathBuf> = files.iter().flat_map(|file| trail(file)).collect();
        let within = |path| if Path::is_dir(path) { Some(path) } else { path.parent() };
        let wanted: BTreeSet<&Path> = paths.iter().filter_map(|path| within(path)).collect();
        // Under the lock, so that no event comes from a directory that is not known yet.
        let mut followed = self.followed.lock();
        let mut directories: BTreeMap<i32, Vec<PathBuf>> = BTreeMap::new();
        for directory in wanted {
            // A directory that is watched already keeps its number; another of the same name gets a new one.
            match inotify::add_watch(events, directory, heard()) {
                Ok(number) => directories.entry(number).or_default().push(directory.to_owned()),
                Err(Errno::NOENT) => {}
                Err(error) => self.unavailable = Some(error.to_string()),
            }
        }
        for number in followed.directories.keys().filter(|number| !directories.contains_key(number))
        {
            // A directory that was removed took its watch with it.
            let _ = inotify::remove_watch(events, *number);
        }
        (followed.directories, followed.paths) = (directories, paths);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(events) = &self.events else { return };
        self.followed.lock().ended = true;
        // The end of any watch is an event, and wakes who reads them.
        if let Ok(number) = inotify::add_watch(events, "/", WatchFlags::DELETE_SELF) {
            let _ = inotify::remove_watch(events, number);
        }
    }
}

/// What the kernel is asked for.
fn heard() -> WatchFlags {
    let names = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
    let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    names | itself | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB
}

/// Starts the thread that reads the kernel's events.
fn listen(
    followed: Arc<Mutex<Followed>>,
    changed: impl Fn() + Send + 'static,
) -> io::Result<Arc<OwnedFd>> {
    let events = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
    let read = Arc::clone(&events);
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        let mut room = [MaybeUninit::uninit(); READ_TOGETHER];
        let mut reader = inotify::Reader::new(read.as_fd(), &mut room);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                // The poll goes on without.
                Err(_) => return,
            };
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            let matters = {
                let followed = followed.lock();
                if followed.ended {
                    return;
                }
                followed.matters(event.wd(), event.events(), name)
            };
            if matters {
                changed();
            }
        }
    })?;
    Ok(events)
}

impl Followed {
    /// Whether what happened in a directory, or to it where no name is told, may have changed something.
    fn matters(&self, directory: i32, what: ReadFlags, name: Option<&OsStr>) -> bool {
        // The kernel's queue was full: something may have changed.
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            return true;
        }
        let Some(directories) = self.directories.get(&directory) else { return false };
        let Some(name) = name else { return !what.contains(ReadFlags::IGNORED) };
        // Of a directory that is named itself the names matter; a log that is written in it does not.
        let names =
            ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        directories.iter().any(|directory| {
            self.paths.contains(&directory.join(name))
                || what.intersects(names) && self.paths.contains(directory)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const ETC: i32 = 1;

    fn followed(path: &str) -> Followed {
        let directories = BTreeMap::from([(ETC, vec![PathBuf::from("/etc/gate")])]);
        Followed { directories, paths: BTreeSet::from([path.into()]), ended: false }
    }

    fn hears(followed: &Followed, what: ReadFlags, name: &str) -> bool {
        followed.matters(ETC, what, Some(OsStr::new(name)))
    }

    #[test]
    fn a_followed_file_matters_and_others_beside_it_do_not() {
        let followed = followed("/etc/gate/policy.yaml");
        for what in [ReadFlags::CLOSE_WRITE, ReadFlags::MOVED_TO, ReadFlags::ATTRIB] {
            assert!(hears(&followed, what, "policy.yaml"));
            assert!(!hears(&followed, what, "access.log"));
        }
    }

    #[test]
    fn a_newcomer_in_a_directory_that_is_itself_named_matters() {
        let followed = followed("/etc/gate");
        assert!(hears(&followed, ReadFlags::CREATE, "new.keys.yaml"));
        assert!(!hears(&followed, ReadFlags::CLOSE_WRITE, "access.log"));
    }

    #[test]
    fn what_the_kernel_dropped_and_what_happens_to_the_directory_matter() {
        let followed = followed("/etc/gate/policy.yaml");
        assert!(followed.matters(-1, ReadFlags::QUEUE_OVERFLOW, None));
        assert!(followed.matters(ETC, ReadFlags::DELETE_SELF, None));
        assert!(!followed.matters(ETC, ReadFlags::IGNORED, None));
        assert!(!followed.matters(ETC + 1, ReadFlags::DELETE_SELF, None));
    }

    #[test]
    fn writing_and_reading_beside_a_followed_file_is_not_heard_and_writing_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy.yaml");
        fs::write(&policy, "1").unwrap();
        let mut log = fs::File::create(directory.path().join("access.log")).unwrap();
        let (told, heard) = mpsc::channel();
        let mut watch = Watch::start(move || told.send(()).unwrap());
        watch.follow(std::slice::from_ref(&policy));
        assert_eq!(watch.unavailable(), None);
        log.write_all(b"a line\n").unwrap();
        fs::read(&policy).unwrap();
        fs::write(&policy, "2").unwrap();
        heard.recv_timeout(Duration::from_secs(10)).expect("the file was written");
        drop(watch);
        // The thread ends with the watch, having heard nothing more.
        assert_eq!(
            heard.recv_timeout(Duration::from_secs(10)),
            Err(mpsc::RecvTimeoutError::Disconnected)
        );
    }
}
