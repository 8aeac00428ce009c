//! Why a worker may act: a lease, or, in mode `disabled`, a term that it took from the resource itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use lease_core::{Leadership, Loss, Term, WallTime};
use tokio_util::sync::CancellationToken;

/// The right to act, and its term. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mandate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// The value of [`Mandate::expires_at`] when the lease was last seen to hold.
    expires_at: AtomicI64,
}

#[derive(Debug)]
enum Source {
    Lease(Leadership),
    Sole { term: Term, stop: CancellationToken, refused: CancellationToken },
}

impl Mandate {
    /// One term of a lease.
    pub fn lease(leadership: Leadership) -> Self {
        Self::new(Source::Lease(leadership))
    }

    /// Mode `disabled`: no lease, but a term of the resource's own, which ends when the resource refuses it.
    pub fn sole(term: Term, stop: CancellationToken) -> Self {
        Self::new(Source::Sole { term, stop, refused: CancellationToken::new() })
    }

    fn new(source: Source) -> Self {
        Self(Arc::new(Inner { source, expires_at: AtomicI64::new(WallTime::now().0) }))
    }

    /// May this process act, at this very moment (T-1)?
    pub fn holds_now(&self) -> bool {
        match &self.0.source {
            Source::Lease(leadership) => {
                let until = WallTime::now().plus(leadership.remaining());
                let holds = leadership.is_leader_now();
                if holds {
                    self.0.expires_at.store(until.0, Ordering::Relaxed);
                }
                holds
            }
            Source::Sole { refused, .. } => !refused.is_cancelled(),
        }
    }

    /// When the lease runs out, or ran out, as last known. For people.
    pub fn expires_at(&self) -> WallTime {
        WallTime(self.0.expires_at.load(Ordering::Relaxed))
    }

    /// The fencing token of every effect (F-2).
    pub fn term(&self) -> Term {
        match &self.0.source {
            Source::Lease(leadership) => leadership.term(),
            Source::Sole { term, .. } => *term,
        }
    }

    /// Resolves when the work should finish its batch and return. Cancel safe.
    pub async fn stop_requested(&self) {
        match &self.0.source {
            Source::Lease(leadership) => leadership.stop_requested().await,
            Source::Sole { stop, refused, .. } => {
                tokio::select! { () = stop.cancelled() => {}, () = refused.cancelled() => {} }
            }
        }
    }

    /// The work gets on (H-4).
    pub fn report_progress(&self) {
        if let Source::Lease(leadership) = &self.0.source {
            leadership.report_progress();
        }
    }

    /// Waits for `pause`, or until the work should stop; to wait for work is progress. Cancel safe.
    pub async fn idle(&self, pause: Duration) {
        match &self.0.source {
            Source::Lease(leadership) => leadership.idle(pause).await,
            Source::Sole { .. } => {
                let _ = tokio::time::timeout(pause, self.stop_requested()).await;
            }
        }
    }

    /// Has [`stop_requested`](Self::stop_requested) resolved?
    pub fn should_stop(&self) -> bool {
        self.stop_requested().now_or_never().is_some()
    }

    /// Why the term is over, if that is known by now.
    pub fn loss(&self) -> Option<Loss> {
        match &self.0.source {
            Source::Lease(leadership) => leadership.loss(),
            Source::Sole { refused, .. } => refused.is_cancelled().then_some(Loss::FenceRefused),
        }
    }

    /// A resource refused the term with `FENCING_EPOCH_STALE`: it is over (F-4).
    pub fn fence_refused(&self) {
        match &self.0.source {
            Source::Lease(leadership) => leadership.fence_refused(),
            Source::Sole { refused, .. } => refused.cancel(),
        }
    }
}
