//! `leasehold-lab testbed`: servers to play with.

use std::process::ExitCode;

use clap::ValueEnum;
use lease_postgres::PostgresConfig;
use lease_testbed::{ControlPlane, ControlPlaneOptions, Etcd, EtcdOptions, Postgres, PostgresOptions};

/// Servers to play with.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start a server on a free port, with Leasehold's tables, and print how to reach it; Ctrl-C stops it and removes
    /// its data.
    Up {
        /// Which server.
        server: ServerKind,
        /// etcd: how many nodes.
        #[arg(long, default_value = "1", value_parser = nodes)]
        nodes: usize,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ServerKind {
    /// PostgreSQL, with fsync on.
    Postgres,
    /// etcd, with fsync on: one node, or more by --nodes.
    Etcd,
    /// A Kubernetes control plane without nodes: API server, controller manager, scheduler.
    K8s,
}

fn nodes(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("use 1 or 3".to_owned()),
    }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Up { server, nodes } = command;
    match server {
        ServerKind::Postgres => {
            let postgres = Postgres::start(PostgresOptions::default().fsync(true)).await?;
            let url = postgres.url();
            lease_postgres::migrate(&PostgresConfig::new(&url)?).await?;
            println!("PostgreSQL is running, with Leasehold's tables in it. The URL of a superuser:");
            println!("  {url}");
            println!("Try:");
            println!("  psql {url} -c 'TABLE coordination_leases'");
            println!("  leasehold-lab conformance --mode postgres --url {url}");
            until_interrupted().await
        }
        ServerKind::Etcd => {
            let etcd = Etcd::start(EtcdOptions::default().nodes(nodes).fsync(true)).await?;
            let endpoints = etcd.endpoints().join(",");
            println!("etcd is running. Its endpoints:");
            println!("  {endpoints}");
            println!("Try:");
            println!("  leasehold --mode etcd --etcd-endpoints {endpoints} init --new nightly");
            println!("  {} --endpoints {endpoints} get --prefix /leasehold/", etcd.etcdctl().display());
            println!("  leasehold-lab conformance --mode etcd --endpoints {endpoints}");
            until_interrupted().await
        }
        ServerKind::K8s => {
            let options = ControlPlaneOptions::default().controllers().scheduler().fsync(true);
            let plane = ControlPlane::start(options).await?;
            let kubeconfig = plane.kubeconfig().display();
            println!("Kubernetes is running, without nodes. An administrator's kubeconfig:");
            println!("  export KUBECONFIG={kubeconfig}");
            println!("Try:");
            println!("  leasehold --mode k8s --k8s-kubeconfig {kubeconfig} init --new nightly");
            println!("  kubectl get lease");
            println!("  leasehold-lab conformance --mode k8s --kubeconfig {kubeconfig}");
            until_interrupted().await
        }
    }
}

/// The caller, and with it the server, is dropped then.
async fn until_interrupted() -> ! {
    println!("Press Ctrl-C to stop it and to remove its data.");
    std::future::pending().await
}
