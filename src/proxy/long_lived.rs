//! Exchanges that may outlive their key: upgrades, and everything on routes with `on_revoke: cut`. Their worker looks at
//! them again within a second of a change, and cuts those whose caller would no longer be admitted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use super::cut::Cut;
use crate::clock::Wall;
use crate::policy::authorize::still_admitted;
use crate::policy::keys::SecretDigest;
use crate::policy::overlay::Overlay;
use crate::policy::snapshot::Snapshot;

/// The long-lived exchanges of one worker.
#[derive(Clone, Debug, Default)]
pub(super) struct LongLived(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    secret: SecretDigest,
    /// Its route's stable place, which a reload keeps.
    route: u32,
    client: IpAddr,
    cut: Cut,
}

impl LongLived {
    /// Adds one; it leaves when the membership is dropped.
    pub(super) fn join(
        &self,
        secret: SecretDigest,
        route: u32,
        client: IpAddr,
        cut: Cut,
    ) -> Member {
        let mut state = self.0.borrow_mut();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Open { secret, route, client, cut });
        Member { of: self.clone(), id }
    }

    /// Cuts those whose secret, key, tenant, route, scope or address the policy no longer admits.
    pub(super) fn recheck(&self, policy: &Snapshot, overlay: &Overlay, now: Wall) {
        let gone = |open: &&Open| {
            still_admitted(policy, overlay, &open.secret, open.route, open.client, now).is_err()
        };
        let cuts: Vec<Cut> =
            self.0.borrow().open.values().filter(gone).map(|open| open.cut.clone()).collect();
        // Outside the borrow: a cut wakes tasks, and a membership that ends takes itself out of the map.
        cuts.iter().for_each(Cut::cut);
    }
}

/// A place among the long-lived exchanges.
#[derive(Debug)]
pub(super) struct Member {
    of: LongLived,
    id: u64,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.of.0.borrow_mut().open.remove(&self.id);
    }
}
