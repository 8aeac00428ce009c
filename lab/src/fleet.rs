//! Actors as real processes, each with a trace that is read while it grows.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use lease_core::{LeaseName, Term};
use lease_stores::Place;
use lease_testbed::{Folder, Process};

use crate::actor;
use crate::judge::Incarnation;
use crate::trace::{Entry, Nanos, Tail};

/// How often the traces are read.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The folder of a run, and the program that its actors are.
pub(crate) struct Fleet {
    folder: Folder,
    program: PathBuf,
    incarnations: AtomicU64,
}

/// What distinguishes one actor from another.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) place: Place,
    pub(crate) lease: LeaseName,
    pub(crate) workload: String,
    pub(crate) ttl: Duration,
    /// The pause between two effects; without it, one effect a term.
    pub(crate) every: Option<Duration>,
}

/// One running actor, and what its trace says of it.
pub(crate) struct Actor {
    pub(crate) incarnation: Incarnation,
    pub(crate) process: Process,
    /// It hears signals by now.
    pub(crate) started: bool,
    pub(crate) leading: Option<Term>,
    /// It has stopped itself: when, and in which term.
    pub(crate) paused: Option<(Nanos, Term)>,
    tail: Tail,
}

impl Fleet {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = Folder::new("lab")?;
        let program = std::env::current_exe().context("cannot find this program again")?;
        Ok(Self { folder, program, incarnations: AtomicU64::new(1) })
    }

    /// A path in the run's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The trace of an actor.
    pub(crate) fn trace(&self, incarnation: Incarnation) -> PathBuf {
        self.path(&format!("trace-{incarnation}"))
    }

    /// Starts an actor.
    pub(crate) fn spawn(&self, part: &Part) -> anyhow::Result<Actor> {
        let incarnation = self.incarnations.fetch_add(1, Ordering::SeqCst);
        let trace = self.trace(incarnation);
        let millis = |span: Duration| span.as_millis() as u64;
        let args = actor::Args {
            lease: part.lease.clone(),
            workload: part.workload.clone(),
            incarnation,
            ttl_ms: millis(part.ttl),
            trace: trace.clone(),
            every_ms: part.every.map(millis),
        };
        let process = Process::command(&self.program)?.args(args.to_args());
        let process = process.env(Place::VARIABLE, part.place.to_json()).spawn()?;
        Ok(Actor {
            incarnation,
            process,
            started: false,
            leading: None,
            paused: None,
            tail: Tail::new(trace),
        })
    }
}

impl Actor {
    /// What it has done since the last call.
    pub(crate) fn look(&mut self) -> anyhow::Result<Vec<Entry>> {
        let entries = self.tail.read()?;
        for entry in &entries {
            match entry {
                Entry::Started { .. } => self.started = true,
                Entry::Begin { term, .. } => self.leading = Some(*term),
                Entry::Paused { at, term } => self.paused = Some((*at, *term)),
                Entry::Effect { .. } => self.paused = None,
                Entry::Returned { .. } => self.leading = None,
                _ => {}
            }
        }
        Ok(entries)
    }

    /// Waits for a line that `wanted` makes something of; passes over all before it.
    pub(crate) async fn await_entry<T>(
        &mut self,
        what: &str,
        limit: Duration,
        seen: &mut Vec<Entry>,
        mut wanted: impl FnMut(&Entry) -> Option<T>,
    ) -> anyhow::Result<T> {
        let start = std::time::Instant::now();
        loop {
            // The exit first: lines written before it are read all the same.
            let ended = self.process.exit_status();
            let entries = self.look()?;
            let found = entries.iter().find_map(&mut wanted);
            seen.extend(entries);
            match found {
                Some(found) => return Ok(found),
                None if ended.is_some() => {
                    bail!("{what} was awaited, but the actor ended:\n{}", self.process.lines().join("\n"))
                }
                None if start.elapsed() > limit => bail!("waited {limit:?} in vain for {what}"),
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}
