//! The Kubernetes control plane as a test bed: real requests, real faults.

use std::time::Duration;

use lease_testbed::{ControlPlane, ControlPlaneOptions, wait_until};
use serde_json::{Value, json};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/app/leases";
const LIMIT: Duration = Duration::from_secs(60);

fn lease() -> Option<Value> {
    Some(json!({"metadata": {"name": "one"}, "spec": {"holderIdentity": "somebody"}}))
}

#[tokio::test]
async fn keeps_what_was_written_over_crashes_and_pauses_of_either_server() -> anyhow::Result<()> {
    let kubernetes = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let access = kubernetes.access();
    access.create_namespace("app").await?;
    access.request("POST", LEASES, lease()).await?;

    kubernetes.crash().await?;
    assert!(access.request("GET", LEASES, None).await.is_err());
    kubernetes.start_again().await?;
    kubernetes.pause().await?;
    kubernetes.resume()?;
    kubernetes.restart().await?;

    let etcd = &kubernetes.etcd().members()[0];
    etcd.kill().await?;
    etcd.start_again()?;
    etcd.ready().await?;
    wait_until("the API server has its store again", LIMIT, async || {
        access.request("GET", &format!("{LEASES}/one"), None).await.is_ok()
    })
    .await
}

#[tokio::test]
async fn an_identity_may_do_what_its_rules_say_and_all_is_audited() -> anyhow::Result<()> {
    let kubernetes = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let access = kubernetes.access();
    access.create_namespace("app").await?;
    let rules =
        json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get"]}]);
    let worker = access.create_identity("app", "worker", rules).await?;
    let by_worker = access.of(&worker);
    by_worker.request("POST", LEASES, lease()).await?;
    let refused = by_worker.request("DELETE", &format!("{LEASES}/one"), None).await;
    assert!(format!("{:#}", refused.unwrap_err()).contains("forbidden"));

    let told: Vec<_> =
        kubernetes.audit().events()?.into_iter().filter(|event| event.user == worker.user()).collect();
    let told: Vec<_> =
        told.iter().map(|event| (event.verb.as_str(), event.name.as_str(), event.code)).collect();
    assert_eq!(told, [("create", "one", 201), ("delete", "one", 403)]);
    Ok(())
}

#[tokio::test]
async fn with_controllers_and_a_scheduler_deployments_become_bound_pods() -> anyhow::Result<()> {
    let kubernetes = ControlPlane::start(ControlPlaneOptions::default().controllers().scheduler()).await?;
    let access = kubernetes.access();
    let node = json!({
        "metadata": {"name": "here"},
        "status": {
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
        },
    });
    access.request("POST", "/api/v1/nodes", Some(node)).await?;
    let labels = json!({"app": "web"});
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "web", "image": "none"}],
                },
            },
        },
    });
    let path = "/apis/apps/v1/namespaces/default/deployments";
    access.request("POST", path, Some(deployment)).await?;
    wait_until("both pods are bound to the node", LIMIT, async || {
        let pods = access.request("GET", "/api/v1/namespaces/default/pods", None).await.unwrap_or_default();
        let bound = |pod: &&Value| pod["spec"]["nodeName"] == "here";
        pods["items"].as_array().is_some_and(|pods| pods.iter().filter(bound).count() == 2)
    })
    .await
}
