//! A folder of our own, and the outsiders that lock its files.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use lease_conformance::{Facility, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_judge::FencedResource;
use sqlx::Connection;
use tempfile::TempDir;

use super::{BEGIN, DESCRIPTIONS, SqliteArgs, SqlitePlace, open};
use crate::store::{StoreFault, TestStore, missing};
use crate::{Place, actor};

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

    #[cfg(any(feature = "etcd", feature = "k8s"))]
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
        &[
            Facility::Delete,
            Facility::Rewind,
            Facility::RewindFloor,
            Facility::FencedEffects,
            Facility::Processes,
        ]
    }

    fn why_not(&self, facility: Facility) -> String {
        match facility {
            Facility::Restart => "SQLite is a library: there is no server to restart".into(),
            Facility::Stop => "SQLite is a library: there is no server to stop".into(),
            Facility::Split => "not judged: SQLite has one file and no replicas".into(),
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

    async fn back_up(&self, lease: &LeaseName) -> Result<Vec<u8>, Missing> {
        let read = async {
            let mut administrator = open(&self.place.leases()).await?;
            let record: String =
                sqlx::query_scalar("SELECT record FROM coordination_leases WHERE lease_name = ?")
                    .bind(lease.as_str())
                    .fetch_one(&mut administrator)
                    .await?;
            administrator.close().await?;
            Ok(record.into())
        };
        read.await.map_err(missing)
    }

    /// All other columns are made from the record.
    async fn put_back(&self, lease: &LeaseName, kept: &[u8]) -> Result<(), Missing> {
        let write = async {
            let mut administrator = open(&self.place.leases()).await?;
            sqlx::query("UPDATE coordination_leases SET record = ? WHERE lease_name = ?")
                .bind(str::from_utf8(kept)?)
                .bind(lease.as_str())
                .execute(&mut administrator)
                .await?;
            Ok(administrator.close().await?)
        };
        write.await.map_err(missing)
    }

    async fn rewind_floor(&self, lease: &LeaseName, floor: u64) -> Result<(), Missing> {
        let rewind = async {
            let mut administrator = open(&self.place.leases()).await?;
            sqlx::query("UPDATE coordination_lease_floors SET epoch = ? WHERE lease_name = ?")
                .bind(i64::try_from(floor)?)
                .bind(lease.as_str())
                .execute(&mut administrator)
                .await?;
            Ok(administrator.close().await?)
        };
        rewind.await.map_err(missing)
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        Ok(Arc::new(Self::start().await.map_err(missing)?))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        self.place().resource(name).await.map_err(missing)
    }

    fn actor_command(&self) -> Option<Command> {
        actor::command(&self.place())
    }
}
