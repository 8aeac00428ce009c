//! Actors as real processes, each with a history in a file that is read while it grows.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use lease_core::{Instant, LeaseName, Term};
use lease_judge::Tail;
use lease_judge::actor::{EffectOrders, Orders};
use lease_judge::history::{HistoryEntry, What};
use lease_stores::{ACTOR_COMMAND, Place};
use lease_testbed::{Folder, Process};

/// The pause between two looks at the files.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The folder of a run, and the program that its actors run.
pub(crate) struct Fleet {
    folder: Folder,
    program: PathBuf,
    started: AtomicU64,
}

/// The settings of one actor.
#[derive(Clone)]
pub(crate) struct ActorPart {
    pub(crate) place: Place,
    pub(crate) lease: LeaseName,
    pub(crate) workload: String,
    pub(crate) ttl: Duration,
    /// The effects that it makes while it leads, if any.
    pub(crate) effects: Option<EffectOrders>,
}

impl ActorPart {
    /// Effects on the resource of the lease's name: one in each term, or one after each such pause.
    pub(crate) fn effects_on(lease: &LeaseName, every: Option<Duration>) -> Option<EffectOrders> {
        let every_ms = every.map(|pause| pause.as_millis() as u64);
        Some(EffectOrders { resource: lease.to_string(), every_ms, limit_ms: None })
    }
}

/// One running actor, and its state by its own history.
pub(crate) struct FleetActor {
    /// Its name in the history, which no other process has.
    pub(crate) name: String,
    pub(crate) process: Process,
    /// The file of its history.
    pub(crate) trace: PathBuf,
    /// It hears signals by now.
    pub(crate) started: bool,
    pub(crate) leading: Option<Term>,
    /// It has stopped itself at this moment, in this term.
    pub(crate) paused: Option<(Instant, Term)>,
    tail: Tail,
}

impl Fleet {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = Folder::new("lab")?;
        let program = std::env::current_exe().context("cannot find this program again")?;
        Ok(Self { folder, program, started: AtomicU64::new(0) })
    }

    /// Starts an actor.
    pub(crate) fn spawn(&self, part: &ActorPart) -> anyhow::Result<FleetActor> {
        self.spawn_as(&[ACTOR_COMMAND], part)
    }

    /// Starts an actor of a program of its own, which these words choose.
    pub(crate) fn spawn_as(&self, words: &[&str], part: &ActorPart) -> anyhow::Result<FleetActor> {
        let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let trace = self.folder.path().join(format!("trace-{number}"));
        let orders = Orders {
            lease: part.lease.clone(),
            actor: format!("{}#{number}", part.workload),
            holder: part.workload.clone(),
            ttl_ms: part.ttl.as_millis() as u64,
            effects: part.effects.clone(),
            trace: Some(trace.clone()),
        };
        let process = Process::command(&self.program)?.args(words);
        let process = process.env(Place::VARIABLE, part.place.to_json());
        let process = orders.to_env().iter().fold(process, |process, (name, value)| process.env(name, value));
        Ok(FleetActor {
            name: orders.actor,
            process: process.spawn()?,
            tail: Tail::new(trace.clone()),
            trace,
            started: false,
            leading: None,
            paused: None,
        })
    }
}

impl FleetActor {
    /// Its events since the last call.
    pub(crate) fn look(&mut self) -> anyhow::Result<Vec<HistoryEntry>> {
        let events = self.tail.read()?;
        for event in &events {
            match &event.what {
                What::Campaigning { .. } => self.started = true,
                What::Begun { term, .. } => self.leading = Some(*term),
                What::Paused => self.paused = self.leading.map(|term| (event.at, term)),
                What::Effect { .. } => self.paused = None,
                What::WorkReturned => self.leading = None,
                _ => {}
            }
        }
        Ok(events)
    }

    /// Waits for an event for which `wanted` has an answer. All events so far are added to `seen`.
    pub(crate) async fn await_event<T>(
        &mut self,
        what: &str,
        limit: Duration,
        seen: &mut Vec<HistoryEntry>,
        mut wanted: impl FnMut(&HistoryEntry) -> Option<T>,
    ) -> anyhow::Result<T> {
        let start = std::time::Instant::now();
        loop {
            // The exit first: events before it are read all the same.
            let ended = self.process.exit_status();
            let events = self.look()?;
            let found = events.iter().find_map(&mut wanted);
            seen.extend(events);
            match found {
                Some(found) => return Ok(found),
                None if ended.is_some() => {
                    bail!("the actor ended before {what}:\n{}", self.process.lines().join("\n"))
                }
                None if start.elapsed() > limit => bail!("timed out after {limit:?} waiting for {what}"),
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// SIGKILL. Adds its last events, and its death, to `seen`.
    pub(crate) async fn kill(&mut self, seen: &mut Vec<HistoryEntry>) -> anyhow::Result<()> {
        self.process.kill().await?;
        seen.extend(self.look()?);
        seen.push(self.event(What::Died));
        Ok(())
    }

    /// An event of this moment that only an outsider can tell.
    pub(crate) fn event(&self, what: What) -> HistoryEntry {
        HistoryEntry { at: now(), actor: self.name.clone(), what }
    }
}

/// This moment.
pub(crate) fn now() -> Instant {
    lease_core::Clock::boot().now()
}
