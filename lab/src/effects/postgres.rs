//! Effects in a Postgres table, in the database of the leases.

use lease_core::{Grant, Term};
use lease_postgres::{Fence, FenceError};
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;
use sqlx::{Connection, Row};

use super::{Effect, EffectRow, Outcome, warm_up};

pub(crate) struct Effects(PgConnection);

pub(super) async fn create(url: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    Fence::new("effects").install(&mut connection).await?;
    sqlx::raw_sql(
        "CREATE TABLE effects (
             sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, resource text NOT NULL,
             epoch bigint NOT NULL, grant_id uuid NOT NULL, incarnation bigint NOT NULL, number bigint NOT NULL,
             pid bigint NOT NULL, before_ns bigint NOT NULL, UNIQUE (incarnation, number))",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection.close().await?)
}

pub(super) async fn sabotage(url: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(
        "CREATE OR REPLACE FUNCTION public.leasehold_admit(p_resource text, p_epoch bigint, p_grant uuid)
         RETURNS void LANGUAGE sql AS 'SELECT NULL::void'",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection.close().await?)
}

impl Effects {
    pub(super) async fn connect(url: &str) -> anyhow::Result<Self> {
        let mut effects = Self(PgConnection::connect(url).await?);
        effects.write(&warm_up(), false).await;
        Ok(effects)
    }

    pub(super) async fn write(&mut self, effect: &Effect, commit: bool) -> Outcome {
        match self.try_write(effect, commit).await {
            Ok(()) => Outcome::Written,
            Err(FenceError::Stale(_)) => Outcome::Refused,
            Err(FenceError::Store(error)) => Outcome::Failed(error.to_string()),
        }
    }

    async fn try_write(&mut self, effect: &Effect, commit: bool) -> Result<(), FenceError> {
        let mut transaction = self.0.begin().await?;
        Fence::new(&effect.resource).admit(&mut transaction, &effect.term).await?;
        sqlx::query(
            "INSERT INTO effects (resource, epoch, grant_id, incarnation, number, pid, before_ns)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&effect.resource)
        .bind(effect.term.epoch as i64)
        .bind(Uuid::from_u128(effect.term.grant.0))
        .bind(effect.incarnation as i64)
        .bind(effect.number as i64)
        .bind(i64::from(std::process::id()))
        .bind(effect.before as i64)
        .execute(&mut *transaction)
        .await?;
        if commit {
            transaction.commit().await?
        } else {
            transaction.rollback().await?
        }
        Ok(())
    }

    pub(super) async fn all(&mut self, resource: &str) -> anyhow::Result<Vec<EffectRow>> {
        let rows = sqlx::query("SELECT * FROM effects WHERE resource = $1 ORDER BY sequence").bind(resource);
        let read = |row: &sqlx::postgres::PgRow| -> anyhow::Result<EffectRow> {
            let number = |column: &str| row.try_get::<i64, _>(column);
            let grant = Grant(row.try_get::<Uuid, _>("grant_id")?.as_u128());
            Ok(EffectRow {
                sequence: number("sequence")?,
                term: Term { epoch: number("epoch")?.try_into()?, grant },
                incarnation: number("incarnation")?.try_into()?,
                number: number("number")?.try_into()?,
                pid: number("pid")?.try_into()?,
                before: number("before_ns")?.try_into()?,
            })
        };
        rows.fetch_all(&mut self.0).await?.iter().map(read).collect()
    }
}
