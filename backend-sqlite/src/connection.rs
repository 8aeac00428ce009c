//! One connection to the lease file, used by one statement at a time.

use lease_core::BackendError;
use sqlx::sqlite::{SqliteQueryResult, SqliteRow};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::Mutex;

use crate::config::SqliteConfig;
use crate::error::open_failed;
use crate::schema;

pub(crate) type Statement<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// SQLite runs on a thread of its own and ends what it has begun, also after the future was dropped. So whoever comes
/// next waits for that end *before* sending: abandoned statements never pile up behind a lock or a slow disk (U-5).
#[derive(Debug)]
pub(crate) struct Lane(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    connection: SqliteConnection,
    /// A statement was sent, and its end not seen.
    abandoned: bool,
}

impl Lane {
    pub(crate) fn new(connection: SqliteConnection) -> Self {
        Self(Mutex::new(Inner { connection, abandoned: false }))
    }

    /// Runs a statement to its end, commit included.
    pub(crate) async fn execute(&self, statement: Statement<'_>) -> Result<SqliteQueryResult, sqlx::Error> {
        self.run(async |connection| statement.execute(connection).await).await
    }

    /// All rows of a statement.
    pub(crate) async fn rows(&self, statement: Statement<'_>) -> Result<Vec<SqliteRow>, sqlx::Error> {
        self.run(async |connection| statement.fetch_all(connection).await).await
    }

    async fn run<T>(
        &self,
        statement: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut inner = self.0.lock().await;
        if inner.abandoned {
            inner.connection.ping().await?;
        }
        inner.abandoned = true;
        let answer = statement(&mut inner.connection).await;
        inner.abandoned = false;
        answer
    }
}

/// A further connection to a lease file that exists.
pub(crate) async fn open(config: &SqliteConfig) -> Result<SqliteConnection, BackendError> {
    let failed = |error| open_failed(config.path(), error);
    let options = schema::options(config.path(), config.busy_timeout);
    let mut connection = options.connect().await.map_err(failed)?;
    // SQLite opens the file when it is first read.
    sqlx::query("SELECT count(*) FROM coordination_leases")
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    Ok(connection)
}
