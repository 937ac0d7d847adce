//! Step 9's heads: what leaves towards the backend and what comes back. The only writer of forwarding headers; nobody
//! else touches those names.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{Method, Version, request, response};
use smallvec::SmallVec;

use crate::policy::address::X_FORWARDED_FOR;
use crate::policy::authorize::Permit;
use crate::policy::credential::Place;
use crate::policy::head::form_decoded;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::{
    Access, Grant, HostRule, Scheme, Snapshot, Upstream, UpstreamProtocol,
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
    /// Whether the peer is a proxy whose word is taken.
    pub(super) peer_is_trusted: bool,
    /// Whether the client spoke TLS to us.
    pub(super) over_tls: bool,
    /// This gate's pseudonym in `Via`.
    pub(super) pseudonym: &'a str,
    /// The id of this request.
    pub(super) request_id: &'a HeaderValue,
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
    refuse_loop(&head.headers, passage.pseudonym)?;
    let wish = wish(head, upstream);
    let upgrade = head.headers.get(header::UPGRADE).filter(|_| wish == Wish::Upgrade).cloned();
    let trailers = accepts_trailers(&head.headers);
    let said_proto = said_proto(head, passage);
    let host = asked_host(head);

    strip_hop_by_hop(&mut head.headers);
    strip_forbidden(&mut head.headers, passage);
    // The gate answers the expectation itself: hyper sends the 100 when the body is first asked for.
    head.headers.remove(header::EXPECT);
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }

    let headers = &mut head.headers;
    add_via(headers, head.version, passage.pseudonym);
    set_forwarded(headers, passage, said_proto, host.as_ref());
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
    let sent_host = match &upstream.host_header {
        HostRule::Keep => host,
        HostRule::Set(value) => Some(value.clone()),
    };
    match upstream.protocol {
        UpstreamProtocol::Http1 => {
            if let Some(protocol) = upgrade {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, protocol);
            } else if trailers {
                headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
            let sent_host = sent_host.unwrap_or_else(|| own_host(upstream));
            headers.insert(header::HOST, sent_host);
            head.version = Version::HTTP_11;
            head.uri = target(&head.uri, policy)?.into();
        }
        UpstreamProtocol::Http2 => {
            headers.remove(header::HOST);
            head.version = Version::HTTP_2;
            let authority = sent_host.unwrap_or_else(|| own_host(upstream));
            head.uri = absolute(target(&head.uri, policy)?, upstream, &authority)?;
        }
    }
    Ok(wish)
}

/// Takes from the backend's head what belongs to its connection alone. A 101 keeps what it switches with.
pub(super) fn response_head(head: &mut response::Parts) {
    let upgrade = head.headers.get(header::UPGRADE).filter(|_| head.status == 101).cloned();
    strip_hop_by_hop(&mut head.headers);
    if let Some(protocol) = upgrade {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol);
    }
}

/// RFC 9110 §7.6.3: a gate that meets its own pseudonym would forward for ever.
fn refuse_loop(headers: &HeaderMap, pseudonym: &str) -> Result<(), Refused> {
    let own = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.contains(pseudonym));
    match headers.get_all(header::VIA).iter().any(own) {
        true => {
            Err(Refused::because(Refusal::UpstreamBroken, "the upstream leads back to this gate"))
        }
        false => Ok(()),
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

fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TE) && lists(headers, &header::TE, "trailers")
}

/// Removes the fields of one connection (RFC 9110 §7.6.1) in one pass over the names; nearly every head has none but
/// `connection`, if that.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let is_hop = |name: &HeaderName| match name.as_str().len() {
        2 => name == header::TE,
        7 => name == header::UPGRADE,
        10 => matches!(name.as_str(), "connection" | "keep-alive"),
        14 => name.as_str() == "http2-settings",
        16 => name.as_str() == "proxy-connection",
        17 => name == header::TRANSFER_ENCODING,
        19 => name == header::PROXY_AUTHORIZATION,
        _ => false,
    };
    let mut gone: SmallVec<[HeaderName; 8]> =
        headers.keys().filter(|name| is_hop(name)).cloned().collect();
    if gone.is_empty() {
        return;
    }
    for line in headers.get_all(header::CONNECTION) {
        let names = line.as_bytes().split(|byte| *byte == b',');
        gone.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
    }
    for name in gone {
        headers.remove(name);
    }
}

fn strip_forbidden(headers: &mut HeaderMap, passage: &Passage<'_>) {
    let forbidden = &passage.policy.identity.forbidden;
    let gone: SmallVec<[HeaderName; 8]> =
        headers.keys().filter(|name| forbidden.forbids(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    // A public route's `Authorization` is between the client and the backend: the gate did not read it.
    if passage.policy.route(passage.permit.route).access == Access::Public {
        return;
    }
    let credentials = &passage.policy.credentials;
    if credentials.reads_authorization() {
        headers.remove(header::AUTHORIZATION);
    }
    for place in &credentials.places {
        if let Place::Header(name) = place {
            headers.remove(name);
        }
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

/// RFC 9110 §7.6.3: the protocol as received, and a pseudonym for the host.
fn add_via(headers: &mut HeaderMap, received: Version, pseudonym: &str) {
    let version = match received {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    if let Ok(via) = HeaderValue::try_from(format!("{version} {pseudonym}")) {
        headers.append(header::VIA, via);
    }
}

/// The scheme that the client used, as far as we can know it: a trusted proxy before us may have ended its TLS.
fn said_proto(head: &request::Parts, passage: &Passage<'_>) -> &'static str {
    let said = head.headers.get(&X_FORWARDED_PROTO).filter(|_| passage.peer_is_trusted);
    match said.map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ if passage.over_tls => "https",
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
    let mut text = String::with_capacity(64);
    // Writing to a String cannot fail.
    let _ = write!(text, "{}", passage.client);
    if let Ok(address) = HeaderValue::from_str(&text) {
        if let Some(name) = &passage.policy.identity.address {
            headers.insert(name, address.clone());
        }
        headers.insert(&X_FORWARDED_FOR, address);
    }
    text.clear();
    let _ = match passage.client {
        IpAddr::V4(v4) => write!(text, "for={v4};proto={proto}"),
        IpAddr::V6(v6) => write!(text, "for=\"[{v6}]\";proto={proto}"),
    };
    if let Ok(forwarded) = HeaderValue::from_str(&text) {
        headers.insert(header::FORWARDED, forwarded);
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

/// The path and query that the backend is asked for. The path is the one that was matched, byte for byte.
fn target(uri: &Uri, policy: &Snapshot) -> Result<PathAndQuery, Refused> {
    let upstream = &*policy.upstream;
    let query_credential =
        policy.credentials.places.iter().any(|place| matches!(place, Place::Query(_)));
    let given = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let changes = !upstream.base_path.is_empty()
        || !upstream.remove_query.is_empty()
        || !upstream.set_query.is_empty()
        || (query_credential && uri.query().is_some());
    if !changes {
        return Ok(given);
    }
    let mut text = format!("{}{}", upstream.base_path, given.path());
    let kept = uri
        .query()
        .unwrap_or("")
        .split('&')
        .filter(|pair| !pair.is_empty() && may_stay(pair, policy));
    let mut separator = '?';
    for pair in kept.chain(upstream.set_query.iter().map(|pair| &**pair)) {
        text.push(separator);
        text.push_str(pair);
        separator = '&';
    }
    PathAndQuery::try_from(text)
        .map_err(|_| Refused::because(Refusal::BadRequest, "a target that cannot be forwarded"))
}

/// Whether the client's parameter may reach the backend. Names are compared decoded, without case and without what no
/// name has in it, because it is not known how the backend compares them.
fn may_stay(pair: &str, policy: &Snapshot) -> bool {
    let (name, _) = pair.split_once('=').unwrap_or((pair, ""));
    let decoded = form_decoded(name);
    let bare: Vec<u8> = decoded.iter().copied().filter(u8::is_ascii_graphic).collect();
    let removed =
        policy.upstream.remove_query.iter().any(|gone| bare.eq_ignore_ascii_case(gone.as_bytes()));
    let credential = policy.credentials.places.iter().any(
        |place| matches!(place, Place::Query(place) if decoded.eq_ignore_ascii_case(place.as_bytes())),
    );
    !removed && !credential
}

fn absolute(
    target: PathAndQuery,
    upstream: &Upstream,
    authority: &HeaderValue,
) -> Result<Uri, Refused> {
    let scheme = match upstream.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let refused = || Refused::because(Refusal::BadRequest, "an authority that cannot be forwarded");
    let authority = Authority::try_from(authority.as_bytes()).map_err(|_| refused())?;
    Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|_| refused())
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
