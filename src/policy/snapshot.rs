//! The policy as it is in force: compiled, immutable, indexed. Nothing in it still needs interpretation, and nothing
//! in it counts: meters live in the ledger under stable names, so a reload that swaps this loses no use.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::Name;
use super::address::{ClientAddressRule, Nets};
use super::answer::Answers;
use super::calendar::{Calendar, CalendarIx};
use super::charge::ChargeRule;
use super::credential::Credentials;
use super::forbidden::ForbiddenFields;
use super::idempotency::{IdempotencyRule, RecordBounds};
use super::keys::{Keys, SecretDigest};
use super::limit::{Limit, LimitIx, Mode, Per, SubjectKey, Terms};
use super::report::Report;
use super::revocation::RevocationRule;
use super::route::{Router, ScopeRule};
pub use super::upstream::{ClientPair, HostRule, Scheme, Upstream, UpstreamProtocol, UpstreamTls};

/// Place of a route in [`Snapshot::routes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteIx(pub u32);
/// Place of a tenant in [`Snapshot::tenants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantIx(pub u32);
/// Place of a plan in [`Snapshot::plans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanIx(pub u32);
/// Place of a set of ceilings in [`Snapshot::terms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TermsIx(pub u32);
/// Place of a set of granted scopes in [`Snapshot::grants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantIx(pub u32);
/// Place of a list of networks in [`Snapshot::nets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetsIx(pub u32);
/// Place of a scope in [`Snapshot::scopes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeIx(pub u32);

/// Everything a decision reads.
#[derive(Debug)]
pub struct Snapshot {
    /// SHA-256 of the policy file and of everything it names but the key files, hex.
    pub digest: Box<str>,
    /// SHA-256 of the key files, hex.
    pub keys_digest: Box<str>,
    /// Path → route.
    pub router: Router,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
    /// The scopes that routes demand, keys hold or tenants and plans grant.
    pub scopes: Vec<Name>,
    /// Interned sets of granted scopes.
    pub grants: Vec<Grant>,
    /// Interned allowlists.
    pub nets: Vec<Nets>,
    /// The limits that are not disabled, in the order of the file.
    pub limits: Vec<Limit>,
    /// The calendars of quotas and spend, interned.
    pub calendars: Vec<Calendar>,
    /// Bounds of the idempotency records.
    pub records: RecordBounds,
    /// When keys are revoked without a person, in the order of the file.
    pub auto_revoke: Vec<RevocationRule>,
    /// Interned ceilings.
    pub terms: Vec<Terms>,
    /// The plans, in the order of the file; the first is `default`, whether listed or not.
    pub plans: Vec<Plan>,
    /// The tenants that are listed, and those that only keys name.
    pub tenants: Vec<Tenant>,
    /// The keys.
    pub keys: Keys,
    /// Where credentials are looked for.
    pub credentials: Credentials,
    /// The policy's own allowlist, over every route that needs a key.
    pub allow: Option<AddressRule>,
    /// How the client's address is found.
    pub client_address: ClientAddressRule,
    /// The limits that count failed authentications, in the order of the file.
    pub guessing: Box<[LimitIx]>,
    /// What limit headers are sent.
    pub report: Report,
    /// Headers that vouch for the caller towards the backend; clients' own copies are removed in every spelling.
    pub identity: Identity,
    /// What the gate answers by itself.
    pub answers: Answers,
    /// Where admitted requests go. Shared between snapshots as long as it does not change, so that pools live on.
    pub upstream: Arc<Upstream>,
    /// Sizes and times.
    pub bounds: Bounds,
    /// How a drain goes.
    pub drain: Drain,
    /// The settings that only a restart can change.
    pub server: Server,
    /// What the access record holds beyond its fixed fields, and where it goes.
    pub record: RecordRule,
    /// Whether readiness asks the upstream (`ready: { upstream: true }`).
    pub ready_asks_upstream: bool,
    /// Whether readiness asks the store (`ready: { store: true }`).
    pub ready_asks_store: bool,
    /// The names behind [`Route::slot`]: grows through reloads, never shrinks.
    pub route_slots: Arc<[Name]>,
    /// The names behind [`Limit::slot`]: grows through reloads, never shrinks.
    pub limit_slots: Arc<[Name]>,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Its name in the policy.
    pub name: Name,
    /// A stable hash of its name, for limits `per: route`.
    pub subject: SubjectKey,
    /// Stable place of its metrics.
    pub slot: u32,
    /// Whether a key is needed.
    pub access: Access,
    /// What the caller must have been granted.
    pub scope: Option<ScopeRule>,
    /// The route's own allowlist.
    pub allow: Option<AddressRule>,
    /// The path parameter or query parameter that must name the caller's tenant.
    pub tenant: Option<TenantRule>,
    /// The limits that cover it, in the order of the file (of those with `counts: requests`).
    pub limits: Box<[LimitIx]>,
    /// Units it takes from `rate` and `quota` limits.
    pub weight: u64,
    /// What it costs, and for which outcomes.
    pub charge: Arc<ChargeRule>,
    /// What it does with idempotency keys; `None`: they are the backend's own affair.
    pub idempotency: Option<Arc<IdempotencyRule>>,
    /// Largest request body in bytes; `None`: as `bounds.body` says.
    pub max_body: Option<u64>,
    /// Time to the head of the upstream's answer.
    pub response_timeout: Duration,
    /// What becomes of an exchange that is open when its key is revoked.
    pub on_revoke: OnRevoke,
    /// What answers: the upstream, or the gate.
    pub target: Target,
}

/// Whether a route needs a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It does.
    Keyed,
    /// `public: true`.
    Public,
}

/// What answers a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The upstream.
    Upstream,
    /// `answer: ready`: the gate's readiness, as `/readyz` says it.
    Ready,
    /// `answer: { balance: LIMIT }`: what the caller has left of it, by the gate.
    Balance(LimitIx),
}

/// What becomes of a long-lived exchange whose key, tenant or address is no longer admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRevoke {
    /// Upgrades are cut within a second, other answers finish (the default).
    CutUpgrades,
    /// Everything is cut within a second (`on_revoke: cut`).
    Cut,
    /// Everything finishes (`on_revoke: finish`).
    Finish,
}

/// An allowlist with its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRule {
    /// The list.
    pub nets: NetsIx,
    /// Whether it vetoes.
    pub mode: Mode,
}

/// `tenant: { path: account }` or `{ query: account_id }`: where a request names a tenant, which must be the caller's.
#[derive(Clone, Debug)]
pub struct TenantRule {
    /// Where the name stands.
    pub place: TenantPlace,
    /// Whether it vetoes.
    pub mode: Mode,
}

/// Where a request names a tenant.
#[derive(Clone, Debug)]
pub enum TenantPlace {
    /// The path segment with this index (0 is the first).
    Segment(usize),
    /// Every query parameter of this name, compared after percent-decoding; a request without it passes.
    Query(Name),
}

/// Scopes granted to a kind of caller: the key's own, cut down to what its tenant and plan may do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// Everything.
    All,
    /// Exactly these, ascending.
    Only(Box<[ScopeIx]>),
}

/// A plan.
#[derive(Debug)]
pub struct Plan {
    /// Its name.
    pub name: Name,
    /// A stable hash of its name, for limits `per: plan`.
    pub subject: SubjectKey,
    /// Its allowlist.
    pub allow: Option<AddressRule>,
}

/// A tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Its name.
    pub name: Name,
    /// A stable hash of its name, for limits `per: tenant`.
    pub subject: SubjectKey,
    /// Its standing.
    pub standing: Standing,
    /// Its plan.
    pub plan: PlanIx,
    /// Its allowlist.
    pub allow: Option<AddressRule>,
}

/// Whether a tenant may use the API at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Active,
    /// `active: false`, or not listed under `tenants: closed`.
    Inactive,
}

/// Headers that the gate sets towards the backend.
#[derive(Debug, Default)]
pub struct Identity {
    /// The tenant's name.
    pub tenant: Option<HeaderName>,
    /// The key's public id.
    pub key: Option<HeaderName>,
    /// The caller's plan.
    pub plan: Option<HeaderName>,
    /// The granted scopes that routes know, space separated; `*` for all.
    pub scopes: Option<HeaderName>,
    /// The client's address.
    pub address: Option<HeaderName>,
    /// What is left of a `credit` or `spend` limit after this request.
    pub balance: Option<BalanceHeader>,
    /// What clients may not send: these headers, the policy's `strip`, and what only proxies write.
    pub forbidden: ForbiddenFields,
}

/// `identity: { balance: … }`: the header, and the limit whose remainder it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceHeader {
    /// The header.
    pub name: HeaderName,
    /// The limit.
    pub of: LimitIx,
}

/// Sizes and times. Defaults and their reasons stand in `config/defaults.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Largest head in bytes.
    pub head: usize,
    /// Largest number of header fields.
    pub fields: usize,
    /// Longest request target in bytes.
    pub target: usize,
    /// Largest request body in bytes where a route says nothing; `None`: no bound.
    pub body: Option<u64>,
    /// Time for a whole head to arrive, from the first byte or from the connection's start.
    pub head_timeout: Duration,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Longest silence inside a request body.
    pub body_idle: Duration,
    /// Longest idle time of a client connection between requests.
    pub keep_alive: Duration,
    /// Most client connections, over all listeners.
    pub connections: usize,
    /// Most requests in flight, over all workers.
    pub in_flight: usize,
    /// Most subjects with meters that are no key, tenant, plan or route (addresses and combinations).
    pub subjects: usize,
    /// Most concurrent streams of one HTTP/2 connection.
    pub h2_streams: u32,
}

/// How a drain goes (SIGTERM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long accepting goes on after readiness fails, for the balancer to notice.
    pub delay: Duration,
    /// How long open exchanges may take after that.
    pub deadline: Duration,
}

/// Settings that only a restart can change; a reload that changes one says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// The admin listener; `None`: `admin: none`.
    pub admin: Option<AdminListener>,
    /// Number of workers; `None`: one a core.
    pub workers: Option<usize>,
    /// Where state lives.
    pub state: StateAt,
}

/// Where the admin listener is, and who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminListener {
    /// Address and port.
    pub address: SocketAddr,
    /// SHA-256 of the token that `/v1` asks for. `None`: there is none, so `/v1` answers on loopback only.
    pub token: Option<SecretDigest>,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// TLS material, PEM text of chain and key. Its *content* may change by a reload; whether there is any may not.
    pub tls: Option<ListenerTls>,
    /// Whether connections start with a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// Certificate chain, PEM.
    pub chain: Arc<[u8]>,
    /// Private key, PEM.
    pub key: Arc<[u8]>,
    /// CA certificates that clients must be vouched for by; `None`: clients need no certificate.
    pub client_ca: Option<Arc<[u8]>>,
}

/// Where state lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateAt {
    /// In memory, forgotten at exit.
    Memory,
    /// In this directory.
    Directory(std::path::PathBuf),
}

/// The access record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRule {
    /// Where records go.
    pub to: RecordSink,
    /// Request headers to record by name; empty unless the policy names them.
    pub headers: Vec<HeaderName>,
}

/// Where access records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordSink {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(std::path::PathBuf),
    /// Nowhere.
    Off,
}

impl Snapshot {
    /// The route at `ix`.
    pub fn route(&self, ix: RouteIx) -> &Route {
        &self.routes[ix.0 as usize]
    }

    /// Largest request body of a route in bytes; `None`: no bound.
    pub fn body_bound(&self, ix: RouteIx) -> Option<u64> {
        self.route(ix).max_body.or(self.bounds.body)
    }

    /// The limit at `ix`.
    pub fn limit(&self, ix: LimitIx) -> &Limit {
        &self.limits[usize::from(ix.0)]
    }

    /// The calendar at `ix`.
    pub fn calendar(&self, ix: CalendarIx) -> &Calendar {
        &self.calendars[usize::from(ix.0)]
    }

    /// The tenant at `ix`.
    pub fn tenant(&self, ix: TenantIx) -> &Tenant {
        &self.tenants[ix.0 as usize]
    }

    /// The plan at `ix`.
    pub fn plan(&self, ix: PlanIx) -> &Plan {
        &self.plans[ix.0 as usize]
    }

    /// The networks at `ix`.
    pub fn nets(&self, ix: NetsIx) -> &Nets {
        &self.nets[ix.0 as usize]
    }

    /// The grant at `ix`.
    pub fn grant(&self, ix: GrantIx) -> &Grant {
        &self.grants[ix.0 as usize]
    }

    /// The ceilings at `ix`.
    pub fn terms(&self, ix: TermsIx) -> &Terms {
        &self.terms[ix.0 as usize]
    }

    /// Tenants by name, for those who ask once (reports and the admin listener), not for requests.
    pub fn tenants_by_name(&self) -> HashMap<&str, TenantIx> {
        (0..).map(TenantIx).zip(&self.tenants).map(|(ix, tenant)| (&*tenant.name, ix)).collect()
    }
}

impl Per {
    /// Whether any fact of a caller (key, tenant, plan) is part of the subject.
    pub fn needs_caller(self) -> bool {
        self.key || self.tenant || self.plan
    }
}
