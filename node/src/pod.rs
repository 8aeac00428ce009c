//! The life of one pod on its node: set-up, containers, restarts, end.

mod keep;
mod report;

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{self, Pod},
    jiff::Timestamp,
};
use rustix::process::Pid;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    host::Host,
    lock::lock,
    network::PodNetwork,
    offered,
    status::{self, ContainerState},
    volumes::{self, Volumes},
};

/// The first delay after a failure; doubled after each, up to the longest. A kubelet's are 10 s and 5 minutes.
const BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// The pod as the API server last showed it.
#[derive(Clone)]
pub(crate) struct SeenPod {
    pub(crate) pod: Pod,
    /// It no longer exists.
    pub(crate) gone: bool,
}

/// The present state of a pod, shared with its node.
pub(crate) struct PodState {
    containers: Mutex<Vec<status::Container>>,
    /// The machine's end of its cable.
    network: Mutex<Option<String>>,
    problem: Mutex<Option<String>>,
    changes: watch::Sender<u64>,
}

struct Life {
    host: Arc<Host>,
    shared: Arc<PodState>,
    seen: watch::Receiver<SeenPod>,
    /// As it was bound: the parts of its spec that matter here don't change.
    pod: Pod,
    spec: v1::PodSpec,
    ip: Ipv4Addr,
    folder: PathBuf,
    began: Timestamp,
}

/// The things that a pod's containers share.
struct Place {
    network: PodNetwork,
    volumes: Volumes,
    hosts: PathBuf,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Init,
    Main,
}

/// Runs a pod until it no longer exists. Dropping the future kills all of its processes.
pub(crate) async fn run(host: Arc<Host>, seen: watch::Receiver<SeenPod>, shared: Arc<PodState>) {
    let pod = seen.borrow().pod.clone();
    let life = Life {
        ip: host.next_ip(),
        folder: host.pod_folder(pod.metadata.uid.as_deref().unwrap_or_default()),
        spec: pod.spec.clone().unwrap_or_default(),
        began: Timestamp::now(),
        host,
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

// === impl PodState ===

impl PodState {
    pub(crate) fn new(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default().into_iter().map(|container| (container, true));
        let main = spec.containers.into_iter().map(|container| (container, false));
        let containers = init.chain(main).map(|(container, init)| status::Container {
            name: container.name,
            image: container.image.unwrap_or_default(),
            init,
            state: ContainerState::Waiting(
                if init { "PodInitializing" } else { "ContainerCreating" },
                String::new(),
            ),
            last: None,
            restarts: 0,
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
    pub(crate) fn main_processes(&self) -> Vec<Pid> {
        lock(&self.containers).iter().filter_map(|container| container.pid).collect()
    }

    pub(crate) fn veth(&self) -> Option<String> {
        lock(&self.network).clone()
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
    /// Returns when no container runs or will run.
    async fn live(&self) {
        let Some(place) = self.settle().await else { return };
        if self.initialize(&place).await {
            join_all(self.spec.containers.iter().map(|one| self.keep(&place, one, Kind::Main))).await;
        }
        self.host.services.forget(&place.hosts);
        *lock(&self.shared.network) = None;
    }

    /// Sets up the pod's network and volumes; `None` if it is deleted first.
    async fn settle(&self) -> Option<Place> {
        let mut backoff = BACKOFF;
        loop {
            let place = tokio::select! {
                place = self.place() => place,
                () = self.stopping() => return None,
            };
            match place {
                Ok(place) => {
                    self.shared.problem(None);
                    return Some(place);
                }
                Err(error) => {
                    self.tell("FailedMount", &format!("{error:#}"));
                    self.shared.problem(Some(format!("{error:#}")));
                }
            }
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.stopping() => return None,
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    async fn place(&self) -> anyhow::Result<Place> {
        offered::check(&self.spec)?;
        fs::create_dir_all(&self.folder)?;
        fs::create_dir_all(self.log("any").parent().context("no folder for logs")?)?;
        let volumes = volumes::prepare(&self.host, &self.pod, &self.folder.join("volumes")).await?;
        let (namespace, name) = self.names();
        let network = PodNetwork::start(name, self.ip).await?;
        *lock(&self.shared.network) = Some(network.veth().to_owned());
        let hosts = self.folder.join("hosts");
        self.host.services.show(&hosts, namespace, &format!("{}\t{name}", self.ip))?;
        Ok(Place { network, volumes, hosts })
    }

    /// Runs the init containers one after the other; true if the others are to run now.
    async fn initialize(&self, place: &Place) -> bool {
        for container in self.spec.init_containers.iter().flatten() {
            if self.leaving() || self.keep(place, container, Kind::Init).await != Some(0) {
                return false;
            }
        }
        !self.leaving()
    }

    fn grace(&self) -> Duration {
        let deletion = self.seen.borrow().pod.metadata.deletion_grace_period_seconds;
        let seconds = deletion.or(self.spec.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(seconds.max(0).unsigned_abs())
    }

    /// Waits until the grace is over; a later deletion with a shorter grace, or with none, counts too.
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

    async fn stopping(&self) {
        let mut seen = self.seen.clone();
        let leaving = |seen: &SeenPod| seen.gone || seen.pod.metadata.deletion_timestamp.is_some();
        let _ = seen.wait_for(leaving).await;
    }

    fn log(&self, container: &str) -> PathBuf {
        let (namespace, name) = self.names();
        self.host.logs(namespace, name).join(format!("{container}.log"))
    }

    /// Its namespace and its name.
    fn names(&self) -> (&str, &str) {
        let meta = &self.pod.metadata;
        (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    fn tell(&self, reason: &str, message: &str) {
        tracing::info!(node = self.host.name, pod = self.names().1, reason, message);
    }
}
