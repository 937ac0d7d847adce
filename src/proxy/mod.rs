//! The shell around the core: connections, HTTP and bodies, towards clients and towards the upstream.
//!
//! From the outside in: [`listen`] binds, [`worker`] accepts and spreads, [`connection`] drives one client through
//! PROXY header, TLS and HTTP, and calls a [`peer::Handler`] for every request. From there, [`pool`] sends to the
//! upstream, over HTTP/1 by way of [`http1`], [`body`] streams both ways, [`tunnel`] carries what was upgraded, [`cut`] ends what
//! is no longer admitted, and [`drain`] ends it all. Everything of a
//! worker stays on its thread. Nothing here compares a scope, an address or a counter itself.

pub mod answer;
mod asking;
pub mod body;
mod capture;
pub mod client_body;
mod commit;
pub mod connection;
pub mod context;
pub mod counters;
pub mod cut;
mod deadline;
mod depart;
pub mod drain;
mod exchange;
mod failure;
pub mod field_text;
mod formula;
mod forward;
mod handler;
mod here;
pub mod http1;
mod idempotent;
mod identify;
mod io;
mod limit_fields;
pub mod listen;
mod long_lived;
mod made_of;
mod opening;
mod passage;
pub mod peer;
pub mod pool;
pub mod proxy_protocol;
mod refrain;
pub mod request_body;
mod request_id;
mod respond;
mod said;
mod serve;
pub mod served_tls;
mod serving;
mod splice;
mod target;
pub mod tls;
pub mod tunnel;
mod upstream;
mod watch;
mod wire;
mod wording;
pub mod worker;

/// Starts `common.workers` workers on these listeners.
pub fn start(
    common: context::Common,
    listeners: &[listen::Bound],
) -> std::io::Result<worker::Workers> {
    worker::Workers::start(common.workers, listeners, move |parts| {
        handler::Gatekeeper::new(common.context(parts.index, parts.counters, parts.stock))
    })
}
