//! Step 9: through to the upstream and back, or into a tunnel.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::StatusCode;

use super::answer::{self, Head};
use super::body::{Body, UpstreamBody};
use super::capture::Capture;
use super::context::WorkerContext;
use super::cut::Cut;
use super::exchange::Exchange;
use super::http1::Upgrading;
use super::idempotent;
use super::peer::{Coming, Peer};
use super::pool::{Departure, Processed, SendFailure, Why};
use super::request_body::BodyFate;
use super::serve::{Admission, Answer, late_refusal};
use super::tunnel;
use crate::killpoint::{self, KillPoint};
use crate::policy::charge::{ChargeRule, Stated, Verdict};
use crate::policy::outcome::Outcome;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::OnRevoke;
use crate::store::Completion;

/// Sends an admitted request on, and passes the answer back. What it returns is small, and moved about: the
/// request is with its connection by then.
pub(super) fn pass(
    at: Rc<WorkerContext>,
    peer: Rc<Peer>,
    departure: Departure,
    client: Option<Upgrading>,
    admission: Box<Admission>,
    mut exchange: Exchange,
) -> impl Future<Output = Answer> {
    killpoint::pass(KillPoint::BeforeSend);
    exchange.sending(departure.body().watch(), at.clock.steady());
    let sending = admission.pool.send(departure, admission.response_timeout);
    async move {
        let sending = std::pin::pin!(sending);
        let sent = killpoint::once_begun(KillPoint::AfterSend, sending).await;
        killpoint::pass(KillPoint::BeforeHead);
        let now = at.clock.steady();
        let free = ChargeRule::default();
        let rule = admission.charge.as_deref().unwrap_or(&free);
        match sent {
            Ok(came) => {
                let verdict = Verdict::of_status(came.status().as_u16());
                let stated = rule.stated(|name| came.head.fields().lines(name.as_str()));
                exchange.learned(verdict, rule, stated, now);
                killpoint::pass(KillPoint::AfterHead);
                deliver(&at, &peer, client, came, &admission, exchange)
            }
            Err(failure) => {
                let verdict = Verdict::without_head(outcome_of(&failure));
                exchange.learned(verdict, rule, Stated::Unasked, now);
                let refused = blamed(&failure, exchange.watch().fate());
                let answer = late_refusal(&at, &mut exchange, &refused);
                exchange.failed(&refused, answer)
            }
        }
    }
}

/// As [`pass`], but it goes on in a task of its own when it is dropped unfinished: what became of money or a claim must be
/// learned when the client has left too.
pub(super) fn pass_in_any_case(
    at: Rc<WorkerContext>,
    peer: Rc<Peer>,
    departure: Departure,
    client: Option<Upgrading>,
    admission: Box<Admission>,
    exchange: Exchange,
) -> InAnyCase {
    InAnyCase(Some(Box::pin(pass(at, peer, departure, client, admission, exchange))))
}

/// See [`pass_in_any_case`].
pub(super) struct InAnyCase(Option<Coming<Exchange>>);

impl Future for InAnyCase {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        // Not there while it runs: what has panicked does not go on.
        let Some(mut passing) = self.0.take() else { return Poll::Pending };
        let answer = passing.as_mut().poll(cx);
        if answer.is_pending() {
            self.0 = Some(passing);
        }
        answer
    }
}

impl Drop for InAnyCase {
    fn drop(&mut self) {
        if let Some(passing) = self.0.take() {
            // A client that has left takes no answer: dropped, it closes its record.
            tokio::task::spawn_local(async move { drop(passing.await) });
        }
    }
}

fn deliver(
    at: &Rc<WorkerContext>,
    peer: &Rc<Peer>,
    client: Option<Upgrading>,
    came: answer::Answer<UpstreamBody>,
    admission: &Admission,
    mut exchange: Exchange,
) -> Answer {
    let answer::Answer { mut head, body } = came;
    let switching = head.status() == StatusCode::SWITCHING_PROTOCOLS;
    let cut = watched(at, admission, switching, &mut exchange);
    if switching {
        let switched = match client {
            Some(client) => {
                let upstream = body.switched().ok_or("the upstream switched in mid-request");
                upstream.map(|upstream| (client, upstream))
            }
            None => Err("the upstream switched protocols unasked"),
        };
        let (client, upstream) = match switched {
            Ok(both) => both,
            Err(detail) => {
                let refused = Refused::because(Refusal::UpstreamBroken, detail);
                let answer = late_refusal(at, &mut exchange, &refused);
                return exchange.failed(&refused, answer);
            }
        };
        // A tunnel is done as far as repeats go, and nothing of it can be kept.
        exchange.completed(Completion::NotReplayable);
        exchange.switching(&mut head);
        // The connection still counts: the tunnel holds its slot.
        let peer = Rc::clone(peer);
        tokio::task::spawn_local(async move {
            let through = tunnel::carry(client, upstream, cut.unwrap_or_default()).await;
            exchange.tunnelled(through);
            drop(peer);
        });
        return Answer { head, body: Body::empty() };
    }
    let body = match captured(at, peer, &head, admission, &mut exchange) {
        Some(capture) if http_body::Body::is_end_stream(&body) => {
            capture.without_body();
            Body::upstream(body)
        }
        Some(capture) => Body::piped(capture.read(body)),
        None => Body::upstream(body),
    };
    let body = match cut {
        Some(cut) => body.cut_by(cut),
        None => body,
    };
    exchange.delivering(Answer { head, body })
}

/// Who reads the answer of a claimed request.
fn captured(
    at: &Rc<WorkerContext>,
    peer: &Rc<Peer>,
    head: &Head,
    admission: &Admission,
    exchange: &mut Exchange,
) -> Option<Capture> {
    let most = admission.keep_answer?;
    let watch = exchange.watch().clone();
    let reservation = exchange.take_reservation()?;
    let head = idempotent::kept_head(head);
    Some(Capture::new(Rc::clone(at), Rc::clone(peer), reservation, head, most, watch))
}

/// The handle by which an exchange is cut when its caller is no longer admitted; `None` where it may finish.
fn watched(
    at: &WorkerContext,
    admission: &Admission,
    switching: bool,
    exchange: &mut Exchange,
) -> Option<Cut> {
    let cuts = match admission.on_revoke {
        OnRevoke::Cut => true,
        OnRevoke::CutUpgrades => switching,
        OnRevoke::Finish => false,
    };
    let secret = admission.secret.filter(|_| cuts)?;
    let cut = Cut::new();
    exchange.belongs_to(at.long_lived.join(secret, admission.route, admission.client, cut.clone()));
    Some(cut)
}

fn outcome_of(failure: &SendFailure) -> Outcome {
    match failure.processed {
        Processed::NotProcessed => Outcome::NotProcessed,
        Processed::MayHaveBeen => Outcome::Unknown,
    }
}

/// Whose fault a failure is: the client's, where its body failed first.
fn blamed(failure: &SendFailure, body: BodyFate) -> Refused {
    if let Some(refused) = blamed_on_body(body) {
        return refused;
    }
    let refusal = match failure.why {
        Why::Unreachable => Refusal::UpstreamUnreachable,
        Why::Timeout => Refusal::UpstreamTimeout,
        Why::Broken => Refusal::UpstreamBroken,
    };
    Refused::because(refusal, failure.detail)
}

/// What a request's body did wrong; `None` where nothing.
pub(super) fn blamed_on_body(fate: BodyFate) -> Option<Refused> {
    let (why, detail) = match fate {
        BodyFate::TooLarge => (Refusal::BodyTooLarge, "the body grew over the route's bound"),
        BodyFate::TooSlow => (Refusal::SlowClient, "the client was silent inside its body"),
        BodyFate::ClientGone => {
            (Refusal::BadRequest, "the request's body broke off or was framed wrongly")
        }
        BodyFate::Reading | BodyFate::Complete => return None,
    };
    Some(Refused::because(why, detail))
}
