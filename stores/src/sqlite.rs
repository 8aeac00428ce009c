//! SQLite: a folder with the lease file, and beside it one file for each fenced resource.

mod effects;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::{Connector, InvalidSettings};
use lease_judge::FencedResource;
use lease_sqlite::{Sqlite, SqliteConfig};
use serde::{Deserialize, Serialize};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use self::effects::SqliteEffects;
pub use self::effects::admit_everybody;
pub use self::store::SqliteStore;
use crate::store::Reach;

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

    fn lease_file(&self) -> Option<PathBuf> {
        Some(self.leases())
    }
}

async fn open(file: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    options.busy_timeout(PATIENCE).connect().await
}
