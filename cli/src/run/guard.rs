//! The guard: owns the grant (G-1), campaigns, and receives the signals.

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use lease_core::{Elector, EventKind, LeaseEvent, LeaseName, RunError};
use lease_settings::Failure;
use lease_worker_common::shutdown::ONE_REQUEST;
use rustix::process::{getpid, set_child_subreaper};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::isolate::Isolate;
use super::keeper_handle::KeeperHandle;
use super::signals::{self, Heard};
use super::wire::FromKeeper;
use super::{GuardPlan, OUR_FAILURE, tree};

/// The command's state, which decides what a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandState {
    /// There is none.
    Standby,
    /// It runs.
    Running,
    /// It has ended by itself, and descendants of it have not.
    Lingering,
    /// It was told to stop.
    Stopping,
}

/// The time limit for a keeper to be ready, at the start.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Why a term's work ended in a way that isn't 'campaign again'.
#[derive(Debug, thiserror::Error)]
pub(super) enum Done {
    #[error("the command ended with {0}")]
    Code(u8),
    #[error("the lease was lost or handed over, and --once says not to run again")]
    Lost,
    #[error("the keeper failed")]
    KeeperFailed,
    #[error("{0}")]
    Failed(String),
}

pub(super) struct Guard<'a> {
    pub(super) lease: LeaseName,
    elector: Box<dyn Fn() -> Result<Elector, Failure> + 'a>,
    pub(super) command: Vec<OsString>,
    withheld: Vec<&'static str>,
    pub(super) grace: Duration,
    /// SIGKILL comes this long before the deadline.
    pub(super) margin: Duration,
    pub(super) stop_budget: Duration,
    pub(super) once: bool,
    /// How the command is isolated; from the start on one that can be had.
    pub(super) isolate: Cell<Isolate>,
    /// Nobody asked for an isolation that takes rights from the command.
    keep_rights: bool,
    on_a_terminal: bool,
    shutdown: CancellationToken,
    /// The signal that asked for the shutdown.
    pub(super) stop_signal: Cell<Option<i32>>,
    /// When it came.
    asked_at: Cell<Option<Instant>>,
    pub(super) state: Cell<CommandState>,
    /// A keeper that is started already, so that a new term needs not wait for it.
    pub(super) warm: Cell<Option<KeeperHandle>>,
    /// The last keeper failed before it started the command.
    pub(super) keeper_failed: Cell<bool>,
    order: mpsc::Sender<i32>,
    /// Signals for the present command or keeper.
    pub(super) orders: Mutex<mpsc::Receiver<i32>>,
    /// A renewal was acknowledged: the deadline has moved.
    pub(super) renewed: Notify,
}

impl<'a> Guard<'a> {
    pub(super) fn new(plan: GuardPlan<'a>) -> Self {
        let (order, orders) = mpsc::channel(64);
        Self {
            lease: plan.lease,
            elector: plan.elector,
            command: plan.command,
            withheld: plan.withheld,
            grace: plan.stop_grace,
            margin: (plan.stop_grace / 2).min(Duration::from_millis(500)),
            stop_budget: plan.stop_budget,
            once: plan.once,
            isolate: Cell::new(plan.isolate),
            keep_rights: plan.isolate == Isolate::Auto,
            on_a_terminal: plan.on_a_terminal,
            shutdown: CancellationToken::new(),
            stop_signal: Cell::new(None),
            asked_at: Cell::new(None),
            state: Cell::new(CommandState::Standby),
            warm: Cell::new(None),
            keeper_failed: Cell::new(false),
            order,
            orders: Mutex::new(orders),
            renewed: Notify::new(),
        }
    }

    /// Campaigns until there is an exit code.
    pub(super) async fn run(self) -> Result<u8, Failure> {
        // If the keeper dies, its processes become this one's children.
        let prepared =
            set_child_subreaper(Some(getpid())).map_err(Into::into).and_then(|()| signals::listen());
        let mut heard = prepared.map_err(|error| failed(&error))?;
        self.choose_isolation(&mut heard).await?;
        loop {
            if let (true, Some(signal)) = (self.shutdown.is_cancelled(), self.stop_signal.get()) {
                return Ok(ended_by(signal));
            }
            let elector = (self.elector)()?;
            let mut events = elector.events();
            let shutdown = self.shutdown.clone();
            let mut campaign = pin!(elector.run_until(shutdown.cancelled_owned(), |term| self.hold(term)));
            let outcome = loop {
                tokio::select! {
                    biased;
                    outcome = &mut campaign => break outcome,
                    Some(heard) = heard.recv() => self.hear(heard),
                    Some(event) = events.next() => self.tell(event.ok()),
                }
            };
            while let Some(Some(event)) = events.next().now_or_never() {
                self.tell(event.ok());
            }
            match (outcome, self.stop_signal.get()) {
                (Err(RunError::Work(Done::Code(code))), _) => return Ok(code),
                // Nothing ran, or nothing more: like a command that the signal ended.
                (Ok(_) | Err(RunError::Work(Done::KeeperFailed)), Some(signal)) => {
                    return Ok(ended_by(signal));
                }
                (Ok(_) | Err(RunError::Work(Done::KeeperFailed)), None) => {}
                (Err(RunError::Work(done)), _) => return Err(failed(&done)),
                (Err(error), _) => return Err(failed(&error)),
            }
        }
    }

    /// The few lines that a user of `run` wants from the election; failures are logged by the core. `None`: some events
    /// were missed.
    fn tell(&self, event: Option<LeaseEvent>) {
        let (lease, holder) = (self.lease.as_str(), event.as_ref().map_or("", |event| event.holder.as_str()));
        match event.as_ref().map(|event| &event.kind) {
            Some(EventKind::Renewed(_)) | None => self.renewed.notify_one(),
            Some(EventKind::Following(term)) => info!(lease, holder, epoch = term.epoch, "standing by"),
            Some(EventKind::Revoked { by, note, hold_off: None }) => {
                info!(lease, holder, by, note, "standing by: an operator revoked the lease");
            }
            Some(EventKind::Acquired { term, .. }) => info!(lease, holder, epoch = term.epoch, "leading"),
            Some(EventKind::Released { term, .. }) => info!(lease, holder, epoch = term.epoch, "released"),
            Some(_) => {}
        }
    }

    /// Starts the first keeper in the best way that there is, unless a signal ends this.
    async fn choose_isolation(&self, heard: &mut mpsc::Receiver<Heard>) -> Result<(), Failure> {
        let (asked, lease) = (self.isolate.get(), self.lease.as_str());
        let mut refusals = Vec::new();
        for candidate in asked.candidates(self.on_a_terminal) {
            let mut keeper = self
                .spawn_keeper(*candidate)
                .map_err(|error| failed(&format_args!("the keeper can't be started: {error}")))?;
            let answer = self.first_word(&mut keeper, heard).await;
            if !matches!(answer, Ok(Some(FromKeeper::Ready { .. }))) {
                keeper.kill();
            }
            let error = match answer {
                Ok(Some(FromKeeper::Ready { .. })) => {
                    self.isolate.set(*candidate);
                    self.warm.set(Some(keeper));
                    match (candidate, refusals.is_empty()) {
                        (Isolate::None, _) => self.say_what_is_not_covered(&refusals),
                        (_, true) => info!(lease, isolate = candidate.name(), "the program will be isolated"),
                        (_, false) => {
                            info!(
                                lease,
                                isolate = candidate.name(),
                                "the program will be isolated; not by {}",
                                refusals.join("; ")
                            );
                        }
                    }
                    return Ok(());
                }
                Ok(Some(FromKeeper::Refused { error })) => error,
                Ok(Some(FromKeeper::Failed { error })) => {
                    return Err(failed(&format_args!("the keeper can't be started: {error}")));
                }
                // What failed now may be had the next time: nobody goes on with less for that.
                Ok(_) if !self.shutdown.is_cancelled() => {
                    return Err(failed(&"the keeper died at its start"));
                }
                Err(_) => {
                    let why = format_args!("the keeper is not ready after {} s", READY_LIMIT.as_secs());
                    return Err(failed(&why));
                }
                Ok(_) => return Ok(()),
            };
            refusals.push(format!("{}: {error}", candidate.name()));
        }
        let why = refusals.join("; ");
        match asked {
            Isolate::Pid | Isolate::Cgroup => Err(Failure::Code(
                2,
                format!(
                    "--isolate: {why}; use auto for the best that can be had here, or give this process the right to it"
                ),
            )),
            Isolate::Auto | Isolate::None => Err(failed(&format_args!("the keeper can't be started: {why}"))),
        }
    }

    /// What a new keeper or its watchdog says; `None` if they died, or a signal came that ends the guard.
    async fn first_word(
        &self,
        keeper: &mut KeeperHandle,
        heard: &mut mpsc::Receiver<Heard>,
    ) -> Result<Option<FromKeeper>, Elapsed> {
        let word = async {
            loop {
                tokio::select! {
                    biased;
                    word = keeper.next() => return word,
                    Some(heard) = heard.recv() => match heard.signal {
                        SIGCHLD => {
                            tree::reap(|_, _| {});
                            keeper.wake();
                        }
                        _ => self.hear(heard),
                    },
                }
                if self.shutdown.is_cancelled() {
                    return None;
                }
            }
        };
        tokio::time::timeout(READY_LIMIT, word).await
    }

    fn say_what_is_not_covered(&self, refusals: &[String]) {
        let lease = self.lease.as_str();
        const COVERED: &str = "if guard, watchdog and keeper fail at once, only the program itself is sure to end before the \
                               lease does, unless it is set-uid or changes its user, and not all that it has started";
        if self.on_a_terminal && refusals.is_empty() {
            info!(
                lease,
                isolate = "none",
                "{COVERED} (not isolated on a terminal unless asked to, by --isolate=pid)"
            );
        } else if refusals.is_empty() {
            info!(lease, isolate = "none", "{COVERED}");
        } else {
            warn!(lease, isolate = "none", "{COVERED} (it can't be isolated here: {})", refusals.join("; "));
        }
    }

    pub(super) fn spawn_keeper(&self, isolate: Isolate) -> io::Result<KeeperHandle> {
        KeeperHandle::spawn(isolate, self.keep_rights, &self.command, &self.withheld)
    }

    fn warm_up(&self) {
        match self.spawn_keeper(self.isolate.get()) {
            Ok(keeper) => self.warm.set(Some(keeper)),
            Err(error) => {
                warn!(lease = %self.lease, %error, "the keeper can't be started; trying again when leading")
            }
        }
    }

    fn hear(&self, heard: Heard) {
        let state = self.state.get();
        match heard.signal {
            SIGCHLD => self.children_changed(),
            // Ctrl-C belongs to the command while it runs: it has had it, and decides what to do about it.
            _ if heard.from_terminal && state == CommandState::Running => {}
            SIGTERM | SIGINT => {
                let asked_at = self.asked_at.get();
                self.shut_down(heard.signal);
                let again = asked_at.is_some_and(|at| at.elapsed() < ONE_REQUEST);
                if state == CommandState::Stopping && !heard.from_terminal && !again {
                    self.pass_on(heard.signal);
                }
            }
            SIGHUP | SIGQUIT if matches!(state, CommandState::Standby | CommandState::Lingering) => {
                self.shut_down(heard.signal);
            }
            _ if heard.from_terminal || state == CommandState::Standby => {}
            signal => self.pass_on(signal),
        }
    }

    fn shut_down(&self, signal: i32) {
        if self.stop_signal.get().is_none() {
            self.stop_signal.set(Some(signal));
            self.asked_at.set(Some(Instant::now()));
        }
        self.shutdown.cancel();
    }

    fn pass_on(&self, signal: i32) {
        // A full queue holds 64 signals that have not been passed on yet: the command has enough of them.
        let _ = self.order.try_send(signal);
    }

    fn children_changed(&self) {
        let mut dead = Vec::new();
        tree::reap(|pid, _| dead.push(pid));
        if self.state.get() != CommandState::Standby {
            return self.pass_on(SIGCHLD);
        }
        match self.warm.take() {
            // Another is started when a term begins: if that one dies too, something is wrong with all of them.
            Some(keeper) if dead.contains(&keeper.pid()) => {}
            Some(keeper) => {
                keeper.wake();
                self.warm.set(Some(keeper));
            }
            None if !self.shutdown.is_cancelled() => self.warm_up(),
            None => {}
        }
    }
}

/// The exit code of whoever a signal ended.
fn ended_by(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(OUR_FAILURE)
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::Code(OUR_FAILURE, error.to_string())
}
