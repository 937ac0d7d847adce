//! The kernel's word that something changed. Directories are watched, not files: a file that is replaced is another
//! file. It is only a hint that saves time; the poll finds whatever it misses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;

use super::files::trail;

/// A watch over the directories of some files.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    unavailable: Option<String>,
    /// The watched directories, and which directory each name meant when the watch was set.
    directories: BTreeMap<PathBuf, (u64, u64)>,
    /// The paths whose events matter.
    paths: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Watch {
    /// A watch over nothing yet. `changed` is called on a thread of the watcher's.
    pub(super) fn start(changed: impl Fn() + Send + 'static) -> Watch {
        let paths: Arc<Mutex<BTreeSet<PathBuf>>> = Arc::default();
        let mattering = Arc::clone(&paths);
        let made = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) if !matters(&event, &mattering.lock()) => {}
            // An error is an overflow of the kernel's queue, or the like: something may have changed.
            Ok(_) | Err(_) => changed(),
        });
        let (watcher, unavailable) = match made {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Watch { watcher, unavailable, directories: BTreeMap::new(), paths }
    }

    /// A watch that hears nothing, as where the kernel has no more of them to give.
    #[cfg(test)]
    pub(super) fn deaf() -> Watch {
        Watch {
            watcher: None,
            unavailable: Some("none left".into()),
            directories: BTreeMap::new(),
            paths: Arc::default(),
        }
    }

    /// Why the kernel tells nothing, if it does not.
    pub(super) fn unavailable(&self) -> Option<&str> {
        self.unavailable.as_deref()
    }

    /// Watches the directories of exactly these files, and of every link that leads to them.
    pub(super) fn follow(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let paths: BTreeSet<PathBuf> = files.iter().flat_map(|file| trail(file)).collect();
        let mut wanted = BTreeMap::new();
        for path in &paths {
            let within = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
            if let Some((directory, identity)) = within.and_then(|dir| Some((dir, identity(dir)?)))
            {
                wanted.insert(directory.to_owned(), identity);
            }
        }
        *self.paths.lock() = paths;
        let gone = |(directory, identity): &(&PathBuf, &(u64, u64))| {
            wanted.get(*directory) != Some(identity)
        };
        for (directory, _) in self.directories.iter().filter(gone) {
            // A directory that was removed took its watch with it.
            let _ = watcher.unwatch(directory);
        }
        let mut now_followed = BTreeMap::new();
        for (directory, identity) in wanted {
            let had = self.directories.get(&directory) == Some(&identity);
            if had {
                now_followed.insert(directory, identity);
                continue;
            }
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(now_followed.insert(directory, identity)),
                Err(error) => self.unavailable = Some(error.to_string()),
            }
        }
        self.directories = now_followed;
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|data| (data.dev(), data.ino()))
}

/// Reading a file is an event too, and ours: only what may have changed something counts.
fn matters(event: &Event, paths: &BTreeSet<PathBuf>) -> bool {
    let changes = match event.kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    };
    // Of a directory that is named itself the names matter; a log that is written in it does not.
    let names = matches!(
        event.kind,
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    );
    let ours = |path: &PathBuf| {
        paths.contains(path) || names && path.parent().is_some_and(|parent| paths.contains(parent))
    };
    changes && (event.paths.is_empty() || event.need_rescan() || event.paths.iter().any(ours))
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange};

    use super::*;

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(path.into())
    }

    #[test]
    fn our_own_reading_and_other_files_do_not_matter() {
        let paths = BTreeSet::from([PathBuf::from("/etc/gate/policy.yaml")]);
        let modified = EventKind::Modify(ModifyKind::Any);
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(matters(&event(modified, "/etc/gate/policy.yaml"), &paths));
        assert!(matters(&event(written, "/etc/gate/policy.yaml"), &paths));
        assert!(!matters(&event(opened, "/etc/gate/policy.yaml"), &paths));
        assert!(!matters(&event(modified, "/etc/gate/access.log"), &paths));
    }

    #[test]
    fn a_newcomer_in_a_directory_that_is_itself_named_matters() {
        let paths = BTreeSet::from([PathBuf::from("/etc/gate/keys")]);
        let created = EventKind::Create(CreateKind::File);
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(matters(&event(created, "/etc/gate/keys/new.keys.yaml"), &paths));
        assert!(!matters(&event(written, "/etc/gate/keys/access.log"), &paths));
    }
}
