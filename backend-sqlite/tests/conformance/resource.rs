//! Effects in a SQLite database, fenced in their own transaction. Stores that hold no effects are judged with it too.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_conformance::{EffectError, FencedResource};
use lease_core::Term;
use lease_sqlite::{Fence, FenceError};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";

pub(crate) async fn shell(file: PathBuf) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    options.busy_timeout(Duration::from_secs(60)).connect().await
}

#[derive(Clone)]
pub(crate) struct Resource {
    pub(crate) file: PathBuf,
    pub(crate) name: String,
}

impl Resource {
    pub(crate) async fn install(&self) -> Result<(), sqlx::Error> {
        let mut database = shell(self.file.clone()).await?;
        Fence::new("any").install(&mut database).await?;
        let table = "CREATE TABLE IF NOT EXISTS effects \
                     (sequence INTEGER PRIMARY KEY AUTOINCREMENT, resource TEXT, epoch INTEGER, id TEXT)";
        sqlx::raw_sql(table).execute(&mut database).await.map(drop)
    }

    /// Admits and adds, in a transaction of the caller's.
    async fn add(&self, transaction: &mut SqliteConnection, term: Term, id: &str) -> Result<(), EffectError> {
        match Fence::new(&self.name).admit(transaction, &term).await {
            Ok(()) => {}
            Err(FenceError::Stale(stale)) => return Err(stale.into()),
            Err(error) => return Err(failed(error)),
        }
        let effect = sqlx::query("INSERT INTO effects (resource, epoch, id) VALUES (?, ?, ?)");
        let effect = effect.bind(&self.name).bind(term.epoch as i64).bind(id);
        effect.execute(transaction).await.map(drop).map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> EffectError {
    EffectError::Failed(error.to_string())
}

#[async_trait]
impl FencedResource for Resource {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut database = shell(self.file.clone()).await.map_err(failed)?;
        let mut transaction = database.begin_with(BEGIN).await.map_err(failed)?;
        self.add(&mut transaction, term, id).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        // A lock that somebody else holds; the successor's effect is made under it.
        let mut outside = shell(self.file.clone()).await.map_err(failed)?;
        let mut lock = outside.begin_with(BEGIN).await.map_err(failed)?;
        let (resource, id) = (self.clone(), id.to_owned());
        let late = tokio::spawn(async move { resource.effect(term, &id).await });
        let (successor, its) = meanwhile.await;
        self.add(&mut lock, successor, &its).await?;
        lock.commit().await.map_err(failed)?;
        late.await.map_err(failed)?
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        let mut database = shell(self.file.clone()).await.map_err(failed)?;
        let sql = "SELECT epoch, id FROM effects WHERE resource = ? ORDER BY sequence";
        let rows: Vec<(i64, String)> =
            sqlx::query_as(sql).bind(&self.name).fetch_all(&mut database).await.map_err(failed)?;
        Ok(rows.into_iter().map(|(epoch, id)| (epoch as u64, id)).collect())
    }
}
