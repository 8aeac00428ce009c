//! A Kubernetes cluster with nodes on which pods really run, without containers.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::{Pid, Signal};
use tokio::task::JoinSet;

use crate::{
    ControlPlane, ControlPlaneOptions, KubernetesAccess, node,
    node::{Image, Machine, Node, Services},
    processes,
    supervisor::{Folder, supervisor},
    wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);

/// How a cluster is started.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    nodes: Vec<String>,
    images: Vec<Image>,
    plane: ControlPlaneOptions,
}

/// A real control plane, with its controllers and scheduler, and nodes that run pods as processes of this machine: each
/// pod with a network, an address and a host name of its own, each container with a root, a process table, a user and
/// capabilities of its own.
///
/// The program must be in a private network ([`in_private_network`](crate::in_private_network)), which holds one
/// cluster at a time. Everything ends with the program, however that ends; or when this value is dropped.
///
/// # What pods find
/// Init containers and sidecars; `command`, `args`, `env` and `envFrom` with `$(VAR)`, fields, Secrets and ConfigMaps;
/// volumes of the kinds emptyDir, secret, configMap, downwardAPI, projected (with tokens bound to the pod), hostPath
/// (below a folder of the node's, see [`host_path`](Self::host_path)), and claims bound to a PersistentVolume with such
/// a hostPath; `securityContext` as far as users, groups, capabilities, privilege escalation and a read-only root go;
/// probes by httpGet, tcpSocket and exec; hooks; restarts with backoff; SIGTERM, grace and SIGKILL, to a main process
/// that is number 1 of its container as anywhere; Services by address and name; the API server at 10.0.0.1:443.
///
/// # What isn't offered
/// - No image is pulled: an [`Image`] names files of this machine, and every container sees the machine's own programs
///   and libraries (`/usr/bin`, `/lib`, …), read-only. An image that lacks a library isn't found out here.
/// - No cgroups: `resources` are the scheduler's only; nothing is throttled or killed for its memory. No seccomp,
///   AppArmor, SELinux, user namespaces, devices.
/// - No DNS server: the names of Services (of a headless one, of its ready pods) are in each pod's /etc/hosts, which is
///   rewritten as they change. No names of the outside.
/// - Services carry TCP only, by a proxy in this program: a server sees the machine's address (10.244.0.1) as its
///   client's. No node ports, no session affinity. Environment variables for Services other than `kubernetes` aren't
///   set.
/// - NetworkPolicy isn't enforced, there is no ingress and no hostNetwork, hostPort or hostPID.
/// - Secrets and ConfigMaps aren't updated in a pod that runs, and its tokens aren't renewed: they are good for as long
///   as they were asked for, usually an hour.
/// - No `kubectl logs`, `exec` or `port-forward`: see [`logs`](Self::logs). No metrics, no eviction by pressure, no
///   ephemeral containers, no resizing in place, no static pods. No grpc probes and none by HTTPS: such a pod doesn't
///   start, and says so.
/// - Backoff begins at 200 ms and ends at 5 s (a kubelet's: 10 s and 5 minutes). Startup and readiness probes are tried
///   every 200 ms until they first succeed. Probes come from the machine, so a [`cut_pod`](Self::cut_pod) fails them.
/// - All nodes share one kernel, one bridge and one clock.
pub struct Cluster {
    // Dropped in this order: whoever uses the control plane first.
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

    /// How the control plane is started; its controllers and scheduler always are.
    #[must_use]
    pub fn control_plane(mut self, options: ControlPlaneOptions) -> Self {
        self.plane = options;
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
    /// use lease_testbed::{Cluster, ClusterOptions, Image, in_private_network};
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
        node::demand()?;
        let mut plane = options.plane.controllers().scheduler();
        let user = |name: &str| (format!("testbed-{name}"), format!("system:node:{name}"));
        for name in &options.nodes {
            let (token, user) = user(name);
            plane = plane.token(token, user, "system:nodes");
        }
        let folder = supervisor()?.folder("cluster")?;
        node::bridge().await?;
        let plane = ControlPlane::start(plane).await?;
        let services = Services::new(plane.addr());
        let machine = Arc::new(Machine { images: options.images, services: services.clone() });
        let mut nodes = BTreeMap::new();
        for (name, number) in options.nodes.iter().zip(1..=200) {
            let client = client(plane.kubeconfig(), Some(&user(name).0)).await?;
            nodes
                .insert(name.clone(), Node::new(name, number, client, folder.path(), machine.clone()).await?);
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
                // Its taint goes a little later than it becomes ready.
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
        let (there, forward) = node::expose(local).await?;
        lock(&self.tasks).spawn(forward);
        Ok(there)
    }

    /// Where a node's `path` is on this machine, for its pods' hostPath volumes.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn host_path(&self, node: &str, path: &str) -> anyhow::Result<PathBuf> {
        Ok(self.node(node)?.host_path(path))
    }

    /// What a pod's containers have printed, one after the other, over restarts and after the pod's end; empty if there
    /// was no such pod.
    pub fn logs(&self, namespace: &str, pod: &str) -> String {
        let folders = self.nodes.values().map(|node| node.logs(namespace, pod));
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

    /// The same of one container.
    pub fn container_logs(&self, namespace: &str, pod: &str, container: &str) -> String {
        let files =
            self.nodes.values().map(|node| node.logs(namespace, pod).join(format!("{container}.log")));
        files.map(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()).collect()
    }

    /// The pods that have a log, as namespace and name, in order: also those that are gone.
    pub fn logged_pods(&self) -> Vec<(String, String)> {
        let entries = |folder: PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten();
            entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        };
        let mut pods: Vec<_> = self
            .nodes
            .values()
            .flat_map(|node| {
                let logs = node.logs("", "");
                entries(logs.clone()).flat_map(move |namespace| {
                    entries(logs.join(&namespace)).map(move |pod| (namespace.clone(), pod))
                })
            })
            .collect();
        pods.sort();
        pods.dedup();
        pods
    }

    /// A node loses its power: its heartbeats end, its pods are off the network and their processes get SIGKILL, all at
    /// once. Nobody is told, neither the API server nor whoever they have connections to.
    ///
    /// # Errors
    /// When there is no such node.
    pub async fn lose_node(&self, node: &str) -> anyhow::Result<()> {
        self.node(node)?.lose().await;
        Ok(())
    }

    /// A lost node has power again, and starts what is still bound to it.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn restore_node(&self, node: &str) -> anyhow::Result<()> {
        self.node(node)?.begin();
        Ok(())
    }

    /// The ids of all processes of a pod.
    ///
    /// # Errors
    /// When it runs on none of the nodes.
    pub fn pod_processes(&self, namespace: &str, pod: &str) -> anyhow::Result<Vec<u32>> {
        let pids = self.pids(namespace, pod)?;
        Ok(pids.into_iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect())
    }

    /// SIGSTOP to all processes of a pod; returns when none executes anything.
    ///
    /// # Errors
    /// When it runs on none of the nodes.
    pub async fn pause_pod(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        self.pids(namespace, pod)?;
        // One may have just started another: asked again, until none is found that runs.
        wait_until("the pod has stopped", LIMIT, async || {
            let mut running = self.pids(namespace, pod).unwrap_or_default();
            running.retain(|pid| !processes::has_stopped(*pid).unwrap_or(false));
            for pid in &running {
                let _ = rustix::process::kill_process(*pid, Signal::STOP);
            }
            running.is_empty()
        })
        .await
    }

    /// SIGCONT to all processes of a pod.
    ///
    /// # Errors
    /// When it runs on none of the nodes.
    pub fn resume_pod(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        for pid in self.pids(namespace, pod)? {
            // One that was on its way out may have gone.
            let _ = rustix::process::kill_process(pid, Signal::CONT);
        }
        Ok(())
    }

    /// Sends a signal to the main process of each of a pod's containers.
    ///
    /// # Errors
    /// When it runs on none of the nodes.
    pub fn signal_pod(&self, namespace: &str, pod: &str, signal: Signal) -> anyhow::Result<()> {
        for pid in self.find(namespace, pod)?.0 {
            rustix::process::kill_process(pid, signal)?;
        }
        Ok(())
    }

    /// Cuts a pod off the network: what is sent to it and from it is lost, without a word.
    ///
    /// # Errors
    /// When it runs on none of the nodes.
    pub async fn cut_pod(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        node::plug(&[self.cable(namespace, pod)?], false).await
    }

    /// Connects a pod again.
    ///
    /// # Errors
    /// When it runs on none of the nodes.
    pub async fn mend_pod(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        node::plug(&[self.cable(namespace, pod)?], true).await
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

    fn find(&self, namespace: &str, pod: &str) -> anyhow::Result<(Vec<Pid>, Option<Pid>, Option<String>)> {
        let found = self.nodes.values().find_map(|node| node.pod(namespace, pod));
        found.with_context(|| format!("the pod {namespace}/{pod} is on none of the nodes"))
    }

    fn pids(&self, namespace: &str, pod: &str) -> anyhow::Result<Vec<Pid>> {
        let pids: Vec<Pid> = self.find(namespace, pod)?.0.into_iter().flat_map(node::processes).collect();
        if pids.is_empty() {
            bail!("no container of the pod {namespace}/{pod} runs");
        }
        Ok(pids)
    }

    fn cable(&self, namespace: &str, pod: &str) -> anyhow::Result<String> {
        self.find(namespace, pod)?.2.with_context(|| format!("the pod {namespace}/{pod} has no network yet"))
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
