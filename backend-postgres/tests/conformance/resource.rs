//! Effects in Postgres, fenced in their own transaction.

use std::net::SocketAddr;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_conformance::{EffectError, FencedResource};
use lease_core::Term;
use lease_postgres::{Fence, FenceError};
use lease_testbed::Proxy;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

#[derive(Clone)]
pub(crate) struct Resource {
    pub(crate) url: String,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Where the server is, for a proxy of the resource's own; an actor's process needs none.
    pub(crate) addr: Option<SocketAddr>,
}

impl Resource {
    pub(crate) async fn install(url: &str, schema: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(url).await?;
        let table = format!(
            "CREATE TABLE {schema}.conformance_effects \
             (sequence bigserial PRIMARY KEY, resource text, epoch bigint, id text)"
        );
        sqlx::raw_sql(AssertSqlSafe(table)).execute(&mut connection).await?;
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> EffectError {
    EffectError::Failed(error.to_string())
}

#[async_trait]
impl FencedResource for Resource {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut connection = PgConnection::connect(&self.url).await.map_err(failed)?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let fence = Fence::in_schema(&self.name, &self.schema).map_err(failed)?;
        match fence.admit(&mut transaction, &term).await {
            Ok(()) => {}
            Err(FenceError::Stale(stale)) => return Err(stale.into()),
            Err(error) => return Err(failed(error)),
        }
        let sql = format!(
            "INSERT INTO {}.conformance_effects (resource, epoch, id) VALUES ($1, $2, $3)",
            self.schema
        );
        let effect = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).bind(term.epoch as i64).bind(id);
        effect.execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        connection.close().await.map_err(failed)
    }

    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let addr = self.addr.ok_or_else(|| failed("only the suite's own process holds effects"))?;
        let proxy = Proxy::postgres(addr).map_err(failed)?;
        let held_up = Self { url: proxy.url(&self.url).map_err(failed)?, ..self.clone() };
        let mut hold = proxy.hold(|request| request.sql_contains("leasehold_admit"));
        let id = id.to_owned();
        let late = tokio::spawn(async move { held_up.effect(term, &id).await });
        hold.held().await.map_err(failed)?;
        let (successor, its) = meanwhile.await;
        self.effect(successor, &its).await?;
        hold.release();
        late.await.map_err(failed)?
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        let mut connection = PgConnection::connect(&self.url).await.map_err(failed)?;
        let sql = format!(
            "SELECT epoch, id FROM {}.conformance_effects WHERE resource = $1 ORDER BY sequence",
            self.schema
        );
        let rows = sqlx::query_as(AssertSqlSafe(sql)).bind(&self.name).fetch_all(&mut connection).await;
        let rows: Vec<(i64, String)> = rows.map_err(failed)?;
        connection.close().await.map_err(failed)?;
        Ok(rows.into_iter().map(|(epoch, id)| (epoch as u64, id)).collect())
    }
}
