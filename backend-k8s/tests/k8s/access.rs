//! Access to the cluster: the least RBAC, and tokens that change.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use lease_core::{Elector, ElectorBuilder, Leadership, LeaseName, WorkloadId};
use lease_k8s::K8s;
use lease_testbed::{ControlPlane, ControlPlaneOptions, wait_until};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// An elector under way; each of its terms comes out.
struct Candidate {
    terms: mpsc::UnboundedReceiver<Leadership>,
    stop: CancellationToken,
    ended: JoinHandle<anyhow::Result<()>>,
}

fn campaign(kubeconfig: &Path, lease: &LeaseName, workload: &str) -> anyhow::Result<Candidate> {
    candidate(kubeconfig, lease, workload, |builder| builder.ttl(TTL))
}

/// An elector whose term outlasts any restart of an API server on a busy machine, at the pace of a short one.
fn patient(kubeconfig: &Path, lease: &LeaseName, workload: &str) -> anyhow::Result<Candidate> {
    const SECOND: Duration = Duration::from_secs(1);
    candidate(kubeconfig, lease, workload, |builder| {
        builder.ttl(SECOND * 180).renew_every(SECOND * 2).retry_every(SECOND)
    })
}

fn candidate(
    kubeconfig: &Path,
    lease: &LeaseName,
    workload: &str,
    settings: fn(ElectorBuilder) -> ElectorBuilder,
) -> anyhow::Result<Candidate> {
    let connector = K8s::connector(config(kubeconfig));
    let elector = settings(Elector::builder(connector, lease.clone(), WorkloadId::new(workload)?)).build()?;
    let (stop, (sender, terms)) = (CancellationToken::new(), mpsc::unbounded_channel());
    let stopped = stop.clone().cancelled_owned();
    let ended = tokio::spawn(async move {
        let lead = |leadership: Leadership| {
            let sender = sender.clone();
            async move {
                let _ = sender.send(leadership.clone());
                leadership.stop_requested().await;
                anyhow::Ok(())
            }
        };
        elector.run_until(stopped, lead).await?;
        Ok(())
    });
    Ok(Candidate { terms, stop, ended })
}

impl Candidate {
    async fn leads(&mut self) -> anyhow::Result<Leadership> {
        let term = tokio::time::timeout(LIMIT, self.terms.recv()).await?;
        term.ok_or_else(|| anyhow::anyhow!("the elector ended"))
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.ended).await??
    }
}

/// Waits for an acknowledged renewal that was sent from now on.
async fn renewed_since(term: &Leadership) -> anyhow::Result<()> {
    let (before, began) = (term.remaining(), tokio::time::Instant::now());
    wait_until("a renewal", LIMIT, async || {
        !term.is_leader_now() || term.remaining() + began.elapsed() > before + Duration::from_millis(100)
    })
    .await?;
    ensure!(term.is_leader_now(), "the term was lost: {:?}", term.lost().await);
    Ok(())
}

#[tokio::test]
async fn the_least_rbac_is_enough_to_lead_to_watch_and_to_hand_over() -> anyhow::Result<()> {
    let (plane, lease) = (plane().await, name("the-only-one"));
    let verbs = ["get", "list", "watch", "update"];
    let rules = json!([{
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs, "resourceNames": [lease],
    }]);
    let worker = identity(plane, rules).await?;
    let admin = K8s::connect(config(plane.kubeconfig()).namespace(worker.namespace())?).await?;
    init(&admin, &lease).await?;

    let mut first = campaign(worker.kubeconfig(), &lease, "first")?;
    let term = first.leads().await?;
    let mut second = campaign(worker.kubeconfig(), &lease, "second")?;
    let watches = || {
        plane.audit().events().map(|events| {
            events.iter().filter(|event| event.user == worker.user() && event.verb == "watch").count()
        })
    };
    wait_until("both watch", LIMIT, async || watches().is_ok_and(|watches| watches >= 2)).await?;
    let released = tokio::time::Instant::now();
    first.stop().await?;
    let next = second.leads().await?;
    ensure!(released.elapsed() < TTL / 3, "the standby polled; it took {:?}", released.elapsed());
    ensure!(next.term().epoch > term.term().epoch);
    renewed_since(&next).await?;
    second.stop().await?;

    let events = plane.audit().events()?;
    let asked: Vec<_> = events.iter().filter(|event| event.user == worker.user()).collect();
    let beyond = asked.iter().find(|event| event.code >= 400 || !verbs.contains(&event.verb.as_str()));
    ensure!(beyond.is_none(), "{beyond:?}");
    Ok(())
}

/// The old token is refused from one moment on; the file has the new one.
#[tokio::test]
async fn a_rotated_token_costs_no_term() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("rotated"));
    init(&store.backend, &lease).await?;
    store.identity.write_token(&store.identity.revocable_token("first").await?)?;
    let mut candidate = patient(store.identity.kubeconfig(), &lease, "a")?;
    let term = candidate.leads().await?;
    store.identity.write_token(&store.identity.revocable_token("second").await?)?;
    store.identity.revoke("first").await?;
    // The API server believes the old one for up to ten seconds more; then it must be the new one that renews.
    let refused = || {
        store.plane.audit().events().map(|events| {
            let of_lease = |uri: &str| uri.contains(&format!("/{}/leases", store.identity.namespace()));
            events.iter().any(|event| event.code == 401 && of_lease(&event.uri))
        })
    };
    wait_until("the old token is refused", LIMIT, async || refused().is_ok_and(|refused| refused)).await?;
    renewed_since(&term).await?;
    candidate.stop().await
}

#[tokio::test]
async fn an_elector_keeps_its_term_over_a_restart_and_a_lost_etcd() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let (store, lease) = (store_on(&plane).await?, name("survivor"));
    init(&store.backend, &lease).await?;
    let mut candidate = patient(store.identity.kubeconfig(), &lease, "a")?;
    let term = candidate.leads().await?;
    renewed_since(&term).await?;
    plane.crash().await?;
    plane.start_again().await?;
    renewed_since(&term).await?;
    let etcd = &plane.etcd().members()[0];
    etcd.kill().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    etcd.start_again()?;
    renewed_since(&term).await?;
    candidate.stop().await
}
