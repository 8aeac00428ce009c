//! Calls that are under way while a cluster loses its leader.

use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use lease_core::{Certainty, Change, LeaseBackend, LeaseName, Observation, PutOutcome, Record, Tag};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::{EtcdOptions, Proxy, wait_for};

/// A write that is acknowledged, on whatever is there.
async fn settle(backend: &Etcd, lease: &LeaseName) -> anyhow::Result<(Observation, Observation)> {
    wait_for("a write is acknowledged", LIMIT, async || {
        let found = backend.observe(lease).await.map_err(|error| error.to_string())?;
        let next = Record { tag: Tag::random(), ..record(&found).clone() };
        match backend.put_if(lease, &found, &next, Change::Request).await {
            Ok(PutOutcome::Written(wrote)) => Ok((found, wrote)),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Each write reaches a node at the very moment when the cluster's leader is gone.
async fn leader_falls(pause: bool) -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default().nodes(3)).await?;
    let backend = Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?;
    for (number, (change, by_leader)) in
        [(Change::Acquire, true), (Change::Acquire, false), (Change::Renew, true), (Change::Renew, false)]
            .into_iter()
            .enumerate()
    {
        let lease = name(&format!("falls-{number}"));
        let case = format!("{change:?}, at the leader: {by_leader}");
        let free = init(&backend, &lease).await?;
        let (before, write) = match change {
            Change::Acquire => (free.clone(), acquired(&free, "a")),
            _ => {
                let held = acquire(&backend, &lease, &free, "a").await?;
                (held.clone(), renewed(&held))
            }
        };
        let leader = etcd.leader().await?;
        let other = etcd.members().iter().find(|member| member.name() != leader.name()).expect("three");
        let proxy = Proxy::grpc(if by_leader { leader.addr() } else { other.addr() })?;
        let config = EtcdConfig::new([format!("http://{}", proxy.addr())])?;
        let writer = Arc::new(Etcd::connect(config.call_timeout(Duration::from_secs(3))?).await?);
        let mut hold = proxy.hold(|request| request.calls("KV/Txn"));
        let under_way = {
            let (writer, lease, before, write) =
                (writer.clone(), lease.clone(), before.clone(), write.clone());
            tokio::spawn(async move { writer.put_if(&lease, &before, &write, change).await })
        };
        hold.held().await?;
        if pause {
            leader.pause().await?
        } else {
            leader.kill().await?
        }
        hold.release();
        let outcome = under_way.await?;

        let (found, settled) = settle(&backend, &lease).await?;
        let (found, was, would_be) = (record(&found).tag, record(&before).tag, write.tag);
        assert!([was, would_be].contains(&found), "{case}: half a write");
        match &outcome {
            Ok(PutOutcome::Written(_)) => {
                assert_eq!(found, would_be, "{case}: an acknowledged write is gone")
            }
            Ok(PutOutcome::Conflict(shown)) => panic!("{case}: nobody else wrote, but {shown:?}"),
            Err(error) if error.certainty == Certainty::NotApplied => {
                assert_eq!(found, was, "{case}: {error}, but it was applied");
            }
            Err(_) => {}
        }
        if pause {
            leader.resume()?
        } else {
            leader.start_again()?
        }
        etcd.ready().await?;
        // A write that the old leader still holds is late now: it compares, and changes nothing.
        settle(&backend, &name("falls-0")).await?;
        if number != 0 {
            assert_eq!(
                backend.observe(&lease).await?.record,
                settled.record,
                "{case}: a late write was applied"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_write_under_way_while_the_leader_is_killed_is_whole_or_absent_and_never_late() -> anyhow::Result<()>
{
    leader_falls(false).await
}

#[tokio::test]
async fn a_write_under_way_while_the_leader_is_paused_is_whole_or_absent_and_never_late() -> anyhow::Result<()>
{
    leader_falls(true).await
}

#[tokio::test]
async fn a_minority_acknowledges_nothing_and_shows_nothing() -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default().nodes(3)).await?;
    let backend = Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?;
    let lease = name("minority");
    let seen = held(&backend, &lease).await?;
    let alone = etcd.leader().await?;
    let limit = Duration::from_secs(2);
    let minority = Etcd::connect(EtcdConfig::new([alone.endpoint()])?.call_timeout(limit)?).await?;
    etcd.isolate(alone);
    let error = minority.put_if(&lease, &seen, &renewed(&seen), Change::Renew).await.expect_err("a minority");
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    minority.observe(&lease).await.expect_err("what a minority knows may be old");
    // The same addresses, one of them the minority's: whoever opens a connection finds the majority.
    let (_, wrote) = settle(&Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?, &lease).await?;
    etcd.heal();
    etcd.ready().await?;
    let again =
        wait_for("the minority's node serves again", LIMIT, async || minority.observe(&lease).await).await?;
    assert_eq!(again.record, wrote.record, "a write of the minority came back");
    Ok(())
}
