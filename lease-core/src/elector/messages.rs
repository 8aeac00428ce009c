//! The step function's inputs and outputs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::{Change, PutOutcome};
use crate::clock::Instant;
use crate::deadline::{Deadline, Known};
use crate::error::Certainty;
use crate::reasons::{Loss, StopReason};
use crate::record::{Observation, Record, RequestId, Term};
use crate::writes::Candidate;

/// The settings of one elector, checked by the builder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rules {
    /// The candidate, and its ttl.
    pub who: Candidate,
    /// A leader's beat, and a candidate's poll while its watch is live (T-4).
    pub renew_every: Duration,
    /// A candidate's poll without a watch, and the pause after a failure (T-4, U-1).
    pub retry_every: Duration,
    /// The work is told to stop this long before the deadline (T-1).
    pub stop_grace: Duration,
    /// Work that has reported no progress for this long keeps its lease no longer (H-4).
    pub max_silence: Option<Duration>,
    /// The store can't lose registers, so an absent one is new (T-5).
    pub creates_registers: bool,
}

/// Names one call to the store; later calls have greater numbers.
pub type CallId = u64;

/// A call to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum CallRequest {
    /// [`observe`](crate::LeaseBackend::observe)
    Observe,
    /// [`put_if`](crate::LeaseBackend::put_if)
    Put {
        /// The write compares this.
        expected: Observation,
        /// The write's content.
        record: Record,
        /// The write's meaning.
        change: Change,
    },
}

/// A call's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Reply {
    /// A read's answer.
    Seen(Observation),
    /// A write's answer.
    Put(PutOutcome),
    /// The call failed.
    Failed(Certainty),
}

/// The step function's input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The work last reported progress at this moment (H-4). Lets no time pass: that is for the event that follows.
    Progressed(Instant),
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
    /// Stop for good without releasing: what was opened as the store is gone.
    StoreGone,
}

/// A command to the driver; they are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Action {
    /// Begin a call.
    Send(CallId, CallRequest),
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
    /// Something to report.
    Note(Note),
    /// The elector has ended.
    Stopped,
}

/// News beyond the beginning and the end of terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// A grant of somebody else's was seen for the first time.
    Following(Term),
    /// An operator ended the last term (H-3), or keeps this candidate off.
    Revoked {
        /// The name of whoever did, for people.
        by: String,
        /// Why, for people.
        note: String,
        /// This candidate holds off, and for this long at least.
        hold_off: Option<Duration>,
    },
    /// No epoch is left for another term (E-1): the last one.
    EpochsExhausted(u64),
    /// There is no register, and candidates don't make registers in this store (T-5).
    RegisterAbsent,
    /// This register is final (M-1): why, in its own words.
    Sealed(String),
    /// The lease is for this work, and not for the candidate's (W-1): it has stopped.
    OthersWork(String),
    /// The store was restored: it shows less than was seen of it before (T-6).
    Rewound {
        /// The register and the floor as they were seen before,
        lost: Known,
        /// and as they are now.
        shows: Known,
    },
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

/// A position in the span of a jittered pause, in 1/256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Jitter(pub u8);

impl Jitter {
    /// Between 3/4 of `span` and all of it: a poll never comes later than its interval.
    pub(super) fn of(self, span: Duration) -> Duration {
        span * 3 / 4 + span * u32::from(self.0) / 1024
    }
}
