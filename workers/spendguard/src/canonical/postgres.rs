//! The canonical store in Postgres.

use std::time::Duration;

use async_trait::async_trait;
use lease_core::{LeaseName, Term};
use lease_postgres::pool::{DURABLE, Pool};
use lease_postgres::room::Room;
use lease_postgres::{Fence, url};
use lease_worker_common::database::{self, StoreError};
use sqlx::postgres::PgConnectOptions;

use super::{ArrivedEvent, Canonical, Ingested, counts, json, resource};

/// In the schema `public` of a database.
pub struct PostgresCanonical {
    pool: Pool,
    room: Room,
}

impl PostgresCanonical {
    /// Connects at the first use.
    pub fn open(options: &PgConnectOptions, connections: u32, transaction_limit: Duration) -> Self {
        let options = url::named(options.clone(), "leasehold");
        Self { pool: Pool::checked(&options, connections, transaction_limit, DURABLE), room: Room::default() }
    }
}

#[async_trait]
impl Canonical for PostgresCanonical {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.pool
            .call(async |connection| {
                Fence::new("any").install(connection).await?;
                database::migrate(connection, include_str!("postgres.sql")).await
            })
            .await
    }

    async fn ingest(
        &self,
        lease: &LeaseName,
        term: Term,
        events: &[ArrivedEvent<'_>],
    ) -> Result<Ingested, StoreError> {
        let events_json = json(events)?;
        let inserted: Result<_, StoreError> = self
            .pool
            .transaction(async move |tx| {
                Fence::new(resource(lease)).admit(tx, &term).await?;
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
                .execute(tx)
                .await?;
                Ok(inserted.rows_affected())
            })
            .await;
        Ok(counts(events.len(), inserted?))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // An insertion of no rows needs what every other one needs (0065).
        let nothing = sqlx::query(
            "INSERT INTO canonical_events (tenant_id) SELECT '' WHERE false
             ON CONFLICT (tenant_id, workload_instance_id, producer_sequence) DO NOTHING",
        );
        self.pool
            .call(async move |connection| {
                nothing.execute(&mut *connection).await?;
                Ok(self.room.look(connection).await?)
            })
            .await
    }
}
