//! tollgate: a policy gate in front of an API. `ARCHITECTURE.md` says how the rooms hang together.

pub mod clock;
pub mod demo;
pub mod keyfile;
pub mod policy;
pub mod store;
