//! The watch shows the register, and survives what etcd does to watches.

use std::time::Duration;

use crate::common::*;
use futures::StreamExt;
use lease_core::{Change, Hint, Hints, LeaseBackend, LeaseName, Observation};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::{Direction, EtcdOptions, Flow, Proxy};

async fn next(hints: &mut Hints) -> anyhow::Result<Option<Hint>> {
    Ok(tokio::time::timeout(LIMIT, hints.next()).await?)
}

async fn shown(hints: &mut Hints) -> anyhow::Result<(LeaseName, Observation)> {
    match next(hints).await? {
        Some(Hint::Shows(lease, observation)) => Ok((lease, observation)),
        other => anyhow::bail!("nothing is shown: {other:?}"),
    }
}

#[tokio::test]
async fn shows_each_write_fit_for_a_put() -> anyhow::Result<()> {
    let store = store().await?;
    let (lease, backend) = (name("shown"), &store.backend);
    let mut hints = backend.watch("sh").await?;
    let made = init(backend, &lease).await?;
    init(backend, &name("other")).await?;
    let mut seen = shown(&mut hints).await?;
    assert_eq!(seen, (lease.clone(), made));
    for change in [Change::Acquire, Change::Renew, Change::Release] {
        let record = match change {
            Change::Acquire => acquired(&seen.1, "a"),
            Change::Renew => renewed(&seen.1),
            _ => released(&seen.1),
        };
        // On what the watch showed, without a look.
        let wrote = written(backend.put_if(&lease, &seen.1, &record, change).await?);
        seen = shown(&mut hints).await?;
        assert_eq!(seen, (lease.clone(), wrote), "after {change:?}");
    }
    store.cluster.ctl(&["del", "--prefix", &store.key(&lease, "")]).await?;
    assert_eq!(next(&mut hints).await?, Some(Hint::Changed), "a deletion");
    Ok(())
}

#[tokio::test]
async fn goes_on_after_a_compaction() -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default()).await?;
    let backend = Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?;
    let lease = name("compacted");
    let mut seen = held(&backend, &lease).await?;
    let mut hints = backend.watch("").await?;
    for _ in 0..3 {
        seen = renew(&backend, &lease, &seen).await?;
        assert_eq!(shown(&mut hints).await?.1, seen);
        etcd.compact().await?;
    }
    Ok(())
}

/// etcd cancels a watch whose next revision has been compacted: it ends, and another is well.
#[tokio::test]
async fn ends_when_it_fell_behind_a_compaction() -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default()).await?;
    let config = EtcdConfig::new(etcd.endpoints())?;
    let backend = Etcd::connect(config).await?;
    let lease = name("behind");
    let mut seen = held(&backend, &lease).await?;
    let proxy = Proxy::tcp(etcd.members()[0].addr())?;
    let slow = Etcd::connect(EtcdConfig::new([format!("http://{}", proxy.addr())])?).await?;
    let mut hints = slow.watch("").await?;
    proxy.set_flow(Direction::ToClient, Flow::Stall);
    // More than etcd and the kernel keep for a client that doesn't read: each beat is as long as a record gets.
    let mut long = record(&seen).clone();
    long.note = "x".repeat(40_000);
    for _ in 0..400 {
        long = lease_core::Record { tag: lease_core::Tag::random(), ..long };
        seen = written(backend.put_if(&lease, &seen, &long, Change::Request).await?);
    }
    etcd.compact().await?;
    proxy.set_flow(Direction::ToClient, Flow::Pass);
    let mut last = None;
    while let Some(hint) = next(&mut hints).await? {
        last = Some(hint);
    }
    assert!(!matches!(last, Some(Hint::Shows(_, last)) if last == seen), "it did not fall behind");
    let mut hints = slow.watch("").await?;
    let beat = renew(&backend, &lease, &seen).await?;
    assert_eq!(shown(&mut hints).await?.1, beat);
    Ok(())
}

#[tokio::test]
async fn ends_when_its_connection_does() -> anyhow::Result<()> {
    let store = store().await?;
    let proxy = Proxy::tcp(store.cluster.members()[0].addr())?;
    let config = EtcdConfig::new([format!("http://{}", proxy.addr())])?.prefix(&store.prefix)?;
    let backend = Etcd::connect(config).await?;
    let mut hints = backend.watch("").await?;
    proxy.cut().await;
    assert_eq!(next(&mut hints).await?, None);
    // Half-open: nothing says that the connection is dead but the missing sign of life.
    let mut hints = backend.watch("").await?;
    proxy.drop_all();
    let ended = tokio::time::timeout(Duration::from_secs(30), hints.next()).await?;
    assert_eq!(ended, None);
    Ok(())
}
