//! A node: it registers, says that it is there, and runs the pods that are bound to it.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{self, ConfigMap, Event, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    image::Image,
    network,
    pod::{self, Seen, Shared},
    services::Services,
    watch as watching,
};

const HEARTBEAT: Duration = Duration::from_secs(2);
const CALL_LIMIT: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(200);
/// As Kubernetes calls it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// What the nodes have in common.
pub(crate) struct Machine {
    pub(crate) images: Vec<Image>,
    pub(crate) services: Arc<Services>,
}

/// One node.
pub(crate) struct Node {
    pub(super) name: String,
    pub(super) ip: Ipv4Addr,
    pub(super) client: Client,
    pub(super) folder: PathBuf,
    pub(super) machine: Arc<Machine>,
    /// The last part of the latest pod's address.
    latest: AtomicU8,
    pods: Mutex<BTreeMap<String, Entry>>,
    agent: Mutex<Option<JoinHandle<()>>>,
}

/// A pod of the node, by its uid.
struct Entry {
    namespace: String,
    name: String,
    seen: watch::Sender<Seen>,
    shared: Arc<Shared>,
    life: JoinHandle<()>,
}

// === impl Machine ===

impl Machine {
    pub(super) fn image(&self, asked: &str) -> anyhow::Result<&Image> {
        self.images.iter().find(|image| image.is(asked)).with_context(|| {
            let known: Vec<_> = self.images.iter().map(|image| image.name.as_str()).collect();
            format!("there is no image {asked}: nothing is pulled here; known are {}", known.join(", "))
        })
    }
}

// === impl Node ===

impl Node {
    /// The node with this number, which is part of its pods' addresses.
    pub(crate) async fn new(
        name: &str,
        number: u8,
        client: Client,
        folder: &Path,
        machine: Arc<Machine>,
    ) -> anyhow::Result<Arc<Self>> {
        let ip = Ipv4Addr::new(10, 244, number, 1);
        network::add_address(ip).await?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            ip,
            client,
            folder: folder.join(name),
            machine,
            latest: AtomicU8::new(1),
            pods: Mutex::default(),
            agent: Mutex::default(),
        }))
    }

    /// Begins its work, in a task.
    pub(crate) fn begin(self: &Arc<Self>) {
        let node = self.clone();
        let agent = tokio::spawn(async move {
            while let Err(error) = node.register().await {
                tracing::debug!(node = node.name, %error, "could not register");
                sleep(AGAIN).await;
            }
            let pods = watching::keep(
                Api::<Pod>::all(node.client.clone()),
                Some(format!("spec.nodeName={}", node.name)),
                |all| {
                    node.have(all);
                    std::future::ready(())
                },
            );
            tokio::join!(pods, node.beat());
        });
        if let Some(earlier) = lock(&self.agent).replace(agent) {
            earlier.abort();
        }
    }

    /// Kills its pods' processes and forgets everything, as a machine does that loses its power.
    pub(crate) async fn lose(&self) {
        let agent = lock(&self.agent).take();
        if let Some(agent) = agent {
            agent.abort();
            let _ = agent.await;
        }
        let pods = std::mem::take(&mut *lock(&self.pods));
        // Off the network first: their kernel has lost its power too, and tells nobody that they are gone.
        let cables: Vec<String> = pods.values().filter_map(|entry| entry.shared.veth()).collect();
        if let Err(error) = network::plug(&cables, false).await {
            tracing::warn!(%error, "a lost node's pods were not cut off before they were killed");
        }
        for entry in pods.values() {
            for pid in entry.shared.main_processes() {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            entry.life.abort();
        }
        for entry in pods.into_values() {
            let _ = entry.life.await;
        }
    }

    /// As [`lose`](Self::lose), where nothing can be awaited.
    pub(crate) fn abandon(&self) {
        let agent = lock(&self.agent).take();
        let pods = std::mem::take(&mut *lock(&self.pods));
        for task in agent.into_iter().chain(pods.into_values().map(|entry| entry.life)) {
            task.abort();
        }
    }

    pub(crate) fn host_path(&self, path: &str) -> PathBuf {
        self.folder.join("host").join(path.trim_start_matches('/'))
    }

    pub(crate) fn logs(&self, namespace: &str, pod: &str) -> PathBuf {
        self.folder.join("logs").join(namespace).join(pod)
    }

    /// The main processes of a pod's containers, the process that holds its network, and the machine's end of its
    /// cable; `None` if the pod isn't here.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<(Vec<Pid>, Option<Pid>, Option<String>)> {
        let pods = lock(&self.pods);
        let entry = pods.values().find(|entry| entry.namespace == namespace && entry.name == name)?;
        Some((entry.shared.main_processes(), entry.shared.holder(), entry.shared.veth()))
    }

    pub(super) fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(super) fn config_maps(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Addresses are used again as late as possible.
    pub(super) fn next_ip(&self) -> Ipv4Addr {
        let next = |latest: u8| Some(if latest >= 250 { 2 } else { latest + 1 });
        let latest = self.latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(1);
        let [a, b, c, _] = self.ip.octets();
        Ipv4Addr::new(a, b, c, next(latest).unwrap_or(2))
    }

    /// Tells people what happened to a pod. What can't be told is lost.
    pub(super) fn event(&self, pod: &Pod, reason: &str, message: &str) {
        tracing::info!(node = self.name, pod = pod.metadata.name, reason, message);
        let (meta, now) = (&pod.metadata, Timestamp::now());
        let namespace = meta.namespace.clone().unwrap_or_default();
        let usual = ["Killing", "Started"].contains(&reason);
        let event = json!({
            "metadata": {
                "name": format!("{}.{:x}", meta.name.as_deref().unwrap_or_default(), now.as_nanosecond()),
                "namespace": namespace,
            },
            "involvedObject": {
                "kind": "Pod", "apiVersion": "v1", "name": meta.name, "namespace": namespace, "uid": meta.uid,
            },
            "type": if usual { "Normal" } else { "Warning" },
            "reason": reason,
            "message": message.chars().take(1000).collect::<String>(),
            "source": {"component": "kubelet", "host": self.name},
            "firstTimestamp": Time(now), "lastTimestamp": Time(now), "count": 1,
        });
        let events = Api::<Event>::namespaced(self.client.clone(), &namespace);
        if let Ok(event) = serde_json::from_value(event) {
            tokio::spawn(async move { events.create(&PostParams::default(), &event).await });
        }
    }

    async fn register(&self) -> anyhow::Result<()> {
        let name = &self.name;
        let labels = json!({
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": ARCHITECTURE,
            "topology.kubernetes.io/zone": format!("zone-{name}"),
            "topology.kubernetes.io/region": "testbed",
        });
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "status": self.status()["status"],
        });
        let nodes = Api::<v1::Node>::all(self.client.clone());
        let (params, node) = (PostParams::default(), serde_json::from_value(node)?);
        match timeout(CALL_LIMIT, nodes.create(&params, &node)).await? {
            // It has been here before.
            Err(kube::Error::Api(answer)) if answer.code == 409 => self.tell().await,
            created => Ok(created.map(drop)?),
        }
    }

    fn status(&self) -> serde_json::Value {
        let now = Time(Timestamp::now());
        let condition = |name: &str, status: &str, reason: &str| json!({"type": name, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now});
        let much = json!({"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110"});
        json!({"status": {
            "capacity": much,
            "allocatable": much,
            "addresses": [
                {"type": "InternalIP", "address": self.ip.to_string()}, {"type": "Hostname", "address": self.name},
            ],
            "conditions": [
                condition("Ready", "True", "KubeletReady"),
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            ],
            "nodeInfo": {
                "kubeletVersion": "v1.36.3", "kubeProxyVersion": "", "containerRuntimeVersion": "testbed://1",
                "osImage": "", "operatingSystem": "linux", "architecture": ARCHITECTURE, "kernelVersion": "",
                "machineID": "", "systemUUID": "", "bootID": "",
            },
        }})
    }

    async fn tell(&self) -> anyhow::Result<()> {
        let nodes = Api::<v1::Node>::all(self.client.clone());
        let (params, status) = (PatchParams::default(), self.status());
        let patch = Patch::Strategic(&status);
        timeout(CALL_LIMIT, nodes.patch_status(&self.name, &params, &patch)).await??;
        Ok(())
    }

    /// Says again and again that the node is there. Never returns.
    async fn beat(&self) {
        loop {
            let told = async {
                self.renew().await?;
                self.tell().await
            };
            if let Err(error) = told.await {
                tracing::debug!(node = self.name, %error, "a heartbeat was lost");
                sleep(AGAIN).await;
                continue;
            }
            sleep(HEARTBEAT).await;
        }
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name},
            "spec": {
                "holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": MicroTime(Timestamp::now()),
            },
        });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&lease));
        match timeout(CALL_LIMIT, leases.patch(&self.name, &params, &patch)).await? {
            Err(kube::Error::Api(answer)) if answer.code == 404 => {
                let lease = serde_json::from_value(lease)?;
                timeout(CALL_LIMIT, leases.create(&PostParams::default(), &lease)).await??;
                Ok(())
            }
            renewed => Ok(renewed.map(drop)?),
        }
    }

    /// These are the pods that are bound to it now.
    fn have(self: &Arc<Self>, all: BTreeMap<String, Pod>) {
        let mut pods = lock(&self.pods);
        let all: BTreeMap<String, Pod> =
            all.into_values().filter_map(|pod| Some((pod.metadata.uid.clone()?, pod))).collect();
        for (uid, entry) in pods.iter() {
            if !all.contains_key(uid) {
                entry.seen.send_if_modified(|seen| !std::mem::replace(&mut seen.gone, true));
            }
        }
        pods.retain(|_, entry| !entry.life.is_finished());
        for (uid, pod) in all {
            if let Some(entry) = pods.get(&uid) {
                entry.seen.send_if_modified(|seen| {
                    let news = seen.pod.metadata.resource_version != pod.metadata.resource_version;
                    seen.pod = pod;
                    news
                });
                continue;
            }
            let shared = Arc::new(Shared::new(&pod));
            let (namespace, name) = (
                pod.metadata.namespace.clone().unwrap_or_default(),
                pod.metadata.name.clone().unwrap_or_default(),
            );
            let (seen, receiver) = watch::channel(Seen { pod, gone: false });
            let life = tokio::spawn(pod::run(self.clone(), receiver, shared.clone()));
            pods.insert(uid, Entry { namespace, name, seen, shared, life });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
