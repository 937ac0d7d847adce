//! Where events go: through a bounded queue to a thread that writes them, so that a blocked terminal or pipe stops
//! nobody. Events that a client can cause have a budget each.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::clock::{Clock, Wall};

use super::{BUDGETS, Event, Format, Level};

/// Lines that wait for the writer at most.
const QUEUE: usize = 256;
/// Events of one budget that are written in one [`WINDOW`].
const PER_WINDOW: u64 = 5;
/// How long a panic that ends the process may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Length of a window in milliseconds.
const WINDOW: i64 = 10_000;

/// The operational log. Shared; saying something never waits.
#[derive(Debug)]
pub struct Log {
    to: Option<SyncSender<Message>>,
    format: Format,
    least: Level,
    dropped: AtomicU64,
    budgets: [Spending; BUDGETS],
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Spending {
    window: AtomicI64,
    spent: AtomicU64,
}

impl Spending {
    /// Whether one more may be written, and how many of the last window were not. Two threads at a window's edge may
    /// let one line more or less through, which matters to nobody.
    fn allow(&self, now: Wall) -> Option<u64> {
        let window = now.0.div_euclid(WINDOW);
        let mut suppressed = 0;
        if self.window.swap(window, Ordering::Relaxed) != window {
            let spent = self.spent.swap(0, Ordering::Relaxed);
            suppressed = spent.saturating_sub(PER_WINDOW);
        }
        (self.spent.fetch_add(1, Ordering::Relaxed) < PER_WINDOW).then_some(suppressed)
    }
}

impl Log {
    /// Starts the log on standard error. Events below `least` are not written.
    pub fn start(format: Format, least: Level) -> io::Result<Arc<Log>> {
        Log::start_on(Box::new(io::stderr()), format, least)
    }

    /// Starts the log on any sink.
    pub fn start_on(
        sink: Box<dyn Write + Send>,
        format: Format,
        least: Level,
    ) -> io::Result<Arc<Log>> {
        let (to, from) = sync_channel(QUEUE);
        thread::Builder::new().name("log".into()).spawn(move || write_all(sink, &from))?;
        Ok(Arc::new(Log::new(Some(to), format, least)))
    }

    /// A log that nobody reads.
    pub fn discard() -> Arc<Log> {
        Arc::new(Log::new(None, Format::Json, Level::Error))
    }

    fn new(to: Option<SyncSender<Message>>, format: Format, least: Level) -> Log {
        Log { to, format, least, dropped: AtomicU64::new(0), budgets: Default::default() }
    }

    /// Says that something happened at `now`. Never waits: a full queue drops the line and counts it.
    pub fn say(&self, now: Wall, event: &Event<'_>) {
        let Some(to) = &self.to else { return };
        if event.level() < self.least {
            return;
        }
        let suppressed = match event.budget() {
            Some(budget) => match self.budgets[budget as usize].allow(now) {
                Some(suppressed) => suppressed,
                None => return,
            },
            None => 0,
        };
        let line = event.line(self.format, now, suppressed);
        if to.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on a panic anywhere in the process is an event instead of text on standard error.
    pub fn take_panics(self: &Arc<Log>, clock: Clock) {
        let log = Arc::clone(self);
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let message = panic.payload_as_str().unwrap_or_default();
            log.say(clock.now().wall, &Event::PanicCaught { place: &place, message });
            // The process ends with this thread, and with it what still waits for the writer.
            if thread::current().name() == Some("main") {
                log.flush(LAST_WORDS);
            }
        }));
    }

    /// Lines that were dropped, for
    /// [`Metrics::watch_dropped`](crate::telemetry::metrics::Metrics::watch_dropped). What a budget held back is
    /// not among them: it is said with the next line of its kind.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was said so far is written, at most `wait`: the last act of the process.
    pub fn flush(&self, wait: Duration) {
        let Some(to) = &self.to else { return };
        let (done, is_done) = sync_channel(1);
        let mut message = Message::Flush(done);
        let step = Duration::from_millis(5);
        let mut left = wait;
        while let Err(error) = to.try_send(message) {
            match error {
                TrySendError::Full(back) if !left.is_zero() => message = back,
                TrySendError::Full(_) | TrySendError::Disconnected(_) => return,
            }
            thread::sleep(step.min(left));
            left = left.saturating_sub(step);
        }
        // A writer that is blocked for longer than we wait keeps what it has.
        let _ = is_done.recv_timeout(left);
    }
}

fn write_all(mut sink: Box<dyn Write + Send>, from: &Receiver<Message>) {
    while let Ok(message) = from.recv() {
        match message {
            // There is nobody left to tell that the log itself cannot be written.
            Message::Line(line) => drop(sink.write_all(&line)),
            Message::Flush(done) => {
                let _ = sink.flush();
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn a_client_cannot_write_the_log_full() {
        let sink = Sink::default();
        let log = Log::start_on(Box::new(sink.clone()), Format::Json, Level::Debug).unwrap();
        let peer = "127.0.0.1:1".parse().unwrap();
        for _ in 0..1000 {
            log.say(Wall(1), &Event::TlsHandshakeFailed { peer, why: "x" });
        }
        log.say(Wall(1), &Event::StateForgets);
        log.say(Wall(WINDOW), &Event::TlsHandshakeFailed { peer, why: "x" });
        log.flush(Duration::from_secs(10));
        let text = sink.text();
        assert_eq!(text.matches("tls_handshake_failed").count(), 6, "{text}");
        assert!(text.contains("state_forgets"));
        assert!(text.contains("\"suppressed\":995"), "{text}");
    }

    #[test]
    fn events_below_the_least_level_are_not_written() {
        let sink = Sink::default();
        let log = Log::start_on(Box::new(sink.clone()), Format::Text, Level::Warning).unwrap();
        log.say(Wall(0), &Event::ReloadRequested);
        log.say(Wall(0), &Event::WatchUnavailable { why: "no inotify" });
        log.flush(Duration::from_secs(10));
        let text = sink.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("watch_unavailable why=\"no inotify\""));
    }

    #[test]
    fn a_panic_is_an_event_with_its_place_and_its_message() {
        let sink = Sink::default();
        let log = Log::start_on(Box::new(sink.clone()), Format::Json, Level::Debug).unwrap();
        let before = std::panic::take_hook();
        log.take_panics(Clock::system());
        let panics = |name: &str, message: &'static str| {
            let thread = thread::Builder::new().name(name.to_owned());
            assert!(thread.spawn(move || panic!("{message}")).unwrap().join().is_err());
        };
        panics("worker", "it is \"odd\"");
        panics("main", "the last");
        std::panic::set_hook(before);
        // Written without being asked to: the second would have ended the process.
        let text = sink.text();
        assert_eq!(text.matches("panic_caught").count(), 2, "{text}");
        assert!(text.contains("log.rs:") && text.contains("the last"), "{text}");
        assert!(text.contains(r#"it is \"odd\""#), "{text}");
    }

    #[test]
    fn a_blocked_terminal_blocks_nobody() {
        struct Blocked(std::sync::mpsc::Receiver<()>);
        impl Write for Blocked {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_release, blocked) = std::sync::mpsc::channel();
        let log = Log::start_on(Box::new(Blocked(blocked)), Format::Json, Level::Debug).unwrap();
        for _ in 0..2 * QUEUE {
            log.say(Wall(0), &Event::StateForgets);
        }
        log.flush(Duration::from_millis(20));
        assert!(log.dropped() > 0);
    }
}
