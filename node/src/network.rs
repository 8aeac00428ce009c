//! The bridge of the machine, and each pod's network on it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use lease_testbed::Process;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

/// The address of the machine for its pods, and their route to services.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

const LIMIT: Duration = Duration::from_secs(30);

/// Removes what an earlier cluster left in this network, and makes the bridge.
const BRIDGE: &str = "
ip link delete pods 2>/dev/null
ip address flush dev lo scope global
set -e
ip link add pods type bridge
ip address add $1/16 dev pods
ip link set pods up
";

/// The pod's end is made within its namespace, so that names never clash.
const CONNECT: &str = "
set -e
veth=$1 pid=$2 ip=$3 gateway=$4
ip link delete $veth 2>/dev/null || true
ip link add $veth type veth peer name eth0 netns $pid
ip link set $veth master pods up
nsenter --target $pid --net /bin/sh -ec \"
    ip link set lo up
    ip address add $ip/16 dev eth0
    ip link set eth0 up
    ip route add default via $gateway\"
";

/// The network, host name and shared memory of a pod; they last as long as the process that holds them.
pub(crate) struct PodNetwork {
    pub(crate) ip: Ipv4Addr,
    veth: String,
    holder: Process,
}

impl PodNetwork {
    pub(crate) async fn start(host_name: &str, ip: Ipv4Addr) -> anyhow::Result<Self> {
        let hold = r#"echo "$1" >/proc/sys/kernel/hostname; echo up; exec sleep infinity"#;
        let holder = Process::command("unshare")?
            .args(["--net", "--uts", "--ipc", "/bin/sh", "-c", hold, "pod", host_name])
            .spawn()?;
        holder.wait_for_line("up", LIMIT).await?;
        let [_, _, node, number] = ip.octets();
        let network = Self { ip, veth: format!("pod{node}.{number}"), holder };
        let pid = network.holder.id().to_string();
        script("connect a pod", CONNECT, &[&network.veth, &pid, &ip.to_string(), &GATEWAY.to_string()])
            .await?;
        Ok(network)
    }

    /// Arguments of nsenter that lead into it.
    pub(crate) fn enter(&self) -> [String; 3] {
        ["net", "uts", "ipc"].map(|kind| format!("--{kind}=/proc/{}/ns/{kind}", self.holder.id()))
    }

    pub(crate) fn veth(&self) -> &str {
        &self.veth
    }
}

/// Cuts pods off the network. A pod without a network needs no cutting.
pub(crate) async fn unplug(veths: &[String]) -> anyhow::Result<()> {
    let veths: Vec<&str> = veths.iter().map(String::as_str).collect();
    script("cut pods off", r#"for each; do ip link set "$each" down || true; done"#, &veths).await
}

pub(crate) async fn bridge() -> anyhow::Result<()> {
    script("make a bridge for pods", BRIDGE, &[&GATEWAY.to_string()]).await
}

/// Listens on an address that pods reach; the future forwards connections to `local`, for ever.
pub(crate) async fn expose(
    local: SocketAddr,
) -> anyhow::Result<(SocketAddr, impl Future<Output = ()> + Send + 'static)> {
    let listener = TcpListener::bind((GATEWAY, 0)).await?;
    Ok((listener.local_addr()?, forward(listener, move || Some(local))))
}

/// Adds an address to the machine: a node's or a Service's.
pub(crate) async fn add_address(ip: Ipv4Addr) -> anyhow::Result<()> {
    script("add an address", r#"ip address replace "$1/32" dev lo"#, &[&ip.to_string()]).await
}

/// Forwards each connection to the `target` of that moment; closes it if there is none.
pub(crate) async fn forward(listener: TcpListener, target: impl Fn() -> Option<SocketAddr>) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            // Out of file descriptors, or the client has already gone.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(target) = target() else { continue };
        tokio::spawn(async move {
            let _ = client.set_nodelay(true);
            let connected = tokio::time::timeout(LIMIT, TcpStream::connect(target)).await;
            if let Ok(Ok(mut server)) = connected {
                let _ = server.set_nodelay(true);
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

async fn script(name: &str, text: &str, args: &[&str]) -> anyhow::Result<()> {
    let ran = Process::command("/bin/sh")?.args(["-c", text, "node-network"]).args(args).run(LIMIT).await;
    ran.map(drop).with_context(|| format!("cannot {name}"))
}
