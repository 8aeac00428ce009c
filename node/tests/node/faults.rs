//! Nodes that are lost, servers that are restarted, a runner that is killed.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use lease_testbed::{Process, wait_until};
use serde_json::{Value, json};

use crate::ROLE;
use crate::bed::{Bed, LIMIT, LOSSY, OBEDIENT, condition, processes, start};

pub(crate) async fn lost(bed: &Bed) -> anyhow::Result<()> {
    let labels = json!({"app": "kept"});
    let tolerate = |key: &str, effect: &str, seconds: Option<u8>| json!({"key": key, "operator": "Exists", "effect": effect, "tolerationSeconds": seconds});
    let deployment = json!({"metadata": {"name": "kept"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 1,
            "tolerations": [
                tolerate(LOSSY, "NoSchedule", None),
                tolerate("node.kubernetes.io/not-ready", "NoExecute", Some(1)),
                tolerate("node.kubernetes.io/unreachable", "NoExecute", Some(1)),
            ],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["lost-a", "lost-b"]},
                ]},
            ]}}},
            "containers": [{"name": "main", "image": "shell", "args": [format!("{OBEDIENT} # {}", bed.namespace)]}],
        }},
    }});
    bed.make("deployments", deployment).await?;
    let available = |seen: &Value| seen["status"]["availableReplicas"] == 1;
    bed.when("deployments/kept", "it is available", available).await?;
    let pods = bed.read("pods").await?;
    let (pod, node) = (&pods["items"][0]["metadata"]["name"], &pods["items"][0]["spec"]["nodeName"]);
    let (pod, node) = (pod.as_str().context("no pod")?, node.as_str().context("no node")?);
    let running = || processes(&format!("# {}", bed.namespace));
    ensure!(!running().is_empty(), "its processes are found");
    bed.cluster.lose_node(node).await?;
    wait_until("its processes have ended", LIMIT, async || running().is_empty()).await?;
    let seen = bed.read(&format!("pods/{pod}")).await?;
    assert!(condition(&seen, "Ready"), "the API server isn't told");
    wait_until("the node isn't ready any more", LIMIT, async || {
        let path = format!("/api/v1/nodes/{node}");
        let seen = bed.cluster.access().request("GET", &path, None).await;
        seen.is_ok_and(|seen| !condition(&seen, "Ready"))
    })
    .await?;
    let moved = bed.when("pods", "there is another pod on the other node", |seen| {
        let pods = seen["items"].as_array().into_iter().flatten();
        pods.into_iter().any(|pod| condition(pod, "Ready") && pod["spec"]["nodeName"] != node)
    });
    moved.await?;
    bed.read(&format!("pods/{pod}")).await.context("it is kept while its node says nothing")?;
    bed.cluster.restore_node(node)?;
    bed.gone(&format!("pods/{pod}")).await
}

pub(crate) async fn restart(bed: &Bed) -> anyhow::Result<()> {
    bed.shell("steady", OBEDIENT, json!({"terminationGracePeriodSeconds": 30})).await?;
    bed.when("pods/steady", "it is ready", |seen| condition(seen, "Ready")).await?;
    bed.cluster.control_plane().crash().await?;
    bed.cluster.control_plane().start_again().await?;
    bed.delete("pods/steady").await?;
    bed.gone("pods/steady").await?;
    assert_eq!(bed.log("steady"), "ready\nbye\n");
    Ok(())
}

/// Starts a cluster, after another, with a pod, prints its processes, and waits to be killed.
pub(crate) async fn runner() -> anyhow::Result<()> {
    start(&["node-a"]).await?.stop().await;
    let cluster = start(&["node-a"]).await?;
    let bed = Bed { cluster: Arc::new(cluster), namespace: "app".into() };
    bed.begin().await?;
    let script =
        format!("trap '' TERM; setsid sleep 1000 & while :; do sleep 0.1; done # {}", std::process::id());
    bed.shell("deaf", &script, json!({})).await?;
    bed.when("pods/deaf", "it runs", |seen| condition(seen, "Ready")).await?;
    for pid in processes(&format!("done # {}", std::process::id())) {
        println!("pid {pid}");
    }
    println!("network {}", fs::read_link("/proc/self/ns/net")?.display());
    println!("ready");
    std::future::pending().await
}

pub(crate) async fn nothing_is_left() -> anyhow::Result<()> {
    // It makes a network for itself: one cluster a network.
    let runner = Process::command(std::env::current_exe()?)?
        .env(ROLE, "runner")
        .env_remove("LEASE_NODE_OUTSIDE")
        .spawn()?;
    // Two clusters, one after the other.
    runner.wait_for_line("ready", LIMIT * 2).await?;
    let lines = runner.lines();
    let pids: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("pid ")).collect();
    let network = lines.iter().find_map(|line| line.strip_prefix("network ")).context("no network")?;
    ensure!(!pids.is_empty(), "the runner printed too little: {lines:?}");
    let left = || {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter(|entry| {
            fs::read_link(entry.path().join("ns/net")).is_ok_and(|of| of == Path::new(network))
        })
        .count()
    };
    assert!(left() > 0);
    runner.kill().await?;
    let there = |pid: &&str| Path::new(&format!("/proc/{pid}/exe")).exists();
    wait_until("its pods' processes have gone", LIMIT, async || !pids.iter().any(there)).await?;
    wait_until("nothing is in its network", LIMIT, async || left() == 0).await
}
