//! A real etcd cluster in a throw-away folder, and the means to break it.

mod http;
mod member;
mod options;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use self::member::Plan;
pub use self::{
    member::EtcdMember,
    options::{EtcdOptions, EtcdTls},
};
use crate::{
    go,
    ports::ReservedPort,
    run::run,
    supervisor::{Ending, Folder, supervisor},
};

const CTL_LIMIT: Duration = Duration::from_secs(30);

const MODULE: go::Module = go::Module {
    name: "etcd",
    version: "3.7.3",
    files: &[
        ("go.mod", include_str!("../go/etcd/go.mod")),
        ("go.sum", include_str!("../go/etcd/go.sum")),
        ("main.go", include_str!("../go/etcd/main.go")),
    ],
    package: ".",
    ldflags: "",
    aliases: &["etcdctl", "etcdutl"],
    takes: "one to three minutes",
    instead: "name a running etcd in LEASEHOLD_TEST_ETCD_ENDPOINTS",
};

/// An etcd cluster of our own, of one or three nodes on free ports of 127.0.0.1.
///
/// Dropping it kills its nodes and removes their folder. It may be shared by tests with runtimes of their own, in a
/// static too: whatever ends the process ends the cluster.
#[derive(Debug)]
pub struct Etcd {
    // Fields are dropped in this order: the processes, then their folder.
    members: Vec<EtcdMember>,
    _peers: Vec<ReservedPort>,
    folder: Folder,
    program: PathBuf,
}

impl Etcd {
    /// Starts a cluster and waits until it serves: well under a second, the first time some minutes more.
    ///
    /// The programs are built from source into `$LEASEHOLD_CACHE`, `$XDG_CACHE_HOME/leasehold` or
    /// `~/.cache/leasehold` if they are missing there, which takes a Go toolchain and, once, the network.
    ///
    /// # Errors
    /// When they can't be built (the message says what to do), or a node doesn't start (the message has the end of
    /// its log).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> anyhow::Result<()> {
    /// use lease_testbed::{Etcd, EtcdOptions};
    /// let etcd = Etcd::start(EtcdOptions::default()).await?;
    /// etcd.ctl(&["put", "greeting", "hello"]).await?;
    /// assert_eq!(etcd.ctl(&["get", "--print-value-only", "greeting"]).await?, "hello");
    /// # Ok(()) }
    /// ```
    pub async fn start(options: EtcdOptions) -> anyhow::Result<Self> {
        if ![1, 3].contains(&options.nodes) {
            bail!("a cluster of {} nodes is not offered: use 1 or 3", options.nodes);
        }
        let program = go::build(MODULE).await?;
        let folder = supervisor()?.folder("etcd")?;
        let mut peers = Vec::new();
        for _ in 0..options.nodes {
            peers.push(ReservedPort::new().context("no free port")?);
        }
        let name = |number: usize| format!("etcd-{number}");
        let all =
            peers.iter().enumerate().map(|(number, peer)| format!("{}=http://{}", name(number), peer.addr()));
        let mut flags = vec![format!("--initial-cluster={}", all.collect::<Vec<_>>().join(","))];
        flags.extend_from_slice(&options.flags);
        let mut members = Vec::new();
        for (number, peer) in peers.iter().enumerate() {
            let plan = Plan {
                name: name(number),
                scheme: "http",
                program: program.clone(),
                data: folder.path().join(name(number)),
                peer: (peer.addr(), peer.addr()),
            };
            members.push(EtcdMember::new(plan, &flags)?);
        }
        let etcd = Self { members, _peers: peers, folder, program };
        etcd.start_all()?;
        etcd.ready().await?;
        Ok(etcd)
    }

    /// Its nodes.
    pub fn members(&self) -> &[EtcdMember] {
        &self.members
    }

    /// Where clients connect, one url a node.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(EtcdMember::endpoint).collect()
    }

    /// Starts every node that doesn't run.
    ///
    /// # Errors
    /// When one can't be started.
    pub fn start_all(&self) -> anyhow::Result<()> {
        self.members.iter().filter(|member| !member.is_running()).try_for_each(EtcdMember::start_again)
    }

    /// Waits until every node serves.
    ///
    /// # Errors
    /// As [`EtcdMember::ready`].
    pub async fn ready(&self) -> anyhow::Result<()> {
        for member in &self.members {
            member.ready().await?;
        }
        Ok(())
    }

    /// Runs etcdctl as an administrator, and returns what it prints.
    ///
    /// # Errors
    /// Its message, or no answer for 30 s.
    pub async fn ctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = supervisor()?.command(&self.program.with_file_name("etcdctl"), Ending::Kill)?;
        command.arg(format!("--endpoints={}", self.endpoints().join(","))).args(args);
        command.current_dir(self.folder.path());
        let output = run(&format!("etcdctl {}", args.join(" ")), command, CTL_LIMIT).await?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}
