//! HTTP/1 (RFC 9112), spoken by ourselves. Towards the upstream here, towards clients in `served`. No task and no channel
//! stands between a request's future and its connection. A head is written where it is decided and sent as it stands; an
//! answer's fields are copied once, from the bytes that were read into the text that the client will get. Strict in what
//! it takes: what two readers could read two ways ends the connection. Never decides what is said, nor whether a request
//! is sent again.

mod answer;
mod chunked;
mod connection;
mod framing;
mod head_in;
mod head_out;
mod inlet;
mod left;
mod outgoing;
mod patience;
mod recent;
mod served;
mod stock;
mod text;
mod upload;

pub(super) use answer::{AnswerBody, Arrived};
pub use answer::{BrokenOff, Switched};
pub(super) use connection::{Connection, Errand, Failure, Seen, Shared, Wrong};
pub(super) use framing::content_length;
pub(super) use head_in::{AnswerHead, is_of_the_hop};
pub use head_out::{BadLength, RequestHead};
pub use served::{Arriving, BrokenIn, Interims, Upgrading};
pub(super) use served::{DATE_LINE, Ended, Served, Terms, Today};
pub use stock::Stock;
pub(super) use text::Text;
