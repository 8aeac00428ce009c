//! One batch of a leader: a single statement that releases expired reservations, or removes old rows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::Term;
use lease_worker_common::bad_rows::{Batches, is_of_the_data};
use lease_worker_common::database::{StoreError, within, words};
use lease_worker_common::home::KnownWork;
use lease_worker_common::lead::{Backlog, BatchError, LeaderWork};
use lease_worker_common::leader_metrics::LeaderMetrics;
use lease_worker_common::mandate::Mandate;
use lease_worker_common::own_database::OwnDatabase;
use lease_worker_common::under_way::Batch;
use metrics::counter;
use sqlx::types::Uuid;
use tracing::debug;

use super::metrics::{LEADER, RESERVATION_REFUSED, SWEPT};
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
    pub(super) database: OwnDatabase,
    pub(super) batch: Batch,
}

#[async_trait]
impl LeaderWork for Sweeper {
    type Memory = Batches<Uuid>;

    async fn batch(&self, mandate: &Mandate, batches: &mut Batches<Uuid>) -> Result<Backlog, BatchError> {
        let term = mandate.term();
        self.batch.is_now("a batch of expired reservations, sent to the ledger's database and not answered");
        let size = batches.size(self.batch_size);
        // One statement, unless it matters which reservations they are.
        let (rows, swept) = if batches.are_usual() {
            (None, within(self.database.call_limit, self.expired.sweep(term, &self.owner, size)).await)
        } else {
            let left_out = batches.left_out();
            let rows = self.database.ask(mandate, self.expired.waiting(size, &left_out)).await?;
            let swept =
                within(self.database.call_limit, self.expired.sweep_these(term, &self.owner, &rows)).await;
            (Some(rows), swept)
        };
        mandate.report_progress();
        let swept = match swept {
            Err(StoreError::Failed(error)) if is_of_the_data(&error) => {
                return Err(self.refused(batches, size, rows.as_deref(), &error));
            }
            swept => swept.map_err(|error| self.database.failed(error))?,
        };
        counter!(SWEPT).increment(swept);
        debug!(epoch = term.epoch, swept, "swept");
        let progress = Backlog::of(rows.map_or(swept, |rows| rows.len() as u64), size);
        batches.done(progress == Backlog::MoreWaits, self.batch_size);
        Ok(progress)
    }

    async fn prune(&self, mandate: &Mandate) -> Result<Backlog, BatchError> {
        let term = mandate.term();
        self.batch.is_now("a batch of old rows to remove, sent to the ledger's database and not answered");
        let pruned = self.database.ask(mandate, self.expired.prune(term, self.keep, self.batch_size)).await?;
        counter!(LEADER.pruned).increment(pruned);
        debug!(epoch = term.epoch, pruned, "pruned");
        // Rows that can't go count for nothing, and stand at the head of each batch.
        Ok(Backlog::of(pruned, self.batch_size.div_ceil(2)))
    }

    async fn known(&self) -> Result<KnownWork, StoreError> {
        within(self.database.call_limit, self.expired.known()).await
    }

    async fn take_term(&self) -> Result<Term, StoreError> {
        within(self.database.call_limit, self.expired.take_term()).await
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
    /// A batch was refused for what is in the tables. It is halved, until it is one reservation that waits for an operator,
    /// and is named; the others don't wait for it.
    fn refused(
        &self,
        batches: &mut Batches<Uuid>,
        size: u32,
        rows: Option<&[Uuid]>,
        error: &sqlx::Error,
    ) -> BatchError {
        let (what, retry_in) = match rows {
            Some([row]) => {
                let is_left_out = batches.leave_out(*row);
                counter!(LEADER.left_out).increment(is_left_out.into());
                let retry_in = if is_left_out { Duration::ZERO } else { self.retry_every };
                (format!("reservation {row}"), retry_in)
            }
            rows => {
                let count = rows.map_or(size as usize, <[_]>::len);
                batches.halve(count);
                (format!("a batch of up to {count} reservations"), Duration::ZERO)
            }
        };
        let why = format!("{what} can't be released: {}", words(error));
        BatchError::Failed { reason: RESERVATION_REFUSED, why, retry_in }
    }
}
