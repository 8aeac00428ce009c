//! The backend and the fence on real servers: each hazard of the store, and what answers it.

mod common;
mod counters;
mod dropped;
mod failover;
mod fence;
mod forms;
mod pool;
mod pooler;
mod register;
mod schema;
mod tls;
mod url;
mod watch;
mod wire;
