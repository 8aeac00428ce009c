//! The control plane's programs: one binary of ours under three names, or the user's own.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::bail;

use crate::go;

const MODULE: go::Module = go::Module {
    name: "kubernetes",
    version: "1.36.3",
    files: &[
        ("go.mod", include_str!("../../go/kubernetes/go.mod")),
        ("go.sum", include_str!("../../go/kubernetes/go.sum")),
        ("main.go", include_str!("../../go/kubernetes/main.go")),
    ],
    package: ".",
    ldflags: "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
              -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
    aliases: &[APISERVER, CONTROLLER_MANAGER, SCHEDULER],
    takes: "four to ten minutes",
    instead: "put kube-apiserver and its like into a folder and name that in KUBEBUILDER_ASSETS, or name a running \
              cluster by an administrator's kubeconfig in LEASEHOLD_TEST_KUBECONFIG",
};

const APISERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

#[derive(Debug)]
pub(super) struct KubernetesBinaries {
    pub(super) apiserver: PathBuf,
    pub(super) controller_manager: PathBuf,
    pub(super) scheduler: PathBuf,
}

impl KubernetesBinaries {
    pub(super) async fn find() -> anyhow::Result<Self> {
        let folder = match env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => go::build(MODULE).await?.with_file_name(""),
        };
        Self::in_folder(&folder)
    }

    fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let apiserver = folder.join(APISERVER);
        if !apiserver.is_file() {
            bail!(
                "there is no {}: correct KUBEBUILDER_ASSETS, or unset it to have one built",
                apiserver.display()
            );
        }
        let (controller_manager, scheduler) = (folder.join(CONTROLLER_MANAGER), folder.join(SCHEDULER));
        Ok(Self { apiserver, controller_manager, scheduler })
    }
}
