//! A node's agent: it registers the node, sends its heartbeats, and runs the pods that are bound to it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{self, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    host::Host,
    lock::lock,
    network,
    pod::{self, PodState, SeenPod},
    watch as watching,
};

const HEARTBEAT: Duration = Duration::from_secs(2);
const CALL_LIMIT: Duration = Duration::from_secs(10);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// In Kubernetes' terms.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// One node.
pub(crate) struct Node {
    pub(crate) host: Arc<Host>,
    /// By uid.
    pods: Mutex<BTreeMap<String, Entry>>,
    agent: Mutex<Option<JoinHandle<()>>>,
}

/// A pod of the node.
struct Entry {
    seen: watch::Sender<SeenPod>,
    shared: Arc<PodState>,
    life: JoinHandle<()>,
}

impl Node {
    pub(crate) async fn new(host: Host) -> anyhow::Result<Arc<Self>> {
        network::add_address(host.ip).await?;
        Ok(Arc::new(Self { host: Arc::new(host), pods: Mutex::default(), agent: Mutex::default() }))
    }

    /// Begins its work, in a task.
    pub(crate) fn begin(self: &Arc<Self>) {
        let node = self.clone();
        let agent = tokio::spawn(async move {
            while let Err(error) = node.register().await {
                tracing::debug!(node = node.host.name, %error, "could not register; retrying");
                sleep(RETRY_DELAY).await;
            }
            let bound = format!("spec.nodeName={}", node.host.name);
            let pods = watching::keep(Api::<Pod>::all(node.host.client.clone()), Some(bound), |all| {
                node.have(all);
                std::future::ready(())
            });
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
        // Off the network first: a kernel without power tells no peer that a connection has ended.
        let cables: Vec<String> = pods.values().filter_map(|entry| entry.shared.veth()).collect();
        if let Err(error) = network::unplug(&cables).await {
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

    /// The main process of a pod's first container that runs.
    pub(crate) fn main_process(&self, namespace: &str, name: &str) -> Option<Pid> {
        let pods = lock(&self.pods);
        pods.values().find_map(|entry| {
            let seen = entry.seen.borrow();
            let metadata = &seen.pod.metadata;
            let named =
                metadata.namespace.as_deref() == Some(namespace) && metadata.name.as_deref() == Some(name);
            if named { entry.shared.main_processes().first().copied() } else { None }
        })
    }

    /// As [`lose`](Self::lose), where nothing can be awaited.
    pub(crate) fn abandon(&self) {
        let agent = lock(&self.agent).take();
        let pods = std::mem::take(&mut *lock(&self.pods));
        for task in agent.into_iter().chain(pods.into_values().map(|entry| entry.life)) {
            task.abort();
        }
    }

    async fn register(&self) -> anyhow::Result<()> {
        let name = &self.host.name;
        let mut node = self.status();
        node["metadata"] = json!({"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": ARCHITECTURE,
            "topology.kubernetes.io/zone": format!("zone-{name}"),
        }});
        let (params, node) = (PostParams::default(), serde_json::from_value(node)?);
        match timeout(CALL_LIMIT, self.nodes().create(&params, &node)).await? {
            // It was registered before it was lost.
            Err(kube::Error::Api(answer)) if answer.code == 409 => self.report().await,
            created => Ok(created.map(drop)?),
        }
    }

    fn status(&self) -> Value {
        let now = Time(Timestamp::now());
        let resources = json!({"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110"});
        json!({"status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": self.host.ip.to_string()}],
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": now,
            }],
        }})
    }

    async fn report(&self) -> anyhow::Result<()> {
        let (params, status) = (PatchParams::default(), self.status());
        let patch = Patch::Strategic(&status);
        timeout(CALL_LIMIT, self.nodes().patch_status(&self.host.name, &params, &patch)).await??;
        Ok(())
    }

    /// Sends heartbeats. Never returns.
    async fn beat(&self) {
        loop {
            match self.report().await {
                Ok(()) => sleep(HEARTBEAT).await,
                Err(error) => {
                    tracing::debug!(node = self.host.name, %error, "a heartbeat was lost");
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    fn nodes(&self) -> Api<v1::Node> {
        Api::all(self.host.client.clone())
    }

    /// Takes over the list of pods that are bound to it now.
    fn have(&self, all: BTreeMap<String, Pod>) {
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
            let shared = Arc::new(PodState::new(&pod));
            let (seen, receiver) = watch::channel(SeenPod { pod, gone: false });
            let life = tokio::spawn(pod::run(self.host.clone(), receiver, shared.clone()));
            pods.insert(uid, Entry { seen, shared, life });
        }
    }
}
