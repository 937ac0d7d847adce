//! What one request costs, and what a route's own words change in the table of outcomes.

use http::HeaderName;

use super::fields::Lines;
use super::money::Money;
use super::outcome::{Money as Column, Outcome, Record, Settlement, settlement};

/// `cost:`, `charge_on:` and the statuses that free a claim. Shared by the requests of a route, which outlive a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChargeRule {
    /// What is reserved of `spend` and `credit` before the request is forwarded.
    pub reserve: Money,
    /// The answer's header that says what it did cost, at most what was reserved.
    pub actual: Option<HeaderName>,
    /// The outcomes for which money is kept; `None`: as the table of outcomes says.
    pub charge_on: Option<Box<[ChargeClass]>>,
    /// Statuses after which the claim of an idempotency key is removed, ascending.
    pub release: Box<[u16]>,
}

/// One word of `charge_on:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChargeClass {
    /// `2xx`, and 101.
    Success,
    /// `3xx`
    Redirection,
    /// `4xx`
    ClientError,
    /// `5xx`
    ServerError,
    /// `unknown`: a timeout, a reset or an abort after sending.
    Unknown,
}

/// How a request turned out, with the status where there was a final head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its row in the table.
    pub outcome: Outcome,
    /// The status of the final head, or 101.
    pub status: Option<u16>,
}

/// What an answer says of its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stated {
    /// Nothing is asked of it: the reserve stands.
    Unasked,
    /// This much, at most what was reserved.
    Cost(Money),
    /// More than was reserved: the reserve stands, and somebody should know.
    Exceeds(Money),
    /// It is missing, or no single plain amount: the reserve stands, and somebody should know.
    Unreadable,
}

impl Verdict {
    /// What a final head says.
    #[must_use]
    pub fn of_status(status: u16) -> Verdict {
        Verdict { outcome: Outcome::of_status(status), status: Some(status) }
    }

    /// What is known where no head came.
    #[must_use]
    pub fn without_head(outcome: Outcome) -> Verdict {
        Verdict { outcome, status: None }
    }

    fn class(self) -> Option<ChargeClass> {
        match (self.outcome, self.status) {
            (Outcome::NotProcessed, _) => None,
            (Outcome::Success, Some(300..=399)) => Some(ChargeClass::Redirection),
            (Outcome::Success, _) => Some(ChargeClass::Success),
            (Outcome::ClientError, _) => Some(ChargeClass::ClientError),
            (Outcome::ServerError, _) => Some(ChargeClass::ServerError),
            (Outcome::Unknown, _) => Some(ChargeClass::Unknown),
        }
    }
}

impl ChargeRule {
    /// The row of the table of outcomes for this verdict, with this route's words in it. What provably was not
    /// processed is never charged, whatever they say.
    #[must_use]
    pub fn settlement(&self, verdict: Verdict) -> Settlement {
        let mut row = settlement(verdict.outcome);
        if let (Some(charge_on), Some(class)) = (&self.charge_on, verdict.class()) {
            row.money = match (charge_on.contains(&class), row.money) {
                (false, _) => Column::Back,
                (true, Column::Back) => Column::KeptUpToReserve,
                (true, kept) => kept,
            };
        }
        if verdict.status.is_some_and(|status| self.release.binary_search(&status).is_ok()) {
            row.record = Record::ClaimRemoved;
        }
        row
    }

    /// What the answer's head says that the request did cost. `lines` is asked for what the head has of a field.
    #[must_use]
    pub fn stated<'a>(&self, lines: impl FnOnce(&HeaderName) -> Lines<'a>) -> Stated {
        let Some(name) = &self.actual else { return Stated::Unasked };
        let Lines::One(value) = lines(name) else { return Stated::Unreadable };
        let text = str::from_utf8(value).unwrap_or("");
        match Money::parse(text.trim_matches([' ', '\t'])) {
            Ok(cost) if cost <= self.reserve => Stated::Cost(cost),
            Ok(cost) => Stated::Exceeds(cost),
            Err(_) => Stated::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> ChargeRule {
        ChargeRule {
            reserve: Money(5_000_000),
            actual: Some(HeaderName::from_static("x-cost")),
            charge_on: None,
            release: [429, 503].into(),
        }
    }

    #[test]
    fn a_released_status_frees_the_claim_and_nothing_else() {
        let row = rule().settlement(Verdict::of_status(503));
        assert_eq!((row.record, row.money), (Record::ClaimRemoved, Column::Kept));
        assert_eq!(rule().settlement(Verdict::of_status(500)).record, Record::Stored);
    }

    #[test]
    fn charge_on_names_all_that_is_kept_but_never_what_was_not_processed() {
        let classes = [ChargeClass::Success, ChargeClass::ClientError];
        let rule = ChargeRule { charge_on: Some(classes.into()), ..rule() };
        let money = |verdict| rule.settlement(verdict).money;
        assert_eq!(money(Verdict::of_status(200)), Column::KeptUpToReserve);
        assert_eq!(money(Verdict::of_status(302)), Column::Back);
        assert_eq!(money(Verdict::of_status(422)), Column::KeptUpToReserve);
        assert_eq!(money(Verdict::of_status(500)), Column::Back);
        assert_eq!(money(Verdict::without_head(Outcome::Unknown)), Column::Back);
        assert_eq!(money(Verdict::without_head(Outcome::NotProcessed)), Column::Back);
    }

    #[test]
    fn a_stated_cost_is_bounded_by_the_reserve() {
        let stated = |values: &[&'static str]| {
            let mut lines = Lines::None;
            for value in values {
                lines.add(value.as_bytes());
            }
            rule().stated(|name| {
                assert_eq!(name, "x-cost");
                lines
            })
        };
        assert_eq!(stated(&["0.3"]), Stated::Cost(Money(300_000)));
        assert_eq!(stated(&["5"]), Stated::Cost(Money(5_000_000)));
        assert_eq!(stated(&["5.000001"]), Stated::Exceeds(Money(5_000_001)));
        for values in [&[][..], &["-1"], &["1", "1"], &["1e9"], &[""], &["99999999999999999999"]] {
            assert_eq!(stated(values), Stated::Unreadable, "{values:?}");
        }
        let unasked = ChargeRule { actual: None, ..rule() };
        assert_eq!(unasked.stated(|_| Lines::Several(b"1")), Stated::Unasked);
    }
}
