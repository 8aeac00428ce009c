//! One term: the command runs while the lease is held, and the lease is held until the command is proven dead.

use std::io;
use std::time::Duration;

use lease_core::{Clock, Instant, Leadership, StopReason};
use lease_worker_common::stderr;
use rustix::process::Signal;
use signal_hook::consts::SIGCHLD;
use tracing::{error, info, warn};

use super::guard::{CommandState, Done, Guard};
use super::keeper_handle::KeeperHandle;
use super::wire::{FromKeeper, Start, ToKeeper, nanos};
use super::{OUR_FAILURE, tree};

/// The end of a term's command.
enum End {
    /// The keeper proved it.
    Gone { code: u8, by_itself: bool },
    /// Nothing ran, since the term was nearly over.
    TooLate,
    /// Nothing ever ran.
    NotStarted { code: u8, error: String },
    /// The keeper is dead or doesn't do its duty: the guard must.
    KeeperFailed(&'static str),
}

/// From the command's start to the proof of its death. Whatever ends in between, be it a panic or a dropped future,
/// ends this process: no path leads from an unproven death to a release (G-2).
struct Unproven<'a>(&'a Guard<'a>);

impl Unproven<'_> {
    fn proven(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unproven<'_> {
    fn drop(&mut self) {
        error!(
            lease = %self.0.lease,
            "the command's processes could not be proven dead within the stop budget: the lease is not released and \
             runs out by itself"
        );
        stderr::flush();
        std::process::exit(OUR_FAILURE.into());
    }
}

impl Guard<'_> {
    /// The elector's work. When it returns, neither the command nor any descendant is left.
    pub(super) async fn hold(&self, leadership: Leadership) -> Result<(), Done> {
        // Acknowledged late, or this process stood still: a command would have to end before it began.
        if leadership.remaining() <= self.grace {
            self.say_too_late(&leadership);
            return Ok(());
        }
        let failed = |error: io::Error| Done::Failed(format!("the keeper can't be started: {error}"));
        let keeper = match self.warm.take() {
            Some(keeper) => keeper,
            None => self.spawn_keeper(self.isolate.get()).map_err(failed)?,
        };
        self.state.set(CommandState::Running);
        let mut hold = Hold::new(self, leadership, keeper);
        let unproven = Unproven(self);
        let end = hold.until_the_end().await;
        if let End::KeeperFailed(why) = end {
            error!(lease = %self.lease, epoch = hold.leadership.term().epoch, "{why}: ending the command without it");
            if !hold.finish_off().await {
                drop(unproven);
                unreachable!("ended above");
            }
        }
        unproven.proven();
        self.state.set(CommandState::Standby);
        hold.verdict(end)
    }

    fn say_too_late(&self, leadership: &Leadership) {
        let epoch = leadership.term().epoch;
        warn!(lease = %self.lease, epoch, "too little of the term is left, so nothing was started: campaigning again");
    }
}

struct Hold<'a> {
    guard: &'a Guard<'a>,
    leadership: Leadership,
    keeper: KeeperHandle,
    clock: Clock,
    /// The latest deadline that the keeper was told.
    deadline: Instant,
    /// When the keeper was told to kill what is left, and when we give up.
    stopping: Option<(Instant, Instant)>,
    lost: bool,
    started: bool,
}

impl<'a> Hold<'a> {
    fn new(guard: &'a Guard<'a>, leadership: Leadership, keeper: KeeperHandle) -> Self {
        let mut this = Self {
            guard,
            leadership,
            keeper,
            clock: Clock::boot(),
            deadline: Instant::ZERO,
            stopping: None,
            lost: false,
            started: false,
        };
        this.deadline = this.present_deadline();
        this
    }

    /// Never later than the true one.
    fn present_deadline(&self) -> Instant {
        let now = self.clock.now();
        now.plus(self.leadership.remaining())
    }

    /// From this moment on the keeper's work is overdue.
    fn overdue_at(&self) -> Instant {
        let killed_by = self.stopping.map(|(kill_at, _)| kill_at.plus(self.guard.margin));
        let before_deadline = self.deadline.minus(self.guard.margin / 2);
        killed_by.map_or(before_deadline, |at| at.min(before_deadline))
    }

    async fn until_the_end(&mut self) -> End {
        let guard = self.guard;
        let term = self.leadership.term();
        let start = ToKeeper::Start(Start {
            lease: guard.lease.to_string(),
            epoch: term.epoch,
            grant: term.grant.to_string(),
            deadline: nanos(self.deadline),
            grace: guard.grace.as_nanos() as u64,
            margin: guard.margin.as_nanos() as u64,
        });
        if !self.keeper.send(&start) {
            return End::KeeperFailed("the keeper takes no order");
        }
        let leadership = self.leadership.clone();
        let mut orders = guard.orders.lock().await;
        while orders.try_recv().is_ok() {} // meant for the command before
        loop {
            let overdue_at = self.overdue_at();
            tokio::select! {
                biased;
                message = self.keeper.next() => match message {
                    Some(message) => if let Some(end) = self.heard(message) { return end },
                    None => return End::KeeperFailed("the keeper died"),
                },
                () = self.clock.sleep_until(overdue_at) => {
                    return End::KeeperFailed("the keeper has not ended the command in time");
                }
                loss = leadership.lost(), if !self.lost => {
                    self.lost = true;
                    warn!(lease = %guard.lease, epoch = term.epoch, reason = %loss, "lease lost: ending the command");
                    self.stop(Signal::TERM.as_raw(), guard.grace);
                }
                () = leadership.stop_requested(), if self.stopping.is_none() => {
                    let signal = guard.stop_signal.get().unwrap_or(Signal::TERM.as_raw());
                    let drain = guard.stop_budget - (guard.stop_budget / 4).min(Duration::from_secs(2));
                    let reason = leadership.stop_reason();
                    let told = reason.as_ref().map(ToString::to_string);
                    let (lease, epoch) = (&guard.lease, term.epoch);
                    match reason {
                        Some(StopReason::Expiring) => warn!(%lease, epoch, reason = told, "asking the command to end"),
                        _ => info!(%lease, epoch, reason = told, "asking the command to end"),
                    }
                    self.stop(signal, drain);
                }
                Some(signal) = orders.recv() => match self.stopping {
                    _ if signal == SIGCHLD => self.keeper.wake(),
                    Some((kill_at, _)) => {
                        let _ = self.keeper.send(&ToKeeper::Stop { signal, kill_at: nanos(kill_at) });
                    }
                    None => {
                        let _ = self.keeper.send(&ToKeeper::Signal(signal));
                    }
                },
                () = guard.renewed.notified() => {
                    let deadline = self.present_deadline();
                    if deadline > self.deadline {
                        self.deadline = deadline;
                        let _ = self.keeper.send(&ToKeeper::Deadline(nanos(deadline)));
                    }
                }
            }
        }
    }

    fn stop(&mut self, signal: i32, drain: Duration) {
        let now = self.clock.now();
        let kill_at = now.plus(drain);
        let _ = self.keeper.send(&ToKeeper::Stop { signal, kill_at: nanos(kill_at) });
        let give_up_at = self.stopping.map_or(now.plus(self.guard.stop_budget), |(_, at)| at);
        self.stopping = Some((kill_at, give_up_at));
        self.guard.state.set(CommandState::Stopping);
    }

    fn heard(&mut self, message: FromKeeper) -> Option<End> {
        let (lease, epoch) = (self.guard.lease.as_str(), self.leadership.term().epoch);
        match message {
            FromKeeper::Ready { .. } => {}
            FromKeeper::Refused { error } => {
                error!(lease, epoch, error, "the keeper can't be started");
                return Some(End::KeeperFailed("the watchdog could not start the keeper"));
            }
            FromKeeper::Failed { error } => error!(lease, epoch, error, "the keeper failed"),
            FromKeeper::Started => {
                info!(lease, epoch, pid = self.keeper.command_pid(), "command started");
                self.started = true;
                self.guard.keeper_failed.set(false);
            }
            FromKeeper::TooLate => return Some(End::TooLate),
            FromKeeper::NotStarted { code, error } => return Some(End::NotStarted { code, error }),
            FromKeeper::CommandEnded { code, left } => {
                info!(lease, epoch, code, left, "command ended; the lease is kept until its descendants end");
                if self.stopping.is_none() {
                    self.guard.state.set(CommandState::Lingering);
                }
            }
            FromKeeper::Gone { code, by_itself } => {
                info!(lease, epoch, code, "command ended, and nothing of it is left");
                return Some(End::Gone { code, by_itself });
            }
        }
        None
    }

    /// The keeper's duty, done by the guard: a subreaper itself, it inherits all that the keeper leaves behind. True
    /// once no child is left, the keeper included; false if the budget is used up.
    async fn finish_off(&self) -> bool {
        let give_up_at = self.stopping.map_or(self.clock.now().plus(self.guard.stop_budget), |(_, at)| at);
        let mut pause = Duration::from_millis(1);
        loop {
            self.keeper.kill();
            tree::kill_all();
            if tree::reap(|_, _| {}) {
                self.keeper.tidy_up();
                return true;
            }
            if self.clock.now() >= give_up_at {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn verdict(&self, end: End) -> Result<(), Done> {
        match end {
            End::NotStarted { code, error } => {
                error!(lease = %self.guard.lease, error, "the command can't be started");
                Err(Done::Code(code))
            }
            End::Gone { code, by_itself: true } => Err(Done::Code(code)),
            End::Gone { code, by_itself: false } if self.guard.stop_signal.get().is_some() => {
                Err(Done::Code(code))
            }
            End::TooLate => {
                self.guard.say_too_late(&self.leadership);
                Ok(())
            }
            // The watchdog's timer, for one: the keeper's start took until then.
            End::KeeperFailed(_) if !self.started && self.leadership.remaining() <= self.guard.grace => {
                self.guard.say_too_late(&self.leadership);
                Ok(())
            }
            // Somebody may have killed it. Twice in a row it's something that a third one would meet as well.
            End::KeeperFailed(why) if !self.started && self.guard.keeper_failed.replace(true) => Err(
                Done::Failed(format!("{why} before it started the command, for the second time in a row")),
            ),
            End::KeeperFailed(_) if !self.started => Err(Done::KeeperFailed),
            End::Gone { .. } | End::KeeperFailed(_) if self.guard.once => Err(Done::Lost),
            End::KeeperFailed(_) => Err(Done::KeeperFailed),
            End::Gone { .. } => Ok(()),
        }
    }
}
