//! Shared by the tests: one control plane per test binary, and a namespace of its own for each test.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lease_core::LeaseName;
use lease_k8s::{K8s, K8sConfig};
use lease_testbed::{AuditEvent, ControlPlane, ControlPlaneOptions, Identity};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub(crate) use lease_conformance::by_hand::*;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The control plane shared by the tests of one binary that do not disturb it.
pub(crate) async fn plane() -> &'static ControlPlane {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = async || ControlPlane::start(ControlPlaneOptions::default()).await;
    PLANE.get_or_init(async || start().await.expect("a control plane starts")).await
}

/// A worker in a namespace of its own.
pub(crate) struct Store<'p> {
    pub(crate) plane: &'p ControlPlane,
    pub(crate) identity: Identity,
    pub(crate) backend: K8s,
}

pub(crate) fn rules() -> Value {
    let verbs = ["get", "list", "watch", "update", "create"];
    json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}])
}

/// On the shared control plane.
pub(crate) async fn store() -> anyhow::Result<Store<'static>> {
    store_on(plane().await).await
}

pub(crate) async fn store_on(plane: &ControlPlane) -> anyhow::Result<Store<'_>> {
    let identity = identity(plane, rules()).await?;
    let backend = connect(identity.kubeconfig()).await?;
    Ok(Store { plane, identity, backend })
}

/// A worker with these rules, in a namespace of its own.
pub(crate) async fn identity(plane: &ControlPlane, rules: Value) -> anyhow::Result<Identity> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let namespace = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    plane.access().create_namespace(&namespace).await?;
    plane.access().create_identity(&namespace, "worker", rules).await
}

pub(crate) fn config(kubeconfig: &Path) -> K8sConfig {
    K8sConfig::kubeconfig(Some(kubeconfig.to_owned()))
}

pub(crate) async fn connect(kubeconfig: &Path) -> anyhow::Result<K8s> {
    Ok(K8s::connect(config(kubeconfig)).await?)
}

impl Store<'_> {
    pub(crate) fn path(&self, lease: &LeaseName) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{lease}", self.identity.namespace())
    }

    /// The Lease as `kubectl get -o json` shows it.
    pub(crate) async fn shown(&self, lease: &LeaseName) -> anyhow::Result<Value> {
        self.plane.access().request("GET", &self.path(lease), None).await
    }

    /// A change by hand, as `kubectl patch --type merge` makes it.
    pub(crate) async fn patch(&self, lease: &LeaseName, change: Value) -> anyhow::Result<Value> {
        self.plane.access().request("PATCH", &self.path(lease), Some(change)).await
    }

    pub(crate) async fn delete(&self, lease: &LeaseName) -> anyhow::Result<()> {
        self.plane.access().request("DELETE", &self.path(lease), None).await.map(drop)
    }

    /// A Lease that somebody else creates.
    pub(crate) async fn create(&self, lease: &LeaseName, spec: Value) -> anyhow::Result<Value> {
        let path = self.path(lease);
        let collection = path.rsplit_once('/').expect("a path has a last part").0;
        let lease = json!({"metadata": {"name": lease.as_str()}, "spec": spec});
        self.plane.access().request("POST", collection, Some(lease)).await
    }

    /// The worker's requests so far.
    pub(crate) fn asked(&self) -> anyhow::Result<Vec<AuditEvent>> {
        let events = self.plane.audit().events()?;
        Ok(events.into_iter().filter(|event| event.user == self.identity.user()).collect())
    }
}
