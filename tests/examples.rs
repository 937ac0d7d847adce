//! Every policy that people are shown loads: the shipped files, the blocks in the documents, the design's example.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::Policy;
use support::policy::shipped;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `tollgate check FILE`, which must find no error.
#[track_caller]
fn loads(policy: Policy, what: &str) {
    let policy = policy.set("KANNEL_USERNAME", "someone").set("KANNEL_PASSWORD", "something");
    let file = policy.file().to_str().expect("temporary directories have plain names");
    let output = policy.run(&["check", file]);
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn policies_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the directory is there");
    let files = entries.map(|entry| entry.expect("it can be read").path());
    let policy = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        path.extension().is_some_and(|e| e == "yaml") && !name.contains(".keys.")
    };
    files.filter(policy).collect()
}

#[test]
fn every_shipped_policy_loads() {
    let files = [policies_in(&shipped("")), policies_in(&shipped("contracts"))].concat();
    assert!(files.len() >= 8, "{files:?}");
    for file in files {
        loads(Policy::copy_of(&file), &file.display().to_string());
    }
}

#[test]
fn a_shipped_contract_is_without_warnings() {
    for name in ["pulse", "sms-platform", "sms-platform-money", "mottasl", "partner"] {
        let policy = Policy::contract(name);
        let file = policy.file().to_str().expect("temporary directories have plain names");
        let output = policy.run(&["check", "--deny-warnings", file]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn every_policy_block_of_the_documents_loads() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let Ok(text) = fs::read_to_string(root().join(document)) else { continue };
        for (line, block) in policy_blocks(&text) {
            let policy = Policy::new("shown.yaml", &block);
            for keys in named_key_files(&block) {
                fs::write(policy.directory().join(keys), "[]\n").expect("it can be written");
            }
            loads(policy, &format!("{document}:{line}"));
        }
    }
}

#[test]
fn the_designs_example_loads() {
    let text = fs::read_to_string(root().join("tests/examples/design.yaml")).expect("it is there");
    let policy = Policy::new("design.yaml", &text);
    fs::write(policy.directory().join("sms-platform.keys.yaml"), "[]\n").expect("written");
    loads(policy, "tests/examples/design.yaml");
}

/// The fenced YAML blocks that are whole policies: their first line says which version they are written in.
fn policy_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match &mut open {
            None if line.trim_start().starts_with("```yaml") => {
                open = Some((number, String::new()));
            }
            None => {}
            Some(_) if line.trim_start().starts_with("```") => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    blocks.retain(|(_, block)| block.lines().any(|line| line.starts_with("version: 1")));
    blocks
}

/// What `keys:` names, as far as it is one plain file.
fn named_key_files(block: &str) -> Vec<String> {
    let after = block.split("keys:").skip(1);
    let names = after.filter_map(|rest| rest.split_whitespace().next());
    names
        .map(|name| name.trim_matches(|c| "{},\"'".contains(c)).to_owned())
        .filter(|name| Path::new(name).extension().is_some())
        .collect()
}
