//! A store that is started for one round, the backup of it, and the way in which that is restored.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_stores::{Link, Place};

type Started = anyhow::Result<Box<dyn RestoreSite>>;

/// One way to restore a store.
#[derive(Clone)]
pub(super) struct RestoreKind {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// The backup is older than the registers, so that they are gone after the restore.
    pub(super) loses_registers: bool,
    /// Every process that has the store open ends by it, so that all that act afterwards have seen nothing.
    pub(super) ends_processes: bool,
    start: Arc<dyn Fn() -> BoxFuture<'static, Started> + Send + Sync>,
}

/// The store of one round. Dropping it ends its servers.
#[async_trait]
pub(super) trait RestoreSite: Send + Sync {
    /// Without proxies of single clients.
    fn place(&self) -> Place;

    /// For one client, as [`TestStore::link`](lease_stores::TestStore::link).
    fn link(&self) -> anyhow::Result<Option<(Link, Place)>>;

    async fn back_up(&mut self) -> anyhow::Result<()>;

    /// Restores the backup, as an operator does who leaves the fleet as it is.
    async fn restore(&mut self) -> anyhow::Result<()>;
}

impl RestoreKind {
    pub(super) fn new<S, F>(
        name: &'static str,
        about: &'static str,
        start: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        S: RestoreSite + 'static,
        F: Future<Output = anyhow::Result<S>> + Send + 'static,
    {
        let start = move || -> BoxFuture<'static, Started> {
            let site = start();
            Box::pin(async move { Ok(Box::new(site.await?) as Box<dyn RestoreSite>) })
        };
        Self { name, about, loses_registers: false, ends_processes: false, start: Arc::new(start) }
    }

    pub(super) async fn start(&self) -> Started {
        (self.start)().await
    }
}
