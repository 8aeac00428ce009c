//! The connections to the lease file, and whose turn it is.

use std::time::Duration;

use lease_core::BackendError;
use sqlx::sqlite::SqliteRow;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::SqliteConfig;
use crate::error::{is_busy, open_failed, turn_never_came, write_failed};
use crate::schema;

pub(crate) type Statement<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// One connection, used by one statement at a time.
///
/// SQLite runs on a thread of its own and ends what it has begun, also after the future was dropped. So whoever comes
/// next waits for that end *before* sending: abandoned statements never pile up behind a slow disk (U-5).
#[derive(Debug)]
pub(crate) struct Lane(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    connection: SqliteConnection,
    /// A statement was sent, and its end not seen.
    abandoned: bool,
}

impl Lane {
    /// For reads, which wait for nobody while the file is in WAL mode.
    pub(crate) async fn reader(config: &SqliteConfig) -> Result<Self, BackendError> {
        Ok(Self::of(open(config).await?))
    }

    /// For writes, which wait for the file's one lock here and not in SQLite.
    ///
    /// SQLite would wait on its thread, where a dropped future can't stop it, in steps of up to 100 ms: of a dozen
    /// processes that write at once, the unlucky ones would wait for seconds while the lock is free every 5 ms.
    pub(crate) async fn writer(config: &SqliteConfig) -> Result<Self, BackendError> {
        let mut connection = open(config).await?;
        let impatient = sqlx::query("PRAGMA busy_timeout = 0").execute(&mut connection).await;
        impatient.map_err(|error| open_failed(config.path(), error))?;
        Ok(Self::of(connection))
    }

    fn of(connection: SqliteConnection) -> Self {
        Self(Mutex::new(Inner { connection, abandoned: false }))
    }

    /// All rows of a statement.
    pub(crate) async fn rows(&self, statement: Statement<'_>) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let mut inner = self.turn().await?;
        inner.abandoned = true;
        let answer = statement.fetch_all(&mut inner.connection).await;
        inner.abandoned = false;
        answer
    }

    /// Runs a write to its end, commit included, and tells how many rows it changed. Sent again only after SQLite has
    /// refused to begin it.
    pub(crate) async fn write(
        &self,
        limit: Duration,
        statement: impl Fn() -> Statement<'static> + Send,
    ) -> Result<u64, BackendError> {
        let give_up = Instant::now() + limit;
        let turn = timeout_at(give_up, self.turn()).await;
        let mut inner = turn.map_err(|_| turn_never_came())?.map_err(write_failed)?;
        for pause_ms in [1, 2, 4, 8].into_iter().cycle() {
            inner.abandoned = true;
            let answer = statement().execute(&mut inner.connection).await;
            inner.abandoned = false;
            match answer {
                Ok(done) => return Ok(done.rows_affected()),
                Err(error) if !is_busy(&error) || Instant::now() >= give_up => {
                    return Err(write_failed(error));
                }
                Err(_) => sleep(Duration::from_millis(pause_ms)).await,
            }
        }
        Err(turn_never_came())
    }

    async fn turn(&self) -> Result<MutexGuard<'_, Inner>, sqlx::Error> {
        let mut inner = self.0.lock().await;
        if inner.abandoned {
            inner.connection.ping().await?;
            inner.abandoned = false;
        }
        Ok(inner)
    }
}

/// A further connection to a lease file that exists.
pub(crate) async fn open(config: &SqliteConfig) -> Result<SqliteConnection, BackendError> {
    let failed = |error| open_failed(config.path(), error);
    let mut connection = schema::options(config.path()).connect().await.map_err(failed)?;
    // SQLite opens the file when it is first read.
    sqlx::query("SELECT count(*) FROM coordination_leases")
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    Ok(connection)
}
