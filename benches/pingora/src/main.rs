//! The work that `benches/against.py` gives every candidate, done the way pingora's users do it: a filter in front of its proxy.
//!
//! A key from `X-API-Key` is looked up among those of a file, the client's address in a list of networks, and each key has a
//! token bucket of its own. Who passes is proxied with the key's id in `X-Key-Id`.
//!
//! `pingora-peer LISTEN UPSTREAM KEYS NETWORKS [LOG]`: addresses as `ip:port`; `KEYS` has lines of a key and its id, `NETWORKS` one
//! network a line. With `LOG` a line a request is written to that file, buffered.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use async_trait::async_trait;
use foldhash::fast::RandomState;
use http::HeaderValue;
use http::header::{HOST, HeaderName};
use ipnet::IpNet;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

/// Tokens a second and the most that a bucket holds: never empty, as with every other candidate.
const RATE: f64 = 1e6;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const KEY_ID: HeaderName = HeaderName::from_static("x-key-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

struct Bucket {
    tokens: f64,
    since: Instant,
}

struct Key {
    id: HeaderValue,
    bucket: Mutex<Bucket>,
}

impl Key {
    fn take_one(&self) -> bool {
        let mut bucket = self.bucket.lock().expect("no holder of a bucket panics");
        let now = Instant::now();
        bucket.tokens =
            RATE.min(bucket.tokens + now.duration_since(bucket.since).as_secs_f64() * RATE);
        bucket.since = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

struct Peer {
    upstream: SocketAddr,
    keys: HashMap<Vec<u8>, Key, RandomState>,
    networks: Vec<IpNet>,
    log: Option<Mutex<BufWriter<File>>>,
}

#[async_trait]
impl ProxyHttp for Peer {
    type CTX = Option<HeaderValue>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    async fn request_filter(&self, session: &mut Session, id: &mut Self::CTX) -> Result<bool> {
        let address =
            session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
        let refusal = if !address
            .is_some_and(|address| self.networks.iter().any(|network| network.contains(&address)))
        {
            403
        } else {
            match session
                .req_header()
                .headers
                .get(API_KEY)
                .and_then(|key| self.keys.get(key.as_bytes()))
            {
                None => 401,
                Some(key) if !key.take_one() => 429,
                Some(key) => {
                    *id = Some(key.id.clone());
                    return Ok(false);
                }
            }
        };
        session.respond_error(refusal).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        id: &mut Self::CTX,
    ) -> Result<()> {
        if let Some(id) = id {
            request.insert_header(KEY_ID, id.clone())?;
        }
        if let Some(address) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header(FORWARDED_FOR, address.ip().to_string())?;
        }
        Ok(())
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, id: &mut Self::CTX) {
        let Some(log) = &self.log else { return };
        let request = session.req_header();
        let status = session.response_written().map_or(0, |answer| answer.status.as_u16());
        let address = session.client_addr().map(ToString::to_string).unwrap_or_default();
        let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("-");
        let id = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-");
        let mut log = log.lock().expect("no writer of the log panics");
        // A full disk costs lines of the log, never requests.
        let _ = writeln!(
            log,
            "{address} {id} {host} \"{} {}\" {status} {}",
            request.method,
            request.uri,
            session.body_bytes_sent()
        );
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, keys, networks, log @ ..] = words.as_slice() else {
        eprintln!("usage: pingora-peer LISTEN UPSTREAM KEYS NETWORKS [LOG]");
        std::process::exit(2);
    };
    let read =
        |path: &String| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let keys = read(keys)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(key, id)| {
            let id = HeaderValue::from_str(id).expect("ids are visible ASCII");
            let bucket = Mutex::new(Bucket { tokens: RATE, since: Instant::now() });
            (key.as_bytes().to_vec(), Key { id, bucket })
        })
        .collect();
    let networks =
        read(networks).lines().map(|line| line.parse().expect("a network a line")).collect();
    let log = log.first().map(|path| {
        Mutex::new(BufWriter::with_capacity(
            65536,
            File::create(path).expect("the log can be made"),
        ))
    });
    let upstream = upstream.parse().expect("UPSTREAM is ip:port");

    let configuration = ServerConf {
        threads: 1,
        work_stealing: false,
        upstream_keepalive_pool_size: 4096,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let mut proxy =
        http_proxy_service(&server.configuration, Peer { upstream, keys, networks, log });
    proxy.add_tcp(listen);
    server.add_service(proxy);
    server.run_forever();
}
