//! The demonstration's files: a policy and two keys, in a private directory that goes when the demonstration ends.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::keyfile::secret::{Secret, random_id};
use crate::keyfile::write::write_private;
use crate::keyfile::{Format, NewEntry, append};

/// A directory with the demonstration's policy, removed when dropped.
#[derive(Debug)]
pub struct Workspace {
    directory: PathBuf,
    /// The policy.
    pub policy: PathBuf,
    /// Where the access records go.
    pub records: PathBuf,
    /// A key that may do everything.
    pub full: Secret,
    /// A key that may only read.
    pub reader: Secret,
}

impl Workspace {
    /// Makes one under `parent`, for a gate at these addresses in front of `backend`.
    pub fn create(
        parent: &Path,
        listen: SocketAddr,
        admin: SocketAddr,
        backend: SocketAddr,
    ) -> io::Result<Workspace> {
        let name = random_id().map_err(io::Error::other)?.replace("key_", "tollgate-demo-");
        let directory = parent.join(name);
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        // From here on the directory is removed, whatever fails.
        let mut workspace = Workspace {
            policy: directory.join("policy.yaml"),
            records: directory.join("records.jsonl"),
            full: Secret::new("demo_").map_err(io::Error::other)?,
            reader: Secret::new("demo_").map_err(io::Error::other)?,
            directory,
        };
        workspace.write(listen, admin, backend)?;
        Ok(workspace)
    }

    fn write(
        &mut self,
        listen: SocketAddr,
        admin: SocketAddr,
        backend: SocketAddr,
    ) -> io::Result<()> {
        let text = POLICY
            .replace("LISTEN", &listen.to_string())
            .replace("ADMIN", &admin.to_string())
            .replace("BACKEND", &backend.to_string());
        write_private(&self.policy, &text)?;
        let mut keys = "# Keys of the demonstration: digests, never secrets.\n".to_owned();
        for (id, secret, scopes) in [
            ("demo-full", &self.full, vec!["sms:send", "reports", "balance"]),
            ("demo-reader", &self.reader, vec!["reports"]),
        ] {
            let entry = NewEntry {
                id: id.to_owned(),
                tenant: "acme".to_owned(),
                digest: secret.digest(None),
                created: None,
                label: None,
                scopes: Some(scopes.into_iter().map(str::to_owned).collect()),
                plan: None,
                not_before: None,
                expires: None,
                allow: Vec::new(),
                limits: Vec::new(),
            };
            keys = append(&keys, Format::Yaml, &entry).map_err(io::Error::other)?;
        }
        write_private(&self.directory.join("demo.keys.yaml"), &keys)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What a user has put there, or removed, is no reason to fail at the end.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The demonstration's policy; addresses are filled in.
const POLICY: &str = "\
# The policy of `tollgate demo`. Change it and save: it is in force within a second.
version: 1
listen: LISTEN
upstream: http://BACKEND
admin: ADMIN
state: ./state

credentials:
  accept: [bearer]
  prefix: demo_
  keys: demo.keys.yaml

routes:
  - { name: sms-send, match: POST /sms/send, scope: sms:send, idempotency: accept, cost: 0.05 }
  - { name: messages, match: GET /messages/**, scope: reports }
  - { name: events, match: GET /events, scope: reports }
  - { name: balance, match: GET /balance, scope: balance }

limits:
  throttle: { rate: 10/minute, window: sliding, per: key }
  wallet: { credit: prepaid, unit: EUR, per: tenant }

report: { x-ratelimit: unix, of: throttle, retry-after: true }
identity: { tenant: X-Tenant-Id, key: X-Key-Id, balance: { header: X-Balance, of: wallet } }
record: { to: records.jsonl }
drain: { delay: 0s, deadline: 2s }
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_files_are_private_hold_no_secret_and_go_at_the_end() {
        let parent = tempfile::tempdir().unwrap();
        let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let workspace = Workspace::create(parent.path(), at, at, at).unwrap();
        let directory = workspace.policy.parent().unwrap().to_owned();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        for file in fs::read_dir(&directory).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(!text.contains(workspace.full.reveal()));
        }
        drop(workspace);
        assert!(!directory.exists());
    }
}
