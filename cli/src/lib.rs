//! The `leasehold` binary as a library: the command line, its modes, roles, the guard and the operator's commands.
//!
//! A program of your own adds a lease store, or a role, without a fork:
//!
//! ```no_run
//! use lease_core::Memory;
//! use lease_settings::{BadSetting, Mode, Section, Settings, LeaseStore};
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
//!     fn open(&self, _settings: &Settings) -> Result<LeaseStore, BadSetting> {
//!         let memory = Memory::new();
//!         Ok(LeaseStore::new("memory", "this process's memory", "restart it", move || {
//!             let backend: Arc<dyn lease_core::LeaseBackend> = Arc::new(memory.clone());
//!             async move { Ok(backend) }
//!         }))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     leasehold::Cli::new().with_mode(InMemory).run()
//! }
//! ```

mod cli;
mod logs;
mod manual;
mod modes;
mod operator;
mod run;
mod tips;

pub use cli::Cli;
