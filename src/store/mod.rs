//! The ledger: what every subject has used, in memory, and the backing behind it.
//!
//! What it promises:
//! - **One operation a request.** [`Ledger::open`] reads every limit that was asked about and takes from all of them
//!   or from none; a refused request spends nothing, and nobody sees half of it.
//! - **Use outlives policies.** Meters are kept under stable names of subject and limit; a reload touches none of them.
//! - **Unrelated subjects share nothing that is written**: a cell each, found without a lock, locked for some tens of
//!   nanoseconds, never across an allocation, a call out or an await.
//! - **Bounded.** Subjects that strangers can invent (addresses) have so much room and no more; when it is full,
//!   newcomers share the cell of their network, and nothing that counts is evicted.
//! - **What was taken is settled once**: a [`Reservation`] is owned, and whoever closes it settles it. Dropped without
//!   that, it frees its slots and leaves everything else as a crash would: charged, and in flight.
//! - **One claim a key**: of requests with one idempotency key one is admitted, and the others are told of it, until its
//!   record's life has ended. A record in flight does not end; a full store refuses and forgets nothing.
//!
//! It knows no HTTP, reads no clock, and never waits.

mod acts;
mod backing;
mod cell;
mod flush;
mod journal;
mod ledger;
mod office;
mod op;
mod opening;
mod party;
mod peeking;
mod promise;
mod records;
mod reservation;
mod resets;
mod restored;
mod shelves;
mod shortcuts;
mod slab;
mod table;
mod unresolved;

pub use acts::{Act, ActProblem, Adjustment, Named, Resolution, Sighting};
pub use backing::{Backing, Health, OpenedBacking, Reply, StoreFailed};
pub use journal::{Journal, JournalFigures, OnFailure, OpenProblem};
pub use ledger::{Ledger, Overlaid};
pub use op::{
    Batch, Charge, Charges, Doubt, KeptAnswer, MeterId, Op, Pending, Progress, Record,
    ReservationId,
};
pub use opening::{Claim, Found, Opening, Order, Told};
pub use party::{Party, PartyNames};
pub use peeking::Refuser;
pub use records::RecordOccupancy;
pub use reservation::{Completion, Reservation};
pub use restored::Restored;
pub use table::{Occupancy, Swept};

#[cfg(test)]
mod lasting_tests;
#[cfg(test)]
mod tests;
