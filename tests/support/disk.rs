//! A disk below the gate that fails when told to: a library that is preloaded into the process (`tests/faults/disk.c`),
//! and the words in which the test speaks with it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::io::Errno;
use tempfile::TempDir;

use super::dice::Dice;
use super::power;
use super::process::Launch;

/// The disk under one state directory.
#[derive(Debug)]
pub(crate) struct Disk {
    home: TempDir,
    state: PathBuf,
    control: File,
}

/// A word of the control page; what each means stands in the library.
#[derive(Clone, Copy, Debug)]
enum Word {
    FailSync = 0,
    FailWrite = 1,
    Room = 2,
    FailOpen = 3,
    Syncs = 4,
    Writes = 5,
    Failures = 6,
    SlowSync = 7,
}

impl Disk {
    /// A disk that works, under this directory.
    pub(crate) fn under(state: &Path) -> Disk {
        let home = TempDir::new().expect("there is room for a directory");
        let path = home.path().join("control");
        fs::write(&path, [0; 64]).expect("a new directory can be written to");
        fs::create_dir(home.path().join("trash")).expect("a new directory can be written to");
        let control = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
        Disk { home, state: state.to_owned(), control }
    }

    /// The same launch on this disk.
    pub(crate) fn carry<'a>(&self, launch: &Launch<'a>) -> Launch<'a> {
        let text =
            |path: &Path| path.to_str().expect("temporary directories have plain names").to_owned();
        let below = |name: &str| text(&self.home.path().join(name));
        launch
            .with("LD_PRELOAD", &text(library()))
            .with("TOLLGATE_DISK_DIR", &text(&self.state))
            .with("TOLLGATE_DISK_CONTROL", &below("control"))
            .with("TOLLGATE_DISK_LOG", &below("log"))
            .with("TOLLGATE_DISK_TRASH", &below("trash"))
    }

    /// The `n`th sync from now fails, that one alone.
    pub(crate) fn fail_sync(&self, n: u64) {
        self.set(Word::FailSync, n);
    }

    /// The `n`th write from now fails, that one alone.
    pub(crate) fn fail_write(&self, n: u64) {
        self.set(Word::FailWrite, n);
    }

    /// There is room for so many bytes, and then for none.
    pub(crate) fn leave_room(&self, bytes: u64) {
        self.set(Word::Room, bytes + 1);
    }

    /// No file can be opened: the process has too many open.
    pub(crate) fn take_descriptors(&self) {
        self.set(Word::FailOpen, Errno::MFILE.raw_os_error().unsigned_abs().into());
    }

    /// No file can be opened for writing: the file system is mounted read-only.
    pub(crate) fn make_read_only(&self) {
        self.set(Word::FailOpen, Errno::ROFS.raw_os_error().unsigned_abs().into());
    }

    /// Each sync takes so much longer.
    pub(crate) fn slow_syncs(&self, millis: u64) {
        self.set(Word::SlowSync, millis);
    }

    /// Syncs so far: the proof that the library sees them.
    pub(crate) fn syncs(&self) -> u64 {
        self.get(Word::Syncs)
    }

    /// Writes so far.
    pub(crate) fn writes(&self) -> u64 {
        self.get(Word::Writes)
    }

    /// Failures that the gate has met.
    pub(crate) fn failures(&self) -> u64 {
        self.get(Word::Failures)
    }

    /// Takes back what a power cut may take: everything that was not synced, or, sector by sector, some of it. The gate
    /// must be dead.
    pub(crate) fn cut_power(&self, dice: &mut Dice) {
        let log = self.home.path().join("log");
        let bytes = fs::read(&log).expect("the library has written it");
        power::cut(&self.state, &bytes, dice);
        fs::write(&log, []).expect("it is ours");
    }

    fn set(&self, word: Word, value: u64) {
        let at = word as u64 * 8;
        self.control.write_all_at(&value.to_ne_bytes(), at).expect("the page is there");
    }

    fn get(&self, word: Word) -> u64 {
        let mut value = [0; 8];
        self.control.read_exact_at(&mut value, word as u64 * 8).expect("the page is there");
        u64::from_ne_bytes(value)
    }
}

/// The compiled library, made once a test program.
fn library() -> &'static Path {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let home = TempDir::new().expect("there is room for a directory");
        let path = home.path().join("disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/disk.c");
        let made = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&path, &source])
            .arg("-ldl")
            .status()
            .expect("a C compiler is installed");
        assert!(made.success(), "tests/faults/disk.c does not compile");
        (home, path)
    });
    path
}
