//! Effects in an SQLite file, which is not the leases'.

use std::time::Duration;

use lease_core::{Grant, Term};
use lease_sqlite::{Fence, FenceError};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, Row};

use super::{Effect, EffectRow, Outcome, warm_up};

pub(crate) struct Effects(SqliteConnection);

async fn open(file: &str) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(5)).connect().await
}

pub(super) async fn create(file: &str) -> anyhow::Result<()> {
    let mut connection = open(file).await?;
    Fence::new("effects").install(&mut connection).await?;
    sqlx::raw_sql(
        "CREATE TABLE effects (
             sequence INTEGER PRIMARY KEY AUTOINCREMENT, resource TEXT NOT NULL, epoch INTEGER NOT NULL,
             grant_id TEXT NOT NULL, incarnation INTEGER NOT NULL, number INTEGER NOT NULL, pid INTEGER NOT NULL,
             before_ns INTEGER NOT NULL, UNIQUE (incarnation, number))",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection.close().await?)
}

pub(super) async fn sabotage(file: &str) -> anyhow::Result<()> {
    let mut connection = open(file).await?;
    sqlx::raw_sql(
        "DROP TRIGGER leasehold_admit_term;
         CREATE TRIGGER leasehold_admit_term INSTEAD OF INSERT ON leasehold_admit BEGIN SELECT 1; END",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection.close().await?)
}

impl Effects {
    pub(super) async fn connect(file: &str) -> anyhow::Result<Self> {
        let mut effects = Self(open(file).await?);
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
        let mut transaction = self.0.begin_with("BEGIN IMMEDIATE").await?;
        Fence::new(&effect.resource).admit(&mut transaction, &effect.term).await?;
        sqlx::query(
            "INSERT INTO effects (resource, epoch, grant_id, incarnation, number, pid, before_ns)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&effect.resource)
        .bind(effect.term.epoch as i64)
        .bind(effect.term.grant.to_string())
        .bind(effect.incarnation as i64)
        .bind(effect.number as i64)
        .bind(std::process::id())
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
        let rows = sqlx::query("SELECT * FROM effects WHERE resource = ? ORDER BY sequence").bind(resource);
        let read = |row: &sqlx::sqlite::SqliteRow| -> anyhow::Result<EffectRow> {
            let number = |column: &str| row.try_get::<i64, _>(column);
            let grant: Grant = row.try_get::<String, _>("grant_id")?.parse()?;
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
