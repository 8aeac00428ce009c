//! The leader's loop: ask whether it still leads, release a batch; as if the process might be paused, killed or
//! replaced in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lease_core::{Loss, Term, fence::FENCING_EPOCH_STALE};
use lease_worker_common::{
    campaign::Work,
    database::{StoreError, within},
    mandate::Mandate,
    under_way::Batch,
};
use metrics::counter;
use tracing::{debug, error, warn};

use super::metrics::{LOOP_ITERATIONS, PRUNED, SWEPT, Skip};
use super::store::{Expired, Retention};

/// How often rows that are old enough to go are looked for; a backlog goes batch after batch.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// What one batch does.
#[derive(Clone, Copy)]
enum Task {
    /// Releases expired reservations.
    Sweep,
    /// Removes old rows: only when nobody's reservation waits to be released.
    Prune,
}

/// What a sweeper needs while it leads.
pub(super) struct Sweeper {
    /// Where reservations are.
    pub(super) expired: Arc<Expired>,
    /// Who this is, in audit rows.
    pub(super) owner: String,
    /// For how long the ledger remembers.
    pub(super) keep: Retention,
    /// The most rows of a table in one batch.
    pub(super) batch_size: u32,
    /// The pause when nothing is left to do.
    pub(super) poll_every: Duration,
    /// The pause after a failure.
    pub(super) retry_every: Duration,
    /// How long the ledger's database may take for one answer.
    pub(super) call_limit: Duration,
    /// The batch under way.
    pub(super) batch: Batch,
}

#[async_trait]
impl Work for Sweeper {
    async fn lead(&self, mandate: Mandate) {
        let term = mandate.term();
        let (mut task, mut prune_at) = (Task::Sweep, Instant::now());
        while !mandate.should_stop() || !mandate.holds_now() {
            counter!(LOOP_ITERATIONS).increment(1);
            self.batch.is_now(match task {
                Task::Sweep => {
                    "a batch of expired reservations, sent to the ledger's database and not answered"
                }
                Task::Prune => {
                    "a batch of old rows to remove, sent to the ledger's database and not answered"
                }
            });
            let outcome = match mandate.holds_now() {
                true => within(self.call_limit, self.one_batch(task, term)).await.map(Some),
                false => Ok(None),
            };
            self.batch.over();
            // Whatever else the answer was: an old term says so before it reports anything that it tried to do.
            let over = self.has_expired(&mandate);
            let done = task;
            task = Task::Sweep;
            let pause = match outcome {
                Ok(Some(rows)) => {
                    let full = rows >= u64::from(self.batch_size);
                    match done {
                        Task::Sweep => {
                            counter!(SWEPT).increment(rows);
                            debug!(epoch = term.epoch, swept = rows, "swept");
                            if !full && Instant::now() >= prune_at {
                                task = Task::Prune;
                            }
                        }
                        Task::Prune => {
                            counter!(PRUNED).increment(rows);
                            debug!(epoch = term.epoch, pruned = rows, "pruned");
                            if !full {
                                prune_at = Instant::now() + PRUNE_EVERY;
                            }
                        }
                    }
                    if full || matches!(task, Task::Prune) { Duration::ZERO } else { self.poll_every }
                }
                Ok(None) => return,
                Err(StoreError::Stale(_)) => {
                    Skip::FenceRefused.count();
                    mandate.fence_refused();
                    error!(
                        epoch = term.epoch,
                        resource = "ledger",
                        code = FENCING_EPOCH_STALE,
                        "a late write was refused by the fence"
                    );
                    // A resource that is ahead of the leases refuses every term until an operator acts (F-4):
                    // campaigning again must not become a spinning loop.
                    tokio::time::sleep(self.retry_every).await;
                    return;
                }
                Err(why) => {
                    // One that fails must not be all that is done.
                    if matches!(done, Task::Prune) {
                        prune_at = Instant::now() + PRUNE_EVERY;
                    }
                    Skip::LedgerUnavailable.count();
                    warn!(epoch = term.epoch, %why, retry_in = ?self.retry_every, "batch skipped; it is tried again");
                    self.retry_every
                }
            };
            if over {
                return;
            }
            tokio::select! {
                () = mandate.stop_requested() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn take_term(&self) -> Result<Term, StoreError> {
        within(self.call_limit, self.expired.take_term()).await
    }

    fn retry_every(&self) -> Duration {
        self.retry_every
    }

    fn batch(&self) -> &Batch {
        &self.batch
    }

    fn if_abandoned(&self) -> &'static str {
        "it is done as a whole or not at all, and the next leader goes on"
    }
}

impl Sweeper {
    async fn one_batch(&self, task: Task, term: Term) -> Result<u64, StoreError> {
        match task {
            Task::Sweep => self.expired.sweep(term, &self.owner, self.batch_size).await,
            Task::Prune => self.expired.prune(term, self.keep, self.batch_size).await,
        }
    }

    /// Has the lease run out by this process's own clock? Says so in the words that operators look for.
    fn has_expired(&self, mandate: &Mandate) -> bool {
        let expired = !mandate.holds_now() && !matches!(mandate.loss(), Some(Loss::FenceRefused));
        if expired {
            let expires_at = jiff::Timestamp::from_millisecond(mandate.expires_at().0).unwrap_or_default();
            Skip::LeaseExpired.count();
            warn!(epoch = mandate.term().epoch, %expires_at, "lease expired locally; skip batch until renewed");
        }
        expired
    }
}
