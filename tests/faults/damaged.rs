//! Files that come back damaged. A gate starts from them with everything that it promised, or it refuses, with exit code 3 and
//! words that say what to do.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::bench::{Bench, Promised, act, promise, top_up, usage};
use crate::support::dice::Dice;
use crate::support::process::NotStarted;

/// Whether the gate before had time to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    InOrder,
    Killed,
}

/// A state that was promised under, kept so that each damage has a copy of its own.
struct Kept {
    bench: Bench,
    promised: Promised,
    end: End,
}

impl Kept {
    fn after(end: End) -> Kept {
        let bench = Bench::new();
        let gate = bench.launch().start();
        let promised = promise(&gate);
        match end {
            End::InOrder => assert_eq!(gate.stop(), Some(0)),
            End::Killed => gate.kill(),
        }
        Kept { bench, promised, end }
    }

    /// A copy, and the files in it that have something to damage.
    fn copy(&self) -> (TempDir, Vec<PathBuf>) {
        let copy = TempDir::new().expect("there is room for a directory");
        let mut files = Vec::new();
        for entry in fs::read_dir(self.bench.state()).expect("it is there") {
            let from = entry.expect("it can be read").path();
            let to = copy.path().join(from.file_name().expect("a file has a name"));
            fs::copy(&from, &to).expect("there is room");
            if fs::metadata(&to).expect("it was just written").len() > 0 {
                files.push(to);
            }
        }
        files.sort();
        (copy, files)
    }

    /// Starts on a damaged copy; whether it did.
    #[track_caller]
    fn judge(&self, state: &Path, damage: &str) -> bool {
        match self.bench.launch_on(state).try_start() {
            Ok(gate) => {
                let credit = usage(&gate, "wallet");
                assert_eq!(credit["ceiling"], "100", "{damage}, {:?}: a silent loss", self.end);
                self.promised.holds(&gate, &self.bench, self.end == End::Killed);
                true
            }
            Err(refused) => {
                says_what_to_do(&refused, state, damage);
                false
            }
        }
    }
}

#[track_caller]
fn says_what_to_do(refused: &NotStarted, state: &Path, damage: &str) {
    let NotStarted { code, said } = refused;
    assert_eq!(*code, Some(3), "{damage}: {said}");
    assert!(said.contains(state.to_str().expect("a plain name")), "{damage}: {said}");
    let remedies = ["restore", "move ", "backup", "copy"];
    assert!(remedies.iter().any(|word| said.contains(word)), "{damage}: {said}");
    assert!(!said.contains("panicked"), "{damage}: {said}");
}

#[test]
fn an_undamaged_copy_is_the_state() {
    for end in [End::InOrder, End::Killed] {
        let kept = Kept::after(end);
        let (copy, files) = kept.copy();
        assert!(!files.is_empty(), "the state is in files");
        assert!(kept.judge(copy.path(), "a copy"));
    }
}

#[test]
fn flipped_bits_are_found_or_harmless() {
    let mut refused = 0;
    for end in [End::InOrder, End::Killed] {
        let kept = Kept::after(end);
        for round in 0..40 {
            let mut dice = Dice::named("flipped bits", round);
            let (copy, files) = kept.copy();
            let file = dice.one_of(&files).expect("the state is in files");
            let mut bytes = fs::read(file).expect("it is ours");
            // Where something stands: most of a young file is zeros.
            let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            let at = *dice.one_of(&used).expect("it is not empty");
            bytes[at] ^= 1 << dice.below(8);
            fs::write(file, &bytes).expect("it is ours");
            let damage = format!("a bit of byte {at} of {}", file.display());
            refused += usize::from(!kept.judge(copy.path(), &damage));
        }
    }
    assert!(refused > 0, "no flipped bit was ever found");
}

#[test]
fn a_file_cut_short_is_found_or_what_is_cut_was_never_promised() {
    for end in [End::InOrder, End::Killed] {
        let kept = Kept::after(end);
        for round in 0..16 {
            let mut dice = Dice::named("cut short", round);
            let (copy, files) = kept.copy();
            let file = dice.one_of(&files).expect("the state is in files");
            let length = fs::metadata(file).expect("it is there").len();
            let to = match round {
                0 => 0,
                1 => 1,
                2 => length - 1,
                3 => length / 2,
                _ => dice.below(length),
            };
            let open = fs::OpenOptions::new().write(true).open(file).expect("it is ours");
            open.set_len(to).expect("a file can be cut");
            kept.judge(copy.path(), &format!("{} cut to {to} of {length}", file.display()));
        }
    }
}

#[test]
fn a_missing_file_is_no_new_beginning() {
    for end in [End::InOrder, End::Killed] {
        let kept = Kept::after(end);
        let (_, files) = kept.copy();
        for file in files {
            let name = file.file_name().expect("a file has a name");
            let (copy, _) = kept.copy();
            fs::remove_file(copy.path().join(name)).expect("it is there");
            kept.judge(copy.path(), &format!("{name:?} removed"));
        }
    }
}

#[test]
fn a_file_of_yesterday_among_those_of_today_is_found() {
    let kept = Kept::after(End::InOrder);
    let (yesterday, files) = kept.copy();
    let gate = kept.bench.launch().start();
    let (status, said) = act(&gate, "/v1/credit", &top_up("50"), "top-up-2");
    assert_eq!(status, 200, "{said}");
    gate.kill();
    for file in files {
        let name = file.file_name().expect("a file has a name");
        let (copy, _) = kept.copy();
        fs::copy(yesterday.path().join(name), copy.path().join(name)).expect("there is room");
        match kept.bench.launch_on(copy.path()).try_start() {
            Ok(gate) => assert_eq!(usage(&gate, "wallet")["ceiling"], "150", "{name:?}"),
            Err(refused) => says_what_to_do(&refused, copy.path(), &format!("an old {name:?}")),
        }
    }
}

#[test]
fn what_somebody_else_wrote_behind_or_over_a_file_is_found_or_harmless() {
    for end in [End::InOrder, End::Killed] {
        let kept = Kept::after(end);
        for round in 0..16 {
            let mut dice = Dice::named("overwritten", round);
            let (copy, files) = kept.copy();
            let file = dice.one_of(&files).expect("the state is in files");
            let mut bytes = fs::read(file).expect("it is ours");
            let from = match round {
                0..4 => bytes.len(),
                _ => usize::try_from(dice.below(bytes.len() as u64)).expect("an index"),
            };
            let end = (from + 4096).max(bytes.len().min(from + 4096));
            bytes.resize(bytes.len().max(end), 0);
            for byte in &mut bytes[from..end] {
                *byte = if round % 2 == 0 { 0 } else { dice.next().to_le_bytes()[0] };
            }
            fs::write(file, &bytes).expect("it is ours");
            let damage = format!("4 KiB of something else at {from} of {}", file.display());
            kept.judge(copy.path(), &damage);
        }
    }
}

#[test]
fn state_files_are_nobody_elses_to_read() {
    use std::os::unix::fs::PermissionsExt as _;

    let kept = Kept::after(End::Killed);
    for entry in fs::read_dir(kept.bench.state()).expect("it is there") {
        let entry = entry.expect("it can be read");
        let mode = entry.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", entry.path().display());
    }
}
