//! The sidecar as real processes of the real binary, with a real ledger on a real Postgres, under real signals.

mod access;
mod api;
mod drain;
mod logs;
mod malformed;
mod pauses;
mod per_pod;
mod renewal;
mod secured;
mod slow_clients;
mod socket;
mod stage;
mod standby;
mod start;
