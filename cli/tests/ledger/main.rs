//! The ledger and its sweeper as real processes of the real binary, on a real Postgres, as any client sees them.

mod access;
mod actions;
mod attempts;
mod budgets;
mod counters;
mod crowded;
mod demoted;
mod fences;
mod full_disk;
mod held;
mod least_roles;
mod limits;
mod malformed;
mod outages;
mod register;
mod retention;
mod secured;
mod slow_clients;
mod stage;
mod stopping;
mod sweeping;
mod sweeping_kills;
mod sweeping_stops;
mod waits;
mod writes;
