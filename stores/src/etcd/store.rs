//! A prefix of our own in a cluster: one of ours, which may be broken, or somebody else's.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use lease_conformance::{Attached, Facility, Harness, Missing, Split};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_etcd::Etcd;
use lease_etcd::etcd_client::DeleteOptions;
use lease_judge::FencedResource;
use lease_testbed::{ClusterId, Etcd as Cluster, EtcdMember, EtcdOptions, Proxy, wait_for};

use super::{DESCRIPTIONS, EtcdArgs, EtcdLogin, EtcdPlace, backup};
use crate::store::{Link, StoreFault, TestStore, missing};
use crate::{Place, actor};

/// The pause before another look for keys that were written below the prefix after its removal.
const LATE: Duration = Duration::from_millis(200);

/// The longest time until nodes serve that a leader was taken from.
const LIMIT: Duration = Duration::from_secs(30);

/// A prefix of our own in a cluster.
pub struct EtcdStore {
    name: String,
    place: EtcdPlace,
    facilities: Vec<Facility>,
    /// Started for this, if none was named.
    cluster: Option<Cluster>,
}

impl EtcdStore {
    /// On a cluster of our own, of three nodes.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn start() -> anyhow::Result<Self> {
        Self::of_nodes(3).await
    }

    /// On a cluster of our own, of one node or three.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn of_nodes(nodes: usize) -> anyhow::Result<Self> {
        let cluster = Cluster::start(EtcdOptions::default().nodes(nodes).fsync(true)).await?;
        let place = EtcdPlace::new(cluster.endpoints(), EtcdLogin::default());
        Ok(Self::on(format!("etcd-{nodes}"), place, Some(cluster)))
    }

    pub(crate) async fn open(args: EtcdArgs) -> anyhow::Result<Self> {
        let Some(endpoints) = args.endpoints else { return Self::start().await };
        let endpoints = endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
        let store = Self::on("etcd".to_owned(), EtcdPlace::new(endpoints, args.login), None);
        store.place.client().await.context("the cluster to judge does not serve")?;
        eprintln!("the suite works below {}, and removes that at its end", store.place.prefix);
        Ok(store)
    }

    fn on(name: String, place: EtcdPlace, cluster: Option<Cluster>) -> Self {
        let mut facilities = vec![Facility::Delete, Facility::Rewind, Facility::Processes];
        if place.plain_node().is_some() {
            facilities.extend([Facility::LoseReply, Facility::FencedEffects]);
        }
        if cluster.is_some() {
            facilities.extend([Facility::Restart, Facility::Stop, Facility::ChangeLineage]);
            if place.endpoints.len() > 2 {
                facilities.push(Facility::Split);
            }
        }
        Self { name, place, facilities, cluster }
    }

    /// The cluster, if it is ours.
    ///
    /// # Errors
    /// It is somebody else's.
    pub fn cluster(&self) -> anyhow::Result<&Cluster> {
        self.cluster.as_ref().context("the cluster is somebody else's, and stays as it is")
    }

    /// The beginning of a lease's keys.
    fn keys(&self, lease: &LeaseName) -> String {
        format!("{}/leases/{lease}/", self.place.prefix)
    }

    async fn remove(&self, prefix: &str) -> anyhow::Result<i64> {
        let mut client = self.place.client().await?;
        Ok(client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await?.deleted())
    }

    /// Restores a snapshot under another cluster id, as an operator does after a disaster: the same keys, on the same
    /// addresses.
    async fn restore(&self) -> anyhow::Result<()> {
        let cluster = self.cluster()?;
        let snapshot = cluster.snapshot().await?;
        cluster.restore(&snapshot, ClusterId::New).await
    }

    /// Cuts the leading node off, and connects to it alone and to all others.
    async fn cut_off(&self) -> anyhow::Result<Split> {
        let cluster = self.cluster()?;
        let leader = cluster.leader().await?;
        let (alone, others): (Vec<_>, Vec<_>) =
            cluster.members().iter().partition(|member| member.name() == leader.name());
        let at = |members: Vec<&EtcdMember>| {
            let endpoints = members.iter().map(|member| format!("http://{}", member.addr())).collect();
            EtcdPlace { endpoints, ..self.place.clone() }.config()
        };
        // An isolated node answers nothing that a new connection asks first.
        let minority = Arc::new(Etcd::connect(at(alone)?).await?);
        cluster.isolate(leader);
        let others = at(others)?;
        let majority = wait_for("the other nodes serve", LIMIT, async || Etcd::connect(others.clone()).await);
        Ok(Split { minority, majority: Arc::new(majority.await?) })
    }

    async fn lossy(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        let (proxy, through) = self.place.through_a_proxy()?;
        let backend = Etcd::connect(through.config()?).await?;
        let trap = proxy.lose_reply(|request| request.calls("KV/Txn"));
        Ok(Arc::new(Attached::new(backend, (trap, proxy))))
    }
}

#[async_trait]
impl TestStore for EtcdStore {
    fn place(&self) -> Place {
        Place::Etcd(self.place.clone())
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let prefix = format!("{}/", self.place.prefix);
        let remove = async {
            // After Ctrl-C a last write of a case may still be on its way.
            while self.remove(&prefix).await? > 0 {
                tokio::time::sleep(LATE).await;
            }
            anyhow::Ok(())
        };
        remove.await.with_context(|| format!("cannot remove what is below {prefix}: remove it yourself"))
    }

    fn link(&self) -> anyhow::Result<Option<(Link, Place)>> {
        let members = self.cluster()?.members().iter();
        let proxies = members.map(|member| Proxy::tcp(member.addr())).collect::<anyhow::Result<Vec<_>>>()?;
        let place = Place::Etcd(self.place.through(&proxies));
        Ok(Some((Link::new(proxies), place)))
    }

    fn faults(&self) -> &'static [(u32, StoreFault)] {
        &[
            (1, StoreFault::Crash),
            (2, StoreFault::KillNode),
            (2, StoreFault::PauseNode),
            (2, StoreFault::IsolateNode),
        ]
    }

    async fn inject(&self, fault: StoreFault, lasts: Duration) -> anyhow::Result<()> {
        let cluster = self.cluster()?;
        let leader = cluster.leader().await?;
        match fault {
            StoreFault::PauseNode => {
                leader.pause().await?;
                tokio::time::sleep(lasts).await;
                leader.resume()?;
            }
            StoreFault::IsolateNode => {
                cluster.isolate(leader);
                tokio::time::sleep(lasts).await;
                cluster.heal();
            }
            StoreFault::KillNode => {
                leader.kill().await?;
                tokio::time::sleep(lasts).await;
                leader.start_again()?;
            }
            StoreFault::Crash => {
                cluster.kill_all().await?;
                tokio::time::sleep(lasts).await;
                cluster.start_all()?;
            }
            other => bail!("an etcd cluster has no such fault: {}", other.name()),
        }
        cluster.ready().await
    }
}

#[async_trait]
impl Harness for EtcdStore {
    fn name(&self) -> &str {
        &self.name
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self.place().connect().await
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(if self.cluster.is_some() { 800 } else { 1000 })
    }

    fn parallel_cases(&self) -> usize {
        8
    }

    fn facilities(&self) -> &[Facility] {
        &self.facilities
    }

    fn why_not(&self, facility: Facility) -> String {
        match facility {
            Facility::LoseReply | Facility::FencedEffects => {
                format!("this cluster is reached by TLS, which a fault proxy can't read: no {facility}")
            }
            Facility::RewindFloor => {
                "etcd's revisions only rise: `leasehold-lab restores` plays restores that put them back"
                    .into()
            }
            Facility::Split if self.place.endpoints.len() < 3 => {
                "not judged: one node has no others to be cut off from".into()
            }
            _ => format!("the etcd harness does not offer {facility} on a cluster that isn't its own"),
        }
    }

    fn description(&self) -> Option<&'static str> {
        DESCRIPTIONS.iter().copied().find(|kept| kept.contains(&format!("\"store\": \"{}\"", self.name)))
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        self.remove(&self.keys(lease)).await.map(drop).map_err(missing)
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let nodes = self.place.endpoints.len();
        Ok(Arc::new(Self::of_nodes(nodes).await.map_err(missing)?))
    }

    async fn restart(&self) -> Result<(), Missing> {
        self.inject(StoreFault::Crash, Duration::ZERO).await.map_err(missing)
    }

    async fn stop(&self) -> Result<(), Missing> {
        self.cluster().map_err(missing)?.kill_all().await.map_err(missing)
    }

    async fn start_again(&self) -> Result<(), Missing> {
        let cluster = self.cluster().map_err(missing)?;
        cluster.start_all().map_err(missing)?;
        cluster.ready().await.map_err(missing)
    }

    async fn split(&self) -> Result<Split, Missing> {
        self.cut_off().await.map_err(missing)
    }

    async fn heal(&self) -> Result<(), Missing> {
        let cluster = self.cluster().map_err(missing)?;
        cluster.heal();
        cluster.ready().await.map_err(missing)
    }

    async fn back_up(&self, lease: &LeaseName) -> Result<Vec<u8>, Missing> {
        backup::back_up(&self.place, &self.keys(lease)).await.map_err(missing)
    }

    async fn put_back(&self, _: &LeaseName, kept: &[u8]) -> Result<(), Missing> {
        backup::put_back(&self.place, kept).await.map_err(missing)
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        self.restore().await.map_err(missing)
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        self.lossy().await.map_err(missing)
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        self.place().resource(name).await.map_err(missing)
    }

    fn actor_command(&self) -> Option<Command> {
        actor::command(&self.place())
    }
}
