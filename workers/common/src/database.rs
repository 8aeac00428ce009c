//! The database of a role's effects, and the behaviour of its connections.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lease_core::fence::{AboveCeiling, FenceError, Stale};
use lease_settings::ValueKind;
use sqlx::SqlitePool;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

/// The longest wait for SQLite's one write lock. Nothing is held while waiting.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const ALLOWED: &str = if cfg!(feature = "postgres") {
    "use sqlite:PATH, for example sqlite:/var/lib/spendguard/outbox.sqlite, or postgres://USER@HOST/DATABASE"
} else {
    "use sqlite:PATH, for example sqlite:/var/lib/spendguard/outbox.sqlite; this program was built without PostgreSQL"
};

/// A database by its URL: `sqlite:PATH` (or a plain path), or `postgres://…`.
#[derive(Clone)]
pub enum Database {
    /// A file on this host.
    Sqlite(PathBuf),
    /// A server.
    #[cfg(feature = "postgres")]
    Postgres(Box<PgConnectOptions>),
}

impl FromStr for Database {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            #[cfg(not(feature = "postgres"))]
            return Err("this program was built without PostgreSQL: use sqlite:PATH, or build it with --features postgres"
                .to_owned());
            #[cfg(feature = "postgres")]
            return match url.parse() {
                Ok(options) => Ok(Self::Postgres(Box::new(options))),
                Err(error) => Err(format!("no valid Postgres URL: {error}")),
            };
        }
        let path = url.strip_prefix("sqlite:").unwrap_or(url);
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains("://") || path.contains(":memory:") {
            return Err(ALLOWED.to_owned());
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

/// Without secrets.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres(at) => {
                let database = at.get_database().unwrap_or(at.get_username());
                write!(f, "postgres://{}@{}:{}/{database}", at.get_username(), at.get_host(), at.get_port())
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Database {
    /// For a setting that names a database.
    pub const KIND: ValueKind =
        ValueKind::Checked { check: |text| text.parse::<Self>().is_ok(), allowed: ALLOWED };

    /// The file's path, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => None,
        }
    }
}

/// A store of effects did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A later term has acted there: nothing was changed, and the term is over (F-4).
    #[error(transparent)]
    Stale(#[from] Stale),
    /// No lease store issues such an epoch: nothing was changed.
    #[error(transparent)]
    AboveCeiling(#[from] AboveCeiling),
    /// The database failed. Whether a write happened is unknown; every write of the roles may be repeated.
    #[error(transparent)]
    Failed(#[from] sqlx::Error),
    /// No answer in time. As for `Failed`.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl From<FenceError<sqlx::Error>> for StoreError {
    fn from(error: FenceError<sqlx::Error>) -> Self {
        match error {
            FenceError::Stale(stale) => Self::Stale(stale),
            FenceError::AboveCeiling(above) => Self::AboveCeiling(above),
            FenceError::Store(error) => Self::Failed(error),
        }
    }
}

#[cfg(feature = "postgres")]
impl lease_postgres::pool::CallError for StoreError {
    fn raised_by_statement(&self) -> bool {
        match self {
            Self::Stale(_) | Self::AboveCeiling(_) => true,
            Self::Failed(error) => lease_postgres::pool::raised_by_statement(error),
            Self::TimedOut(_) => false,
        }
    }
}

/// Waits for a store, but not for ever. What was dropped may still happen: every write of the roles may be repeated.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(StoreError::TimedOut(limit)))
}

/// Connections to a file. Nothing is opened before the first use, except that `create` makes the file. One that is older
/// than the file at the path is closed: it would go on with a file that nobody else sees.
pub async fn sqlite(path: &Path, create: bool) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(create)
        .journal_mode(SqliteJournalMode::Wal)
        // Committed means on the disk: a row that was marked forwarded stays so after a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    // The file, and since when it is known to be this one.
    let (at, known) = (path.to_owned(), Mutex::new((file_id(path), Instant::now())));
    let pool = SqlitePoolOptions::new().max_connections(4).before_acquire(move |_, connection| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = file_id(&at);
        if known.0 != now {
            *known = (now, Instant::now());
        }
        let is_of_this_file = connection.age < known.1.elapsed();
        Box::pin(async move { Ok(is_of_this_file) })
    });
    Ok(pool.connect_with(options).await?)
}

/// Device and inode; none while there is no file.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Runs a script that may be run again, while nobody else does.
#[cfg(feature = "postgres")]
pub async fn migrate(connection: &mut sqlx::PgConnection, script: &'static str) -> Result<(), StoreError> {
    use sqlx::Connection;

    let mut tx = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('leasehold roles'))").execute(&mut *tx).await?;
    sqlx::raw_sql(script).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_secrets_are_not_shown() {
        let shown = |url: &str| url.parse::<Database>().map(|database| database.to_string());
        assert_eq!(shown("sqlite:/a/b.sqlite"), Ok("sqlite:/a/b.sqlite".into()));
        assert_eq!(shown("sqlite:///a/b.sqlite"), Ok("sqlite:/a/b.sqlite".into()));
        assert_eq!(shown("b.sqlite"), Ok("sqlite:b.sqlite".into()));
        #[cfg(feature = "postgres")]
        assert_eq!(shown("postgres://me:secret@db:5433/app"), Ok("postgres://me@db:5433/app".into()));
        for bad in ["", "sqlite:", "mysql://x/y", "sqlite::memory:"] {
            assert!(shown(bad).is_err_and(|why| why.contains("use sqlite:PATH")), "{bad}");
        }
    }
}
