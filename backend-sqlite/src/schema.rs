//! Opening the lease file, and bringing it to this version's schema, while others do the same.

use std::path::Path;
use std::time::Duration;

use lease_core::BackendError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use crate::config::SqliteConfig;
use crate::error::{is_busy, open_failed};
use crate::trace::{Trace, epochs_after, files_before};

/// Version 1 of the schema, as one script.
const SCHEMA: &str = include_str!("schema.sql");
const VERSION: i64 = 1;
/// "LEAS": marks our files, so that we never write tables into somebody else's.
const APPLICATION_ID: i64 = 0x4c45_4153;

/// No lease has this name: the floor of all leases whose registers may be in a file that was deleted. So each of them is
/// absent as after a deletion.
const MADE_ANEW: &str = "INSERT INTO coordination_lease_floors (lease_name, epoch) VALUES ('', ?1)";
const WAS_MADE_ANEW: &str =
    "SELECT coalesce((SELECT epoch FROM coordination_lease_floors WHERE lease_name = ''), 0)";

/// Opening, and reads, wait this long for other processes that open or repair the same file.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of each connection to the lease file.
pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(OPENING_TIMEOUT)
        .thread_name(|id| format!("lease-sqlite-{id}"))
        .disable_statement_logging()
}

/// Creates the file or migrates it, and puts it into WAL mode. While the returned connection is open, SQLite keeps
/// the `-wal` and `-shm` files.
pub(crate) async fn prepare(config: &SqliteConfig) -> Result<SqliteConnection, BackendError> {
    let path = config.path();
    let failed = |error| open_failed(path, error);
    let options = options(path).create_if_missing(true);
    let mut connection = options.connect().await.map_err(failed)?;
    if inspect(&mut connection).await.map_err(failed)?.must_be_created(path)? {
        // Many may be here at once: whoever gets the lock first creates, the others find it done.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        if inspect(&mut transaction).await.map_err(failed)?.must_be_created(path)? {
            sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await.map_err(failed)?;
            let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(marks)).execute(&mut *transaction).await.map_err(failed)?;
            let before = Trace::of(path)?.files()?;
            if before > 0 {
                let above = epochs_after(before).cast_signed();
                sqlx::query(MADE_ANEW).bind(above).execute(&mut *transaction).await.map_err(failed)?;
            }
        }
        transaction.commit().await.map_err(failed)?;
    }
    if let Some(period) = config.history_retention {
        // No write, and so no waiting for the lock, if it is so already.
        let set = "UPDATE coordination_lease_settings SET history_retention_seconds = ?1";
        let differs = "SELECT history_retention_seconds <> ?1 FROM coordination_lease_settings";
        let seconds = i64::try_from(period.as_secs()).unwrap_or(i64::MAX);
        if sqlx::query_scalar(differs).bind(seconds).fetch_one(&mut connection).await.map_err(failed)? {
            sqlx::query(set).bind(seconds).execute(&mut connection).await.map_err(failed)?;
        }
    }
    use_wal(&mut connection).await.map_err(failed)?;
    inspect(&mut connection).await.map_err(failed)?; // The first read in WAL mode makes -wal and -shm.
    // Whoever opens the file sees to its trace before anybody can lead in it: also if its creator didn't come to that.
    // Not before the tables are there: a creation that was cut off, and tried again, isn't a second file.
    let above: i64 = sqlx::query_scalar(WAS_MADE_ANEW).fetch_one(&mut connection).await.map_err(failed)?;
    Trace::of(path)?.count(files_before(above.cast_unsigned()) + 1)?;
    Ok(connection)
}

struct Found {
    application_id: i64,
    version: i64,
    objects: i64,
}

async fn inspect(connection: &mut SqliteConnection) -> Result<Found, sqlx::Error> {
    let sql = "SELECT (SELECT application_id FROM pragma_application_id),
                      (SELECT user_version FROM pragma_user_version),
                      (SELECT count(*) FROM sqlite_master)";
    let row = sqlx::query(sql).fetch_one(connection).await?;
    Ok(Found { application_id: row.try_get(0)?, version: row.try_get(1)?, objects: row.try_get(2)? })
}

impl Found {
    fn must_be_created(&self, path: &Path) -> Result<bool, BackendError> {
        let path = path.display();
        if self.application_id == 0 && self.version == 0 && self.objects == 0 {
            return Ok(true);
        }
        if self.application_id != APPLICATION_ID {
            return Err(BackendError::refused(format!(
                "{path} is another program's database; leases need a file of their own, so choose another path"
            )));
        }
        if self.version > VERSION {
            return Err(BackendError::refused(format!(
                "{path} has schema version {}, and this program knows only {VERSION}; upgrade this program",
                self.version
            )));
        }
        Ok(false)
    }
}

/// SQLite doesn't wait for its lock when it changes the journal mode, whatever the busy timeout; so we do. It is once
/// in a file's life, and only while others open the same new file.
async fn use_wal(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut pauses = OPENING_TIMEOUT.as_millis() / PAUSE.as_millis();
    loop {
        // Read first: naming the mode, even the present one, takes a lock.
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
        if mode == "wal" {
            return Ok(());
        }
        match sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *connection).await {
            Err(error) if !is_busy(&error) || pauses == 0 => return Err(error),
            _ => pauses = pauses.saturating_sub(1),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
