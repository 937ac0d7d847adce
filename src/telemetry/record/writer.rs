//! The thread that writes records. It alone waits for a slow pipe or disk; workers never wait for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::clock::Clock;
use crate::policy::snapshot::RecordSink;
use crate::telemetry::events::{Event, Log};

use super::buffer::{HAND_ON, RecordBuffer};

/// Chunks that wait for the writer at most, over all workers.
const QUEUE: usize = 16;

pub(super) enum Message {
    Chunk(Chunk),
    Reopen,
    Finish(SyncSender<()>),
}

/// Whole lines of one worker.
pub(super) struct Chunk {
    pub(super) lines: Vec<u8>,
    pub(super) records: u64,
    pub(super) back: SyncSender<Vec<u8>>,
}

/// The writer of access records. Dropping it lets the thread write what it has and end.
#[derive(Debug)]
pub struct RecordWriter {
    to: Option<SyncSender<Message>>,
    dropped: Arc<AtomicU64>,
}

impl RecordWriter {
    /// Opens the sink and starts the thread. Fails where the file cannot be opened or the thread not be made.
    pub fn start(sink: &RecordSink, log: Arc<Log>, clock: Clock) -> io::Result<RecordWriter> {
        let dropped = Arc::new(AtomicU64::new(0));
        let to: Box<dyn Write + Send> = match sink {
            RecordSink::Off => return Ok(RecordWriter { to: None, dropped }),
            sink => open(sink)?,
        };
        RecordWriter::start_on(to, sink.clone(), log, clock)
    }

    /// Starts the thread on any sink. `named` is what [`RecordWriter::reopen`] opens again.
    pub fn start_on(
        out: Box<dyn Write + Send>,
        named: RecordSink,
        log: Arc<Log>,
        clock: Clock,
    ) -> io::Result<RecordWriter> {
        let dropped = Arc::new(AtomicU64::new(0));
        let (to, from) = sync_channel(QUEUE);
        let lost = Arc::clone(&dropped);
        let state = Writing { out, named, dropped: lost, reported: 0, log, clock };
        std::thread::Builder::new().name("records".into()).spawn(move || state.run(&from))?;
        Ok(RecordWriter { to: Some(to), dropped })
    }

    /// A buffer for one worker.
    pub fn buffer(&self) -> RecordBuffer {
        match &self.to {
            Some(to) => RecordBuffer::new(to.clone(), Arc::clone(&self.dropped)),
            None => RecordBuffer::off(),
        }
    }

    /// The count of records that were dropped, for
    /// [`Metrics::watch_dropped`](crate::telemetry::metrics::Metrics::watch_dropped).
    pub fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let dropped = Arc::clone(&self.dropped);
        move || dropped.load(Ordering::Relaxed)
    }

    /// Has the writer open its file again, or another one. Returns false where the queue is full, so that nobody
    /// waits for a blocked pipe; the caller asks again later.
    #[must_use = "a full queue takes no request"]
    pub fn reopen(&self) -> bool {
        self.to.as_ref().is_none_or(|to| to.try_send(Message::Reopen).is_ok())
    }

    /// Waits until everything handed on so far is written, at most `wait`; for the end, after the workers' last
    /// flush. Returns whether it was.
    pub fn finish(&self, wait: Duration) -> bool {
        let Some(to) = &self.to else { return true };
        let (done, is_done) = sync_channel(1);
        let mut message = Message::Finish(done);
        let step = Duration::from_millis(5);
        let mut left = wait;
        loop {
            match to.try_send(message) {
                Ok(()) => return is_done.recv_timeout(left).is_ok(),
                Err(std::sync::mpsc::TrySendError::Full(back)) if !left.is_zero() => {
                    message = back;
                    std::thread::sleep(step.min(left));
                    left = left.saturating_sub(step);
                }
                Err(_) => return false,
            }
        }
    }
}

struct Writing {
    out: Box<dyn Write + Send>,
    named: RecordSink,
    dropped: Arc<AtomicU64>,
    reported: u64,
    log: Arc<Log>,
    clock: Clock,
}

impl Writing {
    fn run(mut self, from: &Receiver<Message>) {
        loop {
            match from.recv_timeout(Duration::from_secs(1)) {
                Ok(Message::Chunk(chunk)) => self.write(chunk),
                Ok(Message::Reopen) => self.reopen(),
                Ok(Message::Finish(done)) => {
                    let _ = self.out.flush();
                    // Who asked may have stopped waiting.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.report();
        }
    }

    fn write(&mut self, chunk: Chunk) {
        let Chunk { mut lines, records, back } = chunk;
        if let Err(error) = self.out.write_all(&lines).and_then(|()| self.out.flush()) {
            self.dropped.fetch_add(records, Ordering::Relaxed);
            let why = error.to_string();
            self.log.say(self.clock.now().wall, &Event::RecordsFailed { why: &why });
        }
        lines.clear();
        if lines.capacity() <= 2 * HAND_ON {
            // A worker that has enough spare buffers, or is gone, does not need this one.
            let _ = back.try_send(lines);
        }
    }

    fn reopen(&mut self) {
        match open(&self.named) {
            Ok(out) => self.out = out,
            Err(error) => {
                let why = error.to_string();
                self.log.say(self.clock.now().wall, &Event::RecordsFailed { why: &why });
            }
        }
    }

    fn report(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.reported {
            let records = dropped - self.reported;
            self.log.say(self.clock.now().wall, &Event::RecordsDropped { records });
            self.reported = dropped;
        }
    }
}

/// Opens a sink. A file is appended to, made if it is not there, and read by its owner and group alone: a record
/// names callers.
fn open(sink: &RecordSink) -> io::Result<Box<dyn Write + Send>> {
    Ok(match sink {
        // The descriptor itself: the standard library's handle would search every chunk for its last line end.
        RecordSink::Stdout => Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        RecordSink::File(path) => {
            Box::new(OpenOptions::new().create(true).append(true).mode(0o640).open(path)?)
        }
        RecordSink::Off => Box::new(io::sink()),
    })
}
