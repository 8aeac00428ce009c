//! The real programs of a drill, as an operator would start them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use lease_testbed::{Process, field};

use crate::demo::TTL;
use crate::demo::programs::metric;
use crate::demo::stores::DemoStores;

/// Generous: other programs may be using the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program `leasehold`, beside this one.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("leasehold");
    if !binary.is_file() {
        bail!("there is no {}: run `cargo build -p leasehold` first", binary.display());
    }
    Ok(binary)
}

/// One worker.
pub(super) struct Worker {
    pub(super) process: Process,
    /// The address of its pages.
    pub(super) address: String,
}

impl Worker {
    /// Starts a worker and waits until it says so.
    pub(super) async fn start(role: &str, args: &[&str]) -> anyhow::Result<Self> {
        let process = Process::command(binary()?)?
            .env_clear()
            .args(["worker", role, "--listen", "127.0.0.1:0"])
            .args(args)
            .spawn()?;
        let line = process.wait_for_line(&format!("{role} started"), PATIENCE).await?;
        let address = field(&line, "address")?.to_owned();
        Ok(Self { process, address })
    }

    pub(super) async fn ingest(stores: &DemoStores) -> anyhow::Result<Self> {
        Self::start("canonical-ingest", &["--canonical-url", &stores.canonical]).await
    }

    /// A forwarder that reaches the ingest at `ingest`.
    pub(super) async fn forwarder(
        stores: &DemoStores,
        name: &str,
        outbox: &str,
        ingest: &str,
    ) -> anyhow::Result<Self> {
        let ingest = format!("http://{ingest}/v1/events");
        Self::leader(stores, "outbox-forwarder", name, &["--outbox-url", outbox, "--ingest-url", &ingest])
            .await
    }

    /// A worker that campaigns.
    pub(super) async fn leader(
        stores: &DemoStores,
        role: &str,
        name: &str,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let ttl = format!("{}s", TTL.as_secs());
        let mut args = vec!["--workload-id", name, "--ttl", &ttl];
        args.extend(more);
        args.extend(stores.lease_flags.iter().map(String::as_str));
        Self::start(role, &args).await
    }

    /// The number of the first line after the first `after` that has `text`.
    pub(super) fn line_of(&self, after: usize, text: &str) -> Option<usize> {
        self.process.lines().iter().skip(after).position(|line| line.contains(text)).map(|line| line + after)
    }

    pub(super) async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        metric(&self.address, name).await
    }
}

/// The output of an operator's command.
pub(super) async fn operator(stores: &DemoStores, command: &[&str]) -> anyhow::Result<String> {
    let mut program = tokio::process::Command::new(binary()?);
    program.env_clear().args(command).args(&stores.lease_flags).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, program.output()).await.context("no answer in time")??;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
