//! SQLite as a lease store: one file, several processes on one host.
//!
//! **Leases live in a file of their own.** SQLite has one write lock per file, so bulk writes beside the leases would
//! delay renewals until terms are lost. What the work writes goes into other files, guarded by a [`Fence`] there.
//!
//! The processes may be of any number and may come and go; they must see the same file in the same folder, on a local
//! file system, under one kernel. What could make two of them lead is refused with a sentence that says what to do:
//! network file systems and FUSE, a file that is mounted by itself into a container (its `-wal` stays outside), hard
//! links, and a file that was replaced, moved or deleted while it was open.
#![forbid(unsafe_code)]

mod backend;
mod config;
mod connection;
mod error;
mod fence;
mod file;
mod schema;
mod watch;

pub use backend::{Sqlite, SqliteConnector};
pub use config::SqliteConfig;
pub use fence::{Fence, FenceError};
