//! The suite on Postgres, in schemas of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_conformance::{EffectError, Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName, Term};
use lease_postgres::{Fence, FenceError, Postgres, PostgresConfig, ROLES_SQL};
use lease_testbed::{PostgresOptions, wait_until};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::{Place, failed};

/// What the suite may have open at once: cases run side by side, some with dozens of candidates.
const CONNECTIONS: u32 = 800;

/// One schema for the leases, and one for each fenced resource.
pub(super) struct Schemas {
    url: String,
    admin_url: String,
    schema: String,
    resources: AtomicUsize,
    /// Started for this, if none was named.
    _server: Option<lease_testbed::Postgres>,
}

impl Schemas {
    pub(super) async fn make(url: Option<&str>, admin_url: Option<&str>) -> anyhow::Result<Self> {
        let server = match url {
            Some(_) => None,
            None => Some(
                lease_testbed::Postgres::start(
                    PostgresOptions::default().fsync(true).max_connections(CONNECTIONS),
                )
                .await?,
            ),
        };
        let url = match (url, &server) {
            (None, Some(server)) => server.url(),
            (url, _) => url.unwrap_or_default().to_owned(),
        };
        let admin_url = admin_url.map_or_else(|| url.clone(), str::to_owned);
        let schema = format!("leasehold_conformance_{:08x}", rand::random::<u32>());
        let schemas = Self { url, admin_url, schema, resources: AtomicUsize::new(0), _server: server };
        schemas.prepare().await.with_context(|| {
            format!(
                "cannot make the schema {}: name a role that may create schemas by --admin-url",
                schemas.schema
            )
        })?;
        Ok(schemas)
    }

    async fn prepare(&self) -> anyhow::Result<()> {
        lease_postgres::migrate(&PostgresConfig::new(&self.admin_url)?.schema(&self.schema)?).await?;
        if self.admin_url != self.url {
            let mut worker = PgConnection::connect(&self.url).await?;
            let role: String =
                sqlx::query_scalar("SELECT quote_ident(current_user)").fetch_one(&mut worker).await?;
            self.as_admin(&grants(&self.schema, &role)).await?;
        }
        Ok(())
    }

    async fn as_admin(&self, sql: &str) -> Result<(), sqlx::Error> {
        let mut admin = PgConnection::connect(&self.admin_url).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut admin).await?;
        admin.close().await
    }
}

/// The grants of the role script, for a role that exists.
fn grants(schema: &str, role: &str) -> String {
    let grants = ROLES_SQL.lines().filter(|line| line.starts_with("GRANT"));
    let filled = |line: &str| line.replace(":\"schema\"", schema).replace(":\"role\"", role);
    grants.map(filled).collect::<Vec<_>>().join("\n")
}

#[async_trait]
impl Place for Schemas {
    fn harness(self: Arc<Self>) -> Arc<dyn Harness> {
        self
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let schemas =
            (0..self.resources.load(Ordering::SeqCst)).map(|index| format!("{}_{index}", self.schema));
        for schema in schemas.chain([self.schema.clone()]) {
            let drop = format!("SET lock_timeout = '10s'; DROP SCHEMA IF EXISTS {schema} CASCADE");
            self.as_admin(&drop)
                .await
                .with_context(|| format!("cannot drop the schema {schema}: do so by hand"))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Harness for Schemas {
    fn name(&self) -> &str {
        "postgres"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        let config = PostgresConfig::new(&self.url).and_then(|config| config.schema(&self.schema));
        let config = config.map_err(|error| BackendError::refused(error.to_string()))?;
        Ok(Arc::new(Postgres::connect(config).await?))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn facilities(&self) -> &[Facility] {
        &[Facility::Delete, Facility::FencedEffects]
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        // A lease's name needs no quoting.
        let sql = format!(
            "BEGIN; SET LOCAL leasehold.allow_delete = on;
             DELETE FROM {}.coordination_leases WHERE lease_name = '{lease}'; COMMIT",
            self.schema
        );
        self.as_admin(&sql).await.map_err(Missing::because)
    }

    async fn resource(&self, _name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        let schema = format!("{}_{}", self.schema, self.resources.fetch_add(1, Ordering::SeqCst));
        let make = async {
            self.as_admin(&format!(
                "CREATE SCHEMA {schema};
                 CREATE TABLE {schema}.effects (sequence bigserial, epoch bigint, id text)"
            ))
            .await?;
            let mut admin = PgConnection::connect(&self.admin_url).await?;
            Fence::install(&mut admin, &schema).await
        };
        make.await.map_err(Missing::because)?;
        let fence = Fence::in_schema("resource", &schema).map_err(Missing::because)?;
        Ok(Arc::new(Resource { admin_url: self.admin_url.clone(), schema, fence }))
    }
}

/// A schema of its own for effects and their mark, so that its lock is in nobody's way.
#[derive(Clone)]
struct Resource {
    admin_url: String,
    schema: String,
    fence: Fence,
}

impl Resource {
    async fn open(&self) -> Result<PgConnection, EffectError> {
        PgConnection::connect(&self.admin_url).await.map_err(failed)
    }

    async fn write(&self, transaction: &mut PgConnection, term: Term, id: &str) -> Result<(), EffectError> {
        match self.fence.admit(transaction, &term).await {
            Ok(()) => {}
            Err(FenceError::Stale(stale)) => return Err(stale.into()),
            Err(FenceError::Store(error)) => return Err(failed(error)),
        }
        let insert = format!("INSERT INTO {}.effects (epoch, id) VALUES ($1, $2)", self.schema);
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(term.epoch as i64).bind(id);
        insert.execute(transaction).await.map(drop).map_err(failed)
    }
}

#[async_trait]
impl FencedResource for Resource {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut connection = self.open().await?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        self.write(&mut transaction, term, id).await?;
        transaction.commit().await.map_err(failed)
    }

    /// The late one waits for the lock of the marks, which the successor's transaction holds from before.
    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let mut present = self.open().await?;
        let mut transaction = present.begin().await.map_err(failed)?;
        let lock = format!("LOCK TABLE {}.leasehold_fence_marks IN ACCESS EXCLUSIVE MODE", self.schema);
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await.map_err(failed)?;
        let (late, id) = (self.clone(), id.to_owned());
        let late = tokio::spawn(async move { late.effect(term, &id).await });
        let mut look = self.open().await?;
        let waits = format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted
             AND relation = '{}.leasehold_fence_marks'::regclass)",
            self.schema
        );
        let look = tokio::sync::Mutex::new(&mut look);
        wait_until("the late effect waits at the store", Duration::from_secs(30), async || {
            let waits = sqlx::query_scalar(AssertSqlSafe(waits.clone()));
            waits.fetch_one(&mut **look.lock().await).await.unwrap_or(false)
        })
        .await
        .map_err(failed)?;
        let (successor, its) = meanwhile.await;
        self.write(&mut transaction, successor, &its).await?;
        transaction.commit().await.map_err(failed)?;
        late.await.map_err(failed)?
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        let mut connection = self.open().await?;
        let sql = format!("SELECT epoch, id FROM {}.effects ORDER BY sequence", self.schema);
        let rows: Vec<(i64, String)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection).await.map_err(failed)?;
        rows.into_iter().map(|(epoch, id)| Ok((epoch.try_into().map_err(failed)?, id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grants_name_the_schema_and_the_role() {
        let grants = grants("s", "\"r\"");
        assert!(grants.contains("GRANT USAGE ON SCHEMA s TO \"r\";"), "{grants}");
        assert!(!grants.contains(':'), "{grants}");
    }
}
