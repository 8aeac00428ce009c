//! A second release, where the cluster is strict: a quota, Pod Security `restricted`, and a user that is nobody's.

use anyhow::ensure;
use serde_json::json;

use super::site::Site;
use super::{ANYBODY, ANYBODYS_IMAGE};
use crate::drill::report::DrillReport;

const NAMESPACE: &str = "strict";
const RELEASE: &str = "small";
pub(super) async fn play(site: &Site, report: &DrillReport) -> anyhow::Result<()> {
    let access = site.cluster.access();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    access.request("POST", "/api/v1/namespaces", Some(namespace)).await?;
    let quota = json!({"metadata": {"name": "quota"}, "spec": {"hard": {
        "pods": "10", "requests.cpu": "2", "requests.memory": "2Gi", "limits.memory": "8Gi"}}});
    let path = format!("/api/v1/namespaces/{NAMESPACE}");
    access.request("POST", &format!("{path}/resourcequotas"), Some(quota)).await?;
    // Until a controller has filled its status in, it lets everything through.
    let counted = async || {
        let quota = access.request("GET", &format!("{path}/resourcequotas/quota"), None).await?;
        ensure!(quota["status"]["hard"]["pods"] == "10", "its status is {}", quota["status"]);
        anyhow::Ok(())
    };
    site.until("the quota counts", counted).await?;
    let databases = [site.database("strict_ledger").await?, site.database("strict_canonical").await?];
    for (name, url) in ["ledger-db", "canonical-db"].iter().zip(databases) {
        let secret = json!({"metadata": {"name": name}, "stringData": {"url": url}});
        access.request("POST", &format!("{path}/secrets"), Some(secret)).await?;
    }
    let repository = format!("image.repository={ANYBODYS_IMAGE}");
    let sets = [
        repository.as_str(),
        "image.tag=e2e",
        "leaderElection.mode=k8s",
        "leaderElection.ttlMs=3000",
        "podSecurityContext.runAsUser=null",
        "podSecurityContext.runAsGroup=null",
        "podSecurityContext.fsGroup=null",
        "outboxForwarder.replicas=1",
        "ttlSweeper.replicas=1",
        "ledger.replicas=1",
        "canonicalIngest.replicas=1",
        "ledger.access.withoutAuthentication=true",
        "canonicalIngest.access.withoutAuthentication=true",
        "databases.ledger.secretName=ledger-db",
        "databases.canonical.secretName=canonical-db",
    ];
    let chart = site.chart.display().to_string();
    let mut install = vec!["install", RELEASE, &chart, "--wait"];
    install.extend(sets.iter().flat_map(|set| ["--set", set]));
    site.helm_in(NAMESPACE, &install).await?;
    site.helm_in(NAMESPACE, &["test", RELEASE]).await?;
    let pods = access.request("GET", &format!("{path}/pods"), None).await?;
    let names = pods["items"].as_array().into_iter().flatten();
    let names: Vec<_> = names.filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    let mut users = Vec::new();
    for name in names.iter().filter(|name| !name.ends_with("-test")) {
        users.extend(site.cluster.exec(NAMESPACE, name, &["id", "-u"], super::inside::LIMIT).await?.lines);
    }
    report.check(
        "a release in a namespace with a quota and Pod Security restricted, by a user that the cluster chose",
        users.len() == 4 && users.iter().all(|user| *user == ANYBODY.0.to_string()),
        format!("{} run as {}", names.join(", "), users.join(", ")),
    );
    site.helm_in(NAMESPACE, &["uninstall", RELEASE, "--wait"]).await?;
    Ok(())
}
