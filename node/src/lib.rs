//! A small stand-in for a kubelet, which runs the pods that the real scheduler binds to its node, as local processes;
//! and one for kube-proxy and the cluster's DNS. The public face is [`Cluster`](crate::Cluster).

mod agent;
mod container;
mod environment;
mod image;
mod network;
mod pod;
mod private;
mod probes;
mod services;
mod status;
mod volumes;
mod watch;

use std::net::SocketAddr;

use tokio::net::TcpListener;

pub(crate) use self::{
    agent::{Machine, Node},
    container::processes,
    network::{bridge, plug},
    private::demand,
    services::Services,
};
pub use self::{image::Image, private::in_private_network};

/// Listens where pods reach the machine, and hands connections on to `local`, for ever.
pub(crate) async fn expose(
    local: SocketAddr,
) -> anyhow::Result<(SocketAddr, impl Future<Output = ()> + Send + 'static)> {
    let listener = TcpListener::bind((network::GATEWAY, 0)).await?;
    Ok((listener.local_addr()?, network::forward(listener, move || Some(local))))
}
