//! The outbox in Postgres: beside the tables whose changes it reports.

use std::time::Duration;

use async_trait::async_trait;
use lease_core::Term;
use lease_postgres::pool::{DURABLE, Pool};
use lease_postgres::room::Room;
use lease_postgres::{Fence, url};
use lease_worker_common::database::{self, StoreError};
use lease_worker_common::home::{self, KnownWork, Settlement};
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgRow};

use super::{EventKey, NewEvent, Outbox, PendingRow, RESOURCE, json, raw};

/// For a leader's batches, the probes of its readiness and the scrapes of its metrics.
const CONNECTIONS: u32 = 4;

/// Reads for whoever writes: with an update of no rows, for which Postgres asks what it asks for any other. A server that
/// is not the primary any more, one that was made read-only, and missing rights are errors of the read already (0065).
macro_rules! read_to_write {
    ($sql:literal) => {
        concat!(
            "WITH may_write AS (UPDATE audit_outbox SET pending_forward = false, forwarded_epoch = NULL,
                                forwarded_at = NULL WHERE false) ",
            $sql
        )
    };
}

/// An outbox in the schema `public` of a database.
pub struct PostgresOutbox {
    pool: Pool,
    room: Room,
    fence: Fence,
}

impl PostgresOutbox {
    /// Connects at the first use.
    pub fn open(options: &PgConnectOptions, transaction_limit: Duration) -> Self {
        let options = url::named(options.clone(), "leasehold");
        Self {
            pool: Pool::checked(&options, CONNECTIONS, transaction_limit, DURABLE),
            room: Room::default(),
            fence: Fence::new(RESOURCE),
        }
    }
}

#[async_trait]
impl Outbox for PostgresOutbox {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.pool
            .call(async |connection| {
                self.fence.install(connection).await?;
                home::postgres::install(connection, RESOURCE).await?;
                database::migrate(connection, include_str!("postgres.sql")).await
            })
            .await
    }

    async fn append(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        let append = sqlx::query(
            "INSERT INTO audit_outbox
                 (tenant_id, workload_instance_id, producer_sequence, event_time, fencing_epoch, payload)
             SELECT tenant_id, workload_instance_id, producer_sequence,
                    to_timestamp(event_time / 1000.0), fencing_epoch, payload
             FROM json_to_recordset($1::json) AS event (tenant_id text, workload_instance_id text,
                    producer_sequence bigint, event_time bigint, fencing_epoch bigint, payload json)",
        )
        .bind(json(events)?);
        self.pool.call(async move |connection| Ok(append.execute(connection).await.map(drop)?)).await
    }

    async fn known(&self) -> Result<KnownWork, StoreError> {
        let known =
            self.pool.call(async |connection| home::postgres::look(connection, RESOURCE).await).await?;
        known.ok_or(StoreError::NotMigrated)
    }

    async fn admit(&self, term: Term, fleet: &Settlement) -> Result<(), StoreError> {
        self.pool
            .transaction(async |tx| {
                self.fence.admit(tx, &term).await?;
                home::postgres::settle(tx, RESOURCE, fleet).await
            })
            .await
    }

    async fn take_term(&self, fleet: &Settlement) -> Result<Term, StoreError> {
        self.pool
            .transaction(async |tx| {
                let term = self.fence.take_term(tx).await?;
                home::postgres::settle(tx, RESOURCE, fleet).await?;
                Ok(term)
            })
            .await
    }

    async fn pending(&self, limit: u32, left_out: &[i64]) -> Result<Vec<PendingRow>, StoreError> {
        // No event can have an infinite time: the row is refused by itself, not with the others.
        let pending = sqlx::query(read_to_write!(
            "SELECT outbox_id, tenant_id, workload_instance_id, producer_sequence, fencing_epoch,
                    CASE WHEN isfinite(event_time) THEN (extract(epoch FROM event_time) * 1000)::bigint
                         ELSE 9223372036854775807 END AS event_time, payload::text AS payload
             FROM audit_outbox WHERE pending_forward AND outbox_id <> ALL ($2) ORDER BY outbox_id LIMIT $1"
        ))
        .bind(i64::from(limit))
        .bind(left_out);
        let rows: Result<_, StoreError> =
            self.pool.call(async move |connection| Ok(pending.fetch_all(connection).await?)).await;
        rows?.into_iter().map(pending_row).collect()
    }

    async fn mark_forwarded(&self, term: Term, outbox_ids: &[i64]) -> Result<u64, StoreError> {
        self.pool
            .transaction(async |tx| {
                self.fence.admit(tx, &term).await?;
                let marked = sqlx::query(
                    "UPDATE audit_outbox
                     SET pending_forward = false, forwarded_epoch = $1, forwarded_at = clock_timestamp()
                     WHERE outbox_id = ANY ($2) AND pending_forward",
                )
                .bind(term.epoch as i64)
                .bind(outbox_ids)
                .execute(tx)
                .await?;
                Ok(marked.rows_affected())
            })
            .await
    }

    async fn prune(&self, term: Term, days: u32, limit: u32) -> Result<u64, StoreError> {
        self.pool
            .transaction(async |tx| {
                self.fence.admit(tx, &term).await?;
                let removed: i64 = sqlx::query_scalar("SELECT audit_outbox_prune($1, $2)")
                    .bind(i32::try_from(limit).unwrap_or(i32::MAX))
                    .bind(i32::try_from(days).unwrap_or(i32::MAX))
                    .fetch_one(tx)
                    .await?;
                Ok(removed.unsigned_abs())
            })
            .await
    }

    async fn oldest_pending_age(&self) -> Result<Duration, StoreError> {
        let oldest = sqlx::query_scalar(read_to_write!(
            "SELECT (extract(epoch FROM clock_timestamp() - created_at) * 1000)::bigint
             FROM audit_outbox WHERE pending_forward ORDER BY outbox_id LIMIT 1"
        ));
        let age: Result<Option<i64>, StoreError> =
            self.pool.call(async move |connection| Ok(oldest.fetch_optional(connection).await?)).await;
        Ok(Duration::from_millis(age?.unwrap_or(0).max(0) as u64))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.oldest_pending_age().await?;
        self.pool.call(async |connection| Ok(self.room.look(connection).await?)).await
    }
}

fn pending_row(row: PgRow) -> Result<PendingRow, StoreError> {
    let key = EventKey {
        tenant_id: row.try_get("tenant_id")?,
        workload_instance_id: row.try_get("workload_instance_id")?,
        producer_sequence: row.try_get("producer_sequence")?,
    };
    let event = NewEvent {
        key,
        event_time: row.try_get("event_time")?,
        fencing_epoch: row.try_get("fencing_epoch")?,
        payload: raw(row.try_get("payload")?)?,
    };
    Ok(PendingRow { outbox_id: row.try_get("outbox_id")?, event })
}
