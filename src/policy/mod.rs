//! The core: the compiled policy and pure, synchronous decisions about one request.
//!
//! `now` is a parameter. Nothing here is async, locks, opens a file or a socket, reads a clock, draws a random number,
//! logs, or knows serde, tokio or hyper; `tests/architecture.rs` says so. The shell calls the steps in the order of
//! `proxy/serve.rs`: [`head`] → [`address`] → [`route`] → [`authenticate`] → [`authorize`] → [`order`], and hands
//! the order to the ledger, which asks [`meter`].

pub mod address;
pub mod answer;
pub mod authenticate;
pub mod authorize;
pub mod calendar;
pub mod challenge;
pub mod charge;
pub mod covering;
pub mod credential;
pub mod decimal;
pub mod fields;
pub mod forbidden;
pub mod head;
pub mod holder;
pub mod idempotency;
pub mod keys;
pub mod known_head;
pub mod limit;
pub mod meter;
pub mod money;
pub mod order;
pub mod outcome;
pub mod overlay;
mod plain;
pub mod recall;
pub mod refusal;
pub mod report;
pub mod revocation;
pub mod route;
pub mod snapshot;
pub mod subject;
pub mod upstream;

/// A name out of the policy or a key file: shared, never changed.
pub type Name = std::sync::Arc<str>;
