//! SQLite's errors as errors of writes: certainly not applied, or unknown.

use std::path::Path;

use lease_core::BackendError;

// SQLite's primary result codes; the low byte of each extended one.
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const READONLY: u32 = 8;
const FULL: u32 = 13;
const CONSTRAINT: u32 = 19;
const NOT_A_DATABASE: u32 = 26;

/// A read that failed changed nothing.
pub(crate) fn read_failed(what: &str, error: sqlx::Error) -> BackendError {
    BackendError::not_applied(what).with_source(error)
}

/// A write that failed.
///
/// Certain are only those errors that come before the commit record is complete. Everything else is unknown, above
/// all a failed `fsync` of the write-ahead log (`SQLITE_IOERR_FSYNC`): the commit record is in the file by then, no
/// reader takes it for committed, but a recovery would, as long as no later write has overwritten it.
pub(crate) fn write_failed(error: sqlx::Error) -> BackendError {
    match primary_code(&error) {
        Some(BUSY | LOCKED) => turn_never_came(),
        Some(FULL) => {
            BackendError::not_applied("the lease file's disk is full or over its quota; make room on it")
        }
        Some(READONLY) => BackendError::not_applied(
            "the lease file can't be written; check whether its disk was remounted read-only",
        ),
        Some(CONSTRAINT) => BackendError::not_applied("the lease file's schema refused the write"),
        _ => BackendError::unknown("writing to the lease file failed"),
    }
    .with_source(error)
}

/// Others were writing for longer than `busy_timeout`, so nothing was sent, or SQLite refused to begin it.
pub(crate) fn turn_never_came() -> BackendError {
    BackendError::not_applied(
        "others kept the lease file locked for longer than busy_timeout; look for a long transaction, a backup or a \
         slow disk, and keep other data out of this file",
    )
}

/// Opening or preparing the file failed.
pub(crate) fn open_failed(path: &Path, error: sqlx::Error) -> BackendError {
    let path = path.display();
    match primary_code(&error) {
        Some(NOT_A_DATABASE) => BackendError::refused(format!(
            "{path} is not an SQLite database; choose another path for the leases"
        )),
        Some(READONLY) => {
            BackendError::refused(format!("{path} is read-only for this process; give it write permission"))
        }
        Some(BUSY | LOCKED) => BackendError::not_applied(format!(
            "{path} is kept locked by another process; look for a long transaction in it"
        )),
        _ => BackendError::not_applied(format!("could not open the lease file {path}")),
    }
    .with_source(error)
}

/// Is another connection in the way?
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(BUSY | LOCKED))
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}
