//! A cluster that was restored from a backup, under its old id or another.

use crate::common::*;
use lease_core::internal::deadline::{Claim, Seen, Sighting, lengthened};
use lease_core::{Change, Clock, LeaseBackend, Observation};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::{ClusterId, EtcdOptions, wait_for};

/// A register that was free in the backup and is held, and the free one.
struct Restored {
    backend: Etcd,
    lease: lease_core::LeaseName,
    free: Observation,
    held: Observation,
    /// What a candidate has seen before.
    sighting: Sighting,
    _etcd: lease_testbed::Etcd,
}

async fn restored(id: ClusterId) -> anyhow::Result<Restored> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default()).await?;
    let backend = Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?;
    let lease = name("restored");
    let free = init(&backend, &lease).await?;
    let snapshot = etcd.snapshot().await?;
    let held = acquire(&backend, &lease, &free, "a").await?;
    let sighting = Sighting::new(backend.observe(&lease).await?, Clock::boot().now());
    etcd.restore(&snapshot, id).await?;
    Ok(Restored { backend, lease, free, held, sighting, _etcd: etcd })
}

impl Restored {
    /// Its connection has ended: that costs one call at most.
    async fn observe(&self) -> anyhow::Result<Observation> {
        wait_for("the restored cluster answers", LIMIT, async || self.backend.observe(&self.lease).await)
            .await
    }
}

#[tokio::test]
async fn under_another_id_it_is_another_lineage_and_no_earlier_compare_holds() -> anyhow::Result<()> {
    let Restored { backend, lease, free, held, .. } = &restored(ClusterId::New).await?;
    for seen in [held, free] {
        let shown = wait_for("the restored cluster answers", LIMIT, async || {
            backend.put_if(lease, seen, &renewed(seen), Change::Renew).await
        });
        let shown = conflict(shown.await?);
        assert_eq!(shown.record, free.record);
        assert_ne!(shown.lineage, free.lineage, "free registers are waited out, too (T-3)");
    }
    Ok(())
}

/// Its revisions go back, and so does the record.
#[tokio::test]
async fn under_the_same_id_whoever_saw_more_waits_and_goes_on_above_it() -> anyhow::Result<()> {
    let mut restored = restored(ClusterId::Same).await?;
    let shown = restored.observe().await?;
    assert_eq!((&shown.record, &shown.lineage), (&restored.free.record, &restored.free.lineage));
    assert!(shown.floor < restored.held.floor, "{} after {}", shown.floor, restored.held.floor);
    let (lost, now) = (restored.sighting.known(), Clock::boot().now());
    assert_eq!(restored.sighting.read(lost, shown, now), Seen::Rewound(lost));
    assert_eq!(restored.sighting.claim(TTL, TTL, false), Claim::At(now.plus(lengthened(TTL))));

    // Acquired above what was lost, in a cluster whose own revisions are below it.
    let next = acquire(&restored.backend, &restored.lease, restored.sighting.observation(), "c").await?;
    assert!(record(&next).epoch > record(&restored.held).epoch.max(restored.held.floor));
    Ok(())
}

/// The register is as it was seen last; other keys tell.
#[tokio::test]
async fn revisions_that_go_back_tell_of_a_restore_to_the_very_beat_that_was_seen() -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default()).await?;
    let backend = Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?;
    let held = held(&backend, &name("restored")).await?;
    let snapshot = etcd.snapshot().await?;
    init(&backend, &name("another")).await?;
    let mut sighting = Sighting::new(backend.observe(&name("restored")).await?, Clock::boot().now());
    etcd.restore(&snapshot, ClusterId::Same).await?;
    let shown =
        wait_for("the restored cluster answers", LIMIT, async || backend.observe(&name("restored")).await);
    let (shown, lost) = (shown.await?, sighting.known());
    assert_eq!(shown.record, held.record);
    assert_eq!(sighting.read(lost, shown, Clock::boot().now()), Seen::Rewound(lost));
    Ok(())
}
