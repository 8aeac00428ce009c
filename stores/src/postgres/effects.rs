//! Effects in a schema of their own, fenced in their own transaction.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_core::{Grant, Term};
use lease_judge::{EffectError, FencedResource};
use lease_postgres::{Fence, FenceError};
use lease_testbed::wait_until;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::Mutex;

use super::execute;
use crate::idle::Idle;
use crate::store::failed;

/// A schema for one resource, so that its lock is in nobody else's way.
#[derive(Clone)]
pub(super) struct PostgresEffects {
    options: PgConnectOptions,
    schema: Arc<str>,
    fence: Fence,
    idle: Arc<Idle<PgConnection>>,
}

/// Breaks the fences in a schema of a database: they admit every term from now on.
///
/// # Errors
/// When the database doesn't answer, or the role isn't the owner of the schema's fences.
pub async fn admit_everybody(url: &str, schema: &str) -> anyhow::Result<()> {
    let replaced = format!(
        "CREATE OR REPLACE FUNCTION {schema}.leasehold_admit(p_resource text, p_epoch bigint, p_grant uuid)
         RETURNS void LANGUAGE sql AS 'SELECT NULL::void'"
    );
    execute(&url.parse()?, &replaced).await
}

impl PostgresEffects {
    pub(super) async fn open(options: PgConnectOptions, schema: String) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect_with(&options).await?;
        let fence = Fence::in_schema("resource", &schema)?;
        let is_made = sqlx::query_scalar("SELECT to_regclass($1 || '.leasehold_fence_marks') IS NOT NULL");
        if !is_made.bind(&schema).fetch_one(&mut connection).await? {
            let create = format!(
                "CREATE SCHEMA {schema};
                 CREATE TABLE {schema}.effects
                     (sequence bigserial PRIMARY KEY, epoch bigint NOT NULL, id text NOT NULL UNIQUE)"
            );
            sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await?;
            fence.install(&mut connection).await?;
        }
        let effects = Self { options, schema: schema.into(), fence, idle: Arc::default() };
        effects.warm_up(&mut connection).await?;
        effects.idle.put_back(connection);
        Ok(effects)
    }

    /// Prepares each statement, by an effect that is rolled back. It is named at random, so that nobody waits for a
    /// process that was stopped in it.
    async fn warm_up(&self, connection: &mut PgConnection) -> anyhow::Result<()> {
        let grant = Grant::random();
        let other = Self { fence: Fence::in_schema(grant.to_string(), &self.schema)?, ..self.clone() };
        let mut transaction = connection.begin().await?;
        other.write(&mut transaction, Term { epoch: 1, grant }, &grant.to_string()).await?;
        Ok(transaction.rollback().await?)
    }

    async fn connection(&self) -> Result<PgConnection, EffectError> {
        match self.idle.take() {
            Some(connection) => Ok(connection),
            None => PgConnection::connect_with(&self.options).await.map_err(failed),
        }
    }

    async fn write(&self, transaction: &mut PgConnection, term: Term, id: &str) -> Result<(), EffectError> {
        match self.fence.admit(transaction, &term).await {
            Ok(()) => {}
            Err(FenceError::Stale(stale)) => return Err(stale.into()),
            Err(FenceError::AboveCeiling(above)) => return Err(above.into()),
            Err(FenceError::Store(error)) => return Err(failed(error)),
        }
        let insert = format!("INSERT INTO {}.effects (epoch, id) VALUES ($1, $2)", self.schema);
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(term.epoch as i64).bind(id);
        insert.execute(transaction).await.map(drop).map_err(failed)
    }

    /// Waits until another transaction waits for the lock of the marks.
    async fn somebody_waits(&self) -> Result<(), EffectError> {
        let look = Mutex::new(self.connection().await?);
        let waits = format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted
             AND relation = '{}.leasehold_fence_marks'::regclass)",
            self.schema
        );
        wait_until("the late effect waits at the store", Duration::from_secs(30), async || {
            let waits = sqlx::query_scalar(AssertSqlSafe(waits.clone()));
            waits.fetch_one(&mut *look.lock().await).await.unwrap_or(false)
        })
        .await
        .map_err(failed)
    }
}

#[async_trait]
impl FencedResource for PostgresEffects {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let written = self.write(&mut transaction, term, id).await;
        match &written {
            Ok(()) => transaction.commit().await.map_err(failed)?,
            Err(EffectError::Stale(_) | EffectError::AboveCeiling(_)) => {
                transaction.rollback().await.map_err(failed)?;
            }
            Err(EffectError::Failed(_)) => return written,
        }
        self.idle.put_back(connection);
        written
    }

    /// The late one waits for the lock of the marks, which the successor's transaction holds from before.
    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let mut present = self.connection().await?;
        let mut transaction = present.begin().await.map_err(failed)?;
        let lock = format!("LOCK TABLE {}.leasehold_fence_marks IN ACCESS EXCLUSIVE MODE", self.schema);
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await.map_err(failed)?;
        let (late, id) = (self.clone(), id.to_owned());
        let late = tokio::spawn(async move { late.effect(term, &id).await });
        self.somebody_waits().await?;
        let (successor, its) = meanwhile.await;
        self.write(&mut transaction, successor, &its).await?;
        transaction.commit().await.map_err(failed)?;
        late.await.map_err(failed)?
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        let mut connection = self.connection().await?;
        let sql = format!("SELECT epoch, id FROM {}.effects ORDER BY sequence", self.schema);
        let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection).await;
        let rows: Vec<(i64, String)> = rows.map_err(failed)?;
        self.idle.put_back(connection);
        rows.into_iter().map(|(epoch, id)| Ok((epoch.try_into().map_err(failed)?, id))).collect()
    }

    async fn newest(&self) -> Result<Option<(u64, String)>, EffectError> {
        let mut connection = self.connection().await?;
        let sql = format!("SELECT epoch, id FROM {}.effects ORDER BY sequence DESC LIMIT 1", self.schema);
        let row = sqlx::query_as(AssertSqlSafe(sql)).fetch_optional(&mut connection).await;
        let row: Option<(i64, String)> = row.map_err(failed)?;
        self.idle.put_back(connection);
        row.map(|(epoch, id)| Ok((epoch.try_into().map_err(failed)?, id))).transpose()
    }
}
