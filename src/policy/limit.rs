//! Limits as compiled: what is counted, for whom, against which ceiling.

use super::Name;
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
    /// At most `units` in each period since the epoch of the steady clock; 2 × `units` can pass across an edge.
    Fixed,
    /// At most `units` open at one moment; time does not help.
    Concurrent,
}

/// What a subject may use, as its terms say at the moment of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ceiling {
    /// How use is counted.
    pub window: Window,
    /// Units per period (for `Concurrent`: open at once). 0 admits nothing.
    pub units: u64,
    /// Length of the period in nanoseconds, at least 1; 0 only for `Concurrent`.
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

/// Which refusal a limit answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// `rate:`
    Rate,
    /// `concurrent:`
    Concurrent,
}

impl LimitKind {
    /// The refusal of a limit of this kind.
    pub const fn refusal(self) -> Refusal {
        match self {
            LimitKind::Rate => Refusal::Rate,
            LimitKind::Concurrent => Refusal::Concurrent,
        }
    }
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
