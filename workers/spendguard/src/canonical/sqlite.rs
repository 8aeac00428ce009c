//! The canonical store in SQLite.

use std::path::Path;

use async_trait::async_trait;
use lease_core::{LeaseName, Term};
use lease_sqlite::Fence;
use lease_worker_common::database::{self, StoreError};
use sqlx::SqlitePool;

use super::{ArrivedEvent, Canonical, Ingested, counts, json, resource};

/// A file of its own.
pub struct SqliteCanonical {
    pool: SqlitePool,
}

impl SqliteCanonical {
    /// Opens the file.
    pub async fn open(path: &Path, create: bool) -> Result<Self, StoreError> {
        Ok(Self { pool: database::sqlite(path, create).await? })
    }
}

#[async_trait]
impl Canonical for SqliteCanonical {
    async fn migrate(&self) -> Result<(), StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(include_str!("sqlite.sql")).execute(&mut *tx).await?;
        Fence::new("any").install(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    async fn ingest(
        &self,
        lease: &LeaseName,
        term: Term,
        events: &[ArrivedEvent<'_>],
    ) -> Result<Ingested, StoreError> {
        let events_json = json(events)?;
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        Fence::new(resource(lease)).admit(&mut tx, &term).await?;
        let inserted = sqlx::query(
            "INSERT INTO canonical_events (tenant_id, workload_instance_id, producer_sequence, event_time,
                    fencing_epoch, payload, forwarder_lease, forwarder_epoch)
             SELECT value ->> 'tenant_id', value ->> 'workload_instance_id', value ->> 'producer_sequence',
                    value ->> 'event_time', value ->> 'fencing_epoch', value -> 'payload', ?2, ?3
             FROM json_each(?1) WHERE true ORDER BY key
             ON CONFLICT (tenant_id, workload_instance_id, producer_sequence) DO NOTHING",
        )
        .bind(events_json)
        .bind(lease.as_str())
        .bind(term.epoch as i64)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(counts(events.len(), inserted.rows_affected()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM canonical_events LIMIT 1").fetch_optional(&self.pool).await?;
        Ok(())
    }
}
