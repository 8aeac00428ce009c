//! Databases on another disk.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::Postgres;
use super::access::{identifier, literal};

impl Postgres {
    /// Makes a tablespace in a folder, which is made too.
    ///
    /// # Errors
    /// When there is one of this name, or something is at `path`.
    pub async fn create_tablespace(&self, name: &str, path: &Path) -> anyhow::Result<()> {
        fs::create_dir(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        self.binaries.user.own(path)?;
        let location = literal(&path.display().to_string());
        self.psql(&format!("create tablespace {} location {location}", identifier(name))).await?;
        Ok(())
    }

    /// Moves a database to a tablespace. Its connections are broken, and it takes none until it is there.
    ///
    /// # Errors
    /// When there is no room. It may be left without taking connections then.
    pub async fn move_database(&self, database: &str, tablespace: &str) -> anyhow::Result<()> {
        let (name, to) = (identifier(database), identifier(tablespace));
        let quoted = literal(database);
        self.psql(&format!(
            "alter database {name} allow_connections false;
             select pg_terminate_backend(pid) from pg_stat_activity where datname = {quoted};
             alter database {name} set tablespace {to};
             alter database {name} allow_connections true"
        ))
        .await?;
        Ok(())
    }
}
