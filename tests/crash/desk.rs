//! The admin listener, as far as a crash needs to look at it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::frail::attempt;
use crate::support::{Answer, Request};

/// The admin listener of a running gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Desk {
    address: SocketAddr,
}

/// One limit of one tenant; money in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) used: u64,
    /// For credit: all that was topped up.
    pub(crate) ceiling: u64,
}

/// Money whose outcome nobody knows.
#[derive(Clone, Debug)]
pub(crate) struct Unresolved {
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) route: String,
    pub(crate) request: String,
}

impl Desk {
    pub(crate) fn at(address: SocketAddr) -> Desk {
        Desk { address }
    }

    /// What a tenant used of a limit.
    #[track_caller]
    pub(crate) fn usage(self, tenant: &str, limit: &str) -> Figures {
        let answer = self.get(&format!("/v1/usage?tenant={tenant}&limit={limit}"));
        let figures = &answer["usage"][0];
        Figures { used: millionths(&figures["used"]), ceiling: millionths(&figures["ceiling"]) }
    }

    /// All that is listed as unresolved.
    #[track_caller]
    pub(crate) fn unresolved(self) -> Vec<Unresolved> {
        let answer = self.get("/v1/reservations");
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let entries = answer["reservations"].as_array().cloned().unwrap_or_default();
        let total = answer["reservations_total"].as_u64();
        assert_eq!(total, u64::try_from(entries.len()).ok(), "one answer holds no more");
        let read = |entry: &Value| Unresolved {
            id: text(entry, "id"),
            tenant: text(entry, "tenant"),
            route: text(entry, "route"),
            request: text(entry, "request_id"),
        };
        entries.iter().map(read).collect()
    }

    /// Whether it was acknowledged.
    pub(crate) fn top_up(self, tenant: &str, amount: u64, id: &str) -> bool {
        let amount = format!("{}.{:06}", amount / 1_000_000, amount % 1_000_000);
        let body = json!({ "tenant": tenant, "limit": "wallet", "add": amount });
        self.post("/v1/credit", &body, id)
    }

    /// Whether it was acknowledged.
    pub(crate) fn revoke(self, key: &str, id: &str) -> bool {
        self.post(&format!("/v1/keys/{key}/revoke"), &json!({ "why": "testing" }), id)
    }

    /// Whether it was acknowledged.
    pub(crate) fn restore(self, key: &str, id: &str) -> bool {
        self.post(&format!("/v1/keys/{key}/restore"), &json!({}), id)
    }

    /// Settles what nobody knows; whether it was acknowledged.
    pub(crate) fn resolve(self, entry: &Unresolved, processed: bool) -> bool {
        let how = if processed { "confirm" } else { "release" };
        let name = format!("{how}-{}", entry.id);
        self.post(&format!("/v1/reservations/{}/{how}", entry.id), &json!({}), &name)
    }

    #[track_caller]
    fn get(self, path: &str) -> Value {
        let answer = attempt(self.address, &Request::get(path).host("localhost"))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    fn post(self, path: &str, body: &Value, id: &str) -> bool {
        let request =
            Request::post(path, &body.to_string()).host("localhost").header("Idempotency-Key", id);
        let answer = attempt(self.address, &request);
        let refused = |answer: &Answer| panic!("{path}: {} {}", answer.status, answer.text());
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => true,
            // Only a gate that dies may leave it undone.
            Ok(answer) => refused(&answer),
            Err(_) => false,
        }
    }
}

/// Of a number of units, or of money as decimal text.
fn millionths(value: &Value) -> u64 {
    match value {
        Value::String(text) => {
            let (whole, part) = text.split_once('.').unwrap_or((text, ""));
            let whole: u64 = whole.parse().expect("an amount");
            whole * 1_000_000 + format!("{part:0<6}").parse::<u64>().expect("six places")
        }
        Value::Number(number) => number.as_u64().expect("units are whole"),
        other => panic!("no figure: {other}"),
    }
}
