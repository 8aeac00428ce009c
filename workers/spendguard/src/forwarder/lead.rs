//! One batch of a leader: read, send, mark.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::Term;
use lease_worker_common::bad_rows::Batches;
use lease_worker_common::database::{StoreError, within};
use lease_worker_common::home::{KnownWork, Settlement};
use lease_worker_common::lead::{Backlog, BatchError, LeaderWork};
use lease_worker_common::leader_metrics::LeaderMetrics;
use lease_worker_common::mandate::Mandate;
use lease_worker_common::own_database::OwnDatabase;
use lease_worker_common::request_id;
use lease_worker_common::under_way::Batch;
use metrics::counter;
use tracing::{debug, info};

use super::metrics::{INGEST_REJECTED, INGEST_UNAVAILABLE, LEADER, ROWS_FORWARDED};
use super::sender::{SendError, Sender};
use crate::outbox::{Outbox, PendingRow};

/// The longest pause that canonical-ingest may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

pub(super) struct Forwarder {
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) fleet: Settlement,
    pub(super) sender: Sender,
    /// The most rows in one batch.
    pub(super) batch_size: u32,
    /// The pause when nothing is pending.
    pub(super) poll_every: Duration,
    /// The pause after a failure.
    pub(super) retry_every: Duration,
    pub(super) database: OwnDatabase,
    /// For how many days rows stay once they are forwarded; 0 is for ever.
    pub(super) keep_days: u32,
    pub(super) batch: Batch,
}

/// The state of one term.
#[derive(Default)]
pub(super) struct TermState {
    admitted: bool,
    /// By `outbox_id`. They shrink after one that was too large or was rejected.
    batches: Batches<i64>,
}

/// The rows of a batch.
#[derive(Clone, Copy)]
struct Rows {
    first: i64,
    last: i64,
    count: usize,
}

impl Rows {
    fn of(rows: &[PendingRow]) -> Option<Self> {
        let (first, last) = (rows.first()?.outbox_id, rows.last()?.outbox_id);
        Some(Self { first, last, count: rows.len() })
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "row {} of the outbox", self.first),
            count => write!(f, "{count} rows of the outbox from {} on", self.first),
        }
    }
}

#[async_trait]
impl LeaderWork for Forwarder {
    type Memory = TermState;

    async fn batch(&self, mandate: &Mandate, memory: &mut TermState) -> Result<Backlog, BatchError> {
        let term = mandate.term();
        if !memory.admitted {
            // F-1: the mark is raised before the first read that any effect depends on.
            self.database.ask(mandate, self.outbox.admit(term, &self.fleet)).await?;
            memory.admitted = true;
        }
        let size = memory.batches.size(self.batch_size);
        let left_out = memory.batches.left_out();
        let rows = self.database.ask(mandate, self.outbox.pending(size, &left_out)).await?;
        let Some(span) = Rows::of(&rows) else { return Ok(Backlog::CaughtUp) };
        holds(mandate)?;
        let batch = format!("a batch of {} rows, outbox_id {} to {}", span.count, span.first, span.last);
        self.batch.is_now(format_args!("{batch}, sent and not answered"));
        let sent = self.sender.send(term, &rows).await;
        mandate.report_progress();
        let ingested = match sent {
            Ok(ingested) => ingested,
            Err(SendError::TooLarge) if span.count > 1 => {
                memory.batches.halve(span.count);
                return Ok(Backlog::MoreWaits);
            }
            Err(error @ SendError::Rejected(_)) if span.count > 1 => {
                memory.batches.halve(span.count);
                return Err(self.not_sent(error, span, Duration::ZERO));
            }
            Err(error @ (SendError::Rejected(_) | SendError::TooLarge)) => {
                // It waits for an operator, and is named; the others don't wait for it.
                let is_left_out = memory.batches.leave_out(span.first);
                counter!(LEADER.left_out).increment(is_left_out.into());
                let retry_in = if is_left_out { Duration::ZERO } else { self.retry_every };
                return Err(self.not_sent(error, span, retry_in));
            }
            Err(error) => return Err(self.not_sent(error, span, self.retry_every)),
        };
        holds(mandate)?;
        self.batch.is_now(format_args!("{batch}, ingested and not marked"));
        let outbox_ids: Vec<_> = rows.iter().map(|row| row.outbox_id).collect();
        let marked = self.database.ask(mandate, self.outbox.mark_forwarded(term, &outbox_ids)).await?;
        counter!(ROWS_FORWARDED).increment(marked);
        for row in &rows {
            if let Some(request_id) = request_id::of_payload(&row.event.payload) {
                info!(target: request_id::TARGET, request_id, event = row.event.key.id(), "forwarded");
            }
        }
        debug!(epoch = term.epoch, rows = rows.len(), ingested.accepted, ingested.duplicates, "forwarded");
        let progress = Backlog::of(rows.len() as u64, size);
        memory.batches.done(progress == Backlog::MoreWaits, self.batch_size);
        Ok(progress)
    }

    async fn prune(&self, mandate: &Mandate) -> Result<Backlog, BatchError> {
        if self.keep_days == 0 {
            return Ok(Backlog::CaughtUp);
        }
        let removing = self.outbox.prune(mandate.term(), self.keep_days, self.batch_size);
        let removed = self.database.ask(mandate, removing).await?;
        counter!(LEADER.pruned).increment(removed);
        // Rows that can't go count for nothing, and stand at the head of each batch.
        Ok(Backlog::of(removed, self.batch_size.div_ceil(2)))
    }

    async fn known(&self) -> Result<KnownWork, StoreError> {
        within(self.database.call_limit, self.outbox.known()).await
    }

    async fn take_term(&self) -> Result<Term, StoreError> {
        within(self.database.call_limit, self.outbox.take_term(&self.fleet)).await
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
        "its rows stay pending and each event is kept once"
    }

    fn metrics(&self) -> &'static LeaderMetrics {
        &LEADER
    }
}

fn holds(mandate: &Mandate) -> Result<(), BatchError> {
    mandate.holds_now().then_some(()).ok_or(BatchError::Expired)
}

impl Forwarder {
    fn not_sent(&self, error: SendError, rows: Rows, retry_in: Duration) -> BatchError {
        match error {
            SendError::Stale => BatchError::Stale { resource: "canonical-ingest" },
            SendError::Rejected(_) | SendError::TooLarge => {
                BatchError::Failed { reason: INGEST_REJECTED, why: format!("{rows}: {error}"), retry_in }
            }
            SendError::Unavailable { why, retry_after } => BatchError::Failed {
                reason: INGEST_UNAVAILABLE,
                why,
                retry_in: retry_after.unwrap_or_default().clamp(retry_in, LONGEST_RETRY_AFTER),
            },
        }
    }
}
