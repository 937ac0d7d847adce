//! Step 9: through to the upstream and back, or into a tunnel.

use std::rc::Rc;

use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;

use super::body::{Body, BodyFate, RequestBody, UpstreamBody};
use super::context::WorkerContext;
use super::cut::Cut;
use super::exchange::Exchange;
use super::forward::{self, Wish};
use super::peer::Peer;
use super::pool::{Processed, SendFailure, Why};
use super::serve::{Admission, Answer, late_refusal};
use super::tunnel;
use crate::policy::charge::Verdict;
use crate::policy::outcome::Outcome;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::OnRevoke;

/// Sends an admitted request on, and passes the answer back. What it returns is small, because hyper moves it about: the
/// rest is boxed, and its memory goes from request to request.
pub(super) fn pass(
    at: Rc<WorkerContext>,
    peer: Rc<Peer>,
    mut request: Request<RequestBody>,
    admission: Admission,
    mut exchange: Exchange,
) -> impl Future<Output = Answer> {
    // Taken out of the request in any case: what hyper hangs on it is for this hop alone.
    let client = hyper::upgrade::on(&mut request);
    exchange.sending(request.body().watch(), at.clock.steady());
    let sending = Box::pin(admission.pool.send(request, admission.response_timeout));
    async move {
        let sent = sending.await;
        let now = at.clock.steady();
        match sent {
            Ok(response) => {
                exchange.learned(Verdict::of_status(response.status().as_u16()), now);
                deliver(&at, &peer, client, response, &admission, exchange)
            }
            Err(failure) => {
                exchange.learned(Verdict::without_head(outcome_of(&failure)), now);
                let refused = blamed(&failure, exchange.watch().fate());
                let answer = late_refusal(&at, &exchange, &refused);
                exchange.failed(&refused, answer)
            }
        }
    }
}

fn deliver(
    at: &Rc<WorkerContext>,
    peer: &Rc<Peer>,
    client: OnUpgrade,
    mut response: Response<UpstreamBody>,
    admission: &Admission,
    mut exchange: Exchange,
) -> Answer {
    let upstream = hyper::upgrade::on(&mut response);
    let (mut head, body) = response.into_parts();
    forward::response_head(&mut head);
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if switching && admission.wish == Wish::Http {
        let refused =
            Refused::because(Refusal::UpstreamBroken, "the upstream switched protocols unasked");
        let answer = late_refusal(at, &exchange, &refused);
        return exchange.failed(&refused, answer);
    }
    let cut = watched(at, admission, switching, &mut exchange);
    if switching {
        let mut answer = Response::from_parts(head, Body::empty());
        exchange.switching(&mut answer);
        // The connection still counts: the tunnel holds its slot.
        let peer = Rc::clone(peer);
        tokio::task::spawn_local(async move {
            let through = tunnel::carry(client, upstream, cut.unwrap_or_default()).await;
            exchange.tunnelled(through);
            drop(peer);
        });
        return answer;
    }
    let body = match cut {
        Some(cut) => Body::upstream(body).cut_by(cut),
        None => Body::upstream(body),
    };
    exchange.delivering(Response::from_parts(head, body))
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
    let caller = admission.caller.filter(|_| cuts)?;
    let cut = Cut::new();
    exchange.belongs_to(at.long_lived.join(
        caller.secret,
        admission.route,
        admission.client,
        cut.clone(),
    ));
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
    let why = match (body, failure.why) {
        (BodyFate::TooLarge, _) => {
            return Refused::because(Refusal::BodyTooLarge, "the body grew over the route's bound");
        }
        (BodyFate::TooSlow, _) => {
            return Refused::because(Refusal::SlowClient, "the client was silent inside its body");
        }
        (BodyFate::ClientGone, _) => {
            return Refused::because(
                Refusal::BadRequest,
                "the request's body broke off or was framed wrongly",
            );
        }
        (BodyFate::Reading | BodyFate::Complete, why) => why,
    };
    let refusal = match why {
        Why::Unreachable => Refusal::UpstreamUnreachable,
        Why::Timeout => Refusal::UpstreamTimeout,
        Why::Broken => Refusal::UpstreamBroken,
    };
    Refused::because(refusal, failure.detail)
}
