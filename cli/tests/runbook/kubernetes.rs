//! docs/kubernetes.md: the cluster's etcd is restored under running forwarders, which have the chart's own rights.

use std::path::Path;

use anyhow::Context;
use lease_testbed::{ControlPlane, ControlPlaneOptions, helm};
use serde_json::Value;
use tokio::process::Command;

use crate::page::Section;
use crate::restores::{backed_up, leads_above};
use crate::site::Site;

/// What `kubectl exec` does: it runs a program with a pod's variables, among them the way to its service account.
const KUBECTL: &str = r#"#!/bin/sh
[ "$1 $2 $3 $5" = "-n prod exec --" ] || exit 64
pod="$PODS/${4#deploy/}" && shift 5
exec env -i PATH="$PATH" sh -c '. "$0" && exec "$@"' "$pod" "$@"
"#;

/// Every manifest of the chart, in mode k8s.
async fn manifests() -> anyhow::Result<Vec<Value>> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/leasehold");
    let mut helm = Command::new(helm::program().await?);
    helm.args(["template", "leasehold", "--namespace=prod", "--values"])
        .arg(chart.join("ci/k8s-values.yaml"));
    let output = helm.arg(&chart).output().await?;
    anyhow::ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_saphyr::from_multiple(&String::from_utf8(output.stdout)?)?)
}

fn find<'a>(manifests: &'a [Value], kind: &str, name: &str) -> anyhow::Result<&'a Value> {
    let found = manifests.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    found.with_context(|| format!("the chart has no {kind} {name}"))
}

/// The variables of a Deployment's pod, as a shell's script. `secret` is what its Secrets are mounted as.
fn environment(deployment: &Value, kubeconfig: &Path, secret: &Path) -> anyhow::Result<String> {
    let pod = &deployment["spec"]["template"]["spec"];
    let all = pod["containers"][0]["env"].as_array().context("it has variables")?;
    let set = all.iter().map(|it| {
        let value = match it["value"].as_str() {
            Some(path) if path.starts_with("/etc/leasehold/") => secret.display().to_string(),
            Some(value) => value.to_owned(),
            None => "a-pod".to_owned(),
        };
        format!("export {}='{value}'\n", it["name"].as_str().unwrap_or_default())
    });
    let ours = format!("export SPENDGUARD_LEADER_K8S_KUBECONFIG='{}'\n", kubeconfig.display());
    Ok(set.chain([ours]).collect())
}

#[tokio::test]
async fn a_clusters_etcd_is_restored_under_running_forwarders() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    plane.access().create_namespace("prod").await?;
    let chart = manifests().await?;
    let mut site = Site::new().await?;
    let (pods, data) = (site.path("pods"), site.path("restored"));
    std::fs::create_dir(&pods)?;
    let secret = Path::new(&pods).join("url");
    std::fs::write(&secret, "postgres://worker@ledger/ledger")?;
    site.knows("SPENDGUARD_LEADER_K8S_NAMESPACE", "prod");
    site.knows("SPENDGUARD_LEADER_K8S_KUBECONFIG", plane.kubeconfig().display().to_string());
    site.has_mode("k8s").await?;
    site.sh("leasehold init --new ttl-sweeper").await?.ok();
    for name in ["leasehold-outbox-forwarder", "leasehold-ttl-sweeper"] {
        let rules = find(&chart, "Role", name)?["rules"].clone();
        let pod = plane.access().create_identity("prod", name, rules).await?;
        let variables = environment(find(&chart, "Deployment", name)?, pod.kubeconfig(), &secret)?;
        std::fs::write(Path::new(&pods).join(name), variables)?;
    }
    let tools = plane.etcd().etcdctl();
    site.finds(tools.parent().context("a program is in a folder")?);
    site.has_program("kubectl", KUBECTL)?;
    site.knows("PODS", pods);
    site.knows("DATA", &data);
    site.knows("ETCDCTL_ENDPOINTS", plane.etcd().endpoints().join(","));

    let mut page = Section::on_kubernetes("Restoring the cluster's etcd");
    let forwarders = backed_up(&site, &mut page, "etcdctl").await?;
    plane.crash().await?;
    site.sh(page.next("etcdutl")).await?.ok();
    plane.etcd().start_on(&[data.into()], "restored").await?;
    plane.start_again().await?;
    for role in ["outbox-forwarder", "ttl-sweeper"] {
        let told = site.sh(page.next(&format!("kubectl -n prod exec deploy/leasehold-{role} --"))).await?;
        told.says(&[&format!("lease {role} was stamped")]);
    }
    site.sh(page.next("leasehold restored"))
        .await?
        .says(&["outbox-forwarder was stamped", "ttl-sweeper was stamped"]);
    page.end();

    let exec = "kubectl -n prod exec deploy/leasehold-outbox-forwarder --";
    let refused = site.sh(&format!("{exec} leasehold restored ttl-sweeper")).await?;
    refused.fails(&[
        "cannot get resource \"leases\"",
        "\"ttl-sweeper\" is forbidden",
        "the Lease's own worker",
    ]);
    let refused = site.sh(&format!("{exec} leasehold restored")).await?;
    refused.fails(&["cannot list resource \"leases\"", "name the leases"]);
    leads_above(&site, forwarders).await
}
