//! Effects in a schema of their own, fenced in their own transaction.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_conformance::{EffectError, FencedResource};
use lease_core::Term;
use lease_postgres::{Fence, FenceError};
use lease_testbed::wait_until;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use crate::conformance::failed;

/// A schema of its own for effects and their mark, so that its lock is in nobody's way.
#[derive(Clone)]
pub(super) struct Resource {
    pub(super) options: PgConnectOptions,
    pub(super) schema: String,
    pub(super) fence: Fence,
}

impl Resource {
    async fn open(&self) -> Result<PgConnection, EffectError> {
        PgConnection::connect_with(&self.options).await.map_err(failed)
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
