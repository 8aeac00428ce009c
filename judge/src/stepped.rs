//! The inputs of an elector's step, so that it can be run again (J-1).

use lease_core::{Grant, Instant, Tag, Term, WallTime};
use serde::{Deserialize, Serialize};

/// One call of an elector's step function: whatever goes into it that no other event tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stepped {
    /// What happened to the elector.
    pub took: Took,
    /// The position of its pauses in their span.
    pub jitter: u8,
    /// The tag for a write.
    pub tag: Tag,
    /// The grant for an acquisition.
    pub grant: Grant,
    /// The time of day.
    pub wall: WallTime,
}

/// What a step took in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Took {
    /// The elector's next event: an answer, a hint with the register, a watch that came or went, the work's return.
    Next,
    /// Nothing but the time.
    Tick,
    /// A watch says that something may have changed.
    Hint,
    /// The work's last report of progress was at this moment.
    Progressed(Instant),
    /// The resource refused this term.
    FenceRefused(Term),
    /// The caller's word that the holder is dead.
    HolderIsDead,
    /// The wish to stop in order,
    Shutdown,
    /// without waiting for the work,
    Abandon,
    /// or because what was opened as the store is gone.
    StoreGone,
}
