//! Expired reservations, in the ledger's database.

use std::time::Duration;

use lease_core::Term;
use lease_core::fence::AboveCeiling;
use lease_postgres::pool::Pool;
use lease_postgres::room::Room;
use lease_postgres::{Fence, url};
use lease_worker_common::database::StoreError;
use lease_worker_common::home::{self, KnownWork, Settlement};
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnectOptions};
use sqlx::query::QueryScalar;
use sqlx::types::Uuid;

use crate::ledger::store::BEGIN;

/// The resource that sweepers' terms are admitted on (F-1), as in `ledger_sweep`.
pub const RESOURCE: &str = "ttl_sweeper";

/// For a leader's batches, the probes of its readiness and the scrapes of its metrics.
const CONNECTIONS: u32 = 3;

/// For how many days the ledger remembers what is over; 0 is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Changes of a scope's holder.
    pub scope_days: u32,
    /// Changes of reservations, and the idempotency keys that they were asked for under.
    pub audit_days: u32,
}

/// The reservations of one ledger.
pub struct Expired {
    pool: Pool,
    room: Room,
    fleet: Settlement,
}

impl Expired {
    /// Connects at the first use.
    pub fn open(options: &PgConnectOptions, statement_limit: Duration, fleet: Settlement) -> Self {
        let options = url::named(options.clone(), "leasehold");
        // An expiry draws a number from the ledger's sequence, so each connection begins as the ledger's do.
        let pool = Pool::checked(&options, CONNECTIONS, statement_limit, BEGIN);
        Self { pool, room: Room::default(), fleet }
    }

    /// Releases at most `limit` reservations whose time is over, each with its audit row and outbox row, if the ledger
    /// admits `term` in the same transaction; returns how many. One statement: all of it or nothing. The term's fleet is
    /// at home here from then on (M-2).
    ///
    /// # Errors
    /// A later term has been admitted, another fleet leads here, or the database's.
    pub async fn sweep(&self, term: Term, owner: &str, limit: u32) -> Result<u64, StoreError> {
        let settled = "SELECT ledger_sweep($1, $2, $3, $4), leasehold_settle($5, $6, $7, $8)";
        let sweep = sqlx::query_scalar(settled)
            .bind(int(limit))
            .bind(owner)
            .bind(epoch(term)?)
            .bind(Uuid::from_u128(term.grant.0))
            .bind(RESOURCE)
            .bind(&self.fleet.home.mode)
            .bind(&self.fleet.home.lease)
            .bind(&self.fleet.from);
        self.count(sweep, term).await
    }

    /// The expired reservations that wait longest, at most `limit`, without those that are `left_out`.
    ///
    /// # Errors
    /// The database's.
    pub async fn waiting(&self, limit: u32, left_out: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        // The time once: compared with a clock that moves, every live reservation would be visited.
        let waiting = sqlx::query_scalar(
            "SELECT reservation_id FROM reservations
             WHERE current_state = 'reserved' AND ttl_expires_at <= now() AND reservation_id <> ALL ($2)
             ORDER BY ttl_expires_at LIMIT $1",
        )
        .bind(i64::from(limit))
        .bind(left_out);
        self.pool.call(async move |connection| Ok(waiting.fetch_all(connection).await?)).await
    }

    /// As [`sweep`](Self::sweep), for these reservations.
    ///
    /// # Errors
    /// As for [`sweep`](Self::sweep).
    pub async fn sweep_these(&self, term: Term, owner: &str, rows: &[Uuid]) -> Result<u64, StoreError> {
        let statement = "SELECT ledger_sweep_these($1, $2, $3, $4), leasehold_settle($5, $6, $7, $8)";
        let sweep = sqlx::query_scalar(statement)
            .bind(rows)
            .bind(owner)
            .bind(epoch(term)?)
            .bind(Uuid::from_u128(term.grant.0))
            .bind(RESOURCE)
            .bind(&self.fleet.home.mode)
            .bind(&self.fleet.home.lease)
            .bind(&self.fleet.from);
        self.count(sweep, term).await
    }

    /// Removes rows that are older than they are kept, at most `limit` of each table, if the ledger admits `term` in
    /// the same transaction; returns how many. What is live or still to be forwarded stays. One statement.
    ///
    /// # Errors
    /// As for [`sweep`](Self::sweep).
    pub async fn prune(&self, term: Term, keep: Retention, limit: u32) -> Result<u64, StoreError> {
        let statement = "SELECT ledger_prune($1, $2, $3, $4, $5), leasehold_settle($6, $7, $8, $9)";
        let prune = sqlx::query_scalar(statement)
            .bind(int(limit))
            .bind(int(keep.scope_days))
            .bind(int(keep.audit_days))
            .bind(epoch(term)?)
            .bind(Uuid::from_u128(term.grant.0))
            .bind(RESOURCE)
            .bind(&self.fleet.home.mode)
            .bind(&self.fleet.home.lease)
            .bind(&self.fleet.from);
        self.count(prune, term).await
    }

    /// Who leads the sweeping (M-2).
    ///
    /// # Errors
    /// The database's.
    pub async fn known(&self) -> Result<KnownWork, StoreError> {
        let known =
            self.pool.call(async |connection| home::postgres::look(connection, RESOURCE).await).await?;
        known.ok_or(StoreError::NotMigrated)
    }

    /// Mode `disabled`: a new term from the ledger's own mark, admitted at once. Its fleet is at home here from then on.
    ///
    /// # Errors
    /// Another fleet leads here, or the database's.
    pub async fn take_term(&self) -> Result<Term, StoreError> {
        self.pool
            .transaction(async |tx| {
                let term = Fence::new(RESOURCE).take_term(tx).await?;
                home::postgres::settle(tx, RESOURCE, &self.fleet).await?;
                Ok(term)
            })
            .await
    }

    /// Could a batch be done?
    ///
    /// # Errors
    /// The database's: as for [`oldest_age`](Self::oldest_age), and a full disk's.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.oldest_age().await?;
        self.pool.call(async |connection| Ok(self.room.look(connection).await?)).await
    }

    /// For how long the oldest reservation that is over has waited, by the database's clock; zero if none waits.
    ///
    /// # Errors
    /// The database's; also where nothing could be released: the changes of no rows need what real ones need (0065).
    pub async fn oldest_age(&self) -> Result<Duration, StoreError> {
        let oldest = sqlx::query_scalar(
            "WITH released AS (UPDATE reservations SET current_state = 'released', fencing_epoch = 0,
                               changed_at = clock_timestamp() WHERE false),
                  given_back AS (UPDATE budgets SET reserved_minor = 0 WHERE false),
                  audited AS (INSERT INTO reservation_events (action) SELECT 'expire' WHERE false),
                  announced AS (INSERT INTO audit_outbox (payload) SELECT '{}'::json WHERE false)
             SELECT (extract(epoch FROM clock_timestamp() - ttl_expires_at) * 1000)::bigint
             FROM reservations WHERE current_state = 'reserved' ORDER BY ttl_expires_at LIMIT 1",
        );
        let age: Result<Option<i64>, StoreError> =
            self.pool.call(async move |connection| Ok(oldest.fetch_optional(connection).await?)).await;
        Ok(Duration::from_millis(age?.unwrap_or(0).max(0) as u64))
    }

    /// The number of rows that a fenced statement changed.
    async fn count(
        &self,
        statement: QueryScalar<'_, Postgres, i64, PgArguments>,
        term: Term,
    ) -> Result<u64, StoreError> {
        self.pool
            .call(async move |connection| {
                let rows = statement.fetch_one(connection).await;
                Ok(rows.map_err(|error| Fence::refusal(&term, error))?.unsigned_abs())
            })
            .await
    }
}

fn epoch(term: Term) -> Result<i64, StoreError> {
    AboveCeiling::check(&term)?;
    Ok(term.epoch as i64)
}

fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
