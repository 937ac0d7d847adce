//! The loader against whole files: policies named by their fault, each with the problems it yields beside it, and the
//! policies that must load. `BLESS=1` writes what was found instead of comparing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use tollgate::clock::Wall;
use tollgate::config::{Loaded, Overrides, Problems, Sources, load};

/// 2026-11-20T00:00:00Z
const NOW: Wall = Wall(1_795_132_800_000);

fn load_disk(path: &Path) -> Result<Loaded, Problems> {
    let read = |file: &Path| std::fs::read(file);
    let list = |directory: &Path| {
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let env = |name: &str| name.starts_with("KANNEL_").then(|| "secret".to_owned());
    let sources = Sources { read: &read, open: None, list: &list, env: &env, breathe: &|| () };
    load(path, &Overrides::default(), &sources, NOW, None)
}

/// Loads `policy.yaml` out of a handful of files in memory.
fn load_texts(files: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let files: HashMap<PathBuf, Vec<u8>> =
        files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect();
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let read = |file: &Path| files.get(file).cloned().ok_or_else(missing);
    let list = |_: &Path| Ok(files.keys().cloned().collect());
    let env = |_: &str| None;
    let sources = Sources { read: &read, open: None, list: &list, env: &env, breathe: &|| () };
    load(Path::new("policy.yaml"), &Overrides::default(), &sources, NOW, None)
}

/// A YAML file that is no key file.
fn is_policy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml")
        && !path.to_string_lossy().ends_with(".keys.yaml")
}

const EXAMPLE: &str = include_str!("examples/design.yaml");

#[test]
fn the_example_of_the_design_loads() {
    let keys = "- { id: one, tenant: acme, digest: { sha256: 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f }, scopes: [sms:send] }\n";
    let loaded = load_texts(&[("policy.yaml", EXAMPLE), ("sms-platform.keys.yaml", keys)])
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let snapshot = loaded.snapshot;
    assert_eq!(snapshot.routes.len(), 6);
    assert_eq!(
        snapshot.limits.iter().map(|limit| &*limit.name).collect::<Vec<_>>(),
        ["throttle", "otp-flood", "monthly", "guessing"]
    );
    assert_eq!(snapshot.keys.len(), 1);
    assert_eq!(snapshot.guessing.len(), 1);
}

#[test]
fn every_shipped_policy_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut stack = vec![root];
    let mut problems = String::new();
    while let Some(directory) = stack.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else if is_policy(&path)
                && let Err(found) = load_disk(&path)
            {
                problems.push_str(&found.to_string());
            }
        }
    }
    assert!(problems.is_empty(), "{problems}");
}

#[test]
fn each_fault_yields_exactly_its_problems() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/problems");
    let bless = std::env::vars_os().any(|(name, _)| name == "BLESS");
    let mut faults: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| is_policy(path))
        .collect();
    faults.sort();
    let mut wrong = String::new();
    for fault in faults {
        let (problems, notes) = match load_disk(&fault) {
            Ok(loaded) => (loaded.warnings, loaded.notes),
            Err(problems) => (problems, Vec::new()),
        };
        // Where the checkout lies is no part of a problem.
        let prefix = format!("{}/", directory.display());
        let mut found = problems.to_string().replace(&prefix, "");
        for note in notes {
            writeln!(found, "note: {note}").unwrap();
        }
        let expected_path = fault.with_extension("txt");
        if bless {
            std::fs::write(&expected_path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if found != expected {
            let fault = fault.display();
            write!(wrong, "==== {fault}\n{found}\n---- expected\n{expected}\n").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
