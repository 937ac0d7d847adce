//! What a single value can be: durations, sizes, networks, names, closed lists of words. Always from the text as it was written; never
//! through a float. Must never: know which field it stands in.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::problem::did_you_mean;
use super::read::{Complaint, FromText};
use crate::clock::Wall;
use crate::policy::keys::SecretDigest;

impl FromText for String {
    const WHAT: &'static str = "a text";

    fn from_text(text: &str) -> Result<String, Complaint> {
        Ok(text.to_owned())
    }
}

impl FromText for bool {
    const WHAT: &'static str = "true or false";

    fn from_text(text: &str) -> Result<bool, Complaint> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Complaint::default()),
        }
    }
}

impl FromText for u64 {
    const WHAT: &'static str = "a whole number";

    fn from_text(text: &str) -> Result<u64, Complaint> {
        whole(text).ok_or_else(Complaint::default)
    }
}

/// Digits, `_` between them allowed.
pub(super) fn whole(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    let tidy = text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    if tidy { digits.parse().ok() } else { None }
}

impl FromText for Duration {
    const WHAT: &'static str = "a duration such as 500ms, 10s, 5m, 24h or 365d";

    fn from_text(text: &str) -> Result<Duration, Complaint> {
        let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(|| Complaint {
            message: None,
            remedy: whole(text).map(|number| format!("with its unit: {number}s?")),
        })?;
        let number = whole(text[..split].trim_end()).ok_or_else(Complaint::default)?;
        let millis = match &text[split..] {
            "ms" => Some(number),
            "s" => number.checked_mul(1_000),
            "m" | "min" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            "d" => number.checked_mul(86_400_000),
            _ => return Err(Complaint::default()),
        };
        // A hundred years: whatever is added to a clock stays a time.
        millis
            .filter(|millis| *millis <= 36_525 * 86_400_000)
            .map(Duration::from_millis)
            .ok_or_else(|| Complaint::because("this is longer than a hundred years"))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl FromText for Size {
    const WHAT: &'static str = "a size such as 512B, 64KiB or 10MiB";

    fn from_text(text: &str) -> Result<Size, Complaint> {
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let number = whole(text[..split].trim_end()).ok_or_else(Complaint::default)?;
        let factor = match &text[split..] {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(Complaint::default()),
        };
        number
            .checked_mul(factor)
            .map(Size)
            .ok_or_else(|| Complaint::because("this is more bytes than can be counted"))
    }
}

/// A size, or the word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SizeOrNone(pub(super) Option<u64>);

impl FromText for SizeOrNone {
    const WHAT: &'static str = "a size such as 64KiB, or `none`";

    fn from_text(text: &str) -> Result<SizeOrNone, Complaint> {
        match text {
            "none" => Ok(SizeOrNone(None)),
            size => Size::from_text(size)
                .map(|Size(bytes)| SizeOrNone(Some(bytes)))
                .map_err(|_| Complaint::default()),
        }
    }
}

impl FromText for IpNet {
    const WHAT: &'static str = "an address or network such as 203.0.113.0/24";

    fn from_text(text: &str) -> Result<IpNet, Complaint> {
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(IpNet::from(address));
        }
        let net = text.parse::<IpNet>().map_err(|_| Complaint::default())?;
        if net.trunc() == net {
            Ok(net)
        } else {
            Err(Complaint {
                message: Some(format!("`{text}` has bits set beyond its prefix")),
                remedy: Some(format!(
                    "did you mean {} or {}/{}?",
                    net.trunc(),
                    net.addr(),
                    net.max_prefix_len()
                )),
            })
        }
    }
}

impl FromText for SocketAddr {
    const WHAT: &'static str = "an address with a port such as 127.0.0.1:8080";

    fn from_text(text: &str) -> Result<SocketAddr, Complaint> {
        text.parse().map_err(|_| {
            let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
            let host = text.rsplit_once(':').map_or("", |(host, _)| host);
            Complaint {
                message: None,
                remedy: match (host, port) {
                    ("localhost", Some(port)) => Some(format!("write 127.0.0.1:{port}")),
                    ("" | "*", Some(port)) => Some(format!(
                        "write 0.0.0.0:{port} for every interface, 127.0.0.1:{port} for this host"
                    )),
                    _ => None,
                },
            }
        })
    }
}

impl FromText for HeaderName {
    const WHAT: &'static str = "a header name such as X-API-Key";

    fn from_text(text: &str) -> Result<HeaderName, Complaint> {
        HeaderName::from_bytes(text.as_bytes()).map_err(|_| Complaint::default())
    }
}

impl FromText for HeaderValue {
    const WHAT: &'static str = "a header value";

    fn from_text(text: &str) -> Result<HeaderValue, Complaint> {
        HeaderValue::from_str(text).map_err(|_| Complaint::default())
    }
}

/// A name that the author chose: of a route, limit, plan, tenant or key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GivenName(pub(super) String);

/// The longest name.
pub(super) const MOST_NAME: usize = 128;

/// Why a text cannot be a name.
pub(super) fn name_complaint(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("a name cannot be empty")
    } else if text.len() > MOST_NAME {
        Some("a name is at most 128 bytes")
    } else if text.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'"' | b'\\')) {
        // Names stand in headers, in quoted strings of them, and in lists that spaces part.
        Some("a name is printable ASCII without spaces, quotes and backslashes")
    } else {
        None
    }
}

impl FromText for GivenName {
    const WHAT: &'static str = "a name";

    fn from_text(text: &str) -> Result<GivenName, Complaint> {
        match name_complaint(text) {
            Some(complaint) => Err(Complaint::because(complaint)),
            None => Ok(GivenName(text.to_owned())),
        }
    }
}

/// Declares a closed list of words.
macro_rules! words {
    ($( $(#[$meta:meta])* $name:ident, $what:literal { $( $word:literal => $variant:ident, )+ } )+) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(super) enum $name { $( $variant, )+ }

            impl $name {
                /// The words it knows.
                pub(super) const WORDS: &'static [&'static str] = &[ $( $word, )+ ];
            }

            impl FromText for $name {
                const WHAT: &'static str = $what;

                fn from_text(text: &str) -> Result<$name, Complaint> {
                    match text {
                        $( $word => Ok($name::$variant), )+
                        other => Err(Complaint {
                            message: None,
                            remedy: did_you_mean(other, $name::WORDS.iter().copied()),
                        }),
                    }
                }
            }
        )+
    };
}

words! {
    /// `mode:` of a rule.
    RuleMode, "`enforce` or `shadow`" { "enforce" => Enforce, "shadow" => Shadow, }
    /// `mode:` of a limit.
    LimitMode, "`enforce`, `shadow` or `disabled`" {
        "enforce" => Enforce, "shadow" => Shadow, "disabled" => Disabled,
    }
    /// `window:` of a rate.
    WindowWord, "`bucket`, `sliding` or `fixed`" {
        "bucket" => Bucket, "sliding" => Sliding, "fixed" => Fixed,
    }
    /// `per:` of a limit.
    PerWord, "`key`, `tenant`, `plan`, `address`, `route` or `everyone`" {
        "key" => Key, "tenant" => Tenant, "plan" => Plan, "address" => Address, "route" => Route,
        "everyone" => Everyone, "recipient" => Recipient,
    }
    /// `counts:` of a limit.
    CountsWord, "`requests` or `failed_authentication`" {
        "requests" => Requests, "failed_authentication" => FailedAuthentication,
    }
    /// `on_revoke:` of a route.
    OnRevokeWord, "`cut` or `finish`" { "cut" => Cut, "finish" => Finish, }
    /// `answer:` of a route.
    AnswerWord, "`ready`" { "ready" => Ready, }
    /// `idempotency:` of a route.
    IdempotencyWord, "`accept`, `require` or `none`" {
        "accept" => Accept, "require" => Require, "none" => None,
    }
    /// `demand:` of a route's idempotency.
    DemandWord, "`accept` or `require`" { "accept" => Accept, "require" => Require, }
    /// `on_unknown:` of idempotency.
    OnUnknownWord, "`refuse` or `forward`" { "refuse" => Refuse, "forward" => Forward, }
    /// `charge_on:` of a route.
    ChargeWord, "`2xx`, `3xx`, `4xx`, `5xx` or `unknown`" {
        "2xx" => Success, "3xx" => Redirection, "4xx" => ClientError, "5xx" => ServerError,
        "unknown" => Unknown,
    }
    /// `credit:` of a limit.
    CreditWord, "`prepaid`" { "prepaid" => Prepaid, }
    /// `on_store_failure:` of a limit.
    StoreFailureWord, "`local`, `allow` or `deny`" {
        "local" => Local, "allow" => Allow, "deny" => Deny,
    }
    /// `protocol:` of the upstream.
    ProtocolWord, "`http1` or `http2`" {
        "http1" => Http1, "http2" => Http2, "http/1.1" => Http11, "h2" => H2,
    }
    /// `unlisted:` among the tenants.
    UnlistedWord, "`open` or `closed`" { "open" => Open, "closed" => Closed, }
    /// `x-ratelimit:` of the report.
    XRateLimitWord, "`unix`, `seconds` or `none`" {
        "unix" => Unix, "seconds" => Seconds, "none" => None,
    }
    /// `ratelimit:` of the report.
    RateLimitWord, "`draft10` or `none`" { "draft10" => Draft10, "none" => None, }
    /// `spelling:` of the report.
    SpellingWord, "`lower` or `printed`" { "lower" => Lower, "printed" => Printed, }
}

/// A time: RFC 3339, or a date, which stands for its first moment in UTC.
pub(super) fn moment(text: &str) -> Option<Wall> {
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Some(Wall(timestamp.as_millisecond()));
    }
    let date = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() == 10)?;
    let zoned = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Wall(zoned.timestamp().as_millisecond()))
}

/// 64 hex digits.
pub(super) fn secret_digest(text: &str) -> Option<SecretDigest> {
    let mut digest = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(SecretDigest(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromText>(text: &str) -> Option<T> {
        T::from_text(text).ok()
    }

    #[test]
    fn durations_and_sizes_carry_their_unit() {
        assert_eq!(read("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(read("365d"), Some(Duration::from_hours(8760)));
        for wrong in ["5", "s", "1.5s", "-1s", "99999999d", "1 year", "18446744073709551615d"] {
            assert_eq!(read::<Duration>(wrong), None, "{wrong}");
        }
        assert_eq!(read("64KiB"), Some(Size(65_536)));
        assert_eq!(read("1 MB"), Some(Size(1_000_000)));
        assert_eq!(read("none"), Some(SizeOrNone(None)));
        for wrong in ["", "KiB", "1kib", "-1", "18446744073709551615GiB"] {
            assert_eq!(read::<Size>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_network_has_no_bits_beyond_its_prefix() {
        assert_eq!(read::<IpNet>("203.0.113.7").map(|net| net.prefix_len()), Some(32));
        assert_eq!(read::<IpNet>("2001:db8::/32").map(|net| net.prefix_len()), Some(32));
        assert!(IpNet::from_text("10.0.0.1/8").unwrap_err().remedy.unwrap().contains("10.0.0.0/8"));
        for wrong in ["10.0.0", "10.0.0.0/33", "localhost", "010.0.0.1"] {
            assert_eq!(read::<IpNet>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_is_rfc_3339_or_a_date() {
        assert_eq!(moment("1970-01-02"), Some(Wall(86_400_000)));
        assert_eq!(moment("1970-01-01T01:00:00+01:00"), Some(Wall(0)));
        for wrong in ["", "soon", "2026-02-30", "2026-01-01T00:00:00", "1767225600"] {
            assert_eq!(moment(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_have_no_spaces_and_an_end() {
        assert_eq!(read::<GivenName>("sms:send").map(|name| name.0), Some("sms:send".to_owned()));
        for wrong in ["", "a b", "a\tb", "a\u{7}b", &"x".repeat(129)] {
            assert_eq!(read::<GivenName>(wrong), None, "{wrong}");
        }
    }
}
