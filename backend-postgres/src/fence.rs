//! Fences for effects in Postgres (F-1): admission in the caller's own transaction.

use lease_core::Term;
use lease_core::fence::{AboveCeiling, Lowering, Stale};
use lease_core::{Grant, InvalidSettings};
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Connection};
use std::sync::Arc;

use crate::config::Schema;
use crate::pool::{CallError, raised_by_statement};
use crate::{error, schema};

/// The mark of one fenced resource, in the database that holds the effects.
///
/// ```no_run
/// # async fn example(pool: sqlx::PgPool, term: lease_core::Term) -> Result<(), Box<dyn std::error::Error>> {
/// let fence = lease_postgres::Fence::new("outbox");
/// let mut tx = pool.begin().await?;
/// fence.admit(&mut tx, &term).await?; // first: before any read that the effects depend on
/// sqlx::query("UPDATE audit_outbox SET pending_forward = false WHERE id = 7").execute(&mut *tx).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Fence {
    resource: String,
    schema: Schema,
    admit: Arc<str>,
    mark: Arc<str>,
    lower: Arc<str>,
}

/// Why a term was not admitted.
pub type FenceError = lease_core::fence::FenceError<sqlx::Error>;

impl CallError for FenceError {
    fn raised_by_statement(&self) -> bool {
        match self {
            Self::Stale(_) | Self::AboveCeiling(_) => true,
            Self::Store(error) => raised_by_statement(error),
        }
    }
}

impl Fence {
    /// The fence of `resource`, in the schema `public`.
    pub fn new(resource: impl Into<String>) -> Self {
        Self::of(resource.into(), Schema::new(Schema::DEFAULT).expect("the default is valid"))
    }

    /// The fence of `resource`, in another schema.
    ///
    /// # Errors
    /// As for [`PostgresConfig::schema`](crate::PostgresConfig::schema).
    pub fn in_schema(resource: impl Into<String>, schema: &str) -> Result<Self, InvalidSettings> {
        Ok(Self::of(resource.into(), Schema::new(schema)?))
    }

    fn of(resource: String, schema: Schema) -> Self {
        Self {
            resource,
            admit: schema.render("SELECT {schema}.leasehold_admit($1, $2, $3)").into(),
            mark: schema
                .render("SELECT epoch, grant_id FROM {schema}.leasehold_fence_marks WHERE resource = $1")
                .into(),
            lower: schema
                .render(
                    "WITH lowered AS (UPDATE {schema}.leasehold_fence_marks SET epoch = $4, grant_id = $5 \
                     WHERE resource = $1 AND epoch = $2 AND grant_id = $3 RETURNING resource) \
                     INSERT INTO {schema}.leasehold_fence_lowerings \
                     (resource, from_epoch, from_grant, to_epoch, to_grant, lowered_by, note) \
                     SELECT resource, $2, $3, $4, $5, $6, $7 FROM lowered",
                )
                .into(),
            schema,
        }
    }

    /// Makes the table of marks and the admitting function in the fence's schema, for every resource there, in a
    /// database that is not a lease store ([`migrate`](crate::migrate) makes them in one that is). May be repeated,
    /// also by many at once.
    ///
    /// # Errors
    /// The database's: nothing was made. The role must be allowed to create tables in the schema.
    pub async fn install(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin().await?;
        schema::one_at_a_time(&mut tx).await?;
        for script in schema::FENCE {
            schema::run(&mut tx, &self.schema, script).await?;
        }
        tx.commit().await
    }

    /// Admits `term`, and raises the mark if it is a new one, **in the transaction that `connection` is in**; to be
    /// called before anything else in it. The effects are safe if and only if they commit together with this.
    ///
    /// Without a transaction the mark is raised all the same, but guards nothing.
    ///
    /// # Errors
    /// [`FenceError::Stale`]: a later term has been admitted; [`FenceError::AboveCeiling`]: no store issues such an
    /// epoch; [`FenceError::Store`] otherwise, among others 40001 from a transaction that is not READ COMMITTED. In all
    /// cases the transaction can only be rolled back.
    pub async fn admit(&self, connection: &mut PgConnection, term: &Term) -> Result<(), FenceError> {
        AboveCeiling::check(term).map_err(FenceError::AboveCeiling)?;
        let epoch = integer(term.epoch)?;
        sqlx::query(AssertSqlSafe(self.admit.clone()))
            .bind(&self.resource)
            .bind(epoch)
            .bind(Uuid::from_u128(term.grant.0))
            .execute(connection)
            .await
            .map(drop)
            .map_err(|failure| Self::refusal(term, failure))
    }

    /// The meaning of the failure of a statement of your own that admits `term` by the SQL function `leasehold_admit`.
    pub fn refusal(term: &Term, failure: sqlx::Error) -> FenceError {
        match error::database(&failure) {
            Some(raised) if raised.code() == error::STALE => FenceError::Stale(Stale { refused: *term }),
            Some(raised) if raised.code() == error::ABOVE_CEILING => {
                FenceError::AboveCeiling(AboveCeiling { refused: *term })
            }
            _ => failure.into(),
        }
    }

    /// The greatest term admitted so far, for people.
    ///
    /// # Errors
    /// The database's.
    pub async fn mark(&self, connection: &mut PgConnection) -> Result<Option<Term>, sqlx::Error> {
        let row: Option<(i64, Uuid)> = sqlx::query_as(AssertSqlSafe(self.mark.clone()))
            .bind(&self.resource)
            .fetch_optional(connection)
            .await?;
        row.map(|(epoch, grant)| {
            let epoch = u64::try_from(epoch).map_err(|failure| sqlx::Error::Decode(failure.into()))?;
            Ok(Term { epoch, grant: Grant(grant.as_u128()) })
        })
        .transpose()
    }

    /// An operator's repair of a mark that refuses every real term; leaves a row in `leasehold_fence_lowerings`. Needs the
    /// rights of the tables' owner. Returns false, and changes nothing, if the mark is not the one that was seen.
    ///
    /// # Errors
    /// The database's.
    pub async fn lower(
        &self,
        connection: &mut PgConnection,
        lowering: &Lowering,
    ) -> Result<bool, sqlx::Error> {
        let Lowering { seen, to, by, note } = lowering;
        let lowered = sqlx::query(AssertSqlSafe(self.lower.clone()))
            .bind(&self.resource)
            .bind(integer(seen.epoch)?)
            .bind(Uuid::from_u128(seen.grant.0))
            .bind(integer(to.epoch)?)
            .bind(Uuid::from_u128(to.grant.0))
            .bind(by)
            .bind(note)
            .execute(connection)
            .await?;
        Ok(lowered.rows_affected() == 1)
    }

    /// A new term from the fence itself, for programs that run without leases (mode `disabled`): one above the
    /// greatest admitted, with a fresh grant, and admitted at once, so that an earlier instance is fenced out. In a
    /// transaction, to be committed before the term is used.
    ///
    /// # Errors
    /// As for [`admit`](Self::admit).
    pub async fn take_term(&self, connection: &mut PgConnection) -> Result<Term, FenceError> {
        // One at a time, so that two instances that start together get two terms.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 7810759524420219996))")
            .bind(&self.resource)
            .execute(&mut *connection)
            .await?;
        let marked = self.mark(connection).await?.map_or(0, |term| term.epoch);
        let term = Term { epoch: marked + 1, grant: Grant::random() };
        self.admit(connection, &term).await?;
        Ok(term)
    }
}

fn integer(epoch: u64) -> Result<i64, sqlx::Error> {
    epoch.try_into().map_err(|error: std::num::TryFromIntError| sqlx::Error::Encode(error.into()))
}
