//! A namespace of our own in a cluster: on a control plane of ours, which may be broken, or somebody else's.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use lease_conformance::{Attached, Facility, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_judge::FencedResource;
use lease_k8s::{K8s, K8sConfig};
use lease_testbed::{ControlPlane, ControlPlaneOptions, Identity, KubernetesAccess, KubernetesServer, Proxy};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{DESCRIPTIONS, K8sArgs, K8sPlace, audit, backup};
use crate::sqlite::SqliteStore;
use crate::store::{Link, StoreFault, TestStore, missing};
use crate::{Place, actor};

/// A namespace of our own in a cluster.
pub struct K8sStore {
    place: K8sPlace,
    facilities: Vec<Facility>,
    // Dropped in this order: the identity's files are in the server's folder.
    identity: Identity,
    server: Server,
    effects: Arc<SqliteStore>,
}

enum Server {
    /// Shared by all cases that leave it as it is. The others have another one, which is started for the first.
    Shared(ControlPlane, Arc<Mutex<Option<ControlPlane>>>),
    /// The other one, in the hands of one case at a time.
    Isolated(OwnedMutexGuard<Option<ControlPlane>>),
    Named(KubernetesServer),
}

// === impl Server ===

impl Server {
    fn access(&self) -> &KubernetesAccess {
        match self {
            Self::Shared(plane, _) => plane.access(),
            Self::Isolated(plane) => plane.as_ref().expect("it was started").access(),
            Self::Named(server) => server.access(),
        }
    }

    fn ours(&self) -> anyhow::Result<&ControlPlane> {
        match self {
            Self::Shared(plane, _) => Ok(plane),
            Self::Isolated(plane) => plane.as_ref().context("it was started"),
            Self::Named(_) => bail!("the cluster is somebody else's, and stays as it is"),
        }
    }
}

// === impl K8sStore ===

impl K8sStore {
    /// On a control plane of our own.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn start() -> anyhow::Result<Self> {
        let server = Server::Shared(start_plane().await?, Arc::default());
        Self::on(server, Arc::new(SqliteStore::start().await?)).await
    }

    pub(crate) async fn open(args: K8sArgs) -> anyhow::Result<Self> {
        let Some(kubeconfig) = args.kubeconfig else { return Self::start().await };
        let server = Server::Named(KubernetesServer::named(&kubeconfig).await?);
        let store = Self::on(server, Arc::new(SqliteStore::start().await?)).await?;
        let namespace = store.identity.namespace();
        eprintln!("the suite works in the namespace {namespace}, and removes that at its end");
        Ok(store)
    }

    async fn on(server: Server, effects: Arc<SqliteStore>) -> anyhow::Result<Self> {
        let namespace = format!("leasehold-conformance-{:08x}", rand::random::<u32>());
        server.access().create_namespace(&namespace).await?;
        let identity = server.access().create_identity(&namespace, "worker", audit::rules()).await?;
        let mut facilities =
            vec![Facility::Delete, Facility::Rewind, Facility::FencedEffects, Facility::Processes];
        if server.ours().is_ok() {
            facilities.extend([
                Facility::LoseReply,
                Facility::Restart,
                Facility::Stop,
                Facility::ChangeLineage,
            ]);
        }
        let kubeconfig = identity.kubeconfig().to_owned();
        let place = K8sPlace { kubeconfig, effects: effects.sqlite_place() };
        Ok(Self { place, facilities, identity, server, effects })
    }

    /// The number of requests that were made in the name of the identity.
    ///
    /// # Errors
    /// One of them was beyond the least rights, or the control plane isn't ours and has no audit log.
    pub fn judge_audit(&self) -> anyhow::Result<usize> {
        let user = self.identity.user();
        audit::judge(&self.server.ours()?.audit().events()?, |who| who == user)
    }

    /// The control plane, if it is ours.
    ///
    /// # Errors
    /// It is somebody else's.
    pub fn plane(&self) -> anyhow::Result<&ControlPlane> {
        self.server.ours()
    }

    /// The path of its Leases at the API server.
    pub fn leases(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.identity.namespace())
    }

    /// The control plane, if one case has it to itself.
    fn isolated_plane(&self) -> anyhow::Result<&ControlPlane> {
        match &self.server {
            Server::Isolated(_) => self.server.ours(),
            _ => bail!("the shared control plane stays as it is"),
        }
    }

    async fn isolate(&self) -> anyhow::Result<Self> {
        let Server::Shared(_, other) = &self.server else {
            bail!("only the shared control plane has another beside it")
        };
        let mut other = other.clone().lock_owned().await;
        if other.is_none() {
            *other = Some(start_plane().await?);
        }
        Self::on(Server::Isolated(other), self.effects.clone()).await
    }

    async fn lossy(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        let gate = self.server.ours()?.plain_gate()?;
        let proxy = Proxy::tcp(gate.addr())?;
        let kubeconfig = self.identity.plain_kubeconfig_through(proxy.addr())?;
        let backend = K8s::connect(K8sConfig::kubeconfig(Some(kubeconfig))).await?;
        let trap = proxy.lose_reply(|request| request.contains("PUT /apis/"));
        Ok(Arc::new(Attached::new(backend, (trap, proxy, gate))))
    }
}

async fn start_plane() -> anyhow::Result<ControlPlane> {
    ControlPlane::start(ControlPlaneOptions::default().fsync(true)).await
}

#[async_trait]
impl TestStore for K8sStore {
    fn place(&self) -> Place {
        Place::K8s(self.place.clone())
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let namespace = self.identity.namespace();
        let removed =
            self.server.access().request("DELETE", &format!("/api/v1/namespaces/{namespace}"), None).await;
        removed.with_context(|| format!("cannot remove the namespace {namespace}: remove it yourself"))?;
        self.effects.clean_up().await
    }

    /// By TLS, as in any cluster. The effects are in files.
    fn link(&self) -> anyhow::Result<Option<(Link, Place)>> {
        let proxy = Proxy::tcp(self.server.ours()?.addr())?;
        let kubeconfig = self.identity.kubeconfig_through(proxy.addr())?;
        let place = Place::K8s(K8sPlace { kubeconfig, ..self.place.clone() });
        Ok(Some((Link::new([proxy]), place)))
    }

    fn faults(&self) -> &'static [(u32, StoreFault)] {
        &[
            (1, StoreFault::Restart),
            (1, StoreFault::Crash),
            (2, StoreFault::KillNode),
            (2, StoreFault::PauseNode),
        ]
    }

    async fn inject(&self, fault: StoreFault, lasts: Duration) -> anyhow::Result<()> {
        let plane = self.server.ours()?;
        match fault {
            StoreFault::Restart => plane.restart().await,
            StoreFault::PauseNode => {
                plane.pause().await?;
                tokio::time::sleep(lasts).await;
                plane.resume()
            }
            StoreFault::KillNode => {
                let etcd = &plane.etcd().members()[0];
                etcd.kill().await?;
                tokio::time::sleep(lasts).await;
                etcd.start_again()?;
                etcd.ready().await
            }
            StoreFault::Crash => {
                plane.crash().await?;
                tokio::time::sleep(lasts).await;
                plane.start_again().await
            }
            other => bail!("a control plane has no such fault: {}", other.name()),
        }
    }
}

#[async_trait]
impl Harness for K8sStore {
    fn name(&self) -> &str {
        "k8s"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self.place().connect().await
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn parallel_cases(&self) -> usize {
        8
    }

    /// More than a page of client-go's has. A creation is two writes through the API server, its etcd and the audit log,
    /// and no other case has the isolated control plane meanwhile.
    fn many(&self) -> usize {
        600
    }

    fn facilities(&self) -> &[Facility] {
        &self.facilities
    }

    fn why_not(&self, facility: Facility) -> String {
        match facility {
            Facility::RewindFloor => {
                "resourceVersions only rise: `leasehold-lab restores` plays restores that put them back"
                    .into()
            }
            Facility::Split => {
                "not judged: API servers hold nothing, and the replicas of the etcd behind them are judged \
                 as etcd-3"
                    .into()
            }
            _ => format!("the k8s harness does not offer {facility} on a cluster that isn't its own"),
        }
    }

    fn description(&self) -> Option<&'static str> {
        Some(DESCRIPTIONS[0])
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let path = format!("{}/{lease}", self.leases());
        self.server.access().request("DELETE", &path, None).await.map(drop).map_err(missing)
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        Ok(Arc::new(self.isolate().await.map_err(missing)?))
    }

    async fn restart(&self) -> Result<(), Missing> {
        self.isolated_plane().map_err(missing)?;
        self.inject(StoreFault::Crash, Duration::ZERO).await.map_err(missing)
    }

    async fn stop(&self) -> Result<(), Missing> {
        self.isolated_plane().map_err(missing)?.crash().await.map_err(missing)
    }

    async fn start_again(&self) -> Result<(), Missing> {
        self.isolated_plane().map_err(missing)?.start_again().await.map_err(missing)
    }

    async fn back_up(&self, lease: &LeaseName) -> Result<Vec<u8>, Missing> {
        let path = format!("{}/{lease}", self.leases());
        backup::back_up(self.server.access(), &path).await.map_err(missing)
    }

    async fn put_back(&self, lease: &LeaseName, kept: &[u8]) -> Result<(), Missing> {
        let path = format!("{}/{lease}", self.leases());
        backup::put_back(self.server.access(), &path, kept).await.map_err(missing)
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        let access = self.isolated_plane().map_err(missing)?.access();
        backup::make_anew(access, &self.leases()).await.map_err(missing)
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
