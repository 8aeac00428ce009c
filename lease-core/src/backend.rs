//! The contract that every store fulfils: one compare-and-set register per lease.
//!
//! A backend knows nothing of expiry, never retries, never sleeps and never reads a clock to decide. All of its
//! methods may be called concurrently. **Any returned future may be dropped at any await** (U-4): nothing may
//! leak then, no lock may stay behind, and no connection may return to a pool in mid-statement.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::Stream;

use crate::error::BackendError;
use crate::record::{LeaseName, Observation, Record};

/// The meaning of a write, so that a backend can choose its statement and its history row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Creates the register, free or held by nobody (T-5).
    Init,
    /// A new grant for a candidate (E-1). The backend advances its floor in the same atomic write.
    Acquire,
    /// A beat of the present grant.
    Renew,
    /// The present grant gives the register up.
    Release,
    /// A fresh grant that nobody holds, or freedom, written by an operator (H-3, F-4). Advances the floor if it can.
    Revoke,
    /// Adds a request or a note; leaves grant and beat alone (H-2).
    Request,
    /// Makes the register final (M-1).
    Seal,
    /// Stamps the register of a store that was restored; leaves grant and beat alone (T-6).
    Restore,
}

impl Change {
    /// The change's name, as it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Acquire => "acquire",
            Self::Renew => "renew",
            Self::Release => "release",
            Self::Revoke => "revoke",
            Self::Request => "request",
            Self::Seal => "seal",
            Self::Restore => "restore",
        }
    }
}

/// The answer to a [`put_if`](LeaseBackend::put_if) whose outcome is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PutOutcome {
    /// Applied and as durable as the store promises. The observation shows the register as written.
    Written(Observation),
    /// Not applied, because the register no longer was as expected. The observation shows the register as it was
    /// found, by a linearizable read that began after the call did. It is another one than was expected, in its tag, its
    /// lineage or its existence: a compare that failed for no reason that a read can show is an error,
    /// [`NotApplied`](crate::Certainty::NotApplied), since the core goes on at once from what a conflict shows.
    Conflict(Observation),
}

/// Properties that may legitimately differ between stores. Safety is never a capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The mode's name: `sqlite`, `postgres`, …
    pub name: &'static str,
    /// [`watch`](LeaseBackend::watch) is offered.
    pub watch: bool,
    /// [`list`](LeaseBackend::list) is offered.
    pub list: bool,
    /// Each change of holder leaves one durable, ordered history row (L-10), read by
    /// [`history`](LeaseBackend::history).
    pub history: bool,
    /// The store can't lose a register while it keeps its lineage, so the core creates an absent one, free, when
    /// it first looks (T-5).
    pub creates_registers: bool,
    /// Ttls must be whole multiples of this.
    pub ttl_granularity: Duration,
}

impl Capabilities {
    /// Refuses a `ttl` that isn't a whole multiple of [`ttl_granularity`](Self::ttl_granularity).
    pub(crate) fn check_ttl(&self, ttl: Duration) -> Result<(), BackendError> {
        let granularity = self.ttl_granularity;
        if granularity.is_zero() || ttl.as_nanos().is_multiple_of(granularity.as_nanos()) {
            return Ok(());
        }
        Err(BackendError::refused(format!(
            "ttl = {ttl:?} is not allowed by {}: use a multiple of {granularity:?}",
            self.name
        )))
    }
}

/// A change of a lease's holder, as history rows name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryEvent {
    /// A grant to the workload that held the lease last, or the first grant of all.
    Acquired,
    /// A grant to another workload than the last one, also after a clean release.
    TakenOver,
    /// The holder gave the lease up.
    Released,
    /// An operator ended the term.
    Revoked,
    /// The holder gave the lease up because it was asked to.
    SteppedDown,
    /// The register was made final.
    Sealed,
    /// The store was restored; an operator said so.
    Restored,
}

impl HistoryEvent {
    /// The event's name in history rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::TakenOver => "taken_over",
            Self::Released => "released",
            Self::Revoked => "revoked",
            Self::SteppedDown => "stepped_down",
            Self::Sealed => "sealed",
            Self::Restored => "restored",
        }
    }

    /// The one history row that a write leaves, or `None` for writes that neither change the holder (L-10) nor say that
    /// the store was restored.
    pub fn of(expected: &Observation, record: &Record, change: Change) -> Option<Self> {
        match change {
            Change::Acquire => Some(match &expected.record {
                Some(before) if !before.holder.is_empty() && before.holder != record.holder => {
                    Self::TakenOver
                }
                _ => Self::Acquired,
            }),
            Change::Release if record.answered.is_some() => Some(Self::SteppedDown),
            Change::Release => Some(Self::Released),
            Change::Revoke => Some(Self::Revoked),
            Change::Seal => Some(Self::Sealed),
            Change::Restore => Some(Self::Restored),
            Change::Init | Change::Renew | Change::Request => None,
        }
    }
}

/// One row of a lease's history.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HistoryRow {
    /// Ordered: a later row of the same lease has a greater number.
    pub sequence: i64,
    /// The lease.
    pub lease_name: LeaseName,
    /// The record's transitions after the event.
    pub transition_count: u64,
    /// The epoch after the event.
    pub epoch: u64,
    /// The workload concerned: the new holder, or the one that gave up.
    pub holder_workload_id: String,
    /// The change.
    pub event_type: HistoryEvent,
    /// The time of the change, by the store's wall clock. For people.
    pub event_at: crate::record::WallTime,
    /// The record's note.
    pub note: String,
}

/// A watch's message. It only ever wakes somebody.
///
/// Hints may be late, repeated or missing. Whoever writes on one compares what it saw, so a wrong hint costs a
/// conflict and nothing else (`docs/decisions/0007-hints-that-show.md`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Hint {
    /// Something under the prefix may have changed: look.
    Changed,
    /// One register as [`observe`](LeaseBackend::observe) would have shown it at some moment after the watch was opened,
    /// possibly no longer: the whole record, the lineage of that moment, and whatever `version` a
    /// [`put_if`](LeaseBackend::put_if) compares. The floor alone may be anything, since nobody goes by a hint's. Saves the
    /// look, so a standby acquires on the very news of a release. Only for registers that exist and can be read: anything
    /// else is [`Changed`](Hint::Changed).
    Shows(LeaseName, Observation),
}

/// A listed register, or why it can't be read, as [`observe`](LeaseBackend::observe) would say.
pub type Listed = (LeaseName, Result<Observation, BackendError>);

/// A stream of hints. Its end means that the watch is down; the core asks for a new one.
pub type Hints = Pin<Box<dyn Stream<Item = Hint> + Send>>;

/// One register per lease, in some store.
#[async_trait]
pub trait LeaseBackend: Send + Sync + 'static {
    /// Reads the register.
    ///
    /// - **Guarantees**: linearizable: shows every write that was acknowledged to anybody before the call began.
    ///   Never a cache, a replica or an informer.
    /// - **Errors**: any failure; a read changes nothing.
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError>;

    /// Writes `record` if and only if the register still has the tag that `expected` saw, or is still absent.
    ///
    /// - **Guarantees**: the compare and the write are one atomic step of the store, which is the linearization
    ///   point. Where the store can fork, the same step compares `expected.lineage`. A store whose native
    ///   compare is stronger uses `expected.version` beside the tag. `Written` is returned only for a write that is
    ///   as durable as the store promises. One round trip when it succeeds; a conflict may cost a second.
    /// - **`Change::Renew`** differs from what was expected in tag, beat, lineage and the two times for people only; a
    ///   store may write just these.
    /// - **`Change::Acquire`** advances the store's floor (E-1) in the same step, so that the floor is never below an
    ///   epoch that was issued from it.
    /// - **History** (L-10): the row that [`HistoryEvent::of`] names is written in the same step.
    /// - **Errors**: [`NotApplied`](crate::Certainty::NotApplied) only if it is certain that the write did not and
    ///   will not happen; everything else is [`Unknown`](crate::Certainty::Unknown). Never retried here.
    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError>;

    /// Static data: the same for every backend of one connector, for as long as the process lives.
    fn capabilities(&self) -> Capabilities;

    /// All registers whose name begins with `prefix`, by one linearizable read if the store has one. One that can't be read
    /// hides no other.
    ///
    /// - **Errors**: any failure, or refused where it isn't [offered](Capabilities::list); a read changes nothing.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let _ = prefix;
        Err(self.unsupported("list"))
    }

    /// Hints about registers whose name begins with `prefix`. Resolves when the watch is live. Where `prefix` is itself
    /// a lease's name, longer names may go unmentioned (Kubernetes' least RBAC watches one name).
    ///
    /// - **Errors**: any failure, or refused where it isn't [offered](Capabilities::watch); the core polls meanwhile.
    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        let _ = prefix;
        Err(self.unsupported("watch"))
    }

    /// The newest `limit` rows of the lease's history, oldest first.
    ///
    /// - **Errors**: any failure, or refused where it isn't [offered](Capabilities::history).
    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        let _ = (name, limit);
        Err(self.unsupported("history"))
    }

    /// The refusal of an optional operation that this backend doesn't offer.
    #[doc(hidden)]
    fn unsupported(&self, operation: &str) -> BackendError {
        let name = self.capabilities().name;
        BackendError::refused(format!("the {name} backend does not offer {operation}"))
    }
}

/// Connects a backend **on the lease thread**, so that its connections are served by that thread's runtime and a
/// blocked runtime of the caller's can't delay a renewal (docs/protocol.md, "One lease thread").
///
/// Any `async fn() -> Result<Arc<dyn LeaseBackend>, BackendError>` closure is one.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Opens the store. Called again until it succeeds, and again when a call has said that its backend is
    /// [disconnected](BackendError::disconnected): what another backend of this connector has seen must be fit for the new
    /// one's [`put_if`](LeaseBackend::put_if). Must be safe to drop at any await.
    ///
    /// - **Errors**: [refused](BackendError::refused) ends the elector's start. When it connects anew that is a failure
    ///   like any other: it tries again for as long as it takes.
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError>;
}

#[async_trait]
impl<F, Fut> Connector for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Arc<dyn LeaseBackend>, BackendError>> + Send,
{
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self().await
    }
}
