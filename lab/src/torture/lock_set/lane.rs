//! One set, the workers that update it, and the pauses of whoever holds its lock.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use lease_core::{LeaseName, Term};
use lease_judge::history::{HistoryEntry, Outcome, What};
use lease_testbed::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::lock::Guarding;
use super::worker::WORKER_COMMAND;
use crate::fleet::{ActorPart, Fleet, FleetActor, LOOK_EVERY, now};
use crate::pause::pause;

/// A worker may take this long to end after SIGTERM.
const EXIT_LIMIT: Duration = Duration::from_secs(40);

/// Nobody holds the lock for so many ttls: then the run is broken, and not slow.
const PATIENCE: u32 = 30;

/// The state that the lanes of a run share.
pub(super) struct TortureState {
    pub(super) fleet: Fleet,
    pub(super) ttl: Duration,
    pub(super) lease_file: Option<PathBuf>,
    /// Updates that the fenced lease's workers were acknowledged.
    pub(super) acknowledged: AtomicU64,
    pub(super) pauses: AtomicU64,
    pub(super) enough: CancellationToken,
}

/// A holder was paused for twice its ttl.
pub(super) struct HolderPause {
    pub(super) term: Term,
    /// A later term had begun when it went on.
    pub(super) overtaken: bool,
}

pub(super) struct TorturedSet {
    guarding: Guarding,
    workers: Vec<FleetActor>,
    run: Arc<TortureState>,
    newest_term: u64,
    pub(super) events: Vec<HistoryEntry>,
    pub(super) pauses: Vec<HolderPause>,
}

impl TorturedSet {
    pub(super) fn start(
        guarding: Guarding,
        lease: &LeaseName,
        part: impl Fn(String) -> ActorPart,
        workers: u64,
        run: Arc<TortureState>,
    ) -> anyhow::Result<Self> {
        let words = [WORKER_COMMAND, guarding.holding.word()];
        let spawn = |worker| run.fleet.spawn_as(&words, &part(format!("{lease}/{worker}")));
        let workers = (0..workers).map(spawn).collect::<anyhow::Result<_>>()?;
        Ok(Self { guarding, workers, run, newest_term: 0, events: Vec::new(), pauses: Vec::new() })
    }

    /// Pauses one holder after the other until the run has seen enough; then an orderly end.
    pub(super) async fn run(mut self, mut random: StdRng) -> anyhow::Result<Self> {
        let (ttl, enough) = (self.run.ttl, self.run.enough.clone());
        loop {
            let calm = now().plus(ttl.mul_f64(random.random_range(0.3..1.0)));
            self.until("somebody to hold the lock", |lane| {
                enough.is_cancelled() || (now() >= calm && lane.holder().is_some())
            })
            .await?;
            if enough.is_cancelled() {
                break;
            }
            self.pause_holder().await?;
        }
        self.end().await?;
        Ok(self)
    }

    async fn pause_holder(&mut self) -> anyhow::Result<()> {
        let (index, _) = self.holder().context("looked at above")?;
        pause(&self.workers[index].process, self.run.lease_file.as_deref()).await?;
        // It may have lost the lock between the look and the signal: what it wrote before it stopped tells.
        self.look()?;
        let paused = self.workers[index].event(What::Paused);
        let over = paused.at.plus(self.run.ttl * 2);
        self.events.push(paused);
        self.until("the pause to be over", |_| now() >= over).await?;
        if let Some(term) = self.workers[index].leading {
            self.pauses.push(HolderPause { term, overtaken: self.newest_term > term.epoch });
            self.run.pauses.fetch_add(1, Ordering::SeqCst);
        }
        self.workers[index].process.resume()
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        // One that was started a moment ago doesn't hear the signal yet.
        self.until("all workers to hear signals", |lane| lane.workers.iter().all(|worker| worker.started))
            .await?;
        for index in 0..self.workers.len() {
            self.workers[index].process.signal(Signal::TERM)?;
            let status = self.workers[index].process.wait(EXIT_LIMIT).await?;
            ensure!(status.success(), "{}", self.told(index));
        }
        self.look()
    }

    /// The worker that holds the lock by the newest term.
    fn holder(&self) -> Option<(usize, Term)> {
        let holding = |(index, worker): (usize, &FleetActor)| Some((index, worker.leading?));
        let newest = self.workers.iter().enumerate().filter_map(holding).max_by_key(|(_, term)| term.epoch);
        newest.filter(|(_, term)| term.epoch == self.newest_term)
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let limit = now().plus(self.run.ttl * PATIENCE);
        loop {
            self.look()?;
            if reached(self) {
                return Ok(());
            }
            if let Some(ended) = self.workers.iter().position(|worker| worker.process.exit_status().is_some())
            {
                anyhow::bail!("a worker ended without being asked: {}", self.told(ended));
            }
            ensure!(now() < limit, "timed out waiting for {what}: {}", self.told(0));
            tokio::time::sleep(LOOK_EVERY * 2).await;
        }
    }

    fn look(&mut self) -> anyhow::Result<()> {
        for worker in &mut self.workers {
            for event in worker.look()? {
                match &event.what {
                    What::Begun { term, .. } => self.newest_term = self.newest_term.max(term.epoch),
                    What::Effect { outcome: Outcome::Written, .. }
                        if self.guarding == Guarding::LEASE_FENCED =>
                    {
                        self.run.acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    _ => {}
                }
                self.events.push(event);
            }
        }
        Ok(())
    }

    fn told(&self, index: usize) -> String {
        let FleetActor { name, process, .. } = &self.workers[index];
        format!("{name}, {:?}:\n{}", process.exit_status(), process.lines().join("\n"))
    }
}

/// The pauses of the sets with this number are the same for each guarding.
pub(super) fn generator(seed: u64, number: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number))
}
