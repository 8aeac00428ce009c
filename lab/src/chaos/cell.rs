//! One lease, the actors that campaign for it, and the faults that they suffer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lease_core::{Instant, LeaseName, Term};
use lease_judge::history::{Answer, History, HistoryEntry, Outcome, What};
use lease_stores::Link;
use lease_testbed::Signal;
use tokio_util::sync::CancellationToken;

use super::plan::{ChaosPlan, Fault, PlanStep};
use crate::fleet::{ActorPart, Fleet, FleetActor, LOOK_EVERY, now};

/// A process may take this long to end after SIGTERM: its own stop budget is 20 s.
const EXIT_LIMIT: Duration = Duration::from_secs(40);

/// The state that the cells of a run share.
pub(super) struct CellState {
    pub(super) fleet: Fleet,
    pub(super) ttl: Duration,
    pub(super) takeovers: AtomicUsize,
    pub(super) enough: CancellationToken,
}

/// The outcome of one lease's part of the run.
#[derive(Default)]
pub(super) struct Chronicle {
    pub(super) history: History,
    pub(super) faults: BTreeMap<&'static str, usize>,
    /// From a fault of the leader's to the successor's term.
    pub(super) failovers: BTreeMap<&'static str, Vec<Duration>>,
    pub(super) takeovers: usize,
    /// Effects by their end: written, refused by the fence, failed.
    pub(super) effects: [usize; 3],
    /// Writes that the store refused because the register was no longer as expected.
    pub(super) refused_writes: usize,
    /// Events that must not happen and violate no invariant: an actor that ended in disorder.
    pub(super) problems: Vec<String>,
}

struct Seat {
    part: ActorPart,
    link: Option<Link>,
    actor: Option<FleetActor>,
    /// An empty seat is taken again from then on.
    back_at: Instant,
    /// The actor was asked to end.
    asked: bool,
}

pub(super) struct Cell {
    lease: LeaseName,
    seats: Vec<Seat>,
    shared: Arc<CellState>,
    chronicle: Chronicle,
    /// The fault that the next term is counted from.
    pending: Option<(Fault, Instant)>,
    newest_effect: u64,
    newest_term: u64,
}

impl Cell {
    pub(super) fn new(
        lease: LeaseName,
        parts: Vec<(ActorPart, Option<Link>)>,
        shared: Arc<CellState>,
    ) -> Self {
        let seat = |(part, link)| Seat { part, link, actor: None, back_at: Instant::ZERO, asked: false };
        let seats = parts.into_iter().map(seat).collect();
        let chronicle = Chronicle::default();
        Self { lease, seats, shared, chronicle, pending: None, newest_effect: 0, newest_term: 0 }
    }

    /// Faults, until the run has seen enough; then an orderly end.
    pub(super) async fn run(mut self, plan: ChaosPlan) -> anyhow::Result<Chronicle> {
        for step in plan {
            let calm = now().plus(step.calm);
            self.until(Duration::from_secs(60), |cell| now() >= calm && cell.leader().is_some()).await?;
            if self.shared.enough.is_cancelled() {
                break;
            }
            self.inject(step).await?;
        }
        self.end().await?;
        Ok(self.chronicle)
    }

    async fn inject(&mut self, step: PlanStep) -> anyhow::Result<()> {
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
        self.note(index, What::Fault { name: fault.name().to_owned() });
        if !matches!(fault, Fault::KillStandby | Fault::Cut | Fault::Delay) {
            self.pending = Some((fault, now()));
        }
        let patience = self.patience();
        match fault {
            Fault::Terminate => self.terminate(index, step.chance).await?,
            Fault::Kill | Fault::KillStandby => {
                let mut actor = self.seats[index].actor.take().expect("looked at above");
                let mut last = Vec::new();
                actor.kill(&mut last).await?;
                self.take(last);
                self.seats[index].back_at = now().plus(ttl.mul_f64(step.chance));
                if fault == Fault::Kill {
                    self.until(patience, |cell| cell.newest_term > term.epoch).await?;
                }
            }
            Fault::Stop => {
                self.note(index, What::Paused);
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
        self.seats[index].back_at = now().plus(self.shared.ttl.mul_f64(chance / 8.0));
        Ok(())
    }

    /// Takes a process that was asked to end off its seat: it must have ended in order.
    fn empty(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(mut actor) = self.seats[index].actor.take() else { return Ok(()) };
        let events = actor.look()?;
        self.take(events);
        self.seats[index].asked = false;
        match actor.process.exit_status() {
            Some(status) if status.success() => {}
            ended => {
                self.problem(&actor, &format!("it was asked to end by SIGTERM and ended with {ended:?}"))
            }
        }
        Ok(())
    }

    /// Lets every actor go on and end in order, and reads its history to the end.
    async fn end(&mut self) -> anyhow::Result<()> {
        for index in 0..self.seats.len() {
            if let Some(link) = &self.seats[index].link {
                link.deliver();
            }
            self.signal(index, Signal::CONT);
        }
        // An actor that was started a moment ago doesn't handle the signal yet, and would be killed by it.
        let hears = |actor: &FleetActor| actor.started || actor.process.exit_status().is_some();
        let all_hear = |cell: &Self| cell.seats.iter().filter_map(|seat| seat.actor.as_ref()).all(hears);
        self.until_even_at_the_end(EXIT_LIMIT, all_hear).await?;
        for index in 0..self.seats.len() {
            // One by one: each hands over to the next.
            if self.seats[index].actor.is_some() {
                self.terminate(index, 0.0).await?;
                self.seats[index].back_at = Instant(u64::MAX);
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

    /// The time that a successor may take to lead and to make an effect.
    fn patience(&self) -> Duration {
        self.shared.ttl * 3 + Duration::from_secs(2)
    }

    fn paused(&self, index: usize) -> Option<(Instant, Term)> {
        self.seats[index].actor.as_ref()?.paused
    }

    fn signal(&mut self, index: usize, signal: Signal) {
        if let Some(actor) = &self.seats[index].actor {
            // It may have ended by itself; the next look tells.
            let _ = actor.process.signal(signal);
        }
    }

    /// Adds an event of the actor on this seat that only an outsider can tell.
    fn note(&mut self, index: usize, what: What) {
        if let Some(actor) = &self.seats[index].actor {
            self.chronicle.history.events.push(actor.event(what));
        }
    }

    fn problem(&mut self, actor: &FleetActor, what: &str) {
        let printed = actor.process.lines();
        let trace = std::fs::read_to_string(&actor.trace).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{}/status", actor.process.id()));
        let state = status
            .ok()
            .and_then(|status| status.lines().find(|line| line.starts_with("State")).map(str::to_owned));
        let last = |lines: Vec<&str>| lines[lines.len().saturating_sub(5)..].join("\n      ");
        let lease = &self.lease;
        self.chronicle.problems.push(format!(
            "{lease}: {}: {what}\n      {}\n      {}\n      {}",
            actor.name,
            state.unwrap_or_default(),
            last(trace.lines().collect()),
            last(printed.iter().map(String::as_str).collect()),
        ));
    }

    /// Looks at every actor until `reached`, the limit, or the end of the run.
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

    /// Reads every actor's history, and fills empty seats.
    fn look(&mut self) -> anyhow::Result<()> {
        for index in 0..self.seats.len() {
            match self.seats[index].actor.take() {
                Some(mut actor) => {
                    let ended = actor.process.exit_status().filter(|_| !self.seats[index].asked);
                    let events = actor.look()?;
                    self.take(events);
                    if let Some(ended) = ended {
                        self.problem(&actor, &format!("it ended without being asked: {ended}"));
                        self.seats[index].back_at = now().plus(self.shared.ttl);
                        continue;
                    }
                    // An actor that stopped itself goes on once a successor has made effects. It is continued again and
                    // again, since it tells just before it stops; and after a while in any case, since an earlier effect
                    // of its own, given up and not yet over, may hold the lock that the successor's effects wait for.
                    let enough = self.shared.enough.is_cancelled();
                    let over = |(since, term): (Instant, Term)| {
                        term.epoch < self.newest_effect || enough || now() > since.plus(self.patience())
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

    fn take(&mut self, events: Vec<HistoryEntry>) {
        let chronicle = &mut self.chronicle;
        for event in &events {
            match &event.what {
                What::Begun { term, .. } => {
                    self.newest_term = self.newest_term.max(term.epoch);
                    chronicle.takeovers += 1;
                    self.shared.takeovers.fetch_add(1, Ordering::SeqCst);
                    if let Some((fault, since)) = self.pending.take_if(|(_, since)| event.at > *since) {
                        let took = event.at.since(since);
                        chronicle.failovers.entry(fault.name()).or_default().push(took);
                    }
                }
                What::Effect { term, outcome, .. } => {
                    let kind = match outcome {
                        Outcome::Written => 0,
                        Outcome::Refused => 1,
                        Outcome::Failed(_) => 2,
                    };
                    chronicle.effects[kind] += 1;
                    if kind == 0 {
                        self.newest_effect = self.newest_effect.max(term.epoch);
                    }
                }
                What::Answered { answer: Answer::Conflict(_), .. } => chronicle.refused_writes += 1,
                _ => {}
            }
        }
        chronicle.history.events.extend(events);
    }
}
