//! What records and answers say again and again, rendered once and kept where the next request finds it: with a connection
//! what is said of its latest client and caller, with a worker what is said of limits under the ceilings that it met.
//! A refrain belongs to one policy and is forgotten with it.

use std::cell::RefCell;
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
use crate::policy::order::{Heard, Line, Reading};
use crate::policy::recall::Recall;
use crate::policy::snapshot::{RouteIx, Snapshot};
use crate::telemetry::record::{
    Caller, LimitPhrase, LimitsMember, Origin, Place, write_host, write_method, write_path,
};

/// The longest host that is remembered, in bytes: longer ones are no names (RFC 1035 §2.3.4).
const LONGEST_HOST: usize = 300;
/// The longest path that is remembered, in bytes: it stays as long as its connection.
const LONGEST_PATH: usize = 256;

/// What the requests of a connection and their records have in common: nearly always all its requests are of one client,
/// and often of one key on one route. 700 instructions a record where they are.
#[derive(Debug, Default)]
pub(crate) struct Refrain {
    policy: MadeOf,
    client: Option<IpAddr>,
    method: Option<Method>,
    /// The client, and then its latest request: the method, the path and the caller, each behind the other from these bytes on.
    place: Vec<u8>,
    method_at: usize,
    path_at: usize,
    /// Where the path ends, if it stands there as it was asked for.
    path_end: Option<usize>,
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
    #[inline]
    fn belong_to(&mut self, policy: &Arc<Snapshot>) {
        if self.policy.was_another(policy) {
            self.forget();
        }
    }

    /// Apart, because every request asks several times whether it has to, and nearly none has.
    #[cold]
    fn forget(&mut self) {
        (self.client, self.host, self.asked) = (None, None, None);
        self.shown.head.forget();
        self.shown.credential.forget();
        if let Some(asking) = &mut self.asking {
            asking.forget();
        }
        self.said.forget();
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
        caller: Option<&Asker>,
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
    pub(super) fn of<'a>(
        &'a mut self,
        policy: &Arc<Snapshot>,
        peer: &Peer,
        facts: &Facts,
        (method, path, host): (&Method, &'a str, &[u8]),
    ) -> Place<'a> {
        self.belong_to(policy);
        if self.client != Some(facts.client) {
            self.client = Some(facts.client);
            self.place.clear();
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
            origin.write(&mut self.place);
            (self.method, self.method_at) = (None, self.place.len());
        }
        if self.method.as_ref() != Some(method) {
            self.method = Some(method.clone());
            self.place.truncate(self.method_at);
            write_method(&mut self.place, method.as_str());
            (self.path_end, self.path_at) = (None, self.place.len());
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
            self.path_end = None;
        }
        self.at(path)
    }

    /// The place with this path in it: 250 instructions a record where it is the latest one's.
    fn at<'a>(&'a mut self, path: &'a str) -> Place<'a> {
        let Refrain { place, path_at, path_end, caller, .. } = self;
        let is_there = |end: usize| place.get(*path_at..end) == Some(path.as_bytes());
        if !path_end.is_some_and(is_there) {
            place.truncate(*path_at);
            *path_end = None;
            if path.len() > LONGEST_PATH {
                return Place::Parts { origin: place, path, caller };
            }
            write_path(place, path);
            // One that is written down in another way cannot be known again.
            *path_end = Some(place.len()).filter(|end| place[*path_at..*end] == *path.as_bytes());
            place.extend_from_slice(caller);
        }
        Place::Whole(place)
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
    sets: [Option<Rc<LimitRefrain>>; SETS],
}

impl Default for LimitRefrains {
    fn default() -> Self {
        LimitRefrains { policy: MadeOf::default(), sets: [const { None }; SETS] }
    }
}

/// What is said of the limits of one request whatever is left of them.
#[derive(Debug)]
pub(super) struct LimitRefrain {
    /// In the order of the asks.
    limits: Box<[Known]>,
    /// For the record.
    pub(super) member: RefCell<LimitsMember>,
    /// For the answer.
    pub(super) fields: Rc<FieldWords>,
}

/// By what a limit is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    limit: LimitIx,
    ceiling: Ceiling,
    /// Nanoseconds of its calendar's period.
    period: u64,
    /// What its reading calls the whole: of credit, the ceiling does not say it.
    whole: u64,
}

impl LimitRefrains {
    /// What is said of the limits that were heard.
    pub(super) fn of(&mut self, policy: &Arc<Snapshot>, heard: Heard<'_>) -> Rc<LimitRefrain> {
        if self.policy.was_another(policy) {
            self.sets.fill_with(|| None);
        }
        let hash = heard.lines().fold(0u64, |hash, Line { ask, .. }| {
            let one = u64::from(ask.limit.0) ^ ask.ceiling.units.rotate_left(32);
            (hash ^ one).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        // The multiplication's upper bits are the mixed ones.
        let set = &mut self.sets[usize::try_from(hash >> 58).unwrap_or(0) % SETS];
        match set {
            Some(refrain) if refrain.is_of(heard) => Rc::clone(refrain),
            _ => Rc::clone(set.insert(Rc::new(LimitRefrain::new(policy, heard)))),
        }
    }
}

impl LimitRefrain {
    fn new(policy: &Snapshot, heard: Heard<'_>) -> LimitRefrain {
        let phrase = |Line { ask, reading }: Line<'_>| {
            let name = &policy.limit(ask.limit).name;
            LimitPhrase::new(name, ask.ceiling.window.kind(), ask.mode, reading.whole)
        };
        LimitRefrain {
            limits: heard.lines().map(Known::of).collect(),
            member: RefCell::new(LimitsMember::new(heard.lines().map(phrase))),
            fields: Rc::new(FieldWords::new(policy, heard)),
        }
    }

    fn is_of(&self, heard: Heard<'_>) -> bool {
        self.limits.iter().copied().eq(heard.lines().map(Known::of))
    }

    /// Whether it is of these readings of the limits that it is of.
    pub(super) fn is_of_wholes(&self, readings: &[Reading]) -> bool {
        self.limits.iter().zip(readings).all(|(known, reading)| known.whole == reading.whole)
    }
}

impl Known {
    fn of(Line { ask, reading }: Line<'_>) -> Known {
        let period = ask.period.length();
        Known { limit: ask.limit, ceiling: ask.ceiling, period, whole: reading.whole }
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
