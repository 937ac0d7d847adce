//! The admin listener: metrics, health, the policy's state, usage, and the acts that money and keys need, on an address
//! and a thread of its own. Never: a port shared with traffic, a wait that a worker notices, a probe that starves behind
//! a slow client, or an act that is acknowledged before it is durable.

mod access;
mod acts;
mod answers;
mod doubts;
mod given;
mod keys;
mod money;
mod probes;
mod serve;
pub mod upstream;
mod usage;
mod ways;
mod whose;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::policy::keys::SecretDigest;
use crate::policy::snapshot::Snapshot;
use crate::store::Ledger;
use crate::telemetry::events::{Event, Log};
use crate::telemetry::lifecycle::Lifecycle;
use crate::telemetry::metrics::{ConnectionFigures, Metrics};
use crate::upkeep::Wake;

pub use acts::Turn;

/// Threads that resolve the upstream's name at most.
const RESOLVERS: usize = 2;

/// What the admin listener speaks of.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// The metrics, and the policy's status in them.
    pub metrics: Arc<Metrics>,
    /// Whether the gate is ready.
    pub lifecycle: Arc<Lifecycle>,
    /// The policy in force, for where the upstream is; `None`: the upstream is not asked by this listener.
    pub snapshot: Option<Arc<ArcSwap<Snapshot>>>,
    /// What everyone has used, and where acts are done.
    pub ledger: Arc<Ledger>,
    /// SHA-256 of the token that everything below `/v1` asks for; `None`: it answers this host alone.
    pub token: Option<SecretDigest>,
    /// Has the workers look at open exchanges again.
    pub wake: Wake,
    /// Whose turn it is to act.
    pub turn: Turn,
    /// Where failures and acts are said.
    pub log: Arc<Log>,
    /// The time.
    pub clock: Clock,
}

/// A hand on the running listener. Dropping it closes the listener and its connections.
#[derive(Debug)]
pub struct AdminHandle {
    /// Where it listens, with the real port.
    pub local_addr: SocketAddr,
    end: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for AdminHandle {
    fn drop(&mut self) {
        self.end.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was said by the panic hook; there is nothing to add at the end.
            let _ = thread.join();
        }
    }
}

/// Binds `address`, says so, and serves it from a thread of its own. Fails where the address cannot be bound.
pub fn start(address: SocketAddr, state: AdminState) -> io::Result<AdminHandle> {
    start_on(TcpListener::bind(address)?, state)
}

/// The same on a listener that is bound already.
pub fn start_on(listener: TcpListener, state: AdminState) -> io::Result<AdminHandle> {
    listener.set_nonblocking(true)?;
    let local_addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Names are resolved on threads of their own; a resolver that hangs must not gather them.
        .max_blocking_threads(RESOLVERS)
        .build()?;
    let end = Arc::new(Notify::new());
    let figures = Arc::new(Connections::default());
    let (watched, ended) = (Arc::clone(&figures), Arc::clone(&end));
    state.metrics.watch_connections("admin", move || watched.figures());
    let (log, clock) = (Arc::clone(&state.log), state.clock.clone());
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = serve::serve(listener, &state, &figures) => {}
                () = upstream::watch(&state) => {}
                () = ended.notified() => {}
            }
        });
        // Not waiting for a name that is still being resolved.
        runtime.shutdown_background();
    })?;
    log.say(clock.now().wall, &Event::Listening { listener: "admin", address: local_addr });
    Ok(AdminHandle { local_addr, end, thread: Some(thread) })
}

/// The listener's own connections.
#[derive(Debug, Default)]
struct Connections {
    open: AtomicU64,
    accepted: AtomicU64,
    evicted: AtomicU64,
    /// Whether the last accept failed, so that a lasting failure is said once.
    failing: AtomicBool,
}

impl Connections {
    fn figures(&self) -> ConnectionFigures {
        ConnectionFigures {
            open: self.open.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.evicted.load(Ordering::Relaxed),
            ..ConnectionFigures::default()
        }
    }
}
