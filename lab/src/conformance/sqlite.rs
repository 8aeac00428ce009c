//! The suite on SQLite, in a folder of its own on the file system that is judged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_conformance::{EffectError, Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName, Term};
use lease_sqlite::{Fence, FenceError, Sqlite, SqliteConfig};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tempfile::TempDir;

use super::{Place, actor, failed};

/// How long a write waits for the file's lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the suite's files are, as an actor's process is told.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct At(PathBuf);

/// The harness on them.
#[derive(Clone)]
pub(super) struct Files(pub(super) At);

pub(super) struct Folder {
    files: Files,
    owned: Mutex<Option<Owned>>,
}

enum Owned {
    /// Removed even after SIGKILL.
    Ours(lease_testbed::Folder),
    Named(TempDir),
}

impl Folder {
    pub(super) fn make(inside: Option<&Path>) -> anyhow::Result<Self> {
        let owned = match inside {
            None => Owned::Ours(lease_testbed::Folder::new("suite")?),
            Some(inside) => {
                let folder = tempfile::Builder::new().prefix("leasehold-suite-").tempdir_in(inside);
                Owned::Named(folder.with_context(|| format!("cannot make a folder in {}", inside.display()))?)
            }
        };
        let work = owned.path().join("work");
        std::fs::create_dir(&work)?;
        Ok(Self { files: Files(At(work)), owned: Mutex::new(Some(owned)) })
    }

    /// For a store that holds no effects itself.
    pub(super) fn at(&self) -> At {
        self.files.0.clone()
    }
}

impl Owned {
    fn path(&self) -> &Path {
        match self {
            Self::Ours(folder) => folder.path(),
            Self::Named(folder) => folder.path(),
        }
    }
}

#[async_trait]
impl Place for Folder {
    fn harness(self: Arc<Self>) -> Arc<dyn Harness> {
        Arc::new(self.files.clone())
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let Some(owned) = self.owned.lock().expect("not poisoned").take() else { return Ok(()) };
        // After Ctrl-C an actor may still be dying: under another name it can't make files in it any more.
        std::fs::rename(&self.files.0.0, owned.path().join("done"))?;
        match owned {
            Owned::Ours(folder) => drop(folder),
            Owned::Named(folder) => folder.close()?,
        }
        Ok(())
    }
}

impl Files {
    fn leases(&self) -> PathBuf {
        self.0.0.join("leases.sqlite")
    }
}

#[async_trait]
impl Harness for Files {
    fn name(&self) -> &str {
        "sqlite"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        // Many cases write to this one file at a time, and SQLite's lock is no queue.
        let config = SqliteConfig::new(self.leases()).and_then(|config| config.busy_timeout(PATIENCE));
        let config = config.map_err(|error| BackendError::refused(error.to_string()))?;
        Ok(Arc::new(Sqlite::connect(config).await?))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(1500)
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

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(std::env::current_exe().ok()?);
        command.arg(actor::COMMAND).env(actor::PLACE, actor::Place::Sqlite(self.0.clone()).to_json());
        Some(command)
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let mut shell = open(&self.leases()).await.map_err(Missing::because)?;
        for sql in [
            "INSERT INTO coordination_lease_deletions (lease_name) VALUES (?)",
            "DELETE FROM coordination_leases WHERE lease_name = ?",
        ] {
            sqlx::query(sql).bind(lease.as_str()).execute(&mut shell).await.map_err(Missing::because)?;
        }
        Ok(())
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        let path = self.0.0.join(format!("{name}.sqlite"));
        if path.exists() {
            return Ok(Arc::new(Resource(path)));
        }
        let make = async {
            let mut connection = open(&path).await?;
            Fence::new("any").install(&mut connection).await?;
            sqlx::raw_sql(
                "CREATE TABLE effects (sequence INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER, id TEXT)",
            )
            .execute(&mut connection)
            .await
        };
        make.await.map_err(Missing::because)?;
        Ok(Arc::new(Resource(path)))
    }
}

async fn open(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options.busy_timeout(Duration::from_secs(60)).connect().await
}

/// A file of effects.
#[derive(Clone)]
struct Resource(PathBuf);

async fn write(connection: &mut SqliteConnection, term: Term, id: &str) -> Result<(), EffectError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    match Fence::new("resource").admit(&mut transaction, &term).await {
        Ok(()) => {}
        Err(FenceError::Stale(stale)) => return Err(stale.into()),
        Err(FenceError::Store(error)) => return Err(failed(error)),
    }
    let insert =
        sqlx::query("INSERT INTO effects (epoch, id) VALUES (?, ?)").bind(term.epoch as i64).bind(id);
    insert.execute(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

#[async_trait]
impl FencedResource for Resource {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        write(&mut open(&self.0).await.map_err(failed)?, term, id).await
    }

    /// The late one waits for the file's lock, which the successor's transaction holds from before.
    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let mut present = open(&self.0).await.map_err(failed)?;
        let mut transaction = present.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let (late, id) = (self.clone(), id.to_owned());
        let late = tokio::spawn(async move { late.effect(term, &id).await });
        let (successor, its) = meanwhile.await;
        Fence::new("resource").admit(&mut transaction, &successor).await.map_err(failed)?;
        let insert = sqlx::query("INSERT INTO effects (epoch, id) VALUES (?, ?)");
        let insert = insert.bind(successor.epoch as i64).bind(its);
        insert.execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        late.await.map_err(failed)?
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        let mut connection = open(&self.0).await.map_err(failed)?;
        let rows: Vec<(i64, String)> = sqlx::query_as("SELECT epoch, id FROM effects ORDER BY sequence")
            .fetch_all(&mut connection)
            .await
            .map_err(failed)?;
        rows.into_iter().map(|(epoch, id)| Ok((epoch.try_into().map_err(failed)?, id))).collect()
    }
}
