//! Acts on meters: credit topped up, use corrected, counters started anew.

use serde_json::json;

use super::AdminState;
use super::acts::{Deed, Plan, Then};
use super::answers::Problem;
use super::given::Given;
use super::whose::{self, per_text, subject_text, units_json, units_text};
use crate::clock::Now;
use crate::policy::holder::Holder;
use crate::policy::limit::{Limit, LimitKind};
use crate::policy::order::{Ask, Reading};
use crate::policy::snapshot::Snapshot;
use crate::store::{Act, Adjustment, MeterId};

/// The meter that an act is about, as it stands.
struct Target<'p> {
    limit: &'p Limit,
    ask: Ask,
    meter: MeterId,
    subject: String,
    reading: Reading,
}

impl<'p> Target<'p> {
    fn of(
        state: &AdminState,
        policy: &'p Snapshot,
        given: &mut Given,
        now: Now,
    ) -> Result<Target<'p>, Problem> {
        let ix = whose::limit(policy, &given.needed("limit")?)?;
        let limit = policy.limit(ix);
        let holder: Holder = whose::holder(policy, given)?;
        let ask = whose::ask(policy, ix, &holder, now.wall)?;
        Ok(Target {
            limit,
            meter: whose::meter(policy, &ask),
            subject: subject_text(policy, limit.per, &holder),
            reading: state.ledger.peek(now, &ask),
            ask,
        })
    }

    fn to(&self) -> String {
        format!("{} of {} {}", self.limit.name, per_text(self.limit.per), self.subject)
    }

    /// A change of use from what it is to `after`.
    fn deed(&self, act: Act, word: &'static str, after: u64, note: String) -> Plan {
        let kind = self.limit.kind;
        let before = self.reading.used;
        Plan::Do(Box::new(Deed {
            act,
            word,
            to: self.to(),
            before: units_text(kind, before),
            after: units_text(kind, after),
            note,
            answer: json!({
                "limit": &*self.limit.name,
                "subject": self.subject,
                "unit": self.limit.unit.as_deref(),
                "used_before": units_json(kind, before),
                "used_after": units_json(kind, after),
                "ceiling": units_json(kind, self.reading.whole),
                "remaining": units_json(kind, self.reading.whole.saturating_sub(after)),
            }),
            then: Then::Nothing,
        }))
    }
}

/// `POST /v1/credit`
pub(super) fn top_up(
    state: &AdminState,
    policy: &Snapshot,
    mut given: Given,
    now: Now,
) -> Result<Plan, Problem> {
    let target = Target::of(state, policy, &mut given, now)?;
    let add = given.amount("add")?.ok_or_else(|| Problem::bad("The field `add` is missing."))?;
    let note = given.note("note")?;
    given.end()?;
    let limit = target.limit;
    if limit.kind != LimitKind::Credit {
        let kind = limit.kind.name();
        let message = format!("The limit {} is a {kind}; credit is added to `credit`.", limit.name);
        return Err(Problem::unfit("limit_unfit", message));
    }
    let amount = whose::units(limit.kind, "add", &add)?;
    let granted = target.reading.whole;
    let Some(after) = granted.checked_add(amount) else {
        let message = "With this the credit would be more than can be counted.";
        return Err(Problem::unfit("amount_invalid", message));
    };
    let before = units_text(limit.kind, target.reading.remaining);
    let after = units_text(limit.kind, after.saturating_sub(target.reading.used));
    Ok(Plan::Do(Box::new(Deed {
        act: Act::TopUp { meter: target.meter, amount },
        word: "top_up",
        to: target.to(),
        answer: json!({
            "limit": &*limit.name,
            "subject": target.subject,
            "unit": limit.unit.as_deref(),
            "added": units_text(limit.kind, amount),
            "balance_before": before,
            "balance_after": after,
        }),
        before,
        after,
        note,
        then: Then::Nothing,
    })))
}

/// `POST /v1/usage/adjust`
pub(super) fn adjust(
    state: &AdminState,
    policy: &Snapshot,
    mut given: Given,
    now: Now,
) -> Result<Plan, Problem> {
    let target = Target::of(state, policy, &mut given, now)?;
    let (add, remove) = (given.amount("add")?, given.amount("remove")?);
    let note = given.note("note")?;
    given.end()?;
    let limit = target.limit;
    match limit.kind {
        LimitKind::Quota | LimitKind::Spend | LimitKind::Credit => {}
        LimitKind::Rate | LimitKind::Concurrent => {
            let kind = limit.kind.name();
            let message =
                format!("The limit {} is a {kind}, whose use passes by itself.", limit.name);
            return Err(Problem::unfit("limit_unfit", message));
        }
    }
    let used = target.reading.used;
    let (by, after) = match (add, remove) {
        (Some(text), None) => {
            let units = whose::units(limit.kind, "add", &text)?;
            (Adjustment::Add(units), used.saturating_add(units))
        }
        (None, Some(text)) => {
            let units = whose::units(limit.kind, "remove", &text)?;
            (Adjustment::Remove(units), used.saturating_sub(units))
        }
        _ => return Err(Problem::bad("Say one of `add` and `remove`.")),
    };
    let act = Act::Adjust { meter: target.meter, period: target.ask.period, by };
    Ok(target.deed(act, "adjust", after, note))
}

/// `POST /v1/usage/reset`
pub(super) fn reset(
    state: &AdminState,
    policy: &Snapshot,
    mut given: Given,
    now: Now,
) -> Result<Plan, Problem> {
    let target = Target::of(state, policy, &mut given, now)?;
    let note = given.note("note")?;
    given.end()?;
    if target.limit.kind == LimitKind::Concurrent {
        let message = "What is open is counted until it closes; there is nothing to reset.";
        return Err(Problem::unfit("limit_unfit", message));
    }
    Ok(target.deed(Act::Reset { meter: target.meter }, "reset", 0, note))
}
