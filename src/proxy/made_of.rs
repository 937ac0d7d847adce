//! The policy of which something that is remembered was made.

use std::sync::{Arc, Weak};

use crate::policy::snapshot::Snapshot;

/// A weak hold, so that what idles keeps no old policy; and no other policy can take its place in memory.
#[derive(Debug, Default)]
pub(super) struct MadeOf(Weak<Snapshot>);

impl MadeOf {
    /// Whether it was another policy than this one, which it is from now on: then what was made of that is to be forgotten.
    #[inline]
    pub(super) fn was_another(&mut self, policy: &Arc<Snapshot>) -> bool {
        let another = self.0.as_ptr() != Arc::as_ptr(policy);
        if another {
            self.0 = Arc::downgrade(policy);
        }
        another
    }
}
