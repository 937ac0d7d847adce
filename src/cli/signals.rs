//! Signals of the process, on a runtime of the main thread's own: workers have other things to do.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// What somebody outside wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
    /// Nobody: the time given has passed.
    Timeout,
}

/// Wrappers such as `timeout` signal a process and then its group: what comes within this time is one wish.
const BURST: Duration = Duration::from_millis(300);

/// The signals that a gate listens to. From the moment it is made, they no longer end the process.
pub(super) struct Signals {
    runtime: Runtime,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Signals, Failure> {
        let failed = |error| Failure::cannot(format!("signals cannot be listened to: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let inside = runtime.enter();
        let hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        drop(inside);
        Ok(Signals { runtime, hangup, terminate, interrupt })
    }

    /// Waits for the next signal, at most `patience`.
    pub(super) fn wait(&mut self, patience: Option<Duration>) -> Wish {
        let Signals { runtime, hangup, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = hangup.recv() => Wish::Reload,
                _ = terminate.recv() => Wish::Stop,
                _ = interrupt.recv() => Wish::Stop,
                () = sleep(patience) => Wish::Timeout,
            }
        })
    }

    /// Waits until `done` is, or until somebody wants to stop once more; `None` is the latter. `every` is called each
    /// `tick`.
    pub(super) fn until<T>(
        &mut self,
        done: impl Future<Output = T>,
        tick: Duration,
        mut every: impl FnMut(),
    ) -> Option<T> {
        let Signals { runtime, terminate, interrupt, .. } = self;
        runtime.block_on(async {
            let mut done = std::pin::pin!(done);
            let mut burst_is_over = std::pin::pin!(tokio::time::sleep(BURST));
            let mut in_burst = true;
            loop {
                tokio::select! {
                    done = &mut done => return Some(done),
                    () = &mut burst_is_over, if in_burst => in_burst = false,
                    _ = terminate.recv() => if !in_burst { return None },
                    _ = interrupt.recv() => if !in_burst { return None },
                    () = tokio::time::sleep(tick) => every(),
                }
            }
        })
    }
}

async fn sleep(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}
