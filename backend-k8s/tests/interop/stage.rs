//! A cluster, one Lease, and candidates of both sides on it; at the end their stories are compared.

use std::env;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use lease_core::{Clock, LeaseBackend, LeaseName, Record, admin};
use lease_k8s::{K8s, K8sConfig};
use lease_testbed::{
    ControlPlane, ControlPlaneOptions, Identity, Process, Signal, client_go_candidate, wait_for, wait_until,
};
use serde_json::json;

use crate::actor;

/// Of both sides.
pub(crate) const LEASE_SECS: u64 = 5;

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    _plane: ControlPlane,
    identity: Identity,
    candidate: PathBuf,
}

impl Cluster {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let candidate = client_go_candidate().await?;
        let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
        plane.access().create_namespace("interop").await?;
        let verbs = ["get", "list", "watch", "create", "update"];
        let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]);
        let identity = plane.access().create_identity("interop", "candidate", rules).await?;
        Ok(Self { _plane: plane, identity, candidate })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    ClientGo,
}

/// One candidate that was started, and until when it may have led: its death, or the order to end.
struct Played {
    side: Side,
    process: Arc<Process>,
    over_at: Option<u64>,
}

pub(crate) struct Stage {
    cluster: Arc<Cluster>,
    lease: LeaseName,
    backend: K8s,
    played: Mutex<Vec<Played>>,
}

fn now_ms() -> u64 {
    Clock::boot().now().0 / 1_000_000
}

/// The number at the end of a line.
fn stamp(line: &str) -> anyhow::Result<u64> {
    line.rsplit(' ')
        .next()
        .and_then(|stamp| stamp.parse().ok())
        .with_context(|| format!("no time in {line:?}"))
}

impl Stage {
    pub(crate) async fn new(cluster: Arc<Cluster>, name: &str) -> anyhow::Result<Self> {
        let lease = LeaseName::new(name.replace('_', "-"))?;
        let backend = K8s::connect(K8sConfig::kubeconfig(Some(cluster.identity.kubeconfig().into()))).await?;
        Ok(Self { cluster, lease, backend, played: Mutex::default() })
    }

    /// Creates the Lease, free. Without it client-go's side creates it.
    pub(crate) async fn init(&self) -> anyhow::Result<()> {
        let how = admin::Init { new: true, above: 0, max_ttl: Duration::from_secs(LEASE_SECS) };
        admin::init(&self.backend, &self.lease, how).await?;
        Ok(())
    }

    pub(crate) async fn record(&self) -> anyhow::Result<Record> {
        self.backend.observe(&self.lease).await?.record.context("there is no Lease")
    }

    pub(crate) fn start(&self, side: Side) -> anyhow::Result<Arc<Process>> {
        let mut played = self.played.lock().expect("not poisoned");
        let identity = &self.cluster.identity;
        let command = match side {
            Side::Ours => Process::command(env::current_exe()?)?
                .env(actor::LEASE, self.lease.as_str())
                .env(actor::KUBECONFIG, identity.kubeconfig())
                .env(actor::TTL_SECS, LEASE_SECS.to_string()),
            Side::ClientGo => Process::command(&self.cluster.candidate)?
                .arg(format!("-kubeconfig={}", identity.kubeconfig().display()))
                .arg(format!("-namespace={}", identity.namespace()))
                .arg(format!("-lease={}", self.lease))
                .arg(format!("-identity=client-go-{}", played.len()))
                .arg(format!("-lease-duration={LEASE_SECS}s")),
        };
        let process = Arc::new(command.spawn()?);
        played.push(Played { side, process: process.clone(), over_at: None });
        Ok(process)
    }

    /// Waits until it leads for the first time; when that was.
    pub(crate) async fn leads(&self, process: &Process) -> anyhow::Result<u64> {
        stamp(&process.wait_for_line("leads ", LIMIT).await?)
    }

    /// Waits until it begins another term than these many.
    pub(crate) async fn leads_after(&self, terms: usize, process: &Process) -> anyhow::Result<u64> {
        let next = || process.lines().into_iter().filter(|line| line.starts_with("leads ")).nth(terms);
        stamp(&wait_for("it leads again", LIMIT, async || next().ok_or("no further term")).await?)
    }

    /// The number of terms that it has begun.
    pub(crate) fn terms(&self, process: &Process) -> usize {
        process.lines().iter().filter(|line| line.starts_with("leads ")).count()
    }

    /// Waits until it has surely seen the Lease as it is.
    pub(crate) async fn looks(&self, process: &Process) -> anyhow::Result<()> {
        process.wait_for_line("candidate", LIMIT).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// SIGKILL; when it was sent.
    pub(crate) async fn kill(&self, process: &Process) -> anyhow::Result<u64> {
        let at = now_ms();
        process.kill().await?;
        self.over(process, now_ms());
        Ok(at)
    }

    /// SIGTERM; when it was sent. Returns when it has ended.
    pub(crate) async fn stop(&self, process: &Process) -> anyhow::Result<u64> {
        let at = now_ms();
        process.signal(Signal::TERM)?;
        // client-go gives the lease up as soon as it hears this, not when its work has ended.
        self.over(process, at);
        process.wait(LIMIT).await?;
        Ok(at)
    }

    fn over(&self, process: &Process, at: u64) {
        let mut played = self.played.lock().expect("not poisoned");
        let played = played.iter_mut().find(|played| std::ptr::eq(&*played.process, process));
        if let Some(played) = played {
            played.over_at.get_or_insert(at);
        }
    }

    /// Which of them leads now.
    pub(crate) async fn leader_among(&self, fleet: &[(Side, Arc<Process>)]) -> anyhow::Result<usize> {
        // The one that began last: a process that was woken just now may not have said yet that its term is over.
        let leads_since = |process: &Process| {
            let lines = process.lines();
            let last = lines.iter().rfind(|line| line.starts_with("leads ") || line.starts_with("ended"))?;
            let leads = process.exit_status().is_none() && last.starts_with("leads ");
            leads.then(|| stamp(last).ok()).flatten()
        };
        let leader = || {
            let leaders = fleet.iter().enumerate();
            let leaders = leaders.filter_map(|(index, (_, process))| Some((leads_since(process)?, index)));
            leaders.max().map(|(_, index)| index)
        };
        wait_for("somebody leads", LIMIT, async || leader().ok_or("nobody does")).await
    }

    /// Waits until somebody else than the stopped one has begun a term.
    pub(crate) async fn another_than(
        &self,
        stopped: usize,
        fleet: &[(Side, Arc<Process>)],
    ) -> anyhow::Result<()> {
        let others = || fleet.iter().enumerate().filter(|(index, _)| *index != stopped);
        let count = || others().map(|(_, (_, process))| self.terms(process)).sum::<usize>();
        let before = count();
        wait_until("another one leads", LIMIT, async || count() > before).await
    }

    /// No act of ours while client-go led, none of two terms of ours at once, and rising epochs.
    pub(crate) fn judge(&self) -> anyhow::Result<()> {
        let played = self.played.lock().expect("not poisoned");
        let (mut theirs, mut acts) = (Vec::new(), Vec::new());
        for Played { side, process, over_at } in played.iter() {
            let over = over_at.unwrap_or(u64::MAX);
            let mut since = None;
            for line in process.lines() {
                match (side, line.split(' ').next().unwrap_or_default()) {
                    (Side::ClientGo, "leads") => since = Some(stamp(&line)?),
                    (Side::ClientGo, "ended") => {
                        theirs.extend(
                            since.take().map(|since| (since, stamp(&line).unwrap_or(over).min(over))),
                        );
                    }
                    (Side::Ours, "acts") => {
                        let epoch: u64 = line.split(' ').nth(1).context("no epoch")?.parse()?;
                        acts.push((stamp(&line)?, epoch));
                    }
                    _ => {}
                }
            }
            theirs.extend(since.map(|since| (since, over)));
        }
        acts.sort_unstable();
        for (at, epoch) in &acts {
            let other = theirs.iter().find(|(since, until)| (*since..*until).contains(at));
            ensure!(other.is_none(), "term {epoch} acted at {at} while client-go led: {other:?}");
        }
        ensure!(acts.is_sorted_by_key(|(_, epoch)| epoch), "an older term acted after a newer one: {acts:?}");
        println!("{} terms of client-go, {} acts of ours", theirs.len(), acts.len());
        Ok(())
    }
}
