//! The core against any head: whatever a parser lets through is decided, never panicked over, and the same head at the
//! same instant is decided the same way twice.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use http::{Method, Version};
use proptest::prelude::*;

use tollgate::clock::Wall;
use tollgate::config::{self, Overrides, Sources};
use tollgate::policy::authenticate::{Remembered, approach, authenticate};
use tollgate::policy::covering;
use tollgate::policy::fields::{Field, Fields};
use tollgate::policy::head::{Mark, Seen, Target, Unchecked};
use tollgate::policy::known_head::{KnownHead, Request};
use tollgate::policy::order::Asks;
use tollgate::policy::overlay::Overlay;
use tollgate::policy::recall::Recall;
use tollgate::policy::refusal::Refusal;
use tollgate::policy::route::Routed;
use tollgate::policy::snapshot::{Access, Snapshot};

const POLICY: &str = r#"
version: 1
upstream: http://127.0.0.1:9000
state: memory
client_address: { from: x-forwarded-for, trusted: [127.0.0.0/8] }
allow: [127.0.0.0/8, 10.0.0.0/8, "2001:db8::/32"]
credentials: { accept: [ACCEPTED], keys: keys.yaml, prefix: sp_ }
routes:
  - { name: literal, match: GET /a/b, scope: read }
  - { name: parameter, match: ["ANY /a/{id}", "POST /t/{tenant}/x"], scope: { any: [read, write] }, tenant: { query: tenant } }
  - { name: rest, match: "GET /**", scope: read }
  - { name: open, match: "ANY /open/**", public: true }
limits:
  each: { rate: 10/second, per: [key, route] }
  crowd: { rate: 5/second, per: address, counts: failed_authentication }
"#;

/// SHA-256 of `secret`.
const KEYS: &str = r"
- { id: k1, tenant: acme, scopes: [read], digest: { sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b } }
";

/// Many places in which a credential may stand, and one: then its line is known before its head is judged.
const ACCEPTED: [&str; 3] = [
    "bearer, authorization, basic, { header: X-API-Key }, { query: api_key }",
    "bearer",
    "{ header: X-API-Key }",
];

static SNAPSHOTS: LazyLock<[Snapshot; 3]> = LazyLock::new(|| ACCEPTED.map(snapshot));

fn snapshot(accepted: &str) -> Snapshot {
    let policy = POLICY.replace("ACCEPTED", accepted);
    let read = |path: &Path| match path.file_name().and_then(|name| name.to_str()) {
        Some("policy.yaml") => Ok(policy.clone().into_bytes()),
        Some("keys.yaml") => Ok(KEYS.as_bytes().to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let list = |_: &Path| Ok(Vec::<PathBuf>::new());
    let sources = Sources { read: &read, open: None, list: &list, env: &|_| None, breathe: &|| () };
    config::load(Path::new("policy.yaml"), &Overrides::default(), &sources, Wall(0), None)
        .unwrap_or_else(|problems| panic!("{problems}"))
        .snapshot
}

/// How far a head came.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Refused(Refusal),
    Nowhere,
    OtherMethod,
    Permitted { shadowed: Vec<Refusal>, limits: usize },
}

/// What a connection remembers.
#[derive(Default)]
struct Shown {
    head: KnownHead,
    credential: Recall,
}

/// What becomes of a request on a connection that knows what is `shown`; on one without a memory nothing is brought ahead
/// either.
fn decide(
    snapshot: &Snapshot,
    unchecked: &Unchecked<'_>,
    peer: IpAddr,
    shown: Option<&mut Shown>,
) -> (Option<IpAddr>, End) {
    let seen = Seen::of(unchecked.fields);
    let mut blank = Shown::default();
    let (shown, remembered) = match shown {
        None => (&mut blank, Remembered::NotKnown),
        Some(shown) => {
            let recall = &mut shown.credential;
            let remembered = approach(snapshot, (unchecked, &seen), recall, |_| ());
            (shown, remembered)
        }
    };
    let request = match shown.head.read(snapshot, unchecked, &seen, peer) {
        Ok(request) => request,
        Err(refused) => return (None, End::Refused(refused.why)),
    };
    let Request { head, client, routed } = request;
    let public = matches!(routed, Routed::To(ix) if snapshot.route(ix).access == Access::Public);
    let (overlay, recall) = (Overlay::default(), &mut shown.credential);
    let caller = match authenticate(snapshot, &overlay, &head, (recall, remembered), Wall(1)) {
        _ if public => None,
        Ok(caller) => Some(caller),
        Err(stranger) => {
            covering::guesses(snapshot, client, Wall(1));
            return (Some(client), End::Refused(stranger.refused.why));
        }
    };
    let end = match routed {
        Routed::Nowhere => End::Nowhere,
        Routed::OtherMethods(allow) => {
            assert!(!allow.is_empty());
            End::OtherMethod
        }
        Routed::To(route) => match shown.head.authorize(snapshot, &request, route, caller) {
            Err(refused) => End::Refused(refused.why),
            Ok(permit) => {
                assert_eq!((permit.route, permit.caller), (route, caller));
                let (mut asks, caller) = (Asks::new(), permit.caller.as_ref());
                covering::asks_into(&mut asks, snapshot, route, caller, client, Wall(1));
                End::Permitted { shadowed: permit.shadowed.clone(), limits: asks.len() }
            }
        },
    };
    (Some(client), end)
}

fn words() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "Bearer secret",
        "bearer  secret",
        "Basic c2VjcmV0Og==",
        "secret",
        "Bearer",
        "sp_x000000",
        "close, x",
        "upgrade",
        "127.0.0.1, 10.0.0.9",
        "::1",
        "[::1]:80",
        "for=x",
        "a@b",
        "a,b",
        "chunked",
        "5",
        "application/grpc",
        "%00",
        "",
    ]);
    prop_oneof![3 => known.prop_map(str::to_owned), 1 => "[ -~]{0,40}"]
}

fn lines() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let name = prop::sample::select(vec![
        "host",
        "authorization",
        "x-api-key",
        "connection",
        "content-length",
        "x-forwarded-for",
        "forwarded",
        "te",
        "via",
        "content-type",
        "cookie",
        "x_forwarded_for",
        "upgrade",
    ]);
    prop::collection::vec((name, words()), 0..8)
}

fn target<'a>(authority: Option<&'a str>, text: &'a str) -> Target<'a> {
    match text.split_once('?') {
        Some((path, query)) => Target { authority, path, query: Some(query) },
        None => Target { authority, path: text, query: None },
    }
}

fn targets() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/",
        "a",
        "b",
        "t",
        "open",
        "acme",
        "..",
        ".",
        "%2e",
        "%2F",
        "%00",
        "%41",
        "%c3%a9",
        "%ff",
        ";x",
        "?",
        "api_key=secret",
        "tenant=acme",
        "&",
        "=",
        "%61pi_key=secret",
        "//",
        "*",
        "%25%32%65",
        "+",
        "#",
        "\u{e9}",
        "<",
    ]);
    (prop::sample::select(vec!["/", "/", "/", ""]), prop::collection::vec(piece, 0..12))
        .prop_map(|(root, pieces)| format!("{root}{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_head_is_decided_and_twice_the_same(
        method in prop::sample::select(vec!["GET", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE", "get", "X-Y"]),
        text in targets(),
        authority in prop::option::of(prop::sample::select(vec!["a.example", "a.example:80", "[::1]:1"])),
        two in any::<bool>(),
        lines in lines(),
        peer in prop::sample::select(vec!["127.0.0.1", "192.0.2.1", "2001:db8::7", "::ffff:127.0.0.1"]),
        accepted in 0..ACCEPTED.len(),
    ) {
        let snapshot = &SNAPSHOTS[accepted];
        let version = if two { Version::HTTP_2 } else { Version::HTTP_11 };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let peer = peer.parse().unwrap();
        let lines: Vec<Field<'_>> =
            lines.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
        let target = target(authority, &text);
        let fields = Fields(&lines);
        let head = Unchecked { method: &method, target, version, fields, mark: None };
        let once = decide(snapshot, &head, peer, None);
        // The second time its connection knows the credential, and the fourth the head, behind another one.
        let mut shown = Shown::default();
        let line = |name, value| Field { name, value };
        let other: [Field<'_>; 3] =
            [line("host", b"a"), line("authorization", b"Bearer secret"), line("x-api-key", b"secret")];
        let other = Unchecked { target: self::target(None, "/a/b"), fields: Fields(&other), ..head };
        for (marked, mark) in [(head, None), (head, None), (other, Some(Mark(6))), (head, Some(Mark(7))), (head, Some(Mark(7)))] {
            let told = decide(snapshot, &Unchecked { mark, ..marked }, peer, Some(&mut shown));
            if marked.fields.0 == head.fields.0 {
                prop_assert_eq!(&told, &once);
            }
        }
    }
}

#[test]
fn the_generator_reaches_a_permit() {
    let field = |name, value: &'static str| Field { name, value: value.as_bytes() };
    let lines =
        [field("host", "a"), field("authorization", "Bearer secret"), field("x-api-key", "secret")];
    let head = Unchecked {
        method: &Method::GET,
        target: target(None, "/a/b"),
        version: Version::HTTP_11,
        fields: Fields(&lines),
        mark: None,
    };
    for snapshot in SNAPSHOTS.iter() {
        let (client, end) = decide(snapshot, &head, [127, 0, 0, 1].into(), None);
        assert_eq!(client, Some([127, 0, 0, 1].into()));
        assert_eq!(end, End::Permitted { shadowed: vec![], limits: 1 });
    }
}
