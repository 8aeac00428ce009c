//! The leader's loop: ask whether it still leads, release a batch; as if the process might be paused, killed or
//! replaced in between.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::{Loss, Term, fence::FENCING_EPOCH_STALE};
use metrics::counter;
use tracing::{debug, error, warn};

use super::metrics::{LOOP_ITERATIONS, SWEPT, Skip};
use super::store::Expired;
use crate::roles::campaign::Work;
use crate::roles::database::{StoreError, within};
use crate::roles::mandate::Mandate;
use crate::roles::under_way::Batch;

/// What a sweeper needs while it leads.
pub(super) struct Sweeper {
    /// Where reservations are.
    pub(super) expired: Arc<Expired>,
    /// Who this is, in audit rows.
    pub(super) owner: String,
    /// The most reservations in one batch.
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
        while !mandate.should_stop() || !mandate.holds_now() {
            counter!(LOOP_ITERATIONS).increment(1);
            self.batch
                .is_now("a batch of expired reservations, sent to the ledger's database and not answered");
            let outcome = match mandate.holds_now() {
                true => within(self.call_limit, self.expired.sweep(term, &self.owner, self.batch_size))
                    .await
                    .map(Some),
                false => Ok(None),
            };
            self.batch.over();
            // Whatever else the answer was: an old term says so before it reports anything that it tried to do.
            let over = self.has_expired(&mandate);
            let pause = match outcome {
                Ok(Some(swept)) => {
                    counter!(SWEPT).increment(swept);
                    debug!(epoch = term.epoch, swept, "swept");
                    if swept >= u64::from(self.batch_size) { Duration::ZERO } else { self.poll_every }
                }
                Ok(None) => return,
                Err(StoreError::Stale(_)) => {
                    error!(
                        epoch = term.epoch,
                        resource = "ledger",
                        code = FENCING_EPOCH_STALE,
                        "a late write was refused by the fence"
                    );
                    Skip::FenceRefused.count();
                    mandate.fence_refused();
                    // A resource that is ahead of the leases refuses every term until an operator acts (F-4):
                    // campaigning again must not become a spinning loop.
                    tokio::time::sleep(self.retry_every).await;
                    return;
                }
                Err(why) => {
                    warn!(epoch = term.epoch, %why, retry_in = ?self.retry_every, "batch skipped; it is tried again");
                    Skip::LedgerUnavailable.count();
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
        "it is released as a whole or not at all, and the next leader goes on"
    }
}

impl Sweeper {
    /// Has the lease run out by this process's own clock? Says so in the words that operators look for.
    fn has_expired(&self, mandate: &Mandate) -> bool {
        let expired = !mandate.holds_now() && !matches!(mandate.loss(), Some(Loss::FenceRefused));
        if expired {
            let expires_at = jiff::Timestamp::from_millisecond(mandate.expires_at().0).unwrap_or_default();
            warn!(epoch = mandate.term().epoch, %expires_at, "lease expired locally; skip batch until renewed");
            Skip::LeaseExpired.count();
        }
        expired
    }
}
