//! A person at the admin listener while gates die: tops credit up, revokes and restores, each act repeated under its own
//! name until it is acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::desk::Desk;
use crate::scene::Scene;
use crate::support::dice::Dice;
use crate::tally::{Promise, Tally};
use crate::terms::{ONE, VICTIM, tenant};

/// What was acknowledged, and what may have been done without it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Millionths by tenant.
    granted: BTreeMap<String, u64>,
    /// What is being asked for, and not acknowledged.
    asked: Option<Act>,
    revoked: bool,
    acknowledged: usize,
    /// What was asked for and heard about the key, the latest last.
    history: Vec<String>,
}

#[derive(Clone, Debug)]
enum Act {
    TopUp { tenant: String, amount: u64 },
    Revoke,
    Restore,
}

impl Ledger {
    /// Acts until the world ends.
    pub(crate) fn keep(&self, scene: &Scene, mut dice: Dice) {
        let mut number = 0;
        while let Some(door) = scene.enter() {
            let desk = Desk::at(door.admin);
            while scene.is_open(door) {
                let asked = self.inner().asked.clone();
                let act = asked.unwrap_or_else(|| {
                    number += 1;
                    self.next(scene, &mut dice)
                });
                // The same name for the same act, however often it is asked for.
                let id = format!("act-{number}");
                self.inner().asked = Some(act.clone());
                let done = match &act {
                    Act::TopUp { tenant, amount } => desk.top_up(tenant, *amount, &id),
                    Act::Revoke => desk.revoke(VICTIM.0, &id),
                    Act::Restore => desk.restore(VICTIM.0, &id),
                };
                if matches!(act, Act::Revoke | Act::Restore) {
                    let heard = if done { "acknowledged" } else { "not heard of" };
                    let entry = format!("boot {}: {id} {act:?} {heard}", door.boot);
                    self.inner().history.push(entry);
                }
                if done {
                    self.acknowledge(act);
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn next(&self, scene: &Scene, dice: &mut Dice) -> Act {
        if dice.below(4) == 0 {
            return if self.inner().revoked { Act::Restore } else { Act::Revoke };
        }
        let now = scene.tenant.load(Ordering::SeqCst);
        let amount = ONE / 2 * (1 + dice.below(30));
        let whose = if dice.below(5) == 0 { now.saturating_sub(1) } else { now };
        Act::TopUp { tenant: tenant(whose), amount }
    }

    fn acknowledge(&self, act: Act) {
        let mut inner = self.inner();
        inner.asked = None;
        inner.acknowledged += 1;
        match act {
            Act::TopUp { tenant, amount } => *inner.granted.entry(tenant).or_default() += amount,
            Act::Revoke => inner.revoked = true,
            Act::Restore => inner.revoked = false,
        }
    }

    /// Whether all that was acknowledged is there, and nothing that was not asked for.
    pub(crate) fn audit(&self, desk: &Desk, victim_is_revoked: bool, tally: &mut Tally) {
        let inner = self.inner();
        for (tenant, acknowledged) in &inner.granted {
            let maybe = match &inner.asked {
                Some(Act::TopUp { tenant: whose, amount }) if whose == tenant => *amount,
                _ => 0,
            };
            let granted = desk.usage(tenant, "wallet").ceiling;
            if granted != *acknowledged && granted != acknowledged + maybe {
                let what = format!(
                    "{tenant} was topped up by {acknowledged} (and perhaps {maybe}); {granted} is there"
                );
                tally.breach(Promise::Acknowledged, what);
            }
        }
        let in_doubt = matches!(inner.asked, Some(Act::Revoke | Act::Restore));
        if !in_doubt && victim_is_revoked != inner.revoked {
            let latest = &inner.history[inner.history.len().saturating_sub(4)..];
            let what = format!("revoked: {victim_is_revoked}, after {latest:?}");
            tally.breach(Promise::Acknowledged, what);
        }
        tally.acts = inner.acknowledged;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
