//! The executable definition of a correct lease store.
//!
//! A backend's author implements [`Harness`] and calls [`run`] from a ten-line test file with `harness = false`; an
//! operator gets the same verdicts as a [`report`]. Each case is a trial of its own; what a store or its harness
//! doesn't offer is ignored with the reason, and every elector's case is judged by all of the [`invariants`].
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
mod case;
mod cases;
mod context;
mod description;
mod harness;
pub mod history;
pub mod invariants;
mod memory;
pub mod mutants;
mod process;
mod recording;
mod run;
mod tap;

pub use attached::Attached;
pub use case::{Case, LIMIT, Need};
pub use cases::{all, find};
pub use context::{Core, real_core};
pub use description::{Description, table};
pub use harness::{EffectError, Facility, FencedResource, Harness, Missing};
pub use memory::MemoryHarness;
pub use process::actor_main;
pub use run::{CaseReport, Report, Suite, Verdict, report, run};
