//! Whether there is room on a database's disk. Postgres tells by a write alone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;

use crate::error;

/// For how long room that was seen counts as there: probes, and strangers, may ask at any rate.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Whether one database's disk has room, asked at most every five seconds while it has. Each look at a full disk is a new
/// one.
#[derive(Debug, Default)]
pub struct Room(Mutex<Option<Instant>>);

impl Room {
    /// Fails as [`has_room`].
    ///
    /// # Errors
    /// The server's.
    ///
    /// # Cancel safety
    /// As [`has_room`].
    pub async fn look(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let seen_at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen_at.is_some_and(|at| at.elapsed() < KNOWN_FOR) {
            return Ok(());
        }
        has_room(connection).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }
}

/// A result that is too large for its memory, so that 140 kB of it go to a temporary file for a moment. It is beside the
/// tables, unless they were moved from their database's own tablespace. The memory is set first: the series' length hangs
/// on it.
const SPILL: &str = "SELECT count(*)
    FROM (SELECT set_config('work_mem', '64kB', true) AS memory, set_config('temp_tablespaces', '', true) AS place
          OFFSET 0) AS little,
         LATERAL generate_series(1, 10000 + 0 * length(memory || place))";

/// What a server says that allows no temporary file of this size.
const TEMP_FILE_LIMIT: &str = "53400";

/// Fails as a write fails where the disk of the database is full (SQLSTATE 53100). It changes no row, needs
/// no right, and leaves nothing behind: a temporary file is written and removed.
///
/// A server that allows no temporary files (`temp_file_limit`) can't be asked: it has room.
///
/// # Errors
/// The server's.
///
/// # Cancel safety
/// Dropped, it leaves the connection in mid-statement, as any other.
pub async fn has_room(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match sqlx::query(SPILL).execute(connection).await {
        Err(error) if error::database(&error).is_some_and(|error| error.code() == TEMP_FILE_LIMIT) => Ok(()),
        spilled => spilled.map(drop),
    }
}
