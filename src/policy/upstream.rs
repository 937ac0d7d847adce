//! Where admitted requests go, as compiled.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// Where admitted requests go, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host name or address literal, without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
    /// Path to put before every path, without a trailing slash; usually empty.
    pub base_path: Box<str>,
    /// The protocol spoken.
    pub protocol: UpstreamProtocol,
    /// The `Host` the backend sees.
    pub host_header: HostRule,
    /// TLS towards the upstream; used with `https` only.
    pub tls: UpstreamTls,
    /// Headers set on every forwarded request, after everything of the client's was removed.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers removed from every forwarded request.
    pub remove_headers: Vec<HeaderName>,
    /// Query parameters appended, already percent-encoded as `name=value`.
    pub set_query: Vec<Box<str>>,
    /// Query parameters removed, compared without case after percent-decoding; includes the names in `set_query`.
    pub remove_query: Vec<Box<str>>,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Longest silence in the middle of a body, either way.
    pub idle_timeout: Duration,
    /// Idle connections kept by each worker.
    pub pool_size: usize,
    /// Age at which an idle pooled connection is closed.
    pub pool_idle: Duration,
}

impl Upstream {
    /// Whether a field of this name, given in lower case, is removed from every forwarded request.
    pub fn removes(&self, name: &str) -> bool {
        self.remove_headers.iter().any(|gone| gone.as_str() == name)
    }
}

/// Scheme of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS.
    Https,
}

/// Protocol towards the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, the default; gRPC and HTTP/2 requests are translated.
    Http1,
    /// HTTP/2 (with prior knowledge over plain TCP, by ALPN over TLS).
    Http2,
}

/// The `Host` the backend sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// The client's.
    Keep,
    /// This one.
    Set(HeaderValue),
}

/// A client's certificate chain and its key, PEM.
pub type ClientPair = (Arc<[u8]>, Arc<[u8]>);

/// TLS material towards the upstream. PEM text; parsed again where it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The CA certificates that vouch for the upstream; `None`: the system's.
    pub ca: Option<Arc<[u8]>>,
    /// The client certificate chain and its key.
    pub client: Option<ClientPair>,
    /// The name sent and verified; `None`: the upstream's host.
    pub server_name: Option<Box<str>>,
}
