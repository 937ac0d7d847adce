//! Opening: everything is looked at before a byte of it is believed.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageBackend, StorageError};

use crate::clock::Now;

use super::directory::{self, Directory, Standing};
use super::load::{self, Loaded};
use super::log::{self, Log};
use super::mark::Mark;
use super::places::Places;
use super::problem::OpenProblem;
use super::storage::{BEFORE_TABLES, Storage, TablesPart};
use super::tables::{Changes, META, META_FORMAT, META_SEQUENCE, TABLES_FORMAT, TableProblem};

/// Bytes that the library may keep of the file; the kernel keeps it as well.
const CACHE: usize = 4 << 20;

/// A journal that was read and found whole.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) directory: Directory,
    pub(super) database: Database,
    pub(super) log: Log,
    pub(super) mark: Mark,
    pub(super) loaded: Loaded,
}

/// The journal in a directory's own files.
pub(super) fn in_files(path: &Path, now: Now) -> Result<Opened, OpenProblem> {
    let mut directory = Directory::take(path)?;
    let journal = directory.journal_path();
    let file = directory.journal(|file| {
        let storage = Storage::new(storage_of(&journal, file)?);
        let database = make(&journal, &storage)?;
        guarded(&journal, || database.close().map_err(TableProblem::from))
    })?;
    let tables = Storage::new(storage_of(&journal, file)?);
    let log = directory.log()?;
    let log = Storage::new(storage_of(&directory.log_path(), log)?);
    open(directory, log, &tables, now)
}

/// The journal on storages of another's making, with the directory's other files beside it.
pub(super) fn on_storages(
    path: &Path,
    log: impl StorageBackend,
    tables: impl StorageBackend,
    now: Now,
) -> Result<Opened, OpenProblem> {
    let directory = Directory::take(path)?;
    open(directory, Storage::new(log), &Storage::new(tables), now)
}

fn open(
    mut directory: Directory,
    log: Storage,
    tables: &Storage,
    now: Now,
) -> Result<Opened, OpenProblem> {
    let journal = directory.journal_path();
    let corrupt = |what: String| OpenProblem::Corrupt { file: journal.clone(), what };
    let length = tables.length().map_err(|error| system_problem(&journal, &error))?;
    let database = match directory.standing() {
        Standing::New if length <= BEFORE_TABLES => make(&journal, tables)?,
        Standing::Established | Standing::Older if length == 0 => {
            return Err(corrupt("it is empty".to_owned()));
        }
        Standing::Established | Standing::Older if length <= BEFORE_TABLES => {
            return Err(corrupt("it ends too early".to_owned()));
        }
        Standing::New | Standing::Established | Standing::Older => library(&journal, tables)?,
    };
    let log = log_on(&directory, log)?;
    let loaded = guarded(&journal, || {
        let ahead = |number| match directory.standing() {
            Standing::New | Standing::Established => log.read_after(number),
            Standing::Older => log::read_older(tables, number),
        };
        load::load(&database, ahead, now)
    })?;
    let (mark, acknowledged) = directory.mark()?;
    if loaded.sequence < acknowledged {
        return Err(corrupt(format!(
            "it ends at commit {}, and commit {acknowledged} was acknowledged",
            loaded.sequence
        )));
    }
    if directory.standing() == Standing::New && loaded.sequence > 0 {
        return Err(OpenProblem::Corrupt {
            file: directory.format_path(),
            what: "it is missing or empty, and there is state beside it".to_owned(),
        });
    }
    directory.establish()?;
    Ok(Opened { directory, database, log, mark, loaded })
}

/// The log; made where none that counts can be here.
fn log_on(directory: &Directory, storage: Storage) -> Result<Log, OpenProblem> {
    let path = directory.log_path();
    let length = storage.length().map_err(|error| system_problem(&path, &error))?;
    match (directory.standing(), length == log::LENGTH as u64) {
        (Standing::New | Standing::Established, true) => {}
        (Standing::New, false) | (Standing::Older, _) => {
            Log::make(&storage).map_err(|error| system_problem(&path, &error))?;
        }
        (Standing::Established, false) => {
            let what = if length == 0 { "it is empty" } else { "it has not its length" };
            return Err(OpenProblem::Corrupt { file: path, what: what.to_owned() });
        }
    }
    Ok(Log::new(storage))
}

fn storage_of(journal: &Path, file: File) -> Result<FileBackend, OpenProblem> {
    FileBackend::new(file).map_err(|error| library_problem(journal, error))
}

/// Opens the tables, and verifies every page of them.
fn library(journal: &Path, storage: &Storage) -> Result<Database, OpenProblem> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    let tables = TablesPart(storage.clone());
    match catch_unwind(AssertUnwindSafe(|| builder.create_with_backend(tables))) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(library_problem(journal, error)),
        Err(_) => Err(unreadable(journal)),
    }
}

/// Makes empty tables.
fn make(journal: &Path, storage: &Storage) -> Result<Database, OpenProblem> {
    let emptied = storage.set_length(BEFORE_TABLES);
    emptied.map_err(|error| system_problem(journal, &error))?;
    let database = library(journal, storage)?;
    guarded(journal, || {
        let transaction = database.begin_write()?;
        Changes::new(&transaction, &mut Places::default())?.finish()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_FORMAT, TABLES_FORMAT)?;
            meta.insert(META_SEQUENCE, 0)?;
        }
        transaction.commit()?;
        Ok(())
    })?;
    Ok(database)
}

/// Whatever the library meets in a damaged file, a panic too, is a problem of the file.
fn guarded<T>(
    journal: &Path,
    work: impl FnOnce() -> Result<T, TableProblem>,
) -> Result<T, OpenProblem> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(TableProblem::Library(redb::Error::Io(error)))) => {
            Err(system_problem(journal, &error))
        }
        Ok(Err(problem @ TableProblem::Log(_))) => {
            let file = directory::log_beside(journal);
            Err(OpenProblem::Corrupt { file, what: problem.to_string() })
        }
        Ok(Err(problem)) => {
            Err(OpenProblem::Corrupt { file: journal.to_owned(), what: problem.to_string() })
        }
        Err(_) => Err(unreadable(journal)),
    }
}

fn library_problem(journal: &Path, error: DatabaseError) -> OpenProblem {
    match error {
        DatabaseError::Storage(StorageError::Io(error)) => system_problem(journal, &error),
        DatabaseError::DatabaseAlreadyOpen => {
            OpenProblem::Locked { directory: journal.parent().unwrap_or(journal).to_owned() }
        }
        other => OpenProblem::Corrupt { file: journal.to_owned(), what: other.to_string() },
    }
}

/// An end that comes too early is damage; anything else is the system's word.
fn system_problem(journal: &Path, error: &std::io::Error) -> OpenProblem {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData => OpenProblem::Corrupt {
            file: journal.to_owned(),
            what: format!("it is not as it was written: {error}"),
        },
        _ => OpenProblem::Unusable {
            path: journal.to_owned(),
            what: format!("it cannot be read or written: {error}"),
        },
    }
}

fn unreadable(journal: &Path) -> OpenProblem {
    OpenProblem::Corrupt {
        file: journal.to_owned(),
        what: "its structure leads nowhere".to_owned(),
    }
}
