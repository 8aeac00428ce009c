//! A real etcd cluster in a throw-away folder, and the means to break it.

mod http;
mod member;
mod options;
mod peers;
mod shim;

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};

pub use self::{
    member::EtcdMember,
    options::{EtcdOptions, EtcdTls},
    shim::EtcdShim,
};
use self::{member::MemberPlan, peers::Peers};
use crate::{certificates::Certificates, go, process::Process, supervisor::Folder, wait::wait_for};

const CTL_LIMIT: Duration = Duration::from_secs(30);

/// Elections take a few seconds when members come and go.
const LEADER_LIMIT: Duration = Duration::from_secs(60);

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
    // Fields are dropped in this order: the processes, the links between them, then their folder.
    members: Vec<EtcdMember>,
    peers: Peers,
    folder: Folder,
    program: PathBuf,
    certificates: Option<Certificates>,
    /// The arguments that make etcdctl an administrator.
    admin: Vec<String>,
    /// Set once authentication is enabled.
    auth: OnceLock<()>,
    restores: AtomicU64,
}

impl Etcd {
    /// The user that may do everything, and its password, where there is authentication. Not a secret: the cluster is
    /// reachable from this machine only, and holds no data of value.
    pub const ROOT: (&str, &str) = ("root", "testbed");

    /// Builds its program unless it is in the cache.
    pub(crate) async fn prepare() -> anyhow::Result<()> {
        go::build(MODULE).await.map(drop)
    }

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
            bail!("a cluster cannot have {} nodes: use 1 or 3", options.nodes);
        }
        let program = go::build(MODULE).await?;
        let folder = Folder::new("etcd")?;
        let peers = Peers::start(options.nodes)?;
        let certificates = options.tls.map(|_| Certificates::make(folder.path())).transpose()?;
        let (mut flags, mut admin) =
            (vec![format!("--initial-cluster={}", initial_cluster(&peers, options.nodes))], Vec::new());
        if let Some(certificates) = &certificates {
            let (certificate, key) = certificates.server();
            flags.push(format!("--cert-file={}", certificate.display()));
            flags.push(format!("--key-file={}", key.display()));
            admin.push(format!("--cacert={}", certificates.ca_file().display()));
            if options.tls == Some(EtcdTls::Mutual) {
                flags.push(format!("--trusted-ca-file={}", certificates.ca_file().display()));
                flags.push("--client-cert-auth=true".into());
                let (certificate, key) = certificates.client(Self::ROOT.0)?;
                admin.push(format!("--cert={}", certificate.display()));
                admin.push(format!("--key={}", key.display()));
            }
        }
        flags.extend_from_slice(&options.flags);
        let mut members = Vec::new();
        for number in 0..options.nodes {
            let plan = MemberPlan {
                name: name(number),
                scheme: if options.tls.is_some() { "https" } else { "http" },
                program: program.clone(),
                data: folder.path().join(name(number)),
                folder: folder.path().to_owned(),
                peer: peers.addrs(number),
            };
            members.push(EtcdMember::new(plan, &flags)?);
        }
        let etcd = Self {
            members,
            peers,
            folder,
            program,
            certificates,
            admin,
            auth: OnceLock::new(),
            restores: AtomicU64::new(0),
        };
        etcd.start_all()?;
        etcd.ready().await?;
        if options.auth {
            etcd.enable_auth().await?;
        }
        Ok(etcd)
    }

    /// Its nodes.
    pub fn members(&self) -> &[EtcdMember] {
        &self.members
    }

    /// The urls for clients, one a node.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(EtcdMember::endpoint).collect()
    }

    /// The url by which the other nodes find this one; for people who restore it by hand.
    pub fn peer_url(&self, node: usize) -> String {
        format!("http://{}", self.peers.addrs(node).1)
    }

    /// The certificates, where there is TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Starts every node that doesn't run.
    ///
    /// # Errors
    /// When one can't be started.
    pub fn start_all(&self) -> anyhow::Result<()> {
        self.members.iter().filter(|member| !member.is_running()).try_for_each(EtcdMember::start_again)
    }

    /// Kills every node that runs, by SIGKILL, and returns when they have ended.
    ///
    /// # Errors
    /// When one can't be killed.
    pub async fn kill_all(&self) -> anyhow::Result<()> {
        for member in self.members.iter().filter(|member| member.is_running()) {
            member.kill().await?;
        }
        Ok(())
    }

    /// Waits until every node serves.
    ///
    /// # Errors
    /// As [`EtcdMember::ready`].
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut ids = Vec::new();
        for member in &self.members {
            member.ready().await?;
            ids.push(member.id().await?);
        }
        self.peers.name(ids);
        Ok(())
    }

    /// Waits for one of the nodes that run to lead the cluster, and returns it. Paused nodes aren't asked, nor
    /// isolated ones, which may be wrong about it.
    ///
    /// # Errors
    /// When none does within 60 s.
    pub async fn leader(&self) -> anyhow::Result<&EtcdMember> {
        wait_for("a node that leads", LEADER_LIMIT, async || {
            for (number, member) in self.members.iter().enumerate() {
                let asked = member.is_running() && !member.is_paused() && !self.peers.is_isolated(number);
                if asked && member.is_leader().await.unwrap_or(false) {
                    return Ok(member);
                }
            }
            Err("no node leads")
        })
        .await
    }

    /// Cuts a node off from all others: the bytes between them wait. Clients reach it as before. Replaces any earlier
    /// isolation.
    pub fn isolate(&self, member: &EtcdMember) {
        let numbers = self.members.iter().enumerate().filter(|(_, other)| other.name() == member.name());
        self.peers.isolate(numbers.map(|(number, _)| number));
    }

    /// Ends all isolation: the bytes that waited arrive late.
    pub fn heal(&self) {
        self.peers.isolate([]);
    }

    /// Runs etcdctl as an administrator, and returns what it prints.
    ///
    /// # Errors
    /// Its message, or no answer for 30 s.
    pub async fn ctl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.ctl_by(&self.endpoints().join(","), args).await
    }

    /// As [`ctl`](Self::ctl), by one node alone.
    ///
    /// # Errors
    /// As there.
    pub async fn ctl_at(&self, member: &EtcdMember, args: &[&str]) -> anyhow::Result<String> {
        self.ctl_by(&member.endpoint(), args).await
    }

    async fn ctl_by(&self, endpoints: &str, args: &[&str]) -> anyhow::Result<String> {
        let mut all = vec![format!("--endpoints={endpoints}")];
        all.extend_from_slice(&self.admin);
        if self.auth.get().is_some() {
            all.push(format!("--user={}:{}", Self::ROOT.0, Self::ROOT.1));
        }
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.tool("etcdctl", &all).await
    }

    /// The path of etcdctl, for people.
    pub fn etcdctl(&self) -> PathBuf {
        self.program.with_file_name("etcdctl")
    }

    /// Forgets all revisions but the present one.
    ///
    /// # Errors
    /// When a node or etcdctl doesn't answer.
    pub async fn compact(&self) -> anyhow::Result<()> {
        let revision = self.leader().await?.metric("etcd_debugging_mvcc_current_revision").await?;
        self.ctl(&["compaction", "--physical", &format!("{revision:.0}")]).await.map(drop)
    }

    /// Makes a user that may read and write the keys that begin with `prefix`, and nothing else. Only with
    /// [`EtcdOptions::auth`].
    ///
    /// # Errors
    /// When it exists, or etcdctl doesn't answer.
    pub async fn add_user(&self, name: &str, password: &str, prefix: &str) -> anyhow::Result<()> {
        self.ctl(&["user", "add", name, "--new-user-password", password]).await?;
        self.ctl(&["role", "add", name]).await?;
        self.ctl(&["role", "grant-permission", "--prefix", name, "readwrite", prefix]).await?;
        self.ctl(&["user", "grant-role", name, name]).await.map(drop)
    }

    /// Saves a snapshot, to [`restore`](Self::restore) it later.
    ///
    /// # Errors
    /// When etcdctl doesn't answer.
    pub async fn snapshot(&self) -> anyhow::Result<PathBuf> {
        let number = self.restores.fetch_add(1, Ordering::Relaxed);
        let file = self.folder.path().join(format!("snapshot-{number}"));
        self.ctl_at(self.leader().await?, &["snapshot", "save", &file.display().to_string()]).await?;
        Ok(file)
    }

    /// Kills all nodes, gives them a snapshot's data, and starts them again on their ports, as an operator does after
    /// a disaster. Later writes are gone, and revisions are issued again. The cluster's id is `Same` as before
    /// if the operator names everything as before, and `New` with another `--initial-cluster-token`.
    ///
    /// # Errors
    /// When a node doesn't start.
    pub async fn restore(&self, snapshot: &Path, id: ClusterId) -> anyhow::Result<()> {
        self.restore_with(snapshot, id, &[]).await
    }

    /// As [`restore`](Self::restore), with more arguments of `etcdutl snapshot restore`.
    ///
    /// # Errors
    /// As there, or when etcdutl refuses them.
    pub async fn restore_with(&self, snapshot: &Path, id: ClusterId, more: &[&str]) -> anyhow::Result<()> {
        let number = self.restores.fetch_add(1, Ordering::Relaxed);
        let token = match id {
            ClusterId::Same => "etcd-cluster".to_owned(), // etcd's default
            ClusterId::New => format!("restored-{number}"),
        };
        let data = |node| self.folder.path().join(format!("{}-restored-{number}", name(node)));
        // The nodes serve while the new data is made.
        for node in 0..self.members.len() {
            let mut args = vec![
                "snapshot".to_owned(),
                "restore".to_owned(),
                snapshot.display().to_string(),
                format!("--name={}", name(node)),
                format!("--data-dir={}", data(node).display()),
                format!("--initial-cluster={}", initial_cluster(&self.peers, self.members.len())),
                format!("--initial-advertise-peer-urls={}", self.peer_url(node)),
                format!("--initial-cluster-token={token}"),
            ];
            args.extend(more.iter().map(|arg| (*arg).to_owned()));
            self.tool("etcdutl", &args).await?;
        }
        let data: Vec<_> = (0..self.members.len()).map(data).collect();
        self.start_on(&data, &token).await
    }

    /// Kills all nodes, and starts each on a data folder that was restored for it under this token.
    ///
    /// # Errors
    /// When a node doesn't start.
    pub async fn start_on(&self, data: &[PathBuf], token: &str) -> anyhow::Result<()> {
        self.kill_all().await?;
        for (member, data) in self.members.iter().zip(data) {
            member.set_flag("data-dir", &data.display().to_string());
            member.set_flag("initial-cluster-token", token);
        }
        self.start_all()?;
        self.ready().await
    }

    async fn enable_auth(&self) -> anyhow::Result<()> {
        let (root, password) = Self::ROOT;
        self.ctl(&["user", "add", root, "--new-user-password", password]).await?;
        self.ctl(&["user", "grant-role", root, "root"]).await?;
        self.ctl(&["auth", "enable"]).await?;
        self.auth.set(()).ok().context("authentication is enabled once")
    }

    async fn tool(&self, tool: &str, args: &[String]) -> anyhow::Result<String> {
        let command = Process::command(self.program.with_file_name(tool))?.args(args);
        let lines = command.current_dir(self.folder.path()).run(CTL_LIMIT).await?;
        Ok(lines.join("\n").trim_end().to_owned())
    }
}

/// The cluster id of a restored cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterId {
    /// The one that the snapshot is of.
    Same,
    /// Another one.
    New,
}

fn name(number: usize) -> String {
    format!("etcd-{number}")
}

fn initial_cluster(peers: &Peers, nodes: usize) -> String {
    let one = |number| format!("{}=http://{}", name(number), peers.addrs(number).1);
    (0..nodes).map(one).collect::<Vec<_>>().join(",")
}
