//! etcd: one prefix of a cluster, for the leases and for the fenced resources.

mod backup;
mod effects;
mod store;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use lease_core::{Connector, InvalidSettings};
use lease_etcd::etcd_client::Client;
use lease_etcd::{Etcd, EtcdConfig};
use lease_judge::FencedResource;
use lease_testbed::Proxy;
use serde::{Deserialize, Serialize};

use self::effects::EtcdEffects;
pub use self::store::EtcdStore;
use crate::store::Reach;

pub(crate) const DESCRIPTIONS: &[&str] = &[
    include_str!("../../conformance/stores/etcd-1.json"),
    include_str!("../../conformance/stores/etcd-3.json"),
];

/// A prefix of a cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct EtcdPlace {
    endpoints: Vec<String>,
    prefix: String,
    login: EtcdLogin,
}

/// Names the cluster to judge.
#[derive(Clone, Debug, clap::Args)]
pub struct EtcdArgs {
    /// etcd: the nodes' urls with commas between them. Default: a cluster that is started for it.
    #[arg(long, env = "LEASEHOLD_TEST_ETCD_ENDPOINTS", hide_env_values = true)]
    endpoints: Option<String>,
    #[command(flatten)]
    login: EtcdLogin,
}

/// The user and the certificates of a cluster's client.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub(crate) struct EtcdLogin {
    /// etcd: the user that would hold leases; it may read and write below /leasehold-conformance/.
    #[arg(long, requires = "etcd_password_file")]
    etcd_user: Option<String>,
    /// etcd: the file with the user's password.
    #[arg(long, requires = "etcd_user")]
    etcd_password_file: Option<PathBuf>,
    /// etcd: the authority of the nodes' certificates.
    #[arg(long)]
    etcd_ca_file: Option<PathBuf>,
    /// etcd: our own certificate, for nodes that ask for one.
    #[arg(long, requires = "etcd_key_file")]
    etcd_cert_file: Option<PathBuf>,
    /// etcd: our certificate's key.
    #[arg(long, requires = "etcd_cert_file")]
    etcd_key_file: Option<PathBuf>,
}

// === impl EtcdArgs ===

impl EtcdArgs {
    pub(crate) fn names_a_server(&self) -> bool {
        self.endpoints.is_some()
    }
}

// === impl EtcdPlace ===

impl EtcdPlace {
    fn new(endpoints: Vec<String>, login: EtcdLogin) -> Self {
        Self { endpoints, prefix: format!("/leasehold-conformance/{:08x}", rand::random::<u32>()), login }
    }

    fn config(&self) -> Result<EtcdConfig, InvalidSettings> {
        let mut config = EtcdConfig::new(&self.endpoints)?.prefix(&self.prefix)?;
        let login = &self.login;
        if let (Some(user), Some(file)) = (&login.etcd_user, &login.etcd_password_file) {
            config = config.user_with_password_file(user, file);
        }
        if let Some(file) = &login.etcd_ca_file {
            config = config.ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&login.etcd_cert_file, &login.etcd_key_file) {
            config = config.client_certificate(certificate, key);
        }
        Ok(config)
    }

    /// A client of the cluster.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(self.config()?.client().await?)
    }

    /// The first node's address, if a proxy can read what is sent to it.
    fn plain_node(&self) -> Option<SocketAddr> {
        let address = self.endpoints.first()?.strip_prefix("http://")?.trim_end_matches('/');
        address.to_socket_addrs().ok()?.next()
    }

    fn through(&self, proxies: &[Proxy]) -> Self {
        let endpoints = proxies.iter().map(|proxy| format!("http://{}", proxy.addr())).collect();
        Self { endpoints, ..self.clone() }
    }

    /// A proxy that understands what is sent to the first node, and the place that leads through it alone.
    fn through_a_proxy(&self) -> anyhow::Result<(Proxy, Self)> {
        let node = self.plain_node().context("a proxy can't read what is sent by TLS")?;
        let proxy = Proxy::grpc(node)?;
        let place = self.through(std::slice::from_ref(&proxy));
        Ok((proxy, place))
    }
}

#[async_trait]
impl Reach for EtcdPlace {
    fn connector(&self) -> Result<Arc<dyn Connector>, InvalidSettings> {
        Ok(Arc::new(Etcd::connector(self.config()?)))
    }

    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        Ok(Arc::new(EtcdEffects::open(self.clone(), name).await?))
    }

    async fn admit_everybody(&self, resource: &str) -> anyhow::Result<()> {
        effects::admit_everybody(self, resource).await
    }

    fn flags(&self) -> Vec<String> {
        let endpoints = self.endpoints.join(",");
        ["--etcd-endpoints", &endpoints, "--etcd-prefix", &self.prefix].map(str::to_owned).into()
    }
}
