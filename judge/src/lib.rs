//! Histories of leases, and the one judge of what must hold in them (`docs/protocol.md`, L-1 … L-10).
//!
//! A [`History`](history::History) is all that happened to one lease, on one host clock: each elector's calls and terms,
//! each effect, the store's own rows. A [recorded](recording) step function or backend writes it, in one process or in
//! several ([`actor`]); [`invariants::judge`] decides, and [`acceptor::explain`] replays it through a model (J-1, J-2).
//! The conformance suite, chaos, failover and hand-over runs all use this one format and this one judge.
#![forbid(unsafe_code)]

pub mod acceptor;
pub mod actor;
mod facts;
pub mod history;
pub mod invariants;
mod met;
mod patience;
mod recorder;
pub mod recording;
mod resource;
mod stepped;
mod telling;
mod trace;

pub use facts::{Facts, Span, Write};
pub use met::Met;
pub use patience::Patience;
pub use recorder::Recorder;
pub use resource::{EffectError, FencedResource};
pub use telling::in_brief;
pub use trace::Tail;
