//! What records and answers say again and again, rendered once and kept where the next request finds it: with a connection
//! what is said of its latest client and caller, with a worker what is said of limits under the ceilings that it met.
//! A refrain belongs to one policy and is forgotten with it.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;

use super::limit_fields::Latest;
use super::made_of::MadeOf;
use super::peer::{ClientHttp, Peer};
use super::respond::demanded_scope;
use super::said::Said;
use super::serve::Facts;
use crate::policy::keys::KeyIx;
use crate::policy::limit::{Ceiling, LimitIx, Mode};
use crate::policy::order::Reading;
use crate::policy::recall::Recall;
use crate::policy::report::{policy_member, state_beginning};
use crate::policy::snapshot::{RouteIx, Snapshot};
use crate::telemetry::record::{Caller, LimitPhrase, Origin};

/// What the requests of a connection and their records have in common: nearly always all its requests are of one client,
/// and often of one key on one route. 700 instructions a record where they are.
#[derive(Debug, Default)]
pub(crate) struct Refrain {
    policy: MadeOf,
    client: Option<IpAddr>,
    origin: Vec<u8>,
    asked: Option<(Option<RouteIx>, Option<KeyIx>)>,
    caller: Vec<u8>,
    /// The credential that came last.
    recall: Recall,
    said: Said,
}

impl Refrain {
    fn belong_to(&mut self, policy: &Arc<Snapshot>) {
        if self.policy.was_another(policy) {
            (self.client, self.asked) = (None, None);
            self.recall.forget();
            self.said.forget();
        }
    }

    /// What the connection presented last under this policy.
    pub(super) fn recall(&mut self, policy: &Arc<Snapshot>) -> &mut Recall {
        self.belong_to(policy);
        &mut self.recall
    }

    /// What the backend is told of its client and its caller.
    pub(super) fn said(&mut self, policy: &Arc<Snapshot>) -> &mut Said {
        self.belong_to(policy);
        &mut self.said
    }

    /// Where a request of `peer` comes from, and who asks for what.
    pub(super) fn of(
        &mut self,
        policy: &Arc<Snapshot>,
        peer: &Peer,
        facts: &Facts,
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
        }
        if self.asked != Some((facts.route, facts.key)) {
            self.asked = Some((facts.route, facts.key));
            self.caller.clear();
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

/// Sets of ceilings that a worker remembers: routes and plans make few, and what finds no place is rendered anew.
const SETS: usize = 64;

/// What a worker's answers and records say of limits.
#[derive(Debug)]
pub(super) struct LimitRefrains {
    policy: MadeOf,
    /// By a hash of what was asked; a newer set takes the place of an older one.
    sets: [LimitRefrain; SETS],
}

impl Default for LimitRefrains {
    fn default() -> Self {
        LimitRefrains {
            policy: MadeOf::default(),
            sets: std::array::from_fn(|_| LimitRefrain::default()),
        }
    }
}

/// What is said of the limits of one request whatever is left of them.
#[derive(Debug, Default)]
pub(super) struct LimitRefrain {
    /// In the order of the readings.
    pub(super) limits: Vec<LimitWords>,
    /// `RateLimit-Policy`; `None` where it is not sent, or no limit is enforced.
    pub(super) policy_field: Option<HeaderValue>,
    /// Where `RateLimit` is put together.
    pub(super) state: Vec<u8>,
    /// What the latest answer showed that left the limits as they were.
    pub(super) latest: Latest,
}

/// What is said of one limit.
#[derive(Debug)]
pub(super) struct LimitWords {
    limit: LimitIx,
    ceiling: Ceiling,
    /// Nanoseconds of its calendar's period.
    period: u64,
    /// For the record.
    pub(super) phrase: LimitPhrase,
    /// For `RateLimit`.
    pub(super) state: Vec<u8>,
    /// `X-RateLimit-Limit`, where this limit is the one that is shown.
    pub(super) most: HeaderValue,
}

impl LimitRefrains {
    /// What is said of the limits that gave these readings.
    pub(super) fn of(&mut self, policy: &Arc<Snapshot>, readings: &[Reading]) -> &mut LimitRefrain {
        if self.policy.was_another(policy) {
            self.sets.fill_with(LimitRefrain::default);
        }
        let hash = readings.iter().fold(0u64, |hash, Reading { limit, ceiling, .. }| {
            let one = u64::from(limit.0) ^ ceiling.units.rotate_left(32);
            (hash ^ one).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        // The multiplication's upper bits are the mixed ones.
        let at = usize::try_from(hash >> 58).unwrap_or(0) % SETS;
        let set = &mut self.sets[at];
        if !set.is_of(readings) {
            *set = LimitRefrain::new(policy, readings);
        }
        set
    }
}

impl LimitRefrain {
    fn new(policy: &Snapshot, readings: &[Reading]) -> LimitRefrain {
        let mut field = Vec::new();
        let limits = readings
            .iter()
            .map(|reading| {
                let limit = policy.limit(reading.limit);
                if reading.mode == Mode::Enforce {
                    policy_member(&mut field, limit, &reading.ceiling, reading.period);
                }
                let kind = reading.ceiling.window.kind();
                LimitWords {
                    limit: reading.limit,
                    ceiling: reading.ceiling,
                    period: reading.period.length(),
                    phrase: LimitPhrase::new(
                        &limit.name,
                        kind,
                        reading.mode,
                        reading.ceiling.whole(),
                    ),
                    state: state_beginning(limit),
                    most: HeaderValue::from(reading.ceiling.burst),
                }
            })
            .collect();
        let sent = policy.report.sends_ratelimit() && !field.is_empty();
        let policy_field = sent.then(|| HeaderValue::try_from(field).ok()).flatten();
        LimitRefrain { limits, policy_field, state: Vec::new(), latest: Latest::default() }
    }

    fn is_of(&self, readings: &[Reading]) -> bool {
        let same = |(words, reading): (&LimitWords, &Reading)| {
            words.limit == reading.limit
                && words.ceiling == reading.ceiling
                && words.period == reading.period.length()
        };
        self.limits.len() == readings.len() && self.limits.iter().zip(readings).all(same)
    }
}
