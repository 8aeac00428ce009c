//! The loop of a role that leads: batch after batch, at each step as if the process might be paused, killed or
//! replaced there.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use lease_core::fence::FENCING_EPOCH_STALE;
use lease_core::internal::repeated::Repeated;
use lease_core::{Loss, Term};
use metrics::counter;
use tracing::{error, info, warn};

use crate::database::StoreError;
use crate::eligible::Eligible;
use crate::home::KnownWork;
use crate::leader_metrics::LeaderMetrics;
use crate::mandate::Mandate;
use crate::under_way::Batch;

/// The interval between searches for rows that are old enough to remove; a backlog goes batch after batch.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Work that one of several instances does, batch by batch.
#[async_trait]
pub trait LeaderWork: Send + Sync {
    /// State that lasts for one term.
    type Memory: Default + Send;

    /// Does one batch in the name of the mandate's term. The loop has just asked whether the mandate holds. Reports
    /// progress after each of its steps that may take long (H-4); each of these has a time limit.
    ///
    /// # Errors
    /// The batch was not finished. It is begun anew, unless the term is over.
    async fn batch(&self, mandate: &Mandate, memory: &mut Self::Memory) -> Result<Backlog, BatchError>;

    /// Removes a batch of rows that are older than they are kept. Called only when no other work waits.
    ///
    /// # Errors
    /// As for [`batch`](Self::batch).
    async fn prune(&self, mandate: &Mandate) -> Result<Backlog, BatchError>;

    /// What the database of the work knows of it (M-2), within a time limit.
    ///
    /// # Errors
    /// The database's.
    async fn known(&self) -> Result<KnownWork, StoreError>;

    /// Mode `disabled`: a new term from the resource's own mark, admitted at once.
    ///
    /// # Errors
    /// The resource's.
    async fn take_term(&self) -> Result<Term, StoreError>;

    /// The pause when no work waits.
    fn poll_every(&self) -> Duration;

    /// The pause after a failure.
    fn retry_every(&self) -> Duration;

    /// The batch under way.
    fn under_way(&self) -> &Batch;

    /// The fate of a batch that the process has to leave behind, for people.
    fn if_abandoned(&self) -> &'static str;

    /// The role's metrics of leadership.
    fn metrics(&self) -> &'static LeaderMetrics;
}

/// Whether a batch was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// It was full: the next one begins at once.
    MoreWaits,
    /// Nothing is left to do for now.
    CaughtUp,
}

impl Backlog {
    /// Whether a batch of `rows` was full.
    pub fn of(rows: u64, batch_size: u32) -> Self {
        if rows >= u64::from(batch_size) { Self::MoreWaits } else { Self::CaughtUp }
    }
}

/// Why a batch was not finished.
#[derive(Debug)]
pub enum BatchError {
    /// The lease has run out by this process's own clock.
    Expired,
    /// A resource has admitted a later term (F-4).
    Stale {
        /// Which one, for the log.
        resource: &'static str,
    },
    /// Another fleet leads the work (M-2): this one ends.
    LedElsewhere,
    /// The work's own database did not do what the batch asked of it: until it does, this instance is not ready.
    Database {
        /// The value of the metric's label `reason`.
        reason: &'static str,
        /// For the log, and for whoever asks why it is not ready.
        why: String,
    },
    /// Anything else.
    Failed {
        /// The value of the metric's label `reason`.
        reason: &'static str,
        /// For the log.
        why: String,
        /// The pause before the next batch.
        retry_in: Duration,
    },
}

/// The database of the work said that another fleet leads it (M-2).
#[derive(Debug, thiserror::Error)]
#[error("another fleet leads this work")]
pub(crate) struct LedElsewhere;

/// Works for one term: until it is over or the work should stop. The batch under way is finished before it returns.
///
/// # Errors
/// Another fleet leads the work: no further term would be admitted.
pub(crate) async fn lead(
    work: &impl LeaderWork,
    mandate: &Mandate,
    eligible: &Eligible,
) -> Result<(), LedElsewhere> {
    let (mut memory, mut failures) = (Default::default(), Repeated::default());
    let mut prune_at = Instant::now();
    loop {
        mandate.report_progress();
        counter!(work.metrics().loop_iterations).increment(1);
        let done = if !mandate.holds_now() {
            Err(BatchError::Expired)
        } else if mandate.should_stop() {
            return Ok(());
        } else {
            round(work, mandate, eligible, &mut memory, &mut prune_at).await
        };
        work.under_way().over();
        if done.is_ok()
            && let Some((failures, after)) = failures.works(Instant::now())
        {
            info!(epoch = mandate.term().epoch, failures, ?after, "batches are done again");
        }
        let pause = match done {
            Ok(Backlog::MoreWaits) => continue,
            Ok(Backlog::CaughtUp) => work.poll_every(),
            Err(BatchError::LedElsewhere) => return Err(LedElsewhere),
            Err(error) => match retry_in(work, mandate, &error, &mut failures) {
                Some(pause) => pause,
                None => break,
            },
        };
        mandate.idle(pause).await;
    }
    if mandate.loss() == Some(Loss::FenceRefused) {
        // A resource that is ahead of the leases refuses every term until an operator acts (F-4): campaigning again
        // must not become a spinning loop.
        tokio::time::sleep(work.retry_every()).await;
    }
    Ok(())
}

/// One batch, and then one of old rows if nothing else waits and it is time for it.
async fn round<W: LeaderWork>(
    work: &W,
    mandate: &Mandate,
    eligible: &Eligible,
    memory: &mut W::Memory,
    prune_at: &mut Instant,
) -> Result<Backlog, BatchError> {
    let batch = work.batch(mandate, memory).await;
    eligible.last_batch(match &batch {
        Err(BatchError::Database { why, .. }) => Some(why.clone()),
        _ => None,
    });
    let progress = batch?;
    work.under_way().over();
    if progress == Backlog::MoreWaits || Instant::now() < *prune_at || mandate.should_stop() {
        return Ok(progress);
    }
    if !mandate.holds_now() {
        return Err(BatchError::Expired);
    }
    // If this fails, the next rounds have other work to do.
    *prune_at = Instant::now() + PRUNE_EVERY;
    let progress = work.prune(mandate).await?;
    if progress == Backlog::MoreWaits {
        *prune_at = Instant::now();
    }
    Ok(progress)
}

/// Logs and counts the failure, one that goes on now and then; returns the pause before the next batch, or `None` if the term is over.
fn retry_in(
    work: &impl LeaderWork,
    mandate: &Mandate,
    error: &BatchError,
    failures: &mut Repeated,
) -> Option<Duration> {
    let epoch = mandate.term().epoch;
    let skip = |reason: &'static str| counter!(work.metrics().skip, "reason" => reason).increment(1);
    // An old term says so first, whatever else the answer was.
    let over = !mandate.holds_now();
    match mandate.loss() {
        _ if !over => {}
        Some(Loss::FenceRefused) => {}
        Some(Loss::Revoked) => {
            skip(LeaderMetrics::LEASE_REVOKED);
            warn!(epoch, "lease revoked by an operator; skip batch until it is held again");
        }
        Some(loss) if loss != Loss::Expired => {
            skip(LeaderMetrics::LEASE_LOST);
            warn!(epoch, %loss, "lease lost; skip batch until it is held again");
        }
        // By this process's own clock, also where the elector has yet to say so.
        _ => {
            let expires_at = jiff::Timestamp::from_millisecond(mandate.expires_at().0).unwrap_or_default();
            skip(LeaderMetrics::LEASE_EXPIRED);
            warn!(epoch, %expires_at, "lease expired locally; skip batch until renewed");
        }
    }
    let mut failed = |reason: &'static str, why: &str, retry_in: Duration| {
        skip(reason);
        if let Some(count) = failures.failed(&format!("{reason}: {why}"), Instant::now()) {
            let failures = (count > 1).then_some(count);
            warn!(epoch, why, ?retry_in, failures, "batch failed; retrying");
        }
        (!over).then_some(retry_in)
    };
    match error {
        BatchError::Expired | BatchError::LedElsewhere => None,
        BatchError::Stale { resource } => {
            skip(LeaderMetrics::FENCE_REFUSED);
            mandate.fence_refused();
            error!(epoch, resource, code = FENCING_EPOCH_STALE, "a late write was refused by the fence");
            None
        }
        BatchError::Database { reason, why } => failed(reason, why, work.retry_every()),
        BatchError::Failed { reason, why, retry_in } => failed(reason, why, *retry_in),
    }
}
