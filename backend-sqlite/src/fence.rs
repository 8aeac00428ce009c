//! The fence: F-1 inside the transaction that makes the effect.

use lease_core::fence::{AboveCeiling, FENCING_EPOCH_ABOVE_CEILING, FENCING_EPOCH_STALE, Lowering, Stale};
use lease_core::{Grant, Term};
use sqlx::{Connection, Row, SqliteConnection};

/// Guards one resource in an SQLite database: **the database that holds the effects**, not the lease file.
///
/// A term is admitted in the same transaction as its effects, or they are not fenced. The rule itself lives in the
/// database ([`SCHEMA`](Self::SCHEMA)), so programs in other languages and people with a shell are held to it too.
///
/// ```
/// # use lease_core::{Grant, Term};
/// # use lease_sqlite::{Fence, FenceError};
/// # use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("app.sqlite");
/// let mut app = SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await?;
/// let fence = Fence::new("outbox");
/// fence.install(&mut app).await?; // once; again does no harm
/// # sqlx::raw_sql("CREATE TABLE sent (id INTEGER)").execute(&mut app).await?;
///
/// let term = Term { epoch: 7, grant: Grant::random() }; // in earnest: leadership.term()
/// let mut transaction = app.begin_with("BEGIN IMMEDIATE").await?;
/// fence.admit(&mut transaction, &term).await?; // first of all; on an error, let the transaction drop
/// sqlx::query("INSERT INTO sent VALUES (1)").execute(&mut *transaction).await?;
/// transaction.commit().await?;
///
/// let old = Term { epoch: 6, grant: Grant::random() };
/// let mut transaction = app.begin_with("BEGIN IMMEDIATE").await?;
/// assert!(matches!(fence.admit(&mut transaction, &old).await, Err(FenceError::Stale(_))));
/// # Ok(()) }
/// ```
///
/// # Begin with `BEGIN IMMEDIATE`
/// It takes the database's write lock at once, and waits for it. A plain `BEGIN` is as safe but takes the lock at the
/// first write: if the transaction has read before, and anybody has written since, SQLite refuses the write with
/// `SQLITE_BUSY` and without waiting, and the transaction must be begun anew.
#[derive(Clone, Debug)]
pub struct Fence {
    resource: String,
}

const NO_TRANSACTION: &str = "begin a transaction first, with begin_with(\"BEGIN IMMEDIATE\"): a term is admitted \
     together with its effects or guards nothing";

/// Why a term was not admitted.
pub type FenceError = lease_core::fence::FenceError<sqlx::Error>;

impl Fence {
    /// The table of marks, the view and the rule, as one script; each statement does nothing if it was run before.
    pub const SCHEMA: &str = include_str!("fence.sql");

    /// The fence of `resource`: any name; the promise is per resource.
    pub fn new(resource: impl Into<String>) -> Self {
        Self { resource: resource.into() }
    }

    /// Runs [`SCHEMA`](Self::SCHEMA), which serves every resource in this database. May be repeated, also by many at
    /// once.
    ///
    /// # Errors
    /// The database's.
    pub async fn install(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(Self::SCHEMA).execute(connection).await.map(drop)
    }

    /// Admits `term` if and only if no later one was admitted (F-1), and raises the mark if it is new.
    ///
    /// The first statement of a transaction, before any read that the effects depend on. What was admitted holds if
    /// the transaction commits, and is undone with it. Keep the transaction much shorter than the ttl. May be dropped
    /// at any await; drop the transaction too.
    ///
    /// # Errors
    /// See [`FenceError`]. Among the errors of the store is the absence of a transaction (one that was begun with
    /// `begin` or `begin_with`): without one, the mark would be raised and guard nothing.
    pub async fn admit(&self, connection: &mut SqliteConnection, term: &Term) -> Result<(), FenceError> {
        let refused = Stale { refused: *term };
        AboveCeiling::check(term).map_err(FenceError::AboveCeiling)?;
        let epoch = integer(term.epoch)?;
        in_transaction(connection)?;
        let admitted =
            sqlx::query("INSERT INTO leasehold_admit (resource, epoch, grant_id) VALUES (?, ?, ?)")
                .bind(&self.resource)
                .bind(epoch)
                .bind(term.grant.to_string())
                .execute(connection)
                .await;
        match admitted {
            Ok(_) => Ok(()),
            Err(sqlx::Error::Database(error)) if error.message() == FENCING_EPOCH_STALE => {
                Err(FenceError::Stale(refused))
            }
            Err(sqlx::Error::Database(error)) if error.message() == FENCING_EPOCH_ABOVE_CEILING => {
                Err(FenceError::AboveCeiling(AboveCeiling { refused: *term }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The greatest term admitted so far, for people. To decide anything, [`admit`](Self::admit).
    ///
    /// # Errors
    /// The database's.
    pub async fn mark(&self, connection: &mut SqliteConnection) -> Result<Option<Term>, sqlx::Error> {
        let sql = "SELECT epoch, grant_id FROM leasehold_fence_marks WHERE resource = ?";
        let Some(row) = sqlx::query(sql).bind(&self.resource).fetch_optional(connection).await? else {
            return Ok(None);
        };
        let (epoch, grant): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        let epoch = epoch.try_into().map_err(decode)?;
        Ok(Some(Term { epoch, grant: grant.parse().map_err(decode)? }))
    }

    /// An operator's repair of a mark that refuses every real term; leaves a row in `leasehold_fence_lowerings`. In a
    /// transaction. Returns false, and changes nothing, if the mark is not the one that was seen.
    ///
    /// # Errors
    /// The database's, or the absence of a transaction.
    pub async fn lower(
        &self,
        connection: &mut SqliteConnection,
        lowering: &Lowering,
    ) -> Result<bool, sqlx::Error> {
        in_transaction(connection)?;
        let Lowering { seen, to, by, note } = lowering;
        let (from_epoch, to_epoch) = (integer(seen.epoch)?, integer(to.epoch)?);
        let (from_grant, to_grant) = (seen.grant.to_string(), to.grant.to_string());
        let sql = "UPDATE leasehold_fence_marks SET epoch = ?, grant_id = ?
                   WHERE resource = ? AND epoch = ? AND grant_id = ?";
        let lowered = sqlx::query(sql).bind(to_epoch).bind(&to_grant).bind(&self.resource);
        let lowered = lowered.bind(from_epoch).bind(&from_grant).execute(&mut *connection).await?;
        if lowered.rows_affected() == 0 {
            return Ok(false);
        }
        let sql = "INSERT INTO leasehold_fence_lowerings
                   (resource, from_epoch, from_grant, to_epoch, to_grant, lowered_by, note) VALUES (?, ?, ?, ?, ?, ?, ?)";
        let told = sqlx::query(sql).bind(&self.resource).bind(from_epoch).bind(from_grant);
        told.bind(to_epoch).bind(to_grant).bind(by).bind(note).execute(connection).await?;
        Ok(true)
    }

    /// Takes the next term from the resource itself, without any lease: the mark's epoch + 1 and a fresh grant.
    ///
    /// For mode `disabled`, where one instance is meant to run: an accidental second one fences the first out instead
    /// of doubling its work. The term is valid once the transaction has committed.
    ///
    /// # Errors
    /// As for [`admit`](Self::admit).
    pub async fn take_term(&self, connection: &mut SqliteConnection) -> Result<Term, FenceError> {
        in_transaction(connection)?;
        let grant = Grant::random();
        let sql = "INSERT INTO leasehold_fence_marks (resource, epoch, grant_id) VALUES (?1, 1, ?2)
                   ON CONFLICT (resource) DO UPDATE SET epoch = epoch + 1, grant_id = excluded.grant_id
                   WHERE epoch < ?3
                   RETURNING epoch";
        let taken = sqlx::query_scalar(sql).bind(&self.resource).bind(grant.to_string());
        let taken: Option<i64> = taken.bind(Term::MAX_EPOCH as i64).fetch_optional(connection).await?;
        let Some(epoch) = taken else {
            let refused = Term { epoch: Term::MAX_EPOCH + 1, grant };
            return Err(FenceError::AboveCeiling(AboveCeiling { refused }));
        };
        Ok(Term { epoch: epoch.try_into().map_err(decode)?, grant })
    }
}

fn in_transaction(connection: &SqliteConnection) -> Result<(), sqlx::Error> {
    match connection.is_in_transaction() {
        true => Ok(()),
        false => Err(sqlx::Error::InvalidArgument(NO_TRANSACTION.to_owned())),
    }
}

fn integer(epoch: u64) -> Result<i64, sqlx::Error> {
    epoch.try_into().map_err(decode)
}

fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
