//! What the gate says again and again, rendered once: its own name for a run, its client's address for a connection.

use std::net::IpAddr;

use bytes::Bytes;
use http::Version;
use http::header::HeaderValue;

use crate::policy::address::write_address;

/// This run's name in `Via` (RFC 9110 §7.6.3), rendered for every protocol that a request can come by.
#[derive(Debug)]
pub(super) struct Pseudonym {
    /// As it stands in every one of them.
    pub(super) name: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Pseudonym {
    /// The pseudonym with this run's id in it, so that the gate knows itself from other gates in a chain.
    pub(super) fn new(boot: &dyn std::fmt::Display) -> Pseudonym {
        let name = format!("tollgate-{boot}");
        let via = |version: &str| {
            let text = format!("{version} {name}");
            HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1.1 tollgate"))
        };
        Pseudonym { http10: via("1.0"), http11: via("1.1"), http2: via("2"), name }
    }

    /// The field for a request that was received in this version.
    pub(super) fn via(&self, received: Version) -> &HeaderValue {
        match received {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 => &self.http10,
            _ => &self.http11,
        }
    }
}

/// What is said of a connection's client, rendered once: nearly always all requests of a connection are of one client.
#[derive(Debug)]
pub(crate) struct Said {
    /// The client.
    pub(super) client: IpAddr,
    /// `http` or `https`.
    pub(super) proto: &'static str,
    /// Its address alone.
    pub(super) address: HeaderValue,
    /// `Forwarded` (RFC 7239).
    pub(super) forwarded: HeaderValue,
}

impl Said {
    /// What is said of this client.
    pub(super) fn of(client: IpAddr, proto: &'static str) -> Said {
        let mut address = Vec::with_capacity(40);
        write_address(&mut address, client);
        let mut forwarded = Vec::with_capacity(64);
        forwarded.extend_from_slice(if client.is_ipv4() { b"for=" } else { b"for=\"[" });
        forwarded.extend_from_slice(&address);
        forwarded.extend_from_slice(if client.is_ipv4() { b"" } else { b"]\"" });
        forwarded.extend_from_slice(b";proto=");
        forwarded.extend_from_slice(proto.as_bytes());
        let value = |text: Vec<u8>| HeaderValue::from_maybe_shared(Bytes::from(text));
        // Digits, dots, colons and our own words make a header value.
        let unknown = HeaderValue::from_static("unknown");
        Said {
            client,
            proto,
            address: value(address).unwrap_or(unknown.clone()),
            forwarded: value(forwarded).unwrap_or(unknown),
        }
    }
}
