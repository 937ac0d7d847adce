//! Addresses: networks compiled for lookup, and the one place where a client's address is decided.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderName;
use ipnet::IpNet;

use super::decimal::write_count;
use super::fields::{Fields, Lines, printable};

/// A set of networks: sorted, disjoint ranges, found by bisection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nets {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Nets {
    /// Compiles the networks; overlapping and adjacent ones are merged. An IPv4-mapped IPv6 network becomes IPv4.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Nets {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match (canonical(network.network()), network) {
                (IpAddr::V4(first), IpNet::V6(mapped)) if mapped.prefix_len() >= 96 => {
                    let size = 32 - (mapped.prefix_len() - 96);
                    let span = u32::MAX.checked_shr(32 - u32::from(size)).unwrap_or(0);
                    v4.push((u32::from(first), u32::from(first) | span));
                }
                (_, IpNet::V4(net)) => {
                    v4.push((u32::from(net.network()), u32::from(net.broadcast())));
                }
                (_, IpNet::V6(net)) => {
                    v6.push((u128::from(net.network()), u128::from(net.broadcast())));
                }
            }
        }
        Nets { v4: merged(v4), v6: merged(v6) }
    }

    /// Whether `address`, which must be canonical, is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => within(&self.v4, u32::from(v4)),
            IpAddr::V6(v6) => within(&self.v6, u128::from(v6)),
        }
    }

    /// The disjoint ranges, first and last address of each, ascending, IPv4 before IPv6; to be printed.
    pub fn ranges(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let v4 = self.v4.iter().map(|(first, last)| {
            (IpAddr::V4(Ipv4Addr::from(*first)), IpAddr::V4(Ipv4Addr::from(*last)))
        });
        let v6 = self.v6.iter().map(|(first, last)| {
            (IpAddr::V6(Ipv6Addr::from(*first)), IpAddr::V6(Ipv6Addr::from(*last)))
        });
        v4.chain(v6)
    }

    /// Whether there is no network in the set.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

fn merged<T: Copy + Ord>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(previous) if first <= previous.1 => previous.1 = previous.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out.into()
}

fn within<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && address <= ranges[after - 1].1
}

/// The address itself, an IPv4-mapped IPv6 address as IPv4: one host has one spelling everywhere behind this.
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Appends the text of an address. IPv4 without the formatting machinery: it stands in every request's headers and
/// record.
pub fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                write_count(out, u64::from(octet));
            }
        }
        IpAddr::V6(v6) => out.extend_from_slice(v6.to_string().as_bytes()),
    }
}

/// Whose word is taken for a client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The peer of the connection.
    Peer,
    /// `X-Forwarded-For`, when the peer is trusted.
    XForwardedFor,
    /// `Forwarded` (RFC 7239), when the peer is trusted.
    Forwarded,
    /// The PROXY protocol header of the connection, when the peer is trusted.
    ProxyProtocol,
    /// A header with one address, when the peer is trusted.
    Header(HeaderName),
}

/// How the client's address is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddressRule {
    /// Whose word is taken.
    pub from: AddressSource,
    /// The proxies whose word is taken; with `Peer` nobody's.
    pub trusted: Nets,
    /// Bits of an IPv6 address that name one subject; 64 unless the policy says otherwise.
    pub v6_prefix: u8,
}

/// The most hops of a forwarded chain that are walked; what lies beyond is not looked at.
const MOST_HOPS: usize = 32;

impl ClientAddressRule {
    /// The client's address: the peer, unless the peer is a trusted proxy; then the right-most untrusted hop it names.
    /// Anything malformed ends the walk at the last address that was certain, never at one that a client wrote.
    pub fn client(&self, peer: IpAddr, fields: Fields<'_>) -> IpAddr {
        let peer = canonical(peer);
        if !self.trusts(peer) {
            return peer;
        }
        match &self.from {
            // The connection's own header was read, under the same trust, before the first request.
            AddressSource::Peer | AddressSource::ProxyProtocol => peer,
            AddressSource::XForwardedFor => self.walk(peer, fields, X_FORWARDED_FOR, hop_address),
            AddressSource::Forwarded => self.walk(peer, fields, "forwarded", forwarded_for),
            AddressSource::Header(name) => match fields.lines(name.as_str()) {
                Lines::One(only) => {
                    printable(only).and_then(|only| hop_address(only.trim())).unwrap_or(peer)
                }
                Lines::None | Lines::Several(_) => peer,
            },
        }
    }

    /// Whether this peer's word about its clients is taken.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.from != AddressSource::Peer && self.trusted.contains(canonical(peer))
    }

    /// Whether this peer's fields (a request id, the scheme) are a proxy's and not a client's: who speaks the PROXY
    /// protocol passes them on as they came. `peer` is what that protocol announced, where it was spoken.
    pub fn trusts_fields(&self, peer: IpAddr) -> bool {
        self.from != AddressSource::ProxyProtocol && self.trusts(peer)
    }

    fn walk(
        &self,
        peer: IpAddr,
        fields: Fields<'_>,
        name: &str,
        parse: fn(&str) -> Option<IpAddr>,
    ) -> IpAddr {
        let mut certain = peer;
        let mut hops = 0;
        for line in fields.all(name).rev() {
            let Some(line) = printable(line) else { return certain };
            for hop in line.rsplit(',') {
                hops += 1;
                let Some(address) = parse(hop.trim()).filter(|_| hops <= MOST_HOPS) else {
                    return certain;
                };
                certain = address;
                if !self.trusted.contains(address) {
                    return certain;
                }
            }
        }
        certain
    }
}

/// What most proxies call the chain of clients.
pub const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// One hop as proxies write it: an address, perhaps with a port, IPv6 perhaps in brackets. Zone ids, leading zeros
/// and names are no addresses.
fn hop_address(hop: &str) -> Option<IpAddr> {
    if let Ok(address) = hop.parse::<IpAddr>() {
        return Some(canonical(address));
    }
    if let Some(rest) = hop.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port_is_fine = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse().ok().filter(|_| port_is_fine).map(|v6| canonical(IpAddr::V6(v6)));
    }
    let (address, port) = hop.split_once(':')?;
    address.parse::<Ipv4Addr>().ok().filter(|_| is_port(port)).map(IpAddr::V4)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The `for=` of one element of `Forwarded` (RFC 7239 §4, §6). `unknown` and obfuscated nodes are no addresses.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.trim().split_once('=')?;
        if name.eq_ignore_ascii_case("for") {
            if found.is_some() {
                return None;
            }
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            found = Some(hop_address(value)?);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::fields::Field;
    use super::*;

    fn nets(list: &[&str]) -> Nets {
        Nets::new(list.iter().map(|net| net.parse::<IpNet>().unwrap()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_found_by_their_first_and_last_address_and_no_other() {
        let nets = nets(&[
            "10.0.0.0/24",
            "10.0.1.0/24",
            "192.0.2.7/32",
            "2001:db8::/32",
            "::ffff:198.51.100.0/120",
        ]);
        for inside in ["10.0.0.0", "10.0.1.255", "192.0.2.7", "2001:db8:ffff::1", "198.51.100.9"] {
            assert!(nets.contains(ip(inside)), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "10.0.2.0",
            "192.0.2.6",
            "192.0.2.8",
            "2001:db9::",
            "198.51.101.0",
            "::1",
        ] {
            assert!(!nets.contains(ip(outside)), "{outside}");
        }
        assert!(self::nets(&["0.0.0.0/0"]).contains(ip("255.255.255.255")));
    }

    fn rule(from: AddressSource) -> ClientAddressRule {
        ClientAddressRule { from, trusted: nets(&["10.0.0.0/8"]), v6_prefix: 64 }
    }

    fn client(rule: &ClientAddressRule, peer: &str, name: &str, lines: &[&str]) -> String {
        let lines: Vec<Field<'_>> =
            lines.iter().map(|line| Field { name, value: line.as_bytes() }).collect();
        rule.client(ip(peer), Fields(&lines)).to_string()
    }

    #[test]
    fn a_forwarded_chain_is_walked_from_the_right_to_the_first_hop_that_is_not_trusted() {
        let rule = rule(AddressSource::XForwardedFor);
        let of = |peer, lines: &[&'static str]| client(&rule, peer, "x-forwarded-for", lines);
        assert_eq!(of("10.0.0.1", &["203.0.113.9, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &["203.0.113.9", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(
            of("192.0.2.1", &["198.51.100.7"]),
            "192.0.2.1",
            "a stranger's word is not taken"
        );
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(of("10.0.0.1", &["::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
    }

    #[test]
    fn what_is_malformed_ends_the_walk_at_the_last_certain_address() {
        let rule = rule(AddressSource::XForwardedFor);
        for bad in
            ["unknown", "010.0.0.1", "fe80::1%eth0", "1.2.3", "", "1.2.3.4:999999", "[1.2.3.4]"]
        {
            assert_eq!(client(&rule, "10.0.0.1", "x-forwarded-for", &[bad]), "10.0.0.1", "{bad}");
        }
        let lines = ["198.51.100.7, bad, 10.0.0.2"];
        assert_eq!(client(&rule, "10.0.0.1", "x-forwarded-for", &lines), "10.0.0.2");
    }

    #[test]
    fn forwarded_is_read_by_its_for_pairs() {
        let rule = rule(AddressSource::Forwarded);
        let of = |line| client(&rule, "10.0.0.1", "forwarded", &[line]);
        assert_eq!(of("for=198.51.100.7;proto=https, for=\"[2001:db8::9]:80\""), "2001:db8::9");
        assert_eq!(of("proto=https;For=198.51.100.7"), "198.51.100.7");
        assert_eq!(of("for=_hidden"), "10.0.0.1");
        assert_eq!(of("for=1.2.3.4;for=5.6.7.8"), "10.0.0.1");
    }

    #[test]
    fn a_header_with_one_address_is_believed_and_with_two_lines_is_not() {
        let rule = rule(AddressSource::Header(HeaderName::from_static("cf-connecting-ip")));
        assert_eq!(
            client(&rule, "10.0.0.1", "cf-connecting-ip", &["198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(
            client(&rule, "10.0.0.1", "cf-connecting-ip", &["198.51.100.7", "1.2.3.4"]),
            "10.0.0.1"
        );
    }

    #[test]
    fn addresses_are_written_as_the_standard_library_does() {
        for text in ["0.0.0.0", "10.20.30.255", "2001:db8::1"] {
            let mut out = Vec::new();
            write_address(&mut out, ip(text));
            assert_eq!(out, text.as_bytes());
        }
    }
}
