//! The canonical store in Postgres.

use std::time::Duration;

use async_trait::async_trait;
use lease_core::{LeaseName, Term};
use lease_postgres::Fence;
use lease_worker_common::{
    database::{self, StoreError},
    pool::{LASTING, Pool},
};
use sqlx::Connection;
use sqlx::postgres::PgConnectOptions;

use super::{ArrivedEvent, Canonical, Ingested, counts, json, resource};

/// In the schema `public` of a database.
pub struct PostgresCanonical {
    pool: Pool,
}

impl PostgresCanonical {
    /// Connects at the first use.
    pub fn open(options: &PgConnectOptions, connections: u32, transaction_limit: Duration) -> Self {
        let options = options.clone().application_name("leasehold");
        Self { pool: Pool::new(&options, connections, transaction_limit, LASTING) }
    }
}

#[async_trait]
impl Canonical for PostgresCanonical {
    async fn migrate(&self) -> Result<(), StoreError> {
        let mut lent = self.pool.take().await?;
        Fence::new("any").install(&mut lent).await?;
        database::migrate(&mut lent, include_str!("postgres.sql")).await
    }

    async fn ingest(
        &self,
        lease: &LeaseName,
        term: Term,
        events: &[ArrivedEvent<'_>],
    ) -> Result<Ingested, StoreError> {
        let events_json = json(events)?;
        let mut lent = self.pool.take().await?;
        let inserted = async {
            let mut tx = lent.begin().await?;
            Fence::new(resource(lease)).admit(&mut tx, &term).await?;
            let inserted = sqlx::query(
                "INSERT INTO canonical_events (tenant_id, workload_instance_id, producer_sequence, event_time,
                        fencing_epoch, payload, forwarder_lease, forwarder_epoch)
                 SELECT tenant_id, workload_instance_id, producer_sequence, to_timestamp(event_time / 1000.0),
                        fencing_epoch, payload, $2, $3
                 FROM json_to_recordset($1::json) AS event (tenant_id text, workload_instance_id text,
                        producer_sequence bigint, event_time bigint, fencing_epoch bigint, payload json)
                 ON CONFLICT (tenant_id, workload_instance_id, producer_sequence) DO NOTHING",
            )
            .bind(events_json)
            .bind(lease.as_str())
            .bind(term.epoch as i64)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(counts(events.len(), inserted.rows_affected()))
        };
        let inserted = inserted.await;
        lent.after(inserted)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let mut lent = self.pool.take().await?;
        let looked = sqlx::query("SELECT 1 FROM canonical_events LIMIT 1").fetch_optional(&mut *lent).await;
        lent.after(looked.map(drop).map_err(Into::into))
    }
}
