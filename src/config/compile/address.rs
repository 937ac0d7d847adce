//! `client_address:`: whose word is taken for a client's address.

use super::super::defaults;
use super::super::problem::{At, did_you_mean};
use super::super::raw::{self, Or};
use super::Desk;
use crate::policy::address::{AddressSource, ClientAddressRule, Nets};
use crate::policy::snapshot::Listener;

pub(super) fn client_address(
    rule: Option<raw::ClientAddress>,
    listeners: &[Listener],
    desk: &mut Desk<'_>,
) -> ClientAddressRule {
    let nobody = ClientAddressRule {
        from: AddressSource::Peer,
        trusted: Nets::default(),
        v6_prefix: defaults::V6_PREFIX,
    };
    let Some(raw::ClientAddress { at, from, header, trusted, ipv6_prefix }) = rule else {
        return nobody;
    };
    let named = match (&from, header) {
        (Some(Or::Map(raw::HeaderPlace { header: Some(header), .. })), None) => {
            Some(AddressSource::Header(header.value.clone()))
        }
        (None, Some(header)) => Some(AddressSource::Header(header.value)),
        (Some(Or::One(word)), None) => address_source(word, desk),
        (None, None) => Some(AddressSource::Peer),
        (Some(_), _) => {
            desk.findings.error(at, "say one of `from: …` and `header: …`");
            None
        }
    };
    let source = named.unwrap_or(AddressSource::Peer);
    if source == AddressSource::ProxyProtocol
        && !listeners.iter().any(|listener| listener.proxy_protocol)
    {
        desk.findings.warn(
            at,
            "no listener reads the PROXY protocol, so the client is always the peer",
            "write `listen: { address: …, proxy_protocol: true }`".to_owned(),
        );
    }
    match &trusted {
        None if source != AddressSource::Peer => desk.findings.error_with(
            at,
            "this takes a proxy's word for the client's address, and trusts no proxy",
            "add `trusted: [10.0.0.0/16]` with your proxies' networks".to_owned(),
        ),
        Some(trusted) => {
            if source == AddressSource::Peer && !trusted.items.is_empty() {
                desk.findings.warn(
                    trusted.at,
                    "with `from: peer` nobody's word is taken, so `trusted` has no effect",
                    "take it out, or say whose header is read".to_owned(),
                );
            }
            for net in trusted.items.iter().filter(|net| net.value.prefix_len() == 0) {
                desk.findings.warn(
                    net.at,
                    format!(
                        "{} is the whole internet: any client may write its own address",
                        net.value
                    ),
                    "name your proxies' networks".to_owned(),
                );
            }
        }
        None => {}
    }
    let v6_prefix = match ipv6_prefix {
        None => defaults::V6_PREFIX,
        Some(prefix) => u8::try_from(prefix.value)
            .ok()
            .filter(|bits| (32..=128).contains(bits))
            .unwrap_or_else(|| {
                desk.findings.error(prefix.at, "`ipv6_prefix` is a number of bits from 32 to 128");
                defaults::V6_PREFIX
            }),
    };
    let trusted = trusted.map_or_else(Vec::new, |trusted| trusted.items);
    ClientAddressRule {
        from: source,
        trusted: Nets::new(trusted.into_iter().map(|net| net.value)),
        v6_prefix,
    }
}

fn address_source(word: &At<String>, desk: &mut Desk<'_>) -> Option<AddressSource> {
    const WORDS: [&str; 4] = ["peer", "x-forwarded-for", "forwarded", "proxy-protocol"];
    match word.value.as_str() {
        "peer" => Some(AddressSource::Peer),
        "x-forwarded-for" => Some(AddressSource::XForwardedFor),
        "forwarded" => Some(AddressSource::Forwarded),
        "proxy-protocol" => Some(AddressSource::ProxyProtocol),
        other => {
            desk.findings.error_with(
                word.at,
                format!("`{other}` is no source of the client's address"),
                did_you_mean(other, WORDS).map(|remedy| {
                    format!("{remedy}; a header of its own is {{ header: {other} }}")
                }),
            );
            None
        }
    }
}
