//! Copies of a server's data, and a server on such a copy: as operators make them.

use std::{fs, path::Path, path::PathBuf, time::Duration};

use anyhow::Context;

use super::{PASSWORD, Postgres, SUPERUSER, template::copy_tree};
use crate::{process::ProcessCommand, supervisor::Ending};

const LIMIT: Duration = Duration::from_secs(120);

impl Postgres {
    /// Runs one of PostgreSQL's programs in the server's folder, by its user; `PGPASSWORD` is set.
    ///
    /// # Errors
    /// Its last lines, or no end within two minutes.
    pub async fn tool(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        let mut command = self.binaries.command(program, Ending::Kill, self.folder.path())?;
        command.args(args).env("PGPASSWORD", PASSWORD);
        ProcessCommand::of(program, command).run(LIMIT).await.map(drop)
    }

    /// Copies the running server's data folder as a snapshot of its volume does: all of it at one moment.
    ///
    /// # Errors
    /// When the server doesn't run, or nothing can be copied.
    pub async fn copy_volume(&self) -> anyhow::Result<PathBuf> {
        let copy = self.folder.path().join(format!("volume-{}", self.count_copy()));
        self.pause().await?;
        let copied = copy_tree(&self.data, &copy, &|path| self.binaries.user.own(path));
        self.resume()?;
        copied.context("cannot copy the data folder")?;
        // It names processes that no copy has.
        fs::remove_file(copy.join("postmaster.pid"))?;
        Ok(copy)
    }

    /// Copies the running server by pg_basebackup, with the WAL that was written meanwhile.
    ///
    /// # Errors
    /// When pg_basebackup fails.
    pub async fn base_backup(&self) -> anyhow::Result<PathBuf> {
        let copy = self.folder.path().join(format!("base-backup-{}", self.count_copy()));
        self.base_backup_into(&copy).await?;
        Ok(copy)
    }

    pub(super) async fn base_backup_into(&self, copy: &Path) -> anyhow::Result<()> {
        let (pgdata, port) = (format!("--pgdata={}", copy.display()), format!("--port={}", self.port()));
        let user = format!("--username={SUPERUSER}");
        let args = [&pgdata, &port, &user, "--host=127.0.0.1", "--checkpoint=fast", "--no-sync"];
        self.tool("pg_basebackup", &args).await.context("cannot copy the server")
    }

    /// Kills the server and puts `copy` in the place of its data; [`start_again`](Self::start_again) starts it on that.
    ///
    /// # Errors
    /// When the server doesn't run, or the folders can't be moved.
    pub async fn replace_data(&self, copy: &Path) -> anyhow::Result<()> {
        self.crash().await?;
        let replaced = self.folder.path().join(format!("replaced-{}", self.count_copy()));
        fs::rename(&self.data, replaced).context("cannot move the data folder away")?;
        fs::rename(copy, &self.data).context("cannot move the copy to its place")
    }

    fn count_copy(&self) -> u64 {
        let mut state = self.lock();
        state.copies += 1;
        state.copies
    }
}
