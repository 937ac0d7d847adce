//! tollgate: a policy gate in front of an API. `ARCHITECTURE.md` says how the rooms hang together.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
mod fetch;
pub mod gate;
pub mod keyfile;
pub mod killpoint;
pub mod policy;
pub mod proxy;
pub mod reload;
pub mod store;
pub mod telemetry;
pub mod upkeep;
