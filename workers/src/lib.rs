//! The `leasehold` binary as a library: workers, the guard and the operator's commands.
//!
//! A program of your own adds a lease store without a fork:
//!
//! ```no_run
//! use lease_core::Memory;
//! use lease_workers::modes::{Mode, Store};
//! use lease_workers::settings::{BadSetting, Section, Settings};
//! use std::sync::Arc;
//!
//! struct InMemory;
//!
//! impl Mode for InMemory {
//!     fn name(&self) -> &'static str {
//!         "memory"
//!     }
//!     fn section(&self) -> Section {
//!         Section { name: "leaderElection.memory", about: "mode memory: gone at the end", settings: &[] }
//!     }
//!     fn open(&self, _settings: &Settings) -> Result<Store, BadSetting> {
//!         let memory = Memory::new();
//!         Ok(Store::new("memory", "this process's memory", "restart it", move || {
//!             let backend: Arc<dyn lease_core::LeaseBackend> = Arc::new(memory.clone());
//!             async move { Ok(backend) }
//!         }))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     lease_workers::Cli::new().with_mode(InMemory).run()
//! }
//! ```

mod cli;
mod failure;
mod logs;
pub mod modes;
mod operator;
pub mod roles;
pub mod rpc;
mod run;
pub mod settings;
pub mod shutdown;

pub use cli::{App, Cli};
pub use failure::Failure;
