//! The roles as real processes of the real binary, on SQLite and on Postgres, under real signals.

mod disabled;
mod forwarding;
mod ingest;
mod kills;
mod pauses;
mod stage;
