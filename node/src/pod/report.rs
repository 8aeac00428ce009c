//! What the API server is told of a pod, to its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use tokio::time::{sleep, timeout};

use super::{BACKOFF, Kind, Life, lock};
use crate::node::status;

const CALL_LIMIT: Duration = Duration::from_secs(10);

impl Life {
    /// Tells the API server whatever changes. Never returns.
    pub(super) async fn report(&self) {
        let (mut changes, mut seen) = (self.shared.changes.subscribe(), self.seen.clone());
        let mut told = None;
        loop {
            changes.mark_unchanged();
            let status = self.status(false);
            if told.as_ref() != Some(&status) {
                match self.tell(&status).await {
                    Ok(()) => told = Some(status),
                    Err(error) => {
                        tracing::debug!(%error, "could not tell a pod's status");
                        sleep(BACKOFF).await;
                        continue;
                    }
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                changed = seen.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }

    fn status(&self, over: bool) -> serde_json::Value {
        let containers = lock(&self.shared.containers).clone();
        let problem = lock(&self.shared.problem).clone();
        let settled = over || lock(&self.shared.network).is_some();
        let pod = self.seen.borrow().pod.clone();
        let ips = (settled.then(|| self.ip.to_string()), self.node.ip.to_string());
        let mut conditions = lock(&self.conditions);
        let ips = (ips.0, ips.1.as_str());
        status::of(&pod, &containers, &mut conditions, ips, self.began, problem.as_deref(), over)
    }

    async fn tell(&self, status: &serde_json::Value) -> anyhow::Result<()> {
        let mut status = status.clone();
        // Of a later pod of this name nothing is told.
        status["metadata"] = serde_json::json!({"uid": self.pod.metadata.uid});
        let (pods, name) = self.pods();
        let (params, patch) = (PatchParams::default(), Patch::Strategic(&status));
        let told = pods.patch_status(name, &params, &patch);
        match timeout(CALL_LIMIT, told).await? {
            Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    /// Nothing runs any more: says so.
    pub(super) async fn finish(&self) {
        while !self.seen.borrow().gone && self.tell(&self.status(true)).await.is_err() {
            sleep(BACKOFF).await;
        }
    }

    /// Waits until the pod is to go, and lets it go.
    pub(super) async fn leave(&self) {
        self.stopping(Kind::Main).await;
        let (pods, name) = self.pods();
        let preconditions = Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
        while !self.seen.borrow().gone {
            match timeout(CALL_LIMIT, pods.delete(name, &params)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(answer))) if [404, 409].contains(&answer.code) => return,
                _ => sleep(BACKOFF).await,
            }
        }
    }

    fn pods(&self) -> (kube::Api<Pod>, &str) {
        let meta = &self.pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let pods = kube::Api::namespaced(self.node.client.clone(), namespace);
        (pods, meta.name.as_deref().unwrap_or_default())
    }
}
