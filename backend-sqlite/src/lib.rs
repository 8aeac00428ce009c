//! SQLite as a lease store: one file, several processes on one host.
//!
//! ```
//! use lease_core::{Elector, Leadership, LeaseName, WorkloadId};
//! use lease_sqlite::{Sqlite, SqliteConfig};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("leases.sqlite");
//! let store = Sqlite::connector(SqliteConfig::new(path)?); // nothing is opened yet
//! let elector = Elector::builder(store, LeaseName::new("outbox-forwarder")?, WorkloadId::new("pod-1")?).build()?;
//! let shutdown = tokio::time::sleep(std::time::Duration::from_millis(100)); // in earnest: SIGTERM and SIGINT
//! let work = async |leadership: Leadership| {
//!     while leadership.should_continue() {
//!         // one piece of work
//! #       tokio::task::yield_now().await;
//!     }
//!     Ok::<_, std::io::Error>(()) // asked to stop, and stopped: now the lease is released
//! };
//! elector.run_until(shutdown, work).await?;
//! # Ok(()) }
//! ```
//!
//! **Leases live in a file of their own.** SQLite has one write lock per file, so bulk writes beside the leases would
//! delay renewals until terms are lost. What the work writes goes into other files, guarded by a [`Fence`] there.
//!
//! # What holds
//! - Every operation is one autocommit statement; a dropped future leaves no transaction and no lock behind (U-4), and
//!   never more than two statements at the store (U-5).
//! - Whatever is acknowledged survives the death of any process. Grants, releases and operators' changes survive a
//!   power cut too: they wait for the disk. A term's beats after the first don't (Q-1), so a slow disk costs no term;
//!   a power cut that takes one with it has ended every process that could have relied on it. In a RAM disk nothing
//!   survives it: epochs begin anew, and fences elsewhere refuse them until they are raised
//!   ([`fence_raise`](lease_core::admin::fence_raise)).
//! - What is acknowledged is in the file that the path names (Q-1). If the file, its `-wal` or its `-shm` is deleted,
//!   moved or replaced while it is open, every operation fails and says so, until the right files are back. Processes
//!   that open the file afterwards see another store: stop them all first. Whoever makes the file anew learns from a
//!   hidden file beside it, `.NAME.trace`, that there was one, and waits before it leads. **After restoring a backup** run
//!   [`fence_raise`](lease_core::admin::fence_raise) above the greatest epoch in use.
//! - Refused when it is opened, with a sentence that says what to do: network file systems and FUSE; a file with
//!   several names (hard links), or mounted by itself into a container, whose `-wal` the others would not see (mount
//!   its folder); another program's database; a newer version's.
//!
//! # Tables
//! `coordination_leases`, one row a lease, and `coordination_lease_history`, for any sqlite3 shell of version 3.31 or
//! newer. Times are UTC, as SQLite's own date functions write them:
//!
//! ```sql
//! SELECT lease_name, holder_workload_id, expires_at, expires_at < datetime('now') AS already_expired
//!   FROM coordination_leases;
//! ```
//!
//! The store refuses to delete a register. An administrator who must first inserts its name into
//! `coordination_lease_deletions`: that allows one deletion. The lease's epochs go on above the old ones, and whoever
//! creates the register anew waits for its maximum ttl, for a holder may not have noticed yet.
#![forbid(unsafe_code)]

mod backend;
mod config;
mod connection;
mod error;
mod fence;
mod file;
mod schema;
mod trace;
mod watch;

pub use backend::{Sqlite, SqliteConnector};
pub use config::SqliteConfig;
pub use fence::{Fence, FenceError};
