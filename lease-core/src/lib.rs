//! Leases, leader election and fencing on the store that you already run.
//!
//! One idea: **a store gives us a compare-and-set register; time is judged in one place, by each process's own
//! clock; effects are fenced where they land.** A backend knows nothing of expiry; this crate knows nothing of SQL.
//!
//! ```
//! use lease_core::{Elector, Ended, Leadership, LeaseName, Memory, WorkloadId};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Memory::new(); // in earnest a backend: Sqlite::connector(config), Postgres::connector(config), …
//! let lease = LeaseName::new("outbox-forwarder")?;
//! let elector = Elector::builder(store.connector(), lease, WorkloadId::from_env()?).build()?;
//!
//! let signal = tokio::sync::Notify::new(); // in earnest: SIGTERM and SIGINT
//! let work = async |leadership: Leadership| {
//!     let mut batch = 0;
//!     while leadership.should_continue() {
//!         batch += 1; // one piece of work, whose writes admit leadership.term()
//!         if batch == 3 {
//!             signal.notify_one();
//!         }
//!         tokio::task::yield_now().await;
//!     }
//!     Ok::<_, std::io::Error>(()) // asked to stop, and stopped: now the lease is released
//! };
//! let ended = elector.run_until(signal.notified(), work).await?;
//! assert_eq!(ended, Ended::Shutdown);
//! # Ok(()) }
//! ```
//!
//! # Where to begin
//! - To run work behind a lease: [`Elector`]; its work gets a [`Leadership`], whose table says which question to ask
//!   where.
//! - To make effects safe: the `Fence` of the backend that stores them; the rule is in [`fence`].
//! - To create, inspect or revoke leases: [`admin`]. To move one to another store: [`migrate`].
//! - To write a backend: [`LeaseBackend`], and [`Memory`] as the shortest correct one to read.
//! - To test your own program: [`Memory`] and [`ManualClock`].
//!
//! Rule ids (T-1, F-1, …) are those of the protocol, `docs/protocol.md` in the repository.
#![forbid(unsafe_code)]

pub mod admin;
mod backend;
mod clock;
mod deadline;
mod elector;
mod error;
mod events;
pub mod fence;
mod leadership;
mod lease_thread;
mod memory;
pub mod migrate;
mod printable;
mod reasons;
mod record;
mod repeated;
mod revocation;
mod view;
mod work;
mod writes;

pub use backend::{
    Capabilities, Change, Connector, Hint, Hints, HistoryEvent, HistoryRow, LeaseBackend, Listed, PutOutcome,
};
pub use clock::{Clock, Instant, ManualClock};
pub use elector::{Elector, ElectorBuilder, Ended, RunError, Timing, WorkloadId};
pub use error::{BackendError, Certainty, InvalidName, InvalidSettings};
pub use events::{EventKind, LeaseEvent};
pub use leadership::Leadership;
pub use memory::Memory;
pub use printable::printable;
pub use reasons::{Loss, StopReason};
pub use record::{Grant, LeaseName, Lineage, Observation, Record, Request, RequestId, Tag, Term, WallTime};
pub use revocation::{LONGEST_HOLD_OFF, Revocation};
pub use view::LeaseView;

/// For this project's other packages: the pure protocol, which they judge, and its parts. Nothing here is stable.
#[doc(hidden)]
pub mod internal {
    pub use crate::elector::{StepFn, step};
    pub use crate::migrate::next;

    /// The decisions who may act and who may take over.
    pub mod deadline {
        pub use crate::deadline::*;
    }
    /// The thread on which all lease I/O runs.
    pub mod lease_thread {
        pub use crate::lease_thread::*;
    }
    /// Failures that go on, in logs.
    pub mod repeated {
        pub use crate::repeated::*;
    }
    /// Each change as a new record.
    pub mod writes {
        pub use crate::writes::*;
    }
}
