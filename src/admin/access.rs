//! Who may ask what. Probes and metrics answer everybody; what is below `/v1` answers those with the token, or, where
//! there is none, this host alone.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, Method, StatusCode};

use super::answers::Problem;
use crate::policy::address::canonical;
use crate::policy::keys::SecretDigest;

/// From where a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This host, over loopback.
    Local,
    /// Anywhere else.
    Remote,
}

impl Place {
    /// Both ends must be loopback: who comes from elsewhere to a loopback address was forwarded on purpose.
    pub(super) fn of(peer: IpAddr, local: IpAddr) -> Place {
        if canonical(peer).is_loopback() && canonical(local).is_loopback() {
            Place::Local
        } else {
            Place::Remote
        }
    }
}

/// How somebody was known who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownBy {
    /// By the token.
    Token,
    /// By being on this host, where no token is set.
    Loopback,
}

impl KnownBy {
    /// The word of the log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            KnownBy::Token => "token",
            KnownBy::Loopback => "loopback",
        }
    }
}

/// Somebody who may ask, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) by: KnownBy,
    pub(super) peer: SocketAddr,
}

/// Whether the request may be answered.
pub(super) fn admit(
    token: Option<&SecretDigest>,
    place: Place,
    method: &Method,
    headers: &HeaderMap,
) -> Result<KnownBy, Problem> {
    let Some(token) = token else { return admit_local(place, method, headers) };
    match presented(headers) {
        // Digests are compared, not tokens: how far they agree says nothing about how far the tokens do.
        Some(given) if SecretDigest::sha256(given) == *token => Ok(KnownBy::Token),
        Some(_) => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "token_unknown",
            "This is not the admin token.",
        )),
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "token_missing",
            "The admin token is needed: Authorization: Bearer TOKEN.",
        )),
    }
}

/// Without a token: this host alone, and nothing that a browser on this host was talked into.
fn admit_local(place: Place, method: &Method, headers: &HeaderMap) -> Result<KnownBy, Problem> {
    let forbidden =
        |code, message: &str| Err(Problem::new(StatusCode::FORBIDDEN, code, message.to_owned()));
    if place == Place::Remote {
        return forbidden(
            "loopback_only",
            "Without a token this is answered only to clients on the gate's own host, over loopback.",
        );
    }
    if !names_this_host(headers) {
        return forbidden(
            "host_denied",
            "Without a token the Host of a request must be an address or localhost.",
        );
    }
    if *method == Method::POST && headers.contains_key(ORIGIN) {
        return forbidden("origin_denied", "Without a token no web page may change anything here.");
    }
    Ok(KnownBy::Loopback)
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1), if there is exactly one such field.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (scheme, token) = line.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether the request was meant for this host: by an address, by `localhost`, or by no name at all. A page whose name
/// was rebound to 127.0.0.1 has a browser on this host ask under the page's name.
fn names_this_host(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map_or(Some(""), |host| host.to_str().ok());
    let Some(host) = host else { return false };
    let name = match host.rsplit_once(':') {
        _ if host.parse::<IpAddr>().is_ok() => host,
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.is_empty() || bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(all: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_rebound_name_is_not_this_host() {
        let names = |host: &'static str| names_this_host(&headers(&[(HOST, host)]));
        for host in ["127.0.0.1:9901", "[::1]:9901", "localhost:9901", "LOCALHOST", "::1", ""] {
            assert!(names(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9901", "127.0.0.1.evil.example", "gate"] {
            assert!(!names(host), "{host}");
        }
    }

    #[test]
    fn only_loopback_on_both_ends_is_local() {
        let of = |peer: &str, local: &str| Place::of(peer.parse().unwrap(), local.parse().unwrap());
        assert_eq!(of("127.0.0.1", "127.0.0.1"), Place::Local);
        assert_eq!(of("::1", "::1"), Place::Local);
        assert_eq!(of("::ffff:127.0.0.1", "::ffff:127.0.0.1"), Place::Local);
        assert_eq!(of("10.0.0.7", "10.0.0.1"), Place::Remote);
        assert_eq!(of("10.0.0.7", "127.0.0.1"), Place::Remote);
        assert_eq!(of("127.0.0.1", "10.0.0.1"), Place::Remote);
    }

    #[test]
    fn where_there_is_a_token_everybody_needs_it() {
        let token = SecretDigest::sha256(b"secret");
        let ask = |place, lines: &[(http::HeaderName, &'static str)]| {
            admit(Some(&token), place, &Method::GET, &headers(lines)).map_err(|no| no.status)
        };
        for place in [Place::Local, Place::Remote] {
            assert_eq!(ask(place, &[]), Err(StatusCode::UNAUTHORIZED));
            for wrong in ["Bearer secrets", "Bearer ", "secret", "Basic c2VjcmV0", "Bearer"] {
                assert_eq!(ask(place, &[(AUTHORIZATION, wrong)]), Err(StatusCode::UNAUTHORIZED));
            }
            assert_eq!(ask(place, &[(AUTHORIZATION, "bearer secret")]), Ok(KnownBy::Token));
        }
    }

    #[test]
    fn without_a_token_this_host_alone_is_answered_and_no_page_in_its_browser() {
        let ask = |place, method, lines: &[(http::HeaderName, &'static str)]| {
            admit(None, place, &method, &headers(lines)).map_err(|no| no.code)
        };
        let host = (HOST, "localhost:9901");
        let origin = (ORIGIN, "http://evil.example");
        assert_eq!(
            ask(Place::Local, Method::POST, std::slice::from_ref(&host)),
            Ok(KnownBy::Loopback)
        );
        assert_eq!(
            ask(Place::Remote, Method::GET, std::slice::from_ref(&host)),
            Err("loopback_only")
        );
        let both = [host, origin];
        assert_eq!(ask(Place::Local, Method::POST, &both), Err("origin_denied"));
        assert_eq!(ask(Place::Local, Method::GET, &both), Ok(KnownBy::Loopback));
        assert_eq!(ask(Place::Local, Method::GET, &[(HOST, "evil.example")]), Err("host_denied"));
    }
}
