//! A control plane of ours, or the cluster that the user names.

use std::path::Path;

use anyhow::Context;

use super::{ControlPlane, ControlPlaneOptions, KubernetesAccess};
use crate::supervisor::Folder;

/// The variable that names a cluster of the user's own, by an administrator's kubeconfig.
const VARIABLE: &str = "LEASEHOLD_TEST_KUBECONFIG";

/// A cluster to test against: started by us, or named in `LEASEHOLD_TEST_KUBECONFIG`.
///
/// Objects that a caller creates in a named cluster are the caller's to delete. Only a control plane of ours can be
/// broken, and only it has an audit log ([`ours`](Self::ours)).
#[derive(Debug)]
pub struct KubernetesServer {
    access: KubernetesAccess,
    ours: Option<ControlPlane>,
    _folder: Option<Folder>,
}

impl KubernetesServer {
    /// Takes the cluster that `LEASEHOLD_TEST_KUBECONFIG` names; starts one with `options` if it is unset.
    ///
    /// # Errors
    /// When the variable names no kubeconfig or that cluster doesn't answer: never a silent fallback. Else as
    /// [`ControlPlane::start`].
    pub async fn named_or_start(options: ControlPlaneOptions) -> anyhow::Result<Self> {
        match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => Self::named(Path::new(&path)).await.context(VARIABLE),
            None => {
                let plane = ControlPlane::start(options).await?;
                Ok(Self { access: plane.access().clone(), ours: Some(plane), _folder: None })
            }
        }
    }

    /// Takes a running cluster by an administrator's kubeconfig.
    ///
    /// # Errors
    /// When there is no such file, or the cluster doesn't answer.
    pub async fn named(kubeconfig: &Path) -> anyhow::Result<Self> {
        let folder = Folder::new("identities")?;
        let access = KubernetesAccess::new(std::path::absolute(kubeconfig)?, folder.path());
        access.ready().await.context("the named cluster does not answer")?;
        Ok(Self { access, ours: None, _folder: Some(folder) })
    }

    /// An administrator's access to it.
    pub fn access(&self) -> &KubernetesAccess {
        &self.access
    }

    /// The control plane, if it is ours: to crash, pause or stop it.
    ///
    /// # Errors
    /// When it is the user's own; the message says what to do.
    pub fn ours(&self) -> anyhow::Result<&ControlPlane> {
        self.ours.as_ref().with_context(|| {
            format!("a cluster that was named by its kubeconfig is not broken: unset {VARIABLE} to have one started")
        })
    }
}
