//! Raw shapes → the compiled snapshot. Every shape is taken apart by name, so a new word does not compile until somebody
//! decides what it does; every problem is pushed and compiling goes on, so that all are told at once. Must never: give
//! a snapshot when an error was found.

mod address;
mod admin;
mod answers;
mod by_id;
mod callers;
mod ceilings;
mod charges;
mod coverage;
mod credentials;
mod idempotency;
mod identity;
mod keys;
mod limits;
mod lint;
mod overrides;
mod record;
mod revocation;
mod routes;
mod server;
mod upstream;

use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

pub(super) use self::coverage::per_words;
pub(super) use self::keys::{Again, Collector, Entry};
pub(super) use self::overrides::Amounts;
pub use self::upstream::upstream_complaint;
use super::origin::Origins;
use super::problem::{At, Findings, Span};
use super::raw::{self, Secret, SecretPlace};
use super::{Issuing, Overrides, Secrets, Sources};
use crate::clock::Wall;
use crate::policy::Name;
use crate::policy::address::Nets;
use crate::policy::calendar::{Calendar, CalendarIx, Every};
use crate::policy::limit::{Mode, Terms};
use crate::policy::snapshot::{
    AddressRule, Grant, GrantIx, NetsIx, ScopeIx, Snapshot, TermsIx, Upstream,
};

/// What every step of compiling shares.
pub(super) struct Desk<'a> {
    pub(super) findings: Findings,
    pub(super) sources: &'a Sources<'a>,
    /// The policy file, to which paths in it are relative.
    pub(super) base: PathBuf,
    /// Everything read so far.
    pub(super) files: Vec<PathBuf>,
    /// Over the policy and everything it names but the key files.
    pub(super) digest: Sha256,
    /// Over the key files.
    pub(super) keys_digest: Sha256,
    pub(super) now: Wall,
    secrets: Secrets,
    /// Whether a pepper is set, without which a key stored as HMAC is unusable.
    pub(super) has_pepper: bool,
    /// Lines for the operator that are no problems.
    pub(super) notes: Vec<String>,
    pub(super) origins: Origins,
    scopes: Interned<Name>,
    nets: Interned<Nets>,
    grants: Interned<Grant>,
    terms: Interned<Terms>,
    calendars: Vec<Calendar>,
}

/// Values that many share, each kept once.
struct Interned<T> {
    values: Vec<T>,
    places: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Interned<T> {
    fn new() -> Interned<T> {
        Interned { values: Vec::new(), places: HashMap::new() }
    }

    fn place(&mut self, value: T) -> u32 {
        if let Some(place) = self.places.get(&value) {
            return *place;
        }
        // Memory ends long before 2³² distinct values do.
        let place = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        self.values.push(value.clone());
        self.places.insert(value, place);
        place
    }
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        path: &Path,
        sources: &'a Sources<'a>,
        now: Wall,
        secrets: Secrets,
    ) -> Desk<'a> {
        Desk {
            findings: Findings::default(),
            sources,
            base: path.parent().map_or_else(PathBuf::new, Path::to_path_buf),
            files: Vec::new(),
            digest: Sha256::new(),
            keys_digest: Sha256::new(),
            now,
            secrets,
            has_pepper: false,
            notes: Vec::new(),
            origins: Origins::default(),
            scopes: Interned::new(),
            nets: Interned::new(),
            grants: Interned::new(),
            terms: Interned::new(),
            calendars: Vec::new(),
        }
    }

    /// A problem with a flag of the command line.
    pub(super) fn flag_error(&mut self, message: String) {
        self.findings.file_error(Path::new("command line"), message, None);
    }

    /// A path of the policy, relative to the file it stands in.
    pub(super) fn beside(&self, text: &str) -> PathBuf {
        self.base.join(text.strip_prefix("./").unwrap_or(text))
    }

    /// Reads a file that the policy names; it becomes part of the policy's digest.
    pub(super) fn named_file(&mut self, path: &At<String>) -> Option<Vec<u8>> {
        let file = self.beside(&path.value);
        self.files.push(file.clone());
        match (self.sources.read)(&file) {
            Ok(bytes) => {
                self.digest.update(&bytes);
                Some(bytes)
            }
            Err(error) => self.absent(
                path.at,
                format!("{} cannot be read: {error}", file.display()),
                "paths are relative to this file".to_owned(),
            ),
        }
    }

    /// Whether secrets may be missing.
    pub(super) fn is_offline(&self) -> bool {
        self.secrets == Secrets::Optional
    }

    /// A secret or certificate that is not there: an error, or a warning and nothing.
    fn absent(&mut self, at: Span, message: String, remedy: String) -> Option<Vec<u8>> {
        match self.secrets {
            Secrets::Required => {
                self.findings.error_with(at, message, remedy);
                None
            }
            Secrets::Optional => {
                self.findings.warn(at, message, remedy);
                Some(Vec::new())
            }
        }
    }

    /// A text that is written down, in the environment, or in a file (without its last newline).
    pub(super) fn secret(&mut self, secret: &Secret) -> Option<Vec<u8>> {
        let place = match secret {
            Secret::One(text) => return Some(text.value.clone().into_bytes()),
            Secret::Map(place) => place,
        };
        let SecretPlace { at, env, file } = place;
        match (env, file) {
            (Some(env), None) => match (self.sources.env)(&env.value) {
                Some(value) => {
                    self.digest.update(value.as_bytes());
                    Some(value.into_bytes())
                }
                None => self.absent(
                    env.at,
                    format!("the environment has no `{}`", env.value),
                    format!("set it where the gate starts: {}=…", env.value),
                ),
            },
            (None, Some(file)) => {
                let mut bytes = self.named_file(file)?;
                if bytes.ends_with(b"\n") {
                    bytes.pop();
                    if bytes.ends_with(b"\r") {
                        bytes.pop();
                    }
                }
                Some(bytes)
            }
            (Some(_), Some(_)) => {
                self.findings.error(*at, "a secret stands in one place: `env` or `file`");
                None
            }
            (None, None) => {
                self.findings.error(*at, "expected { env: NAME } or { file: path }");
                None
            }
        }
    }

    /// The scope with this name.
    pub(super) fn scope(&mut self, name: &str) -> ScopeIx {
        if let Some(place) = self.scopes.places.get(name) {
            return ScopeIx(*place);
        }
        ScopeIx(self.scopes.place(Name::from(name)))
    }

    pub(super) fn scope_name(&self, ix: ScopeIx) -> &str {
        self.scopes.values.get(ix.0 as usize).map_or("", |name| name)
    }

    pub(super) fn grant(&mut self, grant: Grant) -> GrantIx {
        GrantIx(self.grants.place(grant))
    }

    pub(super) fn terms(&mut self, terms: Terms) -> TermsIx {
        TermsIx(self.terms.place(terms))
    }

    /// The calendar that cuts time so. `None`: there are more than fit.
    pub(super) fn calendar(
        &mut self,
        every: Every,
        zone: &TimeZone,
        anchor: u8,
    ) -> Option<CalendarIx> {
        let calendar = Calendar::new(every, zone.clone(), anchor, self.now);
        let known = self.calendars.iter().position(|known| *known == calendar);
        let place = known.unwrap_or(self.calendars.len());
        if known.is_none() {
            self.calendars.push(calendar);
        }
        u16::try_from(place).ok().map(CalendarIx)
    }

    pub(super) fn nets(&mut self, nets: Nets) -> NetsIx {
        NetsIx(self.nets.place(nets))
    }

    /// An allowlist; an empty one is none ("empty means open").
    pub(super) fn allow(&mut self, allow: Option<raw::Allow>) -> Option<AddressRule> {
        let raw::Allow(raw::AllowRule { at, only, mode }) = allow?;
        let Some(only) = only else {
            self.findings.error_with(
                at,
                "this allowlist names no networks",
                "write { only: [203.0.113.0/24] }".to_owned(),
            );
            return None;
        };
        for net in &only.items {
            if net.value.prefix_len() == 0 {
                self.findings.warn(
                    net.at,
                    format!("{} lets every address of its family in", net.value),
                    "leave the list out if everybody may come".to_owned(),
                );
            }
        }
        if only.items.is_empty() {
            return None;
        }
        let nets = self.nets(Nets::new(only.items.iter().map(|net| net.value)));
        Some(AddressRule { nets, mode: mode_of(mode.as_ref()) })
    }
}

/// The mode of a rule; enforced unless it says otherwise.
fn mode_of(mode: Option<&At<super::scalar::RuleMode>>) -> Mode {
    match mode.map(|mode| mode.value) {
        Some(super::scalar::RuleMode::Shadow) => Mode::Shadow,
        Some(super::scalar::RuleMode::Enforce) | None => Mode::Enforce,
    }
}

/// What compiling gives beside the desk's own findings.
pub(super) struct Compiled {
    pub(super) snapshot: Snapshot,
    pub(super) issuing: Issuing,
}

/// Compiles a whole policy. `None`: an error was found.
pub(super) fn compile(
    policy: raw::Policy,
    overrides: &Overrides,
    previous: Option<&Snapshot>,
    desk: &mut Desk<'_>,
) -> Option<Compiled> {
    let raw::Policy {
        at,
        version,
        listen,
        upstream,
        admin,
        state,
        workers,
        client_address,
        credentials,
        idempotency,
        routes,
        limits,
        auto_revoke,
        plans,
        tenants,
        allow,
        report,
        identity,
        errors,
        bounds,
        drain,
        record,
        ready,
    } = policy;
    check_version(version.as_ref(), at, &mut desk.findings);
    let memory_at = lint::memory_at(state.as_ref());
    let server = server::server(listen, admin, state, workers, overrides, desk);
    let client_address = address::client_address(client_address, &server.listeners, desk);
    let bounds = server::bounds(bounds, desk);
    let drain = server::drain(drain.as_ref());
    let ready = server::ready(ready.as_ref());
    let upstream = upstream::upstream(upstream, at, overrides, desk);
    let allow = desk.allow(allow);

    let idempotency = idempotency::defaults(idempotency, desk);
    let mut routes = routes::routes(routes, upstream.response_timeout, &idempotency, desk);
    let mut limits = limits::limits(limits, &routes, desk);
    routes::balances(&mut routes, &limits, desk);
    let identity = identity::identity(identity, &upstream.compiled, &limits, desk);
    let auto_revoke = revocation::auto_revoke(auto_revoke, desk);
    let callers = callers::callers(plans, tenants, &limits, desk);
    let credentials::Compiled { credentials, key_files, issuing } =
        credentials::credentials(credentials, desk);
    let record = record::record(record, &credentials, desk);
    let keys = keys::keys(&key_files, callers, &limits, desk);
    coverage::cover(&mut routes, &limits);
    let report = server::report(report, &limits, desk);
    let answers = answers::answers(errors, desk);
    lint::lint(&routes, &limits, &keys, desk);
    lint::unreachable_credit(&server, &limits, desk);
    lint::forgetful(&server.state, memory_at, (&routes, &limits, &auto_revoke), desk);

    if desk.findings.has_errors() {
        return None;
    }
    let route_slots = slots(
        previous.map(|previous| &previous.route_slots),
        routes.compiled.iter_mut().map(|route| (&route.name, &mut route.slot)),
    );
    let limit_slots = slots(
        previous.map(|previous| &previous.limit_slots),
        limits.compiled.iter_mut().map(|limit| (&limit.name, &mut limit.slot)),
    );
    let guessing = limits.guessing();
    let keys::Compiled { keys, plans, tenants, .. } = keys;
    let snapshot = Snapshot {
        calendars: std::mem::take(&mut desk.calendars),
        records: idempotency.bounds,
        auto_revoke,
        digest: hex(desk.digest.clone().finalize().as_slice()).into(),
        keys_digest: hex(desk.keys_digest.clone().finalize().as_slice()).into(),
        router: routes.router,
        routes: routes.compiled,
        scopes: std::mem::take(&mut desk.scopes.values),
        grants: std::mem::take(&mut desk.grants.values),
        nets: std::mem::take(&mut desk.nets.values),
        limits: limits.compiled,
        terms: std::mem::take(&mut desk.terms.values),
        plans,
        tenants,
        keys,
        credentials,
        allow,
        client_address,
        guessing,
        report,
        identity,
        answers,
        upstream: kept(previous, upstream.compiled),
        bounds,
        drain,
        server,
        record,
        ready_asks_upstream: ready.upstream,
        ready_asks_store: ready.store,
        route_slots,
        limit_slots,
    };
    Some(Compiled { snapshot, issuing })
}

fn check_version(version: Option<&At<u64>>, at: Span, findings: &mut Findings) {
    match version {
        Some(At { value: 1, .. }) => {}
        Some(other) => findings.error_with(
            other.at,
            format!("this gate reads version 1, not {}", other.value),
            "write `version: 1`".to_owned(),
        ),
        None => findings.error_with(
            Span { end: at.start, ..at },
            "the policy does not say its `version`",
            "write `version: 1` on its first line".to_owned(),
        ),
    }
}

/// The previous upstream where it is equal, so that its pools live on.
fn kept(previous: Option<&Snapshot>, upstream: Upstream) -> Arc<Upstream> {
    match previous {
        Some(previous) if *previous.upstream == upstream => previous.upstream.clone(),
        _ => Arc::new(upstream),
    }
}

/// Stable places by name: what `previous` had stays, new names are appended.
fn slots<'n>(
    previous: Option<&Arc<[Name]>>,
    takers: impl Iterator<Item = (&'n Name, &'n mut u32)>,
) -> Arc<[Name]> {
    let mut names: Vec<Name> = previous.map_or_else(Vec::new, |names| names.to_vec());
    let mut places: HashMap<Name, u32> = names.iter().cloned().zip(0..).collect();
    for (name, slot) in takers {
        *slot = *places.entry(name.clone()).or_insert_with(|| {
            names.push(name.clone());
            u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
        });
    }
    match previous {
        Some(previous) if previous.len() == names.len() => previous.clone(),
        _ => names.into(),
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}
