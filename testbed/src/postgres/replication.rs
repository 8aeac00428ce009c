//! Streaming standbys and their promotion.

use std::time::Duration;

use anyhow::{Context, bail};

use super::{PASSWORD, Postgres, SUPERUSER, StandbyOptions, access::literal};
use crate::{supervisor::Folder, wait::wait_until};

const REPLICATION_LIMIT: Duration = Duration::from_secs(60);

impl Postgres {
    /// Makes a streaming standby of this server by `pg_basebackup`, and returns when it streams and, if it is to be
    /// synchronous, when every commit of this server waits for it. It has this server's settings and archive.
    ///
    /// # Errors
    /// When the backup fails, or the standby doesn't stream within 60 s. An error, or dropping the future, may leave
    /// this server waiting for a synchronous standby that isn't there: [`set`](Self::set)
    /// `synchronous_standby_names` then.
    pub async fn standby(&self, options: StandbyOptions) -> anyhow::Result<Self> {
        let folder = Folder::new("postgres")?;
        self.binaries.user.own(folder.path())?;
        let data = folder.path().join("data");
        self.base_backup_into(&data).await.context("cannot copy the primary")?;
        self.binaries.user.write(&data.join("standby.signal"), "")?;

        let mut settings = self.lock().settings.clone();
        let primary = options.primary.unwrap_or(self.addr());
        let conninfo = format!(
            "host={} port={} user={SUPERUSER} password={PASSWORD} application_name={}",
            primary.ip(),
            primary.port(),
            options.name
        );
        settings.set("primary_conninfo".into(), conninfo);
        settings.set("synchronous_standby_names".into(), String::new());
        settings.extend(&options.settings);
        let standby =
            Self::launch(self.binaries.clone(), folder, data, settings, self.archive.clone()).await?;

        let name = literal(&options.name);
        self.await_standby(&format!("application_name = {name} and state = 'streaming'")).await?;
        if options.synchronous {
            let names = {
                let mut state = self.lock();
                state.synchronous.push(format!("\"{}\"", options.name));
                format!("FIRST {} ({})", state.synchronous.len(), state.synchronous.join(", "))
            };
            self.set("synchronous_standby_names", &names).await?;
            self.await_standby(&format!("application_name = {name} and sync_state = 'sync'")).await?;
        }
        Ok(standby)
    }

    async fn await_standby(&self, condition: &str) -> anyhow::Result<()> {
        let sql = format!("select 1 from pg_stat_replication where {condition}");
        wait_until(&format!("the primary has a standby where {condition}"), REPLICATION_LIMIT, async || {
            self.psql(&sql).await.is_ok_and(|row| row == "1")
        })
        .await
    }

    /// Returns when this standby has replayed everything that `primary` had written at the time of the call.
    ///
    /// # Errors
    /// When either takes no connections, or 60 s have passed.
    pub async fn catch_up_with(&self, primary: &Self) -> anyhow::Result<()> {
        let written = primary.psql("select pg_current_wal_flush_lsn()").await?;
        let sql = format!("select pg_last_wal_replay_lsn() >= {}", literal(&written));
        wait_until(&format!("the standby has replayed {written}"), REPLICATION_LIMIT, async || {
            self.psql(&sql).await.is_ok_and(|replayed| replayed == "t")
        })
        .await
    }

    /// Promotes a standby and returns when it takes writes, on a timeline of its own, and when its history is in
    /// the archive if it has one. The old primary isn't told: it goes on as it was.
    ///
    /// # Errors
    /// When this is no standby, or 60 s have passed.
    pub async fn promote(&self) -> anyhow::Result<()> {
        if self.psql("select pg_promote(true, 60)").await? != "t" {
            bail!("the standby was not promoted within 60 s; the end of its log:\n{}", self.log_tail());
        }
        if let Some(archive) = &self.archive {
            let history = archive.path().join(format!("{:08X}.history", self.timeline().await?));
            wait_until("the new timeline's history is in the archive", REPLICATION_LIMIT, async || {
                history.is_file()
            })
            .await?;
        }
        Ok(())
    }

    /// The timeline that this primary writes on.
    ///
    /// # Errors
    /// When this is a standby.
    pub async fn timeline(&self) -> anyhow::Result<u32> {
        let segment = self.psql("select pg_walfile_name(pg_current_wal_insert_lsn())").await?;
        let timeline = segment.get(..8).context("a WAL file's name is too short")?;
        Ok(u32::from_str_radix(timeline, 16)?)
    }

    /// The cluster's system identifier, which a standby has from its primary.
    ///
    /// # Errors
    /// When the server takes no connections.
    pub async fn system_identifier(&self) -> anyhow::Result<u64> {
        Ok(self.psql("select system_identifier from pg_control_system()").await?.parse()?)
    }
}
