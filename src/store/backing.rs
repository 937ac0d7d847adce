//! What stands behind the ledger and remembers after the process is gone. A closed list: each has promises of its own
//! about what survives, which a trait would hide.

use super::op::Batch;

/// Where use is remembered.
///
/// Reached through a bounded channel; decisions stay in memory.
#[derive(Debug)]
pub enum Backing {
    /// Nowhere: everything is forgotten at exit.
    None,
}

/// The store has failed, or its channel is full: nothing may be promised. A failed write or sync fails it until restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFailed;

/// Told once, from the backing's thread or at once, whether a batch is durable.
pub type Reply = Box<dyn FnOnce(Result<(), StoreFailed>) + Send>;

/// Whether the backing can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// A write or a sync failed; until restart nothing more is promised.
    Failed,
}

impl Backing {
    /// Whether what it is told is remembered.
    pub fn remembers(&self) -> bool {
        match self {
            Backing::None => false,
        }
    }

    /// Whether it can be relied on.
    pub fn health(&self) -> Health {
        match self {
            Backing::None => Health::Up,
        }
    }

    /// Hands a batch on, without waiting. With a `reply` it is told when the batch is durable; without one nobody waits
    /// for it, and it becomes durable with the next that somebody waits for, or within a second.
    pub fn submit(&self, batch: Batch, reply: Option<Reply>) -> Result<(), StoreFailed> {
        match self {
            Backing::None => {
                drop(batch);
                if let Some(reply) = reply {
                    reply(Ok(()));
                }
                Ok(())
            }
        }
    }
}
