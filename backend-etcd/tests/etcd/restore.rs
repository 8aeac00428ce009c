//! A cluster that was restored from a backup, under its old id or another.

use crate::common::*;
use lease_core::{Change, LeaseBackend};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::{ClusterId, EtcdOptions};

async fn restored(id: ClusterId) -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default()).await?;
    let backend = Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?;
    let lease = name("restored");
    let first = held(&backend, &lease).await?;
    let snapshot = etcd.snapshot().await?;
    let second = acquire(&backend, &lease, &release(&backend, &lease, &first).await?, "b").await?;
    etcd.restore(&snapshot, id).await?;

    // The newest acquisition is gone. Nobody's compare holds: not its holder's, and not that of the term before, whose
    // tag is the register's again.
    for (whose, seen) in [("the second", &second), ("the first", &first)] {
        let shown = loop {
            // Its connection has ended: that costs one call at most.
            match backend.put_if(&lease, seen, &renewed(seen), Change::Renew).await {
                Ok(outcome) => break conflict(outcome),
                Err(error) => eprintln!("{whose}: {error}"),
            }
        };
        assert_eq!(shown.record, first.record, "{whose}");
        // To a candidate this is another lineage: free registers are waited out, too (T-3).
        assert_ne!(shown.lineage, first.lineage, "{whose}");
    }
    let now = backend.observe(&lease).await?;
    assert_ne!(now.lineage, record(&now).lineage);
    let third = acquire(&backend, &lease, &now, "c").await?;
    assert_eq!(record(&third).lineage, third.lineage);
    renew(&backend, &lease, &third).await?;
    Ok(())
}

#[tokio::test]
async fn under_another_id_it_is_another_lineage() -> anyhow::Result<()> {
    restored(ClusterId::New).await
}

#[tokio::test]
async fn under_the_same_id_it_is_another_lineage_to_whoever_saw_more() -> anyhow::Result<()> {
    restored(ClusterId::Same).await
}
