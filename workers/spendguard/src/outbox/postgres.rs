//! The outbox in Postgres: beside the tables whose changes it reports.

use std::time::Duration;

use async_trait::async_trait;
use lease_core::Term;
use lease_postgres::Fence;
use lease_worker_common::{
    database::{self, StoreError},
    pool::{LASTING, Pool},
};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, Row};

use super::{EventKey, NewEvent, Outbox, PendingRow, RESOURCE, json, raw};

/// For a leader's batches, the probes of its readiness and the scrapes of its metrics.
const CONNECTIONS: u32 = 4;

/// An outbox in the schema `public` of a database.
pub struct PostgresOutbox {
    pool: Pool,
    fence: Fence,
}

impl PostgresOutbox {
    /// Connects at the first use.
    pub fn open(options: &PgConnectOptions, transaction_limit: Duration) -> Self {
        let options = options.clone().application_name("leasehold");
        Self {
            pool: Pool::new(&options, CONNECTIONS, transaction_limit, LASTING),
            fence: Fence::new(RESOURCE),
        }
    }
}

#[async_trait]
impl Outbox for PostgresOutbox {
    async fn migrate(&self) -> Result<(), StoreError> {
        let mut lent = self.pool.take().await?;
        self.fence.install(&mut lent).await?;
        database::migrate(&mut lent, include_str!("postgres.sql")).await
    }

    async fn append(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        let mut lent = self.pool.take().await?;
        let appended = sqlx::query(
            "INSERT INTO audit_outbox
                 (tenant_id, workload_instance_id, producer_sequence, event_time, fencing_epoch, payload)
             SELECT tenant_id, workload_instance_id, producer_sequence,
                    to_timestamp(event_time / 1000.0), fencing_epoch, payload
             FROM json_to_recordset($1::json) AS event (tenant_id text, workload_instance_id text,
                    producer_sequence bigint, event_time bigint, fencing_epoch bigint, payload json)",
        )
        .bind(json(events)?)
        .execute(&mut *lent)
        .await;
        lent.after(appended.map(drop).map_err(Into::into))
    }

    async fn admit(&self, term: Term) -> Result<(), StoreError> {
        let mut lent = self.pool.take().await?;
        let admitted = async {
            let mut tx = lent.begin().await?;
            self.fence.admit(&mut tx, &term).await?;
            Ok(tx.commit().await?)
        };
        let admitted = admitted.await;
        lent.after(admitted)
    }

    async fn take_term(&self) -> Result<Term, StoreError> {
        let mut lent = self.pool.take().await?;
        let taken = async {
            let mut tx = lent.begin().await?;
            let term = self.fence.take_term(&mut tx).await?;
            tx.commit().await?;
            Ok(term)
        };
        let taken = taken.await;
        lent.after(taken)
    }

    async fn pending(&self, limit: u32) -> Result<Vec<PendingRow>, StoreError> {
        let mut lent = self.pool.take().await?;
        let rows = sqlx::query(
            "SELECT outbox_id, tenant_id, workload_instance_id, producer_sequence, fencing_epoch,
                    (extract(epoch FROM event_time) * 1000)::bigint AS event_time, payload::text AS payload
             FROM audit_outbox WHERE pending_forward ORDER BY outbox_id LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&mut *lent)
        .await;
        lent.after(rows.map_err(Into::into))?.into_iter().map(pending_row).collect()
    }

    async fn mark_forwarded(&self, term: Term, outbox_ids: &[i64]) -> Result<u64, StoreError> {
        let mut lent = self.pool.take().await?;
        let marked = async {
            let mut tx = lent.begin().await?;
            self.fence.admit(&mut tx, &term).await?;
            let marked = sqlx::query(
                "UPDATE audit_outbox
                 SET pending_forward = false, forwarded_epoch = $1, forwarded_at = clock_timestamp()
                 WHERE outbox_id = ANY ($2) AND pending_forward",
            )
            .bind(term.epoch as i64)
            .bind(outbox_ids)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(marked.rows_affected())
        };
        let marked = marked.await;
        lent.after(marked)
    }

    async fn prune(&self, term: Term, days: u32, limit: u32) -> Result<u64, StoreError> {
        let mut lent = self.pool.take().await?;
        let pruned = async {
            let mut tx = lent.begin().await?;
            self.fence.admit(&mut tx, &term).await?;
            let removed: i64 = sqlx::query_scalar("SELECT audit_outbox_prune($1, $2)")
                .bind(i32::try_from(limit).unwrap_or(i32::MAX))
                .bind(i32::try_from(days).unwrap_or(i32::MAX))
                .fetch_one(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(removed.unsigned_abs())
        };
        let pruned = pruned.await;
        lent.after(pruned)
    }

    async fn oldest_pending_age(&self) -> Result<Duration, StoreError> {
        let mut lent = self.pool.take().await?;
        let age: Result<Option<i64>, _> = sqlx::query_scalar(
            "SELECT (extract(epoch FROM clock_timestamp() - created_at) * 1000)::bigint
             FROM audit_outbox WHERE pending_forward ORDER BY outbox_id LIMIT 1",
        )
        .fetch_optional(&mut *lent)
        .await;
        let age = lent.after(age.map_err(Into::into))?;
        Ok(Duration::from_millis(age.unwrap_or(0).max(0) as u64))
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
