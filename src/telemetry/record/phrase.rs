//! What records say again and again, rendered once: of a connection, of a caller on a route.

use std::net::{IpAddr, SocketAddr};

use crate::policy::address::write_address;
use crate::telemetry::json::{count, inside, string};

/// Where a request comes from, and the policy that decides it: the same from request to request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Digest of the policy; its first twelve digits are written.
    pub policy: &'a str,
    /// The listener's place in the policy.
    pub listener: usize,
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The client's address, as decided.
    pub client: IpAddr,
    /// `http/1.1` or `http/2`.
    pub protocol: &'a str,
}

/// Appends the method of a request as a record has it between an [`Origin`] and the text of the path.
pub fn write_method(out: &mut Vec<u8>, method: &str) {
    inside(out, method.as_bytes());
    out.extend_from_slice(b"\",\"path\":\"");
}

/// Appends the path of a request, without its query, as a record has it between an [`Origin`] with its method and a
/// [`Caller`] with its host.
pub fn write_path(out: &mut Vec<u8>, path: &str) {
    inside(out, without_query(path).as_bytes());
}

/// The caller hands over a path; should a query ever hang on it, it stops here.
fn without_query(path: &str) -> &str {
    // Without an early end first, so that it is done many bytes at a time: 80 instructions, and there is none nearly always.
    if !path.bytes().fold(false, |any, byte| any | matches!(byte, b'?' | b'#')) {
        return path;
    }
    let end = path.bytes().position(|byte| matches!(byte, b'?' | b'#'));
    end.and_then(|end| path.get(..end)).unwrap_or(path)
}

/// Appends the host that a request asked for, if that is known, as a record has it between the text of the path and a
/// [`Caller`].
pub fn write_host(out: &mut Vec<u8>, host: Option<&[u8]>) {
    if let Some(host) = host {
        out.extend_from_slice(b"\",\"host\":\"");
        inside(out, host);
    }
}

impl Origin<'_> {
    /// Appends it as a record has it between the digits of its id and the text of its method.
    pub fn write(&self, out: &mut Vec<u8>) {
        let digest = self.policy.as_bytes();
        out.extend_from_slice(b"\",\"policy\":\"");
        out.extend_from_slice(digest.get(..12).unwrap_or(digest));
        out.extend_from_slice(b"\",\"listener\":");
        count(out, self.listener as u64);
        out.extend_from_slice(b",\"peer\":\"");
        let (before, after) = if self.peer.is_ipv6() { ("[", "]:") } else { ("", ":") };
        out.extend_from_slice(before.as_bytes());
        write_address(out, self.peer.ip());
        out.extend_from_slice(after.as_bytes());
        count(out, u64::from(self.peer.port()));
        out.extend_from_slice(b"\",\"client\":\"");
        write_address(out, self.client);
        out.extend_from_slice(b"\",\"protocol\":");
        string(out, self.protocol.as_bytes());
        out.extend_from_slice(b",\"method\":\"");
    }
}

/// Who asks for what, as far as that became known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
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
}

impl Caller<'_> {
    /// Appends it as a record has it between the text of its host, or of its path, and its limits.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        let members: [(&[u8], Option<&str>); 5] = [
            (b",\"route\":", self.route),
            (b",\"key\":", self.key),
            (b",\"tenant\":", self.tenant),
            (b",\"plan\":", self.plan),
            (b",\"scope\":", self.scope),
        ];
        for (name, text) in members {
            if let Some(text) = text {
                out.extend_from_slice(name);
                string(out, text.as_bytes());
            }
        }
    }
}
