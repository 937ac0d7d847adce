//! A person at the admin listener who looks after money: tops up, looks at use, settles what nobody knows.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::wire::{Answer, Request, send};

/// Gives every act a name of its own.
static ACTS: AtomicUsize = AtomicUsize::new(0);

/// One limit of one subject; amounts as the gate prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) used: String,
    pub(crate) ceiling: String,
    pub(crate) remaining: String,
    pub(crate) resets_at: Option<String>,
}

/// Somebody at this admin listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clerk(pub(crate) SocketAddr);

impl Clerk {
    /// Adds credit to a tenant's `wallet`.
    #[track_caller]
    pub(crate) fn top_up(self, tenant: &str, amount: &str) {
        self.acts("/v1/credit", &json!({ "tenant": tenant, "limit": "wallet", "add": amount }));
    }

    /// What a `tenant` or a `key` has used of a limit.
    #[track_caller]
    pub(crate) fn figures(self, whose: &str, name: &str, limit: &str) -> Figures {
        let told = self.looks(&format!("/v1/usage?{whose}={name}&limit={limit}"));
        let row = &told["usage"][0];
        let text = |member: &str| match &row[member] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => panic!("{member} is {other} in {told}"),
        };
        Figures {
            used: text("used"),
            ceiling: text("ceiling"),
            remaining: text("remaining"),
            resets_at: row["resets_at"].as_str().map(str::to_owned),
        }
    }

    /// What is left in a tenant's `wallet`.
    #[track_caller]
    pub(crate) fn balance(self, tenant: &str) -> String {
        self.figures("tenant", tenant, "wallet").remaining
    }

    /// The ids of charges whose outcome nobody knows.
    #[track_caller]
    pub(crate) fn unresolved(self) -> Vec<String> {
        let told = self.looks("/v1/reservations");
        let all = told["reservations"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
    }

    /// Says that the request of this charge was not processed.
    #[track_caller]
    pub(crate) fn release(self, id: &str) {
        self.acts(&format!("/v1/reservations/{id}/release"), &json!({}));
    }

    /// Revokes a key over its file.
    #[track_caller]
    pub(crate) fn revoke(self, key: &str) {
        self.acts(&format!("/v1/keys/{key}/revoke"), &json!({ "why": "a test" }));
    }

    /// Takes a revocation back that stands in the state.
    #[track_caller]
    pub(crate) fn restore(self, key: &str) {
        self.acts(&format!("/v1/keys/{key}/restore"), &json!({}));
    }

    #[track_caller]
    pub(crate) fn looks(self, path: &str) -> Value {
        let answer = send(self.0, &local(Request::get(path)));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    #[track_caller]
    fn acts(self, path: &str, body: &Value) {
        let name = format!("act-{}", ACTS.fetch_add(1, Ordering::Relaxed));
        let request = Request::post(path, &body.to_string()).header("Idempotency-Key", &name);
        let answer: Answer = send(self.0, &local(request));
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
    }
}

fn local(request: Request) -> Request {
    request.host("localhost").header("Connection", "close")
}
