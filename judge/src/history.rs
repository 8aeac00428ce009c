//! Histories: all that happened to one lease, and nothing else is judged.
//!
//! All instants are `CLOCK_BOOTTIME` of one host, so histories of several processes on it can be merged.

use lease_core::internal::step::Rules;
use lease_core::{Change, Grant, HistoryRow, Instant, Lineage, Loss, Observation, Record, Tag, Term};
use serde::{Deserialize, Serialize};

pub use crate::stepped::{Stepped, Took};

/// The register as an answer showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The store's lineage.
    pub lineage: Lineage,
    /// The record, or its absence.
    pub record: Option<Box<Record>>,
    /// The store's floor.
    pub floor: u64,
    /// What the backend compares besides the tag.
    pub version: String,
}

impl View {
    /// The present grant.
    pub fn grant(&self) -> Option<Grant> {
        self.record.as_ref().and_then(|record| record.grant)
    }

    /// The tag that the next write compares.
    pub fn tag(&self) -> Option<Tag> {
        self.record.as_ref().map(|record| record.tag)
    }

    /// The register itself, without what the store or the backend knows beside it.
    pub fn register(&self) -> (&Lineage, Option<&Record>) {
        (&self.lineage, self.record.as_deref())
    }

    /// The lineage, grant and beat, which T-2 compares.
    pub fn beat(&self) -> (&Lineage, Option<(Option<Grant>, u64)>) {
        (&self.lineage, self.record.as_ref().map(|record| (record.grant, record.beat)))
    }
}

impl From<&Observation> for View {
    fn from(observation: &Observation) -> Self {
        let Observation { record, lineage, floor, version } = observation.clone();
        Self { lineage, record: record.map(Box::new), floor, version }
    }
}

impl From<&View> for Observation {
    fn from(view: &View) -> Self {
        let View { lineage, record, floor, version } = view.clone();
        Self { record: record.map(|record| *record), lineage, floor, version }
    }
}

/// The end of a call to the store, as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A read's answer.
    Seen(View),
    /// The write was applied.
    Written(View),
    /// The write was not applied, for the register is as shown.
    Conflict(View),
    /// Certainly not applied.
    NotApplied,
    /// Applied or not: that is not known.
    Unknown,
}

impl Answer {
    /// The register that it showed, if it showed one.
    pub fn view(&self) -> Option<&View> {
        match self {
            Self::Seen(view) | Self::Written(view) | Self::Conflict(view) => Some(view),
            Self::NotApplied | Self::Unknown => None,
        }
    }
}

/// A write as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The core's reason for it.
    pub change: Change,
    /// The register that it compares.
    pub expected: View,
    /// The record that it writes.
    pub record: Record,
}

/// The end of an attempt to make a fenced effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The effect was acknowledged.
    Written,
    /// The resource refused the term (F-1): nothing was changed.
    Refused,
    /// Any other error: it may have happened or not.
    Failed(String),
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An elector begins to campaign; a process of its own listens to signals by now.
    Campaigning {
        /// Its ttl.
        ttl_ms: u64,
        /// Its longest poll interval.
        poll_ms: u64,
    },
    /// The elector takes its first step, by these rules.
    Ruled(Box<Rules>),
    /// The elector takes a step. What it was told follows, and then what it does: all at the same moment.
    Stepped(Box<Stepped>),
    /// The elector has ended of its own accord, and campaigns no more.
    Left,
    /// A call was sent: a write, or a read if there is none.
    Sent {
        /// The call's number, unique within its actor.
        call: u64,
        /// The write.
        put: Option<Box<Put>>,
    },
    /// A call was answered.
    Answered {
        /// The call.
        call: u64,
        /// Its end.
        answer: Answer,
    },
    /// A call's future was dropped: its outcome stays unknown.
    Dropped {
        /// The call.
        call: u64,
    },
    /// The watch came up, or went down.
    Watching {
        /// It is up.
        live: bool,
    },
    /// A watch showed the register as it was at some moment.
    Shown {
        /// The register.
        view: View,
    },
    /// `is_leader_now()` turned true.
    Begun {
        /// The term.
        term: Term,
        /// The moment at which it turns false if nothing follows.
        deadline: Instant,
    },
    /// The deadline moved.
    Extended {
        /// The term.
        term: Term,
        /// The new deadline.
        deadline: Instant,
    },
    /// Another thread asked `is_leader_now()` between `from` and the event's time, and it was true.
    Claimed {
        /// The term.
        term: Term,
        /// The moment just before it asked.
        from: Instant,
        /// The answer stays true until then at least, by `remaining()`.
        until: Instant,
        /// The longest time between two questions since the last such event.
        gap_ms: u64,
    },
    /// The work was told to stop.
    StopTold {
        /// The term.
        term: Term,
    },
    /// The work returned.
    WorkReturned,
    /// `is_leader_now()` turned false for good.
    Ended {
        /// The term.
        term: Term,
        /// The reason.
        loss: Loss,
    },
    /// The actor tried a fenced effect.
    Effect {
        /// The resource.
        resource: String,
        /// The effect, unique within its resource.
        id: String,
        /// The term in which it was tried.
        term: Term,
        /// The moment at which it was sent; the event's own time is that of the answer.
        sent: Instant,
        /// Its end.
        outcome: Outcome,
    },
    /// The actor was killed, or cut off from the store for good.
    Died,
    /// The actor does not run for a while: stopped by a signal.
    Paused,
    /// A fault was injected into the actor, or into the store if the actor is called so.
    Fault {
        /// The fault, for people.
        name: String,
    },
    /// Between this moment and the event's time somebody changed the register by other means than a call that is
    /// recorded here: an administrator, a fault that takes the store back.
    Outside {
        /// The moment before it began.
        from: Instant,
        /// It deleted the register.
        deleted: bool,
    },
    /// This actor's term began, and the check of the earlier term named here was still true.
    StillTrue {
        /// The earlier term.
        term: Term,
    },
}

impl What {
    /// The register that the event showed to its actor, if it showed one.
    pub fn view(&self) -> Option<&View> {
        match self {
            Self::Answered { answer, .. } => answer.view(),
            Self::Shown { view } => Some(view),
            _ => None,
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Its time.
    pub at: Instant,
    /// The actor's name; two processes with one workload name are two actors.
    pub actor: String,
    /// Its kind.
    pub what: What,
}

/// The effects that one resource admitted, in its own order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// The resource.
    pub resource: String,
    /// Epoch and id of each effect.
    pub admitted: Vec<(u64, String)>,
}

/// All that happened to one lease.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Ordered by time; the events of one actor are in the order in which it saw them.
    pub events: Vec<HistoryEntry>,
    /// The store's own history rows, oldest first; `None` if it keeps none, or if they weren't read.
    pub rows: Option<Vec<HistoryRow>>,
    /// The effects that the lease's fenced resources admitted.
    pub effects: Vec<Effects>,
}

impl History {
    /// Puts events that several processes recorded into one order.
    pub fn sort(&mut self) {
        self.events.sort_by_key(|event| event.at);
    }
}
