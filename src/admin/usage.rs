//! How much is used: by a key, by a tenant, or of a limit by everyone whom it counts. As JSON, or as CSV for bills.

use serde_json::{Value, json};

use super::AdminState;
use super::answers::Problem;
use super::given::Given;
use super::whose::{self, per_text, subject_text, units_json, units_text};
use crate::clock::{Now, Wall};
use crate::policy::holder::{Holder, Unsaid, tenant_terms};
use crate::policy::keys::KeyIx;
use crate::policy::limit::{Limit, LimitIx, LimitKind};
use crate::policy::order::{Ask, Reading};
use crate::policy::snapshot::{PlanIx, Snapshot, TenantIx};
use crate::store::Ledger;
use crate::telemetry::metrics::mode_name;
use crate::telemetry::rfc3339;

/// Subjects on one page of a limit.
const PAGE: usize = 100;

/// What an answer holds, in either form.
pub(super) enum Told {
    Json(Value),
    Csv(String),
}

/// The form that is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Csv,
}

/// One line: one subject's use of one limit.
struct Row<'p> {
    limit: &'p Limit,
    subject: String,
    reading: Reading,
    resets_at: Option<Wall>,
}

/// `GET /v1/usage`
pub(super) fn usage(
    state: &AdminState,
    policy: &Snapshot,
    mut given: Given,
) -> Result<Told, Problem> {
    let now = state.clock.now();
    let limit = given.text("limit")?.map(|name| whose::limit(policy, &name)).transpose()?;
    let holder = whose::holder(policy, &mut given)?;
    let after = given.text("after")?;
    let form = match given.text("format")?.as_deref() {
        None | Some("json") => Form::Json,
        Some("csv") => Form::Csv,
        Some(_) => return Err(Problem::bad("`format` is json or csv.")),
    };
    given.end()?;
    let reader = Reader { ledger: &state.ledger, policy, now };
    let (rows, next) = match limit {
        Some(ix) if holder == Holder::default() => {
            reader.page(ix, after.as_deref().unwrap_or(""))?
        }
        _ if after.is_some() => {
            return Err(Problem::bad("`after` goes with `limit` alone, whose subjects are paged."));
        }
        Some(ix) => {
            let ask = whose::ask(policy, ix, &holder, now.wall)?;
            (vec![reader.row(ask, &holder)], None)
        }
        None if holder == Holder::default() => {
            let message =
                "Say whose usage: `key`, `tenant`, `plan`, or a `limit` for all of its subjects.";
            return Err(Problem::bad(message));
        }
        None => (reader.all_of(&holder), None),
    };
    Ok(match form {
        Form::Json => Told::Json(json!({
            "at": rfc3339(now.wall),
            "usage": rows.iter().map(Row::json).collect::<Vec<_>>(),
            "next": next,
        })),
        Form::Csv => Told::Csv(csv(&rows)),
    })
}

struct Reader<'p> {
    ledger: &'p Ledger,
    policy: &'p Snapshot,
    now: Now,
}

impl<'p> Reader<'p> {
    /// Every limit that binds the holder and counts it by what is said of it; those that count routes, once a route.
    fn all_of(&self, holder: &Holder) -> Vec<Row<'p>> {
        (0..self.policy.limits.len())
            .filter_map(|at| u16::try_from(at).ok().map(LimitIx))
            .filter(|ix| self.is_told_apart_by(*ix, holder))
            .flat_map(|ix| self.rows(ix, holder))
            .collect()
    }

    /// Whether the limit counts by anything that was said: what counts everyone is nobody's own use.
    fn is_told_apart_by(&self, ix: LimitIx, holder: &Holder) -> bool {
        let per = self.policy.limit(ix).per;
        per.key && holder.key.is_some()
            || per.tenant && holder.tenant.is_some()
            || per.plan && holder.plan.is_some()
            || per.address && holder.address.is_some()
    }

    /// What of this limit counts the holder; nothing where it does not bind, or counts by what is not said.
    fn rows(&self, ix: LimitIx, holder: &Holder) -> Vec<Row<'p>> {
        let limit = self.policy.limit(ix);
        let bound = |holder: Holder| match holder.ask(self.policy, ix, self.now.wall) {
            Ok(Some(ask)) => Some(self.row(ask, &holder)),
            Ok(None) | Err(_) => None,
        };
        if limit.per.route && holder.route.is_none() {
            let routes = limit.routes.iter();
            return routes
                .filter_map(|route| bound(Holder { route: Some(*route), ..*holder }))
                .collect();
        }
        bound(*holder).into_iter().collect()
    }

    fn row(&self, ask: Ask, holder: &Holder) -> Row<'p> {
        let limit = self.policy.limit(ask.limit);
        // The wait of one who asks for everything is the time until everything is free.
        let everything = Ask { weight: ask.ceiling.burst, ..ask };
        let reading = self.ledger.peek(self.now, &everything);
        let resets_at = match limit.kind {
            LimitKind::Quota | LimitKind::Spend => Some(ask.period.until),
            LimitKind::Rate => {
                let wait = reading.wait.filter(|wait| *wait > 0);
                wait.map(|wait| self.now.wall.plus_nanos(wait))
            }
            LimitKind::Concurrent | LimitKind::Credit => None,
        };
        Row { limit, subject: subject_text(self.policy, limit.per, holder), reading, resets_at }
    }

    /// A page of all whom the limit counts, by name, from the first after `after`; and where the next page goes on.
    fn page(&self, ix: LimitIx, after: &str) -> Result<(Vec<Row<'p>>, Option<String>), Problem> {
        let limit = self.policy.limit(ix);
        if limit.per.address {
            return Err(Problem::unfit(
                "subject_missing",
                format!(
                    "The limit {} counts addresses, which are not listed; say which `{}`.",
                    limit.name,
                    Unsaid::Address.name()
                ),
            ));
        }
        let (holders, next) = self.holders(limit, after);
        Ok((holders.iter().flat_map(|holder| self.rows(ix, holder)).collect(), next))
    }

    fn holders(&self, limit: &Limit, after: &str) -> (Vec<Holder>, Option<String>) {
        let policy = self.policy;
        if limit.per.key {
            let names = policy.keys.iter().map(|key| key.id);
            let (places, next) = first_after(names, after);
            let holders = places.into_iter().map(|at| Holder::of_key(policy, KeyIx(at))).collect();
            (holders, next)
        } else if limit.per.tenant {
            let terms = tenant_terms(policy);
            let (places, next) = first_after(policy.tenants.iter().map(|one| &*one.name), after);
            let of = |at: u32| Holder::of_tenant(policy, TenantIx(at), terms[at as usize]);
            (places.into_iter().map(of).collect(), next)
        } else if limit.per.plan {
            let (places, next) = first_after(policy.plans.iter().map(|one| &*one.name), after);
            (places.into_iter().map(|at| Holder::of_plan(policy, PlanIx(at))).collect(), next)
        } else {
            (vec![Holder::default()], None)
        }
    }
}

/// Places of the first names after this one, in their order, and the last of them if there are more.
fn first_after<'n>(
    names: impl Iterator<Item = &'n str>,
    after: &str,
) -> (Vec<u32>, Option<String>) {
    let mut found: Vec<(&str, u32)> =
        names.zip(0..).filter(|(name, _)| after.is_empty() || *name > after).collect();
    let more = found.len() > PAGE;
    if more {
        found.select_nth_unstable(PAGE);
        found.truncate(PAGE);
    }
    found.sort_unstable();
    let next = found.last().filter(|_| more).map(|(name, _)| (*name).to_owned());
    (found.into_iter().map(|(_, at)| at).collect(), next)
}

impl Row<'_> {
    fn json(&self) -> Value {
        let Row { limit, subject, reading, resets_at } = self;
        let kind = limit.kind;
        json!({
            "limit": &*limit.name,
            "kind": kind.name(),
            "per": per_text(limit.per),
            "unit": limit.unit.as_deref(),
            "subject": subject,
            "used": units_json(kind, reading.used),
            "ceiling": units_json(kind, reading.whole),
            "remaining": units_json(kind, reading.remaining),
            "resets_at": resets_at.map(rfc3339),
            "mode": mode_name(limit.mode),
        })
    }

    fn csv(&self) -> [String; 10] {
        let Row { limit, subject, reading, resets_at } = self;
        let kind = limit.kind;
        [
            limit.name.to_string(),
            kind.name().to_owned(),
            per_text(limit.per),
            limit.unit.as_deref().unwrap_or("").to_owned(),
            subject.clone(),
            units_text(kind, reading.used),
            units_text(kind, reading.whole),
            units_text(kind, reading.remaining),
            resets_at.map(rfc3339).unwrap_or_default(),
            mode_name(limit.mode).to_owned(),
        ]
    }
}

/// RFC 4180, with a line of names.
fn csv(rows: &[Row<'_>]) -> String {
    let mut text =
        String::from("limit,kind,per,unit,subject,used,ceiling,remaining,resets_at,mode\r\n");
    for row in rows {
        text += &row.csv().map(|cell| csv_cell(&cell)).join(",");
        text += "\r\n";
    }
    text
}

/// A cell that a spreadsheet would take for a formula is made text.
fn csv_cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_through_all_names_once_in_their_order() {
        let names: Vec<String> = (0..250).rev().map(|n| format!("k{n:03}")).collect();
        let (mut after, mut seen) = (String::new(), Vec::new());
        loop {
            let (places, next) = first_after(names.iter().map(String::as_str), &after);
            seen.extend(places.into_iter().map(|at| names[at as usize].clone()));
            let Some(next) = next else { break };
            after = next;
        }
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(seen, sorted);
    }

    #[test]
    fn a_cell_is_one_cell_and_no_formula() {
        assert_eq!(csv_cell("acme"), "acme");
        assert_eq!(csv_cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv_cell("=1+1"), "'=1+1");
    }
}
