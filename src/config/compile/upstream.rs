//! `upstream:`: where admitted requests go, and what credentials of its own the backend is given.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::super::problem::{At, Span};
use super::super::raw::{self, Or, Secret};
use super::super::read::{Named, clip};
use super::super::scalar::{ProtocolWord, name_complaint};
use super::super::{Overrides, defaults};
use super::Desk;
use super::identity::is_ours;
use super::server::{lasting, within};
use crate::policy::snapshot::{HostRule, Scheme, Upstream, UpstreamProtocol, UpstreamTls};

pub(super) struct Compiled {
    pub(super) compiled: Upstream,
    /// The response time-out of routes that say nothing.
    pub(super) response_timeout: Duration,
}

pub(super) fn upstream(
    word: Option<raw::UpstreamWord>,
    policy: Span,
    overrides: &Overrides,
    desk: &mut Desk<'_>,
) -> Compiled {
    let raw::Upstream {
        at,
        url,
        host,
        protocol,
        ca,
        client_certificate,
        client_key,
        server_name,
        set_headers,
        remove_headers,
        set_query,
        remove_query,
        connect_timeout,
        response_timeout,
        idle_timeout,
        pool,
    } = match word {
        Some(raw::UpstreamWord(upstream)) => upstream,
        None => raw::Upstream::absent(Span { end: policy.start, ..policy }),
    };
    let target = target(url.as_ref(), at, overrides.upstream.as_deref(), desk);
    let tls = tls(at, ca, client_certificate, client_key, server_name, target.scheme, desk);
    let set_headers = headers(set_headers, desk);
    let (set_query, mut removed) = query(set_query, desk);
    removed.extend(
        remove_query
            .map_or_else(Vec::new, |remove| remove.items)
            .into_iter()
            .map(|name| Box::from(name.value)),
    );
    removed.sort_unstable();
    removed.dedup();
    let (pool_size, pool_idle) = match pool {
        Some(raw::Pool { at: _, size, idle }) => (size, idle),
        None => (None, None),
    };
    let compiled = Upstream {
        scheme: target.scheme,
        host: target.host,
        port: target.port,
        base_path: target.base_path,
        protocol: match protocol.map(|protocol| protocol.value) {
            None | Some(ProtocolWord::Http1 | ProtocolWord::Http11) => UpstreamProtocol::Http1,
            Some(ProtocolWord::Http2 | ProtocolWord::H2) => UpstreamProtocol::Http2,
        },
        host_header: host_rule(host.as_ref(), desk),
        tls,
        set_headers,
        remove_headers: remove_headers
            .map_or_else(Vec::new, |remove| remove.items)
            .into_iter()
            .map(|name| name.value)
            .collect(),
        set_query,
        remove_query: removed,
        connect_timeout: lasting(connect_timeout, defaults::CONNECT_TIMEOUT, desk),
        idle_timeout: lasting(idle_timeout, defaults::IDLE_TIMEOUT, desk),
        pool_size: within(pool_size, "size", 0, 100_000, defaults::POOL_SIZE, desk),
        pool_idle: lasting(pool_idle, defaults::POOL_IDLE, desk),
    };
    let response_timeout = lasting(response_timeout, defaults::RESPONSE_TIMEOUT, desk);
    Compiled { compiled, response_timeout }
}

struct Target {
    scheme: Scheme,
    host: Box<str>,
    port: u16,
    base_path: Box<str>,
}

fn target(url: Option<&At<String>>, at: Span, flag: Option<&str>, desk: &mut Desk<'_>) -> Target {
    let nowhere =
        || Target { scheme: Scheme::Http, host: "".into(), port: 80, base_path: "".into() };
    if let Some(flag) = flag {
        return parse_url(flag).unwrap_or_else(|problem| {
            desk.flag_error(format!("--upstream {flag}: {problem}"));
            nowhere()
        });
    }
    let Some(url) = url else {
        if !desk.findings.has_errors_at(at) {
            desk.findings.error_with(
                at,
                "the policy does not say where admitted requests go",
                "write `upstream: http://127.0.0.1:9000`".to_owned(),
            );
        }
        return nowhere();
    };
    parse_url(&url.value).unwrap_or_else(|problem| {
        desk.findings.error_with(
            url.at,
            format!("`{}`: {problem}", clip(&url.value)),
            "write http://host:port or https://host".to_owned(),
        );
        nowhere()
    })
}

/// What is wrong with an upstream's URL; `None` if nothing is.
pub fn upstream_complaint(url: &str) -> Option<&'static str> {
    parse_url(url).err()
}

fn parse_url(text: &str) -> Result<Target, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "this is no URL")?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some(_) => return Err("an upstream speaks http or https"),
        None => return Err("the URL has no scheme"),
    };
    let authority = uri.authority().ok_or("the URL names no host")?;
    if authority.as_str().contains('@') {
        return Err(
            "a user and password in a URL end up in logs; use `set_headers` with { env: … }",
        );
    }
    if uri.query().is_some() {
        return Err("query parameters go to `set_query`");
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err("the URL names no host");
    }
    let port = match (authority.port(), scheme) {
        (Some(port), _) => port.as_u16(),
        (None, Scheme::Http) => 80,
        (None, Scheme::Https) => 443,
    };
    if port == 0 || authority.as_str().ends_with(':') {
        return Err("this is no port");
    }
    Ok(Target {
        scheme,
        host: host.into(),
        port,
        base_path: uri.path().trim_end_matches('/').into(),
    })
}

fn tls(
    at: Span,
    ca: Option<At<String>>,
    client_certificate: Option<At<String>>,
    client_key: Option<At<String>>,
    server_name: Option<At<String>>,
    scheme: Scheme,
    desk: &mut Desk<'_>,
) -> UpstreamTls {
    let any = ca.is_some()
        || client_certificate.is_some()
        || client_key.is_some()
        || server_name.is_some();
    if any && scheme == Scheme::Http {
        desk.findings.error_with(
            at,
            "this upstream is plain http, so its TLS settings have no effect",
            "write https://… or take them out".to_owned(),
        );
    }
    let client = match (client_certificate, client_key) {
        (Some(chain), Some(key)) => desk
            .named_file(&chain)
            .zip(desk.named_file(&key))
            .map(|(chain, key)| (Arc::from(chain), Arc::from(key))),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            desk.findings.error(one.at, "`client_certificate` and `client_key` go together");
            None
        }
    };
    UpstreamTls {
        ca: ca.and_then(|ca| desk.named_file(&ca)).map(Arc::from),
        client,
        server_name: server_name.map(|name| name.value.into()),
    }
}

fn host_rule(host: Option<&At<String>>, desk: &mut Desk<'_>) -> HostRule {
    let Some(host) = host else { return HostRule::Keep };
    let authority = host.value.parse::<http::uri::Authority>().ok();
    match (authority, HeaderValue::from_str(&host.value)) {
        (Some(authority), Ok(value)) if !authority.as_str().contains('@') => HostRule::Set(value),
        _ => {
            desk.findings.error(host.at, format!("`{}` is no host", clip(&host.value)));
            HostRule::Keep
        }
    }
}

fn headers(set: Option<Named<Secret>>, desk: &mut Desk<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut out = Vec::new();
    for (key, secret) in set.unwrap_or_default().entries {
        let name = HeaderName::from_bytes(key.text.as_bytes()).ok();
        let Some(name) = name.filter(|name| !is_ours(name)) else {
            desk.findings.error(key.at, format!("`{}` cannot be set as a header", clip(&key.text)));
            continue;
        };
        let Some(bytes) = desk.secret(&secret) else { continue };
        let Ok(mut value) = HeaderValue::from_bytes(&bytes) else {
            desk.findings.error(key.at, format!("the value of `{name}` is no header value"));
            continue;
        };
        value.set_sensitive(matches!(secret, Or::Map(_)));
        out.push((name, value));
    }
    out
}

/// Parameters as `name=value`, percent-encoded, and their names.
fn query(set: Option<Named<Secret>>, desk: &mut Desk<'_>) -> (Vec<Box<str>>, Vec<Box<str>>) {
    let (mut pairs, mut names) = (Vec::new(), Vec::new());
    for (key, secret) in set.unwrap_or_default().entries {
        if let Some(complaint) = name_complaint(&key.text) {
            desk.findings.error(key.at, complaint);
            continue;
        }
        let Some(bytes) = desk.secret(&secret) else { continue };
        let mut pair = String::new();
        percent_encode(&mut pair, key.text.as_bytes());
        pair.push('=');
        percent_encode(&mut pair, &bytes);
        pairs.push(pair.into());
        names.push(key.text.into());
    }
    (pairs, names)
}

/// Everything but RFC 3986's unreserved characters.
fn percent_encode(out: &mut String, bytes: &[u8]) {
    use std::fmt::Write as _;
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}
