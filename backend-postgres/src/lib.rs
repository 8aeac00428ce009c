//! PostgreSQL as a lease store.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use lease_postgres::{Postgres, PostgresConfig};
//!
//! let config = PostgresConfig::new("postgres://leasehold@db.example/app?sslmode=verify-full")?;
//! lease_postgres::migrate(&config).await?; // once, by a role that may create tables
//! let connector = Postgres::connector(config); // for the elector
//! # drop(connector); Ok(())
//! # }
//! ```
//!
//! - Every successful write is one autocommit statement and one round trip; a conflict costs a second (a read).
//! - No clock of the store decides anything: `now()` is written for people only.
//! - `synchronous_commit = off` and `fsync = off` are refused (PG-1): an acknowledged beat would not survive a crash.
//! - **Exclusivity without a fence needs synchronous replication** if there is a standby that may be promoted:
//!   see [`PostgresConfig::require_synchronous_replication`]. With a [`Fence`], no late effect is ever admitted.
//! - An operator's `pg_cancel_backend` on a commit that waits for a synchronous standby makes Postgres acknowledge
//!   the commit with a mere warning. Don't; this library never does, and asks for no `statement_timeout`.
#![forbid(unsafe_code)]

mod backend;
mod config;
mod error;
mod fence;
pub mod listen;
mod payload;
pub mod pool;
pub mod room;
mod rows;
mod schema;
mod server;
mod session;
mod statements;
pub mod url;
mod watch;

pub use backend::{Postgres, PostgresConnector};
pub use config::PostgresConfig;
pub use error::{NotMigrated, Worded, words};
pub use fence::{Fence, FenceError};
pub use schema::{ROLES_SQL, migrate};

/// For this project's fuzzing. Nothing here is stable.
#[doc(hidden)]
pub mod internal {
    use lease_core::Hint;

    /// The hint that a notification with this payload is to somebody who watches `prefix`.
    pub fn hint(payload: &str, prefix: &str) -> Option<Hint> {
        crate::payload::hint(payload, prefix)
    }
}
