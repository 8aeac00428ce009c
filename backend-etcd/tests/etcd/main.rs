//! The backend on real clusters, and what is done to them.

mod common;
mod elector;
mod faults;
mod guard;
mod hands;
mod restore;
mod secure;
mod shim;
mod watch;
mod wire;
