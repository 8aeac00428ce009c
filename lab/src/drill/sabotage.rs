//! Faults that a drill puts into the canonical store, so that its checks must fail.

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::demo::witness::{EffectStores, Witness};

impl Witness {
    /// Breaks the canonical store: nothing keeps an event from arriving twice.
    pub(crate) async fn drop_unique_key(&self, canonical: &str) -> anyhow::Result<()> {
        match &self.effects {
            EffectStores::Postgres { canonical: pool, .. } => {
                sqlx::raw_sql(
                    "ALTER TABLE canonical_events DROP CONSTRAINT
                     canonical_events_tenant_id_workload_instance_id_producer_seq_key",
                )
                .execute(pool)
                .await?;
            }
            EffectStores::Sqlite { .. } => {
                let path = canonical.strip_prefix("sqlite:").unwrap_or(canonical);
                let mut connection = SqliteConnectOptions::new().filename(path).connect().await?;
                sqlx::raw_sql(
                    "ALTER TABLE canonical_events RENAME TO before;
                     CREATE TABLE canonical_events AS SELECT * FROM before",
                )
                .execute(&mut connection)
                .await?;
            }
        }
        Ok(())
    }

    /// Breaks the canonical store: an event that no fence was asked about.
    pub(crate) async fn add_row_of(&self, canonical: &str, epoch: u64) -> anyhow::Result<()> {
        let row = |time: &str| {
            format!(
                "INSERT INTO canonical_events (tenant_id, workload_instance_id, producer_sequence, event_time, payload,
                     fencing_epoch, forwarder_lease, forwarder_epoch)
                 VALUES ('acme', 'nobody', 0, {time}, '{{}}', 1, '{}', {epoch})",
                self.lease
            )
        };
        match &self.effects {
            EffectStores::Postgres { canonical: pool, .. } => {
                sqlx::raw_sql(sqlx::AssertSqlSafe(row("now()"))).execute(pool).await?;
            }
            EffectStores::Sqlite { .. } => {
                let path = canonical.strip_prefix("sqlite:").unwrap_or(canonical);
                let mut connection = SqliteConnectOptions::new().filename(path).connect().await?;
                sqlx::raw_sql(sqlx::AssertSqlSafe(row("0"))).execute(&mut connection).await?;
            }
        }
        Ok(())
    }
}
