//! The executable definition of a correct lease store.
//!
//! A backend's author implements [`Harness`] and calls [`run`] from a test file with `harness = false`; an
//! operator gets the same verdicts as a [`report`]. Each case is a trial of its own; what a store or its harness
//! doesn't offer is ignored with the reason, and every elector's case is judged by all of the
//! [invariants](lease_judge::invariants).
//!
//! ```no_run
//! use lease_conformance::{MemoryHarness, Suite, run};
//! use std::{process::ExitCode, sync::Arc};
//!
//! fn main() -> ExitCode {
//!     // What this store is known not to do; anything else that is ignored fails the suite.
//!     let ignored = &["epoch::survives_a_restart"];
//!     run(vec![Suite { harness: Arc::new(MemoryHarness::keeping()), ignored }])
//! }
//! ```
#![forbid(unsafe_code)]

mod actor;
mod attached;
pub mod by_hand;
mod case;
mod cases;
mod check;
mod connection;
mod context;
mod description;
mod fleet;
mod harness;
mod memory;
pub mod mutants;
mod process;
mod run;
mod step;
mod tap;

pub use attached::Attached;
pub use case::{Case, Need, PATIENCE};
pub use cases::{all, find};
pub use description::{Description, table};
pub use harness::{Facility, Harness, Missing, Split};
pub use lease_judge::{EffectError, FencedResource, Patience};
pub use memory::MemoryHarness;
pub use process::actor_main;
pub use run::{CaseReport, Report, Suite, Verdict, report, run};
pub use step::{Core, real_core};
