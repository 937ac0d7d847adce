//! `tollgate keys revoke`.

use std::path::{Path, PathBuf};

use super::super::args::Revoke;
use super::super::failure::Failure;
use super::super::policy::load_for_keys;
use super::super::remote::{self, Remote};
use super::super::tell;
use super::super::when::whole_second;
use super::{
    Policy, could_not_write, edit_failed, hold, load_with, named_by_policy, unchanged, unknown,
};
use crate::clock::Clock;
use crate::keyfile::entry::instant;
use crate::keyfile::{self, EditProblem, Format, Revoked};

pub(super) fn revoke(arguments: &Revoke) -> Result<(), Failure> {
    if arguments.why.as_ref().is_some_and(|why| why.contains(char::is_control)) {
        return Err(Failure::problem("a reason is one line without control characters"));
    }
    match (&arguments.admin, &arguments.config) {
        (Some(admin), _) => {
            let remote = Remote::new(admin, &arguments.token)?;
            remote::keys::revoke(&remote, &arguments.id, arguments.why.as_deref())
        }
        (None, Some(config)) => revoke_in_file(arguments, config),
        (None, None) => Err(Failure::usage("say where: --config FILE or --admin URL")),
    }
}

fn revoke_in_file(arguments: &Revoke, config: &Path) -> Result<(), Failure> {
    let now = Clock::system().now().wall;
    let before = load_for_keys(config, None, now);
    let loads = before.is_ok();
    let file: PathBuf = match (&arguments.file, before) {
        (Some(file), Ok(loaded)) => named_by_policy(&loaded.issuing.key_files, file),
        (Some(file), Err(_)) => file.clone(),
        (None, Ok(loaded)) => Policy { path: config, loaded, now }.file_of(&arguments.id)?,
        (None, Err(problems)) => {
            let mut failure = Failure::problems(&problems);
            failure.text += "\nWith --file KEYFILE a key can be revoked all the same.";
            return Err(failure);
        }
    };

    let held = hold(&file)?;
    let at = whole_second(now);
    let why = arguments.why.as_deref();
    let edited = keyfile::revoke(held.text(), Format::of(&file), &arguments.id, at, why);
    let text = match edited {
        Ok(Revoked::Now(text)) => text,
        Ok(Revoked::Before(when)) => {
            tell(&format!("Key {} was revoked before: {when}. Nothing was changed.", arguments.id));
            return Ok(());
        }
        Err(EditProblem::Unknown { ids }) => return Err(unknown(&arguments.id, &ids)),
        Err(problem) => return Err(edit_failed(&file, &problem)),
    };
    match load_with(config, &file, &text, now) {
        Ok(_) => {}
        Err(problems) if loads => return Err(unchanged(&problems)),
        Err(_) => tell(
            "warning: the policy cannot be loaded here, before or after, so only the key file was checked",
        ),
    }
    held.replace(&text).map_err(|problem| {
        let why = why.map(|why| format!(", why: {}", serde_json::Value::from(why)));
        let why = why.unwrap_or_default();
        let commit = format!(
            "# in the entry of {}:\n  revoked: {{ at: {}{why} }}\n",
            arguments.id,
            instant(at)
        );
        let admin =
            format!(":\n\n    tollgate keys revoke --admin http://127.0.0.1:9901 {}", arguments.id);
        could_not_write(&problem, &commit, &admin)
    })?;
    tell(&format!("Key {} is revoked in {}.", arguments.id, file.display()));
    Ok(())
}
