//! Limits as compiled: what is counted, for whom, against which ceiling.

use super::Name;
use super::calendar::CalendarIx;
use super::refusal::Refusal;
use super::snapshot::RouteIx;

/// Place of a limit in [`super::snapshot::Snapshot::limits`]; means nothing after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitIx(pub u16);

/// A limit's identity across reloads and restarts: a stable hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitId(pub u64);

/// Who a meter belongs to, across reloads and restarts: a stable hash of the subject's names (key id,
/// tenant, plan, route) or an address prefix. Never made from a secret, so rotation refills nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectKey(pub u128);

/// How use is counted over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// Token bucket: `burst` at once, `units` per `period` drained continuously.
    Bucket,
    /// At most `units` in *any* period; may err towards refusing, never towards admitting.
    Sliding,
    /// At most `units` in each period since 1970 on the steady clock; 2 × `units` can pass across an edge.
    Fixed,
    /// At most `units` open at one moment; time does not help.
    Concurrent,
    /// At most `units` in each period of a calendar.
    Quota(CalendarIx),
    /// At most `units` millionths of money in each period of a calendar.
    Spend(CalendarIx),
    /// At most what was topped up, in millionths; time does not help. The ceiling is the meter's own.
    Prepaid,
}

impl Window {
    /// What is counted: two windows of one kind can be turned into one another, those of two cannot.
    pub const fn kind(self) -> LimitKind {
        match self {
            Window::Bucket | Window::Sliding | Window::Fixed => LimitKind::Rate,
            Window::Concurrent => LimitKind::Concurrent,
            Window::Quota(_) => LimitKind::Quota,
            Window::Spend(_) => LimitKind::Spend,
            Window::Prepaid => LimitKind::Credit,
        }
    }

    /// The calendar whose periods it counts.
    pub const fn calendar(self) -> Option<CalendarIx> {
        match self {
            Window::Quota(calendar) | Window::Spend(calendar) => Some(calendar),
            Window::Bucket
            | Window::Sliding
            | Window::Fixed
            | Window::Concurrent
            | Window::Prepaid => None,
        }
    }
}

/// What a subject may use, as its terms say at the moment of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ceiling {
    /// How use is counted.
    pub window: Window,
    /// Units per period (for `Concurrent`: open at once; for `Spend`: millionths; for `Prepaid`: 0 here, and in a reading
    /// what was topped up). 0 admits nothing.
    pub units: u64,
    /// Length of the period in nanoseconds, at least 1; 0 where the window knows none or a calendar has it.
    pub period: u64,
    /// Size of a bucket in units; equals `units` for every other window.
    pub burst: u64,
}

/// Whether a rule's answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Decides.
    Enforce,
    /// Is computed, logged and counted, and never vetoes.
    Shadow,
}

/// Which facts of a request name the subject. Several together count each combination apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of five named facts, built once by the loader"
)]
pub struct Per {
    /// The key's public id.
    pub key: bool,
    /// The tenant.
    pub tenant: bool,
    /// The caller's plan.
    pub plan: bool,
    /// The client address, IPv6 cut to the configured prefix.
    pub address: bool,
    /// The route.
    pub route: bool,
}

/// What a limit counts, which chooses its refusal and its row in the table of outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitKind {
    /// `rate:`
    Rate,
    /// `concurrent:`
    Concurrent,
    /// `quota:`
    Quota,
    /// `spend:`
    Spend,
    /// `credit:`
    Credit,
}

impl LimitKind {
    /// The word of the policy for it.
    pub const fn name(self) -> &'static str {
        match self {
            LimitKind::Rate => "rate",
            LimitKind::Concurrent => "concurrent",
            LimitKind::Quota => "quota",
            LimitKind::Spend => "spend",
            LimitKind::Credit => "credit",
        }
    }

    /// The refusal of a limit of this kind.
    pub const fn refusal(self) -> Refusal {
        match self {
            LimitKind::Rate => Refusal::Rate,
            LimitKind::Concurrent => Refusal::Concurrent,
            LimitKind::Quota => Refusal::Quota,
            LimitKind::Spend => Refusal::Spend,
            LimitKind::Credit => Refusal::Credit,
        }
    }

    /// Whether it counts money, so that a request takes its `cost` and not its `weight`.
    pub const fn is_money(self) -> bool {
        match self {
            LimitKind::Spend | LimitKind::Credit => true,
            LimitKind::Rate | LimitKind::Concurrent | LimitKind::Quota => false,
        }
    }
}

/// What a limit does while the store has failed. Our own fault is never a 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnStoreFailure {
    /// Goes on deciding in memory; what is used meanwhile may be forgotten by a crash (the default of `rate`).
    Local,
    /// Is not asked.
    Allow,
    /// Refuses with 503 `store_unavailable` (the default of `quota`, `spend` and `credit`).
    Deny,
}

/// What moves the meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counts {
    /// Requests that reach step 7 on a covered route.
    Requests,
    /// Failed authentications, in step 5.
    FailedAuthentication,
}

/// One limit of the policy.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Its name in the policy.
    pub name: Name,
    /// Its identity across reloads.
    pub id: LimitId,
    /// Its kind, which chooses the refusal.
    pub kind: LimitKind,
    /// Whom it counts.
    pub per: Per,
    /// What it counts.
    pub counts: Counts,
    /// Whether it vetoes.
    pub mode: Mode,
    /// What it does while the store has failed; means nothing for `concurrent`, which is never stored.
    pub on_store_failure: OnStoreFailure,
    /// What its units are called (`EUR`, `credits`); `None`: requests.
    pub unit: Option<Name>,
    /// The ceiling of those with no override; `None` where only an override sets one.
    pub ceiling: Option<Ceiling>,
    /// The routes it covers, ascending. Routes hold the reverse list, which is what a request reads.
    pub routes: Box<[RouteIx]>,
    /// Stable place of its metrics, carried over by name through reloads.
    pub slot: u32,
}

/// The ceilings of one kind of caller: one entry a limit, `None` where the limit does not bind it. Callers with
/// the same plan and no override of their own share one `Terms`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Indexed by [`LimitIx`].
    pub ceilings: Box<[Option<Ceiling>]>,
}
