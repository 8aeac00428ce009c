//! Leases, leader election and fencing on the store that you already run.
//!
//! One idea: **a store gives us a compare-and-set register; time is judged in one place, by each process's own
//! clock; effects are fenced where they land.** A backend knows nothing of expiry; this crate knows nothing of SQL.
#![forbid(unsafe_code)]

pub mod admin;
mod backend;
mod clock;
pub mod deadline;
pub mod elector;
mod error;
mod events;
pub mod fence;
mod leadership;
pub mod lease_thread;
mod memory;
pub mod migrate;
mod record;
pub mod writes;

pub use backend::{
    Capabilities, Change, Connector, Hint, Hints, HistoryEvent, HistoryRow, LeaseBackend, PutOutcome,
};
pub use clock::{Clock, Instant, ManualClock};
pub use elector::step::{Loss, StopReason};
pub use elector::{Elector, ElectorBuilder, Ended, Plan, RunError, WorkloadId};
pub use error::{BackendError, Certainty, InvalidName, InvalidSettings};
pub use events::{EventKind, LeaseEvent};
pub use leadership::Leadership;
pub use memory::Memory;
pub use record::{Grant, LeaseName, Lineage, Observation, Record, Request, RequestId, Tag, Term, WallTime};
