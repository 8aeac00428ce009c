//! One pod's life on its node: set-up, containers, restarts, its end.

mod keep;
mod report;

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, bail};
use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use k8s_openapi::{
    api::core::v1::{self, Pod},
    jiff::Timestamp,
};
use rustix::process::Pid;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    agent::Node,
    network::PodNetwork,
    probes,
    status::{self, Conditions, Ended, State},
    volumes::{self, Volumes},
};

/// After a failure; doubled with each up to the longest. A kubelet's are 10 s and 5 minutes.
const BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// The pod as the API server last showed it.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) pod: Pod,
    /// It exists no more.
    pub(super) gone: bool,
}

/// What others may see of a pod that runs, and do to it.
pub(super) struct Shared {
    containers: Mutex<Vec<status::Container>>,
    /// The machine's end of its cable, and the process that holds its network.
    network: Mutex<Option<(String, Option<Pid>)>>,
    problem: Mutex<Option<String>>,
    changes: watch::Sender<u64>,
}

struct Life {
    node: Arc<Node>,
    shared: Arc<Shared>,
    seen: watch::Receiver<Seen>,
    /// As it was bound: a pod's spec doesn't change as far as it concerns us.
    pod: Pod,
    spec: v1::PodSpec,
    ip: Ipv4Addr,
    folder: PathBuf,
    began: Timestamp,
    conditions: Mutex<Conditions>,
    /// Whether the containers have ended that sidecars are there for.
    served: watch::Sender<bool>,
}

/// What a pod's containers have in common.
struct Place {
    network: PodNetwork,
    volumes: Volumes,
    hosts: PathBuf,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Init,
    Sidecar,
    Main,
}

/// Runs a pod until it exists no more. Dropping the future kills all of its processes.
pub(super) async fn run(node: Arc<Node>, seen: watch::Receiver<Seen>, shared: Arc<Shared>) {
    let pod = seen.borrow().pod.clone();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let life = Life {
        ip: node.next_ip(),
        folder: node.folder.join("pods").join(uid),
        spec: pod.spec.clone().unwrap_or_default(),
        began: Timestamp::now(),
        conditions: Mutex::default(),
        served: watch::Sender::new(false),
        node,
        shared,
        seen,
        pod,
    };
    let phase = life.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if !matches!(phase, Some("Succeeded" | "Failed")) {
        tokio::select! {
            () = life.live() => {}
            () = life.report() => {}
        }
        life.finish().await;
    }
    life.leave().await;
    let _ = fs::remove_dir_all(&life.folder);
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default().into_iter().map(|container| (container, true));
        let main = spec.containers.into_iter().map(|container| (container, false));
        let known = pod.status.iter().flat_map(|status| {
            status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
        });
        // On a node that was lost and is back, what ran is started again.
        let restarts: BTreeMap<String, i32> = known
            .map(|old| (old.name.clone(), old.restart_count + i32::from(old.started == Some(true))))
            .collect();
        let containers = init.chain(main).map(|(container, init)| status::Container {
            restarts: restarts.get(&container.name).copied().unwrap_or(0),
            name: container.name,
            image: container.image.unwrap_or_default(),
            init,
            state: State::Waiting(if init { "PodInitializing" } else { "ContainerCreating" }, String::new()),
            last: None,
            started: false,
            ready: false,
            pid: None,
        });
        Self {
            containers: Mutex::new(containers.collect()),
            network: Mutex::new(None),
            problem: Mutex::new(None),
            changes: watch::Sender::new(0),
        }
    }

    /// The main processes of its containers.
    pub(super) fn main_processes(&self) -> Vec<Pid> {
        lock(&self.containers).iter().filter_map(|container| container.pid).collect()
    }

    pub(super) fn veth(&self) -> Option<String> {
        lock(&self.network).as_ref().map(|(veth, _)| veth.clone())
    }

    /// The process that holds its network.
    pub(super) fn holder(&self) -> Option<Pid> {
        lock(&self.network).as_ref().and_then(|(_, holder)| *holder)
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut status::Container)) {
        if let Some(container) = lock(&self.containers).iter_mut().find(|container| container.name == name) {
            change(container);
        }
        self.changed();
    }

    fn problem(&self, problem: Option<String>) {
        *lock(&self.problem) = problem;
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

// === impl Life ===

impl Life {
    /// Returns when no container runs and none will.
    async fn live(&self) {
        let Some(place) = self.settle().await else { return };
        let mut sidecars = FuturesUnordered::<BoxFuture<'_, Option<Ended>>>::new();
        let failed = self.initialize(&place, &mut sidecars).await;
        if !failed && !self.leaving() {
            let main = self.spec.containers.iter().map(|container| self.keep(&place, container, Kind::Main));
            let mut main = Box::pin(join_all(main));
            loop {
                tokio::select! {
                    _ = &mut main => break,
                    _ = sidecars.next(), if !sidecars.is_empty() => {}
                }
            }
        }
        self.served.send_replace(true);
        while sidecars.next().await.is_some() {}
        self.node.machine.services.forget(&place.hosts);
        *lock(&self.shared.network) = None;
    }

    /// The pod's network and volumes; `None` if it is to leave first.
    async fn settle(&self) -> Option<Place> {
        let mut backoff = BACKOFF;
        loop {
            let place = tokio::select! {
                place = self.place() => place,
                () = self.stopping(Kind::Main) => return None,
            };
            let error = match place {
                Ok(place) => {
                    self.shared.problem(None);
                    return Some(place);
                }
                Err(error) => format!("{error:#}"),
            };
            self.node.event(&self.pod, "FailedMount", &error);
            self.shared.problem(Some(error));
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.stopping(Kind::Main) => return None,
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    async fn place(&self) -> anyhow::Result<Place> {
        if self.spec.host_network == Some(true) {
            bail!("hostNetwork is not offered here: give the pod a network of its own");
        }
        for container in self.spec.containers.iter().chain(self.spec.init_containers.iter().flatten()) {
            probes::check(container).with_context(|| format!("container {}", container.name))?;
        }
        fs::create_dir_all(&self.folder)?;
        fs::create_dir_all(self.log("any").parent().context("no folder for logs")?)?;
        let ip = self.ip.to_string();
        let volumes = volumes::prepare(&self.node, &self.pod, &ip, &self.folder.join("volumes")).await?;
        let name = self.pod.metadata.name.as_deref().unwrap_or_default();
        let host_name = self.spec.hostname.as_deref().unwrap_or(name);
        let network = PodNetwork::start(host_name, self.ip).await?;
        *lock(&self.shared.network) = Some((network.veth().to_owned(), network.holder()));
        let hosts = self.folder.join("hosts");
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        self.node.machine.services.show(&hosts, namespace, &format!("{ip}\t{host_name}"))?;
        Ok(Place { network, volumes, hosts })
    }

    /// Runs the init containers one after the other; true if the pod has failed by that.
    async fn initialize<'a>(
        &'a self,
        place: &'a Place,
        sidecars: &mut FuturesUnordered<BoxFuture<'a, Option<Ended>>>,
    ) -> bool {
        for container in self.spec.init_containers.iter().flatten() {
            if self.leaving() {
                return false;
            }
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars.push(Box::pin(self.keep(place, container, Kind::Sidecar)));
                let mut changes = self.shared.changes.subscribe();
                let started = || {
                    let all = lock(&self.shared.containers);
                    all.iter().any(|known| known.name == container.name && known.started)
                };
                while !started() {
                    tokio::select! {
                        _ = changes.changed() => {}
                        _ = sidecars.next() => {}
                        () = self.stopping(Kind::Main) => return false,
                    }
                }
                continue;
            }
            let mut ended = Box::pin(self.keep(place, container, Kind::Init));
            let ended = loop {
                tokio::select! {
                    ended = &mut ended => break ended,
                    _ = sidecars.next(), if !sidecars.is_empty() => {}
                }
            };
            if ended.is_none_or(|ended| ended.code != 0) {
                return true;
            }
        }
        false
    }

    fn grace(&self) -> Duration {
        let seen = self.seen.borrow();
        let said = seen.pod.metadata.deletion_grace_period_seconds;
        let seconds = said.or(self.spec.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(seconds.max(0).unsigned_abs())
    }

    /// A later, shorter grace counts too, and a deletion without any.
    async fn grace_over(&self) {
        let (mut seen, began) = (self.seen.clone(), Instant::now());
        loop {
            if seen.borrow_and_update().gone {
                return;
            }
            tokio::select! {
                () = sleep_until(began + self.grace()) => return,
                changed = seen.changed() => if changed.is_err() { return },
            }
        }
    }

    fn leaving(&self) -> bool {
        let seen = self.seen.borrow();
        seen.gone || seen.pod.metadata.deletion_timestamp.is_some()
    }

    fn is_stopping(&self, kind: Kind) -> bool {
        if kind == Kind::Sidecar { *self.served.borrow() || self.seen.borrow().gone } else { self.leaving() }
    }

    async fn stopping(&self, kind: Kind) {
        let (mut seen, mut served) = (self.seen.clone(), self.served.subscribe());
        while !self.is_stopping(kind) {
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { return },
                _ = served.changed() => {}
            }
        }
    }

    fn message(&self, container: &str) -> PathBuf {
        self.folder.join(format!("message.{container}"))
    }

    fn log(&self, container: &str) -> PathBuf {
        let meta = &self.pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        let folder = self.node.logs(namespace.unwrap_or_default(), name.unwrap_or_default());
        folder.join(format!("{container}.log"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
