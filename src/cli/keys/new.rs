//! `tollgate keys new`.

use std::path::PathBuf;

use serde_json::json;

use super::super::args::New;
use super::super::failure::Failure;
use super::super::suggest::{nearest, suggestion};
use super::super::tell;
use super::super::when::{later, whole_second};
use super::{Delivery, Policy, could_not_write, edit_failed, hold, named_by_policy};
use crate::clock::Wall;
use crate::config::{Loaded, NewKeyScopes};
use crate::keyfile::entry::instant;
use crate::keyfile::secret::random_id;
use crate::keyfile::{self, Format, NewEntry};
use crate::policy::snapshot::Standing;

pub(super) fn new(arguments: &New) -> Result<(), Failure> {
    let policy = Policy::load(&arguments.config)?;
    check_names(arguments, &policy.loaded)?;
    let scopes = scopes(arguments, &policy.loaded)?;
    let file = file(arguments, &policy)?;
    let expires = match arguments.expires {
        Some(when) => when.from(policy.now),
        None => policy.loaded.issuing.expires.map(|after| later(policy.now, after)),
    };
    let id = match &arguments.id {
        Some(id) => id.clone(),
        None => random_id().map_err(Failure::cannot)?,
    };
    let (secret, digest) = policy.secret(arguments.prefix.as_deref())?;
    let limits = arguments.limits.clone();
    let entry = NewEntry {
        id,
        tenant: arguments.tenant.clone(),
        digest,
        created: Some(whole_second(policy.now)),
        label: arguments.label.clone(),
        scopes,
        plan: arguments.plan.clone(),
        not_before: arguments.not_before.and_then(|when| when.from(policy.now)),
        expires,
        allow: arguments.allow.iter().map(ToString::to_string).collect(),
        limits,
    };

    let held = hold(&file)?;
    let format = Format::of(&file);
    let text = keyfile::append(held.text(), format, &entry)
        .map_err(|problem| edit_failed(&file, &problem))?;
    let loaded = policy.with(&file, &text)?;
    check_loaded(&loaded, &policy.loaded, &entry)?;
    let delivery = Delivery { json: arguments.json, file: arguments.secret_file.as_deref() };
    delivery.prepare(&secret)?;
    let about = json!({
        "id": entry.id,
        "tenant": entry.tenant,
        "file": file.display().to_string(),
        "expires": entry.expires.map(instant),
    });
    let admin = format!(
        " (this comes with a later release):\n\n    tollgate keys new --admin http://127.0.0.1:9901 --tenant {} --id {}",
        entry.tenant, entry.id
    );
    let commit = keyfile::written(&entry, format);
    if let Err(problem) = held.replace(&text) {
        delivery.not_written(&problem, &secret, about)?;
        return Err(could_not_write(&problem, &commit, &admin));
    }
    report(&entry, &file, policy.now);
    delivery.show(&secret, about)
}

fn report(entry: &NewEntry, file: &std::path::Path, now: Wall) {
    tell(&format!("Key {} of {} is in {}.", entry.id, entry.tenant, file.display()));
    match entry.expires {
        Some(expires) if expires <= now => {
            tell(&format!("warning: it expired at {}, so it will be refused", instant(expires)));
        }
        Some(expires) => tell(&format!("It expires at {}.", instant(expires))),
        None => {}
    }
}

/// Names of the policy are checked before anything is made, because here a slip can be told from an intention.
fn check_names(arguments: &New, loaded: &Loaded) -> Result<(), Failure> {
    let policy = &loaded.snapshot;
    for text in [Some(&arguments.tenant), arguments.id.as_ref()].into_iter().flatten() {
        let unfit = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > 128 || text.contains(unfit) {
            return Err(Failure::problem(format!(
                "{text:?} is no name: 1 to 128 bytes without spaces and control characters"
            )));
        }
    }
    if arguments.label.as_ref().is_some_and(|label| label.contains(char::is_control)) {
        return Err(Failure::problem("a label is one line without control characters"));
    }
    for scope in &arguments.scopes {
        if !policy.scopes.iter().any(|known| **known == **scope) {
            let known = policy.scopes.iter().map(|known| &**known);
            let hint = suggestion(scope, known);
            return Err(Failure::problem(format!("the policy knows no scope {scope}{hint}")));
        }
    }
    if let Some(plan) = &arguments.plan
        && !policy.plans.iter().any(|known| *known.name == **plan)
    {
        let hint = suggestion(plan, policy.plans.iter().map(|plan| &*plan.name));
        return Err(Failure::problem(format!("the policy has no plan {plan}{hint}")));
    }
    // With those that are disabled: a key may be made before they are switched on.
    let limits = &loaded.origins.limits;
    for (limit, _) in &arguments.limits {
        if !limits.contains_key(limit) {
            let hint = suggestion(limit, limits.keys().map(String::as_str));
            return Err(Failure::problem(format!("the policy has no limit {limit}{hint}")));
        }
    }
    Ok(())
}

/// The scopes to write: those asked for, or what the policy says of keys that ask for none.
fn scopes(arguments: &New, loaded: &Loaded) -> Result<Option<Vec<String>>, Failure> {
    if !arguments.scopes.is_empty() {
        let mut scopes = arguments.scopes.clone();
        let mut seen = std::collections::HashSet::new();
        scopes.retain(|scope| seen.insert(scope.clone()));
        return Ok(Some(scopes));
    }
    match &loaded.issuing.scopes {
        NewKeyScopes::Required => {
            let known: Vec<&str> = loaded.snapshot.scopes.iter().map(|scope| &**scope).collect();
            Err(Failure::usage(format!(
                "this policy wants the scopes of a new key said (`new_keys: {{ scopes: required }}`): \
                 give --scope, once or more; known: {}",
                known.join(", ")
            )))
        }
        // No list of its own: the key may do what its tenant and plan may, as they change.
        NewKeyScopes::All | NewKeyScopes::Tenant => Ok(None),
        NewKeyScopes::Listed(scopes) => Ok(Some(scopes.clone())),
    }
}

fn file(arguments: &New, policy: &Policy<'_>) -> Result<PathBuf, Failure> {
    let files = &policy.loaded.issuing.key_files;
    match (&arguments.file, files.as_slice()) {
        (Some(file), files) => Ok(named_by_policy(files, file)),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(Failure::problem(
            "the policy names no key file; write `credentials: { keys: tollgate.keys.yaml }` into it, \
             or say --file where it names a glob",
        )),
        (None, several) => {
            let names: Vec<String> =
                several.iter().map(|file| file.display().to_string()).collect();
            Err(Failure::usage(format!(
                "the policy names several key files; choose one with --file: {}",
                names.join(", ")
            )))
        }
    }
}

/// What only the loader can tell: whether the policy reads this file, and what it makes of the tenant.
fn check_loaded(loaded: &Loaded, before: &Loaded, entry: &NewEntry) -> Result<(), Failure> {
    let policy = &loaded.snapshot;
    let Some(key) = policy.keys.iter().find(|key| *key.id == *entry.id) else {
        return Err(Failure::problem(
            "the policy does not read this file; name it in `credentials.keys`. Nothing was changed",
        ));
    };
    let known = || before.snapshot.tenants.iter().map(|tenant| &*tenant.name);
    let is_new = known().all(|name| name != entry.tenant);
    if policy.tenant(key.entitlement.tenant).standing == Standing::Inactive {
        if is_new {
            let hint = suggestion(&entry.tenant, known());
            return Err(Failure::problem(format!(
                "there is no tenant {}, and this policy is closed to others; nothing was changed{hint}",
                entry.tenant
            )));
        }
        tell(&format!(
            "warning: the tenant {} is not active, so the key will be refused",
            entry.tenant
        ));
    } else if is_new && let [near, ..] = nearest(&entry.tenant, known()).as_slice() {
        tell(&format!("warning: {} is a new tenant; did you mean {near}?", entry.tenant));
    }
    Ok(())
}
