//! etcd: one prefix of a cluster, for the leases and for the fenced resources.

mod effects;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use lease_conformance::{Attached, Facility, Harness, Missing};
use lease_core::{BackendError, Connector, InvalidSettings, LeaseBackend, LeaseName};
use lease_etcd::etcd_client::{Client, DeleteOptions};
use lease_etcd::{Etcd, EtcdConfig};
use lease_judge::FencedResource;
use lease_testbed::{ClusterId, Etcd as Cluster, EtcdOptions, Proxy};
use serde::{Deserialize, Serialize};

use self::effects::EtcdEffects;
use crate::store::{Link, Reach, StoreFault, TestStore, missing};
use crate::{Place, actor};

pub(crate) const DESCRIPTIONS: &[&str] = &[
    include_str!("../../conformance/stores/etcd-1.json"),
    include_str!("../../conformance/stores/etcd-3.json"),
];

/// The pause before another look for keys that were written below the prefix after its removal.
const LATE: Duration = Duration::from_millis(200);

/// A prefix of a cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct EtcdPlace {
    endpoints: Vec<String>,
    prefix: String,
    login: EtcdLogin,
}

/// A prefix of our own in a cluster.
pub struct EtcdStore {
    name: String,
    place: EtcdPlace,
    facilities: Vec<Facility>,
    /// Started for this, if none was named.
    cluster: Option<Cluster>,
}

/// Names the cluster to judge.
#[derive(Clone, Debug, clap::Args)]
pub struct EtcdArgs {
    /// etcd: the nodes' urls with commas between them. Default: a cluster that is started for it.
    #[arg(long, env = "LEASEHOLD_TEST_ETCD_ENDPOINTS", hide_env_values = true)]
    endpoints: Option<String>,
    #[command(flatten)]
    login: EtcdLogin,
}

/// The user and the certificates of a cluster's client.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub(crate) struct EtcdLogin {
    /// etcd: the user that would hold leases; it may read and write below /leasehold-conformance/.
    #[arg(long, requires = "etcd_password_file")]
    etcd_user: Option<String>,
    /// etcd: the file with the user's password.
    #[arg(long, requires = "etcd_user")]
    etcd_password_file: Option<PathBuf>,
    /// etcd: the authority of the nodes' certificates.
    #[arg(long)]
    etcd_ca_file: Option<PathBuf>,
    /// etcd: our own certificate, for nodes that ask for one.
    #[arg(long, requires = "etcd_key_file")]
    etcd_cert_file: Option<PathBuf>,
    /// etcd: our certificate's key.
    #[arg(long, requires = "etcd_cert_file")]
    etcd_key_file: Option<PathBuf>,
}

// === impl EtcdArgs ===

impl EtcdArgs {
    pub(crate) fn names_a_server(&self) -> bool {
        self.endpoints.is_some()
    }
}

// === impl EtcdPlace ===

impl EtcdPlace {
    fn new(endpoints: Vec<String>, login: EtcdLogin) -> Self {
        Self { endpoints, prefix: format!("/leasehold-conformance/{:08x}", rand::random::<u32>()), login }
    }

    fn config(&self) -> Result<EtcdConfig, InvalidSettings> {
        let mut config = EtcdConfig::new(&self.endpoints)?.prefix(&self.prefix)?;
        let login = &self.login;
        if let (Some(user), Some(file)) = (&login.etcd_user, &login.etcd_password_file) {
            config = config.user_with_password_file(user, file);
        }
        if let Some(file) = &login.etcd_ca_file {
            config = config.ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&login.etcd_cert_file, &login.etcd_key_file) {
            config = config.client_certificate(certificate, key);
        }
        Ok(config)
    }

    /// A client of the cluster.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(self.config()?.client().await?)
    }

    /// The first node's address, if a proxy can read what is sent to it.
    fn plain_node(&self) -> Option<SocketAddr> {
        let address = self.endpoints.first()?.strip_prefix("http://")?.trim_end_matches('/');
        address.to_socket_addrs().ok()?.next()
    }

    fn through(&self, proxies: &[Proxy]) -> Self {
        let endpoints = proxies.iter().map(|proxy| format!("http://{}", proxy.addr())).collect();
        Self { endpoints, ..self.clone() }
    }

    /// A proxy that understands what is sent to the first node, and the place that leads through it alone.
    fn through_a_proxy(&self) -> anyhow::Result<(Proxy, Self)> {
        let node = self.plain_node().context("a proxy can't read what is sent by TLS")?;
        let proxy = Proxy::grpc(node)?;
        let place = self.through(std::slice::from_ref(&proxy));
        Ok((proxy, place))
    }
}

#[async_trait]
impl Reach for EtcdPlace {
    fn connector(&self) -> Result<Arc<dyn Connector>, InvalidSettings> {
        Ok(Arc::new(Etcd::connector(self.config()?)))
    }

    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        Ok(Arc::new(EtcdEffects::open(self.clone(), name).await?))
    }

    async fn admit_everybody(&self, resource: &str) -> anyhow::Result<()> {
        effects::admit_everybody(self, resource).await
    }

    fn flags(&self) -> Vec<String> {
        let endpoints = self.endpoints.join(",");
        ["--etcd-endpoints", &endpoints, "--etcd-prefix", &self.prefix].map(str::to_owned).into()
    }
}

// === impl EtcdStore ===

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
        let mut facilities = vec![Facility::Delete, Facility::Processes];
        if place.plain_node().is_some() {
            facilities.extend([Facility::LoseReply, Facility::FencedEffects]);
        }
        if cluster.is_some() {
            facilities.extend([Facility::Restart, Facility::ChangeLineage]);
        }
        Self { name, place, facilities, cluster }
    }

    fn cluster(&self) -> anyhow::Result<&Cluster> {
        self.cluster.as_ref().context("the cluster is somebody else's, and stays as it is")
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

    async fn lossy(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        let (proxy, through) = self.place.through_a_proxy()?;
        let backend = Etcd::connect(through.config()?).await?;
        let trap = proxy.lose_reply(|request| request.sql_contains("KV/Txn"));
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
            _ => format!("the etcd harness does not offer {facility} on a cluster that isn't its own"),
        }
    }

    fn description(&self) -> Option<&'static str> {
        DESCRIPTIONS.iter().copied().find(|kept| kept.contains(&format!("\"store\": \"{}\"", self.name)))
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let keys = format!("{}/leases/{lease}/", self.place.prefix);
        self.remove(&keys).await.map(drop).map_err(missing)
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let nodes = self.place.endpoints.len();
        Ok(Arc::new(Self::of_nodes(nodes).await.map_err(missing)?))
    }

    async fn restart(&self) -> Result<(), Missing> {
        self.inject(StoreFault::Crash, Duration::ZERO).await.map_err(missing)
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
