//! Kubernetes as a lease store: one `coordination.k8s.io/v1` Lease is one register.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use lease_k8s::{K8s, K8sConfig};
//!
//! let config = K8sConfig::in_cluster().namespace("payments")?;
//! let connector = K8s::connector(config); // for the elector
//! # drop(connector); Ok(())
//! # }
//! ```
//!
//! - Every write but a creation is one PUT that carries uid and resourceVersion (K-1): it never creates a deleted Lease
//!   anew, and never overwrites what it hasn't seen. Nothing here patches or deletes.
//! - `kubectl get lease` shows the truth: the holder is `<workload>_<grant>`, or empty when the lease is free. The
//!   whole record is in the annotation [`RECORD`]; it counts only while the holder repeats its grant (K-2), so
//!   **client-go's leader election may be a candidate on the same Lease**: each side waits the other's
//!   `leaseDurationSeconds` out and takes a cleanly released Lease at once. client-go knows no closed, final or
//!   requested registers, and creates a Lease that somebody has deleted.
//! - Ttls are whole seconds; a history is not kept.
//! - The least RBAC: `get`, `list`, `watch` and `update` on `leases` by `resourceNames`, and `create` for whoever runs
//!   [`init`](lease_core::admin::init). All but [`list`](lease_core::LeaseBackend::list) ask by the Lease's own name.
//! - A restore of the cluster's etcd from a backup is invisible to whoever saw nothing before it: stamp the leases
//!   ([`restored`](lease_core::admin::restored)) before anything is started again.
#![forbid(unsafe_code)]

mod api;
mod backend;
mod config;
mod error;
mod kubeconfig;
mod lease;
mod proxy;
mod watch;

pub use backend::{K8s, K8sConnector};
pub use config::K8sConfig;
pub use lease::{RECORD, is_ours};

/// For this project's fuzzing. Nothing here is stable.
#[doc(hidden)]
pub mod internal {
    use lease_core::{BackendError, LeaseName, Observation, Record};

    use crate::lease;

    /// The register that a Lease is, which the API server sent as this JSON.
    ///
    /// # Errors
    /// It is no Lease, or one that can't hold a register.
    pub fn register(json: &[u8]) -> Result<Observation, BackendError> {
        let sent: lease::SentLease = serde_json::from_slice(json)
            .map_err(|error| BackendError::not_applied("not a Lease").with_source(error))?;
        lease::observation(sent.0)
    }

    /// What a write of `record` on the register that `seen` shows leaves there.
    ///
    /// # Errors
    /// It is refused.
    pub fn written(name: &LeaseName, seen: &Observation, record: &Record) -> Result<Vec<u8>, BackendError> {
        let base = lease::of_version(seen)?;
        let lease = lease::written(name, base, seen.record.as_ref(), record)?;
        Ok(serde_json::to_vec(&lease).expect("a Lease is JSON"))
    }
}
