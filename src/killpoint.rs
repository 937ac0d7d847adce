//! The places at which a crash is worst, by name: before and after each step that must survive one. In a build with the
//! feature `kill-points` the environment names one, and the process dies there as if killed; in any other build this is
//! nothing at all.
//!
//! `TOLLGATE_KILL=after_commit:37` dies when that point is passed for the 37th time.

macro_rules! points {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:literal; )+) => {
        /// A place at which the process can be made to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum KillPoint { $( $(#[doc = $doc])+ $variant, )+ }

        impl KillPoint {
            /// All of them, in the order in which a request passes them.
            pub const ALL: &'static [KillPoint] = &[ $( KillPoint::$variant, )+ ];

            /// Its name in `TOLLGATE_KILL`.
            pub const fn name(self) -> &'static str {
                match self { $( KillPoint::$variant => $name, )+ }
            }
        }
    };
}

points! {
    /// A keyed request is about to claim.
    BeforeClaim = "before_claim";
    /// The claim is in memory.
    AfterClaim = "after_claim";
    /// The batch is about to be handed to the backing.
    BeforeCommit = "before_commit";
    /// The backing has the batch and has not synced it.
    BeforeSync = "before_sync";
    /// The batch is durable and nobody knows yet.
    AfterSync = "after_sync";
    /// The tables are about to get what one half of the log has, while commits go on.
    BeforeTables = "before_tables";
    /// They have it, and it is not durable there.
    WithinTables = "within_tables";
    /// It is durable there, and nobody knows yet that this half of the log is over.
    AfterTables = "after_tables";
    /// The worker knows that the batch is durable.
    AfterCommit = "after_commit";
    /// The request is about to be handed to the upstream's connection.
    BeforeSend = "before_send";
    /// It was handed over; the upstream may have seen it.
    AfterSend = "after_send";
    /// The head of the answer is known, and the charge is not decided.
    BeforeHead = "before_head";
    /// The charge is decided.
    AfterHead = "after_head";
    /// The answer's body has ended.
    AfterBody = "after_body";
    /// The record of the answer is about to be handed to the backing.
    BeforeRecord = "before_record";
    /// It was handed over.
    AfterRecord = "after_record";
}

/// Dies here, if this is the point that was asked for.
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub fn pass(_: KillPoint) {}

/// Dies here, if this is the point that was asked for.
#[cfg(feature = "kill-points")]
pub fn pass(point: KillPoint) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ASKED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let asked = ASKED.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "tests choose the point, nobody else")]
        let text = std::env::var("TOLLGATE_KILL").ok()?;
        let (name, nth) = text.split_once(':')?;
        Some((name.to_owned(), AtomicU64::new(nth.parse().ok()?)))
    });
    let Some((name, left)) = asked else { return };
    if name == point.name() && left.fetch_sub(1, Ordering::Relaxed) == 1 {
        die();
    }
}

/// The future as it is.
#[cfg(not(feature = "kill-points"))]
#[inline]
pub fn once_begun<F: Future>(_: KillPoint, future: F) -> F {
    future
}

/// The future, which passes the point when it has begun, and others have had their turn to go on with what it began.
#[cfg(feature = "kill-points")]
pub async fn once_begun<F: Future + Unpin>(point: KillPoint, mut future: F) -> F::Output {
    use std::pin::Pin;
    use std::task::Poll;

    let mut begun =
        std::future::poll_fn(|task| Poll::Ready(Pin::new(&mut future).poll(task))).await;
    tokio::task::yield_now().await;
    if begun.is_pending() {
        // What waited one turn for the first bytes of a body leaves now.
        begun = std::future::poll_fn(|task| Poll::Ready(Pin::new(&mut future).poll(task))).await;
    }
    pass(point);
    match begun {
        Poll::Ready(output) => output,
        Poll::Pending => future.await,
    }
}

/// As a kill would: no unwinding, no flushing, nothing is said, and no memory is written out on the way.
#[cfg(feature = "kill-points")]
fn die() -> ! {
    use rustix::process::{Signal, getpid, kill_process};

    // Nobody is left to hear of a failure to end.
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}
