//! What is done to the store of a run, and what an observer sees of it.

use std::collections::BTreeMap;
use std::time::Duration;

use lease_core::LeaseName;
use lease_testbed::{ControlPlane, Etcd, Postgres, Process};
use tokio_util::sync::CancellationToken;

use super::plan::{StoreFault, StorePlan};
use crate::arena::{Arena, Server};
use crate::judge::Sighting;
use crate::trace::{Nanos, now};

/// Breaks the store by plan until the run has seen enough. Returns which faults, from when to when.
pub(super) async fn break_by(
    arena: &Arena,
    plan: StorePlan,
    enough: &CancellationToken,
) -> anyhow::Result<Vec<(StoreFault, Nanos, Nanos)>> {
    let mut faults = Vec::new();
    for step in plan {
        tokio::select! {
            () = enough.cancelled() => break,
            () = tokio::time::sleep(step.calm) => {}
        }
        let from = now();
        inject(arena, step.fault, step.chance).await?;
        faults.push((step.fault, from, now()));
    }
    Ok(faults)
}

async fn inject(arena: &Arena, fault: StoreFault, chance: f64) -> anyhow::Result<()> {
    match (fault, &arena.server) {
        (StoreFault::LockLeases(span), _) => lock(arena, &arena.store.leases, span).await,
        (StoreFault::LockEffects(span), _) => lock(arena, &arena.store.effects, span).await,
        (_, Some(Server::Postgres(server))) => break_postgres(server, fault, chance).await,
        (_, Some(Server::Etcd(cluster))) => break_etcd(cluster, fault, chance).await,
        (_, Some(Server::K8s(server))) => break_kubernetes(&server.0, fault, chance).await,
        (_, None) => Ok(()),
    }
}

/// How long a killed server stays away at most.
const AWAY: Duration = Duration::from_millis(500);

async fn break_postgres(server: &Postgres, fault: StoreFault, chance: f64) -> anyhow::Result<()> {
    if fault == StoreFault::Restart {
        return server.restart().await;
    }
    server.crash().await?;
    tokio::time::sleep(AWAY.mul_f64(chance)).await;
    server.start_again().await
}

async fn break_etcd(cluster: &Etcd, fault: StoreFault, chance: f64) -> anyhow::Result<()> {
    let leader = cluster.leader().await?;
    match fault {
        StoreFault::PauseNode(span) => {
            leader.pause().await?;
            tokio::time::sleep(span).await;
            leader.resume()?;
        }
        StoreFault::IsolateNode(span) => {
            cluster.isolate(leader);
            tokio::time::sleep(span).await;
            cluster.heal();
        }
        StoreFault::KillNode => {
            leader.kill().await?;
            tokio::time::sleep(AWAY.mul_f64(chance)).await;
            leader.start_again()?;
        }
        _ => {
            cluster.kill_all().await?;
            tokio::time::sleep(AWAY.mul_f64(chance)).await;
            cluster.start_all()?;
        }
    }
    cluster.ready().await
}

async fn break_kubernetes(plane: &ControlPlane, fault: StoreFault, chance: f64) -> anyhow::Result<()> {
    match fault {
        StoreFault::PauseNode(span) => {
            plane.pause().await?;
            tokio::time::sleep(span).await;
            plane.resume()
        }
        StoreFault::KillNode => {
            let etcd = &plane.etcd().members()[0];
            etcd.kill().await?;
            tokio::time::sleep(AWAY.mul_f64(chance)).await;
            etcd.start_again()?;
            etcd.ready().await
        }
        StoreFault::Restart => plane.restart().await,
        _ => {
            plane.crash().await?;
            tokio::time::sleep(AWAY.mul_f64(chance)).await;
            plane.start_again().await
        }
    }
}

async fn lock(arena: &Arena, file: &str, span: Duration) -> anyhow::Result<()> {
    let millis = span.as_millis().to_string();
    let outsider = Process::command(&arena.program)?;
    let outsider = outsider.args(["hold-lock", "--file", file, "--for-ms", &millis]).spawn()?;
    outsider.wait(span + Duration::from_secs(30)).await?;
    Ok(())
}

/// Looks at every register, one read after the other, until the run has seen enough.
pub(super) async fn observe(
    arena: &Arena,
    leases: &[LeaseName],
    enough: &CancellationToken,
) -> anyhow::Result<BTreeMap<LeaseName, Vec<Sighting>>> {
    let mut sightings = BTreeMap::<LeaseName, Vec<Sighting>>::new();
    let backend = arena.store.connector()?.connect().await?;
    while !enough.is_cancelled() {
        for name in leases {
            // The store may be down: that is part of the run.
            let Ok(seen) = backend.observe(name).await else { continue };
            let Some(record) = seen.record else { continue };
            let seen = Sighting { at: now(), epoch: record.epoch, grant: record.grant, beat: record.beat };
            let of_lease = sightings.entry(name.clone()).or_default();
            if of_lease.last().is_none_or(|last| Sighting { at: seen.at, ..last.clone() } != seen) {
                of_lease.push(seen);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(sightings)
}
