//! An elector during a cluster's faults.

use std::time::Duration;

use crate::common::*;
use futures::StreamExt;
use lease_core::{Elector, Ended, Hint, Leadership, LeaseBackend, LeaseName, RunError, WorkloadId};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::{EtcdOptions, wait_for, wait_until};
use tokio::sync::{mpsc, oneshot};

struct Running {
    terms: mpsc::Receiver<Leadership>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<Ended, RunError<String>>>,
}

impl Running {
    fn start(endpoints: Vec<String>, lease: &LeaseName, holder: &str, ttl: Duration) -> anyhow::Result<Self> {
        // Renewed as often as a short term would be, so that a long one costs no time.
        let every = (ttl / 3).min(Duration::from_millis(500));
        let connector = Etcd::connector(EtcdConfig::new(endpoints)?);
        let builder = Elector::builder(connector, lease.clone(), WorkloadId::new(holder)?);
        let elector = builder.ttl(ttl).renew_every(every).retry_every(every * 2 / 5).build()?;
        let (began, terms) = mpsc::channel(8);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(elector.run_until(
            async move {
                let _ = stopped.await;
            },
            move |leadership| {
                let began = began.clone();
                async move {
                    let _ = began.send(leadership.clone()).await;
                    leadership.stop_requested().await;
                    Ok(())
                }
            },
        ));
        Ok(Self { terms, stop, task })
    }

    async fn leads(&mut self) -> anyhow::Result<Leadership> {
        let term = tokio::time::timeout(LIMIT, self.terms.recv()).await?;
        term.ok_or_else(|| anyhow::anyhow!("the elector has ended"))
    }

    async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(());
        assert_eq!(tokio::time::timeout(LIMIT, self.task).await???, Ended::Shutdown);
        Ok(())
    }
}

struct Fleet {
    etcd: lease_testbed::Etcd,
    backend: Etcd,
    lease: LeaseName,
}

async fn fleet() -> anyhow::Result<Fleet> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default().nodes(3)).await?;
    let backend = Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?;
    let lease = name("forwarder");
    init(&backend, &lease).await?;
    Ok(Fleet { etcd, backend, lease })
}

impl Fleet {
    /// Waits for the holder's next acknowledged beat.
    async fn beats(&self, term: &Leadership) -> anyhow::Result<()> {
        let beat = async || {
            let seen = self.backend.observe(&self.lease).await.ok()?;
            seen.record.filter(|record| record.term() == Some(term.term())).map(|record| record.beat)
        };
        let before =
            wait_for("the register is shown", LIMIT, async || beat().await.ok_or("another term")).await?;
        wait_until("the holder renews", LIMIT, async || beat().await.is_some_and(|now| now > before)).await
    }
}

/// L-9 as far as etcd lets it: an election takes less than the ttl.
#[tokio::test]
async fn the_term_outlasts_the_loss_of_the_leader_and_of_all_nodes() -> anyhow::Result<()> {
    let fleet = fleet().await?;
    let mut holder = Running::start(fleet.etcd.endpoints(), &fleet.lease, "a", Duration::from_secs(30))?;
    let term = holder.leads().await?;
    for fault in ["the leader is killed", "the leader is paused", "all nodes are killed"] {
        let leader = fleet.etcd.leader().await?;
        match fault {
            "the leader is killed" => leader.kill().await?,
            "the leader is paused" => leader.pause().await?,
            _ => {
                fleet.etcd.kill_all().await?;
                fleet.etcd.start_all()?;
            }
        }
        fleet.beats(&term).await.map_err(|error| error.context(fault))?;
        assert!(term.is_leader_now(), "{fault}");
        match fault {
            "the leader is killed" => leader.start_again()?,
            "the leader is paused" => leader.resume()?,
            _ => {}
        }
        fleet.etcd.ready().await?;
    }
    holder.stop().await?;
    let free = fleet.backend.observe(&fleet.lease).await?;
    assert_eq!(
        (free.grant(), record(&free).epoch),
        (None, term.term().epoch),
        "one term, and it was released"
    );
    Ok(())
}

/// Counted by etcd itself: a renewal is one Txn, and a standby with a live watch reads once a renew interval at most.
#[tokio::test]
async fn a_renewal_costs_one_txn_and_a_standby_next_to_nothing() -> anyhow::Result<()> {
    const BEATS: u64 = 12;
    let ttl = Duration::from_secs(15);
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default()).await?;
    let backend = Etcd::connect(EtcdConfig::new(etcd.endpoints())?).await?;
    let lease = name("counted");
    init(&backend, &lease).await?;
    let mut holder = Running::start(etcd.endpoints(), &lease, "a", ttl)?;
    let term = holder.leads().await?;
    let standby = Running::start(etcd.endpoints(), &lease, "b", ttl)?;
    let mut hints = backend.watch("").await?;
    let mut beat = async |least: u64| loop {
        let hint = tokio::time::timeout(LIMIT, hints.next()).await?;
        let Some(Hint::Shows(_, seen)) = hint else { anyhow::bail!("nothing is shown: {hint:?}") };
        assert_eq!(record(&seen).term(), Some(term.term()));
        if record(&seen).beat >= least {
            return Ok(record(&seen).beat);
        }
    };
    let node = &etcd.members()[0];
    let calls = async |method: &str| {
        let sample = format!("grpc_server_handled_total{{grpc_code=\"OK\",grpc_method=\"{method}\"");
        anyhow::Ok(node.metric(&sample).await? as u64)
    };
    // The standby has settled.
    let first = beat(4).await?;
    let (txns, reads) = (calls("Txn").await?, calls("Range").await?);
    let beats = beat(first + BEATS).await? - first;
    let (txns, reads) = (calls("Txn").await? - txns, calls("Range").await? - reads);
    // The last beat is shown before it is counted, or some more are counted before we look.
    assert!(txns.abs_diff(beats) <= BEATS / 4, "{txns} Txns for {beats} beats");
    assert!(reads <= beats + BEATS / 4, "{reads} reads by a standby in {beats} renew intervals");
    standby.stop().await?;
    holder.stop().await
}

/// L-6: false before the successor leads, though the holder's node answers and calls itself the leader.
#[tokio::test]
async fn a_holder_in_a_minority_ends_before_its_successor_leads() -> anyhow::Result<()> {
    let fleet = fleet().await?;
    let ttl = Duration::from_secs(3);
    let alone = fleet.etcd.leader().await?;
    let others = fleet.etcd.members().iter().filter(|member| member.name() != alone.name());
    let others = others.map(|member| member.endpoint()).collect();
    let mut holder = Running::start(vec![alone.endpoint()], &fleet.lease, "a", ttl)?;
    let old = holder.leads().await?;
    let mut standby = Running::start(others, &fleet.lease, "b", ttl)?;
    fleet.beats(&old).await?;
    fleet.etcd.isolate(alone);
    let new = standby.leads().await?;
    assert!(!old.is_leader_now(), "two lead");
    assert!(new.term().epoch > old.term().epoch);
    old.lost().await;

    fleet.etcd.heal();
    fleet.etcd.ready().await?;
    fleet.beats(&new).await?;
    assert!(new.is_leader_now() && !old.is_leader_now());
    standby.stop().await?;
    let next = holder.leads().await?;
    assert!(next.term().epoch > new.term().epoch, "the old holder is a candidate like any other");
    holder.stop().await
}
