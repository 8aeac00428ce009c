//! One pod's life on its node: set-up, containers, restarts, its end.

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
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use rustix::process::{Pid, Signal};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    agent::Node,
    container::{self, Plan, Running},
    environment,
    network::PodNetwork,
    probes::{self, Target, Told},
    status::{self, Conditions, Ended, State},
    volumes::{self, Volumes},
};

/// After a failure; doubled with each up to the longest. A kubelet's are 10 s and 5 minutes.
const BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A container that ran this long has its backoff forgotten.
const LONG_ENOUGH: Duration = Duration::from_secs(10);
const CALL_LIMIT: Duration = Duration::from_secs(10);

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

    /// Runs a container again and again, as its pod's policy says; returns how it ended for good.
    async fn keep(&self, place: &Place, container: &v1::Container, kind: Kind) -> Option<Ended> {
        let name = &container.name;
        let (mut backoff, mut restarts) = (BACKOFF, 0);
        loop {
            let begun = Instant::now();
            let ended = match self.start(place, container).await {
                Ok(running) => {
                    let began = Timestamp::now();
                    self.shared.update(name, |state| {
                        state.state = State::Running(began);
                        state.pid = Some(running.pid());
                        state.restarts += restarts;
                    });
                    let (code, signal, why) = self.attend(place, container, &running, kind).await;
                    let written = fs::read_to_string(self.message(name)).unwrap_or_default();
                    let message = if written.is_empty() { why } else { written };
                    let ended = Ended { code, signal, message, began, ended: Timestamp::now() };
                    self.shared.update(name, |state| {
                        state.state = State::Ended(ended.clone());
                        (state.pid, state.started, state.ready) =
                            (None, false, kind == Kind::Init && code == 0);
                    });
                    restarts = 1;
                    Some(ended)
                }
                Err((reason, error)) => {
                    let error = format!("{error:#}");
                    self.node.event(&self.pod, reason, &format!("container {name}: {error}"));
                    self.shared.update(name, |state| state.state = State::Waiting(reason, error));
                    None
                }
            };
            let policy = self.spec.restart_policy.as_deref().unwrap_or("Always");
            let again = ended.as_ref().is_none_or(|ended| match kind {
                Kind::Sidecar => true,
                Kind::Init => ended.code != 0 && policy != "Never",
                Kind::Main => policy == "Always" || policy == "OnFailure" && ended.code != 0,
            });
            if !again || self.is_stopping(kind) {
                return ended;
            }
            if begun.elapsed() > LONG_ENOUGH {
                backoff = BACKOFF;
            }
            if let Some(ended) = &ended {
                let message = format!("back-off {backoff:?} restarting failed container {name}");
                self.shared.update(name, |state| {
                    state.last = Some(ended.clone());
                    state.state = State::Waiting("CrashLoopBackOff", message);
                });
            }
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.stopping(kind) => {
                    if let Some(ended) = &ended {
                        self.shared.update(name, |state| state.state = State::Ended(ended.clone()));
                    }
                    return ended;
                }
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    async fn start(
        &self,
        place: &Place,
        container: &v1::Container,
    ) -> Result<Running, (&'static str, anyhow::Error)> {
        let asked = container.image.as_deref().unwrap_or_default();
        let image = self.node.machine.image(asked).map_err(|error| ("ErrImagePull", error))?;
        let planned = async {
            let env = environment::of(&self.node, &self.pod, &self.ip.to_string(), image, container).await?;
            let message = self.message(&container.name);
            container::message_file(&message)?;
            Plan::new(&self.pod, container, image, env, &place.volumes, &place.hosts, &message)
        };
        let plan = planned.await.map_err(|error| ("CreateContainerConfigError", error))?;
        let (root, log) = (self.folder.join("root").join(&container.name), self.log(&container.name));
        plan.start(&place.network, &root, &log).await.map_err(|error| ("CreateContainerError", error))
    }

    /// Probes a container until it ends, ends it when that is due, and tells its exit code and signal.
    async fn attend(
        &self,
        place: &Place,
        container: &v1::Container,
        running: &Running,
        kind: Kind,
    ) -> (i32, Option<i32>, String) {
        let name = &container.name;
        let target = Target { container, running, ip: place.network.ip };
        let lifecycle = container.lifecycle.clone().unwrap_or_default();
        let last = Mutex::new(String::new());
        let tell = |told| match told {
            Told::Started => self.shared.update(name, |state| state.started = true),
            Told::Ready(ready) => self.shared.update(name, |state| state.ready = ready),
            Told::Unready(why) => {
                let mut last = lock(&last);
                if *last != why {
                    self.node.event(&self.pod, "Unhealthy", &why);
                    *last = why;
                }
            }
        };
        let probing = async {
            if let Some(hook) = &lifecycle.post_start
                && let Err(error) = probes::hook(&target, hook, self.grace()).await
            {
                return format!("the postStart hook failed: {error:#}");
            }
            if kind == Kind::Init {
                return std::future::pending().await;
            }
            probes::attend(&target, &tell).await
        };
        let why = tokio::select! {
            (code, signal) = running.wait() => return (code, signal, String::new()),
            why = probing => why,
            () = self.stopping(kind) => String::new(),
        };
        self.shared.update(name, |state| state.ready = false);
        let message = format!("Stopping container {name} {why}");
        self.node.event(&self.pod, "Killing", message.trim_end());
        let ask = async {
            if let Some(hook) = &lifecycle.pre_stop
                && let Err(error) = probes::hook(&target, hook, self.grace()).await
            {
                self.node.event(&self.pod, "FailedPreStopHook", &format!("{error:#}"));
            }
            running.signal(Signal::TERM);
            std::future::pending::<()>().await;
        };
        let (code, signal) = tokio::select! {
            ended = running.wait() => ended,
            () = ask => unreachable!("it asks once, and then waits"),
            () = self.grace_over() => {
                running.signal(Signal::KILL);
                running.wait().await
            }
        };
        (code, signal, why)
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

    /// Tells the API server whatever changes. Never returns.
    async fn report(&self) {
        let (mut changes, mut seen) = (self.shared.changes.subscribe(), self.seen.clone());
        let mut told = None;
        loop {
            changes.mark_unchanged();
            let status = self.status(false);
            if told.as_ref() != Some(&status) {
                match self.tell(&status).await {
                    Ok(()) => told = Some(status),
                    Err(error) => {
                        tracing::debug!(%error, "could not tell a pod's status");
                        sleep(BACKOFF).await;
                        continue;
                    }
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                changed = seen.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }

    fn status(&self, over: bool) -> serde_json::Value {
        let containers = lock(&self.shared.containers).clone();
        let problem = lock(&self.shared.problem).clone();
        let settled = over || lock(&self.shared.network).is_some();
        let pod = self.seen.borrow().pod.clone();
        let ips = (settled.then(|| self.ip.to_string()), self.node.ip.to_string());
        let mut conditions = lock(&self.conditions);
        let ips = (ips.0, ips.1.as_str());
        status::of(&pod, &containers, &mut conditions, ips, self.began, problem.as_deref(), over)
    }

    async fn tell(&self, status: &serde_json::Value) -> anyhow::Result<()> {
        let mut status = status.clone();
        // Of a later pod of this name nothing is told.
        status["metadata"] = serde_json::json!({"uid": self.pod.metadata.uid});
        let (pods, name) = self.pods();
        let (params, patch) = (PatchParams::default(), Patch::Strategic(&status));
        let told = pods.patch_status(name, &params, &patch);
        match timeout(CALL_LIMIT, told).await? {
            Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    /// Nothing runs any more: says so.
    async fn finish(&self) {
        while !self.seen.borrow().gone && self.tell(&self.status(true)).await.is_err() {
            sleep(BACKOFF).await;
        }
    }

    /// Waits until the pod is to go, and lets it go.
    async fn leave(&self) {
        self.stopping(Kind::Main).await;
        let (pods, name) = self.pods();
        let preconditions = Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
        while !self.seen.borrow().gone {
            match timeout(CALL_LIMIT, pods.delete(name, &params)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(answer))) if [404, 409].contains(&answer.code) => return,
                _ => sleep(BACKOFF).await,
            }
        }
    }

    fn pods(&self) -> (kube::Api<Pod>, &str) {
        let meta = &self.pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let pods = kube::Api::namespaced(self.node.client.clone(), namespace);
        (pods, meta.name.as_deref().unwrap_or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
