//! One exchange from its head to the end of its answer's body: the guard that settles the reservation and writes the
//! record exactly once, whoever leaves first.

mod ended;

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderName;
use smallvec::SmallVec;

use super::answer::Head;
use super::context::WorkerContext;
use super::forward::X_REQUEST_ID;
use super::limit_fields::LimitFields;
use super::long_lived::Member;
use super::peer::{AtHand, Peer};
use super::refrain::LimitRefrain;
use super::request_body::BodyWatch;
use super::request_id::RequestId;
use super::respond::Reads;
use super::serve::{Answer, Asked, Facts};
use super::tunnel::{TunnelEnd, Tunnelled};
use crate::clock::{Now, Steady};
use crate::policy::charge::{ChargeRule, Stated, Verdict};
use crate::policy::head::{Seen, Unchecked};
use crate::policy::limit::{LimitIx, Mode};
use crate::policy::money::Money;
use crate::policy::order::Line;
use crate::policy::outcome::Money as Column;
use crate::policy::refusal::{Blame, Refusal, Refused};
use crate::policy::snapshot::Snapshot;
use crate::store::{Completion, Party, Reply, Reservation, StoreFailed};
use crate::telemetry::decision_id::DecisionId;
use crate::telemetry::events::Event;
use crate::telemetry::metrics::{IdempotencyOutcome, Outcome};
use crate::telemetry::record::{Draft, End, Opening, RefusalLine};

/// Status recorded where the client left before there was one to send, as nginx has it.
const CLIENT_LEFT: u16 = 499;

/// The guard. Boxed, because it moves from the request into its answer's body.
#[derive(Debug)]
pub(crate) struct Exchange(Box<Inner>);

struct Inner {
    at: Rc<WorkerContext>,
    started: Now,
    draft: Draft,
    request_id: RequestId,
    route: Option<u32>,
    fields: LimitFields,
    reads: Reads,
    reservation: Option<Reservation>,
    membership: Option<Member>,
    watch: BodyWatch,
    idempotency: Option<IdempotencyOutcome>,
    /// What was reserved of money for it, and what of that stands.
    cost: Option<Money>,
    charged: Option<Money>,
    outcome: Outcome,
    status: u16,
    upstream_status: Option<u16>,
    sent: Option<Steady>,
    answered: Option<Steady>,
    request_bytes: Option<u64>,
    response_bytes: u64,
    end: End,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Exchange {
    /// A request's head has arrived.
    pub(super) fn begin(at: &Rc<WorkerContext>, now: Now) -> Exchange {
        at.in_flight.set(at.in_flight.get() + 1);
        at.metrics.in_flight(1);
        let (draft, at) = (at.records.borrow_mut().draft(), Rc::clone(at));
        // Its memory first: then it is put together there, and not moved.
        let memory = Box::new_uninit();
        Exchange(Box::write(
            memory,
            Inner {
                draft,
                at,
                started: now,
                request_id: RequestId::Nameless,
                route: None,
                fields: LimitFields::default(),
                reads: Reads::Http,
                reservation: None,
                membership: None,
                watch: BodyWatch::default(),
                idempotency: None,
                cost: None,
                charged: None,
                // Until an answer says otherwise: admitted, and the client left before there was one.
                outcome: Outcome::Admitted,
                status: CLIENT_LEFT,
                upstream_status: None,
                sent: None,
                answered: None,
                request_bytes: None,
                response_bytes: 0,
                end: End::ClientLeft,
            },
        ))
    }

    /// Writes down what the decision was made of. Returns what is said of its limits, where that is said at once.
    pub(super) fn decided(
        &mut self,
        policy: &Arc<Snapshot>,
        peer: &Peer,
        (head, seen): (&Unchecked<'_>, &Seen<'_>),
        said: Decided,
        facts: &Facts,
    ) -> Option<Rc<LimitRefrain>> {
        let inner = &mut *self.0;
        let at = &*inner.at;
        let answers = facts.heard();
        let said_of_limits =
            facts.binding.as_ref().filter(|_| !answers.is_empty()).map(|binding| {
                binding
                    .refrain(&facts.readings, || at.limit_refrains.borrow_mut().of(policy, answers))
            });
        let mut member = said_of_limits.as_ref().map(|said| said.member.borrow_mut());
        let mut limits: &[u8] = b"";
        inner.fields.spelling = policy.report.spelling;
        if let (Some(of_limits), Worded::Later) = (&said_of_limits, said.worded) {
            let (words, now) = (&of_limits.fields, inner.started.wall);
            inner.fields = LimitFields::new(&policy.report, words, answers, now);
        }
        if let Some(member) = &mut member
            && inner.draft.is_wanted()
        {
            limits = member.of(&facts.readings);
        }
        inner.request_id = said.request_id;
        inner.reads = said.reads;
        let route = facts.route.map(|ix| policy.route(ix));
        inner.route = route.map(|route| route.slot);
        inner.idempotency = facts.idempotency;
        let money =
            |line: Line<'_>| line.ask.ceiling.window.kind().is_money() && line.reading.admits;
        inner.cost = route
            .map(|route| route.charge.reserve)
            .filter(|cost| *cost > Money::ZERO && answers.lines().any(money));
        let mut headers: SmallVec<[(&str, &[u8]); 4]> = SmallVec::new();
        for name in policy.record.headers.iter().map(HeaderName::as_str) {
            headers.extend(head.fields.first(name).map(|value| (name, value)));
        }
        let mut refrain = peer.refrain.borrow_mut();
        let host = head.target.authority.map_or(seen.host.first(), |host| Some(host.as_bytes()));
        let request = (head.method, head.target.path, host.unwrap_or_default());
        let opening = Opening {
            time: inner.started.wall,
            id: said.id,
            place: refrain.of(policy, peer, facts, request),
            limits,
            shadow: &facts.shadowed,
            request_id: inner.request_id.recorded(),
            headers: &headers,
        };
        at.records.borrow_mut().open(&mut inner.draft, &opening);
        for refusal in &facts.shadowed {
            inner.at.metrics.refusal(inner.route, *refusal, None, Mode::Shadow);
        }
        let in_shadow = facts.binding.as_ref().is_some_and(|binding| binding.has_shadows());
        if in_shadow && facts.asked == Asked::Decided {
            let would_refuse =
                |line: &Line<'_>| line.ask.mode == Mode::Shadow && !line.reading.admits;
            for line in answers.lines().filter(would_refuse) {
                let limit = policy.limit(line.ask.limit);
                let (why, slot) = (limit.kind.refusal(), Some(limit.slot));
                inner.at.metrics.refusal(inner.route, why, slot, Mode::Shadow);
            }
        }
        drop(member);
        match said.worded {
            Worded::AtOnce => said_of_limits,
            Worded::Later => None,
        }
    }

    /// The gate said no.
    pub(super) fn refused(&mut self, policy: &Snapshot, refused: &Refused) {
        self.note(refused, refused.limit.map(|ix| (policy, ix)));
    }

    /// Where what the request takes is put at once.
    pub(super) fn hold(&mut self) -> &mut Option<Reservation> {
        &mut self.0.reservation
    }

    /// Sends what must be durable on its way.
    pub(super) fn commit(&mut self, party: Party, reply: Reply) -> Result<(), StoreFailed> {
        match &mut self.0.reservation {
            Some(reservation) => reservation.commit(&self.0.at.ledger, party, reply),
            None => Err(StoreFailed),
        }
    }

    /// Counts how long the commit took, whether it held or not.
    pub(super) fn waited(&self, since: Steady) {
        let waited = self.0.at.clock.steady().since(since);
        self.0.at.metrics.commit_wait(waited);
    }

    /// The time.
    pub(super) fn steady(&self) -> Steady {
        self.0.at.clock.steady()
    }

    /// Step 8 is behind: whatever had to be durable is.
    pub(super) fn committed(&mut self) {
        if let Some(reservation) = &mut self.0.reservation {
            reservation.committed(&self.0.at.ledger);
        }
    }

    /// The commit failed: everything is given back, rates too.
    pub(super) fn release(&mut self) {
        if let Some(reservation) = self.0.reservation.take() {
            reservation.release(&self.0.at.ledger);
        }
    }

    /// What it holds.
    pub(super) fn held(&self) -> Option<&Reservation> {
        self.0.reservation.as_ref()
    }

    /// What becomes of its claim is known before its answer is over.
    pub(super) fn completed(&mut self, completion: Completion) {
        if let Some(reservation) = &mut self.0.reservation {
            reservation.complete(&self.0.at.ledger, completion);
        }
    }

    /// Hands what it holds to who reads the answer to its end.
    pub(super) fn take_reservation(&mut self) -> Option<Reservation> {
        self.0.reservation.take()
    }

    /// From now on the upstream may see a byte.
    pub(super) fn sending(&mut self, watch: BodyWatch, now: Steady) {
        self.0.watch = watch;
        self.0.sent = Some(now);
        if let Some(reservation) = &mut self.0.reservation {
            reservation.sending();
        }
    }

    /// The outcome is known: the charge is decided.
    pub(super) fn learned(
        &mut self,
        verdict: Verdict,
        rule: &ChargeRule,
        stated: Stated,
        now: Steady,
    ) {
        self.0.answered = Some(now);
        let Some(reservation) = &mut self.0.reservation else { return };
        let settlement = reservation.learned(&self.0.at.ledger, verdict, rule, stated);
        self.0.charged = self.0.cost.map(|cost| match (settlement.money, stated) {
            (Column::Back, _) => Money::ZERO,
            (Column::KeptUpToReserve, Stated::Cost(actual)) => actual.min(cost),
            (Column::Kept | Column::KeptUpToReserve, _) => cost,
        });
        match (self.0.cost, stated) {
            (Some(reserved), Stated::Exceeds(cost)) => {
                self.0.costs_more(&cost.to_string(), reserved);
            }
            (Some(reserved), Stated::Unreadable) => self.0.costs_more("unreadable", reserved),
            (Some(_), Stated::Unasked | Stated::Cost(_)) | (None, _) => {}
        }
    }

    /// Is cut when its caller is no longer admitted.
    pub(super) fn belongs_to(&mut self, membership: Member) {
        self.0.membership = Some(membership);
    }

    /// The fields that limits show on this exchange's answer, whoever words it.
    pub(super) fn fields(&self) -> &LimitFields {
        &self.0.fields
    }

    /// The same, to be moved to the answer.
    pub(super) fn fields_mut(&mut self) -> &mut LimitFields {
        &mut self.0.fields
    }

    /// The id that is returned and forwarded.
    pub(super) fn request_id(&self) -> &RequestId {
        &self.0.request_id
    }

    /// What the caller reads of a refusal.
    pub(super) fn reads(&self) -> Reads {
        self.0.reads
    }

    /// What became of the request's body.
    pub(super) fn watch(&self) -> &BodyWatch {
        &self.0.watch
    }

    /// The gate's own answer goes out: a refusal that was noted, or one that it gives by itself.
    pub(super) fn answered(mut self, at_hand: &mut AtHand<Exchange>) {
        match at_hand {
            AtHand::Nothing => {}
            AtHand::Answer(answer) => {
                self.0.status = answer.status().as_u16();
                self.hang_on(answer);
            }
            // It is spelled as the policy wants it, once and for all.
            AtHand::Formula(formula, end) => {
                self.0.status = formula.status().as_u16();
                *end = Some(self);
            }
        }
    }

    /// The upstream failed, or the request's body did: a late refusal.
    pub(super) fn failed(mut self, refused: &Refused, mut answer: Answer) -> Answer {
        self.note(refused, None);
        self.renote_idempotency(refused.why);
        if refused.why.blame() == Blame::Upstream {
            self.0.at.metrics.upstream_error(refused.why);
        }
        self.0.status = answer.status().as_u16();
        self.hang_on(&mut answer);
        answer
    }

    /// An answer that was given before goes out once more.
    pub(super) fn replayed(mut self, mut answer: Answer) -> Answer {
        let inner = &mut *self.0;
        (inner.status, inner.outcome) = (answer.status().as_u16(), Outcome::Replayed);
        inner.answered.get_or_insert(inner.started.steady);
        inner.sign(&mut answer.head);
        self.hang_on(&mut answer);
        answer
    }

    /// The upstream's answer goes out.
    pub(super) fn delivering(mut self, mut answer: Answer) -> Answer {
        self.admitted(&mut answer.head);
        self.hang_on(&mut answer);
        answer
    }

    /// The upstream's 101 goes out; what follows is [`Exchange::tunnelled`].
    pub(super) fn switching(&mut self, head: &mut Head) {
        self.admitted(head);
        self.0.spell(head);
    }

    fn admitted(&mut self, head: &mut Head) {
        let inner = &mut *self.0;
        let status = head.status().as_u16();
        (inner.status, inner.upstream_status) = (status, Some(status));
        inner.outcome = Outcome::Admitted;
        inner.sign(head);
    }

    /// The tunnel that this exchange became is over.
    pub(super) fn tunnelled(mut self, through: Tunnelled) {
        let inner = &mut *self.0;
        inner.request_bytes = Some(through.up);
        inner.response_bytes = through.down;
        inner.end = match through.end {
            TunnelEnd::Clean => End::Clean,
            TunnelEnd::Broke => End::Broke,
            TunnelEnd::Cut => End::Cut,
        };
    }

    /// What its idempotency key came to turned out later.
    fn renote_idempotency(&mut self, why: Refusal) {
        if let Some(outcome) = IdempotencyOutcome::of(why) {
            self.0.idempotency = Some(outcome);
        }
    }

    fn note(&mut self, refused: &Refused, by: Option<(&Snapshot, LimitIx)>) {
        let inner = &mut *self.0;
        let limit = by.map(|(policy, ix)| policy.limit(ix));
        let line = RefusalLine {
            why: refused.why,
            limit: limit.map(|limit| &*limit.name),
            detail: refused.detail,
        };
        inner.at.records.borrow_mut().refuse(&mut inner.draft, &line);
        inner.outcome = match refused.why.blame() {
            Blame::Client => Outcome::Refused,
            Blame::Upstream | Blame::Gate => Outcome::Failed,
        };
        // What the gate answers by itself was answered when it was decided.
        inner.answered.get_or_insert(inner.started.steady);
        inner.at.metrics.refusal(
            inner.route,
            refused.why,
            limit.map(|limit| limit.slot),
            Mode::Enforce,
        );
    }

    fn hang_on(self, answer: &mut Answer) {
        self.0.spell(&mut answer.head);
        answer.body.hang(self);
    }
}

/// What [`Exchange::decided`] is told of the request.
pub(super) struct Decided {
    /// Its name in the record.
    pub(super) id: DecisionId,
    /// The id that is returned and forwarded.
    pub(super) request_id: RequestId,
    /// What the caller reads of a refusal.
    pub(super) reads: Reads,
    /// When its answer is worded.
    pub(super) worded: Worded,
}

/// When an answer is worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worded {
    /// While what decided it is at hand: it is a refusal.
    AtOnce,
    /// When there is one to pass on, or an admitted request fails.
    Later,
}

impl Inner {
    /// Says what the gate says on every answer that is not its own.
    fn sign(&mut self, head: &mut Head) {
        let fields = head.fields_mut();
        self.fields.give(fields);
        fields.insert(X_REQUEST_ID.as_str(), (&self.request_id).into());
    }

    /// Spells names as the policy wants them.
    fn spell(&self, head: &mut Head) {
        head.spell(self.fields.spelling);
    }

    /// The answer's stated cost does not fit what was reserved.
    fn costs_more(&self, stated: &str, reserved: Money) {
        self.at.metrics.cost_exceeded(self.route);
        let policy = self.at.policy.load();
        let slot = self.route.and_then(|slot| policy.route_slots.get(usize::try_from(slot).ok()?));
        let route = slot.map_or("", |name| name);
        let reserved = reserved.to_string();
        let event = Event::CostExceeded { route, stated, reserved: &reserved };
        self.at.log.say(self.at.clock.now().wall, &event);
    }
}
