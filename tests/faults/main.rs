//! What goes wrong below the gate: disks that fail, fill up or come back damaged, a directory that two processes want. It
//! recovers, or refuses loudly and says what to do; it never goes on from nothing.

#[path = "../support/mod.rs"]
mod support;

mod beginnings;
mod bench;
mod damaged;
mod failing;
mod killed;
mod refused;
mod shared;
