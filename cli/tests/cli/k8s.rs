//! Mode k8s, as an operator and a guarded command meet it: the real binary on a real control plane.

use lease_testbed::{ControlPlane, ControlPlaneOptions};
use serde_json::{Value, json};

use crate::common::Leasehold;
use crate::store::Store;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_under_a_lease_of_the_cluster_and_operators_see_it() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let access = plane.access();
    access.create_namespace("app").await?;
    let verbs = ["get", "list", "watch", "update", "create"];
    let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]);
    let worker = access.create_identity("app", "worker", rules).await?;
    let kubeconfig = worker.kubeconfig().display().to_string();
    let cli = Leasehold::bare()
        .with("SPENDGUARD_LEADER_ELECTION_MODE", "k8s")
        .with("SPENDGUARD_LEADER_K8S_KUBECONFIG", &kubeconfig);
    let store = Store::reached_by(cli);

    store.run(&["init", "--new", "nightly"]).await.ok();
    let lease = "/apis/coordination.k8s.io/v1/namespaces/app/leases/nightly";
    assert_eq!(
        access.request("GET", lease, None).await?["spec"]["holderIdentity"],
        "",
        "kubectl shows it free"
    );
    let command = ["run", "--once", "--lease", "nightly", "--", "sh", "-c", "echo epoch=$LEASEHOLD_EPOCH"];
    let ran = store.run(&command).await;
    let epoch = ran.ok().trim().trim_start_matches("epoch=").to_owned();
    assert!(epoch.parse::<u64>()? > 0, "{epoch}");
    let status = store.run(&["status", "--json"]).await.json();
    assert_eq!(
        (&status[0]["lease"], &status[0]["record"]["epoch"]),
        (&json!("nightly"), &json!(epoch.parse::<u64>()?))
    );
    store.run(&["history", "nightly"]).await.failed(&["k8s keeps no history", "leasehold status nightly"]);
    store.run(&["revoke", "nihgtly"]).await.failed(&[
        "no lease nihgtly",
        "check the name",
        "leasehold status",
    ]);
    store.run(&["init", "closed"]).await.ok();
    store.run(&["step-down", "closed"]).await.failed(&["nobody holds lease closed"]);
    let odd = store.run(&["run", "--once", "--ttl", "2500ms", "--lease", "nightly", "--", "true"]).await;
    // Known only once connected, so it is the guard's own failure.
    assert!(odd.code == 125 && odd.err.contains("use a multiple of 1s"), "{} {}", odd.code, odd.err);
    Ok(())
}

/// The Lease of another controller in the same namespace: held, or released.
fn anothers(name: &str, holder: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_leaves_the_leases_of_other_controllers_alone() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let access = plane.access();
    access.create_namespace("app").await?;
    let cli = Leasehold::bare()
        .with("SPENDGUARD_LEADER_ELECTION_MODE", "k8s")
        .with("SPENDGUARD_LEADER_K8S_NAMESPACE", "app")
        .with("SPENDGUARD_LEADER_K8S_KUBECONFIG", &access.kubeconfig().display().to_string());
    let store = Store::reached_by(cli);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/app/leases";
    for lease in [anothers("autoscaler", "pod-1"), anothers("cleaner", "")] {
        access.request("POST", leases, Some(lease)).await?;
    }
    let before = access.request("GET", leases, None).await?["items"].clone();
    store.run(&["restored"]).await.failed(&["there are no leases", "leasehold init"]);

    store.run(&["init", "--new", "nightly"]).await.ok();
    let ran = store.run(&["restored"]).await;
    assert!(ran.ok().contains("lease nightly was stamped"), "{}", ran.out);
    let left = "left out: 2 Leases that no Leasehold program has written (autoscaler, cleaner)";
    assert!(ran.out.contains(left), "{}", ran.out);
    let told = store.run(&["restored", "--json"]).await.json();
    let stamped: Vec<_> = told.iter().map(|it| (it["lease"].as_str(), it["stamped"].as_bool())).collect();
    let expected =
        [(Some("autoscaler"), Some(false)), (Some("cleaner"), Some(false)), (Some("nightly"), Some(true))];
    assert_eq!(stamped, expected);
    let after = access.request("GET", leases, None).await?["items"].clone();
    assert_eq!((&after[0], &after[1]), (&before[0], &before[1]), "they are as they were");
    Ok(())
}

/// A worker's own account may not list; to try again would be no use, and the error would be told for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_on_looking_ends_with_a_first_look_that_is_refused() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    plane.access().create_namespace("app").await?;
    let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["nightly"],
                        "verbs": ["get", "list", "watch"]}]);
    let worker = plane.access().create_identity("app", "worker", rules).await?;
    let cli = Leasehold::bare()
        .with("SPENDGUARD_LEADER_ELECTION_MODE", "k8s")
        .with("SPENDGUARD_LEADER_K8S_KUBECONFIG", &worker.kubeconfig().display().to_string());
    let store = Store::reached_by(cli);
    for args in [&["status"][..], &["status", "--watch"], &["list", "n", "--watch"], &["watch"]] {
        let refused = store.run(args).await;
        refused.failed(&["cannot list", "name the leases"]);
        assert_eq!(refused.err.matches("cannot list").count(), 1, "{args:?}: {}", refused.err);
    }
    Ok(())
}
