//! Every store that a lease can live in, as the conformance suite, the lab and the drills use it.
//!
//! Each store has one module: the place where it is, which another process can be given; how it is started, or reached
//! where somebody else runs it; its harness for the suite; its fenced resource; its faults. [`Mode`] names them all.
//! A further store is one more module, and one more line in the registry below.
#![forbid(unsafe_code)]

#[macro_use]
mod registry;

mod actor;
pub mod etcd;
mod idle;
pub mod k8s;
pub mod postgres;
pub mod sqlite;
mod store;

pub use actor::{ACTOR_COMMAND, main_or_actor, start};
pub use store::{Link, StoreFault, TestStore};

registry! {
    /// SQLite: one file for the leases, others for effects and data
    Sqlite => sqlite::{SqliteStore, SqlitePlace, SqliteArgs},
    /// PostgreSQL: a server of our own, started for the run
    Postgres => postgres::{PostgresStore, PostgresPlace, PostgresArgs},
    /// etcd: a cluster of our own of three nodes, started for the run; data in SQLite files
    Etcd => etcd::{EtcdStore, EtcdPlace, EtcdArgs},
    /// Kubernetes: a control plane of our own, started for the run; effects and data in SQLite files
    K8s => k8s::{K8sStore, K8sPlace, K8sArgs},
}
