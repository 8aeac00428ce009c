//! The options of an etcd cluster.

use std::time::Duration;

/// The options of an etcd cluster. The default is a quick one: one node, plain, without authentication, and with
/// `--unsafe-no-fsync`.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    pub(super) nodes: usize,
    pub(super) tls: Option<EtcdTls>,
    pub(super) auth: bool,
    pub(super) flags: Vec<String>,
}

/// TLS between clients and nodes; between the nodes there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdTls {
    /// The nodes show a certificate.
    Server,
    /// The clients have to show one as well.
    Mutual,
}

// === impl EtcdOptions ===

impl Default for EtcdOptions {
    fn default() -> Self {
        Self { nodes: 1, tls: None, auth: false, flags: Vec::new() }.fsync(false)
    }
}

impl EtcdOptions {
    /// The number of nodes: 1, or 3 for a cluster that survives the loss of a node.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// TLS between clients and nodes, with certificates made for this cluster
    /// ([`Etcd::certificates`](super::Etcd::certificates)).
    #[must_use]
    pub fn tls(mut self, tls: EtcdTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Clients have to authenticate, by a user and its password or by a certificate's common name. The user
    /// `root` may do everything ([`Etcd::ROOT`](super::Etcd::ROOT)); make others by
    /// [`Etcd::add_user`](super::Etcd::add_user).
    #[must_use]
    pub fn auth(mut self) -> Self {
        self.auth = true;
        self
    }

    /// Whether writes wait for the disk. On for benches and for tests about crashes of the machine; off saves time, and
    /// a node that is merely killed still loses nothing.
    #[must_use]
    pub fn fsync(self, on: bool) -> Self {
        self.flag("unsafe-no-fsync", (!on).to_string())
    }

    /// The time between a leader's heartbeats, and the silence after which a follower calls an election; 100 ms and
    /// 1 s unless set, as in etcd itself.
    #[must_use]
    pub fn election(self, heartbeat: Duration, election: Duration) -> Self {
        self.flag("heartbeat-interval", heartbeat.as_millis().to_string())
            .flag("election-timeout", election.as_millis().to_string())
    }

    /// Any flag of etcd's, without its dashes. The last of one name counts.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.flags.push(format!("--{name}={}", value.as_ref()));
        self
    }
}
