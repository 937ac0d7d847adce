//! Nanoseconds a decision: steps 2 to 7 of the way of a request (head, address, route, key, scopes and allowlists, limits
//! taken from the ledger) and the limit headers, with 10, 10 000 and 1 000 000 keys asked uniformly.
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

/// A key, scopes, a 20-network allowlist, three limits.
const POLICY: &str = r#"
version: 1
listen: 127.0.0.1:8080
upstream: http://127.0.0.1:9000
admin: none
state: memory
allow: [10.0.0.0/24, 10.0.2.0/24, 10.0.4.0/24, 10.0.6.0/24, 10.0.8.0/24, 10.0.10.0/24, 10.0.12.0/24, 10.0.14.0/24, 10.0.16.0/24,
  10.0.18.0/24, 10.0.20.0/24, 10.0.22.0/24, 10.0.24.0/24, 10.0.26.0/24, 10.0.28.0/24, 10.0.30.0/24, 10.0.32.0/24, 10.0.34.0/24,
  10.0.36.0/24, 127.0.0.0/8]
credentials: { accept: [bearer], keys: keys.jsonl }
routes:
  - { name: items, match: "GET /api/v1/items", scope: read }
  - { name: item, match: "GET /api/v1/items/{id}", scope: read }
  - { name: send, match: POST /sms/send, scope: send }
limits:
  throttle: { rate: 1000000000/minute, per: key }
  fair: { rate: 1000000000/minute, per: tenant }
  crowd: { rate: 1000000000/minute, per: address }
"#;

const TENANTS: usize = 100;

fn secret(n: usize) -> String {
    format!("bk_{n:032}")
}

fn snapshot(keys: usize) -> Snapshot {
    let mut lines = String::new();
    for n in 0..keys {
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
        Some("yaml") => Ok(POLICY.as_bytes().to_vec()),
        Some("jsonl") => Ok(lines.as_bytes().to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let list = |_: &Path| Ok(Vec::<PathBuf>::new());
    let sources = Sources { read: &read, list: &list, env: &|_| None };
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
    let clock = Clock::system();
    let uri: Uri = "/api/v1/items?id=42".parse().expect("a target");
    let mut group = criterion.benchmark_group("decision");
    for keys in [10, 10_000, 1_000_000] {
        let snapshot = snapshot(keys);
        let ledger = Ledger::new(65_536, Backing::None, Restored::default());
        // The heads of up to 100 000 keys, spread over the whole table: what is measured is the table, not the heads.
        let many = keys.min(100_000);
        let heads: Vec<HeaderMap> = (0..many).map(|n| request(n * (keys / many))).collect();
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(keys), |bencher| {
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
    let snapshot = snapshot(10_000);
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
