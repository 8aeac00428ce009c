//! Moving a lease to another store while its fleet runs (M-1): prepare, seal, open.
//!
//! Any step may crash, be repeated, or be run by two at once; `lease-core/tests/migrate.rs` checks every interleaving.
//! At no moment is the lease open in both stores, so workers of the new mode can't lead before the opening, and those
//! of the old mode not after the seal. The gap is one hand-over, or one maximum ttl after a crash between the two.

mod mark;
#[doc(hidden)]
pub mod next;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::mark::Mark;
use futures::StreamExt;

pub use self::next::{MayMove, Step};
use self::next::{MoveRules, Next, Run, Side};
use crate::backend::{LeaseBackend, PutOutcome};
use crate::clock::Clock;
use crate::deadline::Sighting;
use crate::error::BackendError;
use crate::record::{LeaseName, Observation, Record, RequestId};
use crate::writes::Fresh;

/// One lease's move.
#[derive(Clone)]
pub struct Move {
    /// The lease.
    pub name: LeaseName,
    /// The store that it lives in.
    pub from: Arc<dyn LeaseBackend>,
    /// The store that it is to live in. Not the same store under another name: both registers would be one.
    pub to: Arc<dyn LeaseBackend>,
    /// The lease's maximum ttl; rounded up to what the new store can write.
    pub max_ttl: Duration,
    /// The interval of the looks at both registers, and the pause after a failure.
    pub poll_every: Duration,
    /// The time limit of one call.
    pub call_limit: Duration,
    /// The name of whoever moves it, for people.
    pub by: String,
    /// The leases that it is for.
    pub may_move: MayMove,
}

/// An event of a move, for people.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A step was made.
    Made(Step),
    /// The holder has the lease for so long yet, unless it steps down before.
    Waiting {
        /// The holder; empty if nobody holds it.
        holder: String,
        /// At most.
        at_most: Duration,
    },
    /// A call failed; it is tried again.
    Failed {
        /// The store's mode.
        store: &'static str,
        /// The failure.
        error: String,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(step) => step.fmt(f),
            Self::Waiting { holder, at_most } if holder.is_empty() => {
                write!(
                    f,
                    "nobody holds the lease, but somebody may yet act on it: waiting for at most {at_most:.1?}"
                )
            }
            Self::Waiting { holder, at_most } => {
                write!(f, "waiting for {holder} to step down, or for its last beat to be {at_most:.1?} old")
            }
            Self::Failed { store, error } => write!(f, "the {store} store failed, trying again: {error}"),
        }
    }
}

/// Why a lease was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The registers say something that only an operator can judge; nothing more is written.
    #[error("lease {0} can't be moved: {1}")]
    Refused(LeaseName, String),
    /// A store refuses in a way that no retry can fix.
    #[error("the {0} store refuses: {1:#}")]
    Store(&'static str, BackendError),
    /// No call to a store will succeed on this connection any more: run it again on a new one.
    #[error("the connection to the {0} store is lost; run it again: {1:#}")]
    Disconnected(&'static str, BackendError),
}

impl Move {
    /// Moves the lease, or finds that it was moved already. Tries for as long as it takes: whoever calls it bounds it.
    /// A failure of a store is told as [`Progress::Failed`], and retried.
    ///
    /// # Errors
    /// [`MigrateError`]: an operator has to look, or to change a setting; then it may be run again.
    ///
    /// # Cancel safety
    /// Safe to drop at any await, to run again, and to run by several at once.
    pub async fn run(&self, clock: &Clock, mut tell: impl FnMut(Progress)) -> Result<(), MigrateError> {
        let (from, to) = (self.from.capabilities(), self.to.capabilities());
        let granularity = to.ttl_granularity.max(Duration::from_millis(1));
        let steps = self.max_ttl.as_nanos().div_ceil(granularity.as_nanos());
        let max_ttl = granularity * u32::try_from(steps).unwrap_or(u32::MAX);
        let rules = MoveRules {
            from: from.name.into(),
            to: to.name.into(),
            by: self.by.clone(),
            may_move: self.may_move.clone(),
            max_ttl,
        };
        let mut run = Run { asked: Some(RequestId::random()), ..Run::default() };
        let mut looked_at = clock.now();
        let mut refused_once = false;
        let mut told = None;
        let mut hints = match from.watch {
            true => self.call(&self.from, self.from.watch(self.name.as_str())).await.ok(),
            false => None,
        };
        loop {
            // As a candidate that stands still (T-2).
            if clock.now().since(looked_at) > (self.poll_every + self.call_limit) * 2 {
                run.interrupted(RequestId::random());
            }
            looked_at = clock.now();
            let pause = match self.look(clock, &mut run).await {
                Ok(target) => match next::next(&rules, &run, &target, clock.now(), &Fresh::random()) {
                    Next::Done => return Ok(()),
                    // The two looks are not one: another run may have been between its steps.
                    Next::Refuse(_) if !refused_once => {
                        refused_once = true;
                        Duration::ZERO
                    }
                    Next::Refuse(why) => return Err(MigrateError::Refused(self.name.clone(), why)),
                    Next::Wait(until) => {
                        let at_most = until.since(clock.now());
                        let holder = run.source.as_ref().and_then(|seen| seen.observation().record.as_ref());
                        let holder = holder.map(|record| record.holder.clone()).unwrap_or_default();
                        if told.as_ref() != Some(&holder) {
                            told = Some(holder.clone());
                            tell(Progress::Waiting { holder, at_most });
                        }
                        at_most.min(self.poll_every)
                    }
                    Next::Put(side, record, change, step) => {
                        let expected = match (side, &run.source) {
                            (Side::Source, Some(seen)) => seen.observation().clone(),
                            _ => target,
                        };
                        match self.put(side, &expected, &record, change).await {
                            Ok(true) => {
                                run.made(&step);
                                tell(Progress::Made(step));
                                refused_once = false;
                                Duration::ZERO
                            }
                            // Somebody else wrote: look again, but don't spin with them.
                            Ok(false) => self.poll_every / 8,
                            Err(failed) => self.failed(failed, &mut run, &mut tell)?,
                        }
                    }
                },
                Err(failed) => self.failed(failed, &mut run, &mut tell)?,
            };
            // The answer to a request is worth being woken by.
            let hint = async {
                match &mut hints {
                    Some(live) => live.next().await.is_some(),
                    None => std::future::pending().await,
                }
            };
            let live = tokio::select! {
                () = clock.sleep_until(clock.now().plus(pause)) => true,
                live = hint, if !pause.is_zero() => live,
            };
            if !live {
                hints = None;
            }
        }
    }

    fn failed(
        &self,
        (store, error): (&'static str, BackendError),
        run: &mut Run,
        tell: &mut impl FnMut(Progress),
    ) -> Result<Duration, MigrateError> {
        run.interrupted(RequestId::random());
        if error.refused {
            return Err(MigrateError::Store(store, error));
        }
        if error.disconnected {
            return Err(MigrateError::Disconnected(store, error));
        }
        tell(Progress::Failed { store, error: format!("{error:#}") });
        Ok(self.poll_every)
    }

    /// Both registers. The old one is looked at last, so that what it shows is not older than what the new one does.
    async fn look(&self, clock: &Clock, run: &mut Run) -> Result<Observation, (&'static str, BackendError)> {
        let target = self.call(&self.to, self.to.observe(&self.name)).await?;
        let source = self.call(&self.from, self.from.observe(&self.name)).await?;
        Sighting::read_in_turn(&mut run.source, source, clock.now());
        Ok(target)
    }

    async fn put(
        &self,
        side: Side,
        expected: &Observation,
        record: &Record,
        change: crate::backend::Change,
    ) -> Result<bool, (&'static str, BackendError)> {
        let store = if side == Side::Source { &self.from } else { &self.to };
        let put = store.put_if(&self.name, expected, record, change);
        Ok(matches!(self.call(store, put).await?, PutOutcome::Written(_)))
    }

    async fn call<T>(
        &self,
        store: &Arc<dyn LeaseBackend>,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, (&'static str, BackendError)> {
        let answer = tokio::time::timeout(self.call_limit, call).await;
        let answer = answer.unwrap_or_else(|_| Err(BackendError::unknown("no answer within the time limit")));
        answer.map_err(|error| (store.capabilities().name, error))
    }
}
