//! One lease, the actors that campaign for it, and what is done to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lease_core::{LeaseName, Term};
use lease_stores::Link;
use lease_testbed::Signal;
use tokio_util::sync::CancellationToken;

use super::plan::{Fault, Plan, Step};
use crate::fleet::{Actor, Fleet, LOOK_EVERY, Part};
use crate::judge::Evidence;
use crate::trace::{Entry, Nanos, Outcome, now};

/// How long a process may take to end after SIGTERM: its own stop budget is 20 s.
const EXIT_LIMIT: Duration = Duration::from_secs(40);

/// What the cells of a run share.
pub(super) struct Shared {
    pub(super) fleet: Fleet,
    pub(super) ttl: Duration,
    pub(super) takeovers: AtomicUsize,
    pub(super) enough: CancellationToken,
}

/// Something for the timeline.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Mark {
    pub(super) at: Nanos,
    pub(super) text: String,
}

/// What one lease's part of the run has led to.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    pub(super) evidence: Evidence,
    pub(super) faults: BTreeMap<&'static str, usize>,
    /// From a fault of the leader's to the successor's term.
    pub(super) failovers: BTreeMap<&'static str, Vec<Duration>>,
    pub(super) timeline: Vec<Mark>,
    /// Effects by how they ended: written, refused by the fence, failed.
    pub(super) effects: [usize; 3],
    /// Renewals and releases that the store refused because somebody else had the register.
    pub(super) refused_writes: usize,
    /// What should not have happened and is no violation: an actor that ended in disorder.
    pub(super) problems: Vec<String>,
}

struct Seat {
    part: Part,
    link: Option<Link>,
    actor: Option<Actor>,
    /// An empty seat is taken again from then on.
    back_at: Nanos,
    /// The actor was asked to end.
    asked: bool,
}

pub(super) struct Cell {
    lease: LeaseName,
    seats: Vec<Seat>,
    shared: Arc<Shared>,
    chronicle: Chronicle,
    /// The fault that the next term is counted from.
    pending: Option<(Fault, Nanos)>,
    newest_effect: u64,
    newest_term: u64,
}

impl Cell {
    pub(super) fn new(lease: LeaseName, parts: Vec<(Part, Option<Link>)>, shared: Arc<Shared>) -> Self {
        let seat = |(part, link)| Seat { part, link, actor: None, back_at: 0, asked: false };
        let seats = parts.into_iter().map(seat).collect();
        let chronicle = Chronicle::default();
        Self { lease, seats, shared, chronicle, pending: None, newest_effect: 0, newest_term: 0 }
    }

    /// Faults, until the run has seen enough; then an orderly end.
    pub(super) async fn run(mut self, plan: Plan) -> anyhow::Result<Chronicle> {
        for step in plan {
            let calm = now() + step.calm.as_nanos() as Nanos;
            self.until(Duration::from_secs(60), |cell| now() >= calm && cell.leader().is_some()).await?;
            if self.shared.enough.is_cancelled() {
                break;
            }
            self.inject(step).await?;
        }
        self.end().await?;
        Ok(self.chronicle)
    }

    async fn inject(&mut self, step: Step) -> anyhow::Result<()> {
        let Some((index, term)) = self.leader() else { return Ok(()) };
        let ttl = self.shared.ttl;
        let fault = step.fault;
        let index = match fault {
            Fault::KillStandby => (index + 1) % self.seats.len(),
            _ => index,
        };
        if self.seats[index].actor.is_none() {
            return Ok(());
        }
        *self.chronicle.faults.entry(fault.name()).or_default() += 1;
        self.mark(format!("{} <- {}", self.seats[index].part.workload, fault.name()));
        if !matches!(fault, Fault::KillStandby | Fault::Cut | Fault::Delay) {
            self.pending = Some((fault, now()));
        }
        let patience = Duration::from_nanos(self.patience());
        match fault {
            Fault::Terminate => self.terminate(index, step.chance).await?,
            Fault::Kill | Fault::KillStandby => {
                let mut actor = self.seats[index].actor.take().expect("looked at above");
                actor.process.kill().await?;
                self.take(&mut actor, index)?;
                self.seats[index].back_at = now() + ttl.mul_f64(step.chance).as_nanos() as Nanos;
                if fault == Fault::Kill {
                    self.until(patience, |cell| cell.newest_term > term.epoch).await?;
                }
            }
            Fault::Stop => {
                self.signal(index, Signal::STOP);
                self.until(patience, |cell| cell.newest_term > term.epoch).await?;
                self.until(ttl.mul_f64(step.chance / 2.0), |_| false).await?;
                self.signal(index, Signal::CONT);
            }
            Fault::PauseBeforeEffect => {
                self.signal(index, Signal::USR1);
                self.until(patience, |cell| cell.paused(index).is_some()).await?;
                self.pending = Some((fault, now()));
                self.until(patience, |cell| cell.paused(index).is_none()).await?;
            }
            Fault::Cut | Fault::HalfOpen | Fault::Delay => {
                self.break_link(index, fault, step.chance, term, patience).await?;
            }
        }
        Ok(())
    }

    async fn break_link(
        &mut self,
        index: usize,
        fault: Fault,
        chance: f64,
        term: Term,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let ttl = self.shared.ttl;
        let Some(link) = self.seats[index].link.clone() else { return Ok(()) };
        match fault {
            Fault::Cut => link.cut().await,
            Fault::HalfOpen => {
                link.hold();
                self.until(patience, |cell| cell.newest_effect > term.epoch).await?;
                link.deliver();
            }
            _ => {
                link.delay(ttl.mul_f64(chance / 8.0));
                self.until(ttl, |_| false).await?;
                link.deliver();
            }
        }
        Ok(())
    }

    async fn terminate(&mut self, index: usize, chance: f64) -> anyhow::Result<()> {
        self.seats[index].asked = true;
        self.signal(index, Signal::TERM);
        let gone = |cell: &Self| {
            cell.seats[index].actor.as_ref().is_none_or(|actor| actor.process.exit_status().is_some())
        };
        self.until_even_at_the_end(EXIT_LIMIT, gone).await?;
        self.empty(index)?;
        self.seats[index].back_at = now() + self.shared.ttl.mul_f64(chance / 8.0).as_nanos() as Nanos;
        Ok(())
    }

    /// Takes a process that was asked to end off its seat: it must have ended in order.
    fn empty(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(mut actor) = self.seats[index].actor.take() else { return Ok(()) };
        self.take(&mut actor, index)?;
        self.seats[index].asked = false;
        match actor.process.exit_status() {
            Some(status) if status.success() => {}
            ended => {
                self.problem(index, &actor, &format!("asked to end by SIGTERM, it ended with {ended:?}"))
            }
        }
        Ok(())
    }

    /// Everybody goes on, ends in order, and is heard to the end.
    async fn end(&mut self) -> anyhow::Result<()> {
        for index in 0..self.seats.len() {
            if let Some(link) = &self.seats[index].link {
                link.deliver();
            }
            self.signal(index, Signal::CONT);
        }
        // One that was started a moment ago would be killed by the signal instead of hearing it.
        let hears = |actor: &Actor| actor.started || actor.process.exit_status().is_some();
        let all_hear = |cell: &Self| cell.seats.iter().filter_map(|seat| seat.actor.as_ref()).all(hears);
        self.until_even_at_the_end(EXIT_LIMIT, all_hear).await?;
        for index in 0..self.seats.len() {
            // One by one: each hands over to the next.
            if self.seats[index].actor.is_some() {
                self.terminate(index, 0.0).await?;
                self.seats[index].back_at = Nanos::MAX;
            }
        }
        Ok(())
    }

    /// The actor that leads in the newest term, and the term.
    fn leader(&self) -> Option<(usize, Term)> {
        let leading = |(index, seat): (usize, &Seat)| Some((index, seat.actor.as_ref()?.leading?));
        let newest = self.seats.iter().enumerate().filter_map(leading).max_by_key(|(_, term)| term.epoch);
        newest.filter(|(_, term)| term.epoch == self.newest_term)
    }

    /// How long a successor may take to lead and to make an effect.
    fn patience(&self) -> Nanos {
        (self.shared.ttl * 3 + Duration::from_secs(2)).as_nanos() as Nanos
    }

    fn paused(&self, index: usize) -> Option<(Nanos, Term)> {
        self.seats[index].actor.as_ref()?.paused
    }

    fn signal(&mut self, index: usize, signal: Signal) {
        if let Some(actor) = &self.seats[index].actor {
            // It may have ended by itself; the next look tells.
            let _ = actor.process.signal(signal);
        }
    }

    fn mark(&mut self, text: String) {
        self.chronicle.timeline.push(Mark { at: now(), text });
    }

    fn problem(&mut self, index: usize, actor: &Actor, what: &str) {
        let printed = actor.process.lines();
        let trace = std::fs::read_to_string(self.shared.fleet.trace(actor.incarnation)).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{}/status", actor.process.id()));
        let state = status
            .ok()
            .and_then(|status| status.lines().find(|line| line.starts_with("State")).map(str::to_owned));
        let last = |lines: Vec<&str>| lines[lines.len().saturating_sub(5)..].join("\n      ");
        let (lease, workload) = (&self.lease, &self.seats[index].part.workload);
        self.chronicle.problems.push(format!(
            "{lease}: {workload}: {what}\n      {}\n      {}\n      {}",
            state.unwrap_or_default(),
            last(trace.lines().collect()),
            last(printed.iter().map(String::as_str).collect()),
        ));
    }

    /// Looks at everybody until `reached`, the limit, or the end of the run.
    async fn until(&mut self, limit: Duration, reached: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let enough = self.shared.enough.clone();
        self.until_even_at_the_end(limit, |cell| enough.is_cancelled() || reached(cell)).await
    }

    async fn until_even_at_the_end(
        &mut self,
        limit: Duration,
        reached: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let start = std::time::Instant::now();
        loop {
            self.look()?;
            if reached(self) || start.elapsed() > limit {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY * 2).await;
        }
    }

    /// Reads every trace, and fills empty seats.
    fn look(&mut self) -> anyhow::Result<()> {
        for index in 0..self.seats.len() {
            match self.seats[index].actor.take() {
                Some(mut actor) => {
                    let ended = actor.process.exit_status().filter(|_| !self.seats[index].asked);
                    self.take(&mut actor, index)?;
                    if let Some(ended) = ended {
                        self.problem(index, &actor, &format!("it ended unasked: {ended}"));
                        self.seats[index].back_at = now() + self.shared.ttl.as_nanos() as Nanos;
                        continue;
                    }
                    // Whoever stopped itself goes on once a successor has made effects; again and again, since it
                    // says so just before it stops. Not for ever: an earlier effect, given up and not yet over, may
                    // hold the lock that the successor's effects wait for.
                    let enough = self.shared.enough.is_cancelled();
                    let over = |(since, term): (Nanos, Term)| {
                        term.epoch < self.newest_effect || enough || now() > since + self.patience()
                    };
                    if actor.paused.is_some_and(over) {
                        let _ = actor.process.signal(Signal::CONT);
                    }
                    self.seats[index].actor = Some(actor);
                }
                None if now() >= self.seats[index].back_at && !self.shared.enough.is_cancelled() => {
                    self.seats[index].actor = Some(self.shared.fleet.spawn(&self.seats[index].part)?);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, actor: &mut Actor, index: usize) -> anyhow::Result<()> {
        for entry in actor.look()? {
            self.chronicle.evidence.take(actor.incarnation, &entry);
            let who = &self.seats[index].part.workload;
            let told = match &entry {
                Entry::Begin { at, term } => {
                    let before = self.newest_term;
                    self.newest_term = before.max(term.epoch);
                    self.shared.takeovers.fetch_add(1, Ordering::SeqCst);
                    if let Some((fault, since)) = self.pending.take_if(|(_, since)| *at > *since) {
                        let took = Duration::from_nanos(at - since);
                        self.chronicle.failovers.entry(fault.name()).or_default().push(took);
                    }
                    Some((*at, format!("{who} leads, epoch {}", term.epoch)))
                }
                Entry::Paused { at, term } => {
                    Some((*at, format!("{who} stops before an effect of epoch {}", term.epoch)))
                }
                Entry::Ended { at, term, loss } => {
                    Some((*at, format!("{who}: term {} is over: {loss}", term.epoch)))
                }
                Entry::Effect { after, term, outcome, .. } => {
                    let kind = match outcome {
                        Outcome::Written => 0,
                        Outcome::Refused => 1,
                        Outcome::Failed(_) => 2,
                    };
                    self.chronicle.effects[kind] += 1;
                    if kind == 0 {
                        self.newest_effect = self.newest_effect.max(term.epoch);
                    }
                    (kind == 1).then(|| {
                        (*after, format!("{who}: the fence refuses a late write of epoch {}", term.epoch))
                    })
                }
                Entry::Put { outcome: Outcome::Refused, .. } => {
                    self.chronicle.refused_writes += 1;
                    None
                }
                _ => None,
            };
            self.chronicle.timeline.extend(told.map(|(at, text)| Mark { at, text }));
        }
        Ok(())
    }
}
