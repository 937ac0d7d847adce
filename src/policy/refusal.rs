//! Every way in which the gate says no, as one closed list. Status, code, words, headers, log word and metric
//! label are exhaustive matches on it: a new refusal does not compile until each has been decided.

use super::limit::LimitIx;

macro_rules! refusals {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:literal, $status:literal, $message:literal; )+) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Refusal { $( $(#[doc = $doc])+ $variant, )+ }

        impl Refusal {
            /// All of them, in the order of their discriminants.
            pub const ALL: &'static [Refusal] = &[ $( Refusal::$variant, )+ ];

            /// The word of the policy (`errors: on:`), of the log and of the metric's label; also the default `code`.
            pub const fn name(self) -> &'static str {
                match self { $( Refusal::$variant => $name, )+ }
            }

            /// The status where the policy gives none.
            pub const fn default_status(self) -> u16 {
                match self { $( Refusal::$variant => $status, )+ }
            }

            /// The message where the policy gives none.
            pub const fn default_message(self) -> &'static str {
                match self { $( Refusal::$variant => $message, )+ }
            }
        }
    };
}

refusals! {
    /// No credential where the policy looks for one.
    KeyMissing = "key_missing", 401, "No API key was given.";
    /// A credential that cannot be one: bad characters, a wrong checksum, two places that disagree.
    KeyMalformed = "key_malformed", 401, "The API key is malformed.";
    /// A credential that no key has.
    KeyUnknown = "key_unknown", 401, "The API key is not known.";
    /// A key before its `not_before`.
    KeyNotYet = "key_not_yet", 401, "The API key is not valid yet.";
    /// A key past its `expires`.
    KeyExpired = "key_expired", 401, "The API key has expired.";
    /// A revoked key.
    KeyRevoked = "key_revoked", 401, "The API key has been revoked.";
    /// The key is good, its tenant is switched off or (with `tenants: closed`) not listed.
    TenantInactive = "tenant_inactive", 403, "The account is not active.";
    /// Too many failed authentications from one address.
    Guessing = "guessing", 429, "Too many failed attempts. Try again later.";
    /// The key lacks the route's scope.
    ScopeDenied = "scope_denied", 403, "The API key does not have the scope that this needs.";
    /// The client's address is on no list that has entries.
    AddressDenied = "address_denied", 403, "Requests from this address are not allowed.";
    /// The path or query names another tenant than the key's.
    TenantDenied = "tenant_denied", 403, "The API key belongs to another account.";
    /// No route has this path.
    RouteUnknown = "route_unknown", 404, "There is nothing at this path.";
    /// The path has routes, none of them for this method.
    MethodUnknown = "method_unknown", 405, "This method is not allowed here.";
    /// A rate limit.
    Rate = "rate", 429, "Too many requests. Try again later.";
    /// A calendar quota.
    Quota = "quota", 429, "The quota of this period is used up.";
    /// A spend cap.
    Spend = "spend", 403, "The spend cap of this period is reached.";
    /// Prepaid credit.
    Credit = "credit", 402, "The balance is insufficient.";
    /// Too many requests open at once.
    Concurrent = "concurrent", 429, "Too many requests at the same time.";
    /// An `Idempotency-Key` that is not one string of 1 to 255 characters.
    IdempotencyMalformed = "idempotency_malformed", 400, "The Idempotency-Key header is malformed.";
    /// A route that demands an `Idempotency-Key`, and none was sent.
    IdempotencyRequired = "idempotency_required", 400, "This request needs an Idempotency-Key header.";
    /// The first request with this key is still under way.
    IdempotencyInFlight = "idempotency_in_flight", 409, "A request with this Idempotency-Key is in progress.";
    /// The key was used for another request.
    IdempotencyMismatch = "idempotency_mismatch", 422, "This Idempotency-Key was used for a different request.";
    /// What became of the first request is not known.
    IdempotencyUnknown = "idempotency_unknown", 409, "The outcome of the first request with this Idempotency-Key is unknown.";
    /// The first request is done; its answer was too large to keep.
    IdempotencyNotReplayable = "idempotency_not_replayable", 409, "The first request with this Idempotency-Key is done; its answer was not kept.";
    /// No room for another record.
    IdempotencyFull = "idempotency_full", 503, "No further Idempotency-Key can be taken now.";
    /// A head that two parsers could read two ways, or that breaks the protocol.
    BadRequest = "bad_request", 400, "The request is malformed.";
    /// A head over the bounds.
    HeadTooLarge = "head_too_large", 431, "The request's head is too large.";
    /// A body over the bound.
    BodyTooLarge = "body_too_large", 413, "The request's body is too large.";
    /// A body that came too slowly.
    SlowClient = "slow_client", 408, "The request did not arrive in time.";
    /// No connection to the upstream: certainly not processed.
    UpstreamUnreachable = "upstream_unreachable", 502, "The upstream cannot be reached.";
    /// The upstream did not answer in time: it may have processed the request.
    UpstreamTimeout = "upstream_timeout", 504, "The upstream did not answer in time.";
    /// The upstream's answer is no HTTP, or broke off.
    UpstreamBroken = "upstream_broken", 502, "The upstream's answer was broken.";
    /// A bound of the gate itself is reached.
    Overloaded = "overloaded", 503, "The gate is overloaded. Try again shortly.";
    /// The store failed, so nothing may be promised.
    StoreUnavailable = "store_unavailable", 503, "The request could not be recorded. Try again shortly.";
    /// The gate is shutting down.
    Draining = "draining", 503, "The gate is shutting down. Try again.";
    /// A bug of ours: the request panicked.
    Internal = "internal", 500, "The gate failed on this request.";
}

/// Who is to blame, which decides log level and alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller, or its key.
    Client,
    /// The backend.
    Upstream,
    /// The gate or its host.
    Gate,
}

impl Refusal {
    /// Who is to blame.
    pub const fn blame(self) -> Blame {
        match self {
            Refusal::KeyMissing
            | Refusal::KeyMalformed
            | Refusal::KeyUnknown
            | Refusal::KeyNotYet
            | Refusal::KeyExpired
            | Refusal::KeyRevoked
            | Refusal::TenantInactive
            | Refusal::Guessing
            | Refusal::ScopeDenied
            | Refusal::AddressDenied
            | Refusal::TenantDenied
            | Refusal::RouteUnknown
            | Refusal::MethodUnknown
            | Refusal::Rate
            | Refusal::Quota
            | Refusal::Spend
            | Refusal::Credit
            | Refusal::Concurrent
            | Refusal::IdempotencyMalformed
            | Refusal::IdempotencyRequired
            | Refusal::IdempotencyInFlight
            | Refusal::IdempotencyMismatch
            | Refusal::IdempotencyUnknown
            | Refusal::IdempotencyNotReplayable
            | Refusal::BadRequest
            | Refusal::HeadTooLarge
            | Refusal::BodyTooLarge
            | Refusal::SlowClient => Blame::Client,
            Refusal::UpstreamUnreachable | Refusal::UpstreamTimeout | Refusal::UpstreamBroken => {
                Blame::Upstream
            }
            Refusal::IdempotencyFull
            | Refusal::Overloaded
            | Refusal::StoreUnavailable
            | Refusal::Draining
            | Refusal::Internal => Blame::Gate,
        }
    }

    /// The refusal whose words this one takes where the policy gives it none of its own: a client should not be
    /// able to tell a typo from a stranger's key unless the policy says so.
    pub const fn follows(self) -> Option<Refusal> {
        match self {
            Refusal::KeyMalformed | Refusal::KeyNotYet => Some(Refusal::KeyUnknown),
            _ => None,
        }
    }

    /// The gRPC status a gRPC caller gets.
    pub const fn grpc_status(self) -> u8 {
        match self {
            Refusal::KeyMissing
            | Refusal::KeyMalformed
            | Refusal::KeyUnknown
            | Refusal::KeyNotYet
            | Refusal::KeyExpired
            | Refusal::KeyRevoked => 16, // UNAUTHENTICATED
            Refusal::TenantInactive
            | Refusal::ScopeDenied
            | Refusal::AddressDenied
            | Refusal::TenantDenied => 7, // PERMISSION_DENIED
            Refusal::Guessing
            | Refusal::Rate
            | Refusal::Quota
            | Refusal::Spend
            | Refusal::Credit
            | Refusal::Concurrent
            | Refusal::BodyTooLarge
            | Refusal::HeadTooLarge => 8, // RESOURCE_EXHAUSTED
            Refusal::RouteUnknown | Refusal::MethodUnknown => 12, // UNIMPLEMENTED
            Refusal::IdempotencyMalformed
            | Refusal::IdempotencyRequired
            | Refusal::IdempotencyMismatch
            | Refusal::BadRequest => 3, // INVALID_ARGUMENT
            Refusal::IdempotencyInFlight
            | Refusal::IdempotencyUnknown
            | Refusal::IdempotencyNotReplayable => 10, // ABORTED
            Refusal::SlowClient | Refusal::UpstreamTimeout => 4,  // DEADLINE_EXCEEDED
            Refusal::IdempotencyFull
            | Refusal::UpstreamUnreachable
            | Refusal::UpstreamBroken
            | Refusal::Overloaded
            | Refusal::StoreUnavailable
            | Refusal::Draining => 14, // UNAVAILABLE
            Refusal::Internal => 13,                              // INTERNAL
        }
    }
}

/// A refusal and what its answer and record need to know about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub why: Refusal,
    /// The limit that refused with the longest wait, if a limit did.
    pub limit: Option<LimitIx>,
    /// Nanoseconds after which the same request would be admitted on an otherwise idle subject; `None` where
    /// time does not help or is not known.
    pub wait: Option<u64>,
    /// What exactly was wrong, for the log; never text of the caller.
    pub detail: &'static str,
}

impl Refused {
    /// A refusal that no limit made.
    pub const fn because(why: Refusal, detail: &'static str) -> Refused {
        Refused { why, limit: None, wait: None, detail }
    }
}
