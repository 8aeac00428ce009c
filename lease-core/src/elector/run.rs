//! `run_until`: the work runs while it leads, and only then.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Elector;
use super::driver::Driver;
use super::step::Event;
use crate::clock::{Clock, Instant};
use crate::error::BackendError;
use crate::leadership::Leadership;
use crate::lease_thread;

/// Why [`Elector::run_until`] returned without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Shutdown was asked for; the work has returned and the lease, if held, was released or had run out.
    Shutdown,
    /// The work returned `Ok` on its own while it still led; the lease was released.
    Finished,
}

/// Why [`Elector::run_until`] failed. In each case this elector leads no more.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E> {
    /// The work returned an error; the lease was released. Fix the cause and run it again.
    #[error("the work failed: {0}")]
    Work(E),
    /// The work panicked; that counted as its return, and the lease was released. The message is the panic's.
    #[error("the work panicked: {0}")]
    Panicked(String),
    /// The store refuses, and trying again can't help: change the setting that the message names. Or what was opened as
    /// the store is gone, and only a new process finds what has taken its place.
    #[error("the lease store refuses: {0:#}")]
    Refused(BackendError),
    /// The work did not stop within the stop budget. **Nothing was released**: the lease runs out by itself. Exit
    /// the process, for parts of the work may still run.
    #[error(
        "the work did not stop within the stop budget; the lease was not released and runs out by itself"
    )]
    StopBudgetExceeded,
    /// The lease thread is gone: its runtime was shut down or a bug made it panic.
    #[error("the lease thread ended unexpectedly")]
    LeaseThreadGone,
}

impl Elector {
    /// Campaigns for the lease, runs `work` while it is held, and campaigns again after a loss, until `shutdown`
    /// resolves or the work ends by itself.
    ///
    /// - `work` is called once for each term, on the caller's runtime, and must return soon after
    ///   [`Leadership::stop_requested`] resolves. The lease is renewed while it drains and released **only after it
    ///   has returned** (H-1). A panic counts as its return.
    /// - When `work` returns `Ok` although it still leads and wasn't told to stop, it is finished: so is this.
    /// - Renewal runs on the lease thread and never behind the work, even if the caller's runtime is blocked.
    ///
    /// # Cancel safety
    /// Dropping the future drops the work, which counts as its return; the lease thread then releases the lease in
    /// the background. A process that exits right away may leave the lease to expire.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run_until<S, W, F, E>(self, shutdown: S, mut work: W) -> Result<Ended, RunError<E>>
    where
        S: Future<Output = ()>,
        W: FnMut(Leadership) -> F,
        F: Future<Output = Result<(), E>>,
    {
        let clock = self.clock.clone();
        let stop_budget = self.stop_budget;
        let mut campaign = Campaign::start(self);
        let mut shutdown = pin!(shutdown.fuse());
        let mut stop_by = None;
        let mut result = Ok(Ended::Shutdown);
        loop {
            let leadership = tokio::select! {
                biased;
                () = &mut shutdown, if stop_by.is_none() => {
                    stop_by = Some(clock.now().plus(stop_budget));
                    campaign.tell(Event::Shutdown);
                    continue;
                }
                begun = campaign.terms.recv() => match begun {
                    Some(leadership) => leadership,
                    None => return campaign.ended().await.and(result),
                },
                () = reached(&clock, stop_by) => {
                    campaign.tell(Event::Abandon);
                    return campaign.ended().await.and(result);
                }
            };
            if stop_by.is_some() {
                // It began while shutdown was on its way: the work needn't start at all.
                campaign.tell(Event::WorkReturned);
                continue;
            }
            let outcome = {
                let job = async { work(leadership.clone()).await };
                let mut job = pin!(AssertUnwindSafe(job).catch_unwind());
                loop {
                    tokio::select! {
                        biased;
                        outcome = &mut job => break outcome,
                        () = &mut shutdown, if stop_by.is_none() => {
                            stop_by = Some(clock.now().plus(stop_budget));
                            campaign.tell(Event::Shutdown);
                        }
                        () = reached(&clock, stop_by) => {
                            campaign.tell(Event::Abandon);
                            return Err(RunError::StopBudgetExceeded);
                        }
                    }
                }
            };
            let finished = leadership.should_continue();
            match outcome {
                Ok(Ok(())) if finished && stop_by.is_none() => result = Ok(Ended::Finished),
                Ok(Ok(())) => {
                    campaign.tell(Event::WorkReturned);
                    continue;
                }
                Ok(Err(error)) => result = Err(RunError::Work(error)),
                Err(panic) => result = Err(RunError::Panicked(message(&*panic))),
            }
            campaign.tell(Event::Shutdown);
            campaign.tell(Event::WorkReturned);
            stop_by = stop_by.or_else(|| Some(clock.now().plus(stop_budget)));
        }
    }
}

/// The driver's task on the lease thread, seen from the caller's side.
struct Campaign {
    control: mpsc::Sender<Event>,
    terms: mpsc::Receiver<Leadership>,
    task: JoinHandle<Result<(), BackendError>>,
}

impl Campaign {
    fn start(elector: Elector) -> Self {
        // Per term the caller says `WorkReturned` once, and in all `Shutdown` twice and `Abandon` once at most.
        let (control, control_receiver) = mpsc::channel(8);
        let (terms_sender, terms) = mpsc::channel(1);
        let driver = Driver {
            name: elector.name,
            rules: elector.rules,
            clock: elector.clock,
            connector: elector.connector,
            migrate_from: elector.migrate_from,
            not_moved_yet: elector.not_moved_yet,
            step: elector.step,
            control: control_receiver,
            terms: terms_sender,
            events: elector.events,
            view: elector.view,
            failures: Arc::default(),
            holder_is_dead: elector.holder_is_dead,
        };
        let task = lease_thread::handle().spawn(driver.run());
        Self { control, terms, task }
    }

    fn tell(&self, event: Event) {
        // The driver takes control events before all else; a full queue means that it is gone or stopping.
        let _ = self.control.try_send(event);
    }

    /// Waits for the driver's end. A refusal by the store outweighs whatever else there is to say.
    async fn ended<E>(&mut self) -> Result<(), RunError<E>> {
        match (&mut self.task).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(RunError::Refused(refused)),
            Err(_) => Err(RunError::LeaseThreadGone),
        }
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        // The work's future is gone already (it is dropped before this): drain, release, end.
        self.tell(Event::Shutdown);
        self.tell(Event::WorkReturned);
    }
}

async fn reached(clock: &Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
