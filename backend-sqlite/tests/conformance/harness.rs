//! SQLite as the suite meets it: a lease file, and beside it a database with fenced effects.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_conformance::{Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_sqlite::{Sqlite, SqliteConfig};
use sqlx::Connection;

use crate::resource::{BEGIN, Resource, shell};

/// The variable by which an actor's process finds the folder.
const FOLDER: &str = "LEASEHOLD_CONFORMANCE_FOLDER";
/// How long a write waits for the file's lock.
const PATIENCE: Duration = Duration::from_secs(10);

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
