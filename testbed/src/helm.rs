//! Helm, to install charts as their users do.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{go, process::find_program};

const MODULE: go::Module = go::Module {
    name: "helm",
    version: "3.22.0",
    files: &[("go.mod", include_str!("../go/helm/go.mod")), ("go.sum", include_str!("../go/helm/go.sum"))],
    package: "helm.sh/helm/v3/cmd/helm",
    // As in its own Makefile: without these it reports version 3.22 and assumes Kubernetes 1.20.
    ldflags: "-X helm.sh/helm/v3/internal/version.version=v3.22.0 \
              -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=37 \
              -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37",
    aliases: &[],
    takes: "one to three minutes",
    instead: "name your own helm in LEASEHOLD_TEST_HELM",
};

/// The path of helm: the one that `LEASEHOLD_TEST_HELM` names, else ours, built first if it isn't in the cache.
///
/// # Errors
/// When the named one isn't there, or ours can't be built; the message says what to do.
pub async fn program() -> anyhow::Result<PathBuf> {
    match env::var_os("LEASEHOLD_TEST_HELM").filter(|path| !path.is_empty()) {
        Some(path) => find_program(Path::new(&path)).with_context(|| {
            format!(
                "there is no {}: correct LEASEHOLD_TEST_HELM, or unset it to have helm built",
                path.display()
            )
        }),
        None => go::build(MODULE).await,
    }
}
