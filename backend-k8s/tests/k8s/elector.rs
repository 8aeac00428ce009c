//! The cost of electors for the API server.

use std::time::Duration;

use crate::common::*;
use futures::StreamExt;
use lease_core::{Elector, Ended, Hint, LeaseBackend, LeaseName, RunError, WorkloadId};
use lease_k8s::K8s;
use lease_testbed::Identity;
use tokio_util::sync::CancellationToken;

fn campaigns(
    identity: &Identity,
    lease: &LeaseName,
    stop: &CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<Result<Ended, RunError<String>>>> {
    let connector = K8s::connector(config(identity.kubeconfig()));
    let elector = Elector::builder(connector, lease.clone(), WorkloadId::new(identity.user())?)
        .ttl(Duration::from_secs(15))
        .renew_every(Duration::from_millis(700))
        .retry_every(Duration::from_millis(300))
        .build()?;
    Ok(tokio::spawn(elector.run_until(stop.clone().cancelled_owned(), |leadership| async move {
        leadership.stop_requested().await;
        Ok(())
    })))
}

/// Counted by the API server itself: a renewal is one PUT, and a standby with a live watch reads once a renew interval
/// at most.
#[tokio::test]
async fn a_renewal_costs_one_put_and_a_standby_next_to_nothing() -> anyhow::Result<()> {
    const BEATS: u64 = 8;
    let (store, lease, stop) = (store().await?, name("counted"), CancellationToken::new());
    let namespace = store.identity.namespace();
    let holder = store.plane.access().create_identity(namespace, "holder", rules()).await?;
    let standby = store.plane.access().create_identity(namespace, "standby", rules()).await?;
    init(&store.backend, &lease).await?;
    let mut hints = store.backend.watch(lease.as_str()).await?;
    let mut beat = async |least: u64| loop {
        let hint = tokio::time::timeout(LIMIT, hints.next()).await?;
        let Some(Hint::Shows(_, seen)) = hint else { anyhow::bail!("nothing is shown: {hint:?}") };
        if seen.grant().is_some() && record(&seen).beat >= least {
            return Ok(record(&seen).beat);
        }
    };
    let asked = |who: &Identity, verb: &str| {
        let events = store.plane.audit().events()?;
        let theirs = events.iter().filter(|event| event.user == who.user() && event.verb == verb);
        anyhow::Ok(theirs.count() as u64)
    };
    let first = campaigns(&holder, &lease, &stop)?;
    beat(1).await?;
    let second = campaigns(&standby, &lease, &stop)?;
    // The standby has settled.
    let began = beat(4).await?;
    let counts = || anyhow::Ok([asked(&holder, "update")?, asked(&holder, "get")?, asked(&standby, "get")?]);
    let before = counts()?;
    let beats = beat(began + BEATS).await? - began;
    let after = counts()?;
    let [puts, own_reads, reads] = std::array::from_fn(|index| after[index] - before[index]);
    // The last beat is shown before it is counted, or some more are counted before we look.
    assert!(puts.abs_diff(beats) <= BEATS / 4, "{puts} PUTs for {beats} beats");
    assert_eq!(own_reads, 0, "a holder reads nothing while its writes are answered");
    assert!(reads <= beats + BEATS / 4, "{reads} reads by a standby in {beats} renew intervals");
    assert_eq!(asked(&standby, "update")?, 0);
    stop.cancel();
    for task in [first, second] {
        assert_eq!(tokio::time::timeout(LIMIT, task).await???, Ended::Shutdown);
    }
    Ok(())
}
