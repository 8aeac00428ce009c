//! The outbox in SQLite: a file that producers and forwarders on one host share.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::Term;
use lease_sqlite::Fence;
use lease_worker_common::database::{self, StoreError};
use lease_worker_common::home::{self, KnownWork, Settlement};
use sqlx::{Row, Sqlite, SqlitePool, Transaction};

use super::{EventKey, NewEvent, Outbox, PendingRow, RESOURCE, json, raw};

/// An outbox in a file of its own; the leases are in another.
pub struct SqliteOutbox {
    pool: SqlitePool,
    fence: Fence,
}

impl SqliteOutbox {
    /// Opens the file.
    pub async fn open(path: &Path, create: bool) -> Result<Self, StoreError> {
        Ok(Self { pool: database::sqlite(path, create).await?, fence: Fence::new(RESOURCE) })
    }

    /// Takes the write lock at once: a transaction that reads first could not get it later.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

#[async_trait]
impl Outbox for SqliteOutbox {
    async fn migrate(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::raw_sql(include_str!("sqlite.sql")).execute(&mut *tx).await?;
        self.fence.install(&mut tx).await?;
        home::sqlite::install(&mut tx, RESOURCE).await?;
        Ok(tx.commit().await?)
    }

    async fn append(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO audit_outbox
                 (tenant_id, workload_instance_id, producer_sequence, event_time, fencing_epoch, payload)
             SELECT value ->> 'tenant_id', value ->> 'workload_instance_id', value ->> 'producer_sequence',
                    value ->> 'event_time', value ->> 'fencing_epoch', value -> 'payload'
             FROM json_each(?1) ORDER BY key",
        )
        .bind(json(events)?)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    async fn known(&self) -> Result<KnownWork, StoreError> {
        let known = home::sqlite::look(&mut *self.pool.acquire().await?, RESOURCE).await?;
        known.ok_or(StoreError::NotMigrated)
    }

    async fn admit(&self, term: Term, fleet: &Settlement) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        self.fence.admit(&mut tx, &term).await?;
        home::sqlite::settle(&mut tx, RESOURCE, fleet).await?;
        Ok(tx.commit().await?)
    }

    async fn take_term(&self, fleet: &Settlement) -> Result<Term, StoreError> {
        let mut tx = self.begin().await?;
        let term = self.fence.take_term(&mut tx).await?;
        home::sqlite::settle(&mut tx, RESOURCE, fleet).await?;
        tx.commit().await?;
        Ok(term)
    }

    async fn pending(&self, limit: u32, left_out: &[i64]) -> Result<Vec<PendingRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT outbox_id, tenant_id, workload_instance_id, producer_sequence, event_time, fencing_epoch, payload
             FROM audit_outbox
             WHERE pending_forward = 1 AND outbox_id NOT IN (SELECT value FROM json_each(?2))
             ORDER BY outbox_id LIMIT ?1",
        )
        .bind(limit)
        .bind(json(left_out)?)
        .fetch_all(&self.pool)
        .await?;
        let read = |row: sqlx::sqlite::SqliteRow| {
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
            Ok::<_, StoreError>(PendingRow { outbox_id: row.try_get("outbox_id")?, event })
        };
        rows.into_iter().map(read).collect()
    }

    async fn mark_forwarded(&self, term: Term, outbox_ids: &[i64]) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        self.fence.admit(&mut tx, &term).await?;
        let marked = sqlx::query(
            "UPDATE audit_outbox SET pending_forward = 0, forwarded_epoch = ?1,
                    forwarded_at = CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER)
             WHERE outbox_id IN (SELECT value FROM json_each(?2)) AND pending_forward = 1",
        )
        .bind(term.epoch as i64)
        .bind(json(outbox_ids)?)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(marked.rows_affected())
    }

    async fn prune(&self, term: Term, days: u32, limit: u32) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        self.fence.admit(&mut tx, &term).await?;
        let removed = sqlx::query(
            "DELETE FROM audit_outbox WHERE outbox_id IN (
                SELECT outbox_id FROM
                    (SELECT outbox_id, pending_forward, forwarded_at FROM audit_outbox ORDER BY outbox_id LIMIT ?1)
                WHERE pending_forward = 0 AND forwarded_at < (julianday('now') - 2440587.5 - ?2) * 86400000.0)",
        )
        .bind(limit)
        .bind(days)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed.rows_affected())
    }

    async fn oldest_pending_age(&self) -> Result<Duration, StoreError> {
        let age: Option<i64> = sqlx::query_scalar(
            "SELECT CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER) - created_at
             FROM audit_outbox WHERE pending_forward = 1 ORDER BY outbox_id LIMIT 1",
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(Duration::from_millis(age.unwrap_or(0).max(0) as u64))
    }
}
