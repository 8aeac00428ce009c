//! The kubeconfig that the environment names, as kubectl reads it.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kube::config::{Kubeconfig, KubeconfigError};

/// The files that `$KUBECONFIG` names.
pub(crate) fn named() -> Vec<PathBuf> {
    let list = env::var_os("KUBECONFIG").unwrap_or_default();
    env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// One that can't be looked at is there: reading it says why it can't be used.
pub(crate) fn is_there(path: &Path) -> bool {
    !path.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// All files of a list as one, without those that aren't there.
pub(crate) fn merged(files: &[PathBuf]) -> Result<Kubeconfig, KubeconfigError> {
    let there = files.iter().filter(|path| is_there(path));
    there.map(Kubeconfig::read_from).try_fold(Kubeconfig::default(), |all, next| all.merge(next?))
}

/// The proxy that the kubeconfig names for the cluster of a context, or of its present one.
pub(crate) fn proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let name = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?;
    cluster.cluster.as_ref()?.proxy_url.clone()
}
