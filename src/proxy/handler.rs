//! The connection's view of a worker's context: where requests go, and what answers those that never become one.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::client_body::ClientBody;
use super::context::WorkerContext;
use super::exchange::Exchange;
use super::field_text::Legal;
use super::peer::{AtHand, Coming, Handler, Peer};
use super::respond::unasked;
use super::serve::{Answer, serve};
use crate::policy::head::Unchecked;
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::Bounds;

/// How often a worker hands on its records and sweeps.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at exchanges that may have outlived their key by its expiry.
const RECHECK_TICKS: u32 = 10;
/// Ticks in which the sweep goes through all cells once: half a minute. A cell that is made anew for every burst of its
/// subject costs more than one that waits.
const SWEEP_TICKS: usize = 300;
/// The least that one sweep looks at.
const LEAST_SWEEP: usize = 64;
/// The most that it looks at before requests have their turn: some 50 µs.
const SWEEP_PIECE: usize = 512;

/// One worker's handler of requests.
#[derive(Clone)]
pub(crate) struct Gatekeeper(Rc<WorkerContext>);

impl Gatekeeper {
    /// Takes up the work, keeps house every tick, and tells its requests what became durable. To be called inside the worker's runtime.
    pub(crate) fn new(at: WorkerContext) -> Gatekeeper {
        let at = Rc::new(at);
        tokio::task::spawn_local(keep_house(Rc::clone(&at)));
        let words = Rc::clone(&at);
        tokio::task::spawn_local(async move { words.words.hand_out(words.ledger.backing()).await });
        Gatekeeper(at)
    }
}

async fn keep_house(at: Rc<WorkerContext>) {
    let mut ticks: u32 = 0;
    loop {
        tokio::time::sleep(TICK).await;
        ticks = ticks.wrapping_add(1);
        at.records.borrow_mut().flush();
        let now = at.clock.now();
        at.pulse.beat(now.steady);
        if ticks.is_multiple_of(RECHECK_TICKS) {
            at.long_lived.recheck(&at.policy.load(), &at.ledger.overlay(), now.wall);
        }
        if at.sweeps {
            let mut left = (at.ledger.occupancy().cells / SWEEP_TICKS).max(LEAST_SWEEP);
            while left > 0 {
                let piece = left.min(SWEEP_PIECE);
                at.ledger.sweep(now, piece);
                left -= piece;
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Handler for Gatekeeper {
    type End = Exchange;

    fn handle(
        &self,
        peer: Rc<Peer>,
        head: &Unchecked<'_>,
        body: ClientBody,
        at_hand: &mut AtHand<Exchange>,
    ) -> Option<Coming<Exchange>> {
        serve(Rc::clone(&self.0), peer, head, body, at_hand)
    }

    fn panicked(&self) -> Answer {
        self.0.metrics.panic();
        unasked(&self.0, &Refused::because(Refusal::Internal, "a panic"))
    }

    fn unreadable_head(&self, status: u16) -> Vec<u8> {
        let why = match status {
            408 => Refusal::SlowClient,
            414 | 431 => Refusal::HeadTooLarge,
            _ => Refusal::BadRequest,
        };
        let answer = unasked(&self.0, &Refused::because(why, "the head cannot be read"));
        written(answer)
    }

    fn bounds(&self) -> Bounds {
        self.0.policy.load().bounds
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        self.0.policy.load().client_address.trusts(peer)
    }

    fn tls(&self, listener: usize) -> Option<Arc<ServerConfig>> {
        self.0.tls.of(listener)
    }

    fn refresh(&self) {
        let at = &self.0;
        let now = at.clock.now().wall;
        at.long_lived.recheck(&at.policy.load(), &at.ledger.overlay(), now);
    }
}

/// A whole answer as bytes of HTTP/1.1, for connections on which no request can be read.
fn written(answer: Answer) -> Vec<u8> {
    let Answer { mut head, mut body } = answer;
    let body = body.take_full();
    // A refusal with words has said how long they are, one without has not.
    head.fields_mut().remove("content-length");
    head.fields_mut().add_number("content-length", body.len() as u64);
    head.fields_mut().add("connection", Legal::known(b"close"));
    [head.as_bytes(), b"\r\n", &body].concat()
}
