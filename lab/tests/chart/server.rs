//! A real API server accepts every manifest, and Pod Security every pod but the sidecar's.

use std::collections::BTreeSet;
use std::path::Path;

use lease_testbed::{ControlPlane, ControlPlaneOptions, KubernetesAccess};
use serde_json::{Value, json};

use crate::common::{
    ALL, EXAMPLES, chart, helm, kind, list, manifests, name, of_kind, pod, rendered, run, strings, text,
};

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

/// The accounts of the pods: the release's, and those that somebody else creates.
async fn accounts(access: &KubernetesAccess, namespace: &str, manifests: &[Value]) -> anyhow::Result<()> {
    let mut ours: Vec<_> = of_kind(manifests, "ServiceAccount").cloned().collect();
    let named = manifests.iter().filter_map(pod).map(|pod| text(pod, "/serviceAccountName"));
    let named: BTreeSet<_> = named.filter(|name| !name.is_empty()).collect();
    for other in named {
        if !ours.iter().any(|account| name(account) == other) {
            ours.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": other}}));
        }
    }
    for mut account in ours {
        account["metadata"]["namespace"] = json!(namespace);
        access.request("POST", &path(namespace, &account), Some(account)).await?;
    }
    Ok(())
}

/// Gives a namespace a quota, and returns when it refuses a pod without resources. No controller is here to count.
async fn limit(access: &KubernetesAccess, namespace: &str) -> anyhow::Result<()> {
    let hard = json!({"requests.cpu": "99", "requests.memory": "99Gi", "limits.memory": "99Gi"});
    let none = json!({"requests.cpu": "0", "requests.memory": "0", "limits.memory": "0"});
    let mut quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": {"hard": hard},
    });
    let all = format!("/api/v1/namespaces/{namespace}/resourcequotas");
    access.request("POST", &all, Some(quota.clone())).await?;
    quota["status"] = json!({"hard": hard, "used": none});
    access.request("PUT", &format!("{all}/quota/status"), Some(quota)).await?;
    let hungry = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hungry"},
        "spec": {"containers": [{"name": "hungry", "image": "hungry"}]},
    });
    lease_testbed::wait_for("the quota holds", std::time::Duration::from_secs(30), async || {
        match dry_run(access, namespace, &hungry).await {
            Err(error) if format!("{error:#}").contains("failed quota") => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn every_manifest_of_every_mode_is_accepted_and_the_pods_meet_pod_security_and_quotas()
-> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let access = plane.access();
    for kind in ["ServiceMonitor", "PodMonitor", "PrometheusRule"] {
        define(access, kind).await?;
    }
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "payments"}, "value": 1000,
    });
    access.request("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", Some(class)).await?;
    let (mut accepted, mut pods) = (0, 0);
    for example in ALL {
        let manifests = tokio::task::spawn_blocking(move || rendered(example)).await?;
        let levels = ["restricted", "baseline", "privileged"];
        for level in levels {
            let namespace = format!("{example}-{level}");
            make(access, &namespace, level).await?;
            accounts(access, &namespace, &manifests).await?;
        }
        for manifest in manifests.iter().filter(|manifest| kind(manifest) != "ServiceAccount") {
            let answer = dry_run(access, &format!("{example}-restricted"), manifest).await;
            let what = format!("{example}: {} {}", kind(manifest), name(manifest));
            // Only pods themselves are refused by Pod Security; what makes them is accepted with a warning.
            assert!(answer.is_ok(), "{what}: {:#}", answer.unwrap_err());
            accepted += 1;
        }
        limit(access, &format!("{example}-privileged")).await?;
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
    for example in ALL {
        let kubeconfig = plane.kubeconfig().display().to_string();
        let told = tokio::task::spawn_blocking(move || {
            helm(&["install", "leasehold", "--dry-run=server", "--kubeconfig", &kubeconfig], example, &[])
        });
        let told = told.await?.unwrap_or_else(|error| panic!("{example}: {error}"));
        let notes = told.split("NOTES:").nth(1).expect("notes");
        let (full, namespace) = match example {
            "custom" => ("leasehold-spend", "payments"),
            _ => ("leasehold", "prod"),
        };
        let single = matches!(example, "sqlite" | "disabled");
        assert_eq!(notes.contains("  helm test leasehold -n prod "), !single, "{example}: {notes}");
        for role in ["outbox-forwarder", "ttl-sweeper"] {
            let exec = format!("  kubectl exec -n {namespace} deploy/{full}-{role} -- leasehold ");
            // A worker's account may read its own lease, and list none.
            let look = if example == "disabled" { "config".to_owned() } else { format!("status {role}") };
            assert!(notes.contains(&format!("{exec}{look}\n")), "{example}: {notes}");
        }
        assert_eq!(
            notes.contains(&format!("  kubectl get leases -n {namespace} outbox-forwarder ttl-sweeper\n")),
            matches!(example, "k8s" | "full" | "custom"),
            "{example}: {notes}"
        );
        let wrong = if example == "custom" { "kubectl exec -n prod" } else { "-n payments" };
        assert!(!notes.contains(wrong), "{example}: {notes}");
        assert!(notes.contains("leasehold CHART -n prod --reset-then-reuse-values"), "{example}: {notes}");
        assert!(notes.contains("  helm uninstall leasehold -n prod"), "{example}: {notes}");
        assert_eq!(notes.contains("rollback` moves nothing back"), example == "move", "{example}: {notes}");
        assert!(!notes.contains("\n\n\n"), "{example}: {notes}");
    }
    Ok(())
}

#[tokio::test]
async fn a_hook_that_fails_leaves_its_job_and_the_installation_can_be_tried_again() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    make(plane.access(), "prod", "restricted").await?;
    let run = async |args: &'static [&'static str]| {
        let kubeconfig = plane.kubeconfig().display().to_string();
        let all = move || helm(&[args, &["--kubeconfig", &kubeconfig]].concat(), "etcd", &[]);
        anyhow::Ok(tokio::task::spawn_blocking(all).await?)
    };
    // Nobody runs the Job's pod here, so it is late.
    let failed = run(&["install", "leasehold", "--timeout=2s"]).await?.expect_err("the hook is late");
    assert!(failed.contains("failed pre-install"), "{failed}");
    let job = "/apis/batch/v1/namespaces/prod/jobs/leasehold-init";
    plane.access().request("GET", job, None).await?;
    let deployments = "/apis/apps/v1/namespaces/prod/deployments";
    let started = plane.access().request("GET", deployments, None).await?;
    assert!(list(&started, "/items").is_empty(), "no worker starts before the hook has succeeded: {started}");

    let again = run(&["upgrade", "leasehold", "--install", "--no-hooks"]).await?;
    assert!(again.is_ok(), "{again:?}");
    let started = plane.access().request("GET", deployments, None).await?;
    assert_eq!(list(&started, "/items").len(), 4);
    Ok(())
}

/// The chart as it was at commit 45a9c8f: templates and values without comments, schema and notes (`git archive`).
const EARLIER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/fixtures/leasehold-45a9c8f.tgz");

/// Each object keeps its name, and the API server takes every change: none is of a field that can't be changed.
#[tokio::test]
async fn a_release_of_an_earlier_chart_is_upgraded_in_place() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    for kind in ["ServiceMonitor", "PodMonitor", "PrometheusRule"] {
        define(plane.access(), kind).await?;
    }
    let kubeconfig = plane.kubeconfig().display().to_string();
    for example in ["full", "sqlite"] {
        make(plane.access(), example, "privileged").await?;
        let namespace = format!("--namespace={example}");
        let values = format!("--values={}/ci/{example}-values.yaml", chart().display());
        let on = async |command: &[&str], chart: &Path| {
            let more = ["leasehold", "--no-hooks", &namespace];
            let args: Vec<String> = command.iter().chain(&more).map(|arg| (*arg).to_owned()).collect();
            let chart = chart.to_owned();
            let all = move || run(&args.iter().map(String::as_str).collect::<Vec<_>>(), &chart);
            anyhow::Ok(
                tokio::task::spawn_blocking(all).await?.unwrap_or_else(|error| panic!("{example}: {error}")),
            )
        };
        let called = |text: &str| -> BTreeSet<(String, String)> {
            let all = manifests(text).expect("manifests");
            all.iter().map(|it| (kind(it).to_owned(), name(it).to_owned())).collect()
        };
        let before = called(&on(&["template", &values], Path::new(EARLIER)).await?);
        let after = called(&on(&["template", &values], &chart()).await?);
        let gone: Vec<_> = before.difference(&after).collect();
        assert!(
            gone.is_empty() && before.len() > 15,
            "{example}: renamed or removed: {gone:?} of {before:?}"
        );

        let of = format!("/apis/apps/v1/namespaces/{example}/deployments/leasehold-outbox-forwarder");
        on(&["install", &values, "--kubeconfig", &kubeconfig], Path::new(EARLIER)).await?;
        let old = plane.access().request("GET", &of, None).await?;
        on(&["upgrade", "--reset-then-reuse-values", "--kubeconfig", &kubeconfig], &chart()).await?;
        let new = plane.access().request("GET", &of, None).await?;
        assert_eq!(
            text(&new, "/metadata/uid"),
            text(&old, "/metadata/uid"),
            "{example}: it is the same object"
        );
        assert_ne!(
            new["spec"]["template"], old["spec"]["template"],
            "{example}: the earlier chart is another one"
        );
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
