//! The reloader over real files, with the smallest policy there is: a number in a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tollgate::clock::Clock;
use tollgate::reload::{Loaded, ReloadHandle, Reloader, Told};

/// What "within a second" may take on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(5);

/// A policy: a number, and the name of the thread that dropped it.
struct Number {
    value: u64,
    drops: Arc<Mutex<Vec<Option<String>>>>,
}

impl Drop for Number {
    fn drop(&mut self) {
        let thread = std::thread::current().name().map(str::to_owned);
        self.drops.lock().unwrap().push(thread);
    }
}

struct Gate {
    current: Arc<ArcSwap<Number>>,
    told: Arc<Mutex<Vec<String>>>,
    drops: Arc<Mutex<Vec<Option<String>>>>,
    loads: Arc<AtomicUsize>,
    reloader: ReloadHandle,
}

/// The number of the file, plus the numbers of the files that further lines name.
fn read(path: &Path, files: &mut Vec<PathBuf>) -> Result<u64, String> {
    files.push(path.to_owned());
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let mut sum: u64 = first.parse().map_err(|_| format!("no number: {first:?}"))?;
    for line in lines {
        sum += read(&path.with_file_name(line), files)?;
    }
    Ok(sum)
}

impl Gate {
    fn start(file: &Path) -> Gate {
        let clock = Clock::system();
        let since = clock.now().wall;
        let drops: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
        let mut files = Vec::new();
        let value = read(file, &mut files).unwrap();
        let first = Number { value, drops: Arc::clone(&drops) };
        let current = Arc::new(ArcSwap::from_pointee(first));
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let loads = Arc::new(AtomicUsize::new(0));
        let (teller, counter, dropper) =
            (Arc::clone(&told), Arc::clone(&loads), Arc::clone(&drops));
        let path = file.to_owned();
        let reloader = Reloader {
            load: Box::new(move |_: &Number| {
                counter.fetch_add(1, Ordering::SeqCst);
                let mut files = Vec::new();
                let value = read(&path, &mut files)?;
                assert_ne!(value, 666, "a bug of the loader");
                let policy = Number { value, drops: Arc::clone(&dropper) };
                Ok(Loaded { policy, files, warnings: String::new() })
            }),
            same: |old, new| old.value == new.value,
            tell: Box::new(move |told| {
                teller.lock().unwrap().push(match told {
                    Told::InForce { new, .. } => format!("in force {}", new.value),
                    Told::Unchanged => "unchanged".to_owned(),
                    Told::Refused { problems } => format!("refused {problems}"),
                    Told::Requested => "requested".to_owned(),
                    Told::Coming(_) | Told::WatchUnavailable { .. } => return,
                });
            }),
            current: Arc::clone(&current),
            files,
            since,
            clock,
        };
        Gate { current, told, drops, loads, reloader: reloader.start().unwrap() }
    }

    fn value(&self) -> u64 {
        self.current.load().value
    }

    fn told(&self, what: &str) -> bool {
        self.told.lock().unwrap().iter().any(|told| told.starts_with(what))
    }

    fn comes_to(&self, value: u64) {
        assert!(soon(|| self.value() == value), "{} instead of {value}", self.value());
    }
}

fn soon(condition: impl Fn() -> bool) -> bool {
    let step = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    while waited < SOON {
        if condition() {
            return true;
        }
        std::thread::sleep(step);
        waited += step;
    }
    condition()
}

fn file_with(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy");
    fs::write(&file, text).unwrap();
    (directory, file)
}

/// As editors and deployment tools do: a new file under the old name.
fn replace(file: &Path, text: &str) {
    let fresh = file.with_extension("tmp");
    fs::write(&fresh, text).unwrap();
    fs::rename(&fresh, file).unwrap();
}

#[test]
fn an_edit_in_place_and_an_atomic_rename_come_into_force() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    fs::write(&file, "2").unwrap();
    gate.comes_to(2);
    replace(&file, "3");
    gate.comes_to(3);
    fs::write(&file, "4").unwrap();
    gate.comes_to(4);
    replace(&file, "5");
    gate.comes_to(5);
}

#[test]
fn the_symlink_swap_of_a_config_map_comes_into_force() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (version, text) in [("..1", "1"), ("..2", "2"), ("..3", "3")] {
        fs::create_dir(root.join(version)).unwrap();
        fs::write(root.join(version).join("policy"), text).unwrap();
    }
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/policy", root.join("policy")).unwrap();
    let gate = Gate::start(&root.join("policy"));
    assert_eq!(gate.value(), 1);
    for version in [2, 3] {
        symlink(format!("..{version}"), root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        fs::remove_dir_all(root.join(format!("..{}", version - 1))).unwrap();
        gate.comes_to(version);
    }
}

#[test]
fn a_file_that_is_gone_keeps_the_last_good_policy_until_it_returns() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    fs::remove_file(&file).unwrap();
    assert!(soon(|| gate.told("refused")));
    assert_eq!(gate.value(), 1);
    // It is looked for again and again, and the operator is told once.
    let loads = gate.loads.load(Ordering::SeqCst);
    assert!(soon(|| gate.loads.load(Ordering::SeqCst) > loads + 1));
    let refusals = |told: &String| told.starts_with("refused");
    assert_eq!(gate.told.lock().unwrap().iter().filter(|told| refusals(told)).count(), 1);
    fs::write(&file, "2").unwrap();
    gate.comes_to(2);
}

#[test]
fn a_directory_that_is_replaced_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (mount, next) = (directory.path().join("mount"), directory.path().join("next"));
    for (place, text) in [(&mount, "1"), (&next, "2")] {
        fs::create_dir(place).unwrap();
        fs::write(place.join("policy"), text).unwrap();
    }
    let gate = Gate::start(&mount.join("policy"));
    fs::rename(&mount, directory.path().join("old")).unwrap();
    fs::rename(&next, &mount).unwrap();
    gate.comes_to(2);
    fs::write(mount.join("policy"), "3").unwrap();
    gate.comes_to(3);
}

#[test]
fn a_bad_file_keeps_the_last_good_policy_says_why_and_recovers() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    fs::write(&file, "nonsense").unwrap();
    assert!(soon(|| gate.told("refused no number: \"nonsense\"")));
    assert_eq!(gate.value(), 1);
    fs::write(&file, "2").unwrap();
    gate.comes_to(2);
    fs::write(&file, "again").unwrap();
    assert!(soon(|| gate.told("refused no number: \"again\"")));
    gate.told.lock().unwrap().clear();
    // Simply put back: nothing to swap, and all is well again.
    fs::write(&file, "2").unwrap();
    assert!(soon(|| gate.told("unchanged")));
    assert!(!gate.told("in force"));
}

#[test]
fn a_half_written_file_alarms_nobody() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    fs::write(&file, "").unwrap();
    fs::write(&file, "2").unwrap();
    gate.comes_to(2);
    assert!(!gate.told("refused"));
}

#[test]
fn the_last_of_two_hundred_quick_edits_is_in_force_in_the_end() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    for edit in 2..=200 {
        if edit % 2 == 0 {
            fs::write(&file, edit.to_string()).unwrap();
        } else {
            replace(&file, &edit.to_string());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    gate.comes_to(200);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(gate.value(), 200);
    assert!(gate.loads.load(Ordering::SeqCst) < 150, "a burst of edits is a few loads");
}

#[test]
fn a_file_that_the_policy_names_is_followed_too_even_if_it_comes_later() {
    let (directory, file) = file_with("1");
    let gate = Gate::start(&file);
    fs::write(&file, "1\nkeys").unwrap();
    assert!(soon(|| gate.told("refused")));
    assert_eq!(gate.value(), 1);
    let keys = directory.path().join("keys");
    fs::write(&keys, "10").unwrap();
    gate.comes_to(11);
    fs::write(&keys, "20").unwrap();
    gate.comes_to(21);
    replace(&keys, "30");
    gate.comes_to(31);
}

#[test]
fn a_change_between_the_first_load_and_the_start_is_not_missed() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    // The file is so young that its stamp proves nothing: it is looked at again.
    assert!(soon(|| gate.told("unchanged")));
}

#[test]
fn a_request_looks_at_once() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    gate.reloader.request();
    assert!(soon(|| gate.told("requested") && gate.told("unchanged")));
}

#[test]
fn a_replaced_policy_is_dropped_by_the_reloader_even_if_a_worker_let_go_first() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    let held = gate.current.load_full();
    fs::write(&file, "2").unwrap();
    gate.comes_to(2);
    std::thread::sleep(Duration::from_millis(100));
    // Looks that changed nothing drop what they loaded; the policy itself is held here.
    let before = gate.drops.lock().unwrap().len();
    assert_eq!(held.value, 1);
    drop(held);
    assert!(soon(|| gate.drops.lock().unwrap().len() > before));
    let drops = gate.drops.lock().unwrap();
    assert!(drops.iter().all(|thread| thread.as_deref() == Some("reload")), "{drops:?}");
}

#[test]
fn a_loader_that_panics_is_a_refusal_and_no_end() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    fs::write(&file, "666").unwrap();
    assert!(soon(|| gate.told("refused the loader met a bug")));
    assert_eq!(gate.value(), 1);
    fs::write(&file, "2").unwrap();
    gate.comes_to(2);
}

#[test]
fn a_stopped_reloader_is_gone() {
    let (_directory, file) = file_with("1");
    let gate = Gate::start(&file);
    gate.reloader.stop();
    fs::write(&file, "2").unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(gate.current.load().value, 1);
}
