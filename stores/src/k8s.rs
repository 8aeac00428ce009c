//! Kubernetes: one namespace, and an identity in it with the least rights that leases need.

mod audit;
mod backup;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use lease_core::{Connector, InvalidSettings};
use lease_judge::FencedResource;
use lease_k8s::{K8s, K8sConfig};
use serde::{Deserialize, Serialize};

pub use self::store::K8sStore;
use crate::sqlite::SqlitePlace;
use crate::store::Reach;

pub(crate) const DESCRIPTIONS: &[&str] = &[include_str!("../../conformance/stores/k8s.json")];

/// A namespace of a cluster, and the SQLite files of the effects: Kubernetes holds none, so they are fenced where they
/// land.
#[derive(Clone, Serialize, Deserialize)]
pub struct K8sPlace {
    kubeconfig: PathBuf,
    effects: SqlitePlace,
}

/// Names the cluster to judge.
#[derive(Clone, Debug, clap::Args)]
pub struct K8sArgs {
    /// k8s: an administrator's kubeconfig; the suite makes a namespace and a service account. Default: a control plane
    /// that is started for it.
    #[arg(long, env = "LEASEHOLD_TEST_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

// === impl K8sArgs ===

impl K8sArgs {
    pub(crate) fn names_a_server(&self) -> bool {
        self.kubeconfig.is_some()
    }
}

// === impl K8sPlace ===

impl K8sPlace {
    /// The kubeconfig of the identity that holds leases.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn config(&self) -> K8sConfig {
        K8sConfig::kubeconfig(Some(self.kubeconfig.clone()))
    }
}

#[async_trait]
impl Reach for K8sPlace {
    fn connector(&self) -> Result<Arc<dyn Connector>, InvalidSettings> {
        Ok(Arc::new(K8s::connector(self.config())))
    }

    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        self.effects.resource(name).await
    }

    async fn admit_everybody(&self, resource: &str) -> anyhow::Result<()> {
        self.effects.admit_everybody(resource).await
    }

    fn flags(&self) -> Vec<String> {
        vec!["--k8s-kubeconfig".to_owned(), self.kubeconfig.display().to_string()]
    }
}
