//! SQLite: the file's content is replaced, or the file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use async_trait::async_trait;
use lease_stores::sqlite::SqliteStore;
use lease_stores::{Link, Place, TestStore};
use lease_testbed::Process;

use super::site::{RestoreKind, RestoreSite};

const LIMIT: Duration = Duration::from_secs(60);

const BACK_UP: &str = "sqlite3 \"$LEASES\" '.timeout 10000' \".backup $BACKUP\"";

/// Each restores by one line of a shell.
const KINDS: [(&str, &str, &str); 4] = [
    ("shell", "sqlite3's .restore", "sqlite3 \"$LEASES\" '.timeout 10000' \".restore $BACKUP\""),
    (
        "cp",
        "cp over the file, -wal and -shm removed",
        "cp \"$BACKUP\" \"$LEASES\" && rm -f \"$LEASES-wal\" \"$LEASES-shm\"",
    ),
    (
        "mv",
        "mv over the file, -wal and -shm removed",
        "mv \"$BACKUP\" \"$LEASES\" && rm -f \"$LEASES-wal\" \"$LEASES-shm\"",
    ),
    ("mv-wal", "mv over the file, -wal left behind", "mv \"$BACKUP\" \"$LEASES\""),
];

pub(super) fn kinds() -> Vec<RestoreKind> {
    let kind = |(name, about, line)| {
        let mut kind = RestoreKind::new(name, about, move || SqliteSite::start(line));
        kind.ends_processes = name != "shell";
        kind
    };
    KINDS.map(kind).into()
}

struct SqliteSite {
    store: SqliteStore,
    leases: PathBuf,
    line: &'static str,
}

impl SqliteSite {
    async fn start(line: &'static str) -> anyhow::Result<Self> {
        let store = SqliteStore::start().await?;
        let Place::Sqlite(place) = store.place() else { bail!("the place of SQLite is a folder") };
        Ok(Self { store, leases: place.leases(), line })
    }

    /// By another process: to close the file in this one would drop the locks of its other connections.
    async fn shell(&self, line: &str) -> anyhow::Result<()> {
        let shell = Process::command("sh")?.args(["-ec", line]).env("LEASES", &self.leases);
        shell.env("BACKUP", self.leases.with_extension("backup")).run(LIMIT).await.map(drop)
    }
}

#[async_trait]
impl RestoreSite for SqliteSite {
    fn place(&self) -> Place {
        self.store.place()
    }

    fn link(&self) -> anyhow::Result<Option<(Link, Place)>> {
        Ok(None)
    }

    async fn back_up(&mut self) -> anyhow::Result<()> {
        self.shell(BACK_UP).await
    }

    async fn restore(&mut self) -> anyhow::Result<()> {
        self.shell(self.line).await
    }
}
