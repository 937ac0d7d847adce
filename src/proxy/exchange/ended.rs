//! The end of an exchange: what it holds is settled, counted and written down, whoever left first.

use super::{Exchange, Inner};
use crate::policy::refusal::Refusal;
use crate::proxy::body::{BodyEnd, OnEnd};
use crate::telemetry::metrics::Outcome;
use crate::telemetry::record::{Closing, End};

impl OnEnd for Exchange {
    fn ended(mut self, how: BodyEnd, bytes: u64) {
        self.0.response_bytes = bytes;
        self.0.end = match how {
            BodyEnd::Clean => End::Clean,
            BodyEnd::Broke => End::Broke,
            BodyEnd::Dropped => End::ClientLeft,
            BodyEnd::Cut => End::Cut,
        };
        if how == BodyEnd::Broke && self.0.outcome == Outcome::Admitted {
            self.0.outcome = Outcome::Failed;
            self.0.at.metrics.upstream_error(Refusal::UpstreamBroken);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Settles, before anything else: a slot must be free when the answer is over.
        if let Some(reservation) = self.reservation.take() {
            reservation.close(&self.at.ledger);
        }
        if std::thread::panicking() {
            (self.outcome, self.status) = (Outcome::Failed, 500);
        }
        let now = self.at.clock.steady();
        let total = now.since(self.started.steady);
        let upstream = self.sent.map(|sent| self.answered.unwrap_or(now).since(sent));
        let before_upstream = self.sent.unwrap_or(now).since(self.started.steady);
        self.at.metrics.request(self.route, self.outcome, self.status, before_upstream, upstream);
        if let Some(outcome) = self.idempotency {
            self.at.metrics.idempotency(self.route, outcome);
        }
        self.at.metrics.in_flight(-1);
        self.at.in_flight.set(self.at.in_flight.get().saturating_sub(1));
        let closing = Closing {
            outcome: self.outcome,
            status: self.status,
            upstream_status: self.upstream_status,
            request_bytes: self.request_bytes.unwrap_or_else(|| self.watch.bytes()),
            response_bytes: self.response_bytes,
            gate_nanos: before_upstream,
            upstream_nanos: upstream,
            total_nanos: total,
            end: self.end,
            idempotency: self.idempotency,
            cost: self.cost,
            charged: self.charged,
        };
        let draft = std::mem::take(&mut self.draft);
        // Borrowed already only if writing a record panicked: then this one is lost with it.
        if let Ok(mut records) = self.at.records.try_borrow_mut() {
            records.close(draft, &closing);
        }
    }
}
