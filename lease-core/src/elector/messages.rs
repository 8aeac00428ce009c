//! What goes into the step function and what comes out of it.

use std::time::Duration;

use crate::backend::{Change, PutOutcome};
use crate::deadline::Deadline;
use crate::error::Certainty;
use crate::record::{Observation, Record, RequestId, Term};
use crate::writes::Candidate;

/// The settings of one elector, checked by the builder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Who campaigns, and with what ttl.
    pub who: Candidate,
    /// A leader's beat, and a candidate's poll while its watch is live (T-4).
    pub renew_every: Duration,
    /// A candidate's poll without a watch, and the pause after a failure (T-4, U-1).
    pub retry_every: Duration,
    /// How long before the deadline the work is told to stop (T-1).
    pub stop_grace: Duration,
    /// The store can't lose registers, so an absent one is new (T-5).
    pub creates_registers: bool,
}

/// Names one call to the store; later calls have greater numbers.
pub type CallId = u64;

/// What a call asks of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Request {
    /// [`observe`](crate::LeaseBackend::observe)
    Observe,
    /// [`put_if`](crate::LeaseBackend::put_if)
    Put {
        /// What the write compares.
        expected: Observation,
        /// What it writes.
        record: Record,
        /// What it means.
        change: Change,
    },
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Reply {
    /// A read's answer.
    Seen(Observation),
    /// A write's answer.
    Put(PutOutcome),
    /// No answer that tells.
    Failed(Certainty),
}

/// What happens to an elector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A call ended.
    Reply(CallId, Reply),
    /// The watch says that something may have changed.
    Hint,
    /// The watch shows the register as it was at some moment, possibly no longer.
    Shown(Observation),
    /// The watch came up or went down (T-4).
    Watching(bool),
    /// The work has returned, with or without having been told to stop.
    WorkReturned,
    /// The resource refused the present term (F-4).
    FenceRefused(Term),
    /// The caller knows that the holder is dead (F-3).
    HolderIsDead,
    /// Stop for good: drain, release, end.
    Shutdown,
    /// Stop for good without releasing: the work could not be stopped in time (H-1).
    Abandon,
}

/// Why the work is asked to stop while its term still lasts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The program shuts down.
    Shutdown,
    /// Somebody asked for the lease (H-2).
    StepDown {
        /// Names the request.
        id: RequestId,
        /// Who asked.
        by: String,
    },
    /// The deadline is near and no renewal has been acknowledged.
    Expiring,
}

/// Why a term is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The deadline passed without an acknowledged renewal.
    Expired,
    /// A linearizable read showed another grant or freedom: taken over, or revoked by an operator.
    Superseded,
    /// The register is gone (T-5).
    RegisterGone,
    /// A resource has admitted a later term (F-4).
    FenceRefused,
    /// The work returned; the lease is being released.
    Returned,
    /// The elector was abandoned with its work still running (H-1).
    Abandoned,
}

/// What the driver must do, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Action {
    /// Begin a call.
    Send(CallId, Request),
    /// Drop a call's future; its reply no longer matters.
    Drop(CallId),
    /// A term begins: the work may start.
    Begin(Term, Deadline),
    /// The term's deadline moved.
    Extend(Deadline),
    /// Ask the work to stop.
    TellStop(StopReason),
    /// The term is over: `is_leader_now()` is false from here on.
    End(Loss),
    /// Something that people want to know.
    Note(Note),
    /// The elector has ended.
    Stopped,
}

/// What people want to know, beyond terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// A grant of somebody else's was seen for the first time.
    Following(Term),
    /// There is no register, and this store's aren't made by candidates (T-5).
    RegisterAbsent,
    /// This register is final (M-1): why, in its own words.
    Sealed(String),
    /// An acknowledged beat.
    Renewed,
    /// The register was given up.
    Released {
        /// The request that this answers.
        answered: Option<RequestId>,
    },
    /// The release was not acknowledged before the deadline; the lease expires by itself (U-3).
    ReleaseAbandoned,
}

/// Where in its span a jittered pause falls, in 1/256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Jitter(pub u8);

impl Jitter {
    /// Between 3/4 of `span` and all of it: a poll never comes later than its interval.
    pub(super) fn of(self, span: Duration) -> Duration {
        span * 3 / 4 + span * u32::from(self.0) / 1024
    }
}
