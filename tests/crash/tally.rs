//! What a world found out: figures, and every broken promise in words.

use std::fmt::Write as _;

/// The figures of one world, or of several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) crashes: usize,
    pub(crate) requests: usize,
    pub(crate) forwards: usize,
    pub(crate) replays: usize,
    pub(crate) unknown: usize,
    pub(crate) acts: usize,
    pub(crate) broken: Vec<Broken>,
}

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// No limit lets more through than it says.
    Limits,
    /// At most one forward an idempotency key.
    Once,
    /// What was acknowledged is still so.
    Acknowledged,
    /// Everything else that is said of a crash.
    Honest,
}

/// A broken one, in words.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) promise: Promise,
    pub(crate) what: String,
}

impl Tally {
    pub(crate) fn breach(&mut self, promise: Promise, what: String) {
        self.broken.push(Broken { promise, what });
    }

    pub(crate) fn count(&self, promise: Promise) -> usize {
        self.broken.iter().filter(|broken| broken.promise == promise).count()
    }

    pub(crate) fn add(&mut self, other: Tally) {
        self.crashes += other.crashes;
        self.requests += other.requests;
        self.forwards += other.forwards;
        self.replays += other.replays;
        self.unknown += other.unknown;
        self.acts += other.acts;
        self.broken.extend(other.broken);
    }

    /// A line for people.
    pub(crate) fn line(&self, name: &str) -> String {
        format!(
            "{name:<14} {:>4} crashes survived, {:>6} requests, {:>6} forwards, {:>5} replays, {:>4} unknown, {:>5} admin acts: \
             {} over-admitted, {} double-forwarded, {} lost acknowledgements",
            self.crashes,
            self.requests,
            self.forwards,
            self.replays,
            self.unknown,
            self.acts,
            self.count(Promise::Limits),
            self.count(Promise::Once),
            self.count(Promise::Acknowledged),
        )
    }

    /// The first of what was broken.
    pub(crate) fn complaint(&self) -> String {
        let mut text = format!("{} broken promises\n", self.broken.len());
        for broken in self.broken.iter().take(25) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {:?}: {}", broken.promise, broken.what);
        }
        text
    }
}
