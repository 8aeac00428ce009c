//! A real Kubernetes control plane without containers, in a throw-away folder, and the means to break it.

mod access;
mod audit;
mod binaries;
mod client_go;
mod identity;
mod options;
mod plain;
mod server;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde_json::json;

use self::binaries::KubernetesBinaries;
pub use self::{
    access::KubernetesAccess,
    audit::{AuditEvent, AuditLog},
    client_go::client_go_candidate,
    identity::Identity,
    options::ControlPlaneOptions,
    plain::PlainGate,
    server::KubernetesServer,
};
use crate::{
    etcd::{Etcd, EtcdOptions},
    ports::ReservedPort,
    process::{Process, ProcessCommand},
    supervisor::Folder,
    wait::wait_for,
};

/// Not a secret: the server is reachable from this machine only, and holds no data of value.
const ADMIN_TOKEN: &str = "testbed";

/// Cold caches and a busy machine included.
const READY_LIMIT: Duration = Duration::from_secs(300);
/// As a kubelet's grace. An API server waits for the connections of its clients, for a half-open one a minute.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// A kube-apiserver of our own with an etcd behind it, on a free port of 127.0.0.1; a controller manager and a
/// scheduler on request. Every request to it is in its audit log.
///
/// Dropping it kills it and removes its folder. It may be shared by tests with runtimes of their own, in a static too:
/// whatever ends the process ends the servers.
pub struct ControlPlane {
    // Fields are dropped in this order: the processes, their store, then their folder.
    others: Vec<Process>,
    apiserver: Mutex<Option<Arc<Process>>>,
    etcd: Etcd,
    access: KubernetesAccess,
    port: ReservedPort,
    binaries: KubernetesBinaries,
    options: ControlPlaneOptions,
    folder: Folder,
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready: two to three seconds. Its program is built first, for some
    /// minutes, unless it is in the cache.
    ///
    /// # Errors
    /// When the program can't be built (the message says what to install), or a server doesn't start (the message has
    /// its last lines).
    ///
    /// ```no_run
    /// # #[tokio::main] async fn main() -> anyhow::Result<()> {
    /// use lease_testbed::{ControlPlane, ControlPlaneOptions};
    /// use serde_json::json;
    /// let kubernetes = ControlPlane::start(ControlPlaneOptions::default()).await?;
    /// kubernetes.access().create_namespace("app").await?;
    /// let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]}]);
    /// let worker = kubernetes.access().create_identity("app", "worker", rules).await?;
    /// println!("KUBECONFIG={}", worker.kubeconfig().display());
    /// # Ok(()) }
    /// ```
    pub async fn start(options: ControlPlaneOptions) -> anyhow::Result<Self> {
        let binaries = KubernetesBinaries::find().await?;
        let folder = Folder::new("kubernetes")?;
        let etcd = Etcd::start(EtcdOptions::default().fsync(options.fsync)).await?;
        let port = ReservedPort::new().context("no free port")?;
        write_settings(folder.path(), &options)?;
        let access = KubernetesAccess::new(folder.path().join("admin.kubeconfig"), folder.path());
        let apiserver = Mutex::new(None);
        let mut plane = Self { others: Vec::new(), apiserver, etcd, access, port, binaries, options, folder };
        plane.start_again().await?;
        plane.start_others()?;
        Ok(plane)
    }

    /// Builds its programs and its etcd's unless they are in the cache, which needs the network.
    ///
    /// # Errors
    /// When they can't be built; the message says what to install.
    pub async fn prepare() -> anyhow::Result<()> {
        KubernetesBinaries::find().await?;
        Etcd::prepare().await
    }

    /// An administrator's access to it.
    pub fn access(&self) -> &KubernetesAccess {
        &self.access
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        self.access.kubeconfig()
    }

    /// The address on which the API server listens, by TLS, the same after every restart; for a proxy in TCP mode in
    /// front of it. Its certificate is valid for any port of 127.0.0.1.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// The API server's url.
    pub fn url(&self) -> String {
        format!("https://{}", self.addr())
    }

    /// The etcd behind it: to kill, pause and restart it.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The audit log of the API server, over all of its restarts.
    pub fn audit(&self) -> AuditLog {
        AuditLog::new(self.folder.path().join("audit.log"))
    }

    /// A port on which the API server is reached *without* TLS, so that a proxy in front of it can see, hold and lose
    /// single requests.
    ///
    /// # Errors
    /// When the system has no free port, or the API server's certificate can't be read.
    pub fn plain_gate(&self) -> anyhow::Result<PlainGate> {
        PlainGate::start(self.addr(), &self.certificate())
    }

    /// Kills the API server by SIGKILL; returns when it has ended. Its etcd runs on.
    ///
    /// # Errors
    /// When it doesn't run.
    pub async fn crash(&self) -> anyhow::Result<()> {
        self.take()?.kill().await.map(drop)
    }

    /// Ends the API server by SIGTERM: pending requests are answered, watches end. If it waits for a client that has gone
    /// silent, it is killed after 3 s, as by a kubelet after its grace.
    ///
    /// # Errors
    /// When it doesn't run.
    pub async fn stop(&self) -> anyhow::Result<()> {
        let apiserver = self.take()?;
        apiserver.signal(Signal::TERM)?;
        match apiserver.wait(STOP_GRACE).await {
            Ok(_) => Ok(()),
            Err(_) => apiserver.kill().await.map(drop),
        }
    }

    /// Starts the API server again after a crash or a stop, on the same port, and waits until it is ready.
    ///
    /// # Errors
    /// When it runs, or doesn't start.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        if self.lock().is_some() {
            bail!("the API server runs already: stop or crash it first");
        }
        // It ends at once if an outgoing connection happens to have its port, or if its etcd doesn't answer.
        let started = wait_for("the API server is ready", READY_LIMIT, async || self.begin().await);
        tokio::time::timeout(READY_LIMIT, started)
            .await
            .unwrap_or_else(|_| bail!("the API server runs, and was not ready within {READY_LIMIT:?}"))
    }

    /// Starts it, and waits until it is ready or has ended.
    async fn begin(&self) -> anyhow::Result<()> {
        let apiserver = Arc::new(self.apiserver_command()?.spawn()?);
        *self.lock() = Some(apiserver.clone());
        let certificate = self.certificate();
        loop {
            if let Some(status) = apiserver.exit_status() {
                bail!("it has ended ({status}); its last lines:\n{}", apiserver.tail());
            }
            // It makes its certificate at its first start.
            if certificate.is_file() {
                self.write_kubeconfig()?;
                if self.access.ready().await.is_ok() {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// [`stop`](Self::stop), then [`start_again`](Self::start_again).
    ///
    /// # Errors
    /// As theirs.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// SIGSTOP to the API server; returns when it executes nothing. Its connections stay open, and the kernel still
    /// accepts new ones.
    ///
    /// # Errors
    /// When it doesn't run.
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.running()?.pause().await
    }

    /// SIGCONT to the API server.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.running()?.resume()
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("apiserver.crt")
    }

    fn apiserver_command(&self) -> anyhow::Result<ProcessCommand> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let command = Process::command(&self.binaries.apiserver)?
            .arg(format!("--etcd-servers={}", self.etcd.endpoints().join(",")))
            .arg(format!("--secure-port={}", self.port.number()))
            .args([
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
            ])
            .arg(format!("--cert-dir={}", self.folder.path().display()))
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"])
            .args(["--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged=true"])
            .args(["--kubelet-preferred-address-types=InternalIP"])
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", file("service-account.pub")))
            .arg(format!("--service-account-signing-key-file={}", file("service-account.key")))
            .arg(format!("--audit-policy-file={}", file("audit-policy.json")))
            .arg(format!("--audit-log-path={}", file("audit.log")))
            .args(&self.options.flags);
        Ok(command.current_dir(self.folder.path()))
    }

    fn start_others(&mut self) -> anyhow::Result<()> {
        let common = |program: &Path| {
            let kubeconfig = self.kubeconfig().display();
            anyhow::Ok(
                Process::command(program)?
                    .args([
                        "--leader-elect=false",
                        "--secure-port=0",
                        "--kube-api-qps=300",
                        "--kube-api-burst=600",
                    ])
                    .arg(format!("--kubeconfig={kubeconfig}")),
            )
        };
        let mut others = Vec::new();
        if self.options.controllers {
            let key = self.folder.path().join("service-account.key");
            others.push(
                common(&self.binaries.controller_manager)?
                    .arg("--use-service-account-credentials=true")
                    .arg(format!("--service-account-private-key-file={}", key.display()))
                    .arg(format!("--root-ca-file={}", self.certificate().display()))
                    .args(["--node-monitor-period=2s", "--node-monitor-grace-period=16s"])
                    .spawn()?,
            );
        }
        if self.options.scheduler {
            others.push(common(&self.binaries.scheduler)?.spawn()?);
        }
        self.others = others;
        Ok(())
    }

    fn write_kubeconfig(&self) -> anyhow::Result<()> {
        let admin = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "admin"}}],
            "clusters": [{"name": "testbed", "cluster": {
                "server": self.url(), "certificate-authority": self.certificate(),
            }}],
            "users": [{"name": "admin", "user": {"token": ADMIN_TOKEN}}],
        });
        Ok(fs::write(self.kubeconfig(), serde_json::to_vec_pretty(&admin)?)?)
    }

    fn running(&self) -> anyhow::Result<Arc<Process>> {
        self.lock().clone().context("the API server doesn't run")
    }

    fn take(&self) -> anyhow::Result<Arc<Process>> {
        self.lock().take().context("the API server doesn't run")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Process>>> {
        self.apiserver.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane").field("addr", &self.addr()).finish_non_exhaustive()
    }
}

/// Writes the files that the API server reads when it starts.
fn write_settings(folder: &Path, options: &ControlPlaneOptions) -> anyhow::Result<()> {
    let key = rcgen::KeyPair::generate().context("cannot make a key for service accounts")?;
    fs::write(folder.join("service-account.key"), key.serialize_pem())?;
    fs::write(folder.join("service-account.pub"), key.public_key_pem())?;
    let mut tokens = format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n");
    for [token, user, group] in &options.tokens {
        tokens += &format!("{token},{user},{user},\"{group}\"\n");
    }
    fs::write(folder.join("tokens.csv"), tokens)?;
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": options.audit_level}],
    });
    Ok(fs::write(folder.join("audit-policy.json"), serde_json::to_vec(&policy)?)?)
}
