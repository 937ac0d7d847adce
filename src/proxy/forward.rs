//! Step 9's heads: what leaves towards the backend and what comes back. The only writer of forwarding headers; nobody
//! else touches those names.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version, request, response};
use smallvec::SmallVec;

use super::peer::Peer;
use super::target::{absolute, target};
use crate::policy::address::{X_FORWARDED_FOR, write_address};
use crate::policy::authorize::Permit;
use crate::policy::credential::Place;
use crate::policy::money::Money;
use crate::policy::order::Reading;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::{
    Access, BalanceHeader, Grant, HostRule, Scheme, Snapshot, Upstream, UpstreamProtocol,
};

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Returned to the client and recorded, so that one word finds a request on both sides.
pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is said of a request besides its head.
pub(super) struct Passage<'a> {
    /// The policy that admitted it.
    pub(super) policy: &'a Snapshot,
    /// The right to forward it.
    pub(super) permit: &'a Permit,
    /// The decided address.
    pub(super) client: IpAddr,
    /// The connection it came by.
    pub(super) peer: &'a Peer,
    /// What this gate is called in `Via`.
    pub(super) pseudonym: &'a Pseudonym,
    /// The id of this request.
    pub(super) request_id: &'a HeaderValue,
    /// What its limits said.
    pub(super) readings: &'a [Reading],
}

/// This run's name in `Via` (RFC 9110 §7.6.3), rendered for every protocol that a request can come by.
#[derive(Debug)]
pub(super) struct Pseudonym {
    name: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Pseudonym {
    /// The pseudonym with this run's id in it, so that the gate knows itself from other gates in a chain.
    pub(super) fn new(boot: &dyn std::fmt::Display) -> Pseudonym {
        let name = format!("tollgate-{boot}");
        let via = |version: &str| {
            let text = format!("{version} {name}");
            HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1.1 tollgate"))
        };
        Pseudonym { http10: via("1.0"), http11: via("1.1"), http2: via("2"), name }
    }

    fn via(&self, received: Version) -> HeaderValue {
        match received {
            Version::HTTP_2 => self.http2.clone(),
            Version::HTTP_10 => self.http10.clone(),
            _ => self.http11.clone(),
        }
    }
}

/// What is said of a connection's client, rendered once: nearly always all requests of a connection are of one client.
#[derive(Debug)]
pub(crate) struct Said {
    client: IpAddr,
    proto: &'static str,
    address: HeaderValue,
    forwarded: HeaderValue,
}

impl Said {
    fn of(client: IpAddr, proto: &'static str) -> Said {
        let mut address = Vec::with_capacity(40);
        write_address(&mut address, client);
        let mut forwarded = Vec::with_capacity(64);
        forwarded.extend_from_slice(if client.is_ipv4() { b"for=" } else { b"for=\"[" });
        forwarded.extend_from_slice(&address);
        forwarded.extend_from_slice(if client.is_ipv4() { b"" } else { b"]\"" });
        forwarded.extend_from_slice(b";proto=");
        forwarded.extend_from_slice(proto.as_bytes());
        let value = |text: Vec<u8>| HeaderValue::from_maybe_shared(Bytes::from(text));
        // Digits, dots, colons and our own words make a header value.
        let unknown = HeaderValue::from_static("unknown");
        Said {
            client,
            proto,
            address: value(address).unwrap_or(unknown.clone()),
            forwarded: value(forwarded).unwrap_or(unknown),
        }
    }
}

/// Whether the client asks to leave HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It does not.
    Http,
    /// `Connection: upgrade` with `Upgrade`: a tunnel, if the backend answers 101.
    Upgrade,
}

/// Turns the client's head into the backend's: takes away what a client may not say, then adds what the gate says. In
/// that order, or a client could nominate our own fields away (RFC 9110 §7.6.1).
pub(super) fn request_head(
    head: &mut request::Parts,
    passage: &Passage<'_>,
) -> Result<Wish, Refused> {
    let policy = passage.policy;
    let upstream = &*policy.upstream;
    let found = Found::in_request(&head.headers, passage);
    if found.via {
        refuse_loop(&head.headers, &passage.pseudonym.name)?;
    }
    let wish = if found.upgrade { wish(head, upstream) } else { Wish::Http };
    let upgrade = head.headers.get(header::UPGRADE).filter(|_| wish == Wish::Upgrade).cloned();
    let trailers = found.te && lists(&head.headers, &header::TE, "trailers");
    let proto = said_proto(head, passage, found.proto);
    let host = asked_host(head);

    if found.connection {
        strip_nominated(&mut head.headers);
    }
    for name in &found.gone {
        head.headers.remove(name);
    }
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }

    let headers = &mut head.headers;
    // One growth for everything that follows.
    headers.reserve(ADDED);
    headers.append(header::VIA, passage.pseudonym.via(head.version));
    set_forwarded(headers, passage, proto, host.as_ref());
    headers.insert(&X_REQUEST_ID, passage.request_id.clone());
    set_identity(headers, passage);
    for name in &upstream.remove_headers {
        headers.remove(name);
    }
    for (name, value) in &upstream.set_headers {
        headers.insert(name, value.clone());
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    match upstream.protocol {
        UpstreamProtocol::Http1 => {
            if let Some(protocol) = upgrade {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, protocol);
            } else if trailers {
                headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
            match (&upstream.host_header, head.uri.authority(), host) {
                // What the client sent stays where it is.
                (HostRule::Keep, None, Some(_)) => {}
                (HostRule::Keep, _, host) => {
                    headers.insert(header::HOST, host.unwrap_or_else(|| own_host(upstream)));
                }
                (HostRule::Set(value), ..) => {
                    headers.insert(header::HOST, value.clone());
                }
            }
            head.version = Version::HTTP_11;
            head.uri = target(&head.uri, policy)?.into();
        }
        UpstreamProtocol::Http2 => {
            headers.remove(header::HOST);
            head.version = Version::HTTP_2;
            let authority = match &upstream.host_header {
                HostRule::Keep => host.unwrap_or_else(|| own_host(upstream)),
                HostRule::Set(value) => value.clone(),
            };
            head.uri = absolute(target(&head.uri, policy)?, upstream, &authority)?;
        }
    }
    Ok(wish)
}

/// The most fields that a gate adds to a request, as a reservation: more only makes the map grow once more.
const ADDED: usize = 9;

/// What one look at each name of a head finds, so that the fields nearly no head has cost no look-up of their own.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of five named facts, made and read in this file"
)]
struct Found {
    connection: bool,
    upgrade: bool,
    te: bool,
    via: bool,
    proto: bool,
    /// What does not go further.
    gone: SmallVec<[HeaderName; 8]>,
}

impl Found {
    fn in_request(headers: &HeaderMap, passage: &Passage<'_>) -> Found {
        let policy = passage.policy;
        // A public route's `Authorization` is between the client and the backend: the gate did not read it.
        let keyed = policy.route(passage.permit.route).access == Access::Keyed;
        let authorization = keyed && policy.credentials.reads_authorization();
        // A header of the gate's own is its own on every route: clients send their key everywhere.
        let places = &policy.credentials.places;
        let credential = |name: &HeaderName| {
            places.iter().any(|place| matches!(place, Place::Header(own) if own == name))
        };
        let mut found = Found::default();
        for name in headers.keys() {
            let gone = match name.as_str() {
                "connection" => {
                    found.connection = true;
                    true
                }
                "upgrade" => {
                    found.upgrade = true;
                    true
                }
                "te" => {
                    found.te = true;
                    true
                }
                "via" => {
                    found.via = true;
                    false
                }
                "x-forwarded-proto" => {
                    found.proto = true;
                    true
                }
                "authorization" => authorization,
                // The gate answers the expectation itself: hyper sends the 100 when the body is first asked for.
                "expect"
                | "keep-alive"
                | "proxy-connection"
                | "transfer-encoding"
                | "proxy-authorization"
                | "http2-settings" => true,
                _ => policy.identity.forbidden.forbids(name) || credential(name),
            };
            if gone {
                found.gone.push(name.clone());
            }
        }
        found
    }
}

/// Takes from a request's trailers what its head may not say either (RFC 9110 §6.5.1).
pub(super) fn request_trailers(trailers: &mut HeaderMap, policy: &Snapshot) {
    let gone: SmallVec<[HeaderName; 4]> = trailers
        .keys()
        .filter(|name| {
            policy.identity.forbidden.forbids(name)
                || policy.upstream.remove_headers.contains(name)
                || *name == header::AUTHORIZATION
                || policy
                    .credentials
                    .places
                    .iter()
                    .any(|place| matches!(place, Place::Header(own) if own == *name))
        })
        .cloned()
        .collect();
    for name in gone {
        trailers.remove(name);
    }
}

/// Takes from the backend's head what belongs to its connection alone. A 101 keeps what it switches with.
pub(super) fn response_head(head: &mut response::Parts) {
    let is_hop = |name: &&HeaderName| {
        matches!(
            name.as_str(),
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "te"
                | "transfer-encoding"
                | "upgrade"
        )
    };
    let gone: SmallVec<[HeaderName; 4]> = head.headers.keys().filter(is_hop).cloned().collect();
    if gone.is_empty() {
        return;
    }
    let upgrade = head.headers.get(header::UPGRADE).filter(|_| head.status == 101).cloned();
    strip_nominated(&mut head.headers);
    for name in gone {
        head.headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol);
    }
}

/// RFC 9110 §7.6.3: a gate that meets its own pseudonym would forward for ever.
fn refuse_loop(headers: &HeaderMap, pseudonym: &str) -> Result<(), Refused> {
    let own = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.contains(pseudonym));
    if headers.get_all(header::VIA).iter().any(own) {
        Err(Refused::because(Refusal::UpstreamBroken, "the upstream leads back to this gate"))
    } else {
        Ok(())
    }
}

/// RFC 9110 §7.8: only with both fields, only in HTTP/1.1, never to h2c, which would be HTTP past the policy.
fn wish(head: &request::Parts, upstream: &Upstream) -> Wish {
    let asked = head.version == Version::HTTP_11
        && upstream.protocol == UpstreamProtocol::Http1
        && lists(&head.headers, &header::CONNECTION, "upgrade")
        && head.headers.get(header::UPGRADE).is_some_and(|to| {
            to.to_str()
                .is_ok_and(|to| !to.split(',').any(|one| one.trim().eq_ignore_ascii_case("h2c")))
        });
    if asked { Wish::Upgrade } else { Wish::Http }
}

fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|line| {
        line.to_str()
            .is_ok_and(|line| line.split(',').any(|one| one.trim().eq_ignore_ascii_case(word)))
    })
}

/// Removes what `Connection` names (RFC 9110 §7.6.1), before anything of ours is added.
fn strip_nominated(headers: &mut HeaderMap) {
    let mut nominated: SmallVec<[HeaderName; 4]> = SmallVec::new();
    for line in headers.get_all(header::CONNECTION) {
        let names = line.as_bytes().split(|byte| *byte == b',');
        nominated.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
    }
    for name in nominated {
        headers.remove(name);
    }
}

/// RFC 9113 §8.2.3: HTTP/1.1 backends expect one `Cookie`.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// The scheme that the client used, as far as we can know it: a trusted proxy before us may have ended its TLS.
fn said_proto(head: &request::Parts, passage: &Passage<'_>, sent: bool) -> &'static str {
    let trusted = || passage.policy.client_address.trusts_fields(passage.peer.address());
    let said = head.headers.get(&X_FORWARDED_PROTO).filter(|_| sent && trusted());
    match said.map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ if passage.peer.tls.is_some() => "https",
        _ => "http",
    }
}

/// Rebuilds `Forwarded` (RFC 7239) and the `X-Forwarded-` fields from what the gate itself decided.
fn set_forwarded(
    headers: &mut HeaderMap,
    passage: &Passage<'_>,
    proto: &'static str,
    host: Option<&HeaderValue>,
) {
    let mut said = passage.peer.said.borrow_mut();
    let same = |said: &Said| said.client == passage.client && said.proto == proto;
    if !said.as_ref().is_some_and(same) {
        *said = Some(Said::of(passage.client, proto));
    }
    if let Some(said) = &*said {
        if let Some(name) = &passage.policy.identity.address {
            headers.insert(name, said.address.clone());
        }
        headers.insert(&X_FORWARDED_FOR, said.address.clone());
        headers.insert(header::FORWARDED, said.forwarded.clone());
    }
    headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(host) = host {
        headers.insert(&X_FORWARDED_HOST, host.clone());
    }
}

fn set_identity(headers: &mut HeaderMap, passage: &Passage<'_>) {
    let Some(caller) = passage.permit.caller else { return };
    let (policy, identity) = (passage.policy, &passage.policy.identity);
    let mut set = |name: &Option<HeaderName>, value: &str| {
        // The loader refuses names that are no header value.
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    };
    set(&identity.tenant, &policy.tenant(caller.tenant).name);
    set(&identity.key, &policy.keys.at(caller.key).id);
    set(&identity.plan, &policy.plan(caller.plan).name);
    if identity.scopes.is_some() {
        let scopes = match policy.grant(caller.grant) {
            Grant::All => Cow::Borrowed("*"),
            Grant::Only(held) => {
                let names: Vec<&str> =
                    held.iter().map(|ix| &*policy.scopes[ix.0 as usize]).collect();
                Cow::Owned(names.join(" "))
            }
        };
        set(&identity.scopes, &scopes);
    }
    if let Some(BalanceHeader { name, of }) = &identity.balance
        && let Some(reading) = passage.readings.iter().find(|reading| reading.limit == *of)
        && let Ok(value) =
            HeaderValue::from_maybe_shared(Bytes::from(Money(reading.remaining).to_string()))
    {
        headers.insert(name, value);
    }
}

/// The host the client asked for: the target's authority if it has one (RFC 9112 §3.2.2, RFC 9113 §8.3.1), else `Host`.
fn asked_host(head: &request::Parts) -> Option<HeaderValue> {
    match head.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => head.headers.get(header::HOST).cloned(),
    }
}

fn own_host(upstream: &Upstream) -> HeaderValue {
    let host = if upstream.host.contains(':') {
        format!("[{}]", upstream.host)
    } else {
        upstream.host.to_string()
    };
    let default_port = match upstream.scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let text =
        if upstream.port == default_port { host } else { format!("{host}:{}", upstream.port) };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("upstream"))
}

/// RFC 9110 §7.6.2: what an `OPTIONS` with `Max-Forwards` becomes at this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hops {
    /// It goes on, with one less if it counted.
    Further,
    /// It ends here.
    EndHere,
}

/// Counts one hop of an `OPTIONS`; other methods may ignore the field, and do.
pub(super) fn count_hop(method: &Method, headers: &mut HeaderMap) -> Hops {
    let left = headers
        .get(header::MAX_FORWARDS)
        .filter(|_| method == Method::OPTIONS)
        .and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    match left {
        Some(0) => Hops::EndHere,
        Some(left) => {
            headers.insert(header::MAX_FORWARDS, HeaderValue::from(left - 1));
            Hops::Further
        }
        None => Hops::Further,
    }
}
