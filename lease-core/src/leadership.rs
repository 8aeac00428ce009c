//! A term of leadership, as the work sees it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Instant};
use crate::deadline::{AtomicDeadline, Deadline, silent_at};
use crate::reasons::{Loss, StopReason};
use crate::record::Term;

/// One term of leadership, as the work sees it. Cheap to clone; all clones are the same term.
///
/// # Which question to ask
///
/// | in the code | ask | why |
/// | --- | --- | --- |
/// | a loop's condition, before each piece of work | [`should_continue()`](Self::should_continue) | false as soon as the work is asked to stop, so that it drains and the lease is handed over |
/// | in a loop, after each step of the work | [`report_progress()`](Self::report_progress), and [`idle()`](Self::idle) to wait | with [`max_silence`](crate::ElectorBuilder::max_silence), work that hangs loses its lease (H-4) |
/// | waiting inside a piece of work | [`stop_requested()`](Self::stop_requested), or [`stop_token()`](Self::stop_token) for child tasks | wakes at that same moment |
/// | just before an effect that no fence guards | [`is_leader_now()`](Self::is_leader_now) | true until the deadline, **also while the work drains**; never a loop's condition |
/// | in the effect's own transaction | admit [`term()`](Self::term) with the store's `Fence` | the only answer that is still true when the effect lands (F-1) |
/// | after a fence refused the term | [`fence_refused()`](Self::fence_refused) | ends the term at once (F-4) |
/// | after the work has stopped | [`stop_reason()`](Self::stop_reason), [`lost()`](Self::lost) | for logs |
///
/// ```
/// # async fn example(leadership: lease_core::Leadership) -> std::io::Result<()> {
/// while leadership.should_continue() {
///     // One piece of work. What it writes admits `leadership.term()` in the same transaction.
///     # break;
/// }
/// Ok(()) // asked to stop, and stopped: the lease is released
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Tenure>);

#[derive(Debug)]
struct Tenure {
    term: Term,
    clock: Clock,
    deadline: AtomicDeadline,
    stop: CancellationToken,
    stop_reason: OnceLock<StopReason>,
    lost: CancellationToken,
    loss: OnceLock<Loss>,
    /// Tells the elector that a fence refused the term (F-4).
    refused: Arc<Notify>,
    max_silence: Option<Duration>,
    /// When the work last reported progress.
    progressed_at: AtomicU64,
}

impl Leadership {
    pub(crate) fn new(
        term: Term,
        deadline: Deadline,
        clock: Clock,
        refused: Arc<Notify>,
        max_silence: Option<Duration>,
    ) -> Self {
        let progressed_at = AtomicU64::new(clock.now().0);
        Self(Arc::new(Tenure {
            term,
            clock,
            deadline: AtomicDeadline::new(deadline),
            stop: CancellationToken::new(),
            stop_reason: OnceLock::new(),
            lost: CancellationToken::new(),
            loss: OnceLock::new(),
            refused,
            max_silence,
            progressed_at,
        }))
    }

    /// May more work be begun? True while the term lasts **and** nobody has asked the work to stop: the program shuts
    /// down, somebody asked for the lease, or the deadline is near. The condition of a loop.
    ///
    /// Never true again once it was false. Costs what [`is_leader_now`](Self::is_leader_now) does, and one atomic load.
    #[inline]
    pub fn should_continue(&self) -> bool {
        !self.0.stop.is_cancelled() && self.is_leader_now()
    }

    /// May an effect go out, at this very moment (T-1)? Stays true while the work drains, so it is no loop's condition:
    /// that is [`should_continue`](Self::should_continue).
    ///
    /// Computed from the clock at each call (one atomic load, one clock read), so it turns false at the deadline
    /// even if every task and timer of the process hangs. It is a local check: the process can be paused right
    /// after it. What makes effects safe is to admit [`term`](Self::term) in the effect's own atomic write (F-1).
    #[inline]
    pub fn is_leader_now(&self) -> bool {
        self.0.deadline.allows(self.0.clock.now())
    }

    /// The term: the fencing token that goes into every write (F-2).
    #[inline]
    pub fn term(&self) -> Term {
        self.0.term
    }

    /// The time for which [`is_leader_now`](Self::is_leader_now) stays true if no renewal is acknowledged any more.
    pub fn remaining(&self) -> Duration {
        self.0.deadline.load().at().since(self.0.clock.now())
    }

    /// Resolves when the work should stop: the program shuts down, somebody asked for the lease, the deadline is
    /// near, or the term is over. The lease is kept while the work drains (H-1). Cancel safe.
    pub async fn stop_requested(&self) {
        self.0.stop.cancelled().await;
    }

    /// A token that is cancelled when the work should stop, for child tasks.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.child_token()
    }

    /// Says that the work gets on: call it after each step, and while there is nothing to do. It costs one clock read
    /// and one atomic write, and matters only with [`max_silence`](crate::ElectorBuilder::max_silence).
    ///
    /// Call it where the work is done: a timer of its own would go on while the work hangs.
    pub fn report_progress(&self) {
        self.0.progressed_at.fetch_max(self.0.clock.now().0, Ordering::Relaxed);
    }

    /// Waits for `pause`, or until the work should stop, and reports progress meanwhile: for work that has nothing to
    /// do. Cancel safe.
    pub async fn idle(&self, pause: Duration) {
        let until = self.0.clock.now().plus(pause);
        let report_every = self.0.max_silence.map_or(pause, |max_silence| max_silence / 4);
        loop {
            self.report_progress();
            let now = self.0.clock.now();
            if now >= until {
                return;
            }
            tokio::select! {
                biased;
                () = self.stop_requested() => return,
                () = self.0.clock.sleep_until(until.min(now.plus(report_every))) => {}
            }
        }
    }

    /// For how long the work has reported no progress, once that is longer than
    /// [`max_silence`](crate::ElectorBuilder::max_silence) (H-4). For readiness probes, also after the term.
    pub fn silent_for(&self) -> Option<Duration> {
        let (now, progressed_at) = (self.0.clock.now(), self.progressed_at());
        let max_silence = self.0.max_silence?;
        (now >= silent_at(progressed_at, max_silence)).then(|| now.since(progressed_at))
    }

    /// Why the work was asked to stop, once it was; `None` also if the term was lost without a warning.
    pub fn stop_reason(&self) -> Option<&StopReason> {
        self.0.stop_reason.get()
    }

    /// Resolves when the term is over, with the reason. Cancel safe.
    pub async fn lost(&self) -> Loss {
        self.0.lost.cancelled().await;
        self.0.loss.get().copied().unwrap_or(Loss::Expired)
    }

    /// Why the term is over, if the elector has said so yet.
    pub fn loss(&self) -> Option<Loss> {
        self.0.loss.get().copied()
    }

    /// Says that a resource refused this term with `FENCING_EPOCH_STALE`: the term ends at once (F-4).
    ///
    /// Call it whenever an admission fails; the elector raises the alarm and campaigns again after the work returns.
    pub fn fence_refused(&self) {
        self.0.deadline.clear();
        self.0.refused.notify_one();
    }

    pub(crate) fn progressed_at(&self) -> Instant {
        Instant(self.0.progressed_at.load(Ordering::Relaxed))
    }

    pub(crate) fn extend(&self, deadline: Deadline) {
        self.0.deadline.extend(deadline);
    }

    pub(crate) fn tell_stop(&self, reason: StopReason) {
        let _ = self.0.stop_reason.set(reason);
        self.0.stop.cancel();
    }

    pub(crate) fn end(&self, loss: Loss) {
        // The reason first: whoever sees the check turn false may ask for it.
        let _ = self.0.loss.set(loss);
        self.0.deadline.clear();
        self.0.lost.cancel();
        self.0.stop.cancel();
    }
}
