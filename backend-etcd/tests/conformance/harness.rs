//! etcd as the suite meets it: a cluster of its own, and what an administrator or an accident does to it.

use std::env;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use lease_conformance::{Attached, Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::{ClusterId, EtcdOptions, Proxy};
use tokio::runtime::{Builder, Runtime};

use crate::resource::Resource;

/// The variable by which an actor's process finds the store: its name, then its endpoints.
const STORE: &str = "LEASEHOLD_CONFORMANCE_ETCD";

/// What serves the servers and proxies, whichever runtime a case runs on.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime must start")
    })
}

/// Runs `future` there, and waits for it from any other runtime.
async fn there<T, F>(future: F) -> Result<T, Missing>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let done = runtime().spawn(future).await.map_err(Missing::because)?;
    done.map_err(|error| Missing(format!("{error:#}")))
}

pub(crate) struct EtcdHarness {
    name: String,
    endpoints: Vec<String>,
    cluster: Option<Arc<lease_testbed::Etcd>>,
}

impl EtcdHarness {
    /// The harness of an actor's process; `None` in any other.
    pub(crate) fn of_this_process() -> Option<Self> {
        let store = env::var(STORE).ok()?;
        let mut words = store.split(' ').map(str::to_owned);
        Some(Self { name: words.next()?, endpoints: words.collect(), cluster: None })
    }

    /// A cluster that all undisturbed cases share.
    pub(crate) fn start(nodes: usize) -> Self {
        runtime().block_on(Self::fresh(nodes)).expect("etcd must start")
    }

    async fn fresh(nodes: usize) -> anyhow::Result<Self> {
        let etcd = lease_testbed::Etcd::start(EtcdOptions::default().nodes(nodes).fsync(true)).await?;
        Ok(Self { name: format!("etcd-{nodes}"), endpoints: etcd.endpoints(), cluster: Some(Arc::new(etcd)) })
    }

    fn cluster(&self) -> Result<Arc<lease_testbed::Etcd>, Missing> {
        self.cluster.clone().ok_or_else(|| Missing("this process has no cluster".into()))
    }
}

fn config<I>(endpoints: I) -> Result<EtcdConfig, BackendError>
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    EtcdConfig::new(endpoints).map_err(|error| BackendError::refused(error.to_string()))
}

#[async_trait]
impl Harness for EtcdHarness {
    fn name(&self) -> &str {
        &self.name
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(Etcd::connect(config(&self.endpoints)?).await?))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(800)
    }

    fn parallel_cases(&self) -> usize {
        8
    }

    fn facilities(&self) -> &[Facility] {
        &[
            Facility::Delete,
            Facility::Restart,
            Facility::ChangeLineage,
            Facility::LoseReply,
            Facility::FencedEffects,
            Facility::Processes,
        ]
    }

    fn description(&self) -> Option<&'static str> {
        Some(match self.name.as_str() {
            "etcd-1" => include_str!("../../../conformance/stores/etcd-1.json"),
            _ => include_str!("../../../conformance/stores/etcd-3.json"),
        })
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let (cluster, key) = (self.cluster()?, format!("{}/leases/{lease}/", EtcdConfig::PREFIX));
        there(async move { cluster.ctl(&["del", "--prefix", &key]).await.map(drop) }).await
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let nodes = self.endpoints.len();
        there(async move {
            let harness: Arc<dyn Harness> = Arc::new(Self::fresh(nodes).await?);
            Ok(harness)
        })
        .await
    }

    async fn restart(&self) -> Result<(), Missing> {
        let cluster = self.cluster()?;
        there(async move {
            cluster.kill_all().await?;
            cluster.start_all()?;
            cluster.ready().await
        })
        .await
    }

    /// What an operator does after a disaster: another cluster with the same keys, on the same addresses.
    async fn change_lineage(&self) -> Result<(), Missing> {
        let cluster = self.cluster()?;
        there(async move {
            let snapshot = cluster.snapshot().await?;
            cluster.restore(&snapshot, ClusterId::New).await
        })
        .await
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        let proxy = Proxy::grpc(self.cluster()?.members()[0].addr()).map_err(Missing::because)?;
        let config = config([format!("http://{}", proxy.addr())]).map_err(Missing::because)?;
        let inner = Etcd::connect(config).await.map_err(Missing::because)?;
        let trap = proxy.lose_reply(|request| request.calls("KV/Txn"));
        Ok(Arc::new(Attached::new(inner, (trap, proxy))))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        let config = config(&self.endpoints).map_err(Missing::because)?;
        let addr = self.cluster.as_ref().map(|cluster| cluster.members()[0].addr());
        Ok(Arc::new(Resource::new(name, &config, self.endpoints.clone(), addr)))
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.env(STORE, format!("{} {}", self.name, self.endpoints.join(" ")));
        Some(command)
    }
}
