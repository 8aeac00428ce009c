//! One node of a cluster: its process and its ports.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};

use super::http;
use crate::{ports::ReservedPort, process::Process, wait::wait_for};

const READY_LIMIT: Duration = Duration::from_secs(60);

/// A node of an [`Etcd`](super::Etcd) cluster.
pub struct EtcdMember {
    process: Mutex<Option<Process>>,
    name: String,
    scheme: &'static str,
    client: ReservedPort,
    metrics: ReservedPort,
    program: PathBuf,
    folder: PathBuf,
    flags: Mutex<Vec<String>>,
    paused: AtomicBool,
}

/// The facts about a node that are known before it runs.
pub(super) struct MemberPlan {
    pub(super) name: String,
    pub(super) scheme: &'static str,
    pub(super) program: PathBuf,
    pub(super) data: PathBuf,
    /// Its working directory.
    pub(super) folder: PathBuf,
    /// The address on which it listens for its peers, and the one by which they find it.
    pub(super) peer: (SocketAddr, SocketAddr),
}

// === impl EtcdMember ===

impl EtcdMember {
    pub(super) fn new(plan: MemberPlan, shared: &[String]) -> anyhow::Result<Self> {
        let (client, metrics) = (ReservedPort::new()?, ReservedPort::new()?);
        let MemberPlan { name, scheme, program, data, folder, peer: (listens, advertises) } = plan;
        let mut flags = vec![
            format!("--name={name}"),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={scheme}://{}", client.addr()),
            format!("--advertise-client-urls={scheme}://{}", client.addr()),
            format!("--listen-peer-urls=http://{listens}"),
            format!("--initial-advertise-peer-urls=http://{advertises}"),
            format!("--listen-metrics-urls=http://{}", metrics.addr()),
        ];
        flags.extend_from_slice(shared);
        let flags = Mutex::new(flags);
        Ok(Self {
            process: Mutex::new(None),
            name,
            scheme,
            client,
            metrics,
            program,
            folder,
            flags,
            paused: AtomicBool::new(false),
        })
    }

    /// Its name in the cluster, as `etcd-0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The url for clients; the same after every restart.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.client.addr())
    }

    /// The address for clients, and for a proxy in front of it.
    pub fn addr(&self) -> SocketAddr {
        self.client.addr()
    }

    /// Whether its process runs; a paused one does.
    pub fn is_running(&self) -> bool {
        self.lock().as_ref().is_some_and(|process| process.exit_status().is_none())
    }

    /// The id of its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.lock().as_ref().filter(|process| process.exit_status().is_none()).map(Process::id)
    }

    /// Kills it by SIGKILL, and returns when it has ended.
    ///
    /// # Errors
    /// When it doesn't run.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.take()?.kill().await.map(drop)
    }

    /// Starts it again after a kill, and returns when its process runs; [`ready`](Self::ready) says when
    /// it serves, which takes a majority.
    ///
    /// # Errors
    /// When it runs already, or can't be started.
    pub fn start_again(&self) -> anyhow::Result<()> {
        if self.is_running() {
            bail!("{} runs already: kill it first", self.name);
        }
        let flags = self.flags.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        self.paused.store(false, Ordering::Relaxed);
        *self.lock() = Some(Process::command(&self.program)?.args(flags).current_dir(&self.folder).spawn()?);
        Ok(())
    }

    /// SIGSTOP; returns when it executes nothing. Its connections stay open, and the kernel accepts new ones.
    ///
    /// # Errors
    /// When it doesn't run.
    pub async fn pause(&self) -> anyhow::Result<()> {
        // Taken out, since the lock may not be held over the wait; a paused process ends with its runner as well.
        let process = self.take()?;
        let paused = process.pause().await;
        *self.lock() = Some(process);
        self.paused.store(paused.is_ok(), Ordering::Relaxed);
        paused
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.lock().as_ref().with_context(|| self.is_down())?.resume()?;
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until it serves linearizable reads.
    ///
    /// # Errors
    /// When it ends or 60 s have passed first; the message has its last lines.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let awaited = format!("{} serves", self.name);
        let ready = wait_for(&awaited, READY_LIMIT, async || {
            if !self.is_running() {
                return Ok(Err(anyhow::anyhow!("{} has ended", self.name)));
            }
            http::get(self.metrics.addr(), "/readyz").await.map(|_| Ok(()))
        });
        ready.await.and_then(|ready| ready).with_context(|| {
            format!(
                "{} does not serve; the end of its log:\n{}",
                self.name,
                self.lock().as_ref().map(Process::tail).unwrap_or_default()
            )
        })
    }

    /// Whether it believes that it leads the cluster. A paused or isolated node may be wrong.
    ///
    /// # Errors
    /// When it doesn't answer within 10 s.
    pub async fn is_leader(&self) -> anyhow::Result<bool> {
        Ok(self.metric("etcd_server_is_leader").await? == 1.0)
    }

    /// The present value of one of its metrics: the first sample whose line begins with `name`, which may have
    /// labels, as in `grpc_server_handled_total{grpc_code="OK",grpc_method="Txn"`.
    ///
    /// # Errors
    /// When it doesn't answer within 10 s, or has no such sample.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let metrics = self.metrics().await?;
        http::sample(&metrics, name).with_context(|| format!("{} has no metric {name}", self.name))
    }

    /// All of its metrics, in Prometheus' text format.
    async fn metrics(&self) -> anyhow::Result<String> {
        http::get(self.metrics.addr(), "/metrics").await
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Its id in the cluster, which it shows to its peers.
    pub(super) async fn id(&self) -> anyhow::Result<u64> {
        let metrics = self.metrics().await?;
        let id = metrics
            .lines()
            .find_map(|line| line.strip_prefix("etcd_server_id{server_id=\"")?.split('"').next());
        Ok(u64::from_str_radix(id.context("a node without an id")?, 16)?)
    }

    /// Changes a flag for the starts to come.
    pub(super) fn set_flag(&self, name: &str, value: &str) {
        let mut flags = self.flags.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        flags.retain(|flag| !flag.starts_with(&format!("--{name}=")));
        flags.push(format!("--{name}={value}"));
    }

    fn take(&self) -> anyhow::Result<Process> {
        let mut process = self.lock();
        match process.as_ref().map(Process::exit_status) {
            Some(None) => process.take().with_context(|| self.is_down()),
            _ => bail!(self.is_down()),
        }
    }

    fn is_down(&self) -> String {
        format!("{} does not run: start it again first", self.name)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl std::fmt::Debug for EtcdMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdMember")
            .field("name", &self.name)
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}
