//! SQLite: a folder with the lease file, and beside it one file for each fenced resource.

mod effects;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use lease_conformance::{Facility, Harness, Missing};
use lease_core::{BackendError, Connector, InvalidSettings, LeaseBackend, LeaseName};
use lease_judge::FencedResource;
use lease_sqlite::{Sqlite, SqliteConfig};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use self::effects::SqliteEffects;
pub use self::effects::admit_everybody;
use crate::store::{Reach, StoreFault, TestStore, missing};
use crate::{Place, actor};

pub(crate) const DESCRIPTIONS: &[&str] = &[include_str!("../../conformance/stores/sqlite.json")];

const BEGIN: &str = "BEGIN IMMEDIATE";

/// The time limit of a lease's write for its file's lock: many cases write to this one file at a time, and SQLite's
/// lock is no queue.
const LEASE_PATIENCE: Duration = Duration::from_secs(10);

/// The time limit of any other connection for a lock, which a case may hold for as long as a takeover lasts.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder with the files.
#[derive(Clone, Serialize, Deserialize)]
pub struct SqlitePlace {
    folder: PathBuf,
}

/// A folder of our own.
pub struct SqliteStore {
    place: SqlitePlace,
    is_named: bool,
    owned: Mutex<Option<Owned>>,
}

enum Owned {
    /// Removed even after SIGKILL.
    Throwaway(lease_testbed::Folder),
    InNamed(TempDir),
}

/// Names the file system to judge.
#[derive(Clone, Debug, clap::Args)]
pub struct SqliteArgs {
    /// SQLite: a folder on the file system to judge. Default: the system's folder for temporary files.
    #[arg(long)]
    folder: Option<PathBuf>,
}

// === impl SqliteArgs ===

impl SqliteArgs {
    pub(crate) fn names_a_server(&self) -> bool {
        false
    }
}

// === impl SqlitePlace ===

impl SqlitePlace {
    /// The file with the leases.
    pub fn leases(&self) -> PathBuf {
        self.folder.join("leases.sqlite")
    }

    fn effects(&self, resource: &str) -> PathBuf {
        self.folder.join(format!("effects-{resource}.sqlite"))
    }

    fn all_effects(&self) -> anyhow::Result<Vec<PathBuf>> {
        let is_effects = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("effects-") && name.ends_with(".sqlite")
        };
        let paths = std::fs::read_dir(&self.folder)?.map(|entry| entry.map(|entry| entry.path()));
        Ok(paths.collect::<Result<Vec<_>, _>>()?.into_iter().filter(is_effects).collect())
    }
}

#[async_trait]
impl Reach for SqlitePlace {
    fn connector(&self) -> Result<Arc<dyn Connector>, InvalidSettings> {
        let config = SqliteConfig::new(self.leases())?.busy_timeout(LEASE_PATIENCE)?;
        Ok(Arc::new(Sqlite::connector(config)))
    }

    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        Ok(Arc::new(SqliteEffects::open(self.effects(name)).await?))
    }

    async fn admit_everybody(&self, resource: &str) -> anyhow::Result<()> {
        admit_everybody(&self.effects(resource)).await
    }

    fn flags(&self) -> Vec<String> {
        vec!["--sqlite-path".to_owned(), self.leases().display().to_string()]
    }
}

async fn open(file: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    options.busy_timeout(PATIENCE).connect().await
}

// === impl SqliteStore ===

impl SqliteStore {
    /// In the system's folder for temporary files.
    ///
    /// # Errors
    /// When no folder can be made there.
    pub async fn start() -> anyhow::Result<Self> {
        Self::open(SqliteArgs { folder: None }).await
    }

    pub(crate) async fn open(args: SqliteArgs) -> anyhow::Result<Self> {
        let owned = match &args.folder {
            None => Owned::Throwaway(lease_testbed::Folder::new("sqlite")?),
            Some(named) => {
                let folder = tempfile::Builder::new().prefix("leasehold-suite-").tempdir_in(named);
                Owned::InNamed(
                    folder.with_context(|| format!("cannot make a folder in {}", named.display()))?,
                )
            }
        };
        let folder = owned.path().join("work");
        std::fs::create_dir(&folder)?;
        let (place, is_named) = (SqlitePlace { folder }, args.folder.is_some());
        Ok(Self { place, is_named, owned: Mutex::new(Some(owned)) })
    }

    pub(crate) fn sqlite_place(&self) -> SqlitePlace {
        self.place.clone()
    }
}

impl Owned {
    fn path(&self) -> &Path {
        match self {
            Self::Throwaway(folder) => folder.path(),
            Self::InNamed(folder) => folder.path(),
        }
    }
}

#[async_trait]
impl TestStore for SqliteStore {
    fn place(&self) -> Place {
        Place::Sqlite(self.place.clone())
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let Some(owned) = self.owned.lock().expect("not poisoned").take() else { return Ok(()) };
        // After Ctrl-C an actor may still be dying: under another name it can't make files in it any more.
        std::fs::rename(&self.place.folder, owned.path().join("done"))?;
        match owned {
            Owned::Throwaway(folder) => drop(folder),
            Owned::InNamed(folder) => folder.close()?,
        }
        Ok(())
    }

    fn faults(&self) -> &'static [(u32, StoreFault)] {
        &[(2, StoreFault::LockLeases), (1, StoreFault::LockEffects)]
    }

    /// Holds the files' write locks, as a backup or a careless shell would.
    async fn inject(&self, fault: StoreFault, lasts: Duration) -> anyhow::Result<()> {
        let files = match fault {
            StoreFault::LockLeases => vec![self.place.leases()],
            StoreFault::LockEffects => self.place.all_effects()?,
            other => anyhow::bail!("SQLite is a library: it can't be {}", other.name()),
        };
        let mut outsiders = Vec::new();
        for file in files {
            let mut outsider = open(&file).await?;
            sqlx::raw_sql(BEGIN).execute(&mut outsider).await?;
            outsiders.push(outsider);
        }
        tokio::time::sleep(lasts).await;
        for outsider in outsiders {
            // Which rolls back.
            outsider.close().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Harness for SqliteStore {
    fn name(&self) -> &str {
        "sqlite"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self.place().connect().await
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(if self.is_named { 1500 } else { 1000 })
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
        Some(DESCRIPTIONS[0])
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let delete = async {
            let mut administrator = open(&self.place.leases()).await?;
            let mut transaction = administrator.begin_with(BEGIN).await?;
            for sql in [
                "INSERT INTO coordination_lease_deletions (lease_name) VALUES (?)",
                "DELETE FROM coordination_leases WHERE lease_name = ?",
            ] {
                sqlx::query(sql).bind(lease.as_str()).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(administrator.close().await?)
        };
        delete.await.map_err(missing)
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        self.place().resource(name).await.map_err(missing)
    }

    fn actor_command(&self) -> Option<Command> {
        actor::command(&self.place())
    }
}
