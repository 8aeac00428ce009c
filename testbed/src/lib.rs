//! Real servers on free ports in throw-away folders, and the means to break them.
//!
//! Nothing that is started here outlives the process that started it, however that ends, SIGKILL included: a small
//! supervisor notices, kills, and removes the folders.
//!
//! - [`Process`]: a real child process, with its lines, signals and exit code; [`field`] reads its log lines.
//! - [`Folder`]: a throw-away folder.
//! - [`SlowClients`]: clients by the thousand that take their time.
//! - [`SmallDisk`]: a disk to fill.
//! - [`wait_until`], [`wait_for`]: await a condition instead of sleeping; [`free_port`].
//!
//! The rest is behind features, all of them in the default; a backend's author who has a server may want `proxy` alone.
//!
//! - `proxy`: [`Proxy`] stands between a client and its server and delays, drops, cuts, holds and counts.
//! - `postgres`: [`Postgres`], a server to crash, pause, restart, replicate and promote.
//! - `etcd`: [`Etcd`], a cluster of one or three nodes, to kill, pause, isolate and restore.
//! - `k8s`: [`ControlPlane`], a Kubernetes API server with its etcd, and its controllers on request, without containers;
//!   [`KubernetesServer`], the same or the cluster that the user names; [`helm`].
//! - `tls`: [`Certificates`].

#[cfg(feature = "tls")]
mod certificates;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
mod go;
#[cfg(feature = "k8s")]
pub mod helm;
#[cfg(feature = "k8s")]
mod kubernetes;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "proxy")]
mod proxy;

#[cfg(any(feature = "etcd", feature = "postgres"))]
mod cache;
mod ports;
mod process;
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "only PostgreSQL is many processes"))]
mod processes;
mod slow;
mod small_disk;
mod supervisor;
mod unread;
mod wait;

pub use rustix::process::Signal;

pub use self::{
    ports::{ReservedPort, free_port},
    process::{Process, ProcessCommand, field},
    slow::{AT_ONCE, BUSY, ListensAt, SlowClient, SlowClients, ask_among_slow_clients, in_time},
    small_disk::SmallDisk,
    supervisor::Folder,
    unread::{closed_pipe, full_disk, full_pipe},
    wait::{wait_for, wait_until},
};

#[cfg(feature = "tls")]
pub use self::certificates::Certificates;
#[cfg(feature = "etcd")]
pub use self::etcd::{ClusterId, Etcd, EtcdMember, EtcdOptions, EtcdShim, EtcdTls};
#[cfg(feature = "k8s")]
pub use self::kubernetes::{
    AuditEvent, AuditLog, ControlPlane, ControlPlaneOptions, Identity, KubernetesAccess, KubernetesServer,
    PlainGate, client_go_candidate,
};
#[cfg(feature = "postgres")]
pub use self::postgres::{PgBouncer, Postgres, PostgresOptions, PostgresServer, StandbyOptions, WalArchive};
#[cfg(feature = "proxy")]
pub use self::proxy::{Direction, Flow, Hold, LostReply, ProxiedRequest, Proxy, RoundTripCount, RoundTrips};
