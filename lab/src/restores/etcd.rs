//! etcd: a snapshot is restored under the old cluster id.

use std::path::PathBuf;

use anyhow::Context;
use async_trait::async_trait;
use lease_stores::etcd::EtcdStore;
use lease_stores::{Link, Place, TestStore};
use lease_testbed::ClusterId;

use super::site::{RestoreKind, RestoreSite};

/// The page whose command restores it for clients with caches.
const PAGE: &str = include_str!("../../../docs/kubernetes.md");

pub(super) fn kinds() -> Vec<RestoreKind> {
    vec![
        RestoreKind::new("plain", "etcdutl snapshot restore", || EtcdSite::start(Vec::new())),
        RestoreKind::new("bumped", "with --bump-revision and --mark-compacted", || EtcdSite::start(bumped())),
    ]
}

/// The flags on the page that are neither about the data's place nor about the cluster.
pub(super) fn bumped() -> Vec<&'static str> {
    let line = PAGE.lines().find_map(|line| line.strip_prefix("$ etcdutl snapshot restore "));
    let flags = line.expect("the page has the command").split_whitespace();
    flags.filter(|flag| flag.starts_with("--bump-") || flag.starts_with("--mark-")).collect()
}

struct EtcdSite {
    store: EtcdStore,
    args: Vec<&'static str>,
    snapshot: Option<PathBuf>,
}

impl EtcdSite {
    async fn start(args: Vec<&'static str>) -> anyhow::Result<Self> {
        Ok(Self { store: EtcdStore::of_nodes(1).await?, args, snapshot: None })
    }
}

#[async_trait]
impl RestoreSite for EtcdSite {
    fn place(&self) -> Place {
        self.store.place()
    }

    fn link(&self) -> anyhow::Result<Option<(Link, Place)>> {
        self.store.link()
    }

    async fn back_up(&mut self) -> anyhow::Result<()> {
        self.snapshot = Some(self.store.cluster()?.snapshot().await?);
        Ok(())
    }

    async fn restore(&mut self) -> anyhow::Result<()> {
        let snapshot = self.snapshot.as_ref().context("it was backed up")?;
        self.store.cluster()?.restore_with(snapshot, ClusterId::Same, &self.args).await
    }
}
