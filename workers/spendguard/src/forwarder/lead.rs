//! The leader's loop: read, send, mark; at each step as if the process might be paused, killed or replaced there.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lease_core::{Loss, Term, fence::FENCING_EPOCH_STALE};
use lease_worker_common::{
    campaign::Work,
    database::{StoreError, within},
    mandate::Mandate,
    request_id,
    under_way::Batch,
};
use metrics::counter;
use tracing::{debug, error, info, warn};

use super::metrics::{LOOP_ITERATIONS, PRUNED, ROWS_FORWARDED, Skip};
use super::sender::{SendError, Sender};
use crate::outbox::Outbox;

/// How often rows that are old enough to go are looked for; a backlog goes batch after batch.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// What a forwarder needs while it leads.
pub(super) struct Forwarder {
    /// Where the events come from.
    pub(super) outbox: Arc<dyn Outbox>,
    /// Where they go.
    pub(super) sender: Sender,
    /// The most rows in one batch.
    pub(super) batch_size: u32,
    /// The pause when nothing is pending.
    pub(super) poll_every: Duration,
    /// The pause after a failure.
    pub(super) retry_every: Duration,
    /// How long the outbox may take for one answer.
    pub(super) call_limit: Duration,
    /// For how many days rows stay once they are forwarded; 0 is for ever.
    pub(super) keep_days: u32,
    /// The batch under way.
    pub(super) batch: Batch,
}

/// Why a batch was not finished.
enum Trouble {
    /// Not the leader any more, by this process's own clock.
    Expired,
    Outbox(StoreError),
    Ingest(SendError, Rows),
}

/// The rows of a batch.
#[derive(Clone, Copy)]
struct Rows {
    first: i64,
    count: usize,
}

impl Rows {
    fn half(self) -> u32 {
        u32::try_from(self.count / 2).unwrap_or(u32::MAX).max(1)
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
impl Work for Forwarder {
    /// The batch under way is finished before it returns.
    async fn lead(&self, mandate: Mandate) {
        let mut admitted = false;
        let (mut size, mut prune_at) = (self.batch_size, Instant::now());
        loop {
            counter!(LOOP_ITERATIONS).increment(1);
            let outcome = if !mandate.holds_now() {
                Err(Trouble::Expired)
            } else if mandate.should_stop() {
                return;
            } else {
                let outcome = self.round(&mandate, &mut admitted, size).await;
                self.batch.over();
                outcome
            };
            let outcome = match outcome {
                // Only when nothing waits to be forwarded.
                Ok(rows) if rows < size as usize && Instant::now() >= prune_at => {
                    self.prune(&mandate, &mut prune_at).await.map(|()| rows)
                }
                other => other,
            };
            let pause = match outcome {
                Ok(rows) if rows >= size as usize => {
                    size = size.saturating_mul(2).min(self.batch_size);
                    continue;
                }
                Ok(_) => self.poll_every,
                Err(Trouble::Ingest(SendError::TooLarge, rows)) if rows.count > 1 => {
                    size = rows.half();
                    continue;
                }
                Err(trouble) => match self.after(&trouble, &mandate) {
                    Some(pause) => {
                        // Until it is one row that waits for an operator, and is named.
                        if let Trouble::Ingest(SendError::Rejected(_), rows) = trouble {
                            size = rows.half();
                        }
                        pause
                    }
                    None => {
                        // A resource that is ahead of the leases refuses every term until an operator acts (F-4):
                        // campaigning again must not become a spinning loop.
                        tokio::time::sleep(self.retry_every).await;
                        return;
                    }
                },
            };
            tokio::select! {
                () = mandate.stop_requested() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn take_term(&self) -> Result<Term, StoreError> {
        within(self.call_limit, self.outbox.take_term()).await
    }

    fn retry_every(&self) -> Duration {
        self.retry_every
    }

    fn batch(&self) -> &Batch {
        &self.batch
    }

    fn if_abandoned(&self) -> &'static str {
        "its rows stay pending and each event is kept once"
    }
}

impl Forwarder {
    /// One batch; returns how many rows it had.
    async fn round(&self, mandate: &Mandate, admitted: &mut bool, size: u32) -> Result<usize, Trouble> {
        let term = mandate.term();
        if !*admitted {
            // F-1: the mark is raised before the first read that any effect depends on.
            within(self.call_limit, self.outbox.admit(term)).await.map_err(Trouble::Outbox)?;
            *admitted = true;
        }
        let rows = within(self.call_limit, self.outbox.pending(size)).await.map_err(Trouble::Outbox)?;
        if rows.is_empty() {
            return Ok(0);
        }
        if !mandate.holds_now() {
            return Err(Trouble::Expired);
        }
        let span = (rows.first().map_or(0, |row| row.outbox_id), rows.last().map_or(0, |row| row.outbox_id));
        let batch = format!("a batch of {} rows, outbox_id {} to {}", rows.len(), span.0, span.1);
        self.batch.is_now(format_args!("{batch}, sent and not answered"));
        let ingested = self.sender.send(term, &rows).await;
        let ingested =
            ingested.map_err(|why| Trouble::Ingest(why, Rows { first: span.0, count: rows.len() }))?;
        if !mandate.holds_now() {
            return Err(Trouble::Expired);
        }
        self.batch.is_now(format_args!("{batch}, ingested and not marked"));
        let outbox_ids: Vec<_> = rows.iter().map(|row| row.outbox_id).collect();
        let marking = self.outbox.mark_forwarded(term, &outbox_ids);
        let marked = within(self.call_limit, marking).await.map_err(Trouble::Outbox)?;
        counter!(ROWS_FORWARDED).increment(marked);
        for row in &rows {
            if let Some(request_id) = request_id::of_payload(&row.event.payload) {
                info!(target: request_id::TARGET, request_id, event = row.event.key.id(), "forwarded");
            }
        }
        debug!(epoch = term.epoch, rows = rows.len(), ingested.accepted, ingested.duplicates, "forwarded");
        Ok(rows.len())
    }

    /// Removes a batch of what has been forwarded for long enough.
    async fn prune(&self, mandate: &Mandate, next: &mut Instant) -> Result<(), Trouble> {
        // One that fails must not be all that is done.
        *next = Instant::now() + PRUNE_EVERY;
        if self.keep_days == 0 || mandate.should_stop() {
            return Ok(());
        }
        if !mandate.holds_now() {
            return Err(Trouble::Expired);
        }
        let removing = self.outbox.prune(mandate.term(), self.keep_days, self.batch_size);
        let removed = within(self.call_limit, removing).await.map_err(Trouble::Outbox)?;
        counter!(PRUNED).increment(removed);
        if removed >= u64::from(self.batch_size) {
            *next = Instant::now();
        }
        Ok(())
    }

    /// Reports a trouble; returns how long to pause, or `None` if the term is over.
    fn after(&self, trouble: &Trouble, mandate: &Mandate) -> Option<Duration> {
        let epoch = mandate.term().epoch;
        // Whatever else the answer was: an old term says so before it reports anything that it tried to do.
        let refused = matches!(mandate.loss(), Some(Loss::FenceRefused));
        let expired = !mandate.holds_now() && !refused;
        if expired {
            let expires_at = jiff::Timestamp::from_millisecond(mandate.expires_at().0).unwrap_or_default();
            Skip::LeaseExpired.count();
            warn!(epoch, %expires_at, "lease expired locally; skip batch until renewed");
        }
        let (skip, why, pause) = match trouble {
            Trouble::Expired => return None,
            Trouble::Outbox(StoreError::Stale(_)) => return self.stale("outbox", mandate),
            Trouble::Ingest(SendError::Stale, _) => return self.stale("canonical-ingest", mandate),
            Trouble::Outbox(why) => {
                (Skip::OutboxUnavailable, format!("the outbox did not answer: {why}"), self.retry_every)
            }
            Trouble::Ingest(why @ (SendError::Rejected(_) | SendError::TooLarge), rows) => {
                let pause = if rows.count > 1 { Duration::ZERO } else { self.retry_every };
                (Skip::IngestRejected, format!("{rows}: {why}"), pause)
            }
            Trouble::Ingest(SendError::Unavailable { why, retry_after }, _) => {
                let pause = retry_after.unwrap_or_default().clamp(self.retry_every, Duration::from_secs(60));
                (Skip::IngestUnavailable, why.clone(), pause)
            }
        };
        skip.count();
        warn!(epoch, why, retry_in = ?pause, "batch skipped; it is tried again");
        (!expired).then_some(pause)
    }

    fn stale(&self, resource: &str, mandate: &Mandate) -> Option<Duration> {
        Skip::FenceRefused.count();
        mandate.fence_refused();
        let epoch = mandate.term().epoch;
        error!(epoch, resource, code = FENCING_EPOCH_STALE, "a late write was refused by the fence");
        None
    }
}
