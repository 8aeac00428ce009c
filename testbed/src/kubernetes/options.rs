//! The options of a control plane.

/// The options of a control plane. The default is a quick one: an API server and its etcd, without fsync.
#[derive(Clone, Debug)]
pub struct ControlPlaneOptions {
    pub(super) controllers: bool,
    pub(super) scheduler: bool,
    pub(super) fsync: bool,
    pub(super) audit_level: &'static str,
    pub(super) flags: Vec<String>,
    /// Further lines of the token file: a token, a user and a group.
    pub(super) tokens: Vec<[String; 3]>,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        Self {
            controllers: false,
            scheduler: false,
            fsync: false,
            audit_level: "Metadata",
            flags: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

impl ControlPlaneOptions {
    /// With a kube-controller-manager: Deployments become Pods, namespaces can be deleted, and each has its `default`
    /// ServiceAccount.
    #[must_use]
    pub fn controllers(mut self) -> Self {
        self.controllers = true;
        self
    }

    /// With a kube-scheduler: Pods are bound to Nodes.
    #[must_use]
    pub fn scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }

    /// Whether its etcd waits for the disk. On for benches and for tests about crashes; off saves time.
    #[must_use]
    pub fn fsync(mut self, on: bool) -> Self {
        self.fsync = on;
        self
    }

    /// A further flag of the API server's: `--request-timeout=5s`.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// The API server takes a client that presents `token` for `user`, a member of `group`. Not a secret: the server is
    /// reachable from this machine only.
    #[must_use]
    pub fn token(
        mut self,
        token: impl Into<String>,
        user: impl Into<String>,
        group: impl Into<String>,
    ) -> Self {
        self.tokens.push([token.into(), user.into(), group.into()]);
        self
    }
}
