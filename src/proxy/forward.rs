//! Step 9's heads: what leaves towards the backend and what comes back. The only writer of forwarding headers; nobody
//! else touches those names.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version, request};
use smallvec::SmallVec;

use super::http1::{self, BadLength, RequestHead, Text};
use super::peer::Peer;
use super::said::{Pseudonym, Said};
use super::target::{absolute, target};
use crate::policy::address::X_FORWARDED_FOR;
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

/// Whether the client asks to leave HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It does not.
    Http,
    /// `Connection: upgrade` with `Upgrade`: a tunnel, if the backend answers 101.
    Upgrade,
}

/// Where a head for the backend goes, field by field.
trait Fields {
    /// One more field.
    fn say(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), BadLength>;

    /// One more field of the gate's own words. A text that is no field value is not said: the loader refuses such names.
    fn say_text(&mut self, name: &HeaderName, text: &str);
}

impl Fields for RequestHead {
    fn say(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), BadLength> {
        self.field(name, value)
    }

    fn say_text(&mut self, name: &HeaderName, text: &str) {
        self.text(name, text);
    }
}

impl Fields for HeaderMap {
    fn say(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), BadLength> {
        self.append(name, value.clone());
        Ok(())
    }

    fn say_text(&mut self, name: &HeaderName, text: &str) {
        if let Ok(value) = HeaderValue::from_str(text) {
            self.append(name, value);
        }
    }
}

/// The head for an HTTP/1 backend, written into `text`.
pub(super) fn http1_head(
    head: &request::Parts,
    passage: &Passage<'_>,
    text: Text,
) -> Result<(RequestHead, Wish), Refused> {
    let upstream = &*passage.policy.upstream;
    let target = target(&head.uri, passage.policy)?;
    let mut written = RequestHead::begin(text, &head.method, &target);
    let asked = asked_host(head);
    // RFC 9110 §7.2: first, where it can be.
    match (&upstream.host_header, &asked) {
        (HostRule::Set(value), _) | (HostRule::Keep, Some(value)) => {
            written.say(&header::HOST, value)
        }
        (HostRule::Keep, None) => written.say(&header::HOST, &own_host(upstream)),
    }
    .map_err(no_length)?;
    let spoken = client_fields(head, passage, &mut written)?;
    gate_fields(head, passage, &spoken, asked.as_ref(), &mut written).map_err(no_length)?;
    let wish = wish(head, upstream, &spoken);
    match (wish, spoken.upgrade) {
        (Wish::Upgrade, Some(protocol)) => {
            written.text(&header::CONNECTION, "upgrade");
            written.say(&header::UPGRADE, protocol).map_err(no_length)?;
        }
        _ if spoken.trailers => written.text(&header::CONNECTION, "te"),
        _ => {}
    }
    Ok((written, wish))
}

/// Turns the client's head into one for an HTTP/2 backend. From there nothing leaves HTTP.
pub(super) fn http2_head(head: &mut request::Parts, passage: &Passage<'_>) -> Result<(), Refused> {
    let upstream = &*passage.policy.upstream;
    let asked = asked_host(head);
    let mut fields = HeaderMap::with_capacity(head.headers.len() + ADDED);
    let spoken = client_fields(head, passage, &mut fields)?;
    gate_fields(head, passage, &spoken, asked.as_ref(), &mut fields).map_err(no_length)?;
    let authority = match &upstream.host_header {
        HostRule::Keep => asked.unwrap_or_else(|| own_host(upstream)),
        HostRule::Set(value) => value.clone(),
    };
    let target = target(&head.uri, passage.policy)?.into_owned();
    head.uri = absolute(target, upstream, &authority)?;
    head.version = Version::HTTP_2;
    head.headers = fields;
    Ok(())
}

fn no_length(_: BadLength) -> Refused {
    Refused::because(Refusal::BadRequest, "a Content-Length that is no number")
}

/// The most fields that a gate adds to a request, as a reservation: more only makes the map grow once more.
const ADDED: usize = 9;

/// What the client's fields say to the gate itself.
#[derive(Default)]
struct Spoken<'a> {
    /// `TE: trailers`.
    trailers: bool,
    upgrade: Option<&'a HeaderValue>,
    proto: Option<&'a HeaderValue>,
}

/// Says those of the client's fields that go further, and hears what the others say. Comes before anything of ours is
/// added, or a client could nominate our own fields away (RFC 9110 §7.6.1).
fn client_fields<'a>(
    head: &'a request::Parts,
    passage: &Passage<'_>,
    to: &mut impl Fields,
) -> Result<Spoken<'a>, Refused> {
    let policy = passage.policy;
    // A public route's `Authorization` is between the client and the backend: the gate did not read it.
    let keyed = policy.route(passage.permit.route).access == Access::Keyed;
    let authorization = keyed && policy.credentials.reads_authorization();
    let nominated = if head.headers.contains_key(header::CONNECTION) {
        nominated(&head.headers)
    } else {
        SmallVec::new()
    };
    let goes_on = |name: &HeaderName| {
        !policy.identity.forbidden.forbids(name)
            // A header of the gate's own is its own on every route: clients send their key everywhere.
            && !is_credential(name, policy)
            && !policy.upstream.remove_headers.contains(name)
            && !nominated.contains(name)
    };
    let join = head.version == Version::HTTP_2;
    let mut spoken = Spoken::default();
    for (name, value) in &head.headers {
        match name.as_str() {
            "upgrade" => {
                spoken.upgrade.get_or_insert(value);
            }
            "te" => spoken.trailers |= lists(value, "trailers"),
            "x-forwarded-proto" => {
                spoken.proto.get_or_insert(value);
            }
            // Of the first two the gate speaks itself. It answers the expectation too: hyper sends the 100 when the
            // body is first asked for.
            "host"
            | "x-request-id"
            | "expect"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "proxy-authorization"
            | "http2-settings" => {}
            "authorization" if authorization => {}
            "cookie" if join => {}
            "via" => {
                refuse_loop(value, &passage.pseudonym.name)?;
                if goes_on(name) {
                    to.say(name, value).map_err(no_length)?;
                }
            }
            _ if goes_on(name) => to.say(name, value).map_err(no_length)?,
            _ => {}
        }
    }
    if join
        && goes_on(&header::COOKIE)
        && let Some(cookie) = joined_cookies(&head.headers)
    {
        to.say(&header::COOKIE, &cookie).map_err(no_length)?;
    }
    Ok(spoken)
}

/// Says what the gate says, whatever the client said: the policy's own words last, in place of all others.
fn gate_fields(
    head: &request::Parts,
    passage: &Passage<'_>,
    spoken: &Spoken<'_>,
    host: Option<&HeaderValue>,
    to: &mut impl Fields,
) -> Result<(), BadLength> {
    let upstream = &*passage.policy.upstream;
    let mut to = Unless { upstream, to };
    to.say(&header::VIA, passage.pseudonym.via(head.version))?;
    forwarded(passage, said_proto(passage, spoken), host, &mut to)?;
    to.say(&X_REQUEST_ID, passage.request_id)?;
    identity(passage, &mut to);
    let Unless { to, .. } = to;
    for (at, (name, value)) in upstream.set_headers.iter().enumerate() {
        // Of two the last holds.
        if !upstream.set_headers[at + 1..].iter().any(|(later, _)| later == name) {
            to.say(name, value)?;
        }
    }
    if spoken.trailers {
        to.say_text(&header::TE, "trailers");
    }
    Ok(())
}

/// Fields that are said unless the policy takes them away or has words of its own for them.
struct Unless<'a, F> {
    upstream: &'a Upstream,
    to: &'a mut F,
}

impl<F> Unless<'_, F> {
    fn allows(&self, name: &HeaderName) -> bool {
        let Upstream { remove_headers, set_headers, .. } = self.upstream;
        !remove_headers.contains(name) && !set_headers.iter().any(|(set, _)| set == name)
    }
}

impl<F: Fields> Fields for Unless<'_, F> {
    fn say(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), BadLength> {
        if self.allows(name) { self.to.say(name, value) } else { Ok(()) }
    }

    fn say_text(&mut self, name: &HeaderName, text: &str) {
        if self.allows(name) {
            self.to.say_text(name, text);
        }
    }
}

fn is_credential(name: &HeaderName, policy: &Snapshot) -> bool {
    let mut places = policy.credentials.places.iter();
    places.any(|place| matches!(place, Place::Header(own) if own == name))
}

/// Takes from a request's trailers what its head may not say either (RFC 9110 §6.5.1).
pub(super) fn request_trailers(trailers: &mut HeaderMap, policy: &Snapshot) {
    let gone: SmallVec<[HeaderName; 4]> = trailers
        .keys()
        .filter(|name| {
            policy.identity.forbidden.forbids(name)
                || policy.upstream.remove_headers.contains(name)
                || *name == header::AUTHORIZATION
                || is_credential(name, policy)
        })
        .cloned()
        .collect();
    for name in gone {
        trailers.remove(name);
    }
}

/// Takes from an HTTP/2 backend's fields what belongs to a connection alone; it should not be there. HTTP/1 leaves it out
/// where it reads the head.
pub(super) fn response_fields(fields: &mut HeaderMap) {
    if !fields.keys().any(http1::is_of_the_hop) {
        return;
    }
    for name in nominated(fields) {
        fields.remove(name);
    }
    let gone: SmallVec<[HeaderName; 4]> =
        fields.keys().filter(|name| http1::is_of_the_hop(name)).cloned().collect();
    for name in gone {
        fields.remove(name);
    }
}

/// RFC 9110 §7.6.3: a gate that meets its own pseudonym would forward for ever.
fn refuse_loop(via: &HeaderValue, pseudonym: &str) -> Result<(), Refused> {
    if via.to_str().is_ok_and(|line| line.contains(pseudonym)) {
        Err(Refused::because(Refusal::UpstreamBroken, "the upstream leads back to this gate"))
    } else {
        Ok(())
    }
}

/// RFC 9110 §7.8: only with both fields, only in HTTP/1.1, never to h2c, which would be HTTP past the policy.
fn wish(head: &request::Parts, upstream: &Upstream, spoken: &Spoken<'_>) -> Wish {
    let Some(protocol) = spoken.upgrade else { return Wish::Http };
    let asked = head.version == Version::HTTP_11
        && upstream.protocol == UpstreamProtocol::Http1
        && head.headers.get_all(header::CONNECTION).iter().any(|line| lists(line, "upgrade"))
        && protocol
            .to_str()
            .is_ok_and(|to| !to.split(',').any(|one| one.trim().eq_ignore_ascii_case("h2c")));
    if asked { Wish::Upgrade } else { Wish::Http }
}

fn lists(line: &HeaderValue, word: &str) -> bool {
    line.to_str().is_ok_and(|line| line.split(',').any(|one| one.trim().eq_ignore_ascii_case(word)))
}

/// What `Connection` names (RFC 9110 §7.6.1).
fn nominated(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    let lines = headers.get_all(header::CONNECTION).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

/// RFC 9113 §8.2.3: HTTP/1.1 backends expect one `Cookie`.
fn joined_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let first = crumbs.next()?;
    let Some(second) = crumbs.next() else { return Some(first.clone()) };
    let crumbs: SmallVec<[&[u8]; 8]> =
        [first, second].into_iter().chain(crumbs).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).ok()
}

/// The scheme that the client used, as far as we can know it: a trusted proxy before us may have ended its TLS.
fn said_proto(passage: &Passage<'_>, spoken: &Spoken<'_>) -> &'static str {
    let trusted = || passage.policy.client_address.trusts_fields(passage.peer.address());
    match spoken.proto.filter(|_| trusted()).map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ if passage.peer.tls.is_some() => "https",
        _ => "http",
    }
}

/// Rebuilds `Forwarded` (RFC 7239) and the `X-Forwarded-` fields from what the gate itself decided.
fn forwarded(
    passage: &Passage<'_>,
    proto: &'static str,
    host: Option<&HeaderValue>,
    to: &mut impl Fields,
) -> Result<(), BadLength> {
    let mut said = passage.peer.said.borrow_mut();
    let same = |said: &Said| said.client == passage.client && said.proto == proto;
    if !said.as_ref().is_some_and(same) {
        *said = Some(Said::of(passage.client, proto));
    }
    if let Some(said) = &*said {
        if let Some(name) = &passage.policy.identity.address {
            to.say(name, &said.address)?;
        }
        to.say(&X_FORWARDED_FOR, &said.address)?;
        to.say(&header::FORWARDED, &said.forwarded)?;
    }
    to.say_text(&X_FORWARDED_PROTO, proto);
    host.map_or(Ok(()), |host| to.say(&X_FORWARDED_HOST, host))
}

fn identity(passage: &Passage<'_>, to: &mut impl Fields) {
    let Some(caller) = passage.permit.caller else { return };
    let (policy, identity) = (passage.policy, &passage.policy.identity);
    if let Some(name) = &identity.tenant {
        to.say_text(name, &policy.tenant(caller.tenant).name);
    }
    if let Some(name) = &identity.key {
        to.say_text(name, policy.keys.at(caller.key).id);
    }
    if let Some(name) = &identity.plan {
        to.say_text(name, &policy.plan(caller.plan).name);
    }
    if let Some(name) = &identity.scopes {
        match policy.grant(caller.grant) {
            Grant::All => to.say_text(name, "*"),
            Grant::Only(held) => {
                let names: Vec<&str> =
                    held.iter().map(|ix| &*policy.scopes[ix.0 as usize]).collect();
                to.say_text(name, &names.join(" "));
            }
        }
    }
    if let Some(BalanceHeader { name, of }) = &identity.balance
        && let Some(reading) = passage.readings.iter().find(|reading| reading.limit == *of)
    {
        to.say_text(name, &Money(reading.remaining).to_string());
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
    if method != Method::OPTIONS {
        return Hops::Further;
    }
    let left = headers.get(header::MAX_FORWARDS);
    match left.and_then(|value| value.to_str().ok()?.parse::<u32>().ok()) {
        Some(0) => Hops::EndHere,
        Some(left) => {
            headers.insert(header::MAX_FORWARDS, HeaderValue::from(left - 1));
            Hops::Further
        }
        None => Hops::Further,
    }
}
