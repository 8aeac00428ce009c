//! Kubernetes as the suite meets it: a control plane of its own, and what an administrator or an accident does to it.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use lease_conformance::{Attached, Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_k8s::{K8s, K8sConfig};
use lease_testbed::{ControlPlane, ControlPlaneOptions, Identity, Proxy, wait_for};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::audit;
use crate::resource::Resource;

/// The variables by which an actor's process finds the cluster, and the effects.
const KUBECONFIG: &str = "LEASEHOLD_CONFORMANCE_KUBECONFIG";
const EFFECTS: &str = "LEASEHOLD_CONFORMANCE_EFFECTS";

const LIMIT: Duration = Duration::from_secs(30);

/// What serves the control planes and proxies, whichever runtime a case runs on.
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

pub(crate) struct K8sHarness {
    kubeconfig: PathBuf,
    effects: PathBuf,
    server: Option<Server>,
}

/// The suite's side of the cluster.
struct Server {
    plane: Arc<ControlPlane>,
    identity: Identity,
    /// What disturbs the whole control plane is done to another one, by one case at a time.
    other: Arc<Mutex<Arc<ControlPlane>>>,
    disturbs: Option<OwnedMutexGuard<Arc<ControlPlane>>>,
    _effects: Option<Arc<tempfile::TempDir>>,
}

/// A worker's identity in a namespace of its own.
async fn worker(plane: &ControlPlane) -> anyhow::Result<Identity> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let namespace = format!("suite-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    plane.access().create_namespace(&namespace).await?;
    plane.access().create_identity(&namespace, "worker", audit::rules()).await
}

impl K8sHarness {
    /// The harness of an actor's process; `None` in any other.
    pub(crate) fn of_this_process() -> Option<Self> {
        let kubeconfig = env::var_os(KUBECONFIG)?.into();
        Some(Self { kubeconfig, effects: env::var_os(EFFECTS)?.into(), server: None })
    }

    /// A control plane that all undisturbed cases share, and another for the others.
    pub(crate) fn start() -> Self {
        runtime().block_on(async {
            let start = || ControlPlane::start(ControlPlaneOptions::default());
            let plane = start().await.expect("a control plane must start");
            let other = start().await.expect("a second control plane must start");
            let identity = worker(&plane).await.expect("a worker's identity must be made");
            let effects = Arc::new(tempfile::tempdir().expect("a temporary folder"));
            Self {
                kubeconfig: identity.kubeconfig().to_owned(),
                effects: effects.path().to_owned(),
                server: Some(Server {
                    plane: Arc::new(plane),
                    identity,
                    other: Arc::new(Mutex::new(Arc::new(other))),
                    disturbs: None,
                    _effects: Some(effects),
                }),
            }
        })
    }

    /// How many requests the suite made; an error if one of them was beyond the least RBAC.
    pub(crate) fn judge_audit(&self) -> anyhow::Result<usize> {
        let server = self.server.as_ref().context("only the suite's own process has an audit log")?;
        let user = server.identity.user();
        audit::judge(&server.plane.audit().events()?, |who| who == user)
    }

    fn server(&self) -> Result<&Server, Missing> {
        self.server.as_ref().ok_or_else(|| Missing("this process has no control plane".into()))
    }

    async fn connect_by(&self, kubeconfig: PathBuf) -> Result<K8s, BackendError> {
        K8s::connect(K8sConfig::kubeconfig(Some(kubeconfig))).await
    }
}

#[async_trait]
impl Harness for K8sHarness {
    fn name(&self) -> &str {
        "k8s"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(self.connect_by(self.kubeconfig.clone()).await?))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
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
        Some(include_str!("../../../conformance/stores/k8s.json"))
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let server = self.server()?;
        let (access, namespace) = (server.plane.access().clone(), server.identity.namespace().to_owned());
        let path = format!("{}/{lease}", leases(&namespace));
        there(async move { access.request("DELETE", &path, None).await.map(drop) }).await
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let server = self.server()?;
        let (other, effects) = (server.other.clone(), self.effects.clone());
        there(async move {
            let disturbs = other.clone().lock_owned().await;
            let plane = disturbs.clone();
            let identity = worker(&plane).await?;
            let kubeconfig = identity.kubeconfig().to_owned();
            let disturbs = Some(disturbs);
            let server = Server { plane, identity, other, disturbs, _effects: None };
            let harness: Arc<dyn Harness> = Arc::new(Self { kubeconfig, effects, server: Some(server) });
            Ok(harness)
        })
        .await
    }

    async fn restart(&self) -> Result<(), Missing> {
        let plane = self.server()?.disturbs.clone_plane()?;
        there(async move {
            plane.crash().await?;
            plane.start_again().await
        })
        .await
    }

    /// What a restore from a backup of the objects does: the same Leases under other uids.
    async fn change_lineage(&self) -> Result<(), Missing> {
        let server = self.server()?;
        let (plane, path) = (server.disturbs.clone_plane()?, leases(server.identity.namespace()));
        there(async move {
            let access = plane.access();
            let kept = access.request("GET", &path, None).await?;
            for lease in kept["items"].as_array().context("a list has items")? {
                let name = lease["metadata"]["name"].as_str().context("a Lease has a name")?;
                let annotations = &lease["metadata"]["annotations"];
                let metadata = json!({"name": name, "annotations": annotations});
                let restored: Value = json!({"metadata": metadata, "spec": lease["spec"]});
                wait_for("the Lease is restored, before its holder heals it", LIMIT, async || {
                    access.request("DELETE", &format!("{path}/{name}"), None).await?;
                    access.request("POST", &path, Some(restored.clone())).await
                })
                .await?;
            }
            Ok(())
        })
        .await
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        let server = self.server()?;
        let (plane, identity) = (server.plane.clone(), server.identity.clone());
        let (gate, proxy, kubeconfig) = there(async move {
            let gate = plane.plain_gate()?;
            let proxy = Proxy::tcp(gate.addr())?;
            let kubeconfig = identity.plain_kubeconfig_through(proxy.addr())?;
            Ok((gate, proxy, kubeconfig))
        })
        .await?;
        let inner = self.connect_by(kubeconfig).await.map_err(Missing::because)?;
        let trap = proxy.lose_reply(|request| request.contains("PUT /apis/"));
        Ok(Arc::new(Attached::new(inner, (trap, proxy, gate))))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        // Kubernetes holds no effects: they are fenced where they land.
        let resource = Resource { file: self.effects.join("effects.sqlite"), name: name.to_owned() };
        resource.install().await.map_err(Missing::because)?;
        Ok(Arc::new(resource))
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.env(KUBECONFIG, &self.kubeconfig).env(EFFECTS, &self.effects);
        Some(command)
    }
}

fn leases(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
}

trait Disturbs {
    fn clone_plane(&self) -> Result<Arc<ControlPlane>, Missing>;
}

impl Disturbs for Option<OwnedMutexGuard<Arc<ControlPlane>>> {
    fn clone_plane(&self) -> Result<Arc<ControlPlane>, Missing> {
        let plane = self.as_deref().cloned();
        plane.ok_or_else(|| Missing("the shared control plane stays as it is".into()))
    }
}
