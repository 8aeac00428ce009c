//! Effects in a SQLite file, fenced in their own transaction. Stores that hold no effects themselves use it too.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_core::{Grant, Term};
use lease_judge::{EffectError, FencedResource};
use lease_sqlite::{Fence, FenceError};
use sqlx::{Connection, SqliteConnection};

use super::{BEGIN, open};
use crate::idle::Idle;
use crate::store::failed;

/// The marks of one file's only resource.
const RESOURCE: &str = "resource";

/// A file for one resource, so that its lock is in nobody else's way.
#[derive(Clone)]
pub(super) struct SqliteEffects {
    file: PathBuf,
    idle: Arc<Idle<SqliteConnection>>,
}

/// Breaks the fence in an application's database: it admits every term from now on.
///
/// # Errors
/// When there is no fence.
pub async fn admit_everybody(file: &Path) -> anyhow::Result<()> {
    let mut connection = open(file).await?;
    sqlx::raw_sql(
        "DROP TRIGGER leasehold_admit_term;
         CREATE TRIGGER leasehold_admit_term INSTEAD OF INSERT ON leasehold_admit BEGIN SELECT 1; END",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection.close().await?)
}

impl SqliteEffects {
    pub(super) async fn open(file: PathBuf) -> anyhow::Result<Self> {
        let is_new = !file.exists();
        let mut connection = open(&file).await?;
        if is_new {
            sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut connection).await?;
            Fence::new("effects").install(&mut connection).await?;
            let table = "CREATE TABLE IF NOT EXISTS effects \
                         (sequence INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL, id TEXT NOT NULL UNIQUE)";
            sqlx::raw_sql(table).execute(&mut connection).await?;
        }
        // Rolled back: it prepares each statement.
        let mut transaction = connection.begin_with(BEGIN).await?;
        let term = Term { epoch: 1, grant: Grant::random() };
        write(&mut transaction, &Fence::new("warm-up"), term, "warm-up").await?;
        transaction.rollback().await?;
        let idle = Arc::new(Idle::default());
        idle.put_back(connection);
        Ok(Self { file, idle })
    }

    async fn connection(&self) -> Result<SqliteConnection, EffectError> {
        match self.idle.take() {
            Some(connection) => Ok(connection),
            None => open(&self.file).await.map_err(failed),
        }
    }
}

async fn write(
    transaction: &mut SqliteConnection,
    fence: &Fence,
    term: Term,
    id: &str,
) -> Result<(), EffectError> {
    match fence.admit(transaction, &term).await {
        Ok(()) => {}
        Err(FenceError::Stale(stale)) => return Err(stale.into()),
        Err(FenceError::AboveCeiling(above)) => return Err(above.into()),
        Err(FenceError::Store(error)) => return Err(failed(error)),
    }
    let insert = sqlx::query("INSERT INTO effects (epoch, id) VALUES (?, ?)");
    insert.bind(term.epoch as i64).bind(id).execute(transaction).await.map(drop).map_err(failed)
}

#[async_trait]
impl FencedResource for SqliteEffects {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin_with(BEGIN).await.map_err(failed)?;
        let written = write(&mut transaction, &Fence::new(RESOURCE), term, id).await;
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

    /// The late one waits for the file's lock, which the successor's transaction holds from before.
    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let mut present = self.connection().await?;
        let mut transaction = present.begin_with(BEGIN).await.map_err(failed)?;
        let (late, id) = (self.clone(), id.to_owned());
        let late = tokio::spawn(async move { late.effect(term, &id).await });
        let (successor, its) = meanwhile.await;
        write(&mut transaction, &Fence::new(RESOURCE), successor, &its).await?;
        transaction.commit().await.map_err(failed)?;
        late.await.map_err(failed)?
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        let mut connection = self.connection().await?;
        let sql = "SELECT epoch, id FROM effects ORDER BY sequence";
        let rows: Vec<(i64, String)> =
            sqlx::query_as(sql).fetch_all(&mut connection).await.map_err(failed)?;
        self.idle.put_back(connection);
        rows.into_iter().map(|(epoch, id)| Ok((epoch.try_into().map_err(failed)?, id))).collect()
    }

    async fn newest(&self) -> Result<Option<(u64, String)>, EffectError> {
        let mut connection = self.connection().await?;
        let sql = "SELECT epoch, id FROM effects ORDER BY sequence DESC LIMIT 1";
        let row: Option<(i64, String)> =
            sqlx::query_as(sql).fetch_optional(&mut connection).await.map_err(failed)?;
        self.idle.put_back(connection);
        row.map(|(epoch, id)| Ok((epoch.try_into().map_err(failed)?, id))).transpose()
    }
}
