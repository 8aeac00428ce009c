//! The backend on a real control plane: each hazard of the store, and what answers it.

mod access;
mod common;
mod elector;
mod faults;
mod foreign;
mod register;
mod watch;
