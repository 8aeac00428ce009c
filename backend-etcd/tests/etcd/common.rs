//! Shared by the tests: one node per test binary, and a prefix of its own for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lease_core::LeaseName;
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::EtcdOptions;
use tokio::sync::OnceCell;

pub(crate) use lease_conformance::by_hand::*;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The node shared by tests that do not disturb it.
pub(crate) async fn node() -> &'static lease_testbed::Etcd {
    static NODE: OnceCell<lease_testbed::Etcd> = OnceCell::const_new();
    let start = async || lease_testbed::Etcd::start(EtcdOptions::default()).await;
    NODE.get_or_init(async || start().await.expect("etcd starts")).await
}

/// A store below a prefix of its own.
pub(crate) struct Store {
    pub(crate) cluster: &'static lease_testbed::Etcd,
    pub(crate) prefix: String,
    pub(crate) config: EtcdConfig,
    pub(crate) backend: Etcd,
}

/// A fresh store on the shared node.
pub(crate) async fn store() -> anyhow::Result<Store> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let cluster = node().await;
    let prefix = format!("/test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let config = EtcdConfig::new(cluster.endpoints())?.prefix(&prefix)?;
    let backend = Etcd::connect(config.clone()).await?;
    Ok(Store { cluster, prefix, config, backend })
}

impl Store {
    /// The key of a part of a lease.
    pub(crate) fn key(&self, lease: &LeaseName, part: &str) -> String {
        format!("{}/leases/{lease}/{part}", self.prefix)
    }

    /// A key's value, empty if there is none.
    pub(crate) async fn value(&self, key: &str) -> anyhow::Result<String> {
        self.cluster.ctl(&["get", "--print-value-only", key]).await
    }
}
