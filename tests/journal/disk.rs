//! A disk below the journal: it loses what was not synced, tears writes, and fails where it is told to.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// Bytes that are written together or not at all.
const SECTOR: usize = 512;

/// A handle on the disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

/// What goes wrong at the operation that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This one and all later operations fail.
    PowerCut,
    /// This operation fails; what a failed sync should have written is never written by a later one.
    Error(i32),
    /// A bug of the library is met.
    Panic,
}

#[derive(Debug, Default)]
struct State {
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What a reader sees.
    current: Vec<u8>,
    /// What was changed since the last sync.
    unsynced: Vec<Change>,
    /// Changing operations so far.
    operations: u64,
    syncs: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk that holds this.
    pub(crate) fn holding(image: Vec<u8>) -> Disk {
        let state = State { durable: image.clone(), current: image, ..State::default() };
        Disk(Arc::new(Mutex::new(state)))
    }

    /// Lets the changing operation after `operations` more go wrong.
    pub(crate) fn fail_after(&self, operations: u64, fault: Fault) {
        let mut state = self.lock();
        state.fault = Some((state.operations + operations, fault));
    }

    /// Syncs so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Whether the fault has come.
    pub(crate) fn has_failed(&self) -> bool {
        let state = self.lock();
        state.fault.is_some_and(|(at, _)| state.operations > at)
    }

    /// What a kill leaves: everything that was written.
    pub(crate) fn after_kill(&self) -> Vec<u8> {
        self.lock().current.clone()
    }

    /// What a power cut leaves: what was synced, and of the rest what `luck` says: nothing, all, or the first sectors.
    pub(crate) fn after_power_cut(&self, mut luck: impl FnMut() -> u64) -> Vec<u8> {
        let state = self.lock();
        let mut image = state.durable.clone();
        for change in &state.unsynced {
            match (change, luck() % 3) {
                (_, 0) => {}
                (Change::Write(offset, data), 1) => {
                    let sectors = data.len() / SECTOR;
                    let kept = usize::try_from(luck()).unwrap_or(0) % (sectors + 1) * SECTOR;
                    write_at(&mut image, *offset, &data[..kept]);
                }
                (change, _) => apply(&mut image, change),
            }
        }
        image
    }
}

impl State {
    /// Counts one changing operation, and says whether it works.
    fn step(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("no power"));
        }
        let this = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, Fault::PowerCut)) if at == this => {
                self.dead = true;
                Err(io::Error::other("no power"))
            }
            Some((at, Fault::Error(code))) if at == this => Err(io::Error::from_raw_os_error(code)),
            Some((at, Fault::Panic)) if at == this => panic!("a bug in the library"),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.step()?;
        apply(&mut self.current, &change);
        self.unsynced.push(change);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        if state.dead {
            return Err(io::Error::other("no power"));
        }
        let from = usize::try_from(offset).unwrap();
        let end = from.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(state.current.get(from..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.lock().change(Change::Length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.lock();
        let worked = state.step();
        if !state.dead {
            // After a failure the kernel takes these pages for clean, and no later sync writes them.
            let changes = std::mem::take(&mut state.unsynced);
            if worked.is_ok() {
                for change in &changes {
                    apply(&mut state.durable, change);
                }
            }
        }
        state.syncs += 1;
        worked
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.lock().change(Change::Write(offset, data.to_vec()))
    }
}

fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => write_at(image, *offset, data),
        Change::Length(length) => image.resize(usize::try_from(*length).unwrap(), 0),
    }
}

fn write_at(image: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let from = usize::try_from(offset).unwrap();
    if image.len() < from + data.len() {
        image.resize(from + data.len(), 0);
    }
    image[from..from + data.len()].copy_from_slice(data);
}
