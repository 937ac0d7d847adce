//! What does not decide about callers: listeners, state, workers, bounds, drain, readiness, limit headers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::problem::{At, Span, did_you_mean};
use super::super::raw::{self, Or};
use super::super::read::{Many, not_yet};
use super::super::scalar::{RateLimitWord, Size, SpellingWord, XRateLimitWord};
use super::super::{Overrides, defaults};
use super::limits::{Limits, Named};
use super::{Desk, admin};
use crate::policy::limit::LimitKind;
use crate::policy::report::{RateLimitFields, Report, Spelling, XRateLimit};
use crate::policy::snapshot::{Bounds, Drain, Listener, ListenerTls, Server, StateAt};

pub(super) fn server(
    listen: Option<Many<Or<SocketAddr, raw::Listen>>>,
    admin: Option<Or<String, raw::Admin>>,
    state: Option<Or<String, raw::State>>,
    workers: Option<At<u64>>,
    overrides: &Overrides,
    desk: &mut Desk<'_>,
) -> Server {
    Server {
        listeners: listeners(listen, overrides.listen, desk),
        admin: admin::admin(admin, overrides.admin.as_deref(), desk),
        workers: worker_count(workers, desk),
        state: state_at(state, overrides.state.as_deref(), desk),
    }
}

fn listeners(
    listen: Option<Many<Or<SocketAddr, raw::Listen>>>,
    flag: Option<SocketAddr>,
    desk: &mut Desk<'_>,
) -> Vec<Listener> {
    let plain = |address| Listener { address, tls: None, proxy_protocol: false };
    let mut listeners = match listen {
        None => defaults::LISTEN.parse().map(plain).into_iter().collect(),
        Some(Many { items, at }) => {
            if items.is_empty() {
                desk.findings.error_with(
                    at,
                    "a gate listens somewhere",
                    format!("write `listen: {}`", defaults::LISTEN),
                );
            }
            items.into_iter().filter_map(|item| listener(item, desk)).collect::<Vec<_>>()
        }
    };
    if let Some(address) = flag {
        // The flag moves the first listener; TLS and the PROXY protocol stay what the file says.
        match listeners.as_mut_slice() {
            [first, ..] => first.address = address,
            [] => listeners.push(plain(address)),
        }
        listeners.truncate(1);
    }
    listeners
}

fn listener(item: Or<SocketAddr, raw::Listen>, desk: &mut Desk<'_>) -> Option<Listener> {
    let raw::Listen { at, address, tls, proxy_protocol } = match item {
        Or::One(address) => {
            return Some(Listener { address: address.value, tls: None, proxy_protocol: false });
        }
        Or::Map(map) => map,
    };
    let tls = tls.and_then(|tls| listener_tls(tls, desk));
    let Some(address) = address else {
        desk.findings.error_with(
            at,
            "this listener has no usable `address`",
            format!("write {{ address: {} }}", defaults::LISTEN),
        );
        return None;
    };
    Some(Listener {
        address: address.value,
        tls,
        proxy_protocol: proxy_protocol.is_some_and(|on| on.value),
    })
}

fn listener_tls(tls: raw::ListenTls, desk: &mut Desk<'_>) -> Option<ListenerTls> {
    let raw::ListenTls { at, certificate, key, client_ca } = tls;
    let client_ca = match client_ca {
        Some(path) => Some(Arc::from(desk.named_file(&path)?)),
        None => None,
    };
    let (Some(certificate), Some(key)) = (certificate, key) else {
        desk.findings.error(at, "TLS needs both `certificate` and `key`");
        return None;
    };
    let (chain, key) = (desk.named_file(&certificate), desk.named_file(&key));
    Some(ListenerTls { chain: Arc::from(chain?), key: Arc::from(key?), client_ca })
}

fn worker_count(workers: Option<At<u64>>, desk: &mut Desk<'_>) -> Option<usize> {
    let workers = workers?;
    let count = usize::try_from(workers.value).ok().filter(|count| (1..=1024).contains(count));
    if count.is_none() {
        desk.findings.error_with(
            workers.at,
            "`workers` is a number from 1 to 1024",
            "leave it out for one a core".to_owned(),
        );
    }
    count
}

fn state_at(
    state: Option<Or<String, raw::State>>,
    flag: Option<&str>,
    desk: &mut Desk<'_>,
) -> StateAt {
    match flag {
        Some("memory") => return StateAt::Memory,
        // A flag's path is relative to where the command runs, as every command's are.
        Some(directory) => return StateAt::Directory(directory.into()),
        None => {}
    }
    match state {
        None => StateAt::Directory(desk.beside(defaults::STATE)),
        Some(Or::One(text)) => match text.value.as_str() {
            "memory" => StateAt::Memory,
            "" => {
                desk.findings.error(text.at, "expected `memory` or a directory, found nothing");
                StateAt::Memory
            }
            directory => StateAt::Directory(desk.beside(directory)),
        },
        Some(Or::Map(raw::State { at, redis: _, local: _ })) => {
            desk.findings.error_with(
                at,
                not_yet("stores shared between gates"),
                "use `memory` or a directory".to_owned(),
            );
            StateAt::Memory
        }
    }
}

pub(super) fn bounds(bounds: Option<raw::Bounds>, desk: &mut Desk<'_>) -> Bounds {
    let at = Span { file: 0, start: 0, end: 0 };
    let raw::Bounds {
        at: _,
        head,
        fields,
        target,
        body,
        head_timeout,
        handshake_timeout,
        body_idle,
        keep_alive,
        connections,
        in_flight,
        subjects,
        h2_streams,
    } = bounds.unwrap_or_else(|| raw::Bounds::absent(at));
    let size = |size: At<Size>| At { value: size.value.0, at: size.at };
    let head = head.map(size);
    let target = target.map(size);
    Bounds {
        head: within(head, "head", 1024, 1 << 20, defaults::HEAD, desk),
        fields: within(fields, "fields", 10, 1_000, defaults::FIELDS, desk),
        target: within(target, "target", 64, 1 << 16, defaults::TARGET, desk),
        body: body.and_then(|body| body.value.0),
        head_timeout: lasting(head_timeout, defaults::HEAD_TIMEOUT, desk),
        handshake_timeout: lasting(handshake_timeout, defaults::HANDSHAKE_TIMEOUT, desk),
        body_idle: lasting(body_idle, defaults::BODY_IDLE, desk),
        keep_alive: lasting(keep_alive, defaults::KEEP_ALIVE, desk),
        connections: within(connections, "connections", 1, 10_000_000, defaults::CONNECTIONS, desk),
        in_flight: within(in_flight, "in_flight", 1, 10_000_000, defaults::IN_FLIGHT, desk),
        subjects: within(subjects, "subjects", 1024, 1 << 24, defaults::SUBJECTS, desk),
        h2_streams: u32::try_from(within(h2_streams, "h2_streams", 1, 10_000, 100, desk))
            .unwrap_or(defaults::H2_STREAMS),
    }
}

/// A number between two bounds, both included.
pub(super) fn within(
    given: Option<At<u64>>,
    word: &str,
    least: usize,
    most: usize,
    default: usize,
    desk: &mut Desk<'_>,
) -> usize {
    let Some(given) = given else { return default };
    usize::try_from(given.value)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .unwrap_or_else(|| {
            desk.findings.error(given.at, format!("`{word}` is a number from {least} to {most}"));
            default
        })
}

/// A duration that is longer than nothing.
pub(super) fn lasting(
    given: Option<At<Duration>>,
    default: Duration,
    desk: &mut Desk<'_>,
) -> Duration {
    match given {
        None => default,
        Some(given) if given.value.is_zero() => {
            desk.findings.error(given.at, "a time-out of nothing would refuse everything");
            default
        }
        Some(given) => given.value,
    }
}

pub(super) fn drain(drain: Option<&raw::Drain>) -> Drain {
    let (delay, deadline) = match drain {
        Some(raw::Drain { at: _, delay, deadline }) => (*delay, *deadline),
        None => (None, None),
    };
    Drain {
        delay: delay.map_or(defaults::DRAIN_DELAY, |delay| delay.value),
        deadline: deadline.map_or(defaults::DRAIN_DEADLINE, |deadline| deadline.value),
    }
}

/// What readiness asks.
#[derive(Clone, Copy, Default)]
pub(super) struct Ready {
    pub(super) upstream: bool,
    pub(super) store: bool,
}

pub(super) fn ready(ready: Option<&raw::Ready>) -> Ready {
    let Some(raw::Ready { at: _, upstream, store }) = ready else { return Ready::default() };
    Ready {
        upstream: upstream.is_some_and(|asks| asks.value),
        store: store.is_some_and(|asks| asks.value),
    }
}

pub(super) fn report(report: Option<raw::Report>, limits: &Limits, desk: &mut Desk<'_>) -> Report {
    let mut out = Report {
        x_ratelimit: XRateLimit::Unix,
        of: None,
        retry_after: true,
        ratelimit: RateLimitFields::Draft10,
        spelling: Spelling::Lower,
    };
    let Some(raw::Report { at: _, x_ratelimit, of, retry_after, ratelimit, spelling }) = report
    else {
        return out;
    };
    if let Some(word) = spelling {
        out.spelling = match word.value {
            SpellingWord::Lower => Spelling::Lower,
            SpellingWord::Printed => Spelling::Printed,
        };
    }
    if let Some(word) = x_ratelimit {
        out.x_ratelimit = match word.value {
            XRateLimitWord::Unix => XRateLimit::Unix,
            XRateLimitWord::Seconds => XRateLimit::Seconds,
            XRateLimitWord::None => XRateLimit::None,
        };
    }
    if let Some(word) = ratelimit {
        out.ratelimit = match word.value {
            RateLimitWord::Draft10 => RateLimitFields::Draft10,
            RateLimitWord::None => RateLimitFields::None,
        };
    }
    if let Some(word) = retry_after {
        out.retry_after = word.value;
    }
    if let Some(of) = of {
        match limits.named(&of.value.0) {
            Some(Named::Active(ix)) => match limits.at(ix).kind {
                LimitKind::Rate | LimitKind::Quota => out.of = Some(ix),
                LimitKind::Spend | LimitKind::Credit | LimitKind::Concurrent => {
                    desk.findings.error(of.at, "`of` names a `rate` or a `quota`");
                }
            },
            Some(Named::Disabled) => {
                desk.findings.error(of.at, format!("the limit `{}` is disabled", of.value.0));
            }
            None => desk.findings.error_with(
                of.at,
                format!("there is no limit `{}`", of.value.0),
                did_you_mean(&of.value.0, limits.names()),
            ),
        }
    }
    out
}
