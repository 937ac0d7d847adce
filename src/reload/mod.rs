//! The only writer of the policy in force: looks at the files, loads, swaps once, and drops the old policy itself.
//! Never: half of a new policy in force, work on a worker, or a silent refusal.
//!
//! [`Reloader`] works with any kind of policy; [`policy`] puts it to work on the gate's own.

pub mod breath;
mod files;
pub mod policy;
mod watch;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};

use crate::clock::{Clock, Wall};

use files::Stamps;
use watch::Watch;

/// How often the files are looked at, whatever the kernel tells.
const POLL: Duration = Duration::from_millis(500);
/// Silence after a change before the files are read: editors write in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// Silences waited for at most, so that a file that never rests is read all the same.
const MOST_QUIETS: u32 = 6;
/// Time after which files that were refused are looked at once more, before anyone is told.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// Refused files that did not change are looked at again, because what they name (a key file, a secret) may have: after
/// as many times as long as the load took, so that this costs at most a tenth of a core, in polls.
const IDLE_SHARE: u64 = 10;
/// The most polls between two such looks.
const MOST_PATIENCE: u64 = 20;
/// How often a replaced policy is asked whether anyone still holds it.
const RETIRE: Duration = Duration::from_millis(20);
/// Niceness of the thread: a reload of a million keys leaves the cores to the workers.
const NICENESS: i32 = 10;

/// A policy that was loaded, and what it was made of.
#[derive(Debug)]
pub struct Loaded<P> {
    /// The policy.
    pub policy: P,
    /// Every file that it was read from, links unresolved. A directory (of a glob) counts its entries' names.
    pub files: Vec<PathBuf>,
    /// The loader's warnings for people; empty if there are none.
    pub warnings: String,
}

/// What the reloader tells of each look at the files.
#[derive(Debug)]
pub enum Told<'a, P> {
    /// This policy is about to be in force: whatever must be ready before the first request sees it.
    Coming(&'a P),
    /// This policy is in force, in the place of the other.
    InForce {
        /// The new one.
        new: &'a P,
        /// The warnings of its loader.
        warnings: &'a str,
    },
    /// The files lead to the policy that is in force already.
    Unchanged,
    /// The files are no policy. The last good one stays.
    Refused {
        /// Why, for people.
        problems: &'a str,
    },
    /// Someone asked for a look.
    Requested,
    /// The kernel does not tell of changes; the files are polled.
    WatchUnavailable {
        /// Why.
        why: &'a str,
    },
}

/// Reads the files and makes a policy; given the one in force, from which it may take what did not change.
pub type Load<P> = Box<dyn FnMut(&P) -> Result<Loaded<P>, String> + Send>;

/// Hears of everything that the reloader does, on the reloader's thread.
pub type Tell<P> = Box<dyn FnMut(Told<'_, P>) + Send>;

/// What a reloader works with.
pub struct Reloader<P> {
    /// Makes a policy of the files.
    pub load: Load<P>,
    /// Whether two policies are the same, so that nothing needs to be swapped.
    pub same: fn(&P, &P) -> bool,
    /// Is told of everything, on the reloader's thread.
    pub tell: Tell<P>,
    /// The policy in force.
    pub current: Arc<ArcSwap<P>>,
    /// The files that the policy in force was read from.
    pub files: Vec<PathBuf>,
    /// When the first load began: what changed since is looked at again.
    pub since: Wall,
    /// For the age of files.
    pub clock: Clock,
}

impl<P> std::fmt::Debug for Reloader<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What the reloader's thread is wanted for. Flags, so that a thousand changes are one.
#[derive(Debug, Default)]
struct Wants {
    /// A file that the policy was read from changed.
    changed: bool,
    /// Someone asked.
    requested: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Bell {
    wants: Mutex<Wants>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self, want: impl FnOnce(&mut Wants)) {
        want(&mut self.wants.lock());
        self.rung.notify_one();
    }

    /// Takes what is wanted, waiting for it at most `wait`. `stop` stays.
    fn take(&self, wait: Duration) -> Wants {
        let mut wants = self.wants.lock();
        if !(wants.changed || wants.requested || wants.stop) {
            self.rung.wait_for(&mut wants, wait);
        }
        let stop = wants.stop;
        let taken = std::mem::take(&mut *wants);
        wants.stop = stop;
        taken
    }
}

/// A hand on a running reloader. Dropping it stops the reloader.
#[derive(Debug)]
pub struct ReloadHandle {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl ReloadHandle {
    /// Asks for a look at the files now (SIGHUP). Returns at once.
    pub fn request(&self) {
        self.bell.ring(|wants| wants.requested = true);
    }

    /// Stops the reloader and waits for its thread: at most for the load that is under way.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.bell.ring(|wants| wants.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic of the loader was said by the panic hook; the policy in force is unharmed.
            let _ = thread.join();
        }
    }
}

impl Drop for ReloadHandle {
    fn drop(&mut self) {
        self.end();
    }
}

impl<P: Send + Sync + 'static> Reloader<P> {
    /// Starts the thread. Fails where the system gives none.
    pub fn start(self) -> io::Result<ReloadHandle> {
        let bell = Arc::new(Bell::default());
        let rung = Arc::clone(&bell);
        let thread = std::thread::Builder::new().name("reload".into()).spawn(move || {
            // On Linux this is the calling thread's own. Without it a reload merely competes.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            let told = Arc::clone(&rung);
            let watch = Watch::start(move || told.ring(|wants| wants.changed = true));
            Running::new(self, rung, watch).run();
        })?;
        Ok(ReloadHandle { bell, thread: Some(thread) })
    }
}

struct Running<P> {
    it: Reloader<P>,
    bell: Arc<Bell>,
    watch: Watch,
    stamps: Stamps,
    /// Files that were refused: why, and the polls left until they are looked at again.
    refused: Option<Refusal>,
    /// Nanoseconds that the last load took.
    took: u64,
    /// Replaced policies that someone may still hold.
    retired: Vec<Arc<P>>,
}

struct Refusal {
    problems: String,
    polls_left: u64,
}

impl<P: Send + Sync + 'static> Running<P> {
    fn new(mut it: Reloader<P>, bell: Arc<Bell>, mut watch: Watch) -> Running<P> {
        it.files.sort_unstable();
        it.files.dedup();
        watch.follow(&it.files);
        // Taken after the watch began, so that no change falls between the two.
        let stamps = Stamps::after_reading(&it.files, it.since, it.clock.now().wall);
        if let Some(why) = watch.unavailable() {
            (it.tell)(Told::WatchUnavailable { why });
        }
        Running { it, bell, watch, stamps, refused: None, took: 0, retired: Vec::new() }
    }

    fn run(mut self) {
        let mut since_poll = Duration::ZERO;
        loop {
            let wait = if self.retired.is_empty() { POLL } else { RETIRE };
            let wants = self.bell.take(wait);
            if wants.stop {
                return;
            }
            self.retire();
            if wants.requested {
                (self.it.tell)(Told::Requested);
            }
            let mut changed = wants.changed;
            let mut due = wants.requested;
            if !changed && !due {
                since_poll += wait;
                if since_poll < POLL {
                    continue;
                }
                since_poll = Duration::ZERO;
                changed = self.stamps.differ(&self.it.files);
                due = self.is_due_again();
            }
            if changed && !self.rest() {
                return;
            }
            if changed || due {
                self.look();
            }
        }
    }

    /// Waits until the files rest for a moment. False if it is time to stop.
    fn rest(&self) -> bool {
        for _ in 0..MOST_QUIETS {
            std::thread::sleep(QUIET);
            let wants = self.bell.take(Duration::ZERO);
            if wants.stop {
                return false;
            }
            if !wants.changed {
                break;
            }
        }
        true
    }

    fn is_due_again(&mut self) -> bool {
        match &mut self.refused {
            Some(refused) => {
                refused.polls_left = refused.polls_left.saturating_sub(1);
                refused.polls_left == 0
            }
            None => false,
        }
    }

    /// Looks at the files: one load, at most one swap.
    fn look(&mut self) {
        let mut loaded = self.load();
        if loaded.is_err() && self.refused.is_none() {
            // Perhaps half-written: an editor deserves a second look before anyone is alarmed.
            std::thread::sleep(SECOND_LOOK);
            loaded = self.load();
        }
        match loaded {
            Ok(loaded) => self.take_up(loaded),
            Err(problems) => self.refuse(problems),
        }
        self.watch.follow(&self.it.files);
    }

    /// The stamps are taken before the files are read, so that a change in between is found by the next poll.
    fn load(&mut self) -> Result<Loaded<P>, String> {
        let start = self.it.clock.now();
        let began = start.wall;
        self.stamps = Stamps::before_reading(&self.it.files, began);
        let current = self.it.current.load_full();
        let load = &mut self.it.load;
        let loaded = catch_unwind(AssertUnwindSafe(|| load(&current)))
            .unwrap_or_else(|_| Err("the loader met a bug of its own; nothing was changed".into()));
        self.took = self.it.clock.now().steady.since(start.steady);
        let mut loaded = loaded?;
        loaded.files.sort_unstable();
        loaded.files.dedup();
        if loaded.files != self.it.files {
            self.it.files.clone_from(&loaded.files);
            self.stamps = Stamps::after_reading(&self.it.files, began, self.it.clock.now().wall);
        }
        Ok(loaded)
    }

    fn take_up(&mut self, loaded: Loaded<P>) {
        self.refused = None;
        let Loaded { policy, warnings, .. } = loaded;
        if (self.it.same)(&self.it.current.load(), &policy) {
            (self.it.tell)(Told::Unchanged);
            return;
        }
        (self.it.tell)(Told::Coming(&policy));
        let new = Arc::new(policy);
        let old = self.it.current.swap(Arc::clone(&new));
        (self.it.tell)(Told::InForce { new: &new, warnings: &warnings });
        self.retired.push(old);
        self.retire();
    }

    fn refuse(&mut self, problems: String) {
        if self.refused.as_ref().is_none_or(|before| before.problems != problems) {
            (self.it.tell)(Told::Refused { problems: &problems });
        }
        let poll = u64::try_from(POLL.as_nanos()).unwrap_or(u64::MAX);
        let polls_left = (self.took.saturating_mul(IDLE_SHARE) / poll).clamp(1, MOST_PATIENCE);
        self.refused = Some(Refusal { problems, polls_left });
    }

    /// Drops the replaced policies that nobody else holds any more, here and not on a worker: dropping a million keys
    /// takes longer than a request may.
    fn retire(&mut self) {
        self.retired.retain(|old| Arc::strong_count(old) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_rings_are_one_and_a_stop_stays() {
        let bell = Bell::default();
        for _ in 0..1000 {
            bell.ring(|wants| wants.changed = true);
        }
        assert!(bell.take(Duration::ZERO).changed);
        assert!(!bell.take(Duration::ZERO).changed);
        bell.ring(|wants| wants.stop = true);
        assert!(bell.take(Duration::from_mins(1)).stop);
        assert!(bell.take(Duration::from_mins(1)).stop);
    }

    #[test]
    fn without_the_kernel_s_word_the_poll_finds_every_change_and_that_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy");
        std::fs::write(&file, "1").unwrap();
        let current = Arc::new(ArcSwap::from_pointee(String::from("1")));
        let (said, heard) = std::sync::mpsc::channel();
        let (path, clock) = (file.clone(), Clock::system());
        let reloader: Reloader<String> = Reloader {
            load: Box::new(move |_| {
                let policy = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
                Ok(Loaded { policy, files: vec![path.clone()], warnings: String::new() })
            }),
            same: |old, new| old == new,
            tell: Box::new(move |told| {
                let word = match told {
                    Told::WatchUnavailable { why } => why.to_owned(),
                    Told::InForce { new, .. } => new.clone(),
                    _ => return,
                };
                said.send(word).unwrap();
            }),
            current,
            files: vec![file.clone()],
            since: clock.now().wall,
            clock,
        };
        let bell = Arc::new(Bell::default());
        let rung = Arc::clone(&bell);
        let thread = std::thread::spawn(move || Running::new(reloader, rung, Watch::deaf()).run());
        let next = || heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(next(), "none left");
        for text in ["2", "3"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(next(), text);
        }
        bell.ring(|wants| wants.stop = true);
        thread.join().unwrap();
    }
}
