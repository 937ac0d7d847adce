//! What the clients asked for and what they were told, in an order that can be argued about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::support::Answer;
use crate::terms::Route;

/// Everything that the clients of one world did.
#[derive(Debug, Default)]
pub(crate) struct Books {
    sends: Mutex<Vec<Arc<Send>>>,
    loose: Mutex<Vec<Told>>,
    clock: AtomicU64,
}

/// Something that a client wants sent once, under one idempotency key.
#[derive(Debug)]
pub(crate) struct Send {
    pub(crate) key: String,
    pub(crate) tenant: usize,
    pub(crate) route: Route,
    /// What the key stands for.
    pub(crate) payload: String,
    tellings: Mutex<Vec<Telling>>,
}

/// One attempt and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    /// Its place among all beginnings and endings.
    pub(crate) begun: u64,
    /// The same for its end.
    pub(crate) ended: u64,
    /// How many gates had been started when it began.
    pub(crate) boot: usize,
    /// The body that was sent.
    pub(crate) payload: String,
    pub(crate) told: Told,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The backend's answer, first hand or replayed.
    Answer { status: u16, replayed: bool, body: String },
    /// The gate's own.
    Refused { status: u16, code: String },
    /// The connection broke.
    Nothing,
}

impl Told {
    pub(crate) fn of(answer: &std::io::Result<Answer>) -> Told {
        let Ok(answer) = answer else { return Told::Nothing };
        let ours: Option<String> = serde_json::from_slice::<serde_json::Value>(&answer.body)
            .ok()
            .and_then(|body| Some(body.get("ours")?.as_str()?.to_owned()));
        match ours {
            Some(code) => Told::Refused { status: answer.status, code },
            None => Told::Answer {
                status: answer.status,
                replayed: answer.header("idempotent-replayed") == Some("true"),
                body: answer.text(),
            },
        }
    }

    /// Whether it is a refusal with this code.
    pub(crate) fn is(&self, expected: &str) -> bool {
        matches!(self, Told::Refused { code, .. } if code == expected)
    }
}

impl Send {
    pub(crate) fn new(key: String, tenant: usize, route: Route, payload: String) -> Send {
        Send { key, tenant, route, payload, tellings: Mutex::default() }
    }

    pub(crate) fn tell(&self, telling: Telling) {
        locked(&self.tellings).push(telling);
    }

    /// All of them, in the order of their ends.
    pub(crate) fn tellings(&self) -> Vec<Telling> {
        let mut all = locked(&self.tellings).clone();
        all.sort_by_key(|telling| telling.ended);
        all
    }

    /// Whether the client still has no answer to hold on to.
    pub(crate) fn is_open(&self) -> bool {
        let answered = |telling: &Telling| matches!(telling.told, Told::Answer { .. });
        !locked(&self.tellings).iter().any(answered)
    }
}

impl Books {
    /// The next moment.
    pub(crate) fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn add(&self, send: Send) -> Arc<Send> {
        let send = Arc::new(send);
        locked(&self.sends).push(Arc::clone(&send));
        send
    }

    pub(crate) fn sends(&self) -> Vec<Arc<Send>> {
        locked(&self.sends).clone()
    }

    /// The latest `within` that were begun; fewer at the start.
    pub(crate) fn latest(&self, within: usize) -> Vec<Arc<Send>> {
        let sends = locked(&self.sends);
        sends[sends.len().saturating_sub(within)..].to_vec()
    }

    /// What a request without a key was told.
    pub(crate) fn loose(&self, told: Told) {
        locked(&self.loose).push(told);
    }

    /// Attempts in all.
    pub(crate) fn requests(&self) -> usize {
        let keyed: usize = self.sends().iter().map(|send| locked(&send.tellings).len()).sum();
        keyed + locked(&self.loose).len()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
