//! The lives and ends of pods.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::{Bed, OBEDIENT, PROGRAM, condition, with_program};

pub(crate) async fn deployment(bed: &Bed) -> anyhow::Result<()> {
    let labels = json!({"app": "web"});
    let spread = json!([{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels}, "nodeTaintsPolicy": "Honor",
    }]);
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "topologySpreadConstraints": spread,
            "containers": [{"name": "main", "image": "shell:any", "args": [OBEDIENT]}],
        }},
    }});
    bed.make("deployments", deployment).await?;
    bed.when("deployments/web", "the Deployment is available", |seen| {
        seen["status"]["availableReplicas"] == 2 && condition(seen, "Available")
    })
    .await?;
    let pods = bed.read("pods").await?;
    let part = |pointer: &str| {
        let mut parts: Vec<_> =
            pods["items"].as_array().into_iter().flatten().map(|pod| pod.pointer(pointer)).collect();
        parts.sort_by_key(|part| part.map(Value::to_string));
        parts.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>()
    };
    assert_eq!(part("/spec/nodeName"), ["node-a", "node-b"]);
    let ips = part("/status/podIP");
    assert!(ips.len() == 2 && ips.iter().all(|ip| ip.starts_with("10.244.")), "{ips:?}");
    Ok(())
}

pub(crate) async fn deletion(bed: &Bed) -> anyhow::Result<()> {
    let deaf = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done";
    bed.shell("deaf", deaf, json!({"terminationGracePeriodSeconds": 2})).await?;
    bed.shell("obedient", OBEDIENT, json!({"terminationGracePeriodSeconds": 300})).await?;
    for pod in ["deaf", "obedient"] {
        bed.logged(pod, "ready").await?;
    }
    let began = Instant::now();
    bed.delete("pods/obedient").await?;
    bed.delete("pods/deaf").await?;
    bed.gone("pods/obedient").await?;
    assert!(bed.log("obedient").contains("bye"));
    bed.gone("pods/deaf").await?;
    assert!(began.elapsed() >= Duration::from_secs(2), "it was killed after {:?}", began.elapsed());
    assert!(bed.log("deaf").contains("asked"));
    Ok(())
}

pub(crate) async fn crash(bed: &Bed) -> anyhow::Result<()> {
    bed.shell("crashing", "echo run; exit 3", json!({})).await?;
    let pod = bed.when("pods/crashing", "it was restarted twice", |seen| {
        let status = &seen["status"]["containerStatuses"][0];
        status["restartCount"].as_i64() >= Some(2)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let pod = pod.await?;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    assert!(!condition(&pod, "Ready"));
    assert!(bed.log("crashing").matches("run").count() >= 3);
    Ok(())
}

pub(crate) async fn job(bed: &Bed) -> anyhow::Result<()> {
    let script = "[ -e /shared/tried ] && exit 0; touch /shared/tried; exit 1";
    let job = json!({"metadata": {"name": "once"}, "spec": {"backoffLimit": 5, "template": {"spec": {
        "restartPolicy": "OnFailure",
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "containers": [{
            "name": "main", "image": "shell", "args": [script],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        }],
    }}}});
    bed.make("jobs", job).await?;
    bed.when("jobs/once", "the Job is complete", |seen| condition(seen, "Complete")).await?;
    let pods = bed.read("pods").await?;
    let status = &pods["items"][0]["status"];
    assert_eq!(status["phase"], "Succeeded");
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (&container["restartCount"], &container["state"]["terminated"]["exitCode"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1);
    Ok(())
}

pub(crate) async fn liveness(bed: &Bed) -> anyhow::Result<()> {
    let path = format!("/var/run/{}", bed.namespace);
    let more = json!({
        "nodeName": "node-a",
        "terminationGracePeriodSeconds": 60,
        "volumes": [{"name": "run", "hostPath": {"path": path}}],
        "containers": [{
            "volumeMounts": [{"name": "run", "mountPath": "/run/app"}],
            "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
        }],
    });
    // A shell would take SIGTERM only after the server's end.
    let script = format!(
        "trap 'echo asked; exit 0' TERM; echo began; {PROGRAM} serve 8080 & while :; do sleep 0.05; done"
    );
    bed.shell("sick", &script, with_program(more)).await?;
    bed.when("pods/sick", "it is ready", |seen| condition(seen, "Ready")).await?;
    let sick = bed.cluster.host_path("node-a", &path)?.join("unready");
    fs::write(&sick, "")?;
    bed.logged("sick", "asked").await?;
    fs::remove_file(&sick)?;
    let seen = bed.when("pods/sick", "it was restarted", |seen| {
        let status = &seen["status"]["containerStatuses"][0];
        status["restartCount"].as_i64() >= Some(1) && condition(seen, "Ready")
    });
    let last = seen.await?["status"]["containerStatuses"][0]["lastState"]["terminated"].clone();
    assert!(last["message"].to_string().contains("liveness probe failed"), "{last}");
    assert!(bed.log("sick").matches("began").count() >= 2);
    Ok(())
}
