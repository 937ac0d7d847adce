//! What systemd is told (`sd_notify(3)`). Without systemd all of it does nothing.

use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};

/// Ready, with a line for `systemctl status`.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub(super) fn reloading() {
    // systemd 253 and later want to know since when, on the monotonic clock; earlier ones skip what they do not know.
    match NotifyState::monotonic_usec_now() {
        Ok(since) => send(&[NotifyState::Reloading, since]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The end begins.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// The process lives.
pub(super) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be said: half of what systemd waits; `None` where it does not ask.
pub(super) fn heartbeat() -> Option<Duration> {
    watchdog_enabled().map(|patience| patience / 2).filter(|beat| !beat.is_zero())
}

fn send(states: &[NotifyState<'_>]) {
    // A service manager that does not listen is no reason to stop serving.
    let _ = notify(states);
}
