//! PostgreSQL: its volume, its tables, or the server behind its address goes back.

use std::path::PathBuf;

use anyhow::Context;
use async_trait::async_trait;
use lease_stores::postgres::PostgresPlace;
use lease_stores::{Link, Place};
use lease_testbed::{Postgres, PostgresOptions, Proxy, StandbyOptions};

use super::site::{RestoreKind, RestoreSite};

#[derive(Clone, Copy)]
enum Way {
    Volume,
    BaseBackup,
    ResetWal,
    CleanRestore,
    SecondStandby,
}

const KINDS: [(&str, &str, Way); 5] = [
    ("volume", "the volume rolled back to a snapshot", Way::Volume),
    ("base-backup", "a base backup started without recovery.signal", Way::BaseBackup),
    ("resetwal", "the volume rolled back, then pg_resetwal", Way::ResetWal),
    ("pg_restore", "pg_restore --clean into the running cluster", Way::CleanRestore),
    ("two-standbys", "a second standby promoted to the timeline of the first", Way::SecondStandby),
];

/// The page whose commands dump and restore.
const PAGE: &str = include_str!("../../../docs/operating.md");

/// The flags that the page gives a program, but for its file and its database.
fn documented(program: &str) -> Vec<&'static str> {
    let line = PAGE.lines().find(|line| line.starts_with(&format!("$ {program} ")));
    let flags = line.expect("the page has the command").split_whitespace();
    let ours = |flag: &&str| flag.starts_with("--file=") || flag.starts_with("--dbname=");
    flags.filter(|flag| flag.starts_with("--") && !ours(flag)).collect()
}

pub(super) fn kinds() -> Vec<RestoreKind> {
    KINDS.map(|(name, about, way)| RestoreKind::new(name, about, move || PostgresSite::start(way))).into()
}

struct PostgresSite {
    way: Way,
    /// The address that all clients have, as of a service.
    front: Proxy,
    place: PostgresPlace,
    server: Postgres,
    standbys: Vec<Postgres>,
    backup: Option<PathBuf>,
}

impl PostgresSite {
    async fn start(way: Way) -> anyhow::Result<Self> {
        // A client that was stopped as it connected would hold up the end of the server.
        let options = PostgresOptions::default().setting("authentication_timeout", "3s");
        let server = Postgres::start(options).await?;
        let front = Proxy::tcp(server.addr())?;
        let place = PostgresPlace::on(server.url()).await?.through(&front)?;
        let mut standbys = Vec::new();
        if let Way::SecondStandby = way {
            for name in ["first", "second"] {
                standbys.push(server.standby(StandbyOptions::asynchronous(name)).await?);
            }
        }
        Ok(Self { way, front, place, server, standbys, backup: None })
    }

    async fn lead_to(&self, standby: usize) -> anyhow::Result<()> {
        self.standbys[standby].promote().await?;
        self.front.switch_upstream(self.standbys[standby].addr());
        self.front.cut().await;
        Ok(())
    }

    fn dump(&self) -> String {
        self.server.data_dir().with_file_name("leases.dump").display().to_string()
    }
}

#[async_trait]
impl RestoreSite for PostgresSite {
    fn place(&self) -> Place {
        Place::Postgres(self.place.clone())
    }

    fn link(&self) -> anyhow::Result<Option<(Link, Place)>> {
        let proxy = Proxy::tcp(self.front.addr())?;
        let place = Place::Postgres(self.place.through(&proxy)?);
        Ok(Some((Link::new([proxy]), place)))
    }

    async fn back_up(&mut self) -> anyhow::Result<()> {
        let server = &self.server;
        match self.way {
            Way::Volume => self.backup = Some(server.copy_volume().await?),
            Way::ResetWal => {
                // It throws away everything that is only in the WAL.
                server.psql("checkpoint").await?;
                self.backup = Some(server.copy_volume().await?);
            }
            Way::BaseBackup => self.backup = Some(server.base_backup().await?),
            Way::CleanRestore => {
                let (file, url) = (format!("--file={}", self.dump()), server.url());
                let args = [documented("pg_dump"), vec![&file, &url]].concat();
                server.tool("pg_dump", &args).await?;
            }
            Way::SecondStandby => {
                for standby in &self.standbys {
                    standby.catch_up_with(server).await?;
                }
                server.crash().await?;
                self.lead_to(0).await?;
            }
        }
        Ok(())
    }

    async fn restore(&mut self) -> anyhow::Result<()> {
        let server = &self.server;
        match self.way {
            Way::CleanRestore => {
                let (database, dump) = (format!("--dbname={}", server.url()), self.dump());
                let args = [documented("pg_restore"), vec![&database, &dump]].concat();
                server.tool("pg_restore", &args).await
            }
            Way::SecondStandby => self.lead_to(1).await,
            Way::Volume | Way::BaseBackup | Way::ResetWal => {
                server.replace_data(&self.backup.take().context("it was backed up")?).await?;
                if let Way::ResetWal = self.way {
                    server.tool("pg_resetwal", &["-f", &server.data_dir().display().to_string()]).await?;
                }
                server.start_again().await
            }
        }
    }
}
