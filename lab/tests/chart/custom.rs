//! Values that people change in any chart, each by its effect on the manifests: `ci/custom-values.yaml` changes all of
//! them, and the API server's test accepts what they make.

use serde_json::{Value, json};

use crate::common::{ALL, containers, kind, list, name, of_kind, one, pod, render, rendered, strings, text};

const CAMPAIGNERS: [&str; 2] = ["outbox-forwarder", "ttl-sweeper"];
/// The release's name with nameOverride.
const FULL: &str = "leasehold-spend";

/// The metadata of the pods that an object makes, or its own if it is one.
fn pods_metadata(manifest: &Value) -> Option<&Value> {
    match kind(manifest) {
        "Pod" => manifest.get("metadata"),
        _ => manifest.pointer("/spec/template/metadata"),
    }
}

/// What makes pods, with their specification.
fn pods(manifests: &[Value]) -> impl Iterator<Item = (&Value, &Value)> {
    manifests.iter().filter_map(|manifest| Some((manifest, pod(manifest)?)))
}

/// The containers that run our program.
fn ours(pod: &Value) -> impl Iterator<Item = &Value> {
    containers(pod).filter(|container| text(container, "/image").contains("leasehold"))
}

fn variable<'a>(container: &'a Value, wanted: &str) -> Option<&'a Value> {
    list(container, "/env").iter().find(|variable| text(variable, "/name") == wanted)
}

#[test]
fn names_labels_and_annotations_reach_every_object_and_no_selector() {
    let manifests = rendered("custom");
    for manifest in &manifests {
        let what = format!("{} {}", kind(manifest), name(manifest));
        assert_eq!(text(manifest, "/metadata/namespace"), "payments", "{what}");
        assert_eq!(text(manifest, "/metadata/labels/team"), "payments", "{what}");
        assert_eq!(text(manifest, "/metadata/labels/app.kubernetes.io~1name"), "spend", "{what}");
        assert_eq!(text(manifest, "/metadata/annotations/contact"), "payments@example.com", "{what}");
        if kind(manifest) != "ServiceAccount" {
            assert!(name(manifest).starts_with(FULL), "{what}");
        }
        for selector in ["/spec/selector", "/spec/selector/matchLabels", "/spec/podSelector/matchLabels"] {
            assert!(manifest.pointer(selector).is_none_or(|labels| labels.get("team").is_none()), "{what}");
        }
    }
    let subjects = of_kind(&manifests, "RoleBinding").flat_map(|binding| list(binding, "/subjects"));
    assert!(subjects.map(|it| text(it, "/namespace")).all(|namespace| namespace == "payments"));
    let forwarder = one(&manifests, "Deployment", &format!("{FULL}-outbox-forwarder"));
    let container = &list(pod(forwarder).unwrap(), "/containers")[0];
    let leases = variable(container, "SPENDGUARD_LEADER_K8S_NAMESPACE").unwrap();
    assert_eq!(text(leases, "/value"), "payments");
}

#[test]
fn each_pods_values_reach_the_pods_of_roles_hooks_and_test() {
    let manifests = rendered("custom");
    let mut seen = 0;
    for (manifest, pod) in pods(&manifests) {
        let what = format!("{} {}", kind(manifest), name(manifest));
        let metadata = pods_metadata(manifest).unwrap();
        assert_eq!(text(metadata, "/labels/sidecar.istio.io~1inject"), "false", "{what}");
        assert_eq!(text(metadata, "/labels/team"), "payments", "{what}");
        assert_eq!(text(metadata, "/annotations/linkerd.io~1inject"), "disabled", "{what}");
        assert_eq!(pod["nodeSelector"], json!({"disk": "ssd"}), "{what}");
        let required = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        assert!(pod.pointer(required).is_some(), "{what}");
        assert_eq!(text(pod, "/priorityClassName"), "payments", "{what}");
        let tolerations = list(pod, "/tolerations");
        assert!(tolerations.iter().any(|it| text(it, "/key") == "dedicated"), "{what}");
        assert!(list(pod, "/volumes").iter().any(|it| text(it, "/name") == "authorities"), "{what}");
        let secrets: Vec<_> = list(pod, "/imagePullSecrets").iter().map(|it| text(it, "/name")).collect();
        assert_eq!(secrets, ["global-registry", "own-registry"], "{what}");
        let digest = "registry.example.com/mirror/leasehold@sha256:0123456789abcdef";
        assert!(ours(pod).all(|it| text(it, "/image").starts_with(digest)), "{what}");
        for container in containers(pod) {
            let all = ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"];
            assert!(all.iter().all(|it| container.pointer(it).is_some()), "{what}: {container}");
        }
        for container in ours(pod).filter(|it| text(it, "/name") != "socket-folder") {
            assert_eq!(text(variable(container, "LEASEHOLD_LOG").unwrap(), "/value"), "debug", "{what}");
            let field = variable(container, "NODE_IP").unwrap();
            assert_eq!(text(field, "/valueFrom/fieldRef/fieldPath"), "status.hostIP", "{what}");
            assert_eq!(text(container, "/envFrom/0/configMapRef/name"), "proxies", "{what}");
            let mounts = list(container, "/volumeMounts");
            assert!(mounts.iter().any(|it| text(it, "/mountPath") == "/etc/authorities"), "{what}");
            assert_eq!(container["securityContext"]["privileged"], json!(false), "{what}");
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], json!(true), "{what}");
        }
        let worker = ["Deployment", "DaemonSet"].contains(&kind(manifest));
        let named = |list: &[Value], wanted| list.iter().any(|it| text(it, "/name") == wanted);
        assert_eq!(named(list(pod, "/containers"), "logs"), worker, "{what}");
        assert_eq!(named(list(pod, "/initContainers"), "wait"), worker, "{what}");
        seen += 1;
    }
    assert_eq!(seen, 8, "five roles, two hooks and the test");

    let spread = |role: &str| {
        let pod = pod(one(&manifests, "Deployment", &format!("{FULL}-{role}"))).unwrap();
        list(pod, "/topologySpreadConstraints").iter().map(|it| text(it, "/topologyKey")).collect::<Vec<_>>()
    };
    assert_eq!(spread("outbox-forwarder"), ["topology.kubernetes.io/zone"], "a list replaces the chart's");
    assert_eq!(spread("ttl-sweeper"), Vec::<&str>::new(), "an empty list removes it");
    assert_eq!(spread("ledger"), ["kubernetes.io/hostname"]);
}

#[test]
fn accounts_are_created_or_named() {
    let manifests = rendered("custom");
    let accounts: Vec<_> = of_kind(&manifests, "ServiceAccount").map(name).collect();
    let created = ["hooks-account", &format!("{FULL}-ttl-sweeper")];
    assert!(created.iter().all(|name| accounts.contains(name)), "{accounts:?}");
    assert!(!accounts.contains(&"forwarder-account"), "somebody else creates it");
    let annotation =
        |name| text(one(&manifests, "ServiceAccount", name), "/metadata/annotations/example.com~1identity");
    assert_eq!(created.map(annotation), ["hooks", "sweeper"]);

    let account = |kind, end: &str| {
        let called = format!("{FULL}-{end}");
        text(pod(one(&manifests, kind, &called)).unwrap(), "/serviceAccountName")
    };
    let of = |binding: &str| {
        text(one(&manifests, "RoleBinding", &format!("{FULL}-{binding}")), "/subjects/0/name")
    };
    assert_eq!([account("Deployment", CAMPAIGNERS[0]), of(CAMPAIGNERS[0])], ["forwarder-account"; 2]);
    assert_eq!([account("Job", "init"), account("Pod", "test"), of("init")], ["hooks-account"; 3]);

    // In modes without a token, too: accounts also carry secrets for registries, and names for clouds.
    for (example, hooks) in
        [("postgres", "pre-install,pre-upgrade,test"), ("disabled", "pre-install,pre-upgrade")]
    {
        let manifests = rendered(example);
        let account = one(&manifests, "ServiceAccount", "leasehold-init");
        assert_eq!(text(account, "/metadata/annotations/helm.sh~1hook"), hooks, "{example}");
        let job = pod(one(&manifests, "Job", "leasehold-init")).unwrap();
        assert_eq!(text(job, "/serviceAccountName"), "leasehold-init", "{example}");
    }
}

#[test]
fn a_pod_without_a_user_of_its_own_takes_the_clusters() {
    for (_, pod) in pods(&rendered("custom")) {
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], json!(true));
        assert!(context.get("runAsUser").is_none() && context.get("fsGroup").is_none(), "{context}");
        // Only the sidecar's group is known to others.
        let sidecar = list(pod, "/volumes").iter().any(|it| text(it, "/name") == "socket");
        assert_eq!(context.get("runAsGroup").cloned(), sidecar.then(|| json!(65533)), "{context}");
    }
    let folder = |example| {
        let manifests = rendered(example);
        let sidecar = of_kind(&manifests, "DaemonSet").next().and_then(pod).unwrap();
        let folder = containers(sidecar).find(|it| text(it, "/name") == "socket-folder").unwrap();
        strings(list(folder, "/args"))[2..].join(" ")
    };
    assert_eq!(folder("full"), "--owner=65532:65533 --permissions=0750");
    assert_eq!(folder("custom"), "--owner=0:65533 --permissions=1770");
    let without = render("full", &["podSecurityContext=null", "containerSecurityContext=null"]).unwrap();
    for (manifest, pod) in pods(&without).filter(|(it, _)| kind(it) != "DaemonSet") {
        assert!(pod.get("securityContext").is_none(), "{}", name(manifest));
        assert!(containers(pod).all(|it| it.get("securityContext").is_none()), "{}", name(manifest));
    }
}

#[test]
fn every_container_has_the_resources_that_a_quota_asks_for() {
    for example in ALL {
        for (manifest, pod) in pods(&rendered(example)) {
            for container in containers(pod) {
                for quantity in ["requests/cpu", "requests/memory", "limits/memory"] {
                    let pointer = format!("/resources/{quantity}");
                    assert!(
                        container.pointer(&pointer).is_some(),
                        "{example} {}: {quantity}",
                        name(manifest)
                    );
                }
            }
        }
    }
    let sets = ["ledger.resources.limits.cpu=2", "resources.limits.cpu=1"];
    let manifests = render("k8s", &sets).unwrap();
    let limit = |role: &str| {
        let pod = pod(one(&manifests, "Deployment", &format!("leasehold-{role}"))).unwrap();
        list(pod, "/containers")[0]["resources"]["limits"]["cpu"].clone()
    };
    assert_eq!([limit("ledger"), limit("ttl-sweeper")], [json!(2), json!(1)]);
}

#[test]
fn the_image_is_named_by_registry_and_by_tag_or_digest() {
    for (sets, image) in [
        (&[][..], "leasehold:0.1.0"),
        (&["image.tag=1.2", "image.registry=a.example:5000"], "a.example:5000/leasehold:1.2"),
        (&["image.registry=a.example", "global.imageRegistry=b.example"], "b.example/leasehold:0.1.0"),
    ] {
        for (_, pod) in pods(&render("full", sets).unwrap()) {
            assert!(containers(pod).all(|it| text(it, "/image") == image), "{sets:?}");
        }
    }
}

#[test]
fn hooks_have_the_owners_urls_and_workers_do_not() {
    let sets =
        ["leaderElection.mode=postgres", "leaderElection.postgres.secretName=lease-db"].into_iter().chain([
            "leaderElection.postgres.listenUrlKey=listen",
            "leaderElection.postgres.migration.secretName=lease-owner",
        ]);
    let manifests = render("custom", &sets.collect::<Vec<_>>()).unwrap();
    for (manifest, pod) in pods(&manifests) {
        let volumes = list(pod, "/volumes").iter().map(|it| text(it, "/secret/secretName"));
        let databases: Vec<_> = volumes.filter(|it| it.ends_with("-db") || it.ends_with("-owner")).collect();
        let of =
            |role| text(pods_metadata(manifest).unwrap(), "/labels/app.kubernetes.io~1component") == role;
        let expected = match () {
            () if of("outbox-forwarder") => vec!["outbox-db", "lease-db"],
            () if of("ttl-sweeper") => vec!["lease-db", "sweeper-db"],
            () if of("ledger") => vec!["ledger-db"],
            () if of("canonical-ingest") => vec!["canonical-db"],
            () if of("sidecar") => vec![],
            () if of("test") => vec!["lease-db"],
            () => vec!["canonical-owner", "ledger-owner", "outbox-owner", "lease-owner"],
        };
        assert_eq!(databases, expected, "{}", name(manifest));
    }
    let urls = |hook: &str| {
        let steps = pod(one(&manifests, "Job", &format!("{FULL}-{hook}"))).unwrap();
        let variables = containers(steps).flat_map(|it| list(it, "/env"));
        let urls = variables.filter(|it| text(it, "/name").ends_with("URL_FILE"));
        urls.map(|it| text(it, "/value").trim_start_matches("/etc/leasehold/")).collect::<Vec<_>>()
    };
    let (tables, lease) = (["ledger/uri", "outbox/url", "canonical/url"], "postgres/url");
    assert_eq!(urls("init"), [&tables[..], &[lease]].concat(), "no key of the workers' Secret");
    // What the forwarder and the sweeper do before they campaign, in their databases and in the lease store.
    let looks = ["outbox/url", lease, "ledger/uri", lease];
    assert_eq!(urls("init-upgrade"), [&tables[..], &looks].concat());
}

#[test]
fn one_value_gives_a_shorter_ttl() {
    let manifests = render("etcd", &["leaderElection.ttlMs=6000"]).unwrap();
    let forwarder = pod(one(&manifests, "Deployment", "leasehold-outbox-forwarder")).unwrap();
    let times = list(&list(forwarder, "/containers")[0], "/env").iter().filter(|it| {
        ["_TTL_MS", "_INTERVAL_MS", "_GRACE_MS"].iter().any(|end| text(it, "/name").ends_with(end))
    });
    let times: Vec<_> = times.map(|it| (text(it, "/name"), text(it, "/value"))).collect();
    assert_eq!(times, [("SPENDGUARD_LEADER_LEASE_TTL_MS", "6000")], "the binary computes the others");
}
