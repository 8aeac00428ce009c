//! In place of kube-proxy and the cluster's DNS: the address and the name of a Service lead to its ready pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::{lock::lock, network, watch};

/// The Service by which pods reach the API server.
const KUBERNETES: &str = "default/kubernetes";

/// The Services of a cluster.
pub(crate) struct Services {
    apiserver: SocketAddr,
    state: Mutex<State>,
    /// The present targets of each address.
    routes: Arc<Mutex<Routes>>,
    /// Locked over a whole change.
    listening: tokio::sync::Mutex<Listening>,
}

type Routes = BTreeMap<SocketAddr, Vec<SocketAddr>>;

#[derive(Default)]
struct State {
    services: BTreeMap<String, Service>,
    slices: BTreeMap<String, EndpointSlice>,
    hosts: Vec<Hosts>,
}

#[derive(Default)]
struct Listening {
    addresses: BTreeSet<Ipv4Addr>,
    tasks: BTreeMap<SocketAddr, Task>,
}

/// A pod's /etc/hosts.
#[derive(Clone)]
struct Hosts {
    path: PathBuf,
    namespace: String,
    own: String,
}

/// A task that ends with this handle.
struct Task(AbortHandle);

impl Services {
    pub(crate) fn new(apiserver: SocketAddr) -> Arc<Self> {
        let (state, routes) = (Mutex::default(), Arc::default());
        Arc::new(Self { apiserver, state, routes, listening: tokio::sync::Mutex::default() })
    }

    /// Follows Services and EndpointSlices. Never returns.
    pub(crate) async fn follow(self: Arc<Self>, client: Client) {
        let services = watch::keep(Api::<Service>::all(client.clone()), None, |all| {
            self.lock().services = all;
            self.apply()
        });
        let slices = watch::keep(Api::<EndpointSlice>::all(client), None, |all| {
            self.lock().slices = all;
            self.apply()
        });
        tokio::join!(services, slices);
    }

    /// Keeps a hosts file for a pod up to date from now on; `own` is the line of the pod itself.
    pub(crate) fn show(&self, path: &Path, namespace: &str, own: &str) -> anyhow::Result<()> {
        let hosts = Hosts { path: path.to_owned(), namespace: namespace.to_owned(), own: own.to_owned() };
        let mut state = self.lock();
        state.write(&hosts)?;
        state.hosts.push(hosts);
        Ok(())
    }

    /// Stops keeping a hosts file up to date.
    pub(crate) fn forget(&self, path: &Path) {
        self.lock().hosts.retain(|hosts| hosts.path != path);
    }

    async fn apply(&self) {
        let mut listening = self.listening.lock().await;
        let routes = {
            let state = self.lock();
            for hosts in &state.hosts {
                if let Err(error) = state.write(hosts) {
                    tracing::warn!(%error, "could not write a pod's hosts");
                }
            }
            state.routes(self.apiserver)
        };
        // Without a ready pod nothing listens, so that connections are refused.
        let wanted: Vec<_> = routes.iter().filter(|(_, to)| !to.is_empty()).map(|(from, _)| *from).collect();
        *lock(&self.routes) = routes;
        listening.tasks.retain(|from, _| wanted.contains(from));
        for from in wanted {
            if listening.tasks.contains_key(&from) {
                continue;
            }
            match self.listen(&mut listening.addresses, from).await {
                Ok(task) => drop(listening.tasks.insert(from, task)),
                Err(error) => tracing::warn!(%from, %error, "could not listen on a service's address"),
            }
        }
    }

    async fn listen(&self, addresses: &mut BTreeSet<Ipv4Addr>, from: SocketAddr) -> anyhow::Result<Task> {
        if let IpAddr::V4(ip) = from.ip()
            && !addresses.contains(&ip)
        {
            network::add_address(ip).await?;
            addresses.insert(ip);
        }
        let listener = TcpListener::bind(from).await?;
        let (routes, turn) = (self.routes.clone(), AtomicUsize::new(0));
        let task = tokio::spawn(network::forward(listener, move || {
            let routes = lock(&routes);
            let to = routes.get(&from)?;
            to.get(turn.fetch_add(1, Ordering::Relaxed) % to.len().max(1)).copied()
        }));
        Ok(Task(task.abort_handle()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn routes(&self, apiserver: SocketAddr) -> Routes {
        let mut routes = Routes::new();
        for (key, service) in &self.services {
            let Some(spec) = &service.spec else { continue };
            let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) else {
                continue;
            };
            for port in spec.ports.iter().flatten() {
                let Ok(number) = u16::try_from(port.port) else { continue };
                let to =
                    if key == KUBERNETES { vec![apiserver] } else { self.ready(key, port.name.as_deref()) };
                routes.insert(SocketAddr::from((ip, number)), to);
            }
        }
        routes
    }

    /// The slices of a Service.
    fn slices(&self, service: &str) -> impl Iterator<Item = &EndpointSlice> {
        let (namespace, name) = service.split_once('/').unwrap_or_default();
        self.slices.values().filter(move |slice| {
            let labels = slice.metadata.labels.as_ref();
            slice.metadata.namespace.as_deref() == Some(namespace)
                && labels
                    .and_then(|labels| labels.get("kubernetes.io/service-name"))
                    .is_some_and(|of| of == name)
        })
    }

    /// The addresses at which the ready pods of a Service serve its port of this name.
    fn ready(&self, service: &str, port: Option<&str>) -> Vec<SocketAddr> {
        let mut to = Vec::new();
        for slice in self.slices(service) {
            let of_name = |known: &&k8s_openapi::api::discovery::v1::EndpointPort| {
                known.name.as_deref().unwrap_or_default() == port.unwrap_or_default()
            };
            let number = slice.ports.iter().flatten().find(of_name).and_then(|port| port.port);
            let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else { continue };
            to.extend(addresses(slice).map(|ip| SocketAddr::from((ip, number))));
        }
        to
    }

    /// Writes a pod's hosts file in place: it is mounted.
    fn write(&self, hosts: &Hosts) -> anyhow::Result<()> {
        let mut text = format!("127.0.0.1\tlocalhost\n{}\n", hosts.own);
        for (key, service) in &self.services {
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            let mut names =
                format!("{name}.{namespace}.svc.cluster.local {name}.{namespace}.svc {name}.{namespace}");
            if namespace == hosts.namespace {
                names += &format!(" {name}");
            }
            match service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) {
                Some("None") => {
                    for ip in self.slices(key).flat_map(addresses) {
                        text += &format!("{ip}\t{names}\n");
                    }
                }
                Some(ip) if !ip.is_empty() => text += &format!("{ip}\t{names}\n"),
                _ => {}
            }
        }
        let old = fs::read(&hosts.path).unwrap_or_default();
        if old != text.as_bytes() {
            let mut file =
                fs::OpenOptions::new().create(true).truncate(false).write(true).open(&hosts.path)?;
            file.write_all(text.as_bytes())?;
            file.set_len(text.len().try_into()?)?;
        }
        Ok(())
    }
}

/// The ready addresses of a slice.
fn addresses(slice: &EndpointSlice) -> impl Iterator<Item = Ipv4Addr> {
    let ready = slice.endpoints.iter().filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok())
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
