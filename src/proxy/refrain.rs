//! What records and answers say again and again, rendered once and kept where the next request finds it: with a connection
//! what is said of its latest client and caller, with a worker what is said of limits under the ceilings that it met.
//! A refrain belongs to one policy and is forgotten with it.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::Method;

use super::asking::Asking;
use super::limit_fields::FieldWords;
use super::made_of::MadeOf;
use super::peer::{ClientHttp, Peer};
use super::respond::demanded_scope;
use super::said::Said;
use super::serve::Facts;
use crate::clock::Wall;
use crate::policy::authenticate::Caller as Asker;
use crate::policy::fields::is_printable;
use crate::policy::keys::KeyIx;
use crate::policy::known_head::KnownHead;
use crate::policy::limit::{Ceiling, LimitIx};
use crate::policy::order::Reading;
use crate::policy::recall::Recall;
use crate::policy::snapshot::{RouteIx, Snapshot};
use crate::telemetry::record::{
    Caller, LimitPhrase, LimitsMember, Origin, write_host, write_method,
};

/// The longest host that is remembered, in bytes: longer ones are no names (RFC 1035 §2.3.4).
const LONGEST_HOST: usize = 300;

/// What the requests of a connection and their records have in common: nearly always all its requests are of one client,
/// and often of one key on one route. 700 instructions a record where they are.
#[derive(Debug, Default)]
pub(crate) struct Refrain {
    policy: MadeOf,
    client: Option<IpAddr>,
    method: Option<Method>,
    /// The client, and the method from this byte on.
    origin: Vec<u8>,
    method_at: usize,
    host: Option<Vec<u8>>,
    asked: Option<(Option<RouteIx>, Option<KeyIx>)>,
    /// The host, and the caller from this byte on.
    caller: Vec<u8>,
    caller_at: usize,
    /// What the last request showed.
    shown: Shown,
    /// Boxed, and only where limits are asked: a connection may never come that far.
    asking: Option<Box<Asking>>,
    said: Said,
}

/// What the last request of a connection showed, to be known again in the next one.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Its head.
    pub(super) head: KnownHead,
    /// Its credential.
    pub(super) credential: Recall,
}

impl Refrain {
    fn belong_to(&mut self, policy: &Arc<Snapshot>) {
        if self.policy.was_another(policy) {
            (self.client, self.host, self.asked) = (None, None, None);
            self.shown.head.forget();
            self.shown.credential.forget();
            if let Some(asking) = &mut self.asking {
                asking.forget();
            }
            self.said.forget();
        }
    }

    /// What the last request on the connection showed under this policy.
    pub(super) fn shown(&mut self, policy: &Arc<Snapshot>) -> &mut Shown {
        self.belong_to(policy);
        &mut self.shown
    }

    /// What a request asks of the limits.
    pub(super) fn asking(
        &mut self,
        policy: &Arc<Snapshot>,
        route: RouteIx,
        caller: Option<Asker>,
        client: IpAddr,
        now: Wall,
    ) -> &mut Asking {
        self.belong_to(policy);
        let asking = self.asking.get_or_insert_default();
        asking.find(policy, route, caller, client, now);
        asking
    }

    /// What the backend is told of its client and its caller.
    pub(super) fn said(&mut self, policy: &Arc<Snapshot>) -> &mut Said {
        self.belong_to(policy);
        &mut self.said
    }

    /// Where a request of `peer` comes from and with what method, and who asks which host for what.
    pub(super) fn of(
        &mut self,
        policy: &Arc<Snapshot>,
        peer: &Peer,
        facts: &Facts,
        method: &Method,
        host: &[u8],
    ) -> (&[u8], &[u8]) {
        self.belong_to(policy);
        if self.client != Some(facts.client) {
            self.client = Some(facts.client);
            self.origin.clear();
            let protocol = match peer.http {
                ClientHttp::Http1 => "http/1.1",
                ClientHttp::Http2 => "http/2",
            };
            let origin = Origin {
                policy: &policy.digest,
                listener: peer.listener,
                peer: peer.socket,
                client: facts.client,
                protocol,
            };
            origin.write(&mut self.origin);
            (self.method, self.method_at) = (None, self.origin.len());
        }
        if self.method.as_ref() != Some(method) {
            self.method = Some(method.clone());
            self.origin.truncate(self.method_at);
            write_method(&mut self.origin, method.as_str());
        }
        if self.host.as_deref() != Some(host) {
            self.host = Some(host.to_vec()).filter(|host| host.len() <= LONGEST_HOST);
            self.caller.clear();
            write_host(&mut self.caller, asked_host(host));
            (self.asked, self.caller_at) = (None, self.caller.len());
        }
        if self.asked != Some((facts.route, facts.key)) {
            self.asked = Some((facts.route, facts.key));
            self.caller.truncate(self.caller_at);
            let key = facts.key.map(|ix| policy.keys.at(ix));
            let caller = Caller {
                route: facts.route.map(|ix| &*policy.route(ix).name),
                key: key.map(|key| key.id),
                tenant: key.map(|key| &*policy.tenant(key.entitlement.tenant).name),
                plan: key.map(|key| &*policy.plan(key.entitlement.plan).name),
                scope: demanded_scope(policy, facts.route),
            };
            caller.write(&mut self.caller);
        }
        (&self.origin, &self.caller)
    }
}

/// The host of a request as it is written down: without user information, for which the request is refused, and whose password
/// must not be written down; nothing of one that is not printable.
fn asked_host(host: &[u8]) -> Option<&[u8]> {
    let host = Some(host).filter(|host| !host.is_empty() && is_printable(host))?;
    let user = host.iter().rposition(|byte| *byte == b'@');
    user.map_or(Some(host), |at| host.get(at + 1..))
}

/// Sets of ceilings that a worker remembers: routes and plans make few, and what finds no place is rendered anew.
const SETS: usize = 64;

/// What a worker's answers and records say of limits.
#[derive(Debug)]
pub(super) struct LimitRefrains {
    policy: MadeOf,
    /// By a hash of what was asked; a newer set takes the place of an older one.
    sets: [Option<LimitRefrain>; SETS],
    /// The place of the latest one, which is nearly always the next one's.
    latest: usize,
}

impl Default for LimitRefrains {
    fn default() -> Self {
        LimitRefrains { policy: MadeOf::default(), sets: [const { None }; SETS], latest: 0 }
    }
}

/// What is said of the limits of one request whatever is left of them.
#[derive(Debug)]
pub(super) struct LimitRefrain {
    /// In the order of the readings.
    limits: Vec<Known>,
    /// For the record.
    pub(super) member: LimitsMember,
    /// For the answer.
    pub(super) fields: Rc<FieldWords>,
}

/// By what a limit is known again.
#[derive(Debug)]
struct Known {
    limit: LimitIx,
    ceiling: Ceiling,
    /// Nanoseconds of its calendar's period.
    period: u64,
}

impl LimitRefrains {
    /// What is said of the limits that gave these readings.
    pub(super) fn of(&mut self, policy: &Arc<Snapshot>, readings: &[Reading]) -> &mut LimitRefrain {
        if self.policy.was_another(policy) {
            self.sets.fill_with(|| None);
        }
        let is_known =
            |set: &Option<LimitRefrain>| set.as_ref().is_some_and(|set| set.is_of(readings));
        if is_known(&self.sets[self.latest]) {
            return self.at_latest(policy, readings);
        }
        let hash = readings.iter().fold(0u64, |hash, Reading { limit, ceiling, .. }| {
            let one = u64::from(limit.0) ^ ceiling.units.rotate_left(32);
            (hash ^ one).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        // The multiplication's upper bits are the mixed ones.
        self.latest = usize::try_from(hash >> 58).unwrap_or(0) % SETS;
        let set = &mut self.sets[self.latest];
        if !is_known(set) {
            *set = None;
        }
        self.at_latest(policy, readings)
    }

    fn at_latest(&mut self, policy: &Snapshot, readings: &[Reading]) -> &mut LimitRefrain {
        self.sets[self.latest].get_or_insert_with(|| LimitRefrain::new(policy, readings))
    }
}

impl LimitRefrain {
    fn new(policy: &Snapshot, readings: &[Reading]) -> LimitRefrain {
        let known = |reading: &Reading| Known {
            limit: reading.limit,
            ceiling: reading.ceiling,
            period: reading.period.length(),
        };
        let phrase = |reading: &Reading| {
            let (ceiling, name) = (&reading.ceiling, &policy.limit(reading.limit).name);
            LimitPhrase::new(name, ceiling.window.kind(), reading.mode, ceiling.whole())
        };
        LimitRefrain {
            limits: readings.iter().map(known).collect(),
            member: LimitsMember::new(readings.iter().map(phrase)),
            fields: Rc::new(FieldWords::new(policy, readings)),
        }
    }

    fn is_of(&self, readings: &[Reading]) -> bool {
        let same = |(known, reading): (&Known, &Reading)| {
            known.limit == reading.limit
                && known.ceiling == reading.ceiling
                && known.period == reading.period.length()
        };
        self.limits.len() == readings.len() && self.limits.iter().zip(readings).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wording::tests::policy;
    use super::*;
    use crate::policy::keys::SecretDigest;

    #[test]
    fn what_a_connection_presented_under_one_policy_is_forgotten_under_the_next() {
        let [first, second] = [policy(""), policy("")];
        let mut refrain = Refrain::default();
        let mut known = |policy| refrain.shown(policy).credential.of(b"abc").is_some();
        assert!(!known(&first));
        refrain.shown(&first).credential.keep(b"abc", &SecretDigest::sha256(b"abc"));
        let mut known = |policy| refrain.shown(policy).credential.of(b"abc").is_some();
        assert!(known(&first) && !known(&second) && !known(&first));
    }
}
