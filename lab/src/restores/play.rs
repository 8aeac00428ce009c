//! One lease of a round: its holder, its standby, their supervisor, and the history that they leave.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use lease_core::internal::deadline::lengthened;
use lease_core::{Instant, LeaseBackend, LeaseName, Term};
use lease_judge::history::{HistoryEntry, View, What};
use lease_stores::Link;
use lease_testbed::Signal;
use serde::Serialize;

use crate::fleet::{ActorPart, Fleet, FleetActor, LOOK_EVERY, now};
use crate::pause::pause;

/// The pause before a process that ended by itself is started again: systemd's default.
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// The part of the lease's life that the standby has seen when the backup is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Saw {
    /// Free in the backup; the standby has seen the acquisition that the restore loses.
    All,
    /// Held in the backup, at the beat that the standby saw last: it stopped looking then, the holder didn't stop.
    Half,
    /// Free in the backup; the standby starts after the restore.
    Nothing,
}

/// The state of the holder when the backup is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum HolderState {
    CutOff,
    Alive,
}

/// One process's place. An empty one has never been taken, or its process has ended.
pub(super) struct Contender {
    pub(super) part: ActorPart,
    /// The link by which it is cut off; without one it is stopped by SIGSTOP.
    pub(super) link: Option<Link>,
    actor: Option<FleetActor>,
    /// It is to be taken again from then on.
    back_at: Option<Instant>,
}

pub(super) struct Play<'a> {
    fleet: &'a Fleet,
    pub(super) lease: LeaseName,
    pub(super) saw: Saw,
    pub(super) state: HolderState,
    ttl: Duration,
    /// The first is the holder's, the second the standby's.
    seats: [Contender; 2],
    pub(super) events: Vec<HistoryEntry>,
    /// Since when the standby of [`Saw::Half`] doesn't look any more.
    blind_since: Instant,
    /// The old term ends then.
    pub(super) old_deadline: Instant,
    pub(super) recovered_at: Option<Instant>,
    pub(super) restarts: usize,
    pub(super) problem: Option<String>,
}

const HOLDER: usize = 0;
const STANDBY: usize = 1;

// === impl Contender ===

impl Contender {
    pub(super) fn new(part: ActorPart, link: Option<Link>) -> Self {
        Self { part, link, actor: None, back_at: None }
    }

    fn name(&self) -> Option<&str> {
        self.actor.as_ref().map(|actor| actor.name.as_str())
    }
}

// === impl Play ===

impl<'a> Play<'a> {
    pub(super) fn new(
        fleet: &'a Fleet,
        lease: LeaseName,
        (saw, state): (Saw, HolderState),
        seats: [Contender; 2],
    ) -> Self {
        Self {
            fleet,
            lease,
            saw,
            state,
            ttl: seats[HOLDER].part.ttl,
            seats,
            events: Vec::new(),
            blind_since: Instant::ZERO,
            old_deadline: Instant::ZERO,
            recovered_at: None,
            restarts: 0,
            problem: None,
        }
    }

    /// With [`Saw::Half`] the lease is held, and its holder stands still so that the backup has its last beat.
    pub(super) async fn before_the_backup(&mut self) -> anyhow::Result<()> {
        if self.saw == Saw::Half {
            self.take(HOLDER)?;
            self.beats(now()).await?;
            self.take(STANDBY)?;
            self.follows().await?;
            self.beats(now()).await?;
            self.pause(HOLDER).await?;
        }
        Ok(())
    }

    /// The holder goes on to a state that no backup has; the standby sees it, or doesn't.
    pub(super) async fn after_the_backup(&mut self, backend: &dyn LeaseBackend) -> anyhow::Result<()> {
        if self.saw == Saw::Half {
            let present = View::from(&backend.observe(&self.lease).await?);
            let sees =
                |play: &Self| play.views(STANDBY).any(|view| view.beat() == present.beat()).then_some(());
            self.until("the standby to see the beat of the backup", sees).await?;
            self.cut_off(STANDBY).await?;
            self.blind_since = now();
            self.go_on(HOLDER);
        } else {
            self.take(HOLDER)?;
        }
        self.beats(now()).await?;
        if self.saw == Saw::All {
            self.take(STANDBY)?;
            self.follows().await?;
        }
        Ok(())
    }

    /// A standby that saw half has not looked for a whole wait.
    pub(super) async fn ripens(&mut self) -> anyhow::Result<()> {
        let over = match self.saw {
            Saw::Half => self.blind_since.plus(lengthened(self.ttl)),
            Saw::All | Saw::Nothing => return Ok(()),
        };
        self.until("the standby's wait to be over", |_| (now() > over).then_some(())).await
    }

    /// The holder has just renewed; now it may be cut off.
    pub(super) async fn before_the_restore(&mut self) -> anyhow::Result<()> {
        self.beats(now()).await?;
        if self.state == HolderState::CutOff {
            self.cut_off(HOLDER).await?;
        }
        let (_, _, deadline) = self.newest(HOLDER).context("the holder leads")?;
        self.old_deadline = deadline;
        Ok(())
    }

    /// Somebody leads, under a new term or, alive, under the old one; then the lease is handed over.
    pub(super) async fn after_the_restore(
        &mut self,
        restoring: Instant,
        served: Instant,
    ) -> anyhow::Result<()> {
        match self.saw {
            Saw::All => {}
            Saw::Half => self.go_on(STANDBY),
            Saw::Nothing => self.take(STANDBY)?,
        }
        let leads = |play: &Self| {
            let mut events = play.events.iter();
            events.find_map(|event| match event.what {
                What::Begun { .. } if event.at > restoring => Some(event.at),
                What::Extended { .. } if event.at > served => Some(event.at),
                _ => None,
            })
        };
        self.recovered_at = Some(self.until("somebody to lead after the restore", leads).await?);
        if self.state == HolderState::CutOff {
            // It believes that it leads until then, whoever leads as well.
            let over = self.old_deadline;
            self.until("the old term to be over", |_| (now() > over).then_some(())).await?;
            self.go_on(HOLDER);
        }
        self.hand_over().await
    }

    /// The leader is asked to end; the other leads at a greater epoch, and is asked to end as well.
    async fn hand_over(&mut self) -> anyhow::Result<()> {
        let leads = |play: &Self| {
            let term = |seat: usize| play.seats[seat].actor.as_ref().and_then(|actor| actor.leading);
            let leader =
                [HOLDER, STANDBY].into_iter().max_by_key(|seat| term(*seat).map(|term| term.epoch))?;
            let (term, other) = (term(leader)?, 1 - leader);
            // It has read the register as it is now.
            let knows = |view: &View| view.grant() == Some(term.grant);
            play.views(other).any(knows).then_some((leader, other, term))
        };
        let (leader, other, term) = self.until("one to lead and the other to follow", leads).await?;
        self.end(leader).await?;
        let follows =
            |play: &Self| play.newest(other).filter(|(_, next, _)| next.epoch > term.epoch).map(drop);
        self.until("the other to lead after it", follows).await?;
        self.end(other).await
    }

    async fn end(&mut self, seat: usize) -> anyhow::Result<()> {
        let mut actor = self.seats[seat].actor.take().context("it runs")?;
        actor.process.signal(Signal::TERM)?;
        let status = actor.process.wait(self.limit()).await?;
        self.events.extend(actor.look()?);
        ensure!(status.success(), "{} was asked to end, and ended with {status}", actor.name);
        Ok(())
    }

    fn take(&mut self, seat: usize) -> anyhow::Result<()> {
        let seat = &mut self.seats[seat];
        seat.back_at = None;
        seat.actor = Some(self.fleet.spawn(&seat.part)?);
        Ok(())
    }

    async fn pause(&mut self, seat: usize) -> anyhow::Result<()> {
        let actor = self.seats[seat].actor.as_ref().context("it runs")?;
        self.events.push(actor.event(What::Paused));
        pause(&actor.process, self.seats[seat].part.place.lease_file().as_deref()).await
    }

    async fn cut_off(&mut self, seat: usize) -> anyhow::Result<()> {
        match &self.seats[seat].link {
            Some(link) => link.hold(),
            None => self.pause(seat).await?,
        }
        Ok(())
    }

    fn go_on(&self, seat: usize) {
        let seat = &self.seats[seat];
        if let Some(link) = &seat.link {
            link.deliver();
        }
        if let Some(actor) = &seat.actor {
            // It may have ended by itself; the next look tells.
            let _ = actor.process.signal(Signal::CONT);
        }
    }

    /// Waits until the holder has just got an acknowledgement.
    async fn beats(&mut self, after: Instant) -> anyhow::Result<()> {
        let beat = |play: &Self| play.newest(HOLDER).filter(|(at, ..)| *at > after).map(drop);
        self.until("the holder to lead, and to renew", beat).await
    }

    /// Waits until the standby has seen the holder's newest term.
    async fn follows(&mut self) -> anyhow::Result<()> {
        let follows = |play: &Self| {
            let (_, term, _) = play.newest(HOLDER)?;
            let mut views = play.views(STANDBY);
            views.any(|view| view.grant() == Some(term.grant)).then_some(())
        };
        self.until("the standby to follow the holder", follows).await
    }

    /// The last acknowledgement that a seat's process got: when, in which term, and its deadline.
    fn newest(&self, seat: usize) -> Option<(Instant, Term, Instant)> {
        let name = self.seats[seat].name()?;
        let mine = self.events.iter().rev().filter(|event| event.actor == name);
        { mine }.find_map(|event| match event.what {
            What::Begun { term, deadline } | What::Extended { term, deadline } => {
                Some((event.at, term, deadline))
            }
            _ => None,
        })
    }

    fn views(&self, seat: usize) -> impl Iterator<Item = &View> {
        let name = self.seats[seat].name();
        let mine = self.events.iter().filter(move |event| Some(event.actor.as_str()) == name);
        mine.filter_map(|event| event.what.view())
    }

    fn limit(&self) -> Duration {
        self.ttl * 4 + Duration::from_secs(60)
    }

    async fn until<T>(&mut self, what: &str, reached: impl Fn(&Self) -> Option<T>) -> anyhow::Result<T> {
        let start = std::time::Instant::now();
        loop {
            self.look()?;
            if let Some(found) = reached(self) {
                return Ok(found);
            }
            if start.elapsed() > self.limit() {
                let printed = |seat: &Contender| {
                    seat.actor.as_ref().map(|actor| actor.process.lines()).unwrap_or_default()
                };
                let lines: Vec<_> = self.seats.iter().flat_map(printed).collect();
                let last = lines[lines.len().saturating_sub(4)..].join("\n      ");
                bail!("waited for {what} for {:?} in vain; the last lines:\n      {last}", self.limit());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Reads both histories. A process that ended by itself is started again, as a supervisor does.
    fn look(&mut self) -> anyhow::Result<()> {
        for seat in &mut self.seats {
            let Some(mut actor) = seat.actor.take() else {
                if seat.back_at.is_some_and(|at| now() > at) {
                    seat.back_at = None;
                    seat.actor = Some(self.fleet.spawn(&seat.part)?);
                }
                continue;
            };
            // The exit first: events before it are read all the same.
            let ended = actor.process.exit_status();
            self.events.extend(actor.look()?);
            match ended {
                None => seat.actor = Some(actor),
                Some(status) => {
                    self.events.push(actor.event(What::Died));
                    ensure!(
                        !status.success(),
                        "{} ended with {status}, which no supervisor restarts",
                        actor.name
                    );
                    self.restarts += 1;
                    seat.back_at = Some(now().plus(RESTART_AFTER));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Saw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "saw it all",
            Self::Half => "saw half",
            Self::Nothing => "saw nothing",
        })
    }
}

impl fmt::Display for HolderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CutOff => "cut off",
            Self::Alive => "alive",
        })
    }
}
