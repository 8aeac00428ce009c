//! A worker that faults happen to, and that comes back as a kubelet would bring it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lease_testbed::{Process, Proxy, Signal, field};

use crate::drill::pods::{PATIENCE, binary};

/// One of a role's two.
pub(in crate::drill) struct StormWorker {
    role: &'static str,
    name: String,
    args: Vec<String>,
    /// Everything that it reaches is reached through these.
    links: Vec<Proxy>,
    /// The way for others to reach it, on whichever port it listens: the field of its log line, and the proxy.
    front: Option<(&'static str, Proxy)>,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    /// Its workload id: its name, with a number once it has come back as another pod.
    workload: String,
    starts: usize,
    process: Option<Arc<Process>>,
    /// The address of its pages.
    pages: String,
}

impl StormWorker {
    pub(in crate::drill) fn new(
        role: &'static str,
        name: String,
        args: Vec<String>,
        links: Vec<Proxy>,
    ) -> Self {
        Self { role, name, args, links, front: None, life: Mutex::default() }
    }

    /// Others reach it through the proxy; `word` is what its first line calls the address.
    pub(in crate::drill) fn behind(mut self, word: &'static str, proxy: Proxy) -> Self {
        self.front = Some((word, proxy));
        self
    }

    pub(in crate::drill) fn workload(&self) -> String {
        self.life().workload.clone()
    }

    /// Starts it, under a name of its own if it is to be `another` pod; again and again until it stays.
    pub(in crate::drill) async fn start(&self, another: bool) -> anyhow::Result<()> {
        let workload = {
            let mut life = self.life();
            life.starts += 1;
            if life.workload.is_empty() {
                life.workload.clone_from(&self.name);
            } else if another {
                life.workload = format!("{}-{}", self.name, life.starts);
            }
            life.workload.clone()
        };
        let began = Instant::now();
        loop {
            let process = Process::command(binary()?)?
                .env_clear()
                .args(["worker", self.role, "--listen", "127.0.0.1:0", "--workload-id", &workload])
                .args(&self.args)
                .spawn()?;
            match process.wait_for_line(&format!("{} started", self.role), PATIENCE).await {
                Ok(line) => {
                    if let Some((word, proxy)) = &self.front {
                        proxy.switch_upstream(field(&line, word)?.parse()?);
                    }
                    let mut life = self.life();
                    life.pages = field(&line, "address")?.to_owned();
                    life.process = Some(Arc::new(process));
                    return Ok(());
                }
                // Its database is down: a kubelet would start it again.
                Err(_) if process.exit_status().is_some() && began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(why) => return Err(why).with_context(|| format!("{workload} doesn't start")),
            }
        }
    }

    fn process(&self) -> anyhow::Result<Arc<Process>> {
        self.life().process.clone().with_context(|| format!("{} was never started", self.name))
    }

    /// SIGTERM. Returns whether it ended with 0.
    pub(in crate::drill) async fn stop(&self) -> anyhow::Result<bool> {
        let process = self.process()?;
        process.signal(Signal::TERM)?;
        let status = process.wait(PATIENCE).await.with_context(|| format!("{} asked to stop", self.name))?;
        Ok(status.success())
    }

    pub(in crate::drill) async fn kill(&self) -> anyhow::Result<()> {
        self.process()?.kill().await.map(drop)
    }

    pub(in crate::drill) async fn pause(&self) -> anyhow::Result<()> {
        self.process()?.pause().await
    }

    pub(in crate::drill) fn resume(&self) -> anyhow::Result<()> {
        self.process()?.resume()
    }

    /// A page of its own, and its status.
    pub(in crate::drill) async fn page(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let url = format!("http://{}{path}", self.life().pages);
        let answer = lease_worker_common::http_client(PATIENCE)?.get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// New connections through its links reach another server.
    pub(in crate::drill) fn turn_to(&self, server: SocketAddr) {
        self.links.iter().for_each(|link| link.switch_upstream(server));
    }

    /// Breaks all its connections.
    pub(in crate::drill) async fn cut(&self) {
        for link in &self.links {
            link.cut().await;
        }
    }

    /// Its connections stay open and carry nothing, until [`heal`](Self::heal): then what was held is delivered.
    pub(in crate::drill) fn stall(&self) {
        self.links.iter().for_each(Proxy::stall);
    }

    pub(in crate::drill) fn heal(&self) {
        self.links.iter().for_each(Proxy::heal);
    }

    /// That it has not ended by itself.
    pub(in crate::drill) fn lives(&self) -> anyhow::Result<()> {
        let process = self.process()?;
        if let Some(status) = process.exit_status() {
            let lines = process.lines();
            let last = lines[lines.len().saturating_sub(5)..].join("\n");
            bail!("{} ended unexpectedly ({status}):\n{last}", self.workload());
        }
        Ok(())
    }

    fn life(&self) -> std::sync::MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
