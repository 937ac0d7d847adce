//! What holds where the policy says nothing, each with its reason.

use std::time::Duration;

use crate::policy::idempotency::RecordBounds;

/// Loopback: a gate that nobody configured is reachable by nobody else.
pub(super) const LISTEN: &str = "127.0.0.1:8080";
/// Loopback, where the admin listener needs no token.
pub(super) const ADMIN: &str = "127.0.0.1:9901";
/// Beside the policy file, on disk: state that is forgotten at exit must be asked for.
pub(super) const STATE: &str = "state";

/// Larger than any head that browsers, SDKs and OAuth proxies send; small enough for 10 000 at once (640 MB at worst).
pub(super) const HEAD: usize = 64 * 1024;
/// The usual bound of HTTP libraries on header fields; honest clients send under 40.
pub(super) const FIELDS: usize = 100;
/// RFC 9110 §4.1 asks that 8000 octets be supported.
pub(super) const TARGET: usize = 8_000;
/// A head fits into a few packets; who needs longer is slow on purpose.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Two round trips and a signature, on the worst mobile network.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A body that is silent this long is not coming.
pub(super) const BODY_IDLE: Duration = Duration::from_secs(30);
/// Longer than the 60 s of common balancers, which must be the ones to close first.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Leaves room under the 20 000 file descriptors that two connections per request would take.
pub(super) const CONNECTIONS: usize = 10_000;
/// One for each connection; HTTP/2 clients share it.
pub(super) const IN_FLIGHT: usize = 10_000;
/// Addresses tracked one by one: 65 536 cells of two cache lines are 8 MiB. Beyond, newcomers share by network.
pub(super) const SUBJECTS: usize = 65_536;
/// RFC 9113 §6.5.2 recommends no less than 100.
pub(super) const H2_STREAMS: u32 = 100;

/// One lost SYN is sent again after 1 s: it must get its second chance.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What most clients wait themselves.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Server-sent events are kept alive every 15 s to 2 min by their senders.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_mins(5);
/// As many as a worker has requests open under load; idle ones beyond cost the backend only.
pub(super) const POOL_SIZE: usize = 512;
/// Under the 65 s to 75 s after which common backends close idle connections.
pub(super) const POOL_IDLE: Duration = Duration::from_mins(1);

/// Time for a balancer's next readiness probe, at the common 5 s.
pub(super) const DRAIN_DELAY: Duration = Duration::from_secs(5);
/// Kubernetes kills after 30 s; with the delay's 5 s an operator raises that, or lowers this.
pub(super) const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// A network that a provider gives one customer (RFC 6177 §2 suggests /64 to /48).
pub(super) const V6_PREFIX: u8 = 64;
/// What a route takes from the limits that cover it.
pub(super) const WEIGHT: u64 = 1;
/// The realm of `WWW-Authenticate`.
pub(super) const REALM: &str = "api";

/// Idempotency records: a day of a hundred sends a second for one tenant of ten, with answers of a few hundred bytes.
pub(super) const RECORDS: RecordBounds =
    RecordBounds { records: 1_000_000, per_tenant: 200_000, bytes: 256 * 1024 * 1024 };
/// Clients retry for hours, queues for a night.
pub(super) const KEEP: Duration = Duration::from_hours(24);
/// Answers of an API, not its downloads.
pub(super) const MAX_ANSWER: usize = 256 * 1024;
