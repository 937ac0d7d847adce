//! The policy's shapes: every word it knows and the type of its value, nothing else. No defaults, no meaning: those are
//! the compiler's, which takes each shape apart by name, so that a word added here does not compile until somebody
//! decides what it does.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::amount::{Amount, Unit, Zone};
use super::problem::{At, Findings, Span};
use super::read::{FromText, Items, Many, Named, Read, not_yet, shape};
use super::scalar::{
    AnswerWord, ChargeWord, CountsWord, CreditWord, DemandWord, GivenName, IdempotencyWord,
    LimitMode, OnRevokeWord, OnUnknownWord, PerWord, ProtocolWord, RateLimitWord, RuleMode, Size,
    SizeOrNone, SpellingWord, StoreFailureWord, UnlistedWord, WindowWord, XRateLimitWord,
};
use super::tree::{Key, Node, Value};
use crate::policy::money::Money;

shape! {
    /// The whole file.
    Policy, "the policy" {
        "version" => version: At<u64>,
        "listen" => listen: Many<Or<SocketAddr, Listen>>,
        "upstream" => upstream: UpstreamWord,
        "admin" => admin: Or<String, Admin>,
        "state" => state: Or<String, State>,
        "workers" => workers: At<u64>,
        "client_address" => client_address: ClientAddress,
        "credentials" => credentials: Credentials,
        "idempotency" => idempotency: Idempotency,
        "routes" => routes: Items<Route>,
        "limits" => limits: Named<Limit>,
        "auto_revoke" => auto_revoke: Named<AutoRevoke>,
        "plans" => plans: Named<Plan>,
        "tenants" => tenants: Tenants,
        "allow" => allow: Allow,
        "report" => report: Report,
        "identity" => identity: Identity,
        "errors" => errors: Errors,
        "bounds" => bounds: Bounds,
        "drain" => drain: Drain,
        "record" => record: Record,
        "ready" => ready: Ready,
    }
    /// One entry of `listen:` that is more than an address.
    Listen, "a listener" {
        "address" => address: At<SocketAddr>,
        "tls" => tls: ListenTls,
        "proxy_protocol" => proxy_protocol: At<bool>,
    }
    /// `tls:` of a listener.
    ListenTls, "`tls`" {
        "certificate" => certificate: At<String>,
        "key" => key: At<String>,
        "client_ca" => client_ca: At<String>,
    }
    /// `admin:` as a map.
    Admin, "`admin`" { "listen" => listen: At<SocketAddr>, "token" => token: SecretPlace, }
    /// `upstream:` as a map.
    Upstream, "`upstream`" {
        "url" => url: At<String>,
        "host" => host: At<String>,
        "protocol" => protocol: At<ProtocolWord>,
        "ca" => ca: At<String>,
        "client_certificate" => client_certificate: At<String>,
        "client_key" => client_key: At<String>,
        "server_name" => server_name: At<String>,
        "set_headers" => set_headers: Named<Secret>,
        "remove_headers" => remove_headers: Many<At<HeaderName>>,
        "set_query" => set_query: Named<Secret>,
        "remove_query" => remove_query: Many<At<String>>,
        "connect_timeout" => connect_timeout: At<Duration>,
        "response_timeout" => response_timeout: At<Duration>,
        "idle_timeout" => idle_timeout: At<Duration>,
        "pool" => pool: Pool,
    }
    /// `pool:` of the upstream.
    Pool, "`pool`" { "size" => size: At<u64>, "idle" => idle: At<Duration>, }
    /// `state:` as a map: a later release.
    State, "`state`" { "redis" => redis: At<String>, "local" => local: At<String>, }
    /// `client_address:`
    ClientAddress, "`client_address`" {
        "from" => from: Or<String, HeaderPlace>,
        "header" => header: At<HeaderName>,
        "trusted" => trusted: Many<At<IpNet>>,
        "ipv6_prefix" => ipv6_prefix: At<u64>,
    }
    /// `{ header: … }`
    HeaderPlace, "the place" { "header" => header: At<HeaderName>, }
    /// `credentials:`
    Credentials, "`credentials`" {
        "accept" => accept: Many<Or<String, Place>>,
        "prefix" => prefix: Many<At<String>>,
        "keys" => keys: Many<At<String>>,
        "pepper" => pepper: Many<Secret>,
        "realm" => realm: At<String>,
        "new_keys" => new_keys: NewKeys,
    }
    /// One entry of `accept:` that has a name.
    Place, "the place of a credential" {
        "header" => header: At<HeaderName>,
        "query" => query: At<String>,
    }
    /// `new_keys:`
    NewKeys, "`new_keys`" { "scopes" => scopes: Many<At<String>>, "expires" => expires: At<Duration>, }
    /// `idempotency:` of the policy: what routes take where they say nothing, and the bounds of all records.
    Idempotency, "`idempotency`" {
        "keep" => keep: At<Duration>,
        "max_body" => max_body: At<Size>,
        "on_unknown" => on_unknown: At<OnUnknownWord>,
        "release" => release: Many<At<u64>>,
        "records" => records: At<u64>,
        "records_per_tenant" => records_per_tenant: At<u64>,
        "memory" => memory: At<Size>,
    }
    /// `idempotency:` of a route as a map.
    RouteIdempotency, "`idempotency` of a route" {
        "demand" => demand: At<DemandWord>,
        "keep" => keep: At<Duration>,
        "max_body" => max_body: At<Size>,
        "on_unknown" => on_unknown: At<OnUnknownWord>,
        "release" => release: Many<At<u64>>,
    }
    /// `cost:` of a route as a map.
    Cost, "`cost`" { "reserve" => reserve: At<Money>, "actual" => actual: HeaderPlace, }
    /// `answer:` of a route as a map.
    AnswerRule, "`answer`" { "balance" => balance: At<GivenName>, }
    /// One entry of `routes:`
    Route, "a route" {
        "name" => name: At<GivenName>,
        "match" => matches: Many<Match>,
        "scope" => scope: Scope,
        "public" => public: At<bool>,
        "allow" => allow: Allow,
        "tenant" => tenant: TenantPlace,
        "weight" => weight: At<u64>,
        "cost" => cost: Or<Money, Cost>,
        "charge_on" => charge_on: Many<At<ChargeWord>>,
        "idempotency" => idempotency: Or<IdempotencyWord, RouteIdempotency>,
        "max_body" => max_body: At<SizeOrNone>,
        "timeout" => timeout: At<Duration>,
        "on_revoke" => on_revoke: At<OnRevokeWord>,
        "answer" => answer: Or<AnswerWord, AnswerRule>,
    }
    /// `scope:` as a map.
    ScopeRule, "`scope`" {
        "any" => any: Many<At<GivenName>>,
        "all" => all: Many<At<GivenName>>,
        "mode" => mode: At<RuleMode>,
    }
    /// `allow:` as a map.
    AllowRule, "`allow`" { "only" => only: Many<At<IpNet>>, "mode" => mode: At<RuleMode>, }
    /// `tenant:` of a route.
    TenantPlace, "`tenant`" {
        "path" => path: At<String>,
        "query" => query: At<String>,
        "mode" => mode: At<RuleMode>,
    }
    /// One entry of `limits:`
    Limit, "a limit" {
        "rate" => rate: At<Amount>,
        "quota" => quota: At<Amount>,
        "spend" => spend: At<Amount>,
        "credit" => credit: At<CreditWord>,
        "concurrent" => concurrent: At<u64>,
        "window" => window: At<WindowWord>,
        "burst" => burst: At<u64>,
        "per" => per: Many<At<PerWord>>,
        "routes" => routes: Many<At<GivenName>>,
        "counts" => counts: At<CountsWord>,
        "mode" => mode: At<LimitMode>,
        "unit" => unit: At<Unit>,
        "time_zone" => time_zone: At<Zone>,
        "anchor" => anchor: At<u64>,
        "on_store_failure" => on_store_failure: At<StoreFailureWord>,
    }
    /// One entry of `auto_revoke:`
    AutoRevoke, "a rule of `auto_revoke`" {
        "unused" => unused: At<Duration>,
        "refused" => refused: At<Amount>,
        "for" => reasons: Many<At<String>>,
        "mode" => mode: At<LimitMode>,
    }
    /// One entry of `plans:`
    Plan, "a plan" {
        "limits" => limits: Named<Override>,
        "scopes" => scopes: Many<At<GivenName>>,
        "allow" => allow: Allow,
    }
    /// One entry of `tenants:`
    Tenant, "a tenant" {
        "plan" => plan: At<GivenName>,
        "active" => active: At<bool>,
        "allow" => allow: Allow,
        "scopes" => scopes: Many<At<GivenName>>,
        "limits" => limits: Named<Override>,
    }
    /// An override as a map.
    OverrideRule, "an override" {
        "rate" => rate: At<Amount>,
        "quota" => quota: At<Amount>,
        "spend" => spend: At<Amount>,
        "concurrent" => concurrent: At<u64>,
        "burst" => burst: At<u64>,
    }
    /// `report:`
    Report, "`report`" {
        "x-ratelimit" => x_ratelimit: At<XRateLimitWord>,
        "of" => of: At<GivenName>,
        "retry-after" => retry_after: At<bool>,
        "ratelimit" => ratelimit: At<RateLimitWord>,
        "spelling" => spelling: At<SpellingWord>,
    }
    /// `identity:`
    Identity, "`identity`" {
        "tenant" => tenant: At<HeaderName>,
        "key" => key: At<HeaderName>,
        "plan" => plan: At<HeaderName>,
        "scopes" => scopes: At<HeaderName>,
        "address" => address: At<HeaderName>,
        "strip" => strip: Many<At<HeaderName>>,
        "balance" => balance: BalanceHeader,
    }
    /// `balance:` of the identity.
    BalanceHeader, "`balance`" { "header" => header: At<HeaderName>, "of" => of: At<GivenName>, }
    /// `errors:`
    Errors, "`errors`" {
        "content_type" => content_type: At<String>,
        "body" => body: Node,
        "headers" => headers: Named<At<String>>,
        "on" => on: Named<ErrorsOn>,
    }
    /// One entry of `errors: on:`
    ErrorsOn, "an entry of `on`" {
        "status" => status: At<u64>,
        "code" => code: At<String>,
        "message" => message: Template,
        "headers" => headers: Named<At<String>>,
        "content_type" => content_type: At<String>,
        "body" => body: Node,
    }
    /// `bounds:`
    Bounds, "`bounds`" {
        "head" => head: At<Size>,
        "fields" => fields: At<u64>,
        "target" => target: At<Size>,
        "body" => body: At<SizeOrNone>,
        "head_timeout" => head_timeout: At<Duration>,
        "handshake_timeout" => handshake_timeout: At<Duration>,
        "body_idle" => body_idle: At<Duration>,
        "keep_alive" => keep_alive: At<Duration>,
        "connections" => connections: At<u64>,
        "in_flight" => in_flight: At<u64>,
        "subjects" => subjects: At<u64>,
        "h2_streams" => h2_streams: At<u64>,
    }
    /// `drain:`
    Drain, "`drain`" { "delay" => delay: At<Duration>, "deadline" => deadline: At<Duration>, }
    /// `record:`
    Record, "`record`" { "to" => to: At<String>, "headers" => headers: Many<At<HeaderName>>, }
    /// `ready:`
    Ready, "`ready`" { "upstream" => upstream: At<bool>, "store" => store: At<bool>, }
    /// One entry of a YAML key file.
    KeyEntry, "a key" {
        "id" => id: At<GivenName>,
        "tenant" => tenant: At<GivenName>,
        "digest" => digest: KeyDigest,
        "digests" => digests: Items<KeyDigest>,
        "last4" => last4: At<String>,
        "label" => label: At<String>,
        "scopes" => scopes: Many<At<GivenName>>,
        "plan" => plan: At<GivenName>,
        "not_before" => not_before: At<String>,
        "expires" => expires: At<String>,
        "allow" => allow: Many<At<IpNet>>,
        "limits" => limits: Named<Override>,
        "revoked" => revoked: Or<bool, Revoked>,
        "created" => created: At<String>,
    }
    /// A digest of a secret.
    KeyDigest, "a digest" {
        "sha256" => sha256: At<String>,
        "hmac" => hmac: At<String>,
        "until" => until: At<String>,
    }
    /// `revoked:` of a key.
    Revoked, "`revoked`" { "at" => when: At<String>, "why" => why: At<String>, }
    /// `{ env: … }` or `{ file: … }`
    SecretPlace, "a secret" { "env" => env: At<String>, "file" => file: At<String>, }
}

/// A single value, or a map that says more.
#[derive(Clone, Debug)]
pub(super) enum Or<T, S> {
    /// The value alone.
    One(At<T>),
    /// The map.
    Map(S),
}

impl<T: FromText, S: Read> Read for Or<T, S> {
    fn read(node: &Node, findings: &mut Findings) -> Option<Or<T, S>> {
        match &node.value {
            Value::Map(_) => S::read(node, findings).map(Or::Map),
            Value::Scalar(_) | Value::Null | Value::List(_) => {
                At::read(node, findings).map(Or::One)
            }
        }
    }
}

/// An override's value.
pub(super) type Override = Or<Amount, OverrideRule>;
/// A text written down, or where to find it.
pub(super) type Secret = Or<String, SecretPlace>;

/// `upstream:`, a URL standing for `{ url: … }`.
#[derive(Clone, Debug)]
pub(super) struct UpstreamWord(pub(super) Upstream);

impl Read for UpstreamWord {
    fn read(node: &Node, findings: &mut Findings) -> Option<UpstreamWord> {
        match &node.value {
            Value::List(_) => {
                findings.error_with(
                    node.at,
                    not_yet("several upstreams"),
                    "name one; a balancer's address will do".to_owned(),
                );
                Some(UpstreamWord(Upstream::absent(node.at)))
            }
            Value::Map(_) => Upstream::read(node, findings).map(UpstreamWord),
            Value::Scalar(_) | Value::Null => {
                let url = At::read(node, findings);
                Some(UpstreamWord(Upstream { url, ..Upstream::absent(node.at) }))
            }
        }
    }
}

/// `scope:`, a name standing for `{ all: [name] }`.
#[derive(Clone, Debug)]
pub(super) struct Scope(pub(super) ScopeRule);

impl Read for Scope {
    fn read(node: &Node, findings: &mut Findings) -> Option<Scope> {
        match &node.value {
            Value::List(_) => {
                findings.error_with(
                    node.at,
                    "a list of scopes could mean any or all of them",
                    "write { any: […] } or { all: […] }".to_owned(),
                );
                None
            }
            Value::Map(_) => ScopeRule::read(node, findings).map(Scope),
            Value::Scalar(_) | Value::Null => Many::read(node, findings)
                .map(|all| Scope(ScopeRule { all: Some(all), ..ScopeRule::absent(node.at) })),
        }
    }
}

/// `allow:`, a list standing for `{ only: […] }`.
#[derive(Clone, Debug)]
pub(super) struct Allow(pub(super) AllowRule);

impl Read for Allow {
    fn read(node: &Node, findings: &mut Findings) -> Option<Allow> {
        match &node.value {
            Value::Map(_) => AllowRule::read(node, findings).map(Allow),
            Value::List(_) | Value::Scalar(_) | Value::Null => Many::read(node, findings)
                .map(|only| Allow(AllowRule { only: Some(only), ..AllowRule::absent(node.at) })),
        }
    }
}

/// One `METHOD /path`.
#[derive(Clone, Debug)]
pub(super) struct Match(pub(super) At<String>);

impl Read for Match {
    fn read(node: &Node, findings: &mut Findings) -> Option<Match> {
        match &node.value {
            Value::Map(_) => {
                findings.error_with(
                    node.at,
                    "expected a method and a path such as GET /lookup/{id}, found a map",
                    "put the whole in quotes: \"GET /lookup/{id}\"".to_owned(),
                );
                None
            }
            Value::Scalar(_) | Value::Null | Value::List(_) => At::read(node, findings).map(Match),
        }
    }
}

/// A text that may hold placeholders.
#[derive(Clone, Debug)]
pub(super) struct Template(pub(super) At<String>);

impl Read for Template {
    fn read(node: &Node, findings: &mut Findings) -> Option<Template> {
        if let Some(name) = bare_placeholder(node) {
            tell_bare_placeholder(name, node.at, findings);
            return None;
        }
        At::read(node, findings).map(Template)
    }
}

/// The `{name}` that YAML took for a map with one key and no value.
pub(super) fn bare_placeholder(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Map(entries) => match entries.as_slice() {
            [(key, Node { value: Value::Null, .. })] => Some(&key.text),
            _ => None,
        },
        Value::Null | Value::Scalar(_) | Value::List(_) => None,
    }
}

pub(super) fn tell_bare_placeholder(name: &str, at: Span, findings: &mut Findings) {
    findings.error_with(at, "YAML takes `{…}` for a map", format!("quote it: \"{{{name}}}\""));
}

/// `tenants:`, or the word `closed`.
#[derive(Clone, Debug)]
pub(super) struct Tenants {
    pub(super) unlisted: Option<At<UnlistedWord>>,
    pub(super) listed: Vec<(Key, Tenant)>,
}

impl Tenants {
    /// The word inside `tenants:` that is no tenant's name.
    pub(super) const UNLISTED: &'static str = "unlisted";
}

impl Read for Tenants {
    fn read(node: &Node, findings: &mut Findings) -> Option<Tenants> {
        let mut tenants = Tenants { unlisted: None, listed: Vec::new() };
        match &node.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    if key.text == Tenants::UNLISTED {
                        tenants.unlisted = At::read(value, findings);
                    } else if let Some(tenant) = Tenant::read(value, findings) {
                        tenants.listed.push((key.clone(), tenant));
                    }
                }
            }
            Value::Null => {}
            Value::Scalar(_) | Value::List(_) => tenants.unlisted = Some(At::read(node, findings)?),
        }
        Some(tenants)
    }
}
