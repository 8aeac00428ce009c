//! One batch of a leader: a single statement that releases expired reservations, or removes old rows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::Term;
use lease_worker_common::database::{StoreError, within};
use lease_worker_common::lead::{Backlog, BatchError, LeaderWork};
use lease_worker_common::leader_metrics::LeaderMetrics;
use lease_worker_common::mandate::Mandate;
use lease_worker_common::under_way::Batch;
use metrics::counter;
use tracing::debug;

use super::metrics::{LEADER, LEDGER_UNAVAILABLE, SWEPT};
use super::store::{Expired, Retention};

pub(super) struct Sweeper {
    pub(super) expired: Arc<Expired>,
    /// This instance's name in audit rows.
    pub(super) owner: String,
    pub(super) keep: Retention,
    /// The most rows of a table in one batch.
    pub(super) batch_size: u32,
    /// The pause when nothing is left to do.
    pub(super) poll_every: Duration,
    /// The pause after a failure.
    pub(super) retry_every: Duration,
    /// The time limit of one call to the ledger's database.
    pub(super) call_limit: Duration,
    pub(super) batch: Batch,
}

#[async_trait]
impl LeaderWork for Sweeper {
    type Memory = ();

    async fn batch(&self, mandate: &Mandate, _: &mut ()) -> Result<Backlog, BatchError> {
        let term = mandate.term();
        self.batch.is_now("a batch of expired reservations, sent to the ledger's database and not answered");
        let swept = self.ask(mandate, self.expired.sweep(term, &self.owner, self.batch_size)).await?;
        counter!(SWEPT).increment(swept);
        debug!(epoch = term.epoch, swept, "swept");
        Ok(Backlog::of(swept, self.batch_size))
    }

    async fn prune(&self, mandate: &Mandate) -> Result<Backlog, BatchError> {
        let term = mandate.term();
        self.batch.is_now("a batch of old rows to remove, sent to the ledger's database and not answered");
        let pruned = self.ask(mandate, self.expired.prune(term, self.keep, self.batch_size)).await?;
        counter!(LEADER.pruned).increment(pruned);
        debug!(epoch = term.epoch, pruned, "pruned");
        Ok(Backlog::of(pruned, self.batch_size))
    }

    async fn take_term(&self) -> Result<Term, StoreError> {
        within(self.call_limit, self.expired.take_term()).await
    }

    fn poll_every(&self) -> Duration {
        self.poll_every
    }

    fn retry_every(&self) -> Duration {
        self.retry_every
    }

    fn under_way(&self) -> &Batch {
        &self.batch
    }

    fn if_abandoned(&self) -> &'static str {
        "it is done as a whole or not at all, and the next leader goes on"
    }

    fn metrics(&self) -> &'static LeaderMetrics {
        &LEADER
    }
}

impl Sweeper {
    /// Asks the ledger's database, within the time limit.
    async fn ask<T>(
        &self,
        mandate: &Mandate,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, BatchError> {
        let answer = within(self.call_limit, call).await;
        mandate.report_progress();
        answer.map_err(|error| match error {
            StoreError::Stale(_) => BatchError::Stale { resource: "ledger" },
            why => BatchError::Database { reason: LEDGER_UNAVAILABLE, why: why.to_string() },
        })
    }
}
