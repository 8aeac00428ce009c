//! SQLite as the suite meets it: a lease file, and beside it a database with fenced effects.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_conformance::{EffectError, Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName, Term};
use lease_sqlite::{Fence, FenceError, Sqlite, SqliteConfig};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

/// The variable by which an actor's process finds the folder.
const FOLDER: &str = "LEASEHOLD_CONFORMANCE_FOLDER";
/// How long a write waits for the file's lock.
const PATIENCE: Duration = Duration::from_secs(10);
const BEGIN: &str = "BEGIN IMMEDIATE";

pub(crate) struct SqliteHarness {
    folder: PathBuf,
    _owned: Option<tempfile::TempDir>,
}

impl SqliteHarness {
    pub(crate) fn fresh() -> Self {
        let owned = tempfile::tempdir().expect("a temporary folder");
        Self { folder: owned.path().to_owned(), _owned: Some(owned) }
    }

    /// The harness of an actor's process; `None` in any other.
    pub(crate) fn of_this_process() -> Option<Self> {
        env::var_os(FOLDER).map(|folder| Self { folder: folder.into(), _owned: None })
    }

    fn leases(&self) -> PathBuf {
        self.folder.join("leases.sqlite")
    }
}

async fn shell(file: PathBuf) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    options.busy_timeout(Duration::from_secs(60)).connect().await
}

#[async_trait]
impl Harness for SqliteHarness {
    fn name(&self) -> &str {
        "sqlite"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        // Many cases write to this one file at a time, and SQLite's lock is no queue.
        let config = SqliteConfig::new(self.leases()).and_then(|config| config.busy_timeout(PATIENCE));
        let config = config.map_err(|error| BackendError::refused(error.to_string()))?;
        Ok(Arc::new(Sqlite::connect(config).await?))
    }

    fn parallel_cases(&self) -> usize {
        8
    }

    fn facilities(&self) -> &[Facility] {
        &[Facility::Delete, Facility::FencedEffects, Facility::Processes]
    }

    fn why_not(&self, facility: Facility) -> String {
        match facility {
            Facility::Restart => "SQLite is a library: there is no server to restart".into(),
            Facility::LoseReply => "SQLite is a library: there is no wire to lose a reply".into(),
            Facility::ChangeLineage => {
                "a replaced file is refused for ever by whoever had it open (Q-1)".into()
            }
            _ => format!("this harness does not offer {facility}"),
        }
    }

    fn description(&self) -> Option<&'static str> {
        Some(include_str!("../../../conformance/stores/sqlite.json"))
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let delete = async {
            let mut shell = shell(self.leases()).await?;
            let mut transaction = shell.begin_with(BEGIN).await?;
            for sql in [
                "INSERT INTO coordination_lease_deletions VALUES (?)",
                "DELETE FROM coordination_leases WHERE lease_name = ?",
            ] {
                sqlx::query(sql).bind(lease.as_str()).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        };
        delete.await.map_err(Missing::because)
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        let resource = Resource { file: self.folder.join("app.sqlite"), name: name.to_owned() };
        resource.install().await.map_err(Missing::because)?;
        Ok(Arc::new(resource))
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.env(FOLDER, &self.folder);
        Some(command)
    }
}

#[derive(Clone)]
struct Resource {
    file: PathBuf,
    name: String,
}

impl Resource {
    async fn install(&self) -> Result<(), sqlx::Error> {
        let mut database = shell(self.file.clone()).await?;
        Fence::install(&mut database).await?;
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
