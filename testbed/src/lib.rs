//! Real servers on free ports in throw-away folders, and the means to break them.
//!
//! Nothing that is started here outlives the process that started it, however that ends, SIGKILL included: a small
//! supervisor notices, kills, and removes the folders.
//!
//! - [`Postgres`]: a server of our own, to crash, pause, restart, replicate and promote; [`PostgresServer`]: the
//!   same, or the one that the user names.
//! - [`Etcd`]: a cluster of our own, of one or three nodes, to kill, pause, isolate and restore; [`EtcdServer`]:
//!   the same, or the one that the user names.
//! - [`ControlPlane`]: a Kubernetes API server with its etcd, and its controllers on request, without containers;
//!   [`KubernetesServer`]: the same, or the cluster that the user names.
//! - [`helm`]: the program, to install charts as their users do.
//! - [`Proxy`]: stands between a client and its server and delays, drops, cuts, holds and counts.
//! - [`Process`]: a real child process, with its lines, signals and exit code.
//! - [`Folder`]: a throw-away folder.
//! - [`wait_until`], [`wait_for`]: await a condition instead of sleeping; [`free_port`].

mod cache;
mod certificates;
mod etcd;
mod go;
pub mod helm;
mod kubernetes;
mod ports;
mod postgres;
mod process;
mod processes;
mod proxy;
mod run;
mod supervisor;
mod wait;

pub use rustix::process::Signal;

pub use self::{
    certificates::Certificates,
    etcd::{ClusterId, Etcd, EtcdMember, EtcdOptions, EtcdServer, EtcdTls},
    kubernetes::{
        AuditEvent, AuditLog, ControlPlane, ControlPlaneOptions, Identity, KubernetesAccess,
        KubernetesServer, PlainGate, client_go_candidate,
    },
    ports::{ReservedPort, free_port},
    postgres::{Postgres, PostgresOptions, PostgresServer, StandbyOptions, WalArchive},
    process::{Process, ProcessCommand},
    proxy::{Direction, Flow, Hold, LostReply, Proxy, Request, RoundTripCount, RoundTrips},
    supervisor::Folder,
    wait::{wait_for, wait_until},
};
