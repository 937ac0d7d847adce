//! HTTP/1 from clients (RFC 9112), spoken by ourselves: a connection is one future, a request is looked at where it was
//! read, and its answer is written where it is decided. Between two requests a connection holds a socket, a timer, and
//! its last head where that is short.
//! Strict in what it takes: what two readers could read two ways is refused, and ends the connection. Never decides about
//! a request.

mod answer;
mod arriving;
mod client;
mod date;
mod first_line;
mod head;
mod interims;
mod section;
mod target;
mod turns;
mod upgrading;

pub use arriving::{Arriving, BrokenIn};
pub(in crate::proxy) use date::{DATE_LINE, Today};
pub use interims::Interims;
pub(in crate::proxy) use turns::{Ended, Served, Terms};
pub use upgrading::Upgrading;
