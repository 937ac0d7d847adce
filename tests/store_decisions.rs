//! The decisions of the ledger, the same for every backing: random orders against a sequential model, and threads against
//! ceilings. What a backing remembers after the process is gone is another suite's matter.

mod decisions;
