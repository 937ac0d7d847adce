//! A policy and its key file in a directory of their own, and the command line that works on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The binary under test.
pub(crate) const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");

/// The shipped policies.
pub(crate) fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

/// A key whose secret the test chooses, as an imported one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) id: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) secret: &'a str,
    /// Further members of its entry: `plan: pro, scopes: [read]`.
    pub(crate) more: &'a str,
}

impl<'a> Key<'a> {
    pub(crate) const fn of(id: &'a str, tenant: &'a str, secret: &'a str) -> Key<'a> {
        Key { id, tenant, secret, more: "" }
    }

    pub(crate) const fn with(self, more: &'a str) -> Key<'a> {
        Key { more, ..self }
    }

    fn digest(&self) -> String {
        use std::fmt::Write as _;
        let mut digest = String::new();
        for byte in Sha256::digest(self.secret.as_bytes()) {
            // Writing to a String cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        digest
    }

    /// Its line in a `.jsonl` file, without further members.
    pub(crate) fn json(&self) -> String {
        let (Key { id, tenant, .. }, digest) = (self, self.digest());
        format!(r#"{{"id":"{id}","tenant":"{tenant}","digest":{{"sha256":"{digest}"}}}}"#)
    }

    fn entry(&self) -> String {
        let digest = self.digest();
        let more = if self.more.is_empty() { String::new() } else { format!(", {}", self.more) };
        let Key { id, tenant, .. } = self;
        format!("- {{ id: {id}, tenant: {tenant}, digest: {{ sha256: \"{digest}\" }}{more} }}\n")
    }
}

/// A policy file that a test may change, with its key file.
#[derive(Debug)]
pub(crate) struct Policy {
    directory: TempDir,
    file: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Policy {
    /// A copy of a shipped contract and its empty key file.
    pub(crate) fn contract(name: &str) -> Policy {
        Policy::copy_of(&shipped(&format!("contracts/{name}.yaml")))
    }

    /// A copy of a policy file and of the key file beside it.
    pub(crate) fn copy_of(file: &Path) -> Policy {
        let stem = file.file_stem().and_then(|s| s.to_str()).expect("policy files have names");
        let text = fs::read_to_string(file).expect("the policy is there");
        let policy = Policy::new(&format!("{stem}.yaml"), &text);
        let keys = file.with_file_name(format!("{stem}.keys.yaml"));
        fs::copy(keys, policy.directory.path().join(format!("{stem}.keys.yaml")))
            .expect("a shipped policy has a key file beside it");
        policy
    }

    /// A policy with this text; no key file yet.
    pub(crate) fn new(name: &str, text: &str) -> Policy {
        let directory = TempDir::new().expect("there is room for a directory");
        let file = directory.path().join(name);
        fs::write(&file, text).expect("a new directory can be written to");
        Policy { directory, file, environment: Vec::new() }
    }

    /// A policy that reads `gate.keys.yaml`, with these keys in that file.
    pub(crate) fn with_keys(text: &str, keys: &[Key<'_>]) -> Policy {
        let policy = Policy::new("gate.yaml", text);
        policy.write_keys(keys);
        policy
    }

    /// Replaces all keys of a policy made by [`Policy::with_keys`], by an atomic rename.
    pub(crate) fn write_keys(&self, keys: &[Key<'_>]) {
        let new = self.directory.path().join(".new.keys");
        let text: String = keys.iter().map(Key::entry).collect();
        let text = if text.is_empty() { "[]\n".to_owned() } else { text };
        fs::write(&new, text).expect("the directory can be written to");
        let file = self.directory.path().join("gate.keys.yaml");
        fs::rename(&new, file).expect("a rename within a directory works");
    }

    /// A variable that the gate and the commands will find.
    pub(crate) fn set(mut self, name: &'static str, value: &str) -> Policy {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn text(&self) -> String {
        fs::read_to_string(&self.file).expect("the policy is there")
    }

    /// The text of the only key file.
    pub(crate) fn keys_text(&self) -> String {
        let stem = self.file.file_stem().and_then(|s| s.to_str()).expect("it has a name");
        fs::read_to_string(self.directory.path().join(format!("{stem}.keys.yaml")))
            .expect("the key file is there")
    }

    /// Replaces `from`, which must be there, and writes the file anew by an atomic rename, as editors do.
    #[track_caller]
    pub(crate) fn replace(&self, from: &str, to: &str) {
        let text = self.text();
        assert!(text.contains(from), "{from:?} is not in {text}");
        self.write(&text.replacen(from, to, 1));
    }

    /// Replaces `from`, which must be there, in the only key file.
    #[track_caller]
    pub(crate) fn replace_in_keys(&self, from: &str, to: &str) {
        let text = self.keys_text();
        assert!(text.contains(from), "{from:?} is not in {text}");
        let new = self.directory.path().join(".new.keys");
        fs::write(&new, text.replacen(from, to, 1)).expect("the directory can be written to");
        let file = self.file.with_extension("keys.yaml");
        fs::rename(&new, file).expect("a rename within a directory works");
    }

    /// Appends to the file, by an atomic rename.
    pub(crate) fn append(&self, more: &str) {
        self.write(&format!("{}\n{more}\n", self.text()));
    }

    fn write(&self, text: &str) {
        let new = self.directory.path().join(".new");
        fs::write(&new, text).expect("the directory can be written to");
        fs::rename(&new, &self.file).expect("a rename within a directory works");
    }

    /// `tollgate` with these arguments and nothing of the caller's on standard input.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(TOLLGATE);
        command.args(arguments).stdin(Stdio::null()).current_dir(self.directory.path());
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command
    }

    /// Runs `tollgate` with these arguments.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// `tollgate keys WHAT --config FILE …`, which must succeed.
    #[track_caller]
    pub(crate) fn keys(&self, what: &str, arguments: &[&str]) -> Output {
        let output = self.try_keys(what, arguments);
        assert!(
            output.status.success(),
            "keys {what} {arguments:?}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    pub(crate) fn try_keys(&self, what: &str, arguments: &[&str]) -> Output {
        let file = self.file.to_str().expect("temporary directories have plain names");
        self.run(&[&["keys", what, "--config", file], arguments].concat())
    }

    /// A new key of `tenant`: its secret, which stands alone on the one line of standard output.
    #[track_caller]
    pub(crate) fn key(&self, tenant: &str, arguments: &[&str]) -> String {
        let output = self.keys("new", &[&["--tenant", tenant], arguments].concat());
        let text = String::from_utf8(output.stdout).expect("secrets are ASCII");
        let secret = text.strip_suffix('\n').expect("the secret stands on a line");
        assert!(!secret.is_empty(), "an empty secret");
        assert!(secret.bytes().all(|b| b.is_ascii_graphic()), "more than a secret: {text:?}");
        secret.to_owned()
    }

    #[track_caller]
    pub(crate) fn revoke(&self, id: &str) {
        self.keys("revoke", &[id]);
    }
}
