//! A stand-in for Kubernetes' nodes: a small kubelet that runs the pods which the real scheduler binds to it, as
//! processes of this machine, and a proxy in place of kube-proxy and the cluster's DNS.
//!
//! It offers what the pods of the chart in `deploy/helm` need; a pod that asks for more doesn't start, and its status
//! says why. [`Cluster`] is the entry point; the program must first move into a private network by
//! [`in_private_network`].

mod agent;
mod cluster;
mod container;
mod environment;
mod exec;
mod host;
mod image;
mod lock;
mod network;
mod offered;
mod pod;
mod private;
mod probes;
mod services;
mod status;
mod volumes;
mod watch;

pub use self::{
    cluster::{Cluster, ClusterOptions},
    exec::Executed,
    image::Image,
    private::in_private_network,
};
