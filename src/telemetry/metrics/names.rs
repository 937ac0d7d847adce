//! The name, kind and help of every metric, and every label's name, in one place. Base units, counters end in
//! `_total` (Prometheus naming). A label's value is a name of the policy or a word of a closed list, never a caller's.

use prometheus::proto::MetricType;

/// A metric as it is exposed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// Its name.
    pub(super) name: &'static str,
    /// Its kind.
    pub(super) kind: MetricType,
    /// What it says, for people.
    pub(super) help: &'static str,
}

macro_rules! families {
    ($( $constant:ident = $kind:ident $name:literal, $help:literal; )+) => {
        $( pub(super) const $constant: Family =
            Family { name: $name, kind: MetricType::$kind, help: $help }; )+

        /// All of them.
        #[cfg(test)]
        pub(super) const ALL: &[Family] = &[ $( $constant, )+ ];
    };
}

families! {
    REQUESTS = COUNTER "tollgate_requests_total", "Requests that ended, by route, outcome and class of the status.";
    REFUSALS = COUNTER "tollgate_refusals_total", "Refusals by route, reason, limit and mode; shadow ones vetoed nothing.";
    GATE_SECONDS = HISTOGRAM "tollgate_gate_seconds", "Time the gate itself took, by outcome.";
    UPSTREAM_SECONDS = HISTOGRAM "tollgate_upstream_seconds", "Time from the request's first byte upstream to the head of the answer, by route.";
    IN_FLIGHT = GAUGE "tollgate_requests_in_flight", "Requests that are open now.";
    CONNECTIONS = GAUGE "tollgate_connections", "Client connections that are open now.";
    CONNECTIONS_LIMIT = GAUGE "tollgate_connections_limit", "The most client connections that the policy allows.";
    CONNECTIONS_ACCEPTED = COUNTER "tollgate_connections_accepted_total", "Client connections that were accepted.";
    CONNECTIONS_REFUSED = COUNTER "tollgate_connections_refused_total", "Client connections that were closed at once because a bound was reached.";
    UPSTREAM_ERRORS = COUNTER "tollgate_upstream_errors_total", "Requests that the upstream failed, by reason.";
    UPSTREAM_CONNECTIONS = GAUGE "tollgate_upstream_connections", "Connections to the upstream, by state.";
    LIMIT_CEILING = GAUGE "tollgate_limit_ceiling", "Units of each limit where no plan, tenant or key overrides it (plan \"_base\").";
    KEYS = GAUGE "tollgate_keys", "Keys of the policy in force, by state.";
    KEYS_EXPIRING = GAUGE "tollgate_keys_expiring", "Live keys that expire within the time.";
    LAST_LOAD_OK = GAUGE "tollgate_policy_last_load_ok", "1 if the last look at the policy's files led to a policy that is in force, 0 if it was refused.";
    LOADED_AT = GAUGE "tollgate_policy_loaded_timestamp_seconds", "When the policy in force was loaded.";
    RESTART_NEEDED = GAUGE "tollgate_policy_restart_needed", "1 if the policy in force holds a setting that only a restart can change.";
    POLICY_INFO = GAUGE "tollgate_policy_info", "Always 1; digest and generation of the policy in force.";
    STORE_UP = GAUGE "tollgate_store_up", "1 while the store works; once it has failed, 0 until restart.";
    STORE_ERRORS = COUNTER "tollgate_store_errors_total", "Failures of the store, by reason; the first is the last until restart.";
    STORE_SECONDS = HISTOGRAM "tollgate_store_seconds", "Time that requests waited until what they hold was durable.";
    STORE_SYNCS = COUNTER "tollgate_store_syncs_total", "Syncs of the store to its disk.";
    STORE_LAG = GAUGE "tollgate_store_lag_seconds", "Time since uses of rates were last handed to the store; a crash forgets what came since.";
    STATE_FREE = GAUGE "tollgate_state_free_bytes", "Bytes that the file system of the state directory has left for the gate.";
    LIMIT_FALLBACK = GAUGE "tollgate_limit_fallback", "1 while a limit does without the store, as its on_store_failure says.";
    IDEMPOTENCY = COUNTER "tollgate_idempotency_total", "Requests on routes with idempotency keys, by route and what became of them.";
    IDEMPOTENCY_RECORDS = GAUGE "tollgate_idempotency_records", "Idempotency records, by state.";
    IDEMPOTENCY_RECORDS_LIMIT = GAUGE "tollgate_idempotency_records_limit", "The most idempotency records that the policy allows.";
    IDEMPOTENCY_RECORDS_BYTES = GAUGE "tollgate_idempotency_records_bytes", "Bytes of the answers that idempotency records keep.";
    COST_EXCEEDED = COUNTER "tollgate_cost_exceeded_total", "Answers that stated a cost above what was reserved, or none that can be read; the reserve was charged.";
    UNRESOLVED = GAUGE "tollgate_unresolved_reservations", "Charges of requests whose outcome nobody knows, until a person settles them.";
    UNRESOLVED_UNLISTED = COUNTER "tollgate_unresolved_unlisted_total", "Unresolved reservations that left a full list as if they had been confirmed: they stay charged.";
    AUTO_REVOCATIONS = COUNTER "tollgate_auto_revocations_total", "Keys that a rule revoked, or would have revoked in mode shadow.";
    LOG_DROPPED = COUNTER "tollgate_log_dropped_total", "Lines that were not written because their sink was full or failed.";
    PANICS = COUNTER "tollgate_panics_total", "Requests that met a bug of the gate and were answered with 500.";
    BUILD_INFO = GAUGE "tollgate_build_info", "Always 1; version and revision of the gate.";
    PROCESS_CPU = COUNTER "process_cpu_seconds_total", "User and system CPU time spent.";
    PROCESS_OPEN_FDS = GAUGE "process_open_fds", "File descriptors that are open.";
    PROCESS_MAX_FDS = GAUGE "process_max_fds", "The most file descriptors that may be open.";
    PROCESS_RESIDENT = GAUGE "process_resident_memory_bytes", "Resident memory.";
    PROCESS_VIRTUAL = GAUGE "process_virtual_memory_bytes", "Virtual memory.";
    PROCESS_THREADS = GAUGE "process_threads", "Threads.";
    PROCESS_START = GAUGE "process_start_time_seconds", "When the process started, Unix time.";
}

/// The route of requests that no route was found for, and of routes beyond [`MOST_ROUTES`].
pub(super) const UNLISTED: &str = "_unlisted";

/// The most routes that get series of their own; the rest is summed under [`UNLISTED`].
pub(super) const MOST_ROUTES: usize = 1000;

/// The name of the only upstream there is.
pub(super) const UPSTREAM: &str = "default";

/// The plan of a ceiling that nothing overrides.
pub(super) const BASE_PLAN: &str = "_base";

pub(super) mod label {
    //! Labels' names.
    pub(crate) const BEHAVIOUR: &str = "behaviour";
    pub(crate) const CLASS: &str = "class";
    pub(crate) const DIGEST: &str = "digest";
    pub(crate) const GENERATION: &str = "generation";
    pub(crate) const LIMIT: &str = "limit";
    pub(crate) const LISTENER: &str = "listener";
    pub(crate) const MODE: &str = "mode";
    pub(crate) const OP: &str = "op";
    pub(crate) const OUTCOME: &str = "outcome";
    pub(crate) const PLAN: &str = "plan";
    pub(crate) const REASON: &str = "reason";
    pub(crate) const REVISION: &str = "revision";
    pub(crate) const ROUTE: &str = "route";
    pub(crate) const RULE: &str = "rule";
    pub(crate) const SINK: &str = "sink";
    pub(crate) const STATE: &str = "state";
    pub(crate) const STORE: &str = "store";
    pub(crate) const UPSTREAM: &str = "upstream";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const WITHIN: &str = "within";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_end_in_total_and_nothing_else_does() {
        for family in ALL {
            let counter = family.kind == MetricType::COUNTER;
            assert_eq!(family.name.ends_with("_total"), counter, "{}", family.name);
        }
    }

    #[test]
    fn every_metric_has_the_one_prefix_or_is_the_process_s() {
        for family in ALL {
            let prefixed =
                family.name.starts_with("tollgate_") || family.name.starts_with("process_");
            assert!(prefixed, "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
        }
    }
}
