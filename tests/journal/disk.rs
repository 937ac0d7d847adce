//! A disk below the journal, with its two files: it loses what was not synced, tears writes, and fails or hangs where it is
//! told to.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// Bytes that are written together or not at all.
const SECTOR: usize = 512;

/// A handle on the disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<(Mutex<State>, Condvar)>);

/// One of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// The log.
    Log,
    /// The tables.
    Tables,
}

/// An open file of it.
#[derive(Clone, Debug)]
pub(crate) struct File {
    disk: Disk,
    name: Name,
}

/// What stands in both files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    /// The log.
    pub(crate) log: Vec<u8>,
    /// The tables.
    pub(crate) tables: Vec<u8>,
}

impl Image {
    pub(crate) fn of(&mut self, name: Name) -> &mut Vec<u8> {
        match name {
            Name::Log => &mut self.log,
            Name::Tables => &mut self.tables,
        }
    }
}

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
    durable: Image,
    /// What a reader sees.
    current: Image,
    /// What was changed since the last sync of its file.
    unsynced: Vec<(Name, Change)>,
    /// Changing operations so far.
    operations: u64,
    syncs: u64,
    fault: Option<(u64, Fault)>,
    /// Every change of this file fails.
    broken: Option<Name>,
    /// Every change of this file waits.
    held: Option<Name>,
    dead: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk that holds this.
    pub(crate) fn holding(image: Image) -> Disk {
        let state = State { durable: image.clone(), current: image, ..State::default() };
        Disk(Arc::new((Mutex::new(state), Condvar::new())))
    }

    /// One of its files.
    pub(crate) fn file(&self, name: Name) -> File {
        File { disk: self.clone(), name }
    }

    /// Lets every change of this file wait.
    pub(crate) fn hold(&self, name: Name) {
        self.lock().held = Some(name);
    }

    /// Lets what waits go on.
    pub(crate) fn release(&self) {
        self.lock().held = None;
        self.0.1.notify_all();
    }

    /// Lets every change of this file fail.
    pub(crate) fn break_file(&self, name: Name) {
        self.lock().broken = Some(name);
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
    pub(crate) fn after_kill(&self) -> Image {
        self.lock().current.clone()
    }

    /// What a power cut leaves: what was synced, and of the rest what `luck` says: nothing, all, or the first sectors.
    pub(crate) fn after_power_cut(&self, mut luck: impl FnMut() -> u64) -> Image {
        let state = self.lock();
        let mut image = state.durable.clone();
        for (name, change) in &state.unsynced {
            match (change, luck() % 3) {
                (_, 0) => {}
                (Change::Write(offset, data), 1) => {
                    let sectors = data.len() / SECTOR;
                    let kept = usize::try_from(luck()).unwrap_or(0) % (sectors + 1) * SECTOR;
                    write_at(image.of(*name), *offset, &data[..kept]);
                }
                (change, _) => apply(image.of(*name), change),
            }
        }
        image
    }
}

impl State {
    /// Counts one changing operation, and says whether it works.
    fn step(&mut self, name: Name) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("no power"));
        }
        if self.broken == Some(name) {
            return Err(io::Error::other("broken"));
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
}

impl File {
    /// The disk, once this file is not held up.
    fn ready(&self) -> MutexGuard<'_, State> {
        let (_, let_go) = &*self.disk.0;
        let is_held = |state: &mut State| state.held == Some(self.name);
        let_go.wait_while(self.disk.lock(), is_held).unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.ready();
        state.step(self.name)?;
        apply(state.current.of(self.name), &change);
        state.unsynced.push((self.name, change));
        Ok(())
    }
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().current.of(self.name).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        if state.dead {
            return Err(io::Error::other("no power"));
        }
        let from = usize::try_from(offset).unwrap();
        let end = from.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let current = state.current.of(self.name);
        out.copy_from_slice(current.get(from..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.ready();
        let worked = state.step(self.name);
        if !state.dead {
            // After a failure the kernel takes these pages for clean, and no later sync writes them.
            let State { unsynced, durable, .. } = &mut *state;
            for (name, change) in unsynced.extract_if(.., |(name, _)| *name == self.name) {
                if worked.is_ok() {
                    apply(durable.of(name), &change);
                }
            }
        }
        state.syncs += 1;
        worked
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
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
