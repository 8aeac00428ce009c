//! The state of the pods, by the API server and by their own pages.

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::api::ListParams;
use kube::{Api, Client};

use super::{NAMESPACE, RELEASE};
use crate::demo::programs::metric;

/// One pod of the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) node: String,
    pub(super) address: String,
    pub(super) ready: bool,
    pub(super) terminating: bool,
}

/// All pods of the release's workers.
pub(super) async fn all(client: &Client) -> anyhow::Result<Vec<Pod>> {
    let pods: Api<PodObject> = Api::namespaced(client.clone(), NAMESPACE);
    let pods = pods.list(&ListParams::default().labels(&selector())).await?;
    Ok(pods.items.into_iter().map(Pod::of).collect())
}

/// The selector of everything in the release.
pub(super) fn selector() -> String {
    format!("app.kubernetes.io/instance={RELEASE}")
}

impl Pod {
    fn of(object: PodObject) -> Self {
        let (meta, spec, status) =
            (object.metadata, object.spec.unwrap_or_default(), object.status.unwrap_or_default());
        let ready = status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
        Self {
            name: meta.name.unwrap_or_default(),
            role: meta.labels.and_then(|mut labels| labels.remove(COMPONENT)).unwrap_or_default(),
            node: spec.node_name.unwrap_or_default(),
            address: status.pod_ip.unwrap_or_default(),
            ready,
            terminating: meta.deletion_timestamp.is_some(),
        }
    }

    async fn leads(&self) -> anyhow::Result<bool> {
        let name = format!("spendguard_{}_is_leader", self.role.replace('-', "_"));
        Ok(metric(&format!("{}:8080", self.address), &name).await? == 1)
    }
}

const COMPONENT: &str = "app.kubernetes.io/component";

/// The one pod of the role that reports that it leads.
pub(super) async fn leader(client: &Client, role: &str, lost: Option<&str>) -> anyhow::Result<Pod> {
    let mut leaders = Vec::new();
    for pod in all(client).await? {
        let runs = pod.role == role && !pod.address.is_empty() && Some(pod.node.as_str()) != lost;
        // A pod that starts or ends has no page.
        if runs && pod.leads().await.unwrap_or(false) {
            leaders.push(pod);
        }
    }
    ensure!(leaders.len() == 1, "{} pods lead {role}", leaders.len());
    leaders.pop().context("there is one")
}

/// Checks that every Deployment has all its pods, of the newest template and no other.
pub(super) async fn deployed(client: &Client) -> anyhow::Result<usize> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let mut pods = 0;
    for deployment in deployments.list(&ListParams::default().labels(&selector())).await? {
        let name = deployment.metadata.name.unwrap_or_default();
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        let status = deployment.status.unwrap_or_default();
        ensure!(
            status.observed_generation == deployment.metadata.generation
                && [status.replicas, status.updated_replicas, status.ready_replicas] == [wanted; 3],
            "{name} has {:?} pods, {:?} new, {:?} ready, of {wanted:?}",
            status.replicas,
            status.updated_replicas,
            status.ready_replicas
        );
        pods += usize::try_from(wanted.unwrap_or_default())?;
    }
    Ok(pods)
}

/// The same for everything, the sidecars on all nodes included, and that no pod is terminating.
pub(super) async fn settled(client: &Client) -> anyhow::Result<usize> {
    let mut count = deployed(client).await?;
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    for set in sets.list(&ListParams::default().labels(&selector())).await? {
        let status = set.status.unwrap_or_default();
        let wanted = status.desired_number_scheduled;
        ensure!(
            status.observed_generation == set.metadata.generation
                && status.updated_number_scheduled == Some(wanted)
                && status.number_ready == wanted,
            "of {wanted} sidecars {:?} are new, {} ready",
            status.updated_number_scheduled,
            status.number_ready
        );
        count += usize::try_from(wanted)?;
    }
    let pods = all(client).await?;
    ensure!(pods.len() == count, "{} pods, of {count}", pods.len());
    ensure!(pods.iter().all(|pod| pod.ready && !pod.terminating), "not all are ready");
    Ok(count)
}
