//! `cost:` and `charge_on:` of a route → what a request is charged, and for which outcomes.

use http::HeaderName;

use super::super::problem::{At, Span};
use super::super::raw::{self, Or};
use super::super::read::Many;
use super::super::scalar::ChargeWord;
use super::Desk;
use crate::policy::charge::{ChargeClass, ChargeRule};
use crate::policy::money::Money;

/// `release` is the route's idempotency's to say.
pub(super) fn charge(
    cost: Option<Or<Money, raw::Cost>>,
    charge_on: Option<Many<At<ChargeWord>>>,
    release: Box<[u16]>,
    desk: &mut Desk<'_>,
) -> ChargeRule {
    let (reserve, actual) = match cost {
        None => (Money::ZERO, None),
        Some(Or::One(cost)) => (cost.value, None),
        Some(Or::Map(cost)) => reserved(cost, desk),
    };
    if let Some(words) = &charge_on
        && reserve == Money::ZERO
    {
        desk.findings.warn(
            words.at,
            "this route costs nothing, so there is nothing to charge",
            "add `cost: …`, or take out `charge_on`".to_owned(),
        );
    }
    ChargeRule { reserve, actual, charge_on: charge_on.map(|words| classes(words, desk)), release }
}

fn reserved(cost: raw::Cost, desk: &mut Desk<'_>) -> (Money, Option<HeaderName>) {
    let raw::Cost { at, reserve, actual } = cost;
    let Some(reserve) = reserve else {
        desk.findings.missing(
            at,
            "this does not say what to reserve",
            "write { reserve: 5, actual: { header: X-Cost } }: an answer never costs more",
        );
        return (Money::ZERO, None);
    };
    let actual = actual.and_then(|raw::HeaderPlace { at, header }| {
        if header.is_none() {
            desk.findings.missing(
                at,
                "this does not say where an answer tells its cost",
                "write { header: X-Cost }",
            );
        }
        if reserve.value == Money::ZERO {
            desk.findings.error_with(
                reserve.at,
                "with nothing reserved, nothing would ever be charged",
                "reserve the most that a request can cost".to_owned(),
            );
        }
        header.map(|header| header.value)
    });
    (reserve.value, actual)
}

fn classes(words: Many<At<ChargeWord>>, desk: &mut Desk<'_>) -> Box<[ChargeClass]> {
    if words.items.is_empty() {
        desk.findings.missing(
            words.at,
            "this charges for nothing at all",
            "name outcomes, or write `cost: 0`",
        );
    }
    let mut classes = Vec::new();
    for word in words.items {
        let class = match word.value {
            ChargeWord::Success => ChargeClass::Success,
            ChargeWord::Redirection => ChargeClass::Redirection,
            ChargeWord::ClientError => ChargeClass::ClientError,
            ChargeWord::ServerError => ChargeClass::ServerError,
            ChargeWord::Unknown => ChargeClass::Unknown,
        };
        if classes.contains(&class) {
            desk.findings.error(word.at, "this outcome is named twice");
        } else {
            classes.push(class);
        }
    }
    classes.sort_unstable();
    classes.into()
}

/// Where a cost is written.
pub(super) fn span(cost: Option<&Or<Money, raw::Cost>>) -> Option<Span> {
    match cost? {
        Or::One(cost) => Some(cost.at),
        Or::Map(raw::Cost { reserve: Some(reserve), .. }) => Some(reserve.at),
        Or::Map(map) => Some(map.at),
    }
}
