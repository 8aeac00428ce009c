//! The real programs: three forwarders and an ingest, as an operator would start them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lease_testbed::{Process, Proxy, field};

use super::TTL;
use super::screen::{Condition, Screen};
use super::stores::DemoStores;
use super::timeline::NAMES;

/// Generous: other programs may be using the machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// All running programs.
pub(super) struct Programs {
    binary: PathBuf,
    lease_flags: Vec<String>,
    outbox: String,
    screen: Arc<Screen>,
    ingest: Process,
    ingest_address: String,
    forwarders: Vec<ForwarderProcess>,
    past_logs: Vec<(String, Vec<String>)>,
}

/// One forwarder. It reaches the ingest through a proxy of its own, where a request can be held up on its way.
pub(super) struct ForwarderProcess {
    pub(super) process: Process,
    pub(super) proxy: Proxy,
    /// The address of its metrics page.
    pub(super) address: String,
}

impl Programs {
    /// Starts everybody.
    pub(super) async fn start(stores: &DemoStores, screen: Arc<Screen>) -> anyhow::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("leasehold");
        if !binary.is_file() {
            bail!("there is no {}: run `make demo`, or `cargo build -p leasehold` first", binary.display());
        }
        let ingest = Process::command(&binary)?
            .env_clear()
            .args([
                "worker",
                "canonical-ingest",
                "--listen",
                "127.0.0.1:0",
                "--canonical-url",
                &stores.canonical,
            ])
            .spawn()?;
        let ingest_address = address(&ingest, "canonical-ingest started").await?;
        let mut this = Self {
            binary,
            lease_flags: stores.lease_flags.clone(),
            outbox: stores.outbox.clone(),
            screen,
            ingest,
            ingest_address,
            forwarders: Vec::new(),
            past_logs: Vec::new(),
        };
        for name in NAMES {
            let proxy = Proxy::tcp(this.ingest_address.parse()?)?;
            let process = this.spawn(name, &proxy)?;
            let address = address(&process, "outbox-forwarder started").await?;
            this.forwarders.push(ForwarderProcess { process, proxy, address });
        }
        Ok(this)
    }

    fn spawn(&self, name: &str, proxy: &Proxy) -> anyhow::Result<Process> {
        let ingest = format!("http://{}/v1/events", proxy.addr());
        let ttl = format!("{}s", TTL.as_secs());
        Process::command(&self.binary)?
            .env_clear()
            .args(["worker", "outbox-forwarder", "--workload-id", name, "--ttl", &ttl])
            .args(["--listen", "127.0.0.1:0", "--outbox-url", &self.outbox, "--ingest-url", &ingest])
            .args(&self.lease_flags)
            .spawn()
    }

    /// One of the forwarders.
    pub(super) fn forwarder(&self, number: usize) -> &ForwarderProcess {
        &self.forwarders[number]
    }

    /// Starts one again that has ended; it keeps its name and becomes a standby.
    pub(super) async fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        let name = NAMES[number];
        let process = self.spawn(name, &self.forwarders[number].proxy)?;
        let address = address(&process, "outbox-forwarder started").await?;
        let ended = std::mem::replace(&mut self.forwarders[number].process, process);
        self.past_logs.push((format!("{name}.{}", self.past_logs.len() + 1), ended.lines()));
        self.forwarders[number].address = address;
        self.screen.board().set(number, Condition::Up);
        Ok(())
    }

    /// Everybody's log so far.
    pub(super) fn logs(&self) -> Vec<(String, Vec<String>)> {
        let now = NAMES.iter().zip(&self.forwarders);
        let now = now.map(|(name, forwarder)| ((*name).to_owned(), forwarder.process.lines()));
        let ingest = ("canonical-ingest".to_owned(), self.ingest.lines());
        self.past_logs.iter().cloned().chain(now).chain([ingest]).collect()
    }

    /// The ingest's process.
    pub(super) fn ingest(&self) -> &Process {
        &self.ingest
    }

    /// The value of one of the ingest's metrics.
    pub(super) async fn ingest_metric(&self, name: &str) -> anyhow::Result<u64> {
        metric(&self.ingest_address, name).await
    }
}

/// The value of the series that begins with `name` on a process's metrics page.
pub(crate) async fn metric(address: &str, name: &str) -> anyhow::Result<u64> {
    let client = lease_worker_common::http_client(Duration::from_secs(5))?;
    let page = client.get(format!("http://{address}/metrics")).send().await?.text().await?;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no metric {name}"))?;
    Ok(value.parse::<f64>()? as u64)
}

async fn address(process: &Process, started: &str) -> anyhow::Result<String> {
    let line = process.wait_for_line(started, PATIENCE).await?;
    field(&line, "address").map(str::to_owned)
}
