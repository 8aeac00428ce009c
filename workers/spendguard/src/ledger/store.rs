//! The ledger's statements: each call is one, and one round trip.

use std::time::Duration;

use lease_core::{Grant, Record, Tag};
use lease_postgres::pool::Pool;
use lease_postgres::room::Room;
use lease_postgres::url;
use lease_worker_common::database::StoreError;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::Query;
use sqlx::types::Uuid;
use sqlx::{Postgres, Row};

/// The ledger's tables in one database.
pub struct LedgerStore {
    pool: Pool,
    room: Room,
}

/// A refusal that the ledger's own rules ask for; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LedgerRefusal {
    /// For programs.
    pub code: String,
    /// For people: what happened and what to do.
    pub message: String,
}

/// The term of a scope that a write belongs to.
#[derive(Clone, Debug)]
pub struct ScopeTerm {
    /// The scope.
    pub scope: String,
    /// The tenant that owns it.
    pub tenant: String,
    /// The instance that holds it.
    pub instance: String,
    /// The term's epoch.
    pub epoch: i64,
    /// The term's grant.
    pub grant: Grant,
}

/// A request for a scope.
#[derive(Clone, Debug)]
pub struct Acquisition {
    /// The scope.
    pub scope: String,
    /// The tenant that owns it.
    pub tenant: String,
    /// The instance that asks.
    pub instance: String,
    /// The length of the term without a renewal.
    pub ttl_seconds: i32,
    /// Take it even if another instance holds it.
    pub force: bool,
    /// The attempt's name; a repetition gets the same answer.
    pub attempt: Option<String>,
    /// For a renewal: the grant that the caller holds.
    pub grant: Option<Grant>,
}

/// The outcome of an acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The caller holds the scope.
    Success {
        /// acquire, renew, recover, takeover, revoke.
        action: String,
        /// The term's epoch.
        epoch: i64,
        /// The term's grant.
        grant: Grant,
        /// Microseconds since 1970.
        expires_us: i64,
    },
    /// Another instance does.
    Denied {
        /// Its holder.
        holder: String,
        /// The holder's epoch.
        epoch: i64,
        /// Microseconds since 1970.
        expires_us: i64,
    },
}

/// A reservation as an answer shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationRow {
    /// Its name.
    pub id: Uuid,
    /// reserved, committed, released.
    pub state: String,
    /// Microseconds since 1970.
    pub expires_us: i64,
    /// The epoch in which this answer was written.
    pub epoch: i64,
}

/// A scope's register as it was read.
#[derive(Clone, Debug)]
pub struct ScopeState {
    /// The lease record, as JSON; `None` while there is none.
    pub record: Option<String>,
    /// It has no live holder.
    pub free: bool,
    /// The database's clock says that its grant has run out.
    pub run_out: bool,
    /// The time until the holder's term runs out, by the database's clock.
    pub remaining: Duration,
}

impl ScopeState {
    /// What tells this state from others; `None` while there is no record.
    pub fn seen(&self) -> Option<SeenScope> {
        let record: Record = serde_json::from_str(self.record.as_deref()?).ok()?;
        match record.grant {
            Some(grant) if !self.free => Some(SeenScope::Held(grant)),
            _ => Some(SeenScope::Free(record.tag)),
        }
    }
}

/// A state of a scope, as somebody waits for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenScope {
    /// By this record.
    Free(Tag),
    /// Under this grant, at whichever beat.
    Held(Grant),
}

/// The outcome of a write of a scope's register.
#[derive(Clone, Debug)]
pub enum ScopePut {
    /// It was written: the change, or for an acquisition acquire, recover or takeover.
    Written(String),
    /// The register had another tag.
    Conflict(ScopeState),
}

/// The reason why the ledger has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It refuses.
    #[error(transparent)]
    Refused(#[from] LedgerRefusal),
    /// Its database failed.
    #[error(transparent)]
    Failed(#[from] StoreError),
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// The ledger's answer.
pub type LedgerAnswer<T> = Result<T, LedgerError>;

/// The first statement on each connection.
pub(crate) const BEGIN: &str = "SELECT ledger_begin_session()";
const SCOPE: &str = "SELECT * FROM ledger_fencing_scope($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
const VIEW: &str = "SELECT * FROM ledger_scope_view($1, $2)";
const PUT: &str = "SELECT * FROM ledger_put_scope($1, $2, $3, $4::jsonb, $5, $6)";
const RESERVE: &str = "SELECT * FROM ledger_reserve($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
const SETTLE: &str = "SELECT * FROM ledger_settle($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Changes of no rows need what real ones need (0065): a primary that takes writes, and the rights of the ledger's role.
const READY: &str = "WITH held AS (UPDATE fencing_scopes SET register = NULL, current_grant = NULL, current_epoch = 0,
               current_holder_instance_id = NULL, ttl_expires_at = NULL, renewed_at = NULL WHERE false),
         changed AS (INSERT INTO fencing_scope_events (action) SELECT '' WHERE false),
         booked AS (UPDATE budgets SET reserved_minor = 0, committed_minor = 0 WHERE false),
         reserved AS (INSERT INTO reservations (tenant_id) SELECT '' WHERE false),
         settled AS (UPDATE reservations SET current_state = '', fencing_epoch = 0, changed_at = NULL WHERE false),
         audited AS (INSERT INTO reservation_events (action) SELECT '' WHERE false),
         announced AS (INSERT INTO audit_outbox (payload) SELECT '{}'::json WHERE false)
    SELECT o_code FROM ledger_scope_view('', '')";

/// The request of `ledger_fencing_scope`, most of it optional.
#[derive(Default)]
struct ScopeRequest<'a> {
    request: &'static str,
    scope: &'a str,
    tenant: &'a str,
    instance: Option<&'a str>,
    epoch: Option<i64>,
    grant: Option<Grant>,
    ttl_seconds: Option<i32>,
    force: bool,
    attempt: Option<&'a str>,
    note: Option<&'a str>,
}

impl LedgerStore {
    /// Connects at the first use.
    pub fn open(options: &PgConnectOptions, connections: u32, statement_limit: Duration) -> Self {
        let options = url::named(options.clone(), "leasehold ledger");
        // Each statement is planned once a connection.
        let options = options.options([("plan_cache_mode", "force_generic_plan")]);
        Self { pool: Pool::checked(&options, connections, statement_limit, BEGIN), room: Room::default() }
    }

    /// Can calls be answered?
    ///
    /// # Errors
    /// The database's: what a call would meet there, a full disk among it.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let ready = sqlx::query(READY);
        self.pool
            .call(async move |connection| {
                ready.execute(&mut *connection).await?;
                Ok(self.room.look(connection).await?)
            })
            .await
    }

    /// Takes a scope, or renews it.
    pub async fn acquire(&self, asked: &Acquisition) -> LedgerAnswer<Acquired> {
        let request = ScopeRequest {
            request: "acquire",
            scope: &asked.scope,
            tenant: &asked.tenant,
            instance: Some(&asked.instance),
            grant: asked.grant,
            ttl_seconds: Some(asked.ttl_seconds),
            force: asked.force,
            attempt: asked.attempt.as_deref(),
            ..ScopeRequest::default()
        };
        let row = self.scope(request).await?;
        let action: String = row.try_get("o_outcome")?;
        let (epoch, expires_us) = (row.try_get("o_epoch")?, row.try_get("o_expires_us")?);
        Ok(if action == "denied" {
            Acquired::Denied { holder: row.try_get("o_holder")?, epoch, expires_us }
        } else {
            let grant: Uuid = row.try_get("o_grant")?;
            Acquired::Success { action, epoch, grant: Grant(grant.as_u128()), expires_us }
        })
    }

    /// Gives a scope up; returns its epoch.
    pub async fn release(&self, fence: &ScopeTerm) -> LedgerAnswer<i64> {
        let request = ScopeRequest {
            request: "release",
            scope: &fence.scope,
            tenant: &fence.tenant,
            instance: Some(&fence.instance),
            epoch: Some(fence.epoch),
            grant: Some(fence.grant),
            ..ScopeRequest::default()
        };
        Ok(self.scope(request).await?.try_get("o_epoch")?)
    }

    /// Ends whatever term there is; returns the scope's epoch from now on, and who held it.
    pub async fn revoke(&self, scope: &str, tenant: &str, by: &str) -> LedgerAnswer<(i64, Option<String>)> {
        let note = Some(by);
        let request = ScopeRequest { request: "revoke", scope, tenant, note, ..ScopeRequest::default() };
        let row = self.scope(request).await?;
        Ok((row.try_get("o_epoch")?, row.try_get("o_holder")?))
    }

    async fn scope(&self, asked: ScopeRequest<'_>) -> LedgerAnswer<PgRow> {
        let query = sqlx::query(SCOPE)
            .bind(asked.request)
            .bind(asked.scope)
            .bind(asked.tenant)
            .bind(asked.instance)
            .bind(asked.epoch)
            .bind(asked.grant.map(uuid))
            .bind(asked.ttl_seconds)
            .bind(asked.force)
            .bind(asked.attempt)
            .bind(uuid(Grant::random()))
            .bind(asked.note);
        self.answer(query).await
    }

    /// Reads a scope's register.
    pub async fn observe(&self, scope: &str, tenant: &str) -> LedgerAnswer<ScopeState> {
        let row = self.answer(sqlx::query(VIEW).bind(scope).bind(tenant)).await?;
        let remaining: i64 = row.try_get("o_remaining_ms")?;
        Ok(ScopeState {
            record: row.try_get("o_record")?,
            free: row.try_get("o_free")?,
            run_out: row.try_get("o_run_out")?,
            remaining: Duration::from_millis(remaining.unsigned_abs()),
        })
    }

    /// Writes a scope's register, a record as JSON, if its tag is still `expected`. `change` is named as in JSON.
    pub async fn put(
        &self,
        scope: &str,
        tenant: &str,
        expected: Option<Tag>,
        record: &str,
        change: &str,
        operates: bool,
    ) -> LedgerAnswer<ScopePut> {
        let query = sqlx::query(PUT)
            .bind(scope)
            .bind(tenant)
            .bind(expected.map(|tag| Uuid::from_u128(tag.0)))
            .bind(record)
            .bind(change)
            .bind(operates);
        let outcome: String = self.answer(query).await?.try_get("o_outcome")?;
        match outcome.as_str() {
            "conflict" => self.observe(scope, tenant).await.map(ScopePut::Conflict),
            _ => Ok(ScopePut::Written(outcome)),
        }
    }

    /// Sets an amount aside.
    pub async fn reserve(
        &self,
        fence: &ScopeTerm,
        key: &str,
        request_id: &str,
        amount_minor: i64,
        currency: &str,
        ttl_seconds: i32,
    ) -> LedgerAnswer<ReservationRow> {
        let query = fenced(sqlx::query(RESERVE), fence)
            .bind(key)
            .bind(request_id)
            .bind(uuid(Grant::random()))
            .bind(amount_minor)
            .bind(currency)
            .bind(ttl_seconds);
        self.reservation(query).await
    }

    /// Spends a reservation, or gives it back.
    pub async fn settle(
        &self,
        commit: bool,
        fence: &ScopeTerm,
        key: &str,
        request_id: &str,
        reservation: Uuid,
    ) -> LedgerAnswer<ReservationRow> {
        let query = sqlx::query(SETTLE).bind(if commit { "commit" } else { "release" });
        let query = fenced(query, fence).bind(key).bind(request_id).bind(reservation);
        self.reservation(query).await
    }

    async fn reservation(&self, query: Query<'_, Postgres, PgArguments>) -> LedgerAnswer<ReservationRow> {
        let row = self.answer(query).await?;
        Ok(ReservationRow {
            id: row.try_get("o_reservation")?,
            state: row.try_get("o_state")?,
            expires_us: row.try_get("o_expires_us")?,
            epoch: row.try_get("o_epoch")?,
        })
    }

    async fn answer(&self, query: Query<'_, Postgres, PgArguments>) -> LedgerAnswer<PgRow> {
        let answer: Result<_, StoreError> =
            self.pool.call(async move |connection| Ok(query.fetch_one(connection).await?)).await;
        let row = match answer {
            Err(StoreError::Failed(sqlx::Error::Database(error)))
                if error.code().as_deref() == Some(BUDGET_EXCEEDED) =>
            {
                let message = error.message().to_owned();
                return Err(LedgerRefusal { code: "BUDGET_EXCEEDED".to_owned(), message }.into());
            }
            answer => answer?,
        };
        let code: Option<String> = row.try_get("o_code")?;
        match code {
            None => Ok(row),
            Some(code) => Err(LedgerRefusal { code, message: row.try_get("o_message")? }.into()),
        }
    }
}

/// The SQLSTATE of `ledger_reserve` when it must undo what it has written, since others have used the budget meanwhile.
const BUDGET_EXCEEDED: &str = "LH003";

fn fenced<'q>(
    query: Query<'q, Postgres, PgArguments>,
    fence: &'q ScopeTerm,
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(&fence.scope)
        .bind(&fence.tenant)
        .bind(&fence.instance)
        .bind(fence.epoch)
        .bind(uuid(fence.grant))
}

fn uuid(grant: Grant) -> Uuid {
    Uuid::from_u128(grant.0)
}
