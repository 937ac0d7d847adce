//! Nanoseconds a decision: steps 2 to 7 of the way of a request (head, address, route, key, scopes and allowlists, limits
//! taken from the ledger) and the limit headers, by the number of keys (asked uniformly), routes, networks and limits: flat
//! or logarithmic, but for the limits, each of which is asked.
//!
//! `cargo bench --bench decision`

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use sha2::{Digest, Sha256};

use tollgate::clock::{Clock, Now, Wall};
use tollgate::config::{self, Overrides, Sources};
use tollgate::policy::authenticate::authenticate;
use tollgate::policy::authorize::authorize;
use tollgate::policy::covering;
use tollgate::policy::head::Head;
use tollgate::policy::overlay::Overlay;
use tollgate::policy::route::Routed;
use tollgate::policy::snapshot::Snapshot;
use tollgate::store::{Backing, Ledger, Opening, Order, Restored};

/// How large the policy is that a decision is made under.
#[derive(Clone, Copy)]
struct Shape {
    keys: usize,
    /// Routes beside the one that is asked for.
    routes: usize,
    /// Networks of the allowlist beside the one that the caller is in.
    networks: usize,
    /// Limits that cover the request.
    limits: usize,
}

/// What the other groups change one number of.
const USUAL: Shape = Shape { keys: 10_000, routes: 3, networks: 20, limits: 3 };

/// Whom the limits count, in turn.
const COUNTED: [&str; 4] = ["key", "tenant", "address", "route"];

fn policy(shape: Shape) -> String {
    let mut text = String::from(
        "version: 1\nlisten: 127.0.0.1:8080\nupstream: http://127.0.0.1:9000\nadmin: none\nstate: memory\n\
         credentials: { accept: [bearer], keys: keys.jsonl }\nallow:\n  - 127.0.0.0/8\n",
    );
    for n in 0..shape.networks {
        let _ = writeln!(text, "  - 10.{}.{}.{}/30", n >> 14, (n >> 6) & 255, (n & 63) << 2);
    }
    text.push_str("routes:\n  - { name: items, match: GET /api/v1/items, scope: read }\n");
    for n in 0..shape.routes {
        let _ = writeln!(
            text,
            "  - {{ name: r{n}, match: \"GET /api/v1/things{n}/{{id}}\", scope: read }}"
        );
    }
    text.push_str("limits:\n");
    for n in 0..shape.limits {
        let per = COUNTED[n % COUNTED.len()];
        let _ = writeln!(text, "  l{n}: {{ rate: {}/minute, per: {per} }}", 1_000_000_000 + n);
    }
    text
}

const TENANTS: usize = 100;

fn secret(n: usize) -> String {
    format!("bk_{n:032}")
}

fn snapshot(shape: Shape) -> Snapshot {
    let policy = policy(shape);
    let mut lines = String::new();
    for n in 0..shape.keys {
        let digest = Sha256::digest(secret(n).as_bytes());
        let _ = write!(
            lines,
            "{{\"id\":\"k{n}\",\"tenant\":\"t{}\",\"scopes\":[\"read\"],\"digest\":{{\"sha256\":\"",
            n % TENANTS
        );
        for byte in digest {
            let _ = write!(lines, "{byte:02x}");
        }
        lines.push_str("\"}}\n");
    }
    let read = |path: &Path| match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml") => Ok(policy.as_bytes().to_vec()),
        Some("jsonl") => Ok(lines.as_bytes().to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let list = |_: &Path| Ok(Vec::<PathBuf>::new());
    let sources = Sources { read: &read, open: None, list: &list, env: &|_| None };
    let loaded =
        config::load(Path::new("policy.yaml"), &Overrides::default(), &sources, Wall(0), None);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).snapshot
}

/// One request as hyper hands it over.
fn request(key: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8080"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("bench/1.0"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let bearer = format!("Bearer {}", secret(key));
    headers
        .insert(header::AUTHORIZATION, HeaderValue::try_from(bearer).expect("a secret is ASCII"));
    headers
}

fn decide(
    snapshot: &Snapshot,
    ledger: &std::sync::Arc<Ledger>,
    uri: &Uri,
    headers: &HeaderMap,
    now: Now,
) -> usize {
    let head = Head::check(&Method::GET, uri, Version::HTTP_11, headers, &snapshot.bounds)
        .expect("a good head");
    let client = snapshot.client_address.client([127, 0, 0, 1].into(), head.headers);
    let Routed::To(route) = snapshot.router.find(head.method, head.path) else { panic!("a route") };
    let caller = authenticate(snapshot, &ledger.overlay(), &head, now.wall).expect("a good key");
    let permit = authorize(snapshot, route, Some(caller), client, &head).expect("a permit");
    let Opening::Admitted(reservation, readings) = ledger
        .open(now, &Order::of(&covering::asks(snapshot, route, permit.caller, client, now.wall)))
    else {
        panic!("admitted")
    };
    let shown = snapshot.report.x_fields(&readings, now.wall);
    reservation.close(ledger);
    readings.len() + usize::from(shown.is_some())
}

fn decisions(criterion: &mut Criterion) {
    by(criterion, "decision by keys", &[10, 100, 10_000, 1_000_000], |keys| Shape {
        keys,
        ..USUAL
    });
    by(criterion, "decision by routes", &[1, 100, 10_000], |routes| Shape { routes, ..USUAL });
    by(criterion, "decision by networks", &[1, 100, 10_000, 100_000], |networks| Shape {
        networks,
        ..USUAL
    });
    by(criterion, "decision by limits", &[1, 2, 4, 8], |limits| Shape { limits, ..USUAL });
}

fn by(criterion: &mut Criterion, name: &str, sizes: &[usize], shape: fn(usize) -> Shape) {
    let clock = Clock::system();
    let uri: Uri = "/api/v1/items?id=42".parse().expect("a target");
    let mut group = criterion.benchmark_group(name);
    for size in sizes {
        let shape = shape(*size);
        let snapshot = snapshot(shape);
        let ledger = Ledger::new(65_536, Backing::None, Restored::default());
        // The heads of up to 100 000 keys, spread over the whole table: what is measured is the table, not the heads.
        let many = shape.keys.min(100_000);
        let heads: Vec<HeaderMap> = (0..many).map(|n| request(n * (shape.keys / many))).collect();
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                at = (at + 7919) % many;
                black_box(decide(&snapshot, &ledger, &uri, &heads[at], clock.now()))
            });
        });
    }
    group.finish();
}

fn refusals(criterion: &mut Criterion) {
    let clock = Clock::system();
    let snapshot = snapshot(USUAL);
    let uri: Uri = "/api/v1/items".parse().expect("a target");
    let stranger: HashMap<&str, HeaderMap> =
        HashMap::from([("unknown", request(10_001)), ("missing", HeaderMap::new())]);
    let mut group = criterion.benchmark_group("refusal");
    for (name, headers) in &stranger {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let mut headers = headers.clone();
                headers.insert(header::HOST, HeaderValue::from_static("a"));
                let head =
                    Head::check(&Method::GET, &uri, Version::HTTP_11, &headers, &snapshot.bounds)
                        .expect("a head");
                black_box(
                    authenticate(&snapshot, &Overlay::default(), &head, clock.now().wall).is_err(),
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, refusals);
criterion_main!(benches);
