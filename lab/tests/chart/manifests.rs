//! Properties of the manifests.

use serde_json::{Value, json};

use crate::common::{
    EXAMPLES, containers, kind, list, name, of_kind, one, pod, render, rendered, strings, text,
};

const CAMPAIGNERS: [&str; 2] = ["leasehold-outbox-forwarder", "leasehold-ttl-sweeper"];

fn uses_k8s(example: &str) -> bool {
    matches!(example, "k8s" | "full" | "move")
}

#[test]
fn only_pods_that_use_kubernetes_leases_have_a_token_and_rights() {
    for example in EXAMPLES {
        let manifests = rendered(example);
        let roles = of_kind(&manifests, "Role").count();
        assert_eq!(roles > 0, uses_k8s(example), "{example}: {roles} roles");
        assert_eq!(of_kind(&manifests, "ClusterRole").count(), 0);
        let with_token = manifests.iter().filter(|manifest| {
            pod(manifest).is_some_and(|pod| pod["automountServiceAccountToken"] != json!(false))
        });
        let mut with_token: Vec<_> = with_token.map(name).collect();
        with_token.sort_unstable();
        let hooks = ["leasehold-init", "leasehold-init-upgrade"];
        let expected = match example {
            "k8s" | "full" => {
                [&hooks[..], &CAMPAIGNERS[..1], &["leasehold-test"], &CAMPAIGNERS[1..]].concat()
            }
            "move" => CAMPAIGNERS.to_vec(),
            _ => vec![],
        };
        assert_eq!(with_token, expected, "{example}");
    }
}

/// The verbs that a Role allows on its named Leases, and those on any Lease.
fn verbs<'a>(manifests: &'a [Value], role: &str) -> (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>) {
    let rules = list(one(manifests, "Role", role), "/rules");
    let named = rules.iter().find(|rule| rule.get("resourceNames").is_some()).expect("named leases");
    let any = rules.iter().filter(|rule| rule.get("resourceNames").is_none());
    let any = any.flat_map(|rule| strings(list(rule, "/verbs"))).collect();
    (strings(list(named, "/resourceNames")), strings(list(named, "/verbs")), any)
}

#[test]
fn each_account_may_do_what_its_pods_do_and_no_more() {
    let manifests = rendered("full");
    let both = vec!["outbox-forwarder", "ttl-sweeper"];
    for (role, lease) in CAMPAIGNERS.into_iter().zip(&both) {
        let expected = (vec![*lease], vec!["get", "list", "watch", "update"], vec![]);
        assert_eq!(verbs(&manifests, role), expected, "{role}");
    }
    assert_eq!(
        verbs(&manifests, "leasehold-init"),
        (both.clone(), vec!["get", "list", "update"], vec!["create"])
    );
    // `helm test` has the hooks' account. Without the hooks it only looks.
    let looks = render("full", &["init.enabled=false"]).unwrap();
    assert_eq!(verbs(&looks, "leasehold-init"), (both, vec!["get", "list"], vec![]));
    assert_eq!(of_kind(&manifests, "Role").count(), 3);

    // A move out of Kubernetes makes nothing there; a move into it makes the register.
    let out = rendered("move");
    assert_eq!(verbs(&out, CAMPAIGNERS[0]).2, Vec::<&str>::new());
    assert_eq!(of_kind(&out, "Role").count(), 2);
    for from in ["etcd", "disabled"] {
        let from = format!("leaderElection.migrateFrom={from}");
        let manifests = render("move", &["leaderElection.mode=k8s", &from]).unwrap();
        assert_eq!(verbs(&manifests, CAMPAIGNERS[0]).2, ["create"]);
    }
    let off = render("disabled", &["leaderElection.migrateFrom=k8s"]).unwrap();
    assert_eq!(of_kind(&off, "Role").count(), 0, "nothing is moved into mode disabled");
    for manifests in [&manifests, &out] {
        let rules = of_kind(manifests, "Role").flat_map(|role| list(role, "/rules"));
        let all: Vec<_> = rules.flat_map(|rule| strings(list(rule, "/verbs"))).collect();
        assert!(!all.iter().any(|verb| ["delete", "patch", "*"].contains(verb)), "{all:?}");
    }
}

#[test]
fn where_one_pod_may_run_the_old_one_ends_before_the_new_one_starts() {
    for example in EXAMPLES {
        let manifests = rendered(example);
        for worker in CAMPAIGNERS {
            let strategy = text(one(&manifests, "Deployment", worker), "/spec/strategy/type");
            let expected =
                if matches!(example, "sqlite" | "disabled") { "Recreate" } else { "RollingUpdate" };
            assert_eq!(strategy, expected, "{example} {worker}");
        }
    }
    // A pod of mode disabled holds no lease that a new one would wait for.
    let from = render("etcd", &["leaderElection.migrateFrom=disabled"]).unwrap();
    for worker in CAMPAIGNERS {
        assert_eq!(text(one(&from, "Deployment", worker), "/spec/strategy/type"), "Recreate");
    }
}

#[test]
fn pods_get_longer_to_stop_than_their_work_may_drain() {
    for (example, budget) in EXAMPLES.into_iter().flat_map(|example| [(example, 20_000), (example, 90_001)]) {
        let sets = [format!("leaderElection.stopBudgetMs={budget}")];
        for manifest in render(example, &[&sets[0]]).unwrap() {
            if !["Deployment", "DaemonSet"].contains(&kind(&manifest)) {
                continue;
            }
            let pod = pod(&manifest).unwrap();
            let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(grace * 1000 > budget, "{example} {}: {grace} s", name(&manifest));
            let told = list(pod, "/containers")[0]["env"].as_array().unwrap();
            let told = told.iter().find(|env| text(env, "/name") == "SPENDGUARD_LEADER_STOP_BUDGET_MS");
            assert_eq!(text(told.unwrap(), "/value"), budget.to_string());
        }
    }
}

#[test]
fn what_may_be_secret_comes_from_files_of_named_secrets() {
    for example in EXAMPLES {
        let manifests = rendered(example);
        assert_eq!(of_kind(&manifests, "Secret").count(), 0, "{example}: the chart makes none");
        for pod in manifests.iter().filter_map(pod) {
            for container in containers(pod) {
                for variable in list(container, "/env") {
                    let (name, value) = (text(variable, "/name"), text(variable, "/value"));
                    assert!(variable.pointer("/valueFrom/secretKeyRef").is_none(), "{example} {name}");
                    let plain = ["LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", "LEASEHOLD_SIDECAR_LEDGER_URL"];
                    assert!(!name.ends_with("_URL") || plain.contains(&name), "{example} {name}");
                    assert!(!value.contains('@') && !value.contains("postgres:"), "{example} {name}={value}");
                    if let Some(file) = value.strip_prefix("/etc/leasehold/") {
                        let folder = file.split('/').next().unwrap();
                        let mounts = list(container, "/volumeMounts");
                        let path = format!("/etc/leasehold/{folder}");
                        assert!(
                            mounts.iter().any(|mount| text(mount, "/mountPath") == path),
                            "{example} {file}"
                        );
                    }
                }
                for mount in list(container, "/volumeMounts") {
                    let volumes = list(pod, "/volumes");
                    assert!(
                        volumes.iter().any(|volume| volume["name"] == mount["name"]),
                        "{example} {mount}: no such volume"
                    );
                }
            }
        }
    }
}

/// The commands of a release's hooks, by weight.
fn hook_steps(manifests: &[Value], job: &str) -> Vec<String> {
    let job = one(manifests, "Job", job);
    containers(pod(job).unwrap()).map(|container| strings(list(container, "/args")).join(" ")).collect()
}

#[test]
fn hooks_make_tables_and_first_registers_and_look_who_led_before_an_upgrade() {
    let k8s = rendered("full");
    let tables = ["worker ledger --migrate --add-scope payments acme", "worker canonical-ingest --migrate"];
    let first = [tables[0], tables[1], "init --new outbox-forwarder ttl-sweeper"];
    assert_eq!(hook_steps(&k8s, "leasehold-init"), first);
    // An upgrade makes no register that an installation should have: each role's command looks.
    let looks = ["worker outbox-forwarder --init-lease", "worker ttl-sweeper --init-lease"];
    let upgrade = [tables, looks].concat();
    assert_eq!(hook_steps(&k8s, "leasehold-init-upgrade"), upgrade);
    let synced = render("full", &["init.new=false"]).unwrap();
    assert_eq!(hook_steps(&synced, "leasehold-init"), upgrade, "each sync may look like an installation");
    let above = looks.map(|look| format!("{look} --above 4711"));
    let lost = render("full", &["init.above=4711"]).unwrap();
    for hook in ["leasehold-init", "leasehold-init-upgrade"] {
        let steps = hook_steps(&lost, hook);
        assert_eq!(
            steps[tables.len()..],
            above,
            "{hook}: a lost register isn't a first one, and each role's command looks"
        );
    }
    let forwards = render("postgres", &["ttlSweeper.enabled=false"]).unwrap();
    assert_eq!(
        hook_steps(&forwards, "leasehold-init-upgrade"),
        ["worker ledger --migrate", tables[1], looks[0]]
    );
    let hook = |manifest: &Value| text(manifest, "/metadata/annotations/helm.sh~1hook").to_owned();
    assert_eq!(hook(one(&k8s, "Job", "leasehold-init")), "pre-install");
    assert_eq!(hook(one(&k8s, "Job", "leasehold-init-upgrade")), "pre-upgrade");
    for kind in ["ServiceAccount", "Role", "RoleBinding"] {
        let access = one(&k8s, kind, "leasehold-init");
        assert_eq!(hook(access), "pre-install,pre-upgrade,test");
        let weight: i32 = text(access, "/metadata/annotations/helm.sh~1hook-weight").parse().unwrap();
        assert!(weight < 0, "{kind} is there before the job");
    }

    // Of a move and of mode disabled too: a direct change is refused before any worker is replaced.
    for (example, last) in [("move", &looks[..]), ("disabled", &looks), ("sqlite", &[])] {
        for hook in ["leasehold-init", "leasehold-init-upgrade"] {
            let expected = [&["worker ledger --migrate", tables[1]], last].concat();
            assert_eq!(hook_steps(&rendered(example), hook), expected, "{example} {hook}");
        }
    }

    // SQLite's file is in the pod's own volume, and never taken for a first installation.
    let sqlite = rendered("sqlite");
    let pod = pod(one(&sqlite, "Deployment", CAMPAIGNERS[0])).unwrap();
    let init = &list(pod, "/initContainers")[0];
    assert_eq!(strings(list(init, "/args")), ["worker", "outbox-forwarder", "--init-lease"]);
    assert_eq!(init["env"], list(pod, "/containers")[0]["env"], "it knows the work's database");
    let claim = one(&sqlite, "PersistentVolumeClaim", "leasehold-outbox-forwarder-leases");
    assert_eq!(text(claim, "/metadata/annotations/helm.sh~1resource-policy"), "keep");
    assert!(render("full", &["init.enabled=false"]).unwrap().iter().all(|manifest| kind(manifest) != "Job"));
}

#[test]
fn pods_are_called_by_their_own_names_and_sidecars_know_their_node() {
    let manifests = rendered("full");
    let field = |container: &Value, wanted: &str| {
        let env = list(container, "/env").iter().find(|env| text(env, "/name") == wanted);
        env.map(|env| text(env, "/valueFrom/fieldRef/fieldPath").to_owned()).unwrap_or_default()
    };
    for manifest in &manifests {
        let Some(pod) = pod(manifest) else { continue };
        assert_eq!(
            pod["enableServiceLinks"],
            json!(false),
            "{}: the binary refuses unknown names",
            name(manifest)
        );
        for container in list(pod, "/containers") {
            assert_eq!(field(container, "POD_NAME"), "metadata.name");
        }
    }
    let sidecar = pod(one(&manifests, "DaemonSet", "leasehold-sidecar")).unwrap();
    assert_eq!(field(&list(sidecar, "/containers")[0], "LEASEHOLD_SIDECAR_NODE_NAME"), "spec.nodeName");
}

#[test]
fn a_lost_node_is_given_up_sooner_than_by_default() {
    let manifests = render("etcd", &["nodeLossTolerationSeconds=7"]).unwrap();
    for deployment in of_kind(&manifests, "Deployment") {
        let tolerations = list(pod(deployment).unwrap(), "/tolerations");
        assert_eq!(tolerations.len(), 2);
        assert!(tolerations.iter().all(|one| one["tolerationSeconds"] == json!(7)), "{tolerations:?}");
    }
}

#[test]
fn a_sidecar_that_waits_for_a_shared_scope_holds_up_no_rollout() {
    for (example, path) in [("full", "/readyz"), ("shared", "/healthz")] {
        let manifests = rendered(example);
        let sidecar = pod(one(&manifests, "DaemonSet", "leasehold-sidecar")).unwrap();
        assert_eq!(text(&list(sidecar, "/containers")[0], "/readinessProbe/httpGet/path"), path, "{example}");
    }
}

#[test]
fn strangers_reach_only_the_pages_unless_the_switch_is_off() {
    for example in EXAMPLES {
        let manifests = rendered(example);
        for (role, port, from) in
            [("ledger", "grpc", "sidecar"), ("canonical-ingest", "http", "outbox-forwarder")]
        {
            let policy = one(&manifests, "NetworkPolicy", &format!("leasehold-{role}"));
            let rules = list(policy, "/spec/ingress");
            let open: Vec<_> = rules.iter().filter(|rule| rule.get("from").is_none()).collect();
            assert!(open.iter().all(|rule| rule["ports"][0]["port"] != json!(port)), "{example} {role}");
            let limited = rules.iter().find(|rule| rule["ports"][0]["port"] == json!(port)).unwrap();
            let peer = text(limited, "/from/0/podSelector/matchLabels/app.kubernetes.io~1component");
            assert_eq!(peer, from, "{example} {role}");
        }
        let off = render(example, &["networkPolicy.enabled=false"]).unwrap();
        assert_eq!(of_kind(&off, "NetworkPolicy").count(), 0, "{example}");
    }
}

#[test]
fn the_probes_of_an_ingest_at_https_speak_tls() {
    for (example, scheme) in [("shared", "HTTPS"), ("full", "HTTP")] {
        let manifests = rendered(example);
        let ingest = pod(one(&manifests, "Deployment", "leasehold-canonical-ingest")).unwrap();
        for probe in ["livenessProbe", "readinessProbe"] {
            let pointer = format!("/{probe}/httpGet/scheme");
            assert_eq!(text(&list(ingest, "/containers")[0], &pointer), scheme, "{example} {probe}");
        }
    }
}
