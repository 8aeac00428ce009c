//! Every store that a lease can live in, as the conformance suite, the lab and the drills use it.
//!
//! Each store has one module: the place where it is, which another process can be given; how it is started, or reached
//! where somebody else runs it; its harness for the suite; its fenced resource; its faults. [`Mode`] names them all.
//! A further store is one more module, and one more line in the registry below.
#![forbid(unsafe_code)]

#[macro_use]
mod registry;

mod actor;
#[cfg(feature = "etcd")]
pub mod etcd;
mod idle;
#[cfg(feature = "k8s")]
pub mod k8s;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;
mod store;

pub use actor::{ACTOR_COMMAND, main_or_actor, start};
pub use store::{Link, StoreFault, TestStore};

registry! {
    /// SQLite: one file for the leases, others for effects and data
    Sqlite => sqlite::{SqliteStore, SqlitePlace, SqliteArgs},
    /// PostgreSQL: a server of our own, started for the run
    #[cfg(feature = "postgres")]
    Postgres => postgres::{PostgresStore, PostgresPlace, PostgresArgs},
    /// etcd: a cluster of our own of three nodes, started for the run; data in SQLite files
    #[cfg(feature = "etcd")]
    Etcd => etcd::{EtcdStore, EtcdPlace, EtcdArgs},
    /// Kubernetes: a control plane of our own, started for the run; effects and data in SQLite files
    #[cfg(feature = "k8s")]
    K8s => k8s::{K8sStore, K8sPlace, K8sArgs},
}
