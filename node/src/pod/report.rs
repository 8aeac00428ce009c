//! A pod's status, reported to the API server until the pod is gone.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{BACKOFF, Life};
use crate::{
    lock::lock,
    status::{self, Addresses},
};

const CALL_LIMIT: Duration = Duration::from_secs(10);

impl Life {
    /// Reports each change. Never returns.
    pub(super) async fn report(&self) {
        let (mut changes, mut seen) = (self.shared.changes.subscribe(), self.seen.clone());
        let mut reported = None;
        loop {
            changes.mark_unchanged();
            let status = self.status(false);
            if reported.as_ref() != Some(&status) {
                match self.send(&status).await {
                    Ok(()) => reported = Some(status),
                    Err(error) => {
                        tracing::debug!(%error, "could not report a pod's status; retrying");
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

    /// Reports that nothing of it runs any more.
    pub(super) async fn finish(&self) {
        while !self.seen.borrow().gone && self.send(&self.status(true)).await.is_err() {
            sleep(BACKOFF).await;
        }
    }

    /// Waits until the pod is deleted, and lets the API server remove it.
    pub(super) async fn leave(&self) {
        self.stopping().await;
        let preconditions = Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
        while !self.seen.borrow().gone {
            match timeout(CALL_LIMIT, self.pods().delete(self.names().1, &params)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(answer))) if [404, 409].contains(&answer.code) => return,
                _ => sleep(BACKOFF).await,
            }
        }
    }

    fn status(&self, over: bool) -> Value {
        let containers = lock(&self.shared.containers).clone();
        let problem = lock(&self.shared.problem).clone();
        let settled = over || lock(&self.shared.network).is_some();
        let addresses =
            Addresses { pod: settled.then(|| self.ip.to_string()), node: self.host.ip.to_string() };
        let seen = self.seen.borrow();
        let mut status = status::of(&seen.pod, &containers, &addresses, self.began, problem.as_deref(), over);
        // So that a later pod of this name isn't given this one's.
        status["metadata"] = json!({"uid": self.pod.metadata.uid});
        status
    }

    async fn send(&self, status: &Value) -> anyhow::Result<()> {
        let (params, patch, pods) = (PatchParams::default(), Patch::Strategic(status), self.pods());
        match timeout(CALL_LIMIT, pods.patch_status(self.names().1, &params, &patch)).await? {
            Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.host.client.clone(), self.names().0)
    }
}
