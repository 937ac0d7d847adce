//! Revocation by rule (`auto_revoke:`): keys that nobody uses, and keys that are refused again and again. A worker counts
//! and reports; the upkeep's thread decides and acts, once a key and rule.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;

use smallvec::smallvec;

use crate::clock::{Now, Wall};
use crate::policy::Name;
use crate::policy::calendar::Period;
use crate::policy::keys::{Key, KeyStatus};
use crate::policy::limit::{LimitId, LimitIx, Mode, OnStoreFailure, SubjectKey};
use crate::policy::order::Ask;
use crate::policy::overlay::{Revoked, RevokedBy};
use crate::policy::refusal::Refusal;
use crate::policy::revocation::{RevocationRule, RevokeWhen};
use crate::policy::snapshot::Snapshot;
use crate::store::{Act, Ledger, Opening, Order};
use crate::telemetry::events::Event;
use crate::telemetry::metrics::mode_name;

use super::watch::Watch;
use super::{Message, Parts};

/// A day in milliseconds.
const DAY: i64 = 86_400_000;

/// Keys that rules about disuse strike in one look. Each is a change of its own of what is revoked; and should the rule
/// be a mistake, somebody can see it before every key is gone.
const A_LOOK: usize = 100;
/// Keys that are looked at before the thread offers its core to workers, which a million would keep from it for longer than a
/// request may wait.
const PIECE: usize = 1024;

/// A key was refused as often as a rule revokes for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strike {
    rule: LimitId,
    key: SubjectKey,
    why: Refusal,
}

/// A worker's way to report keys. Reporting never waits.
#[derive(Clone, Debug)]
pub struct Strikes {
    to: SyncSender<Message>,
}

impl Strikes {
    pub(super) fn new(to: SyncSender<Message>) -> Strikes {
        Strikes { to }
    }

    /// Counts a refusal of this key under every rule that counts refusals of this kind, and reports the key where a rule
    /// revokes for it. For keys that exist; strangers have none. Cheap where no rule counts it.
    pub fn refused(&self, policy: &Snapshot, ledger: &Ledger, now: Now, key: &Key, why: Refusal) {
        for rule in &policy.auto_revoke {
            let RevokeWhen::Refused { reasons, .. } = &rule.when else { continue };
            if reasons.contains(&why)
                && live(key, ledger, now.wall)
                && strikes(ledger, now, rule, key)
            {
                // A full queue has enough to do; this key's next refusal tries again.
                let strike = Strike { rule: rule.id, key: key.subject, why };
                let _ = self.to.try_send(Message::Strike(strike));
            }
        }
    }
}

/// Whether revoking the key would change anything.
fn live(key: &Key, ledger: &Ledger, now: Wall) -> bool {
    key.entitlement.status == KeyStatus::Live
        && key.entitlement.expires.is_none_or(|end| now < end)
        && ledger.overlay().revoked(key.subject).is_none()
}

/// Counts one refusal; whether it makes as many as the rule revokes for.
fn strikes(ledger: &Ledger, now: Now, rule: &RevocationRule, key: &Key) -> bool {
    let Some(ask) = ask(rule, key.subject) else { return false };
    let asks = Rc::new(smallvec![ask]);
    match ledger.open(now, &Order::of(&asks)) {
        Opening::Refused(_) => true,
        Opening::Admitted(_, readings) => readings.iter().any(|reading| reading.remaining == 0),
        Opening::Repeated(..) | Opening::Full(_) | Opening::StoreFailed(_) => false,
    }
}

/// A rule's count of one key, as an ask; `None` for a rule that counts nothing. It has no place in the policy's limits.
pub fn ask(rule: &RevocationRule, key: SubjectKey) -> Option<Ask> {
    let RevokeWhen::Refused { ceiling, .. } = &rule.when else { return None };
    Some(Ask {
        limit: LimitIx(u16::MAX),
        id: rule.id,
        subject: key,
        crowded: None,
        ceiling: *ceiling,
        period: Period::default(),
        weight: 1,
        mode: Mode::Enforce,
        on_store_failure: OnStoreFailure::Local,
    })
}

/// Carries revocations out.
#[derive(Debug, Default)]
pub(super) struct Bailiff {
    /// What `mode: shadow` has said already: once a key and rule, until restart.
    shadowed: HashSet<(LimitId, SubjectKey)>,
    watch: Watch,
}

/// What came of a rule's strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Struck {
    /// The key is revoked, or that it would be is said.
    Now,
    /// There was nothing to do, or it cannot be done yet.
    Spared,
}

impl Bailiff {
    /// A worker reports a key. The policy in force may know neither rule nor key any more.
    pub(super) fn struck(&mut self, parts: &Parts, strike: Strike, now: Now) {
        let policy = parts.policy.load_full();
        let rule = policy.auto_revoke.iter().find(|rule| rule.id == strike.rule);
        let Some(rule) = rule else { return };
        // Before all keys are walked: in shadow a key goes on to be refused, and to be reported.
        if rule.mode == Mode::Shadow && self.shadowed.contains(&(rule.id, strike.key)) {
            return;
        }
        let Some(key) = policy.keys.iter().find(|key| key.subject == strike.key) else { return };
        if let RevokeWhen::Refused { ceiling, .. } = &rule.when {
            let hours = ceiling.period / 3_600_000_000_000;
            let span = match (hours, ceiling.period / 60_000_000_000) {
                (0, 0 | 1) => "a minute".to_owned(),
                (0, minutes) => format!("{minutes} minutes"),
                (1, _) => "an hour".to_owned(),
                (hours, _) => format!("{hours} hours"),
            };
            let why = format!(
                "refused {} times within {span}, last with {}",
                ceiling.units,
                strike.why.name()
            );
            let _ = self.carry_out(parts, rule, &key, &why, now);
        }
    }

    /// Looks at all keys for those that nobody has used for as long as a rule says. A key that was never used counts
    /// from when the gate first saw it, and all of them from when it last looked away for long.
    pub(super) fn look_for_unused(&mut self, parts: &Parts, now: Now) {
        let policy = parts.policy.load_full();
        let asks = |rule: &RevocationRule| matches!(rule.when, RevokeWhen::Unused(_));
        if !policy.auto_revoke.iter().any(asks) {
            self.watch.pause();
            return;
        }
        let watched = self.watch.look(&parts.ledger, now);
        let mut struck = 0;
        for rule in &policy.auto_revoke {
            let RevokeWhen::Unused(longest) = rule.when else { continue };
            for (nth, key) in policy.keys.iter().enumerate() {
                if nth.is_multiple_of(PIECE) {
                    std::thread::yield_now();
                }
                match parts.ledger.last_seen(key.subject) {
                    None => parts.ledger.saw(key.subject, now.wall),
                    Some(at) if now.wall.0.saturating_sub(at.max(watched).0) > longest => {
                        let days = longest / DAY;
                        let span = match days {
                            0 => format!("{} minutes", longest / 60_000),
                            1 => "a day".to_owned(),
                            days => format!("{days} days"),
                        };
                        let why = format!("unused for more than {span}");
                        if self.carry_out(parts, rule, &key, &why, now) == Struck::Now {
                            struck += 1;
                        }
                        if struck >= A_LOOK {
                            return;
                        }
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn carry_out(
        &mut self,
        parts: &Parts,
        rule: &RevocationRule,
        key: &Key,
        why: &str,
        now: Now,
    ) -> Struck {
        if !live(key, &parts.ledger, now.wall) {
            return Struck::Spared;
        }
        match rule.mode {
            Mode::Shadow => {
                if !self.shadowed.insert((rule.id, key.subject)) {
                    return Struck::Spared;
                }
            }
            Mode::Enforce => {
                let revoked = Revoked {
                    key: Name::from(key.id),
                    at: now.wall,
                    by: RevokedBy::Rule(Name::clone(&rule.name)),
                    why: why.into(),
                };
                let act = Act::Revoke { key: key.subject, revoked };
                // Nobody waits for it. If it was not durable, the rule strikes again after the restart.
                if parts.ledger.act(now, act, None, Box::new(|_| {})).is_err() {
                    return Struck::Spared;
                }
                parts.wake.all();
            }
        }
        parts.metrics.auto_revocation(&rule.name, rule.mode);
        let mode = mode_name(rule.mode);
        let event = Event::AutoRevoked { key: key.id, rule: &rule.name, mode, why };
        parts.log.say(now.wall, &event);
        Struck::Now
    }
}
