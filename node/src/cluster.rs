//! A Kubernetes cluster with nodes on which pods really run, without containers.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use lease_testbed::{ControlPlane, ControlPlaneOptions, Folder, KubernetesAccess, wait_until};
use tokio::task::JoinSet;

use crate::{
    agent::Node,
    exec::{self, Executed},
    host::Host,
    image::Image,
    lock::lock,
    network, private,
    services::Services,
};

const LIMIT: Duration = Duration::from_secs(60);

/// The nodes and images of a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    nodes: Vec<String>,
    images: Vec<Image>,
}

/// A real control plane, with its controllers and scheduler, and nodes that run pods as processes of this machine: each
/// pod with a network, an address and a host name of its own, each container with a root, a process table, a user and
/// capabilities of its own.
///
/// The program must be in a private network ([`in_private_network`](crate::in_private_network)), which holds one
/// cluster at a time. Everything ends with the program, however that ends; or when this value is dropped.
///
/// # What is offered
/// Containers and init containers with `command`, `args`, `env` (values, and the fields metadata.name,
/// metadata.namespace and spec.nodeName); volumes of the kinds secret, hostPath (below a folder of the node, see
/// [`host_path`](Self::host_path)), emptyDir, claims bound to a PersistentVolume with a hostPath, and the projection of
/// a ServiceAccount's token; `securityContext` as far as users, groups, capabilities, privilege escalation and a
/// read-only root go; probes by httpGet; restarts with backoff; SIGTERM, grace and SIGKILL, to a main process that is
/// number 1 of its container as anywhere; Services by address and name; the API server at 10.0.0.1:443.
///
/// # What isn't offered
/// A pod that has any other field doesn't start, and its status names the field. Of the offered ones:
/// - No image is pulled: an [`Image`] names files of this machine, and every container sees the machine's own programs
///   and libraries (`/usr/bin`, `/lib`, …), read-only. A library that an image lacks isn't missed here.
/// - No cgroups: `resources` are for the scheduler only; nothing is throttled or killed for its memory. No seccomp,
///   AppArmor, SELinux, user namespaces, devices. A container that doesn't drop all capabilities has all.
/// - No DNS server: the names of Services (of a headless one, of its ready pods) are in each pod's /etc/hosts, which is
///   rewritten as they change. No names of the outside.
/// - Services carry TCP only, by a proxy in this program: a server sees the machine's address (10.244.0.1) as its
///   client's. No node ports, no session affinity.
/// - NetworkPolicy isn't enforced, and there is no ingress.
/// - Secrets aren't updated in a pod that runs, and its token isn't renewed: it is valid for as long as was asked for,
///   usually an hour.
/// - No events; no `kubectl logs`, `exec` or `port-forward`: see [`logs`](Self::logs) and [`exec`](Self::exec). No
///   metrics, no eviction by pressure.
/// - Backoff begins at 200 ms and ends at 5 s (a kubelet's: 10 s and 5 minutes). Readiness probes are tried every 200 ms
///   until they first succeed. Probes come from the machine.
/// - All nodes share one kernel, one bridge and one clock.
pub struct Cluster {
    // Dropped in this order: the users of the control plane before it.
    nodes: BTreeMap<String, Arc<Node>>,
    tasks: Mutex<JoinSet<()>>,
    plane: ControlPlane,
    _folder: Folder,
}

// === impl ClusterOptions ===

impl ClusterOptions {
    /// Adds a node; its zone is `zone-NAME`.
    #[must_use]
    pub fn node(mut self, name: impl Into<String>) -> Self {
        self.nodes.push(name.into());
        self
    }

    /// Adds an image.
    #[must_use]
    pub fn image(mut self, image: Image) -> Self {
        self.images.push(image);
        self
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts a cluster and waits until its nodes are ready: about four seconds.
    ///
    /// # Errors
    /// When the program isn't in a private network, or a server doesn't start.
    ///
    /// ```no_run
    /// use lease_node::{Cluster, ClusterOptions, Image, in_private_network};
    /// fn main() -> anyhow::Result<()> {
    ///     in_private_network()?;
    ///     let runtime = tokio::runtime::Runtime::new()?;
    ///     runtime.block_on(async {
    ///         let image = Image::new("leasehold").file("/usr/local/bin/leasehold", "target/debug/leasehold");
    ///         let image = image.entrypoint(["/usr/local/bin/leasehold"]);
    ///         let options = ClusterOptions::default().node("node-a").node("node-b").image(image);
    ///         let cluster = Cluster::start(options).await?;
    ///         println!("KUBECONFIG={}", cluster.kubeconfig().display());
    ///         cluster.stop().await;
    ///         Ok(())
    ///     })
    /// }
    /// ```
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        private::require()?;
        let mut plane = ControlPlaneOptions::default().controllers().scheduler();
        let token = |name: &str| format!("testbed-{name}");
        for name in &options.nodes {
            plane = plane.token(token(name), format!("system:node:{name}"), "system:nodes");
        }
        let folder = Folder::new("cluster")?;
        network::bridge().await?;
        let plane = ControlPlane::start(plane).await?;
        let (images, services) = (Arc::from(options.images), Services::new(plane.addr()));
        let mut nodes = BTreeMap::new();
        for (name, number) in options.nodes.iter().zip(1..=200) {
            let client = client(plane.kubeconfig(), Some(&token(name))).await?;
            let host = Host::new(name, number, client, folder.path(), Arc::clone(&images), services.clone());
            nodes.insert(name.clone(), Node::new(host).await?);
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(services.follow(client(plane.kubeconfig(), None).await?));
        let cluster = Self { nodes, tasks: Mutex::new(tasks), plane, _folder: folder };
        for node in cluster.nodes.values() {
            node.begin();
        }
        for name in cluster.nodes.keys() {
            wait_until(&format!("the node {name} is ready"), LIMIT, async || {
                let node = cluster.access().request("GET", &format!("/api/v1/nodes/{name}"), None).await;
                // Its taint is removed a little later than it becomes ready.
                node.is_ok_and(|node| node["spec"]["taints"].is_null() && node["metadata"].is_object())
            })
            .await?;
        }
        Ok(cluster)
    }

    /// Its control plane: to crash, pause and restart it, and for its audit log.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// An administrator's access.
    pub fn access(&self) -> &KubernetesAccess {
        self.plane.access()
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        self.plane.kubeconfig()
    }

    /// An administrator's client, for the present runtime.
    ///
    /// # Errors
    /// When the kubeconfig can't be read.
    pub async fn client(&self) -> anyhow::Result<Client> {
        client(self.kubeconfig(), None).await
    }

    /// Makes a server on 127.0.0.1 reachable for pods, at the address that is returned, until the cluster ends.
    ///
    /// # Errors
    /// When the system has no port left.
    pub async fn expose(&self, local: SocketAddr) -> anyhow::Result<SocketAddr> {
        let (there, forward) = network::expose(local).await?;
        lock(&self.tasks).spawn(forward);
        Ok(there)
    }

    /// The place on this machine of a node's `path`, as its pods' hostPath volumes name it.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn host_path(&self, node: &str, path: &str) -> anyhow::Result<PathBuf> {
        Ok(self.node(node)?.host.host_path(path))
    }

    /// The output of a pod's containers, one after the other, over restarts and after the pod's end; empty if there was
    /// no such pod.
    pub fn logs(&self, namespace: &str, pod: &str) -> String {
        let folders = self.nodes.values().map(|node| node.host.logs(namespace, pod));
        let mut files: Vec<PathBuf> = folders
            .flat_map(|folder| fs::read_dir(folder).into_iter().flatten())
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        files
            .iter()
            .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned())
            .collect()
    }

    /// Runs a program in a pod, beside the first of its containers that runs, as `kubectl exec` does: with that one's
    /// root, environment, user and rights. The program is found by the container's `PATH`. Cancelled, it is killed.
    ///
    /// # Errors
    /// When no container of such a pod runs, or the program has not ended within `limit`. An exit code is no error.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        command: &[&str],
        limit: Duration,
    ) -> anyhow::Result<Executed> {
        let main = self.nodes.values().find_map(|node| node.main_process(namespace, pod));
        let main = main.with_context(|| format!("no container of the pod {namespace}/{pod} runs"))?;
        exec::exec(main, command, limit).await
    }

    /// A node loses its power: its heartbeats end, its pods are off the network and their processes get SIGKILL, all at
    /// once. Neither the API server nor any peer of a connection is told.
    ///
    /// # Errors
    /// When there is no such node.
    pub async fn lose_node(&self, node: &str) -> anyhow::Result<()> {
        self.node(node)?.lose().await;
        Ok(())
    }

    /// A lost node has power again, and starts the pods that are still bound to it.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn restore_node(&self, node: &str) -> anyhow::Result<()> {
        self.node(node)?.begin();
        Ok(())
    }

    /// Ends everything; returns when nothing of it runs any more. Pods aren't asked, they are killed.
    pub async fn stop(self) {
        for node in self.nodes.values() {
            node.lose().await;
        }
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
    }

    fn node(&self, name: &str) -> anyhow::Result<&Arc<Node>> {
        self.nodes.get(name).with_context(|| {
            let known: Vec<_> = self.nodes.keys().map(String::as_str).collect();
            format!("there is no node {name}: use one of {}", known.join(", "))
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values() {
            node.abandon();
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("nodes", &self.nodes.keys()).finish_non_exhaustive()
    }
}

/// A client with the kubeconfig's own token, or with another.
async fn client(kubeconfig: &Path, token: Option<&str>) -> anyhow::Result<Client> {
    let mut kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    if let Some(token) = token {
        for named in &mut kubeconfig.auth_infos {
            if let Some(auth) = &mut named.auth_info {
                auth.token = Some(token.to_owned().into());
            }
        }
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
