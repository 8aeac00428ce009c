//! The machine's bridge, and each pod's network on it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use rustix::process::Pid;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::{
    process::Process,
    run::run,
    supervisor::{Ending, supervisor},
};

/// The machine as its pods see it, and what they reach services and the outside by.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

const LIMIT: Duration = Duration::from_secs(30);

/// What an earlier cluster in this network left goes first.
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

/// A pod's own network, host name and shared memory: they last as long as the process that holds them.
pub(super) struct PodNetwork {
    pub(super) ip: Ipv4Addr,
    veth: String,
    holder: Process,
}

impl PodNetwork {
    pub(super) async fn start(host_name: &str, ip: Ipv4Addr) -> anyhow::Result<Self> {
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
    pub(super) fn enter(&self) -> [String; 3] {
        ["net", "uts", "ipc"].map(|kind| format!("--{kind}=/proc/{}/ns/{kind}", self.holder.id()))
    }

    pub(super) fn holder(&self) -> Option<Pid> {
        Pid::from_raw(self.holder.id().cast_signed())
    }

    pub(super) fn veth(&self) -> &str {
        &self.veth
    }
}

/// Pulls or puts back pods' plugs. One that isn't there needs no pulling.
pub(crate) async fn plug(veths: &[String], connected: bool) -> anyhow::Result<()> {
    let text = r#"state=$1; shift; for each; do ip link set "$each" "$state" || [ "$state" = down ]; done"#;
    let mut args = vec![if connected { "up" } else { "down" }];
    args.extend(veths.iter().map(String::as_str));
    script("cut or mend pods", text, &args).await
}

pub(crate) async fn bridge() -> anyhow::Result<()> {
    script("make a bridge for pods", BRIDGE, &[&GATEWAY.to_string()]).await
}

/// Makes an address the machine's own: a Service's.
pub(super) async fn add_address(ip: Ipv4Addr) -> anyhow::Result<()> {
    script("add a service's address", r#"ip address replace "$1/32" dev lo"#, &[&ip.to_string()]).await
}

/// Hands each connection on to where `target` says at the time; one that it has no answer for is closed.
pub(super) async fn forward(listener: TcpListener, target: impl Fn() -> Option<SocketAddr>) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            // Out of descriptors, or the client has gone already.
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
    let mut command = supervisor()?.command(Path::new("/bin/sh"), Ending::Kill)?;
    command.args(["-c", text, "testbed-network"]).args(args);
    run(&format!("the script that is to {name}"), command, LIMIT).await.map(drop)
}
