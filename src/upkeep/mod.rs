//! What has to be done from time to time whether requests come or not: hand on what changed, forget what is over, notice
//! that the store has failed, and revoke by rule. On a thread of its own. Never: work on a worker, a decision about a
//! request, or a revocation that no rule of the policy in force asks for.

mod figures;
pub mod revocation;
mod watch;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Now, Steady};
use crate::policy::snapshot::Snapshot;
use crate::store::{Doubt, Health, Ledger};
use crate::telemetry::events::{Event, Log};
use crate::telemetry::lifecycle::Lifecycle;
use crate::telemetry::metrics::Metrics;

use figures::{HandedOn, Source};
use revocation::{Bailiff, Strike, Strikes};

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Nanoseconds between two looks at keys that nobody uses.
const LOOK: u64 = 60_000_000_000;
/// Idempotency records looked at in one round.
const RECORDS: usize = 20_000;
/// Doubts said in one round; the rest are said in the next.
const DOUBTS: usize = 1_000;
/// Strikes that wait at most; more are dropped, and the next refusal of their key brings another.
const QUEUE: usize = 256;

/// Has every worker look at the policy and the revocations again.
#[derive(Clone)]
pub struct Wake(Arc<dyn Fn() + Send + Sync>);

impl Wake {
    /// Calls this.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Wake {
        Wake(Arc::new(wake))
    }

    /// Does it.
    pub fn all(&self) {
        (self.0)();
    }
}

/// Wakes nobody.
impl Default for Wake {
    fn default() -> Wake {
        Wake::new(|| {})
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake(…)")
    }
}

/// What the upkeep works on.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What everyone has used.
    pub ledger: Arc<Ledger>,
    /// The policy in force.
    pub policy: Arc<ArcSwap<Snapshot>>,
    /// Where revocations are counted.
    pub metrics: Arc<Metrics>,
    /// Where a failed store is told.
    pub lifecycle: Arc<Lifecycle>,
    /// Where all of it is said.
    pub log: Arc<Log>,
    /// The time.
    pub clock: Clock,
    /// Has open exchanges of a revoked key looked at.
    pub wake: Wake,
    /// Where the state lives; `None`: in memory.
    pub directory: Option<PathBuf>,
}

/// What comes in.
#[derive(Debug)]
enum Message {
    /// A key was refused too often.
    Strike(Strike),
    /// The end.
    Stop,
}

/// A hand on the running upkeep. Dropping it stops it.
#[derive(Debug)]
pub struct Upkeep {
    to: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts the thread. From now on a scrape finds out how the store is.
    pub fn start(parts: Parts) -> io::Result<Upkeep> {
        let (to, from) = sync_channel(QUEUE);
        let handed_on = HandedOn::default();
        handed_on.at(parts.clock.steady());
        let source = Source {
            ledger: Arc::clone(&parts.ledger),
            clock: parts.clock.clone(),
            directory: parts.directory.clone(),
            handed_on: handed_on.clone(),
        };
        parts.metrics.watch_store(move || source.figures());
        let thread = std::thread::Builder::new()
            .name("upkeep".into())
            .spawn(move || Rounds::new(parts, handed_on).run(&from))?;
        Ok(Upkeep { to, thread: Some(thread) })
    }

    /// Where workers report keys that were refused too often.
    pub fn strikes(&self) -> Strikes {
        Strikes::new(self.to.clone())
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        // Waits for room where there is none: a round is short.
        let _ = self.to.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was said by the panic hook; there is nothing to add at the end.
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Rounds {
    parts: Parts,
    bailiff: Bailiff,
    last_round: Option<Steady>,
    last_look: Option<Steady>,
    handed_on: HandedOn,
}

impl Rounds {
    fn new(parts: Parts, handed_on: HandedOn) -> Rounds {
        Rounds { parts, bailiff: Bailiff::default(), last_round: None, last_look: None, handed_on }
    }

    fn run(mut self, from: &Receiver<Message>) {
        self.round(self.parts.clock.now());
        loop {
            let message = from.recv_timeout(ROUND);
            let now = self.parts.clock.now();
            let timed_out = match message {
                Ok(Message::Strike(strike)) => {
                    self.bailiff.struck(&self.parts, strike, now);
                    false
                }
                Err(RecvTimeoutError::Timeout) => true,
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            };
            // Strikes that keep coming must not keep the round from being made.
            let passed = |since: Steady| u128::from(now.steady.since(since)) >= ROUND.as_nanos();
            if timed_out || self.last_round.is_none_or(passed) {
                self.round(now);
            }
        }
    }

    fn round(&mut self, now: Now) {
        self.last_round = Some(now.steady);
        self.parts.ledger.flush(now);
        self.parts.ledger.sweep_records(now, RECORDS);
        match self.parts.ledger.backing().health() {
            Health::Up => self.handed_on.at(now.steady),
            Health::Failed => self.parts.lifecycle.store_failed(),
        }
        self.say_doubts(now);
        if self.last_look.is_none_or(|last| now.steady.since(last) >= LOOK) {
            self.last_look = Some(now.steady);
            self.bailiff.look_for_unused(&self.parts, now);
        }
    }

    fn say_doubts(&self, now: Now) {
        for (pending, doubt) in &self.parts.ledger.newly_unresolved(DOUBTS) {
            let party = pending.party.names();
            self.parts.log.say(
                now.wall,
                &Event::Unresolved {
                    reservation: &format!("{:032x}", pending.id.0),
                    tenant: party.tenant,
                    key: party.key,
                    route: party.route,
                    request: party.request,
                    doubt: match doubt {
                        Doubt::Crash => "crash",
                        Doubt::NoAnswer => "no_answer",
                    },
                },
            );
        }
    }
}

#[cfg(test)]
mod tests;
