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
use sqlx::error::DatabaseError;
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

/// A database by its URL: `sqlite:PATH` (or an absolute path), or `postgres://…`.
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
            return lease_postgres::url::parse(url).map(|options| Self::Postgres(Box::new(options)));
        }
        let refused = |problem: &str| format!("{problem}; {ALLOWED}");
        let named = url.strip_prefix("sqlite:");
        let path = named.map_or(url, |path| path.strip_prefix("//").unwrap_or(path));
        check_path(path).map_err(refused)?;
        // A mistyped secret must not become a file's name.
        if named.is_none() && !["/", "./", "../"].iter().any(|beginning| url.starts_with(beginning)) {
            return Err(refused("it is neither a URL nor an absolute path"));
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

/// Refuses what people write where a file's path belongs, and what would then become a file of that name.
///
/// # Errors
/// What it is instead.
pub fn check_path(text: &str) -> Result<(), &'static str> {
    let word = text.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c));
    let begins_with_a_word = word.len() < text.len();
    let replaced = |c: char| c == '$' || c == '{' || c == '}';
    let percent = |pair: &[u8]| pair[0] == b'%' && pair[1..].iter().all(u8::is_ascii_hexdigit);
    Err(match text {
        "" => "no file is named",
        _ if text.chars().any(char::is_control) || text.trim() != text => {
            "a line break or a space is around it, or in it: remove it"
        }
        _ if text.starts_with(['"', '\'', '`']) || text.ends_with(['"', '\'', '`']) => {
            "quotes are around it: remove them"
        }
        _ if text.contains(replaced) || text.starts_with('~') => {
            "it holds a variable, or ~, that nobody has replaced by its value"
        }
        _ if text.contains(":memory:") || text.contains("mode=memory") => {
            "processes can't share a database in memory: name a file"
        }
        _ if begins_with_a_word && word.trim_start().starts_with('=') => {
            "a list of key=value is for libpq's programs only: write a URL"
        }
        _ if text.contains("://") || text.starts_with([':', '@']) || text.starts_with("//") => {
            "it is no path, but a URL that can't be used here: give a plain path"
        }
        _ if begins_with_a_word && word.starts_with(':') => {
            "it is no path, but begins as a URL does: give a plain path"
        }
        _ if text.contains(['?', '#']) => "a path has no parameters: remove what begins with '?' or '#'",
        _ if text.contains('\\') => "a path is written with /, and without backslashes",
        _ if text.as_bytes().windows(3).any(percent) => {
            "nothing is percent-encoded in a path: write the characters themselves"
        }
        _ => return Ok(()),
    })
}

/// Without secrets.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres(at) => f.write_str(&lease_postgres::url::shown(at)),
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
    pub const KIND: ValueKind = ValueKind::Parsed {
        name: "database",
        check: |text| text.parse::<Self>().map(drop),
        allowed: ALLOWED,
    };

    /// The file's path, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => None,
        }
    }
}

/// What `leasehold_settle` raises.
const LED_ELSEWHERE: &str = "LH005";

/// A database's error for people.
#[cfg(feature = "postgres")]
pub use lease_postgres::words;

/// A database's error for people.
#[cfg(not(feature = "postgres"))]
pub fn words(error: &sqlx::Error) -> String {
    error.to_string()
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
    /// Another fleet leads the work there (M-2): nothing was changed.
    #[error("another fleet leads this work")]
    LedElsewhere,
    /// An older version's tables: they don't tell who leads (M-2).
    #[error(
        "its tables are older than this program, and don't tell who leads the work: run --migrate of the role that owns them, as `leasehold worker ledger --migrate`"
    )]
    NotMigrated,
    /// The database failed. Whether a write happened is unknown; every write of the roles may be repeated.
    #[error("{}", words(.0))]
    Failed(#[source] sqlx::Error),
    /// No answer in time. As for `Failed`.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl StoreError {
    /// Did the database find no room on its disk? Then nothing was done.
    pub fn is_full_disk(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        // Postgres's code, and SQLite's.
        let code = error.as_database_error().and_then(DatabaseError::code);
        code.is_some_and(|code| ["53100", "13"].contains(&&*code))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(DatabaseError::code);
        if code.as_deref() == Some(LED_ELSEWHERE) { Self::LedElsewhere } else { Self::Failed(error) }
    }
}

impl From<FenceError<sqlx::Error>> for StoreError {
    fn from(error: FenceError<sqlx::Error>) -> Self {
        match error {
            FenceError::Stale(stale) => Self::Stale(stale),
            FenceError::AboveCeiling(above) => Self::AboveCeiling(above),
            FenceError::Store(error) => error.into(),
        }
    }
}

#[cfg(feature = "postgres")]
impl lease_postgres::pool::CallError for StoreError {
    fn raised_by_statement(&self) -> bool {
        match self {
            Self::Stale(_) | Self::AboveCeiling(_) | Self::LedElsewhere | Self::NotMigrated => true,
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
