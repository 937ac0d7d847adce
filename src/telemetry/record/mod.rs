//! The access record: one line of JSON for each request, with every input of its decision, in a versioned form
//! (`"v":1`). Never: a query, a body, a credential, or a wait for whoever reads the records.

mod buffer;
mod writer;

use std::net::{IpAddr, SocketAddr};

use crate::clock::Wall;
use crate::policy::limit::Mode;
use crate::policy::refusal::Refusal;

use super::decision_id::DecisionId;
use super::json::{Object, number, string};
use super::metrics::{Outcome, mode_name};

pub use buffer::RecordBuffer;
pub use writer::{RecordWriter, Reopen};

/// The version of the record's form. Fields may be added under one version; none changes its meaning.
pub const VERSION: u8 = 1;

/// Everything that is written about one request. Times are nanoseconds here and whole microseconds in the record.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When its head was complete.
    pub time: Wall,
    /// Its name.
    pub id: DecisionId,
    /// Digest of the policy that decided; its first twelve digits are written.
    pub policy: &'a str,
    /// That policy's generation.
    pub generation: u64,
    /// The listener, as the operational log names it.
    pub listener: &'a str,
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The client's address, as decided.
    pub client: IpAddr,
    /// `HTTP/1.1`, `HTTP/2` …
    pub protocol: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path without its query.
    pub path: &'a str,
    /// The host the client asked for.
    pub host: Option<&'a str>,
    /// The route's name.
    pub route: Option<&'a str>,
    /// The key's public id.
    pub key: Option<&'a str>,
    /// The caller's tenant.
    pub tenant: Option<&'a str>,
    /// The caller's plan.
    pub plan: Option<&'a str>,
    /// The scope that the route demands.
    pub scope: Option<&'a str>,
    /// What each limit that was asked said.
    pub limits: &'a [LimitLine<'a>],
    /// What `mode: shadow` rules would have refused.
    pub shadow: &'a [Refusal],
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was refused, if it was.
    pub refusal: Option<RefusalLine<'a>>,
    /// The status that was sent.
    pub status: u16,
    /// The status that the upstream sent.
    pub upstream_status: Option<u16>,
    /// Bytes of the request's body that were read.
    pub request_bytes: u64,
    /// Bytes of the answer's body that were sent.
    pub response_bytes: u64,
    /// What the gate itself took.
    pub gate_nanos: u64,
    /// Time to the head of the upstream's answer.
    pub upstream_nanos: Option<u64>,
    /// From the head of the request to the end of the exchange.
    pub total_nanos: u64,
    /// The id that was returned and forwarded.
    pub request_id: &'a str,
    /// The request headers that the policy names, by lower-case name.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// What one limit said about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitLine<'a> {
    /// The limit's name.
    pub name: &'a str,
    /// Whether it vetoes.
    pub mode: Mode,
    /// Units in use before this request.
    pub used: u64,
    /// The caller's ceiling in units.
    pub ceiling: u64,
    /// Units left after this request.
    pub remaining: u64,
    /// Whether it admits this request.
    pub admits: bool,
    /// Nanoseconds until it would; `None` where it does, or time does not help.
    pub wait_nanos: Option<u64>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalLine<'a> {
    /// The reason.
    pub why: Refusal,
    /// The limit that refused.
    pub limit: Option<&'a str>,
    /// What exactly was wrong; never the caller's text.
    pub detail: &'a str,
}

/// Headers whose values are secrets by their nature. They are not written even where they are named.
const SECRET_HEADERS: [&str; 7] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
];

impl Record<'_> {
    /// Appends the record as one line.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut record = Object::begin(out);
        record.number("v", VERSION);
        record.time("time", self.time);
        let id = record.member("id");
        id.push(b'"');
        self.id.write(id);
        id.push(b'"');
        record.text("policy", self.policy.get(..12).unwrap_or(self.policy));
        record.number("generation", self.generation);
        record.text("listener", self.listener);
        write_peer(record.member("peer"), self.peer);
        record.address("client", self.client);
        record.text("protocol", self.protocol);
        record.text("method", self.method);
        record.text("path", without_query(self.path));
        record.text_if("host", self.host);
        record.text_if("route", self.route);
        record.text_if("key", self.key);
        record.text_if("tenant", self.tenant);
        record.text_if("plan", self.plan);
        record.text_if("scope", self.scope);
        self.write_limits(&mut record);
        record.text("outcome", self.outcome.name());
        if let Some(refusal) = &self.refusal {
            record.text("refusal", refusal.why.name());
            record.text_if("limit", refusal.limit);
            record.text_if("detail", Some(refusal.detail).filter(|detail| !detail.is_empty()));
        }
        record.number("status", self.status);
        record.number_if("upstream_status", self.upstream_status);
        record.number("request_bytes", self.request_bytes);
        record.number("response_bytes", self.response_bytes);
        record.number("gate_us", self.gate_nanos / 1000);
        record.number_if("upstream_us", self.upstream_nanos.map(|nanos| nanos / 1000));
        record.number("total_us", self.total_nanos / 1000);
        record.text("request_id", self.request_id);
        if !self.headers.is_empty() {
            let mut headers = Object::begin(record.member("headers"));
            for (name, value) in self.headers {
                let secret = SECRET_HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name));
                let value: &[u8] = if secret { b"[secret]" } else { value };
                string(headers.foreign_member(name), value);
            }
            headers.end();
        }
        record.end();
        out.push(b'\n');
    }

    fn write_limits(&self, record: &mut Object<'_>) {
        if !self.limits.is_empty() {
            let out = record.member("limits");
            for (at, limit) in self.limits.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                limit.write(out);
            }
            out.push(b']');
        }
        if !self.shadow.is_empty() {
            let out = record.member("shadow");
            for (at, refusal) in self.shadow.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                string(out, refusal.name().as_bytes());
            }
            out.push(b']');
        }
    }
}

impl LimitLine<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::begin(out);
        line.text("name", self.name);
        line.text("mode", mode_name(self.mode));
        line.number("used", self.used);
        line.number("ceiling", self.ceiling);
        line.number("remaining", self.remaining);
        line.member("admits").extend_from_slice(if self.admits { b"true" } else { b"false" });
        // Rounded up: a wait that is written as 0 would say that time does not matter.
        line.number_if("wait_us", self.wait_nanos.map(|nanos| nanos.div_ceil(1000)));
        line.end();
    }
}

/// The caller hands over a path; should a query ever hang on it, it stops here.
fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

fn write_peer(out: &mut Vec<u8>, peer: SocketAddr) {
    use std::io::Write;
    // Writing to a vector cannot fail.
    let _ = match peer {
        SocketAddr::V4(v4) => write!(out, "\"{}:", v4.ip()),
        SocketAddr::V6(v6) => write!(out, "\"[{}]:", v6.ip()),
    };
    number(out, peer.port());
    out.push(b'"');
}

#[cfg(test)]
mod tests;
