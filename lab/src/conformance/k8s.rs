//! The suite on Kubernetes, in a namespace of its own and under the least RBAC: on a cluster that somebody runs, or on a
//! control plane that is started for it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use lease_conformance::{Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_k8s::{K8s, K8sConfig};
use lease_testbed::{ControlPlaneOptions, Identity, KubernetesServer, LostReply, PlainGate, Proxy, wait_for};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;

use super::{Place, actor, sqlite};

const LIMIT: Duration = Duration::from_secs(30);

/// Where the suite's Leases and effects are, as an actor's process is told.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct At {
    kubeconfig: PathBuf,
    effects: sqlite::At,
}

/// The harness on them.
pub(super) struct Leases {
    at: At,
    facilities: Vec<Facility>,
    /// The suite's own side; an actor's process has none.
    cluster: Option<Cluster>,
    /// What loses replies, kept until the end.
    losing: Mutex<Vec<(LostReply, Proxy, PlainGate)>>,
}

struct Cluster {
    // Dropped in this order: the identity's files are in the server's folder.
    identity: Identity,
    server: KubernetesServer,
    /// Kubernetes holds no effects: they are fenced where they land.
    effects: Arc<sqlite::Folder>,
}

// === impl At ===

impl At {
    pub(super) fn open(self) -> Leases {
        self.on(None)
    }

    fn on(self, cluster: Option<Cluster>) -> Leases {
        let mut facilities = vec![Facility::Delete, Facility::FencedEffects, Facility::Processes];
        if cluster.as_ref().is_some_and(|cluster| cluster.server.ours().is_ok()) {
            facilities.extend([Facility::LoseReply, Facility::Restart, Facility::ChangeLineage]);
        }
        Leases { at: self, facilities, cluster, losing: Mutex::default() }
    }
}

// === impl Leases ===

impl Leases {
    pub(super) async fn make(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let server = match kubeconfig {
            Some(kubeconfig) => KubernetesServer::named(kubeconfig).await?,
            None => KubernetesServer::named_or_start(ControlPlaneOptions::default()).await?,
        };
        let namespace = format!("leasehold-conformance-{:08x}", rand::random::<u32>());
        server.access().create_namespace(&namespace).await?;
        let verbs = ["get", "list", "watch", "update", "create"];
        let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]);
        let identity = server.access().create_identity(&namespace, "suite", rules).await?;
        eprintln!("the suite works in the namespace {namespace}, and removes that at its end");
        let effects = Arc::new(sqlite::Folder::make(None)?);
        let at = At { kubeconfig: identity.kubeconfig().to_owned(), effects: effects.at() };
        Ok(at.on(Some(Cluster { identity, server, effects })))
    }

    async fn connect_by(&self, kubeconfig: PathBuf) -> Result<K8s, BackendError> {
        K8s::connect(K8sConfig::kubeconfig(Some(kubeconfig))).await
    }

    fn cluster(&self, facility: Facility) -> Result<&Cluster, Missing> {
        self.cluster.as_ref().ok_or_else(|| self.missing(facility))
    }
}

impl Cluster {
    fn path(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.identity.namespace())
    }

    /// What a restore from a backup of the objects does: the same Leases under other uids.
    async fn restore(&self) -> anyhow::Result<()> {
        let (access, path) = (self.server.access(), self.path());
        let kept = access.request("GET", &path, None).await?;
        for lease in kept["items"].as_array().context("a list has items")? {
            let (name, annotations) = (&lease["metadata"]["name"], &lease["metadata"]["annotations"]);
            let one = format!("{path}/{}", name.as_str().context("a Lease has a name")?);
            let restored =
                json!({"metadata": {"name": name, "annotations": annotations}, "spec": lease["spec"]});
            wait_for("the Lease is restored, before its holder heals it", LIMIT, async || {
                access.request("DELETE", &one, None).await?;
                access.request("POST", &path, Some(restored.clone())).await
            })
            .await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Place for Leases {
    fn harness(self: Arc<Self>) -> Arc<dyn Harness> {
        self
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let namespace = cluster.identity.namespace();
        let path = format!("/api/v1/namespaces/{namespace}");
        let removed = cluster.server.access().request("DELETE", &path, None).await;
        removed.with_context(|| format!("cannot remove the namespace {namespace}: do so by hand"))?;
        cluster.effects.clean_up().await
    }
}

#[async_trait]
impl Harness for Leases {
    fn name(&self) -> &str {
        "k8s"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(self.connect_by(self.at.kubeconfig.clone()).await?))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn parallel_cases(&self) -> usize {
        8
    }

    fn facilities(&self) -> &[Facility] {
        &self.facilities
    }

    fn why_not(&self, facility: Facility) -> String {
        format!("the k8s harness does not offer {facility} on a cluster that isn't its own")
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let cluster = self.cluster(Facility::Delete)?;
        let path = format!("{}/{lease}", cluster.path());
        let deleted = cluster.server.access().request("DELETE", &path, None).await;
        deleted.map(drop).map_err(|error| Missing(format!("{error:#}")))
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let leases = Self::make(None).await.map_err(|error| Missing(format!("{error:#}")))?;
        Ok(Arc::new(leases))
    }

    async fn restart(&self) -> Result<(), Missing> {
        let cluster = self.cluster(Facility::Restart)?;
        let restart = async {
            let plane = cluster.server.ours()?;
            plane.crash().await?;
            plane.start_again().await
        };
        restart.await.map_err(|error| Missing(format!("{error:#}")))
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        let cluster = self.cluster(Facility::ChangeLineage)?;
        cluster.restore().await.map_err(|error| Missing(format!("{error:#}")))
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        let cluster = self.cluster(Facility::LoseReply)?;
        let through = || -> anyhow::Result<_> {
            let gate = cluster.server.ours()?.plain_gate()?;
            let proxy = Proxy::tcp(gate.addr())?;
            let kubeconfig = cluster.identity.plain_kubeconfig_through(proxy.addr())?;
            Ok((gate, proxy, kubeconfig))
        };
        let (gate, proxy, kubeconfig) = through().map_err(|error| Missing(format!("{error:#}")))?;
        let backend = self.connect_by(kubeconfig).await.map_err(Missing::because)?;
        let trap = proxy.lose_reply(|request| request.contains("PUT /apis/"));
        self.losing.lock().await.push((trap, proxy, gate));
        Ok(Arc::new(backend))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        sqlite::Files(self.at.effects.clone()).resource(name).await
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.arg(actor::COMMAND).env(actor::PLACE, actor::Place::K8s(self.at.clone()).to_json());
        Some(command)
    }
}
