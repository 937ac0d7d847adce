//! Step 9's heads: what leaves towards the backend and what comes back. The only writer of forwarding headers; nobody
//! else touches those names.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version, request};
use smallvec::SmallVec;

use super::http1::{self, BadLength, RequestHead, Text};
use super::peer::Peer;
use super::request_id::RequestId;
use super::said::{Lines, Pseudonym, Way};
use super::target::{absolute, target};
use crate::policy::address::{X_FORWARDED_FOR, write_address};
use crate::policy::authenticate::Caller;
use crate::policy::authorize::Permit;
use crate::policy::credential::Place;
use crate::policy::decimal::Digits;
use crate::policy::fields::{self, Field, Fields, is_printable, lists, members, printable};
use crate::policy::head::{Seen, Unchecked};
use crate::policy::money::Money;
use crate::policy::order::Heard;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::{
    Access, BalanceHeader, Grant, HostRule, Scheme, Snapshot, Upstream, UpstreamProtocol,
};

/// Returned to the client and recorded, so that one word finds a request on both sides.
pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request that leaves, and what is said of it besides its head.
pub(super) struct Passage<'a> {
    /// The head as it came, checked.
    pub(super) head: &'a Unchecked<'a>,
    /// What there is in its fields.
    pub(super) seen: &'a Seen<'a>,
    /// What `Max-Forwards` says behind this hop.
    pub(super) hops: Hops,
    /// The policy that admitted it.
    pub(super) policy: &'a Arc<Snapshot>,
    /// The right to forward it.
    pub(super) permit: &'a Permit,
    /// The decided address.
    pub(super) client: IpAddr,
    /// The connection it came by.
    pub(super) peer: &'a Peer,
    /// What this gate is called in `Via`.
    pub(super) pseudonym: &'a Pseudonym,
    /// The id of this request.
    pub(super) request_id: &'a RequestId,
    /// What its limits said.
    pub(super) heard: Heard<'a>,
}

/// Whether the client asks to leave HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It does not.
    Http,
    /// `Connection: upgrade` with `Upgrade`: a tunnel, if the backend answers 101.
    Upgrade,
}

/// Where a head for the backend goes, field by field. Names are in lower case.
trait Outgoing {
    /// One more field of the client's or of the policy's.
    fn say(&mut self, name: &str, value: &[u8]) -> Result<(), BadLength>;

    /// One more field of the gate's own, which frames nothing and whose value is one.
    fn say_own(&mut self, name: &str, value: &[u8]);

    /// Fields of the gate's own that were written before.
    fn say_lines(&mut self, lines: &Lines);
}

impl Outgoing for RequestHead {
    fn say(&mut self, name: &str, value: &[u8]) -> Result<(), BadLength> {
        self.field(name, value)
    }

    fn say_own(&mut self, name: &str, value: &[u8]) {
        self.own(name, value);
    }

    fn say_lines(&mut self, lines: &Lines) {
        self.lines(lines.as_bytes());
    }
}

impl Outgoing for HeaderMap {
    fn say(&mut self, name: &str, value: &[u8]) -> Result<(), BadLength> {
        self.say_own(name, value);
        Ok(())
    }

    fn say_own(&mut self, name: &str, value: &[u8]) {
        append(self, name.as_bytes(), value);
    }

    fn say_lines(&mut self, lines: &Lines) {
        lines.iter().for_each(|(name, value)| append(self, name, value));
    }
}

fn append(fields: &mut HeaderMap, name: &[u8], value: &[u8]) {
    // Both were read from a head or compiled: they are a name and a value.
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        fields.append(name, value);
    }
}

/// The head for an HTTP/1 backend, written into `text`.
pub(super) fn http1_head(
    passage: &Passage<'_>,
    text: Text,
) -> Result<(RequestHead, Wish), Refused> {
    let upstream = &*passage.policy.upstream;
    let Unchecked { method, target: asked, .. } = passage.head;
    let target = target(asked.path, asked.query, passage.policy);
    let mut written = RequestHead::begin(text, method, &target.path, target.query.as_deref());
    let host = asked_host(passage);
    // RFC 9110 §7.2: first, where it can be.
    match (&upstream.host_header, host) {
        (HostRule::Set(value), _) => written.own("host", value.as_bytes()),
        (HostRule::Keep, Some(value)) => written.own("host", value),
        (HostRule::Keep, None) => written.own("host", own_host(upstream).as_bytes()),
    }
    let spoken = client_fields(passage, &mut written)?;
    gate_fields(passage, &spoken, host, &mut written).map_err(no_length)?;
    let wish = wish(passage, &spoken);
    match (wish, spoken.upgrade) {
        (Wish::Upgrade, Some(protocol)) => {
            written.own("connection", b"upgrade");
            written.own("upgrade", protocol);
        }
        _ if spoken.trailers => written.own("connection", b"te"),
        _ => {}
    }
    Ok((written, wish))
}

/// The head for an HTTP/2 backend. From there nothing leaves HTTP.
pub(super) fn http2_head(passage: &Passage<'_>) -> Result<request::Parts, Refused> {
    let upstream = &*passage.policy.upstream;
    let Unchecked { method, target: asked, fields, .. } = passage.head;
    let host = asked_host(passage);
    let mut map = HeaderMap::with_capacity(fields.len() + ADDED);
    let spoken = client_fields(passage, &mut map)?;
    gate_fields(passage, &spoken, host, &mut map).map_err(no_length)?;
    let authority: Cow<'_, [u8]> = match (&upstream.host_header, host) {
        (HostRule::Set(value), _) => value.as_bytes().into(),
        (HostRule::Keep, Some(value)) => value.into(),
        (HostRule::Keep, None) => own_host(upstream).into_bytes().into(),
    };
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = (*method).clone();
    head.uri = absolute(&target(asked.path, asked.query, passage.policy), upstream, &authority)?;
    head.version = Version::HTTP_2;
    head.headers = map;
    Ok(head)
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
    upgrade: Option<&'a [u8]>,
    proto: Option<&'a [u8]>,
}

/// Says those of the client's fields that go further, and hears what the others say. Comes before anything of ours is
/// added, or a client could nominate our own fields away (RFC 9110 §7.6.1).
fn client_fields<'a>(passage: &Passage<'a>, to: &mut impl Outgoing) -> Result<Spoken<'a>, Refused> {
    let policy = passage.policy;
    let Unchecked { fields, version, .. } = *passage.head;
    // A public route's `Authorization` is between the client and the backend: the gate did not read it.
    let keyed = policy.route(passage.permit.route).access == Access::Keyed;
    let authorization = keyed && policy.credentials.reads_authorization();
    let nominated = if passage.seen.connection == fields::Lines::None {
        SmallVec::new()
    } else {
        nominated(fields)
    };
    let goes_on = |name: &str| {
        !policy.identity.forbidden.forbids(name)
            // A header of the gate's own is its own on every route: clients send their key everywhere.
            && !is_credential(name, policy)
            && !policy.upstream.removes(name)
            && !nominated.iter().any(|gone| gone.eq_ignore_ascii_case(name.as_bytes()))
    };
    let join = version == Version::HTTP_2;
    let mut hops = Some(passage.hops);
    let mut spoken = Spoken::default();
    for Field { name, value } in fields {
        // By length first: most names are passed over by that alone.
        match (name.len(), *name) {
            (7, "upgrade") => {
                spoken.upgrade.get_or_insert(value);
            }
            (2, "te") => spoken.trailers |= lists(value, "trailers"),
            (17, "x-forwarded-proto") => {
                spoken.proto.get_or_insert(value);
            }
            // Of the first two the gate speaks itself. It answers the expectation too: the 100 is sent when the body is
            // first asked for.
            (4, "host")
            | (12, "x-request-id")
            | (6, "expect")
            | (10, "connection" | "keep-alive")
            | (16, "proxy-connection")
            | (17, "transfer-encoding")
            | (19, "proxy-authorization")
            | (14, "http2-settings") => {}
            (13, "authorization") if authorization => {}
            (6, "cookie") if join => {}
            (12, "max-forwards") if matches!(passage.hops, Hops::Left(_)) => {
                // One line, whose number is the first one's less one.
                if let Some(Hops::Left(left)) = hops.take().filter(|_| goes_on(name)) {
                    to.say_own(name, Digits::of(u64::from(left)).as_bytes());
                }
            }
            (3, "via") => {
                refuse_loop(value, &passage.pseudonym.name)?;
                if goes_on(name) {
                    to.say_own(name, value);
                }
            }
            _ if goes_on(name) => to.say(name, value).map_err(no_length)?,
            _ => {}
        }
    }
    if join
        && goes_on("cookie")
        && let Some(cookie) = joined_cookies(fields)
    {
        to.say_own("cookie", &cookie);
    }
    Ok(spoken)
}

/// Says what the gate says, whatever the client said: the policy's own words last, in place of all others.
fn gate_fields(
    passage: &Passage<'_>,
    spoken: &Spoken<'_>,
    host: Option<&[u8]>,
    to: &mut impl Outgoing,
) -> Result<(), BadLength> {
    let policy = passage.policy;
    let upstream = &*policy.upstream;
    let mut refrain = passage.peer.refrain.borrow_mut();
    let said = refrain.said(policy);
    let way = Way {
        client: passage.client,
        proto: said_proto(passage, spoken),
        version: passage.head.version,
    };
    to.say_lines(said.of_way(way, |lines| came_by(way, passage, lines)));
    if let Some(host) = host.filter(|_| allows(upstream, "x-forwarded-host")) {
        to.say_own("x-forwarded-host", host);
    }
    if allows(upstream, "x-request-id") {
        to.say_own("x-request-id", passage.request_id.as_bytes());
    }
    if let Some(caller) = passage.permit.caller {
        to.say_lines(said.of_caller(caller.key, |lines| identity(policy, caller, lines)));
        if let Some(BalanceHeader { name, of }) = &policy.identity.balance
            && let Some(line) = passage.heard.of(*of)
            && allows(upstream, name.as_str())
        {
            to.say_own(name.as_str(), Money(line.reading.remaining).to_string().as_bytes());
        }
    }
    for (at, (name, value)) in upstream.set_headers.iter().enumerate() {
        // Of two the last holds.
        if !upstream.set_headers[at + 1..].iter().any(|(later, _)| later == name) {
            to.say(name.as_str(), value.as_bytes())?;
        }
    }
    if spoken.trailers {
        to.say_own("te", b"trailers");
    }
    Ok(())
}

/// Whether the gate says a field of its own: the policy may take it away, or have words of its own for it.
fn allows(upstream: &Upstream, name: &str) -> bool {
    !upstream.removes(name) && !upstream.set_headers.iter().any(|(set, _)| set.as_str() == name)
}

fn is_credential(name: &str, policy: &Snapshot) -> bool {
    let mut places = policy.credentials.places.iter();
    places.any(|place| matches!(place, Place::Header(own) if own.as_str() == name))
}

/// Takes from a request's trailers what its head may not say either (RFC 9110 §6.5.1).
pub(super) fn request_trailers(trailers: &mut HeaderMap, policy: &Snapshot) {
    let gone: SmallVec<[HeaderName; 4]> = trailers
        .keys()
        .filter(|name| {
            policy.identity.forbidden.forbids(name.as_str())
                || policy.upstream.removes(name.as_str())
                || *name == header::AUTHORIZATION
                || is_credential(name.as_str(), policy)
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
    let nominated: SmallVec<[HeaderName; 4]> = fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| members(line.as_bytes()))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    for name in nominated {
        fields.remove(name);
    }
    let gone: SmallVec<[HeaderName; 4]> =
        fields.keys().filter(|name| http1::is_of_the_hop(name)).cloned().collect();
    for name in gone {
        fields.remove(name);
    }
}

/// RFC 9110 §7.6.3: a gate that meets its own pseudonym would forward for ever.
fn refuse_loop(via: &[u8], pseudonym: &str) -> Result<(), Refused> {
    if printable(via).is_some_and(|line| line.contains(pseudonym)) {
        Err(Refused::because(Refusal::UpstreamBroken, "the upstream leads back to this gate"))
    } else {
        Ok(())
    }
}

/// RFC 9110 §7.8: only with both fields, only in HTTP/1.1, never to h2c, which would be HTTP past the policy.
fn wish(passage: &Passage<'_>, spoken: &Spoken<'_>) -> Wish {
    let Some(protocol) = spoken.upgrade else { return Wish::Http };
    let asked = passage.head.version == Version::HTTP_11
        && passage.policy.upstream.protocol == UpstreamProtocol::Http1
        && passage.head.fields.all("connection").any(|line| lists(line, "upgrade"))
        && is_printable(protocol)
        && !lists(protocol, "h2c");
    if asked { Wish::Upgrade } else { Wish::Http }
}

/// What `Connection` names (RFC 9110 §7.6.1), in any case.
fn nominated(fields: Fields<'_>) -> SmallVec<[&[u8]; 4]> {
    fields.all("connection").flat_map(members).collect()
}

/// RFC 9113 §8.2.3: HTTP/1.1 backends expect one `Cookie`.
fn joined_cookies(fields: Fields<'_>) -> Option<Cow<'_, [u8]>> {
    let mut crumbs = fields.all("cookie");
    let first = crumbs.next()?;
    let Some(second) = crumbs.next() else { return Some(first.into()) };
    let crumbs: SmallVec<[&[u8]; 8]> = [first, second].into_iter().chain(crumbs).collect();
    Some(crumbs.join(&b"; "[..]).into())
}

/// The scheme that the client used, as far as we can know it: a trusted proxy before us may have ended its TLS.
fn said_proto(passage: &Passage<'_>, spoken: &Spoken<'_>) -> &'static str {
    let trusted = || passage.policy.client_address.trusts_fields(passage.peer.address());
    match spoken.proto.filter(|_| trusted()) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ if passage.peer.tls.is_some() => "https",
        _ => "http",
    }
}

/// Rebuilds `Via`, `Forwarded` (RFC 7239) and the `X-Forwarded-` fields from what the gate itself decided.
fn came_by(way: Way, passage: &Passage<'_>, lines: &mut Lines) {
    let mut say = |name: &str, value: &[u8]| {
        if allows(&passage.policy.upstream, name) {
            lines.add(name, value);
        }
    };
    say("via", passage.pseudonym.via(way.version).as_bytes());
    let mut address = Vec::with_capacity(40);
    write_address(&mut address, way.client);
    if let Some(name) = &passage.policy.identity.address {
        say(name.as_str(), &address);
    }
    say(X_FORWARDED_FOR, &address);
    let node: [&[u8]; 3] = match way.client {
        IpAddr::V4(_) => [b"for=", &address, b";proto="],
        IpAddr::V6(_) => [b"for=\"[", &address, b"]\";proto="],
    };
    say("forwarded", &[node.concat().as_slice(), way.proto.as_bytes()].concat());
    say("x-forwarded-proto", way.proto.as_bytes());
}

/// Who asks, in the fields that the policy names. A text that is no field value is not said: the loader refuses such names.
fn identity(policy: &Snapshot, caller: Caller, lines: &mut Lines) {
    let mut say = |name: &Option<HeaderName>, text: &str| {
        if let Some(name) = name
            && allows(&policy.upstream, name.as_str())
            && is_printable(text.as_bytes())
        {
            lines.add(name.as_str(), text.as_bytes());
        }
    };
    let identity = &policy.identity;
    say(&identity.tenant, &policy.tenant(caller.tenant).name);
    say(&identity.key, policy.keys.at(caller.key).id);
    say(&identity.plan, &policy.plan(caller.plan).name);
    match policy.grant(caller.grant) {
        Grant::All => say(&identity.scopes, "*"),
        Grant::Only(held) => {
            let names: Vec<&str> = held.iter().map(|ix| &*policy.scopes[ix.0 as usize]).collect();
            say(&identity.scopes, &names.join(" "));
        }
    }
}

/// The host the client asked for: the target's authority if it has one (RFC 9112 §3.2.2, RFC 9113 §8.3.1), else `Host`.
fn asked_host<'a>(passage: &Passage<'a>) -> Option<&'a [u8]> {
    let authority = passage.head.target.authority.map(str::as_bytes);
    authority.or_else(|| passage.seen.host.first())
}

fn own_host(upstream: &Upstream) -> String {
    let host = if upstream.host.contains(':') {
        format!("[{}]", upstream.host)
    } else {
        upstream.host.to_string()
    };
    let default_port = match upstream.scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    if upstream.port == default_port { host } else { format!("{host}:{}", upstream.port) }
}

/// RFC 9110 §7.6.2: what an `OPTIONS` with `Max-Forwards` becomes at this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hops {
    /// It goes on, and nothing is counted.
    Uncounted,
    /// It goes on, with so many left.
    Left(u32),
    /// It ends here.
    EndHere,
}

/// Counts one hop of an `OPTIONS`; other methods may ignore the field, and do.
pub(super) fn count_hop(method: &Method, fields: Fields<'_>) -> Hops {
    if method != Method::OPTIONS {
        return Hops::Uncounted;
    }
    let left = fields.first("max-forwards").and_then(printable);
    match left.and_then(|value| value.parse::<u32>().ok()) {
        Some(0) => Hops::EndHere,
        Some(left) => Hops::Left(left - 1),
        None => Hops::Uncounted,
    }
}
