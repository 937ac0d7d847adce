//! What a file on disk looks like from outside: the links that lead to it, and a stamp that changes whenever its
//! content may have changed.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::clock::Wall;

/// Links followed for one path at most; the kernel's own bound.
const MOST_LINKS: usize = 40;
/// Milliseconds within which two writes may leave the same time on a file: file systems stamp by the kernel's tick.
const TICK: i64 = 20;

/// The path itself, every symbolic link met while it is resolved, and what it finally names: what must stay as it is
/// for the file to stay the same. A Kubernetes `ConfigMap` swaps a link in the middle of them (`..data`).
pub(super) fn trail(path: &Path) -> Vec<PathBuf> {
    let mut trail = Vec::new();
    let mut rest = absolute(path);
    let mut links = 0;
    'resolve: loop {
        let mut so_far = PathBuf::new();
        let parts: Vec<Component<'_>> = rest.components().collect();
        for (at, part) in parts.iter().enumerate() {
            if *part == Component::ParentDir {
                so_far.pop();
                continue;
            }
            so_far.push(part);
            let Ok(target) = fs::read_link(&so_far) else { continue };
            trail.push(so_far.clone());
            links += 1;
            if links > MOST_LINKS {
                return trail;
            }
            so_far.pop();
            // An absolute target replaces what there is.
            so_far.push(target);
            so_far.extend(&parts[at + 1..]);
            rest = so_far;
            continue 'resolve;
        }
        trail.push(so_far);
        return trail;
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What one place of a trail looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    There {
        device: u64,
        inode: u64,
        size: u64,
        /// Nanoseconds.
        modified: i128,
        /// Nanoseconds; also moves when a file is renamed, or its mode changes.
        changed: i128,
    },
    NotThere(io::ErrorKind),
}

impl Stamp {
    fn of(path: &Path) -> Stamp {
        match fs::symlink_metadata(path) {
            Ok(data) => Stamp::There {
                device: data.dev(),
                inode: data.ino(),
                size: data.size(),
                modified: nanos(data.mtime(), data.mtime_nsec()),
                changed: changed(&data),
            },
            Err(error) => Stamp::NotThere(error.kind()),
        }
    }

    fn changed_at(&self) -> Option<Wall> {
        match self {
            Stamp::There { changed, .. } => i64::try_from(changed / 1_000_000).ok().map(Wall),
            Stamp::NotThere(_) => None,
        }
    }
}

fn changed(data: &Metadata) -> i128 {
    nanos(data.ctime(), data.ctime_nsec())
}

fn nanos(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// What all files of a policy look like at one moment.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    stamps: Vec<(PathBuf, Stamp)>,
    /// Something changed so shortly before, that a further change may have left the same stamp.
    uncertain: bool,
}

impl Stamps {
    /// The stamps at `now`, before the files are read.
    pub(super) fn before_reading(files: &[PathBuf], now: Wall) -> Stamps {
        Stamps::since(files, now, now)
    }

    /// The stamps at `now`, of files that were read since `began`. Uncertain if anything changed since then, or is
    /// gone.
    pub(super) fn after_reading(files: &[PathBuf], began: Wall, now: Wall) -> Stamps {
        let mut stamps = Stamps::since(files, began, now);
        stamps.uncertain |=
            stamps.stamps.iter().any(|(_, stamp)| matches!(stamp, Stamp::NotThere(_)));
        stamps
    }

    fn since(files: &[PathBuf], since: Wall, now: Wall) -> Stamps {
        let stamps = look(files);
        let window = since.0.saturating_sub(TICK)..=now.0.saturating_add(TICK);
        let uncertain = stamps
            .iter()
            .filter_map(|(_, stamp)| stamp.changed_at())
            .any(|changed| window.contains(&changed.0));
        Stamps { stamps, uncertain }
    }

    /// Whether the files may hold anything else than they did.
    pub(super) fn differ(&self, files: &[PathBuf]) -> bool {
        self.uncertain || look(files) != self.stamps
    }
}

fn look(files: &[PathBuf]) -> Vec<(PathBuf, Stamp)> {
    let mut stamps = Vec::new();
    for file in files {
        for place in trail(file) {
            let stamp = Stamp::of(&place);
            stamps.push((place, stamp));
        }
    }
    stamps
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const LONG_AGO: Wall = Wall(0);

    fn stamps(files: &[PathBuf]) -> Stamps {
        Stamps::before_reading(files, LONG_AGO)
    }

    #[test]
    fn a_trail_names_every_link_on_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/policy.yaml"), "x").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/policy.yaml", root.join("policy.yaml")).unwrap();
        assert_eq!(
            trail(&root.join("policy.yaml")),
            [root.join("policy.yaml"), root.join("..data"), root.join("..1/policy.yaml")]
        );
    }

    #[test]
    fn a_loop_of_links_and_a_missing_file_end() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert!(trail(&root.join("a")).len() > MOST_LINKS);
        assert_eq!(trail(&root.join("none")), [root.join("none")]);
        assert_eq!(trail(&root.join("x/../none")), [root.join("none")]);
    }

    #[test]
    fn any_change_shows_and_none_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        let files = [file.clone(), directory.path().join("b")];
        fs::write(&file, "one").unwrap();
        let before = stamps(&files);
        assert!(!before.differ(&files));
        fs::write(&file, "three").unwrap();
        assert!(before.differ(&files));
        let before = stamps(&files);
        fs::write(&files[1], "b").unwrap();
        assert!(before.differ(&files));
        let before = stamps(&files);
        fs::remove_file(&file).unwrap();
        assert!(before.differ(&files));
    }

    #[test]
    fn a_swapped_link_in_the_middle_shows() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for version in ["..1", "..2"] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("f"), "same").unwrap();
        }
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/f", root.join("f")).unwrap();
        let files = [root.join("f")];
        let before = stamps(&files);
        symlink("..2", root.join("..tmp")).unwrap();
        fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
        assert!(before.differ(&files));
    }

    #[test]
    fn a_file_that_changed_just_now_is_uncertain() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        fs::write(&file, "one").unwrap();
        let now = Stamp::of(&file).changed_at().unwrap();
        let files = [file];
        assert!(Stamps::before_reading(&files, now).differ(&files));
        let later = Wall(now.0 + 1000);
        assert!(!Stamps::before_reading(&files, later).differ(&files));
        assert!(Stamps::after_reading(&files, Wall(now.0 - 1000), later).differ(&files));
    }
}
