//! A real API server accepts every manifest, and Pod Security every pod but the sidecar's.

use lease_testbed::{ControlPlane, ControlPlaneOptions, KubernetesAccess};
use serde_json::{Value, json};

use crate::common::{EXAMPLES, helm, kind, list, name, of_kind, pod, rendered, strings, text};

/// The path at which objects of a kind are created. Unknown fields are refused, as `kubectl` would.
fn path(namespace: &str, manifest: &Value) -> String {
    let group = match text(manifest, "/apiVersion") {
        "v1" => "api/v1".to_owned(),
        group => format!("apis/{group}"),
    };
    let kind = kind(manifest).to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    };
    format!("/{group}/namespaces/{namespace}/{plural}?fieldValidation=Strict")
}

async fn dry_run(access: &KubernetesAccess, namespace: &str, manifest: &Value) -> anyhow::Result<Value> {
    let mut manifest = manifest.clone();
    manifest["metadata"]["namespace"] = json!(namespace);
    access.request("POST", &(path(namespace, &manifest) + "&dryRun=All"), Some(manifest)).await
}

/// The Prometheus operator's kinds, without their schemas: that our objects can be stored is all that is asked here.
async fn define(access: &KubernetesAccess, kind: &str) -> anyhow::Result<()> {
    let (group, plural) = ("monitoring.coreos.com", format!("{}s", kind.to_lowercase()));
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    access.request("POST", path, Some(definition)).await?;
    let served = format!("/apis/{group}/v1/namespaces/default/{plural}");
    lease_testbed::wait_for("the kind is served", std::time::Duration::from_secs(30), async || {
        access.request("GET", &served, None).await.map_err(|error| error.to_string())
    })
    .await?;
    Ok(())
}

/// A namespace that enforces a level of Pod Security.
async fn make(access: &KubernetesAccess, name: &str, level: &str) -> anyhow::Result<()> {
    let labels = json!({"pod-security.kubernetes.io/enforce": level});
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    access.request("POST", "/api/v1/namespaces", Some(body)).await?;
    // No controller is here to make it.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    access.request("POST", &path(name, &account), Some(account)).await?;
    Ok(())
}

#[tokio::test]
async fn every_manifest_of_every_mode_is_accepted_and_the_pods_meet_pod_security() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let access = plane.access();
    for kind in ["ServiceMonitor", "PodMonitor", "PrometheusRule"] {
        define(access, kind).await?;
    }
    let (mut accepted, mut pods) = (0, 0);
    for example in EXAMPLES {
        let manifests = tokio::task::spawn_blocking(move || rendered(example)).await?;
        let levels = ["restricted", "baseline", "privileged"];
        for level in levels {
            let namespace = format!("{example}-{level}");
            make(access, &namespace, level).await?;
            for account in of_kind(&manifests, "ServiceAccount") {
                let mut account = account.clone();
                account["metadata"]["namespace"] = json!(namespace);
                access.request("POST", &path(&namespace, &account), Some(account)).await?;
            }
        }
        for manifest in manifests.iter().filter(|manifest| kind(manifest) != "ServiceAccount") {
            let strictest = format!("{example}-restricted");
            let answer = dry_run(access, &strictest, manifest).await;
            let what = format!("{example}: {} {}", kind(manifest), name(manifest));
            // Only pods themselves are refused by Pod Security; what makes them is accepted with a warning.
            assert!(answer.is_ok(), "{what}: {:#}", answer.unwrap_err());
            accepted += 1;
        }
        for level in levels {
            let namespace = format!("{example}-{level}");
            for manifest in manifests.iter().filter(|manifest| pod(manifest).is_some()) {
                let specimen = json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": format!("specimen-{}", name(manifest))},
                    "spec": pod(manifest),
                });
                let answer = dry_run(access, &namespace, &specimen).await;
                let forbidden = name(manifest).ends_with("-sidecar") && level != "privileged";
                let what = format!("{namespace}: {}", name(manifest));
                match answer {
                    Ok(_) => {
                        assert!(!forbidden, "{what} is accepted: say so in values.yaml and the documentation")
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        assert!(forbidden && error.contains("violates PodSecurity"), "{what}: {error}");
                    }
                }
                pods += 1;
            }
        }
    }
    assert!(accepted > 100 && pods > 100, "{accepted} manifests, {pods} pods");
    Ok(())
}

#[tokio::test]
async fn helm_would_install_every_mode_and_its_notes_name_the_next_command() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    for kind in ["ServiceMonitor", "PodMonitor", "PrometheusRule"] {
        define(plane.access(), kind).await?;
    }
    for example in EXAMPLES {
        let kubeconfig = plane.kubeconfig().display().to_string();
        let told = tokio::task::spawn_blocking(move || {
            helm(&["install", "leasehold", "--dry-run=server", "--kubeconfig", &kubeconfig], example, &[])
        });
        let told = told.await?.unwrap_or_else(|error| panic!("{example}: {error}"));
        let notes = told.split("NOTES:").nth(1).expect("notes");
        let single = matches!(example, "sqlite" | "disabled");
        assert_eq!(notes.contains("helm test leasehold -n prod"), !single, "{example}: {notes}");
        assert!(notes.contains("deploy/leasehold-outbox-forwarder -- leasehold "), "{example}: {notes}");
        assert_eq!(
            notes.contains("kubectl get leases -n prod"),
            matches!(example, "k8s" | "full"),
            "{example}: {notes}"
        );
        assert_eq!(notes.contains("rollback` moves nothing back"), example == "move", "{example}: {notes}");
        assert!(!notes.contains("\n\n\n"), "{example}: {notes}");
    }
    Ok(())
}

#[test]
fn all_but_the_sidecar_drop_every_capability_and_it_asks_for_one() {
    for example in EXAMPLES {
        for manifest in &rendered(example) {
            for container in pod(manifest).into_iter().flat_map(crate::common::containers) {
                let added = strings(list(container, "/securityContext/capabilities/add"));
                let folder = text(container, "/name") == "socket-folder";
                assert_eq!(
                    added,
                    if folder { vec!["CHOWN"] } else { vec![] },
                    "{example} {}",
                    name(manifest)
                );
                assert_eq!(strings(list(container, "/securityContext/capabilities/drop")), ["ALL"]);
            }
        }
    }
}
