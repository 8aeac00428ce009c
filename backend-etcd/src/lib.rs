//! etcd as a lease store.
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use lease_etcd::{Etcd, EtcdConfig};
//!
//! let config = EtcdConfig::new(["https://etcd-0:2379", "https://etcd-1:2379", "https://etcd-2:2379"])?
//!     .ca_file("/etc/leasehold/ca.crt")
//!     .user("leasehold", "a password");
//! let connector = Etcd::connector(config); // for the elector
//! # drop(connector); Ok(())
//! # }
//! ```
//!
//! - Every operation is one Txn or one linearizable read; a conflict shows the register in the same answer.
//! - etcd's own leases are not used: elections stretch their expiry. Beats are compare-and-set writes.
//! - A lease is two keys below the prefix: `leases/NAME/term`, whose value is `EPOCH/GRANT` (or `EPOCH/free`) and
//!   changes only with the term, so that an effect *in the same etcd* can be guarded by a compare on it
//!   ([`TermGuard`]); and `leases/NAME/beat`, the whole record as JSON, which every write replaces. Every write
//!   compares both by value, and the beat's value has a tag that no two writes share.
//! - Nothing is retried here. A call that fails or is dropped gives its connection up; the next one goes to
//!   whichever node first answers a linearizable read.
#![forbid(unsafe_code)]

mod backend;
mod config;
mod connection;
mod error;
mod fence;
mod keys;
mod watch;

pub use backend::{Etcd, EtcdConnector};
pub use config::EtcdConfig;
pub use etcd_client;
pub use fence::{Fence, FenceError, TermGuard};

/// For this project's fuzzing. Nothing here is stable.
#[doc(hidden)]
pub mod internal {
    use lease_core::{BackendError, LeaseName, Lineage, Observation};

    use crate::keys::{Part, Values};

    /// The register that the beat key of `name` holds.
    ///
    /// # Errors
    /// It holds no record.
    pub fn register(
        name: &LeaseName,
        lineage: Lineage,
        floor: u64,
        beat: &[u8],
    ) -> Result<Observation, BackendError> {
        let mut values = Values::default();
        values.set(name, Part::Beat, beat)?;
        values.observation(name, lineage, floor)
    }
}
