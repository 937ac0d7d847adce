//! Revocation by policy: the rules under which a key is revoked without a person.

use super::Name;
use super::limit::{Ceiling, LimitId, Mode};
use super::refusal::Refusal;

/// One rule of `auto_revoke:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationRule {
    /// Its name in the policy.
    pub name: Name,
    /// The identity of its count in the ledger, apart from that of any limit.
    pub id: LimitId,
    /// `Shadow` unless the policy switches it on: then it is logged and counted, and revokes nothing.
    pub mode: Mode,
    /// When it strikes.
    pub when: RevokeWhen,
}

impl RevocationRule {
    /// Whether it asks when a key was last used.
    #[must_use]
    pub fn is_about_disuse(&self) -> bool {
        matches!(self.when, RevokeWhen::Unused(_))
    }
}

/// When a rule strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeWhen {
    /// The key was not used for so many milliseconds; counted from when the gate first saw it, if that is later.
    Unused(i64),
    /// The key was refused for one of these reasons as often as this sliding ceiling says.
    Refused {
        /// How many in any period revoke.
        ceiling: Ceiling,
        /// The reasons that count.
        reasons: Box<[Refusal]>,
    },
}
