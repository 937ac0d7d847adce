//! A worker's own buffer of records. Writing a record is appending to it; handing it on is one `try_send`. When nobody
//! takes what it hands on it fills up to its bound, and then drops and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};

use super::remembered::{Because, Beginning, CameOut};
use super::writer::{Chunk, Message};
use super::{Closing, Draft, Opening, RefusalLine};

/// Bytes at which a buffer is handed on without waiting for the tick: some 150 records, for which the writer is woken once,
/// sleeps once and writes once.
pub(super) const HAND_ON: usize = 128 * 1024;
/// Bytes a record has room for before it grows.
const DRAFT: usize = 1024;
/// Bytes that a buffer has room for: what is handed on, and any but an extraordinary record behind it. A buffer that grows is
/// copied as a whole.
const FULL: usize = HAND_ON + 4 * DRAFT;
/// Drafts kept for further requests.
const SPARE: usize = 64;
/// Bytes that a buffer holds at most while nobody takes it.
pub(super) const MOST: usize = 1024 * 1024;

/// The records of one worker on their way to the writer.
#[derive(Debug)]
pub struct RecordBuffer {
    sink: Option<Sink>,
    lines: Vec<u8>,
    records: u64,
    /// Drafts that were closed: the next requests write into them, so that a busy worker allocates none.
    spare: Vec<Draft>,
    beginning: Beginning,
    came_out: CameOut,
    because: Because,
}

#[derive(Debug)]
struct Sink {
    to: SyncSender<Message>,
    /// Buffers come back empty, so that a busy worker allocates none.
    back: Receiver<Vec<u8>>,
    give_back: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl RecordBuffer {
    /// A buffer that writes nothing: `record: off`.
    pub fn off() -> RecordBuffer {
        RecordBuffer::onto(None)
    }

    pub(super) fn new(to: SyncSender<Message>, dropped: Arc<AtomicU64>) -> RecordBuffer {
        let (give_back, back) = std::sync::mpsc::sync_channel(4);
        let sink = Sink { to, back, give_back, dropped };
        RecordBuffer::onto(Some(sink))
    }

    fn onto(sink: Option<Sink>) -> RecordBuffer {
        RecordBuffer {
            // Memory that is not written yet takes none.
            lines: if sink.is_some() { Vec::with_capacity(FULL) } else { Vec::new() },
            sink,
            records: 0,
            spare: Vec::new(),
            beginning: Beginning::default(),
            came_out: CameOut::default(),
            because: Because::default(),
        }
    }

    /// An empty draft for one more request.
    pub fn draft(&mut self) -> Draft {
        match &self.sink {
            None => Draft::default(),
            Some(_) => self.spare.pop().unwrap_or_else(|| Draft::wanted(DRAFT)),
        }
    }

    /// Writes into a draft what its request's decision was made of. To be called at most once a draft, first.
    pub fn open(&mut self, draft: &mut Draft, opening: &Opening<'_>) {
        draft.open(&mut self.beginning, opening);
    }

    /// Writes into a draft why its request was refused. After [`RecordBuffer::open`], at most once a draft.
    pub fn refuse(&mut self, draft: &mut Draft, refusal: &RefusalLine<'_>) {
        draft.refuse(&mut self.because, refusal);
    }

    /// Adds the record of an exchange that is over. Never waits: when the buffer is full and nobody takes it, the
    /// record is dropped and counted.
    pub fn close(&mut self, mut draft: Draft, closing: &Closing) {
        let Some(sink) = &self.sink else { return };
        draft.close(&mut self.came_out, closing);
        let Some(line) = &mut draft.line else { return };
        if self.lines.len() + line.0.len() > MOST {
            sink.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            self.lines.extend_from_slice(&line.0);
            self.records += 1;
        }
        line.0.clear();
        if self.spare.len() < SPARE && line.0.capacity() <= 4 * DRAFT {
            self.spare.push(draft);
        }
        if self.lines.len() >= HAND_ON {
            self.flush();
        }
    }

    /// Hands on what there is, if the writer takes it now; otherwise it stays. For the worker's tick, and its end.
    pub fn flush(&mut self) {
        let Some(sink) = &self.sink else { return };
        if self.lines.is_empty() {
            return;
        }
        // Whole at once where none came back yet: a busy worker fills it, and to let it grow would copy it several times.
        let fresh = sink.back.try_recv().unwrap_or_else(|_| Vec::with_capacity(FULL));
        let chunk = Chunk {
            lines: std::mem::replace(&mut self.lines, fresh),
            records: std::mem::take(&mut self.records),
            back: sink.give_back.clone(),
        };
        match sink.to.try_send(Message::Chunk(chunk)) {
            Err(TrySendError::Full(Message::Chunk(chunk))) => {
                self.lines = chunk.lines;
                self.records = chunk.records;
            }
            Err(TrySendError::Disconnected(Message::Chunk(chunk))) => {
                sink.dropped.fetch_add(chunk.records, Ordering::Relaxed);
            }
            // Nothing but a chunk was sent, so nothing else comes back.
            Ok(()) | Err(_) => {}
        }
    }
}

impl Drop for RecordBuffer {
    fn drop(&mut self) {
        self.flush();
        if let Some(sink) = &self.sink {
            sink.dropped.fetch_add(self.records, Ordering::Relaxed);
        }
    }
}
