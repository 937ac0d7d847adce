//! Policies for the commands that read one and are gone: the loader, fed from the file system, from standard input, or
//! from a key file's text that is not written yet.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use crate::clock::Wall;
use crate::config::{self, Loaded, Overrides, Problems, Secrets, Sources};
use crate::gate::list_directory;

/// The text that a key file is about to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft<'a> {
    /// The key file.
    pub(super) path: &'a Path,
    /// Its text.
    pub(super) text: &'a str,
}

/// Loads a policy for the sake of its keys: a key file that does not exist yet is an empty one, and secrets may be
/// missing, because whoever keeps keys need not know the upstream's password. A pepper that is missing is empty.
pub(super) fn load_for_keys(
    path: &Path,
    draft: Option<Draft<'_>>,
    now: Wall,
) -> Result<Loaded, Problems> {
    let read = |file: &Path| match draft {
        Some(draft) if same_file(draft.path, file) => Ok(draft.text.as_bytes().to_vec()),
        _ => match read_file(file) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && could_hold_keys(file, path) =>
            {
                Ok(Vec::new())
            }
            read => read,
        },
    };
    let list = |directory: &Path| {
        let mut files = list_directory(directory)?;
        if let Some(Draft { path, .. }) = draft
            && let Some(name) = path.file_name()
        {
            let here = directory.join(name);
            if same_file(path, &here) && !files.contains(&here) {
                files.push(here);
            }
        }
        Ok(files)
    };
    let sources =
        Sources { read: &read, open: None, list: &list, env: &super::environment, breathe: &|| () };
    let overrides = Overrides { secrets: Secrets::Optional, ..Overrides::default() };
    config::load(path, &overrides, &sources, now, None)
}

/// Reads a file; `-` is standard input.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    fs::read(path)
}

/// Whether two paths name one file, which need not exist as long as its directory does.
pub(super) fn same_file(left: &Path, right: &Path) -> bool {
    let whole = |path: &Path| {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Some((fs::canonicalize(parent).ok()?, path.file_name()?.to_owned()))
    };
    left == right
        || matches!((whole(left), whole(right)), (Some(left), Some(right)) if left == right)
}

/// Certificates and secrets that are missing are told; only what looks like a key file may not exist yet.
fn could_hold_keys(file: &Path, policy: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    file != policy && matches!(extension, Some("yaml" | "yml" | "jsonl"))
}
