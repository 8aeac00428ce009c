//! The roles as real processes of the real binary, on SQLite and on Postgres, under real signals.

mod access;
mod demoted;
mod disabled;
mod dispatch;
mod fake;
mod forwarding;
mod home;
mod ingest;
mod kills;
mod led_elsewhere;
mod logs;
mod malformed;
mod metrics;
mod pauses;
mod pressure;
mod request_ids;
mod retention;
mod silence;
mod slow_clients;
mod stage;
mod stopping;
