//! What becomes of a charge: the stages of a reservation, the outcomes of a request, and the table that says what is
//! kept and what goes back. Pure data, matched exhaustively, so that a new outcome cannot be forgotten anywhere.

/// Where a reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Taken in memory; nothing durable, nothing sent.
    Held,
    /// What must be durable is; nothing sent.
    Committed,
    /// The backend may have seen a byte.
    Sending,
    /// The charge is decided.
    Known(Outcome),
    /// Everything is given back or kept; nothing can change any more.
    Closed,
}

/// What moves a reservation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The durable record was acknowledged.
    Commit,
    /// The request is handed to a connection. A second attempt after a proof that the first reached nobody is the
    /// same stage again.
    Send,
    /// The outcome is known.
    Learn(Outcome),
    /// The exchange is over, or its guard was dropped.
    Close,
}

impl Stage {
    /// The stage after `step`; `None` where the step is not a legal one, which then changes nothing.
    ///
    /// What was never sent can only turn out as [`Outcome::NotProcessed`]; an outcome once known does not change.
    #[must_use]
    pub fn after(self, step: Step) -> Option<Stage> {
        match (self, step) {
            (Stage::Held, Step::Commit) => Some(Stage::Committed),
            // With nothing to make durable, the commit is empty.
            (Stage::Held | Stage::Committed | Stage::Sending, Step::Send) => Some(Stage::Sending),
            (Stage::Held | Stage::Committed, Step::Learn(Outcome::NotProcessed)) => {
                Some(Stage::Known(Outcome::NotProcessed))
            }
            (Stage::Sending, Step::Learn(outcome)) => Some(Stage::Known(outcome)),
            (Stage::Held | Stage::Committed | Stage::Sending | Stage::Known(_), Step::Close) => {
                Some(Stage::Closed)
            }
            (Stage::Held | Stage::Committed, Step::Learn(_))
            | (Stage::Committed | Stage::Sending, Step::Commit)
            | (Stage::Known(_), Step::Commit | Step::Send | Step::Learn(_))
            | (Stage::Closed, _) => None,
        }
    }

    /// The outcome that a reservation has if it ends here: before anything was sent nothing was processed; from
    /// then on, without word from the backend, nobody knows.
    #[must_use]
    pub fn outcome_if_dropped(self) -> Outcome {
        match self {
            Stage::Held | Stage::Committed => Outcome::NotProcessed,
            Stage::Sending | Stage::Closed => Outcome::Unknown,
            Stage::Known(outcome) => outcome,
        }
    }
}

/// How an admitted request turned out, as far as its charge goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Proved: the connect failed, the system took not one byte, HTTP/2 `REFUSED_STREAM`, or a stream above GOAWAY's
    /// last id. Nothing else is a proof.
    NotProcessed,
    /// A final 2xx or 3xx, or 101.
    Success,
    /// A final 4xx.
    ClientError,
    /// A final 5xx.
    ServerError,
    /// A timeout, a reset or an abort after sending, or a status that HTTP does not define.
    Unknown,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 5] = [
        Outcome::NotProcessed,
        Outcome::Success,
        Outcome::ClientError,
        Outcome::ServerError,
        Outcome::Unknown,
    ];

    /// The outcome that a final status code tells (RFC 9110 §15). An interim one other than 101 tells nothing.
    #[must_use]
    pub fn of_status(status: u16) -> Outcome {
        match status {
            101 | 200..=399 => Outcome::Success,
            400..=499 => Outcome::ClientError,
            500..=599 => Outcome::ServerError,
            _ => Outcome::Unknown,
        }
    }
}

/// Whether a charge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Charge {
    /// It stands.
    Kept,
    /// It is given back to the period that was charged.
    Back,
}

/// Whether money stands, which may be settled below what was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Money {
    /// What was reserved stands.
    Kept,
    /// What the backend says stands, at most what was reserved.
    KeptUpToReserve,
    /// All of it is given back.
    Back,
}

/// What becomes of an idempotency record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// The claim is removed: the next request with this key is a fresh one.
    ClaimRemoved,
    /// The answer is stored once it is complete.
    StoredWhenComplete,
    /// The answer is stored.
    Stored,
    /// Recorded as unknown, never as fresh.
    Unknown,
}

/// One row of the table of outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settlement {
    /// Units of `rate` limits.
    pub rate: Charge,
    /// Units of `quota` limits.
    pub quota: Charge,
    /// Spend and credit.
    pub money: Money,
    /// The idempotency record.
    pub record: Record,
}

/// What becomes of the charges of a request that turned out so, before a route's `charge_on` and `release` change it.
/// A request that the gate itself refused took nothing, so it has no row.
#[must_use]
pub fn settlement(outcome: Outcome) -> Settlement {
    let (quota, money, record) = match outcome {
        Outcome::NotProcessed => (Charge::Back, Money::Back, Record::ClaimRemoved),
        Outcome::Success => (Charge::Kept, Money::KeptUpToReserve, Record::StoredWhenComplete),
        Outcome::ClientError => (Charge::Kept, Money::Back, Record::Stored),
        Outcome::ServerError => (Charge::Kept, Money::Kept, Record::Stored),
        Outcome::Unknown => (Charge::Kept, Money::Kept, Record::Unknown),
    };
    // A rate limits attempts, whatever became of them.
    Settlement { rate: Charge::Kept, quota, money, record }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_never_given_back_by_an_outcome() {
        for outcome in Outcome::ALL {
            assert_eq!(settlement(outcome).rate, Charge::Kept, "{outcome:?}");
        }
    }

    #[test]
    fn quota_goes_back_only_on_proof_and_money_also_on_a_client_error() {
        let back = |f: fn(Settlement) -> bool| {
            Outcome::ALL.into_iter().filter(|o| f(settlement(*o))).collect::<Vec<_>>()
        };
        assert_eq!(back(|s| s.quota == Charge::Back), [Outcome::NotProcessed]);
        assert_eq!(back(|s| s.money == Money::Back), [Outcome::NotProcessed, Outcome::ClientError]);
    }

    #[test]
    fn an_unknown_outcome_keeps_everything_and_is_never_fresh() {
        let row = settlement(Outcome::Unknown);
        assert_eq!((row.quota, row.money), (Charge::Kept, Money::Kept));
        assert_eq!(row.record, Record::Unknown);
    }

    #[test]
    fn every_status_code_has_an_outcome() {
        for (status, outcome) in [
            (0, Outcome::Unknown),
            (100, Outcome::Unknown),
            (101, Outcome::Success),
            (103, Outcome::Unknown),
            (200, Outcome::Success),
            (304, Outcome::Success),
            (399, Outcome::Success),
            (400, Outcome::ClientError),
            (499, Outcome::ClientError),
            (500, Outcome::ServerError),
            (599, Outcome::ServerError),
            (600, Outcome::Unknown),
            (999, Outcome::Unknown),
        ] {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
    }

    #[test]
    fn the_stages_follow_one_another_and_never_go_back() {
        let known = Stage::Known(Outcome::Success);
        for (from, step, to) in [
            (Stage::Held, Step::Commit, Some(Stage::Committed)),
            (Stage::Held, Step::Send, Some(Stage::Sending)),
            (Stage::Committed, Step::Send, Some(Stage::Sending)),
            (Stage::Sending, Step::Send, Some(Stage::Sending)),
            (Stage::Sending, Step::Learn(Outcome::Success), Some(known)),
            (Stage::Sending, Step::Commit, None),
            (Stage::Held, Step::Learn(Outcome::Success), None),
            (known, Step::Learn(Outcome::Unknown), None),
            (known, Step::Send, None),
            (known, Step::Close, Some(Stage::Closed)),
            (Stage::Closed, Step::Send, None),
            (Stage::Closed, Step::Close, None),
        ] {
            assert_eq!(from.after(step), to, "{from:?} {step:?}");
        }
    }

    #[test]
    fn dropped_before_sending_is_not_processed_and_from_then_on_unknown() {
        assert_eq!(Stage::Held.outcome_if_dropped(), Outcome::NotProcessed);
        assert_eq!(Stage::Committed.outcome_if_dropped(), Outcome::NotProcessed);
        assert_eq!(Stage::Sending.outcome_if_dropped(), Outcome::Unknown);
        let known = Stage::Known(Outcome::ClientError);
        assert_eq!(known.outcome_if_dropped(), Outcome::ClientError);
    }
}
