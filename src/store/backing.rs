//! What stands behind the ledger and remembers after the process is gone. A closed list: each has promises of its own
//! about what survives, which a trait would hide.

/// Where use is remembered.
///
/// A directory (an embedded journal) and a shared store between gates belong in this list; they are reached through a
/// bounded channel, and decisions stay in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Nowhere: everything is forgotten at exit.
    None,
}
