//! The connections to the lease file, and the queue of its writers.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use lease_core::{BackendError, Lineage};
use sqlx::sqlite::SqliteRow;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::SqliteConfig;
use crate::error::{is_busy, open_failed, turn_never_came, write_failed};
use crate::file::LeaseFile;
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
    /// A statement was sent, and its end was not seen.
    abandoned: bool,
}

/// The accidents that an acknowledged write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Waits for the disk.
    PowerCut,
    /// Is in the kernel's hands; nothing waits for the disk, so a slow one delays nobody.
    ProcessCrash,
}

/// Writes to one file, in the order of their arrival within this process.
///
/// They wait for the file's one lock here and not in SQLite. That would wait on its thread, where a dropped future
/// can't stop it, in steps of up to 100 ms: of a dozen that write at once, the unlucky ones would wait for seconds
/// while the lock is free every 5 ms.
#[derive(Debug)]
pub(crate) struct Writer {
    lane: Lane,
    queue: Arc<Mutex<()>>,
    limit: Duration,
}

impl Lane {
    /// For reads: they wait for no writer while the file is in WAL mode.
    pub(crate) async fn open(config: &SqliteConfig) -> Result<Self, BackendError> {
        Ok(Self(Mutex::new(Inner { connection: open(config).await?, abandoned: false })))
    }

    /// All rows of a statement.
    pub(crate) async fn rows(&self, statement: Statement<'_>) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let mut inner = self.turn().await?;
        inner.abandoned = true;
        let answer = statement.fetch_all(&mut inner.connection).await;
        inner.abandoned = false;
        answer
    }

    /// Runs a statement to its end, commit included, and tells how many rows it changed.
    async fn execute(&self, statement: Statement<'_>) -> Result<u64, sqlx::Error> {
        let mut inner = self.turn().await?;
        inner.abandoned = true;
        let answer = statement.execute(&mut inner.connection).await;
        inner.abandoned = false;
        Ok(answer?.rows_affected())
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

impl Writer {
    pub(crate) async fn open(
        config: &SqliteConfig,
        file: &LeaseFile,
        durability: Durability,
    ) -> Result<Self, BackendError> {
        let lane = Lane::open(config).await?;
        let synchronous = match durability {
            Durability::PowerCut => "PRAGMA synchronous = FULL",
            Durability::ProcessCrash => "PRAGMA synchronous = NORMAL",
        };
        for setting in [synchronous, "PRAGMA busy_timeout = 0"] {
            let set = lane.execute(sqlx::query(setting)).await;
            set.map_err(|error| open_failed(config.path(), error))?;
        }
        Ok(Self { lane, queue: queue_of(file.lineage()), limit: config.busy_timeout })
    }

    /// Runs a write to its end, commit included, and tells how many rows it changed. Sent again only after SQLite has
    /// refused to begin it.
    pub(crate) async fn write(
        &self,
        statement: impl Fn() -> Statement<'static> + Send,
    ) -> Result<u64, BackendError> {
        let give_up = Instant::now() + self.limit;
        let turn = async {
            let turn = self.queue.lock().await;
            self.lane.turn().await.map(|_| turn)
        };
        let _turn = timeout_at(give_up, turn).await.map_err(|_| turn_never_came())?.map_err(write_failed)?;
        let mut pause_ms = 1;
        loop {
            match self.lane.execute(statement()).await {
                Err(error) if is_busy(&error) && Instant::now() < give_up => {
                    sleep(Duration::from_millis(pause_ms)).await;
                    pause_ms = if pause_ms < 8 { pause_ms * 2 } else { 1 };
                }
                answer => return answer.map_err(write_failed),
            }
        }
    }
}

/// The queue of all those in this process who write to a file.
fn queue_of(file: Lineage) -> Arc<Mutex<()>> {
    static QUEUES: std::sync::Mutex<Vec<(Lineage, Weak<Mutex<()>>)>> = std::sync::Mutex::new(Vec::new());
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    queues.retain(|(_, queue)| queue.strong_count() > 0);
    if let Some(queue) = queues.iter().find_map(|(of, queue)| (*of == file).then(|| queue.upgrade())?) {
        return queue;
    }
    let queue = Arc::new(Mutex::new(()));
    queues.push((file, Arc::downgrade(&queue)));
    queue
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
